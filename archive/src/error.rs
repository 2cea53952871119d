//! What can go wrong with an archive, by what the caller can do about it.

use std::{error::Error, io, sync::Arc};

/// An operation on the archive failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Try again: the store is down, busy or full.
    #[error("the archive cannot be used now: {0}")]
    Unavailable(Arc<object_store::Error>),

    /// An operator must give the credentials, or the permission.
    #[error("the archive refuses these credentials, or what they may do: {0}")]
    Refused(Arc<object_store::Error>),

    /// An operator must make the bucket, or name another.
    #[error("the archive's bucket is missing: {0}")]
    NoBucket(Arc<object_store::Error>),

    #[error("{path} is not in the archive")]
    NotFound { path: String },

    /// Never overwritten: somebody must look.
    #[error("{path} is in the archive with other content than the log gives")]
    OtherContent { path: String },

    /// What is there is not what was written.
    #[error("{path} is damaged: {damage}")]
    Damaged { path: String, damage: Damage },

    /// A backup was asked for inside a gap: what the scope held there, nobody knows any more.
    #[error(
        "the log lost events before offset {offset} that were not archived: ask again for a backup"
    )]
    Gone { offset: u64 },

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
        matches!(self, Self::Unavailable(_) | Self::Scratch(_)) || self.needs_operator()
    }

    /// Whether it can succeed later only if somebody mends the settings: there is no hurry to try again.
    pub fn needs_operator(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NoBucket(_))
    }

    /// Of a write, which asks for nothing that could be missing: another writer took an upload away, say.
    pub(crate) fn of_write(error: object_store::Error) -> Self {
        match Self::from(error) {
            Self::NotFound { path } => Self::contradiction(path),
            error => error,
        }
    }

    /// The store says that an object is there, and that it is not.
    pub(crate) fn contradiction(path: String) -> Self {
        let source = "it was there a moment ago".into();
        Self::Unavailable(Arc::new(object_store::Error::NotFound { path, source }))
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
        use object_store::Error as Store;
        match error {
            error if lacks_bucket(&error) => Self::NoBucket(Arc::new(error)),
            Store::NotFound { path, .. } => Self::NotFound { path },
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
                Self::Refused(Arc::new(error))
            }
            error if is_refused(&error) => Self::Refused(Arc::new(error)),
            error => Self::Unavailable(Arc::new(error)),
        }
    }
}

/// The store's answer says so; object_store keeps it as text alone.
fn lacks_bucket(error: &object_store::Error) -> bool {
    says(error, "<Code>NoSuchBucket</Code>")
}

/// By the disk, or by a bucket that is listed, whose answer object_store keeps as text alone.
fn is_refused(error: &object_store::Error) -> bool {
    let kind = causes(error).find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    matches!(kind, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem))
        || says(error, "status code: 401")
        || says(error, "status code: 403")
}

fn says(error: &object_store::Error, text: &str) -> bool {
    causes(error).any(|cause| cause.to_string().contains(text))
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_disk(kind: io::ErrorKind) -> ArchiveError {
        let source = Box::new(io::Error::from(kind));
        object_store::Error::Generic { store: "disk", source }.into()
    }

    #[test]
    fn what_the_disk_refuses_is_told_apart_from_what_it_has_no_room_for() {
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            assert!(of_disk(kind).needs_operator(), "{kind}");
        }
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::Other]
        {
            assert!(of_disk(kind).is_retryable() && !of_disk(kind).needs_operator(), "{kind}");
        }
    }
}
