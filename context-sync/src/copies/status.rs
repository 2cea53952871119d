//! How everything stands: positions, lag, ages, dead letters, restores, drills, disk.

mod judging;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use archive::{
    Archive, ArchiveError,
    history::newest_hour,
    segment::{self, SegmentReader},
};
use eventlog::{EventLog, LogError, ReadLimit};
use futures_util::future::join_all;
use model::{FoldRevision, LogId, Offset, Partition, Place, Timestamp};
use readmodel::{
    Pool,
    dead_letters::{self, ParkedScope, RefusedScope},
    standing,
};
use serde::{Deserialize, Serialize};
use service::ops::Component;

use super::{Copies, Unasked, disk, disk::Disk};

const DATABASE: &str = "database";
/// How long one part may take to answer.
const PART_WITHIN: Duration = Duration::from_secs(10);
/// Ticks are small, and few stand in a row.
const READ: ReadLimit = ReadLimit { records_max: 64, bytes_max: 64 << 10 };
const READ_WAIT: Duration = Duration::from_millis(500);

/// From when on something is a problem.
#[derive(Clone, Copy, Debug)]
pub struct StatusLimits {
    /// Seconds that the oldest event which is not projected may wait.
    pub waiting_seconds: u64,
    /// Seconds that the oldest event which is in no sealed hour may be on the log.
    pub archived_seconds: u64,
    /// Seconds that the oldest event which is not archived at all, not even raw, may be there; 0: as long as it likes.
    pub segments_seconds: u64,
    /// Hours since the last drill, or since the first backup; 0: no drill is needed.
    pub drill_hours: u64,
    /// Bytes that are free on each disk.
    pub disk_free_bytes: u64,
}

/// How everything stands. What could not be asked is `null`, and named in `unasked`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Status {
    pub at: String,
    pub log_id: Option<String>,
    /// The read model's.
    pub epoch: Option<String>,
    /// By which revision of the fold its rows were folded; 0: by several.
    pub fold_revision: Option<u32>,
    pub partitions: Vec<PartitionStatus>,
    pub catalogue: Option<CatalogueStatus>,
    pub drill: Option<DrillStatus>,
    /// Where no drill was ever done: since the first backup.
    pub undrilled_seconds: Option<u64>,
    pub dead_letters: Option<DeadLettersStatus>,
    /// The restores that run; `null` if they could not be asked for.
    pub restores: Option<Vec<RestoreStatus>>,
    pub database_bytes: Option<u64>,
    pub disks: Vec<Disk>,
    /// The roles of the process that was asked; `null`: no process was.
    pub components: Option<Vec<Component>>,
    /// What needs an operator.
    pub problems: Vec<String>,
    pub unasked: Vec<UnaskedPart>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UnaskedPart {
    /// `log`, `database` or `archive`; `refused_scopes`: of the database, only those.
    pub part: String,
    pub why: String,
}

/// A partition, by role: offsets are those to come next.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PartitionStatus {
    pub partition: u32,
    pub log_start: Option<u64>,
    pub log_end: Option<u64>,
    /// From where on its records can be read, out of the archive where the log does not have them.
    pub readable: Option<u64>,
    pub projected: Option<u64>,
    /// Records that are not projected.
    pub lag: Option<u64>,
    /// Since the log took the first of them.
    pub waiting_seconds: Option<u64>,
    /// Up to where its hours are archived.
    pub archived: Option<u64>,
    /// The name of the last one.
    pub archived_hour: Option<String>,
    /// Since that hour ended.
    pub archived_seconds: Option<u64>,
    /// Since the log took the first event that is in no sealed hour.
    pub unarchived_seconds: Option<u64>,
    /// Up to where its records are in the archive, in hours or raw.
    pub segmented: Option<u64>,
    /// Since the log took the first event that is in neither: lost, if log and database are.
    pub unsegmented_seconds: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CatalogueStatus {
    pub projected: u64,
    /// Facts that are not projected; `null` if that log could not be asked.
    pub lag: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DrillStatus {
    pub at: String,
    pub well: bool,
    pub seconds: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct DeadLettersStatus {
    /// Refused records that nobody has marked.
    pub refused: u64,
    /// The scopes that have the most of them: a few. `null` if they could not be asked for.
    pub refused_scopes: Option<Vec<RefusedScope>>,
    pub parked: Vec<ParkedScope>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RestoreStatus {
    pub restore_id: String,
    pub scope: String,
    pub mode: String,
    pub restored: u64,
    pub skipped: u64,
    pub deleted: u64,
}

impl Copies {
    /// Asks every part; none keeps the others from answering.
    pub async fn status(&self, limits: StatusLimits) -> Status {
        let now = now();
        let mut status = Status { at: now.to_string(), ..Status::default() };
        let log = self.read_log(&mut status).await;
        let of_log = self.read_rows(&mut status, now).await;
        if let (Some(log), Some(rows)) = (log, of_log)
            && log != rows
        {
            let problem = format!("the database is of log {rows}, this log is {log}");
            status.problems.push(problem);
        }
        let is_asked = status.unasked.iter().all(|part| part.part != DATABASE);
        if of_log.is_none() && status.partitions.iter().any(|own| own.projected.is_some()) {
            let problem = "the read model was lost and is being filled: whoever asks gets 503";
            status.problems.push(problem.to_owned());
        }
        if is_asked && (of_log.is_none() || log == of_log) {
            self.read_waiting(&mut status, now).await;
        }
        if let Some(log) = log.or(of_log) {
            self.read_archive(&mut status, log, now).await;
        }
        let disks = self.disks.clone();
        let measured = tokio::task::spawn_blocking(move || {
            disks.iter().map(|(what, path)| disk::measure(what, path)).collect()
        });
        status.disks = measured.await.unwrap_or_default();
        status.components = self.readiness.as_ref().map(|own| own.components());
        status.judge(limits);
        status
    }

    async fn read_log(&self, status: &mut Status) -> Option<LogId> {
        let log = match &self.log {
            Ok(log) => log,
            Err(why) => {
                status.unasked("log", why.clone());
                return None;
            }
        };
        status.log_id = Some(log.log_id().to_string());
        for partition in (0..log.partitions()).map(Partition::new) {
            match within(log.bounds(partition)).await {
                Ok(bounds) => {
                    let own = status.partition(partition);
                    own.log_start = Some(bounds.start.get());
                    own.log_end = Some(bounds.end.get());
                }
                Err(why) => {
                    status.unasked("log", why);
                    break; // the others wait as long
                }
            }
        }
        Some(log.log_id())
    }

    async fn read_rows(&self, status: &mut Status, now: Timestamp) -> Option<LogId> {
        let read = match &self.rows {
            Ok(rows) => within(read_rows(rows, status, now)).await,
            Err(why) => Err(why.clone()),
        };
        let of = match read {
            Ok(of) => of,
            Err(why) => {
                status.unasked(DATABASE, why);
                return None;
            }
        };
        self.read_refused(status).await;
        if let (Some(facts), Some(catalogue)) = (&self.facts, &mut status.catalogue) {
            let bounds = within(facts.bounds(Partition::new(0))).await.ok();
            catalogue.lag = bounds.map(|b| b.end.get().saturating_sub(catalogue.projected));
        }
        of
    }

    /// Whose the refused records are. There may be any number of them: what takes too long leaves the rest known.
    async fn read_refused(&self, status: &mut Status) {
        let (Ok(rows), Some(letters)) = (&self.rows, &mut status.dead_letters) else { return };
        if letters.refused_scopes.is_some() {
            return;
        }
        match within(dead_letters::most_refused(rows)).await {
            Ok(most) => letters.refused_scopes = Some(most),
            Err(why) => status.unasked("refused_scopes", why),
        }
    }

    /// How far the read model is behind, and for how long the first event has been waiting. One that has no position has
    /// everything before it.
    async fn read_waiting(&self, status: &mut Status, now: Timestamp) {
        let Ok(log) = &self.log else { return };
        let log = self.reaching_back(log);
        for own in &mut status.partitions {
            if let Err(why) = read_waiting(log.as_ref(), own, now).await {
                return status.unasked("log", why); // the others wait as long
            }
        }
    }

    async fn read_archive(&self, status: &mut Status, log: LogId, now: Timestamp) {
        let archive = match &self.archive {
            // One that was never named has told the catalogue nothing.
            None if status.catalogue.as_ref().is_some_and(|own| own.projected > 0) => {
                let why = "none is named, and the catalogue is of one: name it with --archive";
                return status.unasked("archive", why.to_owned());
            }
            None => return,
            Some(Ok(archive)) => archive,
            Some(Err(why)) => return status.unasked("archive", why.clone()),
        };
        let partitions = status.partitions.iter_mut();
        let asking = partitions.map(async |own| {
            read_archived(archive, log, own, now).await.map_err(|why| ("archive", why))?;
            self.read_unarchived(own, now).await.map_err(|why| ("log", why))
        });
        let failed = join_all(asking).await.into_iter().find_map(Result::err);
        if let Some((part, why)) = failed {
            status.unasked(part, why);
        }
    }

    /// How old the first event is that is not archived.
    async fn read_unarchived(
        &self,
        own: &mut PartitionStatus,
        now: Timestamp,
    ) -> Result<(), Unasked> {
        let (Ok(log), Some(bounds)) = (&self.log, own.log_start.zip(own.log_end)) else {
            return Ok(());
        };
        let partition = Partition::new(own.partition);
        let first = async |from: u64| {
            let from = Offset::new(from.max(bounds.0)).unwrap_or(Offset::MAX);
            within(first_event(log.as_ref(), partition, from, bounds.1)).await
        };
        let Some((offset, since)) = first(own.archived.unwrap_or(0)).await? else { return Ok(()) };
        own.unarchived_seconds = Some(seconds_since(now, since));
        let raw = match own.segmented {
            Some(segmented) if offset.get() < segmented => first(segmented).await?,
            _ => Some((offset, since)),
        };
        own.unsegmented_seconds = raw.map(|(_, since)| seconds_since(now, since));
        Ok(())
    }
}

/// How far the read model is behind a partition, and since when its first event has been waiting.
async fn read_waiting(
    log: &dyn EventLog,
    own: &mut PartitionStatus,
    now: Timestamp,
) -> Result<(), Unasked> {
    let Some(end) = own.log_end else { return Ok(()) };
    let partition = Partition::new(own.partition);
    own.readable = Some(within(log.bounds(partition)).await?.start.get());
    let Some(next) = own.projected.or(own.readable) else { return Ok(()) };
    own.lag = Some(end.saturating_sub(next));
    let Some(offset) = Offset::new(next).filter(|_| end > next) else { return Ok(()) };
    if let Some(first) = within(log.read_one(Place { partition, offset })).await? {
        own.waiting_seconds = Some(seconds_since(now, first.append_time));
    }
    Ok(())
}

/// How far a partition is archived.
async fn read_archived(
    archive: &Archive,
    log: LogId,
    own: &mut PartitionStatus,
    now: Timestamp,
) -> Result<(), Unasked> {
    let partition = Partition::new(own.partition);
    if let Some((_, header)) = within(newest_hour(archive, log, partition)).await? {
        let length = header.period_seconds;
        let end = length.hour_named(&header.period).map(|hour| length.end(hour));
        own.archived = Some(header.next_offset.get());
        own.archived_hour = Some(header.period);
        own.archived_seconds = end.map(|end| seconds_since(now, end));
    }
    let raw = within(segmented(archive, log, partition)).await?;
    own.segmented = raw.map(Offset::get).max(own.archived);
    Ok(())
}

/// Where the last segment ends, if there is one.
async fn segmented(
    archive: &Archive,
    log: LogId,
    partition: Partition,
) -> Result<Option<Offset>, ArchiveError> {
    let names = segment::list(archive, log, partition).await?;
    let Some(last) = names.last() else { return Ok(None) };
    match archive.fetch(&last.path).await {
        Ok(object) => Ok(Some(SegmentReader::new(object, &last.path)?.next_offset)),
        // Its hour was sealed meanwhile.
        Err(ArchiveError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first record in a range that is of a scope, and when the log took it. Ticks only make time pass: they wait in
/// an hour that nothing ends until something comes.
async fn first_event(
    log: &dyn EventLog,
    partition: Partition,
    from: Offset,
    end: u64,
) -> Result<Option<(Offset, Timestamp)>, LogError> {
    let mut next = from;
    if next.get() >= end {
        return Ok(None);
    }
    let mut reader = log.reader(&[(partition, from)])?;
    while next.get() < end {
        for record in reader.next(READ, READ_WAIT).await? {
            if !record.key.is_empty() {
                return Ok(Some((record.offset, record.append_time)));
            }
            next = record.offset.next();
        }
    }
    Ok(None)
}

async fn read_rows(
    pool: &Pool,
    status: &mut Status,
    now: Timestamp,
) -> Result<Option<LogId>, readmodel::ReadModelError> {
    let standing = standing::standing(pool).await?;
    for (partition, next) in &standing.positions {
        status.partition(*partition).projected = Some(next.get());
    }
    status.epoch = standing.source.map(|(_, epoch)| epoch.to_string());
    status.fold_revision = standing.fold_revision.map(|FoldRevision(revision)| revision);
    status.catalogue =
        standing.catalogue.map(|next| CatalogueStatus { projected: next.get(), lag: None });
    status.drill = standing.drill.map(|(at, well)| DrillStatus {
        at: at.to_string(),
        well,
        seconds: seconds_since(now, at),
    });
    status.undrilled_seconds = standing.undrilled_since.map(|at| seconds_since(now, at));
    status.database_bytes = Some(standing.bytes);
    let restore = |r: standing::RunningRow| RestoreStatus {
        restore_id: r.id.to_string(),
        scope: r.scope,
        mode: r.mode,
        restored: r.restored,
        skipped: r.skipped,
        deleted: r.deleted,
    };
    status.restores = Some(standing.restores.into_iter().map(restore).collect());
    let (refused, parked) = dead_letters::open(pool).await?;
    let refused_scopes = (refused == 0).then(Vec::new);
    status.dead_letters = Some(DeadLettersStatus { refused, refused_scopes, parked });
    Ok(standing.source.map(|(log, _)| log))
}

impl Status {
    fn partition(&mut self, partition: Partition) -> &mut PartitionStatus {
        let number = partition.get();
        let at = match self.partitions.binary_search_by_key(&number, |own| own.partition) {
            Ok(at) => at,
            Err(at) => {
                let new = PartitionStatus { partition: number, ..PartitionStatus::default() };
                self.partitions.insert(at, new);
                at
            }
        };
        &mut self.partitions[at]
    }

    fn unasked(&mut self, part: &str, why: Unasked) {
        self.unasked.push(UnaskedPart { part: part.to_owned(), why });
    }
}

/// What a part says within its time.
async fn within<T, E: std::fmt::Display>(
    asking: impl Future<Output = Result<T, E>>,
) -> Result<T, Unasked> {
    match tokio::time::timeout(PART_WITHIN, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PART_WITHIN.as_secs())),
    }
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn seconds_since(now: Timestamp, then: Timestamp) -> u64 {
    (now.micros_since(then).max(0) / 1_000_000).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use archive::{ArchiveAddress, ArchiveConfig};
    use bytes::Bytes;
    use eventlog::{AppendFuture, Bounds, LogReader, Record};
    use futures_util::{FutureExt, future::BoxFuture};
    use readmodel::DatabaseConfig;

    use super::*;

    /// A log that says where it ends, and gives no record.
    struct Stuck;

    impl EventLog for Stuck {
        fn log_id(&self) -> LogId {
            LogId(Default::default())
        }

        fn partitions(&self) -> u32 {
            1
        }

        fn is_exclusive(&self) -> bool {
            false
        }

        fn append_to(&self, _: Partition, _: Bytes, _: Bytes) -> AppendFuture {
            panic!("nothing is changed")
        }

        fn bounds(&self, _: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
            let bounds = Bounds { start: Offset::ZERO, end: Offset::new(5).unwrap() };
            async move { Ok(bounds) }.boxed()
        }

        fn reader(&self, _: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
            Err(LogError::Failed("it is stuck".to_owned()))
        }

        fn read_one(&self, _: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
            async { Err(LogError::Failed("it is stuck".to_owned())) }.boxed()
        }

        fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
            async { Ok(()) }.boxed()
        }
    }

    /// Nobody is told that all is well where nobody knows for how long events have been waiting.
    #[tokio::test]
    async fn a_log_that_gives_no_record_is_one_that_could_not_be_asked() {
        let folder = tempfile::tempdir().unwrap();
        let address = ArchiveAddress::File(folder.path().to_owned());
        let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
        let copies = Copies {
            log: Ok(Arc::new(Stuck)),
            facts: None,
            database: DatabaseConfig {
                database_url: None,
                database_connections: 1,
                database_acquire_timeout_ms: 1,
                database_statement_timeout_ms: 1,
            },
            rows: Err("not here".to_owned()),
            archive: Some(Ok(archive)),
            feed: None,
            readiness: None,
            disks: Vec::new(),
        };
        let mut status = Status::default();
        copies.read_log(&mut status).await.unwrap();
        let unasked = |status: &Status| {
            status.unasked.iter().map(|own| (own.part.clone(), own.why.clone())).collect::<Vec<_>>()
        };
        assert_eq!(unasked(&status), []);
        let stuck = || ("log".to_owned(), LogError::Failed("it is stuck".to_owned()).to_string());
        copies.read_waiting(&mut status, Timestamp::EPOCH).await;
        assert_eq!((status.partitions[0].lag, unasked(&status)), (Some(5), vec![stuck()]));
        copies.read_archive(&mut status, LogId(Default::default()), Timestamp::EPOCH).await;
        assert_eq!(unasked(&status), [stuck(), stuck()]);
    }

    #[test]
    fn partitions_stand_in_their_order() {
        let mut status = Status::default();
        for number in [5, 1, 3, 1] {
            status.partition(Partition::new(number));
        }
        let order: Vec<u32> = status.partitions.iter().map(|own| own.partition).collect();
        assert_eq!(order, [1, 3, 5]);
    }
}
