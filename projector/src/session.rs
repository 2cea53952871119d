//! A session: from the stored positions on, until something goes wrong or shutdown.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use eventlog::{EventLog, LogError, ReadLimit};
use model::{Offset, Partition, Place, UnknownRules};
use readmodel::{
    DatabaseConfig, ReadModelError,
    feed::Feed,
    lease::{Leases, RENEW_EVERY},
    projection::{EXPIRED_AT_ONCE, Position, Projection},
};
use service::ops::ComponentHandle;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    ProjectorConfig,
    batch::{Batch, Folded, record_hash},
    record::Decoded,
};

/// How long a reader waits for records before it looks whether it should stop.
const READ_WAIT: Duration = Duration::from_millis(500);
/// Read and decoded ahead of the transaction under way, in reads.
const READ_AHEAD: usize = 2;
/// How often old outcomes are deleted, and how soon again when there are more.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
const EXPIRE_MORE: Duration = Duration::from_millis(200);

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

/// A session that has its positions.
struct Projecting<'a> {
    session: &'a Session<'a>,
    projection: Projection,
    positions: BTreeMap<Partition, Position>,
    /// Where the log ended when the session began: ready once the positions are there.
    behind: BTreeMap<Partition, Offset>,
    next_expiry: Instant,
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
        let reading = stop_reading.token().clone();
        let mut records = self.read(&projecting.positions, reading)?;
        projecting.run(&mut records, shutdown).await
    }

    /// Loads the positions, and makes sure that this log is the one they are of.
    async fn begin(&self, partitions: &[Partition]) -> Result<Projecting<'_>, ProjectorError> {
        let mut projection = Projection::connect(self.database).await?;
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
        let next_expiry = Instant::now();
        Ok(Projecting { session: self, projection, positions, behind, next_expiry })
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
        positions: &BTreeMap<Partition, Position>,
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<Result<Vec<Decoded>, LogError>>, ProjectorError> {
        let from: Vec<_> = positions.values().map(|p| (p.partition, p.next_offset)).collect();
        let mut reader = self.log.reader(&from)?;
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

/// Cuts what was read into transactions of not too many changes: bytes bound them badly, since a delete
/// has few.
fn cut(records: &[Decoded], changes_max: usize) -> VecDeque<&[Decoded]> {
    let mut parts = VecDeque::new();
    let (mut from, mut changes) = (0, 0);
    for (place, record) in records.iter().enumerate() {
        if changes + record.changes() > changes_max && place > from {
            parts.push_back(&records[from..place]);
            (from, changes) = (place, 0);
        }
        changes += record.changes();
    }
    parts.push_back(&records[from..]);
    parts
}

impl Projecting<'_> {
    async fn run(
        &mut self,
        records: &mut mpsc::Receiver<Result<Vec<Decoded>, LogError>>,
        shutdown: &CancellationToken,
    ) -> Result<(), ProjectorError> {
        loop {
            self.say_if_ready();
            self.expire_outcomes().await?;
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                read = records.recv() => read,
                () = tokio::time::sleep_until(self.next_expiry) => continue,
            };
            let Some(first) = first else { return Err(LogError::Closed.into()) };
            let mut batch = first?;
            self.fill(&mut batch, records)?;
            self.commit(batch).await?;
        }
    }

    /// Adds what was read meanwhile, within the limits of one transaction.
    fn fill(
        &self,
        batch: &mut Vec<Decoded>,
        records: &mut mpsc::Receiver<Result<Vec<Decoded>, LogError>>,
    ) -> Result<(), ProjectorError> {
        let config = self.session.config;
        let bytes = |batch: &[Decoded]| batch.iter().map(Decoded::bytes).sum::<usize>() as u64;
        let changes = |batch: &[Decoded]| batch.iter().map(Decoded::changes).sum::<usize>();
        while batch.len() < config.batch_records_max as usize
            && bytes(batch) < config.batch_bytes_max
            && changes(batch) < config.batch_changes_max as usize
        {
            match records.try_recv() {
                Ok(more) => batch.extend(more?),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Folds and commits records; those that the database refuses, one by one.
    async fn commit(&mut self, records: Vec<Decoded>) -> Result<(), ProjectorError> {
        let mut parts = cut(&records, self.session.config.batch_changes_max as usize);
        while let Some(part) = parts.pop_front() {
            let (batch, unknown_rules) = Batch::new(part, &self.positions);
            if !batch.is_empty() {
                match self.commit_batch(&batch).await {
                    Ok(()) => {}
                    Err(ReadModelError::Refused(error)) if part.len() == 1 => {
                        tracing::error!(place = %part[0].place, %error, "parking an event");
                        let reason = error.to_string();
                        self.write(&batch, |_| batch.park(&reason)).await?;
                    }
                    Err(ReadModelError::Refused(_)) if part.len() > 1 => {
                        let (front, back) = part.split_at(part.len() / 2);
                        parts.push_front(back);
                        parts.push_front(front);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(unknown) = unknown_rules {
                return Err(unknown.into());
            }
        }
        Ok(())
    }

    async fn commit_batch(&mut self, batch: &Batch<'_>) -> Result<(), ReadModelError> {
        self.write(batch, |loaded| batch.fold(loaded)).await
    }

    /// Loads, folds, commits: positions and rows in one transaction.
    async fn write(
        &mut self,
        batch: &Batch<'_>,
        fold: impl FnOnce(readmodel::load::Loaded) -> Folded,
    ) -> Result<(), ReadModelError> {
        let began = std::time::Instant::now();
        let mut loaded = self.projection.load(&batch.advances, &batch.wanted()).await?;
        let besides = batch.wanted_besides(&loaded);
        if !besides.is_empty() {
            loaded.add_messages(self.projection.load(&batch.advances, &besides).await?);
        }
        let Folded { writes, committed } = fold(loaded);
        self.session.feed.committing(&committed);
        let others = !self.session.log.is_exclusive();
        self.projection.commit(&batch.advances, &writes, others).await?;
        for advance in &batch.advances {
            self.positions.insert(advance.partition, advance.to);
        }
        self.session.feed.committed(&committed);
        count(&writes, began.elapsed());
        Ok(())
    }

    fn say_if_ready(&mut self) {
        let positions = &self.positions;
        self.behind.retain(|partition, end| {
            positions.get(partition).is_some_and(|position| position.next_offset < *end)
        });
        match self.behind.keys().next() {
            None => self.session.ready.set_ready(),
            Some(partition) => self
                .session
                .ready
                .set_not_ready(format!("folding the log; partition {partition} is behind")),
        }
    }

    async fn expire_outcomes(&mut self) -> Result<(), ProjectorError> {
        if Instant::now() < self.next_expiry {
            return Ok(());
        }
        let mut more = false;
        for position in self.positions.values() {
            let deleted = self.projection.expire_outcomes(position).await?;
            tracing::debug!(partition = %position.partition, deleted, "old outcomes deleted");
            more |= deleted >= EXPIRED_AT_ONCE as u64;
        }
        // What is left waits for the next batches, not they for it.
        self.next_expiry = Instant::now() + if more { EXPIRE_MORE } else { EXPIRE_EVERY };
        Ok(())
    }
}

fn count(writes: &readmodel::write::Writes, took: Duration) {
    metrics::histogram!("context_sync_batch_seconds").record(took.as_secs_f64());
    metrics::counter!("context_sync_events_folded_total").increment(writes.outcomes.len() as u64);
    let dead = writes.dead_letters.len() as u64;
    metrics::counter!("context_sync_dead_letters_total").increment(dead);
}
