//! Why the cache cannot be used.

#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("the archiver's cache cannot be used: {0}")]
    Storage(String),
    /// Removing it is safe: it is made again from the log.
    #[error("the archiver's cache is damaged: {0}")]
    Damaged(String),
}

macro_rules! storage_error {
    ($($error:ty),*) => {
        $(impl From<$error> for CacheError {
            fn from(error: $error) -> Self {
                Self::Storage(error.to_string())
            }
        })*
    };
}
storage_error!(redb::TransactionError, redb::CommitError, redb::SetDurabilityError);

impl From<redb::StorageError> for CacheError {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Corrupted(problem) => Self::Damaged(problem),
            error => Self::Storage(error.to_string()),
        }
    }
}

impl From<redb::DatabaseError> for CacheError {
    fn from(error: redb::DatabaseError) -> Self {
        match &error {
            redb::DatabaseError::RepairAborted | redb::DatabaseError::UpgradeRequired(_) => {
                Self::Damaged(error.to_string())
            }
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)) => {
                Self::Damaged(error.to_string())
            }
            // Another process has it open, say.
            _ => Self::Storage(error.to_string()),
        }
    }
}

impl From<redb::TableError> for CacheError {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => error.into(),
            // Another version's.
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<serde_json::Error> for CacheError {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}
