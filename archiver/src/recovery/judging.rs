//! Whether a log may be recovered: judged before there is a new log, so that what is refused has changed nothing.

use std::{sync::Arc, time::Duration};

use archive::{
    base::{self, Unfinished},
    unlisted::unlisted,
};
use eventlog::{EventLog, partition_of};
use model::{Event, LogId, Offset, Partition, PartitionClock};

use super::{Recovery, RecoveryError, last_written, lost_log::LostLog};
use crate::{error::ArchiverError, records::Records};

/// What a lost log is to go on in.
pub enum NewLog<'a> {
    /// A log that will be made with so many partitions.
    ToBeMade { partitions: u32 },
    /// One that somebody made, or a recovery that was stopped.
    There(&'a dyn EventLog),
}

impl NewLog<'_> {
    fn partitions(&self) -> u32 {
        match self {
            Self::ToBeMade { partitions } => *partitions,
            Self::There(log) => log.partitions(),
        }
    }

    fn id(&self) -> Option<LogId> {
        match self {
            Self::ToBeMade { .. } => None,
            Self::There(log) => Some(log.log_id()),
        }
    }
}

/// A recovery that may be done.
pub struct Judged {
    pub(super) recovery: Recovery,
    /// What no manifest lists: it is removed first.
    pub(super) leftovers: Vec<String>,
    /// Logs into which the lost one was not recovered to the end, and that are given up for the new one.
    pub(super) abandoned: Vec<LogId>,
}

impl Recovery {
    /// Judges the recovery by the archive, and by the new log as far as there is one. Changes nothing anywhere.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn judge(self, into: NewLog<'_>) -> Result<Judged, RecoveryError> {
        self.check_partitions(into.partitions())?;
        if let NewLog::There(log) = &into {
            self.check_log(*log).await?;
        }
        self.check_lost().await?;
        let abandoned = self.check_lineage(into.id()).await?;
        self.check_raw(into.partitions()).await?;
        let leftovers = unlisted(&self.archive, || {}).await?;
        Ok(Judged { recovery: self, leftovers, abandoned })
    }

    fn check_partitions(&self, found: u32) -> Result<(), RecoveryError> {
        if let Some(needed) = self.lost.partitions.filter(|needed| *needed != found) {
            return Err(RecoveryError::OtherPartitionCount { needed, found });
        }
        match self.lost.last.filter(|last| last.get() >= found) {
            Some(last) => Err(RecoveryError::FewerPartitions { last, found }),
            None => Ok(()),
        }
    }

    /// The new log is another one than the lost one, of as many partitions, and empty.
    pub(super) async fn check_log(&self, log: &dyn EventLog) -> Result<(), RecoveryError> {
        if log.log_id() == self.lost.log {
            return Err(RecoveryError::SameLog(self.lost.log));
        }
        self.check_partitions(log.partitions())?;
        for partition in (0..log.partitions()).map(Partition::new) {
            let bounds = log.bounds(partition).await.map_err(ArchiverError::from)?;
            if bounds.end > Offset::ZERO {
                return Err(RecoveryError::NotEmpty);
            }
        }
        Ok(())
    }

    /// The lost log has all that it began with.
    async fn check_lost(&self) -> Result<(), RecoveryError> {
        let log = self.lost.log;
        let missing = match base::unfinished(&self.archive, log).await? {
            Some(unfinished) => Some(unfinished.missing),
            None => base::missing(&self.archive, log).await?,
        };
        match missing {
            Some(partition) => Err(RecoveryError::Unfinished { log, partition }),
            None => Ok(()),
        }
    }

    /// The lost log is not gone on from elsewhere, and nobody archives it any more. Into which logs somebody has begun to
    /// recover it, and stopped.
    async fn check_lineage(&self, into: Option<LogId>) -> Result<Vec<LogId>, RecoveryError> {
        let from = self.lost.log;
        let (mut abandoned, mut has_begun) = (Vec::new(), false);
        for log in base::logs(&self.archive).await?.into_iter().filter(|log| *log != from) {
            let before = base::recovered_from(&self.archive, log).await?;
            let unfinished = base::unfinished(&self.archive, log).await?;
            if Some(log) == into {
                match (before, unfinished) {
                    (Some(before), _) if before == from => has_begun = true,
                    (None, Some(Unfinished { from: None, .. })) => {}
                    _ => return Err(RecoveryError::InUse),
                }
                continue;
            }
            match unfinished {
                Some(Unfinished { from: before, .. }) if before.is_none_or(|b| b == from) => {
                    if let Some((seconds, quiet)) = self.not_quiet(log).await? {
                        return Err(RecoveryError::StillRecovering { into: log, seconds, quiet });
                    }
                    abandoned.push(log);
                }
                None if before == Some(from) => {
                    return Err(RecoveryError::GivenUp { from, into: log });
                }
                _ => {}
            }
        }
        // Of a log that lives, what no manifest lists is about to be listed, and whoever archives it would stop.
        match self.not_quiet(from).await? {
            Some((seconds, quiet)) if !has_begun => {
                Err(RecoveryError::StillArchived { log: from, seconds, quiet })
            }
            _ => Ok(abandoned),
        }
    }

    /// How many seconds ago something of a log was archived, and how many it should be, if they are too few.
    async fn not_quiet(&self, log: LogId) -> Result<Option<(u64, Duration)>, RecoveryError> {
        let Some(at) = last_written(&self.archive, log).await? else { return Ok(None) };
        let passed = self.clock.now().micros_since(at).max(0).unsigned_abs();
        let is_quiet = u128::from(passed) >= self.quiet.as_micros();
        Ok((!is_quiet).then_some((passed / 1_000_000, self.quiet)))
    }

    /// What segments alone have can be read to its end, is of rules that this build knows, and in the partition that it
    /// would be in: a log that was lost before its first hour was sealed has said nowhere how many it had.
    async fn check_raw(&self, partitions: u32) -> Result<(), RecoveryError> {
        let lost = LostLog::find(&self.archive, self.lost.log, partitions).await?;
        let ranges = lost.raw();
        let lost: Arc<dyn EventLog> = Arc::new(lost);
        for (partition, range) in ranges {
            let mut records = Records::new(&lost, &self.archive, partition, range, &[]);
            let mut clock = PartitionClock::START;
            loop {
                let read = records.next().await?;
                if read.is_empty() {
                    break;
                }
                for record in read {
                    // What is no event is a dead letter, wherever it is.
                    let Ok(event) = schemas::decode(&record.value) else { continue };
                    clock.advance(record.append_time, &event).map_err(ArchiverError::from)?;
                    if let Event::Command(command) = event {
                        check_partition(&command.scope.to_string(), partition, partitions)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A scope is in the partition that a log of so many has for it.
pub(super) fn check_partition(
    scope: &str,
    partition: Partition,
    partitions: u32,
) -> Result<(), RecoveryError> {
    match partition_of(scope.as_bytes(), partitions) == partition {
        true => Ok(()),
        false => Err(RecoveryError::OtherPartition { scope: scope.to_owned(), partition }),
    }
}

impl Judged {
    /// Why it ended, where somebody stopped it: and what to do then.
    pub(super) async fn stopped(&self, into: LogId) -> RecoveryError {
        let may_begin = self.recovery.check_lineage(Some(into)).await;
        RecoveryError::Stopped { is_quiet: may_begin.is_ok() }
    }
}
