//! Why the archiver stops.

use archive::ArchiveError;
use eventlog::{AppendError, LogError};
use model::{Offset, Partition, UnknownRules};

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
    /// Retention removed records before they were archived.
    #[error(
        "partition {partition} begins at offset {start}, the archive needs it from {needed}: \
         retention removed events that were not archived yet"
    )]
    Gap { partition: Partition, needed: Offset, start: Offset },
    /// What the archive has of an hour is not what the log gives.
    #[error("{path} says otherwise than the log: {problem}")]
    OtherManifest { path: String, problem: String },
    #[error("a task of the archiver ended: {0}")]
    Task(String),
}

impl ArchiverError {
    /// Whether another session may do better without anyone's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Archive(error) => error.is_retryable(),
            Self::Log(error) => error.is_retryable(),
            Self::Append(_) | Self::Cache(_) | Self::Task(_) => true,
            Self::UnknownRules(_) | Self::Gap { .. } | Self::OtherManifest { .. } => false,
        }
    }

    /// Whether another session does better only once somebody mended the archive's settings.
    pub(crate) fn needs_operator(&self) -> bool {
        matches!(self, Self::Archive(error) if error.needs_operator())
    }
}

impl From<CacheError> for ArchiverError {
    fn from(error: CacheError) -> Self {
        Self::Cache(error.to_string())
    }
}
