//! Why the archiver stops.

use archive::ArchiveError;
use eventlog::{AppendError, LogError};
use model::{LogId, Offset, Partition, UnknownRules};
use readmodel::ReadModelError;

use crate::cache::CacheError;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum ArchiverError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    UnknownRules(#[from] UnknownRules),
    #[error("{0}")]
    Cache(String),
    /// It is removed, and made again.
    #[error("the archiver's cache is damaged: {0}")]
    CacheDamaged(String),
    /// A mistake of this build.
    #[error("an event cannot be encoded: {0}")]
    Unencodable(String),
    /// The log's retention removed records before they were archived.
    #[error(
        "partition {partition} begins at offset {start}, the archive needs it from {needed}: \
         the log's retention removed events that were not archived yet"
    )]
    Gap { partition: Partition, needed: Offset, start: Offset },
    /// The log's retention was faster than this reader; the next session sees what there is.
    #[error("partition {partition} begins at offset {start} by now: {needed} was being read")]
    Overtaken { partition: Partition, needed: Offset, start: Offset },
    /// It will get there: tried again.
    #[error(
        "the read model has folded partition {partition} up to {found}, the archive goes on from {needed}"
    )]
    ReadModelBehind { partition: Partition, found: Offset, needed: Offset },
    /// What is asked for needs a fold that is where the log ends.
    #[error(
        "the archive has folded partition {partition} up to {found} of {end}: ask again when it has caught up"
    )]
    Behind { partition: Partition, found: Offset, end: Offset },
    /// Another archiver was first to take the state up after a gap: the next session takes its.
    #[error("{path} was written by another archiver")]
    TakenUpElsewhere { path: String },
    #[error(transparent)]
    ReadModel(#[from] ReadModelError),
    /// What the archive has of an hour is not what the log gives.
    #[error("{path} says otherwise than the log: {problem}")]
    OtherManifest { path: String, problem: String },
    /// The archive goes on from other logs.
    #[error(
        "the archive is of log {}, this log is {log}: if that one is lost, `context-sync ops recover` links them (into an \
         empty log, before anything runs on it); else give this log an archive of its own",
        .logs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    OtherLogs { log: LogId, logs: Vec<LogId> },
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
    /// It begins with what another archive has.
    #[error(
        "log {log} goes on from log {lost}, and begins with what the archive of that has, which this one has not. Point to that one"
    )]
    NoBase { log: LogId, lost: LogId },
    #[error("a task of the archiver ended: {0}")]
    Task(String),
}

impl ArchiverError {
    /// Whether another session may do better without anyone's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Archive(error) => error.is_retryable(),
            Self::Log(LogError::OutOfRange { asked, bounds, .. }) => *asked < bounds.start,
            Self::Log(error) => error.is_retryable(),
            Self::ReadModel(error) => {
                error.is_retryable() || matches!(error, ReadModelError::NotMigrated)
            }
            Self::Append(_)
            | Self::Cache(_)
            | Self::CacheDamaged(_)
            | Self::Task(_)
            | Self::Overtaken { .. }
            | Self::ReadModelBehind { .. }
            | Self::Behind { .. }
            | Self::TakenUpElsewhere { .. } => true,
            Self::UnknownRules(_)
            | Self::Unencodable(_)
            | Self::Gap { .. }
            | Self::OtherManifest { .. }
            | Self::OtherLogs { .. }
            | Self::GivenUp { .. }
            | Self::NoBase { .. }
            | Self::Unrecovered { .. } => false,
        }
    }

    /// Whether another session does better only once somebody mended the archive's settings.
    pub(crate) fn needs_operator(&self) -> bool {
        matches!(self, Self::Archive(error) if error.needs_operator())
    }
}

impl From<CacheError> for ArchiverError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Storage(_) => Self::Cache(error.to_string()),
            CacheError::Damaged(problem) => Self::CacheDamaged(problem),
        }
    }
}
