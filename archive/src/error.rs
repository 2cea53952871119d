//! What can go wrong with an archive, by what the caller can do about it.

use std::{io, sync::Arc};

/// An operation on the archive failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Try again: the store is down, busy or full, or refuses now.
    #[error("the archive cannot be used now: {0}")]
    Unavailable(Arc<object_store::Error>),

    #[error("{path} is not in the archive")]
    NotFound { path: String },

    /// Never overwritten: somebody must look.
    #[error("{path} is in the archive with other content than the log gives")]
    OtherContent { path: String },

    /// What is there is not what was written.
    #[error("{path} is damaged: {damage}")]
    Damaged { path: String, damage: Damage },

    /// The scratch file, on the local disk.
    #[error("the scratch file cannot be written: {0}")]
    Scratch(Arc<io::Error>),

    #[error("the archive cannot be opened: {0}")]
    Open(String),
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it has sha256 {found}, its manifest says {expected}")]
    Checksum { expected: String, found: String },
    #[error("it has {found} bytes, its manifest says {expected}")]
    Size { expected: u64, found: u64 },
    #[error("it does not unpack: {0}")]
    Gzip(String),
    #[error("line {line} {problem}")]
    Line { line: u64, problem: String },
    #[error("{0}")]
    Content(String),
}

impl ArchiveError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Scratch(_))
    }

    pub(crate) fn damaged(path: impl Into<String>, damage: Damage) -> Self {
        Self::Damaged { path: path.into(), damage }
    }

    pub(crate) fn content(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::damaged(path, Damage::Content(problem.into()))
    }
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Scratch(Arc::new(error))
    }
}

impl From<object_store::Error> for ArchiveError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::NotFound { path },
            error => Self::Unavailable(Arc::new(error)),
        }
    }
}
