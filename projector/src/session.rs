//! A session: from the stored positions on, until something goes wrong or shutdown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use archive::{Archive, ArchiveError};
use eventlog::{EventLog, LogError, ReadLimit, Record};
use futures_util::{StreamExt as _, future::try_join_all, stream::FuturesUnordered};
use model::{Event, LogId, Offset, Partition, Place, ScopeKey, UnknownRules};
use readmodel::{
    DatabaseConfig, ProjectionSet, ReadModelError,
    feed::Feed,
    filling::Ends,
    lease::{Leases, RENEW_EVERY},
    load::Loader,
    projection::{Position, Projection},
};
use service::ops::ComponentHandle;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    ProjectorConfig,
    adopting::adopt,
    batch::record_hash,
    epochs,
    inbox::{Inbox, Read},
    outlets::outlets,
    progress::Progress,
    projecting::Projecting,
    record::Decoded,
};

/// How long a reader waits for records before it looks whether it should stop.
const READ_WAIT: Duration = Duration::from_millis(500);
/// Bytes of one read, at most (but one record at least): about what a batch of pushes of 100 messages has. Decoded,
/// they take three times as much.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error(transparent)]
    ReadModel(#[from] ReadModelError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    UnknownRules(#[from] UnknownRules),
    /// The archive goes on from other logs.
    #[error(
        "the archive is of log {}, this log is {log}: if that one is lost, `context-sync ops recover` links them (into an \
         empty log, before anything runs on it); else give this log an archive of its own",
        .logs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    OtherArchive { log: LogId, logs: Vec<LogId> },
    /// A recovery went on from what the archive had of this log.
    #[error(
        "log {log} was given up: the archive goes on with log {into}, which was recovered from it. Point to that one"
    )]
    GivenUp { log: LogId, into: LogId },
    /// A recovery was stopped.
    #[error(
        "the recovery of log {log} is not done: partition {partition} is missing. Run `context-sync ops recover` again"
    )]
    Unrecovered { log: LogId, partition: Partition },
    /// It does not begin with nothing.
    #[error(
        "log {log} goes on from log {lost}, and begins with what the archive of that has: name it with --archive. \
         Folded without it, cursors that devices have would be given out again"
    )]
    NoBase { log: LogId, lost: LogId },
    /// Its first record came after what it begins with.
    #[error(
        "the read model was begun with nothing, before log {log} was recovered from log {lost}: cursors that devices have would \
         be given out again. Stop the services, drop the schema context_sync, and start them with --archive: it is filled anew"
    )]
    BegunWithoutBase { log: LogId, lost: LogId },
    /// The read model knows a record that this log has not, at its place.
    #[error(
        "the record at {0} is not the one that the read model was built from: this is another log, \
         or it was cut. Point to the right log or database; if what is missing is lost for good, \
         `context-sync ops rebuild --cut-log` goes on from what is left, in a new epoch"
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
         this is another log, or it was cut. Restore the log; if it is lost for good, \
         `context-sync ops rebuild --cut-log` goes on from what is left, in a new epoch"
    )]
    Truncated { partition: Partition, folded: Offset, end: Offset },
    /// The log is shorter than what was archived of it, and no read model knows what was folded of it.
    #[error(
        "partition {partition} ends at offset {end}, the archive has its records up to {archived}: the log was cut. Restore \
         it; if it is lost for good, `context-sync ops recover` goes on in a new log from the archive, which has more"
    )]
    ArchiveAhead { partition: Partition, archived: Offset, end: Offset },
    /// The log has something else where the archive ends, and no read model knows what was folded of it.
    #[error(
        "the record at {0} is not the one that the archive has: the log was cut, and has gone on since. Restore it; if what \
         is missing is lost for good, `context-sync ops recover` goes on in a new log from the archive"
    )]
    ArchiveOtherwise(Place),
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
            Self::Archive(error) => error.is_retryable(),
            Self::LeasesChanged => true,
            Self::UnknownRules(_)
            | Self::OtherRecord(_)
            | Self::Gap { .. }
            | Self::Truncated { .. }
            | Self::ArchiveAhead { .. }
            | Self::ArchiveOtherwise(_)
            | Self::OtherArchive { .. }
            | Self::GivenUp { .. }
            | Self::Unrecovered { .. }
            | Self::NoBase { .. }
            | Self::BegunWithoutBase { .. }
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
    pub(crate) archive: Option<&'a Archive>,
    /// Of a rebuild; none: the session folds into the live rows, for ever.
    pub(crate) aim: Option<Aim<'a>>,
}

/// A session that has begun.
struct Begun<'a> {
    /// One at least.
    workers: Vec<Projecting<'a>>,
    /// Where folding ends, of each partition, if it does.
    until: Option<Ends>,
}

/// What a session of a rebuild is to do.
pub(crate) struct Aim<'a> {
    pub(crate) set: ProjectionSet,
    /// Where it ends: what is folded of each partition then.
    pub(crate) until: Ends,
    /// Only its commands are folded; to the others' the time passes, as with a tick.
    pub(crate) scope: Option<&'a ScopeKey>,
    /// Told after each batch, how far it is in all partitions together.
    pub(crate) folded: &'a (dyn Fn(u64) + Send + Sync),
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
            kept = keep(&mut own, &wanted) => match kept {
                Ok(()) => Err(ProjectorError::LeasesChanged),
                // They are lost with their connection.
                Err(lost) => return Err(lost.into()),
            },
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
            // Named twice, it is one all the same.
            None => Ok(BTreeSet::from_iter(self.config.partitions.clone()).into_iter().collect()),
        }
    }

    pub(crate) async fn project(
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
        while !shutdown.is_cancelled() {
            let Begun { mut workers, until } = self.begin(partitions).await?;
            let _keeping = self.keep_epochs();
            // However this ends, be it that the leases change, the reading ends with it.
            let stop_reading = shutdown.child_token().drop_guard();
            let reads = self.read(&workers, until, stop_reading.token().clone())?;
            let work = workers.iter_mut().zip(reads).map(|(worker, reads)| async move {
                worker.run(&mut Inbox::new(self.config, reads), shutdown).await
            });
            all(work).await?;
            match workers.first_mut().filter(|worker| worker.is_filling()) {
                // From here on, all that comes is folded.
                Some(worker) => worker.finish_filling(shutdown).await?,
                None => break,
            }
        }
        Ok(())
    }

    /// Whether other processes wait for what this one commits.
    pub(crate) fn tells_others(&self) -> bool {
        !self.log.is_exclusive() && self.is_live()
    }

    /// Whether requests are answered from what it folds.
    pub(crate) fn is_live(&self) -> bool {
        self.aim.is_none()
    }

    /// Has the archive take what the read model alone has, for as long as the session goes on. A rebuild that swapped has
    /// ended the one before.
    fn keep_epochs(&self) -> JoinSet<()> {
        let mut keeping = JoinSet::new();
        if let Some(archive) = self.archive.filter(|_| self.is_live()) {
            let (database, log) = (self.database.clone(), self.log.log_id());
            keeping.spawn(epochs::keep_trying(database, archive.clone(), log));
        }
        keeping
    }

    /// Loads the positions, and makes sure that this log is the one they are of.
    async fn begin(&self, partitions: &[Partition]) -> Result<Begun<'_>, ProjectorError> {
        let set = self.set();
        if let Some(archive) = self.archive {
            let only = self.aim.as_ref().and_then(|aim| aim.scope);
            adopt(self.database, set, self.log.as_ref(), archive, only).await?;
        }
        let mut projection = Projection::connect_to(self.database, set).await?;
        let lost = self.log.recovered_from();
        if !projection.is_begun().await? {
            // Where it was recovered, it does not begin with nothing, and the archive would have begun it.
            if let Some(lost) = lost {
                return Err(ProjectorError::NoBase { log: self.log.log_id(), lost });
            }
            projection.begin(self.log.log_id(), &ends(self.log.as_ref()).await?).await?;
        }
        let stored =
            projection.adopt_log(self.log.log_id(), self.log.partitions(), partitions).await?;
        if let Some(lost) = lost
            && !projection.goes_on_from(lost).await?
        {
            return Err(ProjectorError::BegunWithoutBase { log: self.log.log_id(), lost });
        }
        self.feed.begin_anew();
        let (mut positions, mut progress) = (Vec::new(), Vec::new());
        for partition in partitions {
            let position = *stored
                .iter()
                .find(|position| position.partition == *partition)
                .ok_or(ReadModelError::NoPosition(*partition))?;
            progress.push((*partition, position.next_offset, self.check(&position).await?));
            positions.push(position);
        }
        let until = self.until(&mut projection, partitions).await?;
        let progress = Arc::new(Progress::new(progress));
        let shares = shares(positions, self.config.projector_workers as usize);
        let connections = self.connect(projection, shares.len()).await?;
        let worker = |(own, (projection, loader))| {
            Projecting::new(self, progress.clone(), projection, loader, own, until.as_ref())
        };
        let workers = shares.into_iter().zip(connections).map(worker).collect();
        Ok(Begun { workers, until })
    }

    /// What so many workers commit and load on; one of them commits on `projection`. Whoever waits for a rebuild's last
    /// records waits for this too: all connect at the same time.
    async fn connect(
        &self,
        projection: Projection,
        workers: usize,
    ) -> Result<Vec<(Projection, Loader)>, ReadModelError> {
        let (database, set) = (self.database, self.set());
        let both = async |_| {
            tokio::try_join!(
                Projection::connect_to(database, set),
                Loader::connect_to(database, set)
            )
        };
        let others = try_join_all((1..workers).map(both));
        let (loader, others) = tokio::try_join!(Loader::connect_to(database, set), others)?;
        Ok([(projection, loader)].into_iter().chain(others).collect())
    }

    fn set(&self) -> ProjectionSet {
        self.aim.as_ref().map_or(ProjectionSet::Live, |aim| aim.set)
    }

    /// Where folding ends: of a rebuild, or of what fills a read model that was lost; `None`: nowhere.
    async fn until(
        &self,
        projection: &mut Projection,
        partitions: &[Partition],
    ) -> Result<Option<Ends>, ProjectorError> {
        if let Some(aim) = &self.aim {
            return Ok(Some(aim.until.clone()));
        }
        let Some(mut until) = projection.filled_until().await? else { return Ok(None) };
        until.retain(|partition, _| partitions.contains(partition));
        Ok(Some(until))
    }

    /// Checks a stored position against the log, and says where the log ends.
    pub(crate) async fn check(&self, position: &Position) -> Result<Offset, ProjectorError> {
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
            let is_copy = last.offset < self.log.own_start(partition).await?;
            let same = record.is_some_and(|r| {
                record_hash(&r.key, &r.value) == last.hash || is_copy && is_blanked(&r)
            });
            if !same {
                return Err(ProjectorError::OtherRecord(place));
            }
        }
        Ok(bounds.end)
    }

    /// Reads and decodes ahead, in a task of its own; each worker gets what is of its partitions.
    fn read(
        &self,
        workers: &[Projecting<'_>],
        until: Option<Ends>,
        stop: CancellationToken,
    ) -> Result<Vec<mpsc::Receiver<Read>>, ProjectorError> {
        let from: Vec<_> = workers.iter().flat_map(Projecting::next_offsets).collect();
        let mut reader = self.log.reader(&from)?;
        let limit = ReadLimit {
            records_max: self.config.batch_records_max as usize,
            bytes_max: self.config.batch_bytes_max.min(READ_BYTES_MAX) as usize,
        };
        let scope = self.aim.as_ref().and_then(|aim| aim.scope).map(ToString::to_string);
        let decoded = move |record: Record| match &scope {
            Some(scope) if record.key != scope.as_bytes() => Decoded::elsewhere(record),
            _ => Decoded::new(record),
        };
        let is_wanted = move |record: &Record| {
            until.as_ref().is_none_or(|until| {
                until.get(&record.partition).is_some_and(|until| record.offset < *until)
            })
        };
        let own = workers.iter().map(|worker| worker.next_offsets().map(|(own, _)| own).collect());
        let (outlets, inlets) = outlets(own);
        tokio::spawn(async move {
            loop {
                let read = tokio::select! {
                    () = stop.cancelled() => break,
                    read = reader.next(limit, READ_WAIT) => read,
                };
                let read = read
                    .map(|records| records.into_iter().filter(&is_wanted).map(&decoded).collect());
                if outlets.give_out(read).await.is_break() {
                    break;
                }
            }
        });
        Ok(inlets)
    }
}

/// Waits until all have ended, or until the first one fails. (`try_join_all` hears of a failure, if they are many, once
/// those before it have ended.)
async fn all<E>(
    work: impl IntoIterator<Item = impl Future<Output = Result<(), E>>>,
) -> Result<(), E> {
    let mut work: FuturesUnordered<_> = work.into_iter().collect();
    while let Some(ended) = work.next().await {
        ended?;
    }
    Ok(())
}

/// What each worker has for its own: partitions in turn.
fn shares(positions: Vec<Position>, workers: usize) -> Vec<BTreeMap<Partition, Position>> {
    let mut shares = vec![BTreeMap::new(); workers.min(positions.len())];
    let count = shares.len();
    for (place, position) in positions.into_iter().enumerate() {
        shares[place % count].insert(position.partition, position);
    }
    shares
}

/// Where a log ends now, in all partitions.
pub(crate) async fn ends(log: &dyn EventLog) -> Result<Ends, LogError> {
    let mut ends = Ends::new();
    for partition in (0..log.partitions()).map(Partition::new) {
        ends.insert(partition, log.bounds(partition).await?.end);
    }
    Ok(ends)
}

/// Renews the leases until they change or are lost.
async fn keep(leases: &mut Leases, wanted: &[Partition]) -> Result<(), ReadModelError> {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if leases.renew(wanted).await? {
            return Ok(());
        }
    }
}

/// What the archive has of a record whose scope was erased since. Nothing is left to tell it from others by; but the archive
/// is the log's own, and what was cut off is what the log has last.
fn is_blanked(record: &Record) -> bool {
    // What decodes to nothing is blanked to nothing.
    record.value.is_empty()
        || matches!(schemas::decode(&record.value), Ok(Event::Command(command)) if command.is_blanked())
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::{FutureExt as _, future::BoxFuture};

    use super::*;

    #[test]
    fn the_failure_of_one_of_many_is_heard_while_the_others_go_on() {
        for many in [2, 100] {
            let going_on = || pending::<Result<(), &str>>().boxed();
            let failing: BoxFuture<'_, _> = ready(Err("a lock timed out")).boxed();
            let work = (1..many).map(|_| going_on()).chain([failing]);
            assert_eq!(all(work).now_or_never(), Some(Err("a lock timed out")));
        }
        assert_eq!(all([ready(Ok::<_, ()>(())), ready(Ok(()))]).now_or_never(), Some(Ok(())));
    }
}
