//! Recovery: a log that was lost goes on in a new one, from the archive alone.
//!
//! Nothing is appended again. The lost log's records that no hour has are in its segments: they are folded, and sealed
//! as the hour that they are the beginning of, under the lost log's id. Then every partition of the new log gets its
//! base: a full of every scope, and what became of the commands that may still be repeated. From there a projector
//! and an archiver go on. Done again, it comes to the same; whatever it was stopped at.
//!
//! It is [judged](judging) first, by all that can be known before there is a new log: what is refused has changed nothing.

mod abandoned;
mod judging;
mod lost_log;
mod work;

use std::{sync::Arc, time::Duration};

use archive::{
    Archive, ArchiveError, base, manifest::ManifestReader, period::HourLength, replay::Replay,
    unlisted::partitions,
};
use eventlog::EventLog;
use model::{LogId, Offset, Partition, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{ArchiverConfig, Clock, error::ArchiverError};
pub use judging::{Judged, NewLog};
use work::Work;

/// A log that was lost, by what the archive has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub log: LogId,
    /// How many it had; `None` if it was lost before its first hour was sealed: only manifests say it.
    pub partitions: Option<u32>,
    /// The last partition of which anything is there.
    pub last: Option<Partition>,
    /// How long its hours are; likewise.
    pub hours: Option<HourLength>,
}

/// Recovers a lost log into a new one, once it was [judged](Recovery::judge).
pub struct Recovery {
    pub config: ArchiverConfig,
    pub archive: Archive,
    pub lost: Lost,
    pub clock: Clock,
    /// For how long the archive must have been given nothing of the lost log: else somebody archives it still.
    pub quiet: Duration,
}

/// What a recovery says while it goes on; the last is `Done` or `Failed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovering {
    /// An object was removed that no manifest lists, or that is of a recovery which was given up.
    Removed(String),
    /// A partition of the lost log is sealed up to its last record in the archive.
    Sealed {
        partition: Partition,
        next_offset: Offset,
    },
    /// A partition of the new log has what it begins with.
    Based {
        partition: Partition,
        scopes: u64,
        of: u32,
    },
    /// So many backups of the lost log are in the catalogue again.
    Catalogued {
        backups: u64,
    },
    Done(Recovered),
    Failed(String),
}

/// What a recovery came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    pub from: LogId,
    pub log: LogId,
    pub scopes: u64,
    pub backups: u64,
    /// Up to when events were archived, by the lost log's time; none: there were no events.
    pub until: Option<String>,
}

/// Why a log is not recovered. The archive has lost nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Archiver(#[from] ArchiverError),
    #[error("the archive is empty: there is nothing to recover")]
    Empty,
    #[error(
        "the archive has several logs that no other one goes on from ({}): name one with --from",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Several(Vec<LogId>),
    #[error("the archive has nothing of log {0}")]
    Unknown(LogId),
    #[error(
        "log {log} itself was recovered, and has nothing to begin with in partition {partition}: where that recovery was \
         stopped, recover the log that it was from (--from); where the manifest was lost, bring it back"
    )]
    Unfinished { log: LogId, partition: Partition },
    #[error(
        "a recovery into log {into} wrote to the archive {seconds} s ago: where it runs, stop it, or let it end. Where that log \
         is given up, start again once nothing has come for {} s (--quiet-seconds)",
        quiet.as_secs()
    )]
    StillRecovering { into: LogId, seconds: u64, quiet: Duration },
    #[error(
        "log {from} goes on in log {into} already: recover that one, or point the services to it"
    )]
    GivenUp { from: LogId, into: LogId },
    #[error(
        "log {0}, which --log names, is the archive's own: it is not lost, or its directory is still there"
    )]
    SameLog(LogId),
    #[error(
        "something of log {log} was archived {seconds} s ago: it lives still, or was lost (or its recovery stopped) just now. \
         Stop every service of it, its archiver first, and recover it once nothing has come for {} s (--quiet-seconds)",
        quiet.as_secs()
    )]
    StillArchived { log: LogId, seconds: u64, quiet: Duration },
    #[error("the new log has records already: it must be empty, and no service may run on it yet")]
    NotEmpty,
    #[error("the archive has something of the new log already, which no recovery wrote")]
    InUse,
    #[error(
        "the new log has {found} partitions, the lost one had {needed}: create it anew with --log-partitions {needed}"
    )]
    OtherPartitionCount { needed: u32, found: u32 },
    #[error(
        "the new log has {found} partitions, and there is something of partition {last} of the lost one: create the new log anew with --log-partitions, and as many as the lost one had"
    )]
    FewerPartitions { last: Partition, found: u32 },
    #[error(
        "scope {scope} is in partition {partition} of the lost log, which had another number of partitions: create the new log anew with --log-partitions"
    )]
    OtherPartition { scope: String, partition: Partition },
    /// `is_quiet`: what it wrote itself does not keep it from being started again.
    #[error(
        "it was stopped; started again{}, it goes on from there",
        if *is_quiet { "" } else { " with --quiet-seconds 0 (it has written to the archive itself just now)" }
    )]
    Stopped { is_quiet: bool },
}

impl From<ArchiveError> for RecoveryError {
    fn from(error: ArchiveError) -> Self {
        Self::Archiver(error.into())
    }
}

/// A log that was lost, as far as the archive has it: nothing can be appended.
///
/// # Errors
/// The archive cannot be read.
pub async fn lost_log(
    archive: &Archive,
    log: LogId,
    partitions: u32,
) -> Result<Arc<dyn EventLog>, ArchiverError> {
    let lost = lost_log::LostLog::find(archive, log, partitions).await?;
    Ok(Replay::over(Arc::new(lost), archive.clone()))
}

/// The log to recover: the one named, or the only one that no other one goes on from.
///
/// # Errors
/// There is none, or several.
pub async fn lost(archive: &Archive, named: Option<LogId>) -> Result<Lost, RecoveryError> {
    let logs = base::logs(archive).await?;
    let mut passed = Vec::new();
    for log in &logs {
        // Nothing ran on a log whose recovery was stopped: it has nothing, and what it is of is still to be recovered.
        match base::unfinished(archive, *log).await? {
            Some(_) => passed.push(*log),
            None => passed.extend(base::recovered_from(archive, *log).await?),
        }
    }
    let log = match named {
        Some(log) if logs.contains(&log) => log,
        Some(log) => return Err(RecoveryError::Unknown(log)),
        None => {
            let open: Vec<LogId> = logs.into_iter().filter(|log| !passed.contains(log)).collect();
            let open = match open.len() {
                0 | 1 => open,
                _ => with_objects(archive, open).await?,
            };
            match open.as_slice() {
                [] => return Err(RecoveryError::Empty),
                [log] => *log,
                _ => return Err(RecoveryError::Several(open)),
            }
        }
    };
    let mut paths = archive.list(&format!("manifests/{log}")).await?.into_iter();
    let says =
        |path: &str| ["/hour/", "/full/", "/on-demand/"].iter().any(|kind| path.contains(kind));
    let first = paths.find(|(path, _)| says(path));
    let header = match first {
        Some((path, _)) => Some(ManifestReader::new(archive.fetch(&path).await?, &path)?.header),
        None => None,
    };
    let count = header.as_ref().map(|header| header.partitions);
    let mut seen = partitions(archive, "manifests", log).await?;
    seen.append(&mut partitions(archive, "segments", log).await?);
    let hours = header.map(|header| header.period_seconds);
    Ok(Lost { log, partitions: count, last: seen.last().copied(), hours })
}

/// Those of which there is anything: in a directory, what was removed leaves folders.
async fn with_objects(archive: &Archive, logs: Vec<LogId>) -> Result<Vec<LogId>, ArchiveError> {
    let mut found = Vec::new();
    for log in logs {
        if last_written(archive, log).await?.is_some() {
            found.push(log);
        }
    }
    Ok(found)
}

impl Lost {
    /// What is to be recovered into a log: where a recovery into that one has begun, what it is recovered from.
    ///
    /// # Errors
    /// The archive cannot be read.
    pub async fn into(self, archive: &Archive, log: LogId) -> Result<Self, RecoveryError> {
        match base::recovered_from(archive, log).await? {
            Some(before) if self.log == log => lost(archive, Some(before)).await,
            _ => Ok(self),
        }
    }
}

impl Judged {
    /// Recovers into the new log, to which nothing is appended, and its log of facts, which the catalogue is made of.
    /// Says how it goes, and last how it ended: until `shutdown`, at the latest.
    pub async fn run(
        self,
        log: Arc<dyn EventLog>,
        facts: Arc<dyn EventLog>,
        say: mpsc::Sender<Recovering>,
        shutdown: CancellationToken,
    ) {
        let recovered = tokio::select! {
            recovered = self.recover(&log, &facts, &say) => recovered,
            // As where it is killed: nothing is half written.
            () = shutdown.cancelled() => Err(self.stopped(log.log_id()).await),
        };
        let last = match recovered {
            Ok(recovered) => Recovering::Done(recovered),
            Err(error) => Recovering::Failed(error.to_string()),
        };
        let _ = say.send(last).await; // whoever asked may have gone
    }

    async fn recover(
        &self,
        log: &Arc<dyn EventLog>,
        facts: &Arc<dyn EventLog>,
        say: &mpsc::Sender<Recovering>,
    ) -> Result<Recovered, RecoveryError> {
        let Self { recovery, leftovers, abandoned } = self;
        recovery.check_log(log.as_ref()).await?;
        // First: whoever folds it without what it begins with would give out cursors again.
        log.recover_from(recovery.lost.log).await.map_err(ArchiverError::from)?;
        recovery.remove(leftovers, say).await?;
        let mut work = Work::new(recovery, log, facts).await?;
        let count = log.partitions();
        let partitions = || (0..count).map(Partition::new);
        let (mut scopes, mut until) = (0, None);
        for partition in partitions() {
            let next_offset = work.seal(partition).await?;
            tell(say, Recovering::Sealed { partition, next_offset }).await?;
            // With the first base the lost log is given up: nobody goes on with it any more.
            let (own, end) = work.write_base(partition).await?;
            (scopes, until) = (scopes + own, until.max(end));
            tell(say, Recovering::Based { partition, scopes: own, of: count }).await?;
        }
        // Not earlier: what they have keeps the lost log given up.
        for log in abandoned {
            recovery.remove_abandoned(*log, say).await?;
        }
        let mut backups = 0;
        for before in base::lineage(&recovery.archive, log.log_id()).await?.into_iter().skip(1) {
            for partition in partitions() {
                backups += work.catalogue(before, partition).await?;
                tell(say, Recovering::Catalogued { backups }).await?;
            }
        }
        work.remove_cache().await;
        let (from, log, until) = (recovery.lost.log, log.log_id(), until.map(|at| at.to_string()));
        Ok(Recovered { from, log, scopes, backups, until })
    }
}

/// When something of a log was last archived.
///
/// # Errors
/// The archive cannot be read.
pub async fn last_written(
    archive: &Archive,
    log: LogId,
) -> Result<Option<Timestamp>, ArchiveError> {
    let mut last = None;
    for folder in ["manifests", "segments"] {
        last = last.max(archive.last_written(&format!("{folder}/{log}")).await?);
    }
    Ok(last)
}

async fn tell(say: &mpsc::Sender<Recovering>, line: Recovering) -> Result<(), RecoveryError> {
    say.send(line).await.map_err(|_| RecoveryError::Stopped { is_quiet: true })
}
