//! The embedded log: files of one directory, for one process (docs/decisions/0003-embedded-log.md).
//!
//! One thread writes: it takes all that is queued, writes it as one group, syncs the file once, and
//! only then lets readers see the records and acknowledges them.

mod lock;
mod reader;
mod segment;
mod writer;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use model::{LogId, Offset, Partition, Place};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    AppendError, AppendFuture, Appended, Bounds, EMBEDDED_PARTITIONS, EventLog, LogConfig,
    LogError, LogReader, OpenError, RECORD_BYTES_MAX, Record, RejectReason,
};
use lock::DirLock;
use reader::EmbeddedReader;
use segment::Segment;
use writer::{Queue, Writer};

/// The size at which a new segment is begun, in bytes: small enough to be searched without an
/// index.
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;
/// The least size of a segment where retention by bytes asks for smaller ones.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Into how many segments what is retained is cut, so that retention is that exact.
const SEGMENTS_RETAINED: u32 = 8;
/// The least time between two looks at what retention may remove.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// What the flags come to; tests go below their units.
#[derive(Clone, Copy, Debug)]
struct Options {
    partitions: Option<u32>,
    segment_bytes: u64,
    retention_age: Option<Duration>,
    /// Of the whole log.
    retention_bytes: Option<u64>,
    retention_interval: Duration,
    queue_bytes_max: usize,
}

impl Options {
    fn new(config: &LogConfig) -> Self {
        let retention_bytes = Some(config.log_retention_bytes).filter(|bytes| *bytes > 0);
        let part = retention_bytes.map_or(SEGMENT_BYTES, |b| b / u64::from(SEGMENTS_RETAINED));
        Self {
            partitions: config.log_partitions,
            segment_bytes: part.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES),
            retention_age: Some(config.log_retention_hours)
                .filter(|hours| *hours > 0)
                .map(|hours| Duration::from_secs(hours.saturating_mul(3600))),
            retention_bytes,
            retention_interval: RETENTION_INTERVAL,
            queue_bytes_max: config.log_queue_bytes_max as usize,
        }
    }
}

/// What is durable, and where.
#[derive(Debug)]
struct State {
    /// From the oldest to the one that is written; never empty.
    segments: VecDeque<Arc<Segment>>,
    /// Of each partition, the offset of its next record.
    ends: Vec<u64>,
    /// The number of the last segment, and where its durable bytes end.
    tail: Position,
}

/// A place in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    segment: u64,
    byte: u64,
}

impl State {
    fn bounds(&self, partition: usize) -> Option<Bounds> {
        let start = self.segments.front()?.base.get(partition)?;
        let end = self.ends.get(partition)?;
        Some(Bounds { start: Offset::new(*start)?, end: Offset::new(*end)? })
    }

    fn segment(&self, number: u64) -> Option<&Arc<Segment>> {
        let first = self.segments.front()?.number;
        self.segments.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// A position with no record of `partition` from `offset` on in front of it.
    fn locate(&self, partition: usize, offset: u64) -> Position {
        if self.ends.get(partition).is_some_and(|end| offset >= *end) {
            return self.tail;
        }
        let starts_by = |segment: &Arc<Segment>| {
            segment.base.get(partition).is_some_and(|base| *base <= offset)
        };
        let index = self.segments.partition_point(starts_by).saturating_sub(1);
        self.segments.get(index).map_or(self.tail, |segment| Position {
            segment: segment.number,
            byte: segment.header_bytes(),
        })
    }
}

/// What readers are woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Open,
    Closed,
}

/// What the log's handle, its writer and its readers share.
#[derive(Debug)]
struct Shared {
    log_id: LogId,
    partitions: u32,
    dir: PathBuf,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    queue: Queue,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        let none = LogError::NoSuchPartition { partition, partitions: self.partitions };
        self.state().bounds(partition.get() as usize).ok_or(none)
    }
}

/// An open embedded log. Dropping it closes it.
struct EmbeddedLog {
    shared: Arc<Shared>,
    recovered_from: Option<LogId>,
    /// Taken by whoever closes the log.
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    /// Released when the writer has ended.
    lock: Mutex<Option<DirLock>>,
}

/// Opens the log in `dir`, or creates it.
pub(crate) async fn open(config: &LogConfig, dir: &Path) -> Result<Arc<dyn EventLog>, OpenError> {
    let options = Options::new(config);
    let path = dir.to_owned();
    let must_exist = config.log_must_exist;
    let opened = tokio::task::spawn_blocking(move || {
        if must_exist && !list_segments(&path).is_ok_and(|segments| !segments.is_empty()) {
            return Err(OpenError::Missing { log: format!("embedded log in {}", path.display()) });
        }
        open_dir(options, &path)
    })
    .await;
    let log = opened.map_err(|error| OpenError::Storage {
        path: dir.to_owned(),
        reason: error.to_string(),
    })??;
    Ok(Arc::new(log))
}

fn open_dir(options: Options, dir: &Path) -> Result<EmbeddedLog, OpenError> {
    if let Some(count) = options.partitions.filter(|n| !(1..=Partition::COUNT_MAX).contains(n)) {
        return Err(OpenError::InvalidPartitionCount(count));
    }
    let storage = |reason: String| OpenError::Storage { path: dir.to_owned(), reason };
    make_dir(dir).map_err(|error| storage(error.to_string()))?;
    let lock = DirLock::acquire(dir)?;

    let mut segments = list_segments(dir).map_err(storage)?;
    if segments.is_empty() {
        let first = first_segment(dir, options.partitions.unwrap_or(EMBEDDED_PARTITIONS));
        first.create().map_err(|error| storage(error.to_string()))?;
        segments.push_back(Arc::new(first));
    }
    check_chain(&segments).map_err(storage)?;
    let Some(last) = segments.back().cloned() else {
        return Err(storage("it has no segment".to_owned()));
    };
    let found = last.base.len() as u32;
    if let Some(wanted) = options.partitions.filter(|wanted| *wanted != found) {
        let log = format!("the embedded log in {}", dir.display());
        return Err(OpenError::PartitionCount { log, found, wanted });
    }

    let in_file = |reason: String| storage(format!("{}: {reason}", last.path.display()));
    let file = File::options().read(true).write(true).open(&last.path);
    let file = Arc::new(file.map_err(|error| in_file(error.to_string()))?);
    let tail = segment::recover(&last, &file).map_err(in_file)?;
    if tail.cut > 0 {
        let file = last.path.display();
        tracing::warn!(bytes = tail.cut, %file, "cut the log's torn tail, never acknowledged");
    }
    let recovered_from = read_recovered_from(dir, last.log_id).map_err(storage)?;
    let shared = Arc::new(Shared {
        log_id: last.log_id,
        partitions: found,
        dir: dir.to_owned(),
        state: Mutex::new(State {
            segments,
            ends: tail.ends.clone(),
            tail: Position { segment: last.number, byte: tail.place },
        }),
        progress: watch::Sender::new(Progress::Open),
        queue: Queue::new(options.queue_bytes_max),
    });
    let writer = Writer::new(Arc::clone(&shared), options, file, &last, tail);
    let writer = thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || writer.run())
        .map_err(|error| storage(error.to_string()))?;
    Ok(EmbeddedLog {
        shared,
        recovered_from,
        writer: Mutex::new(Some(writer)),
        lock: Mutex::new(Some(lock)),
    })
}

/// The file that has this log's id, and that of the log that it goes on from.
const RECOVERED_FROM: &str = "recovered_from";

fn read_recovered_from(dir: &Path, own: LogId) -> Result<Option<LogId>, String> {
    let text = match fs::read_to_string(dir.join(RECOVERED_FROM)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{RECOVERED_FROM}: {error}")),
    };
    let ids: Option<Vec<Uuid>> = text.split_whitespace().map(|id| id.parse().ok()).collect();
    match ids.as_deref() {
        Some([log, lost]) => Ok(Some(LogId(*lost)).filter(|_| *log == own.0)),
        _ => Err(format!("{RECOVERED_FROM} has not the ids of two logs")),
    }
}

/// Durable, and whole: a file that is half written is removed when the log is opened.
fn write_recovered_from(dir: &Path, own: LogId, lost: LogId) -> io::Result<()> {
    let unfinished = dir.join(format!("{RECOVERED_FROM}.tmp"));
    let mut file = File::create(&unfinished)?;
    io::Write::write_all(&mut file, format!("{own} {lost}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(RECOVERED_FROM))?;
    segment::sync_dir(dir)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    dir.canonicalize()?.parent().map_or(Ok(()), segment::sync_dir)
}

fn first_segment(dir: &Path, partitions: u32) -> Segment {
    Segment {
        number: 0,
        log_id: LogId(Uuid::new_v4()),
        salt: writer::random_salt(),
        time_before: model::Timestamp::EPOCH,
        group_before: 0,
        base: vec![0; partitions as usize],
        path: dir.join(Segment::file_name(0)),
    }
}

/// The segments of `dir` in order. Drafts that a crash left are removed.
fn list_segments(dir: &Path) -> Result<VecDeque<Arc<Segment>>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("log") => paths.push(path),
            Some("tmp") => fs::remove_file(&path).map_err(|error| error.to_string())?,
            _ => {}
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| match Segment::read_header(&path) {
            Ok(segment) => Ok(Arc::new(segment)),
            Err(reason) => Err(format!("{}: {reason}", path.display())),
        })
        .collect()
}

/// Refuses segments that are not one log without a hole.
fn check_chain(segments: &VecDeque<Arc<Segment>>) -> Result<(), String> {
    for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
        let follows = segment.log_id == next.log_id
            && segment.number + 1 == next.number
            && segment.group_before <= next.group_before
            && segment.base.len() == next.base.len()
            && segment.base.iter().zip(&next.base).all(|(before, after)| before <= after);
        if !follows {
            return Err(format!(
                "{} does not follow {}: a file is missing or of another log; restore it",
                next.path.display(),
                segment.path.display()
            ));
        }
    }
    let misnamed = segments.iter().find(|segment| {
        segment.path.file_name().is_none_or(|name| *name != *Segment::file_name(segment.number))
    });
    match misnamed {
        Some(segment) => Err(format!("{} has another segment's name", segment.path.display())),
        None => Ok(()),
    }
}

impl EmbeddedLog {
    /// Ends the writer, once it has answered all that is queued, and lets go of the lock. Blocks.
    fn shut(&self) -> Result<(), LogError> {
        self.shared.queue.close();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = writer.take().map_or(Ok(()), thread::JoinHandle::join);
        self.shared.progress.send_replace(Progress::Closed);
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.map_err(|_| LogError::Failed("its writer ended by a bug".to_owned()))?;
        self.shared.queue.failure().map_or(Ok(()), |reason| Err(LogError::Failed(reason)))
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::error!(%error, "the embedded log did not close cleanly");
        }
    }
}

impl EventLog for EmbeddedLog {
    fn log_id(&self) -> LogId {
        self.shared.log_id
    }

    fn recovered_from(&self) -> Option<LogId> {
        self.recovered_from
    }

    fn recover_from(&self, lost: LogId) -> BoxFuture<'_, Result<(), LogError>> {
        let (dir, own) = (self.shared.dir.clone(), self.shared.log_id);
        async move {
            let written =
                tokio::task::spawn_blocking(move || write_recovered_from(&dir, own, lost));
            let written = written.await.map_err(|error| LogError::Failed(error.to_string()))?;
            written.map_err(|error| LogError::Failed(error.to_string()))
        }
        .boxed()
    }

    fn partitions(&self) -> u32 {
        self.shared.partitions
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        let partitions = self.shared.partitions;
        let bytes = key.len() + value.len();
        let queued = if partition.get() >= partitions {
            Err(RejectReason::NoSuchPartition { partition, partitions })
        } else if bytes > RECORD_BYTES_MAX {
            Err(RejectReason::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX })
        } else {
            self.shared.queue.push(partition, key, value)
        };
        async move {
            let unanswered =
                || AppendError::Unknown { reason: "the log's writer ended".to_owned() };
            queued?.await.unwrap_or_else(|_| Err(unanswered()))
        }
        .boxed()
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        let bounds = self.shared.bounds(partition);
        async move { bounds }.boxed()
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(EmbeddedReader::new(Arc::clone(&self.shared), from)?))
    }

    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        let shared = Arc::clone(&self.shared);
        async move {
            tokio::task::spawn_blocking(move || reader::read_one(&shared, place))
                .await
                .unwrap_or_else(|error| Err(LogError::Failed(error.to_string())))
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        // Only the writer's last sync is waited for.
        async move {
            self.shared.queue.close();
            let ended = self.shared.queue.ended();
            ended.await;
            self.shut()
        }
        .boxed()
    }
}

type Answer = Result<Appended, AppendError>;

fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => format!("the disk is full ({error})"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
