//! A session: from the stored positions on, until something goes wrong or shutdown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eventlog::{EventLog, LogError, ReadLimit};
use model::{Offset, Partition, Place, UnknownRules};
use readmodel::{
    DatabaseConfig, ReadModelError,
    feed::Feed,
    lease::{Leases, RENEW_EVERY},
    load::Loader,
    projection::{Position, Projection},
};
use service::ops::ComponentHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    ProjectorConfig,
    batch::record_hash,
    inbox::{Inbox, Read},
    projecting::Projecting,
    record::Decoded,
};

/// How long a reader waits for records before it looks whether it should stop.
const READ_WAIT: Duration = Duration::from_millis(500);
/// Read and decoded ahead of the batches under way, in reads.
const READ_AHEAD: usize = 2;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error(transparent)]
    ReadModel(#[from] ReadModelError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    UnknownRules(#[from] UnknownRules),
    /// The read model knows a record that this log has not, at its place.
    #[error(
        "the record at {0} is not the one that the read model was built from: this is another log, \
         or it was cut. Give it a database of its own, or drop the read model's schema to rebuild it"
    )]
    OtherRecord(Place),
    /// Retention removed records before they were folded.
    #[error(
        "partition {partition} begins at offset {start}, the read model needs it from {needed}: \
         retention removed events that were not folded yet. Restore the log or the read model"
    )]
    Gap { partition: Partition, needed: Offset, start: Offset },
    /// The log is shorter than what was folded of it.
    #[error(
        "partition {partition} ends at offset {end}, the read model has folded up to {folded}: \
         this is another log, or it was cut. Restore the log, or drop the read model's schema"
    )]
    Truncated { partition: Partition, folded: Offset, end: Offset },
    #[error("--partitions names {0}, which the log does not have")]
    NoSuchPartition(Partition),
    /// The leases changed: begin again with those held now.
    #[error("the leased partitions changed")]
    LeasesChanged,
}

impl ProjectorError {
    /// Whether another session may do better without anyone's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ReadModel(ReadModelError::PositionMoved | ReadModelError::NotMigrated) => true,
            Self::ReadModel(error) => error.is_retryable(),
            Self::Log(error) => error.is_retryable(),
            Self::LeasesChanged => true,
            Self::UnknownRules(_)
            | Self::OtherRecord(_)
            | Self::Gap { .. }
            | Self::Truncated { .. }
            | Self::NoSuchPartition(_) => false,
        }
    }
}

/// What a session works with.
pub(crate) struct Session<'a> {
    pub(crate) config: &'a ProjectorConfig,
    pub(crate) database: &'a DatabaseConfig,
    pub(crate) log: &'a Arc<dyn EventLog>,
    pub(crate) feed: &'a Feed,
    pub(crate) ready: &'a ComponentHandle,
}

impl Session<'_> {
    /// Projects until shutdown (`Ok`) or until something goes wrong. Leases are kept from one session
    /// to the next while their connection lives.
    pub(crate) async fn run(
        &self,
        leases: &mut Option<Leases>,
        shutdown: &CancellationToken,
    ) -> Result<(), ProjectorError> {
        let wanted = self.partitions()?;
        if self.log.is_exclusive() {
            return self.project(&wanted, shutdown).await;
        }
        let mut own = match leases.take() {
            Some(leases) => leases,
            None => Leases::connect(self.database).await?,
        };
        own.renew(&wanted).await?;
        let held = own.held().to_vec();
        let ended = tokio::select! {
            ended = self.project(&held, shutdown) => ended,
            changed = keep(&mut own, &wanted) => Err(changed),
        };
        *leases = Some(own);
        ended
    }

    fn partitions(&self) -> Result<Vec<Partition>, ProjectorError> {
        let count = self.log.partitions();
        if self.config.partitions.is_empty() {
            return Ok((0..count).map(Partition::new).collect());
        }
        match self.config.partitions.iter().find(|partition| partition.get() >= count) {
            Some(partition) => Err(ProjectorError::NoSuchPartition(*partition)),
            None => Ok(self.config.partitions.clone()),
        }
    }

    async fn project(
        &self,
        partitions: &[Partition],
        shutdown: &CancellationToken,
    ) -> Result<(), ProjectorError> {
        if partitions.is_empty() {
            // A standby is as ready as it can be.
            self.ready.set_ready();
            shutdown.cancelled().await;
            return Ok(());
        }
        let mut projecting = self.begin(partitions).await?;
        // However this ends, be it that the leases change, the reading ends with it.
        let stop_reading = shutdown.child_token().drop_guard();
        let reads = self.read(&projecting.next_offsets(), stop_reading.token().clone())?;
        projecting.run(&mut Inbox::new(self.config, reads), shutdown).await
    }

    /// Whether other processes wait for what this one commits.
    pub(crate) fn tells_others(&self) -> bool {
        !self.log.is_exclusive()
    }

    /// Loads the positions, and makes sure that this log is the one they are of.
    async fn begin(&self, partitions: &[Partition]) -> Result<Projecting<'_>, ProjectorError> {
        let mut projection = Projection::connect(self.database).await?;
        let loader = Loader::connect(self.database).await?;
        let stored =
            projection.adopt_log(self.log.log_id(), self.log.partitions(), partitions).await?;
        self.feed.begin_anew();
        let mut positions = BTreeMap::new();
        let mut behind = BTreeMap::new();
        for partition in partitions {
            let position = *stored
                .iter()
                .find(|position| position.partition == *partition)
                .ok_or(ReadModelError::NoPosition(*partition))?;
            let end = self.check(&position).await?;
            if position.next_offset < end {
                behind.insert(*partition, end);
            }
            positions.insert(*partition, position);
        }
        Ok(Projecting::new(self, projection, loader, positions, behind))
    }

    /// Checks a stored position against the log, and says where the log ends.
    async fn check(&self, position: &Position) -> Result<Offset, ProjectorError> {
        let Position { partition, next_offset, .. } = *position;
        let bounds = self.log.bounds(partition).await?;
        if next_offset > bounds.end {
            let end = bounds.end;
            return Err(ProjectorError::Truncated { partition, folded: next_offset, end });
        }
        if next_offset < bounds.start {
            let start = bounds.start;
            return Err(ProjectorError::Gap { partition, needed: next_offset, start });
        }
        if let Some(last) = position.last.filter(|last| last.offset >= bounds.start) {
            let place = Place { partition, offset: last.offset };
            let record = self.log.read_one(place).await?;
            let same = record.is_some_and(|r| record_hash(&r.key, &r.value) == last.hash);
            if !same {
                return Err(ProjectorError::OtherRecord(place));
            }
        }
        Ok(bounds.end)
    }

    /// Reads and decodes ahead, in a task of its own.
    fn read(
        &self,
        from: &[(Partition, Offset)],
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<Read>, ProjectorError> {
        let mut reader = self.log.reader(from)?;
        let limit = ReadLimit {
            records_max: self.config.batch_records_max as usize,
            bytes_max: usize::try_from(self.config.batch_bytes_max).unwrap_or(usize::MAX),
        };
        let (send, records) = mpsc::channel(READ_AHEAD);
        tokio::spawn(async move {
            loop {
                let read = tokio::select! {
                    () = stop.cancelled() => break,
                    read = reader.next(limit, READ_WAIT) => read,
                };
                let read = match read {
                    Ok(records) if records.is_empty() => continue,
                    Ok(records) => Ok(records.into_iter().map(Decoded::new).collect()),
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if send.send(read).await.is_err() || failed {
                    break;
                }
            }
        });
        Ok(records)
    }
}

/// Renews the leases until they change or are lost.
async fn keep(leases: &mut Leases, wanted: &[Partition]) -> ProjectorError {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match leases.renew(wanted).await {
            Ok(false) => {}
            Ok(true) => return ProjectorError::LeasesChanged,
            Err(error) => return error.into(),
        }
    }
}
