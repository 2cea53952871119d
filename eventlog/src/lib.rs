//! The message log: the only truth of Context Sync, behind one small trait.
//!
//! Two implementations pass one contract suite (`tests/contract.rs`): Apache Kafka for production,
//! and an embedded log for one process. Both are durable before they acknowledge, keep one dense
//! order per partition, and stamp each record with the log's own time.
//!
//! Readers keep no positions here: those live in Postgres, next to what was made of the records
//! (docs/decisions/0002-log-consumers.md).

mod config;
mod embedded;
mod error;
mod kafka;
mod partitioner;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use model::{LogId, Offset, Partition, Place, Timestamp};

pub use crate::{
    config::{
        APPEND_TIMEOUT_MS, EMBEDDED_PARTITIONS, InvalidLogAddress, InvalidProperty,
        KAFKA_PARTITIONS, KafkaProperties, KafkaProperty, LogAddress, LogConfig,
    },
    error::{AppendError, LogError, OpenError, RejectReason},
    partitioner::{murmur2, partition_of},
};

/// The largest record that a log takes, key and value together, in bytes: a topic's
/// `max.message.bytes` of 8 MiB less Kafka's framing.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024 - 1024;

/// The longest that one [`LogReader::next`] waits, a day: a longer `wait` is cut.
pub const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: Partition,
    pub offset: Offset,
    /// When the log took the record, by the log's own clock. Never goes backwards within a
    /// partition on the embedded log; on Kafka it may after a change of leader, so a reader that
    /// depends on it takes the running maximum.
    pub append_time: Timestamp,
    /// The scope, or empty for a record addressed to a partition.
    pub key: Bytes,
    pub value: Bytes,
}

impl Record {
    pub const fn place(&self) -> Place {
        Place { partition: self.partition, offset: self.offset }
    }
}

/// Where an appended record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub place: Place,
    /// As the reader will see it; `None` where Kafka's answer did not tell.
    pub append_time: Option<Timestamp>,
}

/// The offsets that a partition holds: `start <= offset < end`. Equal when it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that retention has left.
    pub start: Offset,
    /// The offset after the last record: that of the next append.
    pub end: Offset,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// How much one [`LogReader::next`] returns at most. The first record comes whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    pub records_max: usize,
    /// Of keys and values together.
    pub bytes_max: usize,
}

/// The future of an append. The record is queued by the call itself: dropping the future neither
/// takes it back nor tells whether it was appended.
pub type AppendFuture = BoxFuture<'static, Result<Appended, AppendError>>;

/// A partitioned, append-only, durable log.
pub trait EventLog: Send + Sync + 'static {
    /// The log's identity, made together with it. Another log never has the same.
    fn log_id(&self) -> LogId;

    /// The log that this one goes on from, if a recovery made it: it begins with what that one's archive has, not with
    /// nothing. As it was when the log was opened.
    fn recovered_from(&self) -> Option<LogId> {
        None
    }

    /// Notes that it goes on from another log, as a part of its identity. Nothing is appended before. Of several, the last
    /// counts.
    ///
    /// # Errors
    /// As [`EventLog::bounds`]; or it is no log that can be recovered into.
    fn recover_from(&self, lost: LogId) -> BoxFuture<'_, Result<(), LogError>> {
        let text = format!("it cannot go on from log {lost}");
        Box::pin(async { Err(LogError::Failed(text)) })
    }

    /// The number of partitions, which never changes.
    fn partitions(&self) -> u32;

    /// True if no other process can read or write this log while it is open (the embedded log:
    /// its lock proves it).
    fn is_exclusive(&self) -> bool;

    /// Appends to the partition of `key` ([`partition_of`]). Queued at once, in the order of the
    /// calls; resolves when durable.
    ///
    /// # Errors
    /// [`AppendError::Rejected`]: certainly not appended. [`AppendError::Unknown`]: it may have
    /// been; append again with the same command id, the fold knows it.
    fn append(&self, key: Bytes, value: Bytes) -> AppendFuture {
        self.append_to(partition_of(&key, self.partitions()), key, value)
    }

    /// As [`EventLog::append`], to the partition named. `key` may be empty.
    ///
    /// # Errors
    /// As [`EventLog::append`].
    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture;

    /// The offsets that the partition holds now.
    ///
    /// # Errors
    /// A retryable [`LogError`] while the log cannot be reached (within seconds).
    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>>;

    /// Where the partition begins that the log itself has: what is before that, if [`EventLog::bounds`] says so, is read from
    /// copies of it.
    ///
    /// # Errors
    /// As [`EventLog::bounds`].
    fn own_start(&self, partition: Partition) -> BoxFuture<'_, Result<Offset, LogError>> {
        let bounds = self.bounds(partition);
        Box::pin(async { Ok(bounds.await?.start) })
    }

    /// A reader of the partitions named, each from its offset on. Any number of readers may read
    /// at the same time; none sees another. An offset out of range shows at the first
    /// [`LogReader::next`].
    ///
    /// # Errors
    /// [`LogError::NoSuchPartition`], or the reader cannot be made.
    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError>;

    /// The record at `place`; `None` if there is none: removed by retention, not yet written, or
    /// an offset that was skipped.
    ///
    /// # Errors
    /// A retryable [`LogError`] while the log cannot be reached (within seconds).
    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>>;

    /// Refuses new appends, waits until those queued are answered (at most the append timeout),
    /// and lets go of the log. Readers end with [`LogError::Closed`] on the embedded log. A second
    /// call does nothing.
    ///
    /// # Errors
    /// Queued appends are left unanswered, or the last sync failed.
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Reads some partitions of a log in order.
pub trait LogReader: Send {
    /// Waits up to `wait` for the first record, then returns what is ready within `limit`. Empty
    /// when the wait ran out. Never skips or reorders records of a partition. Dropping the future
    /// loses nothing: the next call returns what this one would have.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if a position is below the partition's start or above its end:
    /// [`LogReader::seek`] that partition, nothing else moves it. If [`LogError::is_retryable`],
    /// call again after a pause; the reader goes on by itself.
    fn next(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>>;

    /// Goes on from `offset` in `partition`: nothing fetched before is returned for it. Other
    /// partitions are not moved.
    ///
    /// # Errors
    /// [`LogError::NotAssigned`] for a partition that this reader does not read.
    fn seek(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError>;
}

/// Opens the log that `config` names, creating what does not exist. `dir` is the embedded log's
/// directory; Kafka does not use it.
///
/// # Errors
/// What exists is not as configured, another process holds it, or it cannot be reached.
pub async fn open(config: &LogConfig, dir: &Path) -> Result<Arc<dyn EventLog>, OpenError> {
    open_log(config, Name::Events, dir).await
}

/// Opens the log of the archiver's facts, beside that of the events: one partition, and everything is
/// kept.
///
/// # Errors
/// As [`open`].
pub async fn open_backups(config: &LogConfig, dir: &Path) -> Result<Arc<dyn EventLog>, OpenError> {
    let config = LogConfig {
        log_partitions: Some(1),
        log_retention_hours: 0,
        log_retention_bytes: 0,
        ..config.clone()
    };
    open_log(&config, Name::Backups, dir).await
}

/// Which log: the topic's name, and the key of its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Events,
    Backups,
}

async fn open_log(
    config: &LogConfig,
    name: Name,
    dir: &Path,
) -> Result<Arc<dyn EventLog>, OpenError> {
    match &config.log {
        LogAddress::Embedded => embedded::open(config, dir).await,
        LogAddress::Kafka { brokers } => kafka::open(config, name, brokers).await,
    }
}
