//! Which archive, and how: flags and their environment variables.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::gcs::{KmsKey, StorageClass};

/// The archive.
#[derive(clap::Args, Clone, Debug)]
pub struct ArchiveConfig {
    /// Where backups go: file:///DIRECTORY or gs://BUCKET[/PREFIX]. Credentials of a bucket come from
    /// GOOGLE_APPLICATION_CREDENTIALS, gcloud's login or the machine's service account.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE", value_name = "URL")]
    pub archive: Option<ArchiveAddress>,

    /// The store's own address, where it is not Google's (an emulator); nothing is signed then.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_ENDPOINT", value_name = "URL")]
    pub archive_endpoint: Option<String>,

    /// Where unfinished objects are kept on the local disk; the system's temporary directory where none
    /// is named.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_SCRATCH", value_name = "DIRECTORY")]
    pub archive_scratch: Option<PathBuf>,

    /// Storage class of new objects in a bucket; the bucket's own where none is named.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_STORAGE_CLASS", value_name = "CLASS")]
    pub archive_storage_class: Option<StorageClass>,

    /// Cloud KMS key that new objects in a bucket are encrypted with
    /// (projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY); the bucket's own where none is named.
    #[arg(long, env = "CONTEXT_SYNC_ARCHIVE_KMS_KEY", value_name = "KEY")]
    pub archive_kms_key: Option<KmsKey>,
}

impl ArchiveConfig {
    /// The defaults, for an archive at `archive`.
    pub fn new(archive: ArchiveAddress) -> Self {
        Self {
            archive: Some(archive),
            archive_endpoint: None,
            archive_scratch: None,
            archive_storage_class: None,
            archive_kms_key: None,
        }
    }
}

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveAddress {
    /// An absolute directory.
    File(PathBuf),
    /// A bucket, and what the objects' names begin with (empty, or without slashes at its ends).
    Gcs { bucket: String, prefix: String },
}

/// The text is no archive address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected file:///DIRECTORY or gs://BUCKET[/PREFIX]")]
pub struct InvalidArchiveAddress;

impl FromStr for ArchiveAddress {
    type Err = InvalidArchiveAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(directory) = text.strip_prefix("file://") {
            let directory = PathBuf::from(directory);
            return if directory.is_absolute() {
                Ok(Self::File(directory))
            } else {
                Err(InvalidArchiveAddress)
            };
        }
        let rest = text.strip_prefix("gs://").ok_or(InvalidArchiveAddress)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/').to_owned();
        let is_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if bucket.len() < 3 || !bucket.bytes().all(is_bucket) || prefix.contains("//") {
            return Err(InvalidArchiveAddress);
        }
        Ok(Self::Gcs { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for ArchiveAddress {
    /// Without a slash at its end: an object's URL is this, a slash, and its path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(directory) => {
                let directory = directory.to_string_lossy();
                write!(f, "file://{}", directory.trim_end_matches('/'))
            }
            Self::Gcs { bucket, prefix } if prefix.is_empty() => write!(f, "gs://{bucket}"),
            Self::Gcs { bucket, prefix } => write!(f, "gs://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            ("file:///var/archive", "file:///var/archive"),
            ("file:///var/archive/", "file:///var/archive"),
            ("gs://backups", "gs://backups"),
            ("gs://backups/", "gs://backups"),
            ("gs://context.backups-1/a/b/", "gs://context.backups-1/a/b"),
        ] {
            let address: ArchiveAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "/var", "file://var", "gs://", "gs://Bucket", "gs://b//x", "s3://bucket"] {
            assert_eq!(text.parse::<ArchiveAddress>(), Err(InvalidArchiveAddress), "{text}");
        }
    }
}
