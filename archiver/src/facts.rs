//! The archiver's facts: what it says that it did, on a log of their own, for the catalogue to be projected from.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use archive::{
    Archive,
    manifest::{BackupObject, ManifestReader, ScopeLine},
    object::{Object, Sha256Hex},
};
use bytes::Bytes;
use eventlog::EventLog;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{AboutBackup, BackupRecord, Fact, Partition, Timestamp};

use crate::{config::Retention, error::ArchiverError};

/// The log of facts has one partition.
const FACTS: Partition = Partition::new(0);
/// Backups read back at the same time.
const READ_BACK_AT_ONCE: usize = 32;

/// Who says them.
pub(crate) struct Facts<'a> {
    pub(crate) log: &'a Arc<dyn EventLog>,
    pub(crate) archive: &'a Archive,
    pub(crate) retention: &'a Retention,
}

impl Facts<'_> {
    /// Says of each backup of a manifest that is new with it that it is there, once it was read back.
    /// `created_at`: the moment that they show.
    pub(crate) async fn completed(
        &self,
        manifest: Object,
        path: &str,
        created_at: Timestamp,
        is_new: impl Fn(&BackupObject) -> bool,
    ) -> Result<(), ArchiverError> {
        let mut reader = ManifestReader::new(manifest, path)?;
        let lines = std::iter::from_fn(|| reader.next_scope().transpose());
        let facts = stream::iter(lines).map(|line| async {
            let line = line?;
            match line.backup.as_ref().filter(|backup| is_new(backup)) {
                Some(backup) => self.complete(&line, backup, created_at).await,
                None => Ok(()),
            }
        });
        facts.buffered(READ_BACK_AT_ONCE).try_collect().await
    }

    async fn complete(
        &self,
        line: &ScopeLine,
        backup: &BackupObject,
        created_at: Timestamp,
    ) -> Result<(), ArchiverError> {
        self.archive.fetch_checked(&backup.path, &backup.sha256).await?;
        let now = now();
        let record = BackupRecord {
            id: backup.id,
            scope: line.scope.clone(),
            backup_type: backup.backup_type,
            path: self.archive.url(&backup.path),
            size_bytes: backup.size_bytes,
            record_count: backup.record_count,
            checksum: bytes32(&backup.sha256),
            created_at,
            completed_at: now,
            expires_at: self.retention.expires_at(backup.backup_type, line.scope.kind, created_at),
            cursor_first: backup.cursor_first,
            cursor_last: backup.cursor_last,
            digest: line.digest,
        };
        let about = AboutBackup { id: backup.id, scope: line.scope.clone(), at: now };
        // Both are queued, in this order, before the first is waited for.
        let completed = self.say(&Fact::BackupCompleted(record));
        let verified = self.say(&Fact::BackupVerified(about));
        futures_util::try_join!(completed, verified).map(|_| ())
    }

    pub(crate) async fn say(&self, fact: &Fact) -> Result<(), ArchiverError> {
        let value =
            schemas::encode_fact(fact).map_err(|error| ArchiverError::Task(error.to_string()))?;
        self.log.append_to(FACTS, Bytes::new(), Bytes::from(value)).await?;
        Ok(())
    }
}

/// By this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A hash that this build wrote, or whose object was just read.
fn bytes32(hash: &Sha256Hex) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(hash.0.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    bytes
}
