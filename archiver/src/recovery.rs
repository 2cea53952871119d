//! Recovery: a log that was lost goes on in a new one, from the archive alone.
//!
//! Nothing is appended again. The lost log's records that no hour has are in its segments: they are folded, and sealed
//! as the hour that they are the beginning of, under the lost log's id. Then every partition of the new log gets its
//! base: a full of every scope, and what became of the commands that may still be repeated. From there a projector
//! and an archiver go on. Done again, it comes to the same; whatever it was stopped at.

mod lost_log;

use std::sync::Arc;

use archive::{
    Archive, ArchiveError,
    base::{self, CommandLine, Owner},
    history::{Names, newest_hour},
    manifest::{BackupObject, FORMAT, Header, Kind, ManifestReader, TableFile},
    object::LinesWriter,
    path,
    period::HourLength,
    table::{EventFiles, RecordVerdict},
    unlisted::unlisted,
};
use eventlog::{EventLog, partition_of};
use futures_util::stream;
use model::{
    BackupId, BackupType, Cursor, Event, LogId, Offset, Partition, Timestamp,
    limits::OUTCOME_KEPT_MICROS,
};
use serde::{Deserialize, Serialize};
use service::ops::Readiness;
use tokio::sync::{mpsc, watch};

use crate::{
    ArchiverConfig, Clock, Upkeep,
    bootstrap::next_events,
    cache::Cache,
    error::ArchiverError,
    facts::Facts,
    measure::Progress,
    sealing::{SCOPES_AT_ONCE, Sealer, Wanted},
    session::Session,
    workers::blocking,
};
use lost_log::LostLog;

/// The fold of the lost log, beside the archiver's.
const CACHE: &str = "recovery.redb";

/// A log that was lost, by what the archive has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub log: LogId,
    /// How many it had; `None` if it was lost before its first hour was sealed: only manifests say it.
    pub partitions: Option<u32>,
    /// How long its hours are; likewise.
    pub hours: Option<HourLength>,
}

/// Recovers a lost log into a new one.
pub struct Recovery {
    pub config: ArchiverConfig,
    pub archive: Archive,
    pub lost: Lost,
    /// The new log. Nothing is appended to it.
    pub log: Arc<dyn EventLog>,
    /// Its log of facts, which the catalogue is made of.
    pub facts: Arc<dyn EventLog>,
    pub clock: Clock,
}

/// What a recovery says while it goes on; the last is `Done` or `Failed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovering {
    /// An object that no manifest lists was removed.
    Removed(String),
    /// A partition of the lost log is sealed up to its last record in the archive.
    Sealed { partition: Partition, next_offset: Offset },
    /// A partition of the new log has what it begins with.
    Based { partition: Partition, scopes: u64, of: u32 },
    /// So many backups of the lost log are in the catalogue again.
    Catalogued { backups: u64 },
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
    #[error("log {from} goes on in log {into} already: recover that one, or point the services to it")]
    GivenUp { from: LogId, into: LogId },
    #[error("log {0} is what was to be recovered from: --log names the lost log itself, or its directory is still there")]
    SameLog(LogId),
    #[error("the new log has records already: it must be empty, and no service may run on it yet")]
    NotEmpty,
    #[error("the archive has something of the new log already, which no recovery wrote")]
    InUse,
    #[error("the new log has {found} partitions, the lost one had {needed}: create it anew with --log-partitions {needed}")]
    OtherPartitionCount { needed: u32, found: u32 },
    #[error("scope {scope} is in partition {partition} of the lost log, which had another number of partitions: create the new log anew with --log-partitions")]
    OtherPartition { scope: String, partition: Partition },
    #[error("it was stopped; started again, it goes on from there")]
    Stopped,
}

impl From<ArchiveError> for RecoveryError {
    fn from(error: ArchiveError) -> Self {
        Self::Archiver(error.into())
    }
}

/// The log to recover: the one named, or the only one that no other one goes on from.
///
/// # Errors
/// There is none, or several.
pub async fn lost(archive: &Archive, named: Option<LogId>) -> Result<Lost, RecoveryError> {
    let logs = base::logs(archive).await?;
    let mut given_up = Vec::new();
    for log in &logs {
        given_up.extend(base::recovered_from(archive, *log).await?);
    }
    let log = match named {
        Some(log) if logs.contains(&log) => log,
        Some(log) => return Err(RecoveryError::Unknown(log)),
        None => {
            let open: Vec<LogId> =
                logs.into_iter().filter(|log| !given_up.contains(log)).collect();
            match open.as_slice() {
                [] => return Err(RecoveryError::Empty),
                [log] => *log,
                _ => return Err(RecoveryError::Several(open)),
            }
        }
    };
    let mut paths = archive.list(&format!("manifests/{log}")).await?.into_iter();
    let first = paths.find(|(path, _)| path.contains("/hour/") || path.contains("/full/"));
    let header = match first {
        Some((path, _)) => Some(ManifestReader::new(archive.fetch(&path).await?, &path)?.header),
        None => None,
    };
    let partitions = header.as_ref().map(|header| header.partitions);
    Ok(Lost { log, partitions, hours: header.map(|header| header.period_seconds) })
}

impl Recovery {
    /// Recovers, and says how it goes; the last thing that is said is how it ended.
    pub async fn run(self, say: mpsc::Sender<Recovering>) {
        let last = match self.recover(&say).await {
            Ok(recovered) => Recovering::Done(recovered),
            Err(error) => Recovering::Failed(error.to_string()),
        };
        let _ = say.send(last).await; // whoever asked may have gone
    }

    async fn recover(&self, say: &mpsc::Sender<Recovering>) -> Result<Recovered, RecoveryError> {
        self.check().await?;
        for path in unlisted(&self.archive, self.log.partitions(), || {}).await? {
            self.archive.delete(&path).await?;
            tell(say, Recovering::Removed(path)).await?;
        }
        let mut work = Work::new(self).await?;
        let count = self.log.partitions();
        let partitions = || (0..count).map(Partition::new);
        work.seal(say).await?;
        let (mut scopes, mut until) = (0, None);
        for partition in partitions() {
            let (count, end) = work.write_base(partition).await?;
            (scopes, until) = (scopes + count, until.max(end));
            tell(say, Recovering::Based { partition, scopes: count, of: self.log.partitions() })
                .await?;
        }
        let mut backups = 0;
        for log in base::lineage(&self.archive, self.log.log_id()).await?.into_iter().skip(1) {
            for partition in partitions() {
                backups += work.catalogue(log, partition).await?;
                tell(say, Recovering::Catalogued { backups }).await?;
            }
        }
        work.remove_cache().await;
        let (from, log, until) = (self.lost.log, self.log.log_id(), until.map(|at| at.to_string()));
        Ok(Recovered { from, log, scopes, backups, until })
    }

    /// The new log is new, and the lost one is not gone on from elsewhere.
    async fn check(&self) -> Result<(), RecoveryError> {
        let (from, into) = (self.lost.log, self.log.log_id());
        if from == into {
            return Err(RecoveryError::SameLog(into));
        }
        let found = self.log.partitions();
        if let Some(needed) = self.lost.partitions.filter(|needed| *needed != found) {
            return Err(RecoveryError::OtherPartitionCount { needed, found });
        }
        for partition in (0..found).map(Partition::new) {
            let bounds = self.log.bounds(partition).await.map_err(ArchiverError::from)?;
            if bounds.end > Offset::ZERO {
                return Err(RecoveryError::NotEmpty);
            }
        }
        for log in base::logs(&self.archive).await? {
            match base::recovered_from(&self.archive, log).await? {
                Some(before) if before == from && log != into => {
                    return Err(RecoveryError::GivenUp { from, into: log });
                }
                before if log == into && before != Some(from) => return Err(RecoveryError::InUse),
                _ => {}
            }
        }
        match base::owner(&self.archive, from).await? {
            Owner::GivenUpFor(other) if other != into => {
                Err(RecoveryError::GivenUp { from, into: other })
            }
            _ => Ok(()),
        }
    }
}

async fn tell(say: &mpsc::Sender<Recovering>, line: Recovering) -> Result<(), RecoveryError> {
    say.send(line).await.map_err(|_| RecoveryError::Stopped)
}

/// A recovery that goes on.
struct Work<'a> {
    of: &'a Recovery,
    lost: Arc<dyn EventLog>,
    cache: Arc<Cache>,
    upkeep: Upkeep,
    progress: watch::Sender<Progress>,
    readiness: Readiness,
    files: EventFiles,
}

impl<'a> Work<'a> {
    async fn new(of: &'a Recovery) -> Result<Self, RecoveryError> {
        let count = of.log.partitions();
        let lost: Arc<dyn EventLog> =
            Arc::new(LostLog::find(&of.archive, of.lost.log, count).await?);
        let (directory, log) = (of.config.cache_directory(), of.lost.log);
        let hours = of.config.archive_hour_seconds;
        let cache = blocking(move || {
            let failed = |error: std::io::Error| {
                ArchiverError::Cache(format!("{}: {error}", directory.display()))
            };
            std::fs::create_dir_all(&directory).map_err(failed)?;
            Ok(Arc::new(Cache::open(&directory.join(CACHE), log, hours)?))
        })
        .await?;
        let (upkeep, _) = Upkeep::new(of.clock.clone(), None);
        Ok(Self {
            of,
            lost,
            cache,
            upkeep,
            progress: watch::Sender::new(Progress::default()),
            readiness: Readiness::new(),
            files: EventFiles::new(&of.archive),
        })
    }

    /// Seals what the segments have, as far as it goes: a cut hour is an hour.
    async fn seal(&self, say: &mpsc::Sender<Recovering>) -> Result<(), RecoveryError> {
        let ready = self.readiness.component("recovery");
        let session = Session {
            config: &self.of.config,
            log: &self.lost,
            facts: &self.of.facts,
            archive: &self.of.archive,
            database: None,
            progress: &self.progress,
            ready: &ready,
            upkeep: &self.upkeep,
        };
        for (partition, next_offset) in session.positions(&self.cache).await? {
            self.sealer().seal_hour(partition).await?;
            tell(say, Recovering::Sealed { partition, next_offset }).await?;
        }
        Ok(())
    }

    fn sealer(&self) -> Sealer<'_> {
        let facts = Facts {
            log: &self.of.facts,
            archive: &self.of.archive,
            retention: &self.of.config.retention,
            clock: &self.upkeep.clock,
        };
        let length = self.of.config.archive_hour_seconds;
        Sealer { log: &self.lost, archive: &self.of.archive, cache: &self.cache, facts, length }
    }

    /// Writes what a partition of the new log begins with. How many scopes that are, and the log's time there.
    async fn write_base(
        &mut self,
        partition: Partition,
    ) -> Result<(u64, Option<Timestamp>), RecoveryError> {
        let (length, log) = (self.of.config.archive_hour_seconds, self.of.log.log_id());
        let state = self.cache.state(partition).map_err(ArchiverError::from)?;
        let newest = newest_hour(&self.of.archive, self.of.lost.log, partition).await?;
        let newest = newest.map(|(_, header)| header);
        let hour = newest.as_ref().and_then(|header| length.hour_named(&header.period));
        // The new log's time goes on where the lost one's last hour ends: no hour is of both.
        let clock = hour.map_or(Timestamp::EPOCH, |hour| length.end(hour));
        let name = path::base_name(length, length.hour_of(clock), log);
        let commands = self.write_commands(partition, &name, newest.as_ref()).await?;
        let header = Header {
            format: FORMAT,
            kind: Kind::Full,
            log_id: log,
            partition,
            partitions: self.of.log.partitions(),
            period: name.clone(),
            period_seconds: length,
            first_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            clock,
            rules: state.rules,
            previous: None,
            gaps: Vec::new(),
            events: None,
            messages: None,
            recovered_from: Some(self.of.lost.log),
            commands,
        };
        let sealer = self.sealer();
        let view = Arc::new(self.cache.read().map_err(ArchiverError::from)?);
        let scopes = view.scopes(partition).map_err(ArchiverError::from)?;
        let count = scopes.len() as u64;
        for scope in &scopes {
            let (key, _) = view.existing_scope(partition, *scope).map_err(ArchiverError::from)?;
            let key = key.to_string();
            if partition_of(key.as_bytes(), self.of.log.partitions()) != partition {
                return Err(RecoveryError::OtherPartition { scope: key, partition });
            }
        }
        let lines = scopes.into_iter().map(|scope| {
            let (view, name, sealer) = (view.clone(), &name, &sealer);
            async move {
                let (key, _) = view.existing_scope(partition, scope)?;
                let wanted = Wanted {
                    id: BackupId::scheduled(&key, BackupType::Full, name),
                    backup_type: BackupType::Full,
                    path: path::base_full(&key, name),
                    after: Cursor::ZERO,
                };
                sealer.scope_line(&view, partition, scope, Some(wanted)).await
            }
        });
        let lines = futures_util::StreamExt::buffered(stream::iter(lines), SCOPES_AT_ONCE);
        let path = path::base_manifest(log, partition, &name);
        let manifest = sealer.write_manifest(&path, &header, lines).await?;
        sealer.facts.completed(manifest, &path, clock, |_| true).await?;
        Ok((count, newest.map(|header| header.clock)))
    }

    /// Writes what became of the commands of a day before the lost log's end.
    async fn write_commands(
        &mut self,
        partition: Partition,
        name: &str,
        newest: Option<&Header>,
    ) -> Result<Option<TableFile>, RecoveryError> {
        let Some(newest) = newest else { return Ok(None) };
        let known_from = newest.clock.as_micros() - OUTCOME_KEPT_MICROS;
        let names = Names::list(&self.of.archive, self.of.lost.log, partition).await?;
        let mut hours = Vec::new();
        for path in names.hours().rev() {
            let hour = ManifestReader::new(self.of.archive.fetch(&path).await?, &path)?.header;
            if hour.clock.as_micros() < known_from {
                break;
            }
            hours.push(hour);
        }
        let mut lines = LinesWriter::new(self.of.archive.scratch());
        let mut rows = 0;
        // What was known when the lost log itself was recovered may be known still.
        if let Some(before) = base::open(&self.of.archive, self.of.lost.log, partition).await? {
            let mut commands = base::CommandReader::open(&self.of.archive, &before.header).await?;
            while let Some(line) = commands.next_command()? {
                if line.outcome.folded_at.as_micros() >= known_from {
                    rows += push(&mut lines, &line)?;
                }
            }
        }
        for hour in hours.iter().rev() {
            let mut events = self.files.open(hour).await?;
            loop {
                let batch;
                (events, batch) = next_events(events).await?;
                if batch.is_empty() {
                    break;
                }
                for event in batch {
                    let repeated = event.verdict == Some(RecordVerdict::Repeated);
                    let Some(outcome) = event.outcome.filter(|_| !repeated) else { continue };
                    if let Ok(Event::Command(command)) = schemas::decode(&event.value) {
                        let (id, scope, offset) = (command.id, command.scope, event.offset);
                        let outcome = Arc::new(outcome);
                        rows += push(&mut lines, &CommandLine { id, scope, offset, outcome })?;
                    }
                }
            }
        }
        let mut object = lines.finish()?;
        let path = path::base_commands(self.of.log.log_id(), partition, name);
        self.of.archive.create(&path, &mut object).await?;
        let (sha256, size_bytes) = (object.sha256.clone(), object.size_bytes);
        Ok(Some(TableFile { path, sha256, size_bytes, rows }))
    }

    /// Nobody goes on from it.
    async fn remove_cache(self) {
        let file = self.of.config.cache_directory().join(CACHE);
        drop(self);
        let removed = blocking(move || {
            std::fs::remove_file(&file).map_err(|error| ArchiverError::Cache(error.to_string()))
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "the recovery's cache is left");
        }
    }

    /// Says of every backup of a log that it is there, or has expired. How many there are.
    async fn catalogue(&self, log: LogId, partition: Partition) -> Result<u64, RecoveryError> {
        let archive = &self.of.archive;
        let length = self.of.config.archive_hour_seconds;
        let names = Names::list(archive, log, partition).await?;
        let paths = names.hours().chain(names.fulls()).chain(names.on_demand());
        let mut backups = 0;
        for path in paths.collect::<Vec<_>>() {
            let header = ManifestReader::new(archive.fetch(&path).await?, &path)?.header;
            let period = header.period.as_str();
            let shows = match header.kind {
                Kind::Hour => length.hour_named(period).map(|hour| length.end(hour)),
                Kind::Full => length.day_named(period).map(|day| length.midnight(day)),
                Kind::OnDemand | Kind::Compaction => None,
            };
            let own = format!("/{period}");
            let is_full = header.kind == Kind::Full;
            // A full of an earlier day is listed again where nothing has changed.
            let is_new = |backup: &BackupObject| {
                !is_full || backup.path.rsplit_once("/full").is_some_and(|(_, file)| file.starts_with(&own))
            };
            let facts = self.sealer().facts;
            backups += facts.tell_again(&path, &names, shows.unwrap_or(header.clock), is_new).await?;
        }
        Ok(backups)
    }
}

fn push(lines: &mut LinesWriter, line: &CommandLine) -> Result<u64, RecoveryError> {
    let json = serde_json::to_vec(line).map_err(|error| ArchiverError::Task(error.to_string()))?;
    lines.push(&json)?;
    Ok(1)
}
