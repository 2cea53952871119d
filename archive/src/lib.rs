//! The archive: what lies in the bucket, how it is written and read back. FORMAT.md is its contract.
//!
//! Nothing here decides anything: the [`archiver`](../archiver) folds the log and says what to write,
//! this crate knows the bytes. Writers are synchronous and go to a scratch file, so that no object is
//! whole in memory; [`Archive::create`] uploads it, only if nothing is there.

pub mod base;
pub mod compaction;
mod config;
pub mod erasure;
mod error;
pub mod expired;
mod gcs;
pub mod history;
pub mod manifest;
pub mod message_line;
pub mod object;
pub mod path;
pub mod period;
pub mod redaction;
pub mod replay;
pub mod restoration;
pub mod segment;
pub mod standing;
mod store;
pub mod table;
mod total;
pub mod unlisted;
pub mod verify;

pub use config::{ArchiveAddress, ArchiveConfig, InvalidArchiveAddress};
pub use error::{ArchiveError, Damage};
pub use gcs::{InvalidKmsKey, KmsKey, StorageClass};
pub use store::{Archive, ObjectStream};
