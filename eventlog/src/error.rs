//! What can go wrong, told apart by what the caller can do about it.

use std::path::PathBuf;

use model::{Offset, Partition};

use crate::Bounds;

/// An append that was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Certainly not appended.
    #[error("the record was not appended: {0}")]
    Rejected(#[from] RejectReason),
    /// Appended or not: nobody can tell. Append it again with the same command id; the fold
    /// applies it once.
    #[error(
        "it is unknown whether the record was appended ({reason}); append it again with the same id"
    )]
    Unknown { reason: String },
}

/// Why a record was certainly not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RejectReason {
    /// Will never succeed.
    #[error("it has {bytes} bytes, the log takes {bytes_max}; split it")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// Will never succeed.
    #[error("there is no partition {partition}; the log has {partitions}")]
    NoSuchPartition { partition: Partition, partitions: u32 },
    /// More is waiting than the log takes just now.
    #[error("as much waits to be appended as may, {bytes_max} bytes; try again later")]
    QueueFull { bytes_max: u64 },
    /// [`crate::EventLog::close`] was called.
    #[error("the log is closed")]
    Closed,
    /// The log refuses every append until the process is started again.
    #[error("the log has failed ({0}); restart the process")]
    LogFailed(String),
    /// Kafka could not be reached, or refused it, before the record was sent.
    #[error("Kafka did not take it ({0}); try again later")]
    Unavailable(String),
}

impl AppendError {
    /// True if appending the same record again may succeed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Rejected(reason) => {
                matches!(reason, RejectReason::QueueFull { .. } | RejectReason::Unavailable(_))
            }
        }
    }
}

/// A read that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The position is not in the log: retention was faster, or this is not the log that the
    /// position belongs to. Nothing is reset: the caller decides, then seeks.
    #[error(
        "offset {asked} of partition {partition} is not in the log, which holds {bounds}: records \
         are missing (retention removed them) or the position belongs to another log"
    )]
    OutOfRange { partition: Partition, asked: Offset, bounds: Bounds },
    #[error("there is no partition {partition}; the log has {partitions}")]
    NoSuchPartition { partition: Partition, partitions: u32 },
    #[error("this reader does not read partition {partition}")]
    NotAssigned { partition: Partition },
    /// The log cannot be reached now.
    #[error("the log cannot be reached ({0}); try again")]
    Unavailable(String),
    /// What is stored is not what was written.
    #[error(
        "partition {partition} is damaged at offset {offset}: {reason}; restore the log's files"
    )]
    Corrupt { partition: Partition, offset: Offset, reason: String },
    /// Anything else: a disk error, a refused login, a deleted topic.
    #[error("the log has failed: {0}")]
    Failed(String),
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// True if the same call may succeed after a pause, without anyone doing anything.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A log that cannot be opened. The text says what was found, what was wanted, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the embedded log open.
    #[error(
        "the log in {} is held by process {} (started {since}); stop it first", path.display(),
        pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
    )]
    Held { pid: Option<u32>, since: String, path: PathBuf },
    /// The number of partitions never changes: a key's order would break.
    #[error(
        "{log} has {found} partitions, {wanted} were asked for with --log-partitions; the number \
         of a log's partitions never changes: ask for {found}, or use another log"
    )]
    PartitionCount { log: String, found: u32, wanted: u32 },
    #[error("--log-partitions is {0}; it must be 1 to {max}", max = Partition::COUNT_MAX)]
    InvalidPartitionCount(u32),
    /// A setting of a Kafka topic that would lose or reorder events.
    #[error("topic {topic}: {setting} is {found}, it must be {wanted}; {advice}")]
    TopicSetting { topic: String, setting: String, found: String, wanted: String, advice: String },
    /// The topic or directory has records but no identity.
    #[error("{log} has records but no log_id: {reason}")]
    NoLogId { log: String, reason: String },
    /// It must exist, and does not.
    #[error("there is no {log}: name another --log, --log-topic-prefix or --log-dir")]
    Missing { log: String },
    #[error("--kafka-property {name} is refused: {reason}")]
    Property { name: String, reason: String },
    #[error("the log cannot be reached: {0}")]
    Unavailable(String),
    #[error("the embedded log in {} cannot be opened: {reason}", path.display())]
    Storage { path: PathBuf, reason: String },
}
