//! The archiver's facts: what it says that it did, on a log of their own, for the catalogue to be projected from.

use std::sync::Arc;

use archive::{
    Archive, ArchiveError, expired,
    history::Names,
    manifest::{BackupObject, Header, ManifestReader, ScopeLine},
    object::{Object, Sha256Hex},
};
use bytes::Bytes;
use eventlog::EventLog;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use model::{AboutBackup, BackupRecord, Fact, Partition, Timestamp};

use crate::{
    clock::Clock,
    config::Retention,
    error::ArchiverError,
    measure::{self, DAMAGED},
};

/// The log of facts has one partition.
const FACTS: Partition = Partition::new(0);
/// Backups read back at the same time.
const READ_BACK_AT_ONCE: usize = 16;

/// Who says them.
pub(crate) struct Facts<'a> {
    pub(crate) log: &'a Arc<dyn EventLog>,
    pub(crate) archive: &'a Archive,
    pub(crate) retention: &'a Retention,
    pub(crate) clock: &'a Clock,
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
        let header = reader.header.clone();
        let lines = std::iter::from_fn(|| reader.next_scope().transpose());
        let facts = stream::iter(lines).map(|line| async {
            let line = line?;
            match line.backup.as_ref().filter(|backup| is_new(backup)) {
                Some(backup) => self.complete(&header, &line, backup, created_at).await,
                None => Ok(()),
            }
        });
        facts.buffered(READ_BACK_AT_ONCE).try_collect().await
    }

    /// Says once more of each backup of a manifest that is new with it that it is there, or that it has expired. How
    /// many there are.
    pub(crate) async fn tell_again(
        &self,
        path: &str,
        names: &Names,
        created_at: Timestamp,
        is_new: impl Fn(&BackupObject) -> bool,
    ) -> Result<u64, ArchiverError> {
        let mut reader = ManifestReader::new(self.archive.fetch(path).await?, path)?;
        let header = reader.header.clone();
        let lines = std::iter::from_fn(|| reader.next_scope().transpose());
        let told = stream::iter(lines).map(|line| async {
            let line = line?;
            let Some(backup) = line.backup.as_ref().filter(|backup| is_new(backup)) else {
                return Ok::<_, ArchiverError>(0);
            };
            let (kind, length) = (line.scope.kind, header.period_seconds);
            if expired::has(self.archive, names, kind, backup, length).await? {
                let at = self.clock.now();
                let about = AboutBackup { id: backup.id, scope: line.scope.clone(), at };
                // Whoever asks for its moment must hear that it was there.
                self.say(&Fact::BackupCompleted(self.record(&line, backup, created_at))).await?;
                self.say(&Fact::BackupExpired(about)).await?;
            } else {
                self.complete(&header, &line, backup, created_at).await?;
            }
            Ok(1)
        });
        told.buffered(READ_BACK_AT_ONCE).try_fold(0, async |sum, one| Ok(sum + one)).await
    }

    fn record(
        &self,
        line: &ScopeLine,
        backup: &BackupObject,
        created_at: Timestamp,
    ) -> BackupRecord {
        BackupRecord {
            id: backup.id,
            scope: line.scope.clone(),
            backup_type: backup.backup_type,
            path: self.archive.url(&backup.path),
            size_bytes: backup.size_bytes,
            record_count: backup.record_count,
            checksum: bytes32(&backup.sha256),
            created_at,
            completed_at: self.clock.now(),
            expires_at: self.retention.expires_at(backup.backup_type, line.scope.kind, created_at),
            cursor_first: backup.cursor_first,
            cursor_last: backup.cursor_last,
            digest: line.digest,
        }
    }

    async fn complete(
        &self,
        header: &Header,
        line: &ScopeLine,
        backup: &BackupObject,
        created_at: Timestamp,
    ) -> Result<(), ArchiverError> {
        let expires_at = self.retention.expires_at(backup.backup_type, line.scope.kind, created_at);
        let now = self.clock.now();
        let is_well = match self.archive.fetch_checked(&backup.path, &backup.sha256).await {
            Ok(_) => true,
            // A log that is folded anew goes past backups that have had their time.
            Err(ArchiveError::NotFound { .. })
                if expires_at.is_some_and(|at| at < now)
                    || self.has_expired(header, line, backup).await? =>
            {
                return Ok(());
            }
            // One object must not end the archiving of all others: whoever verifies finds it too.
            Err(error @ (ArchiveError::NotFound { .. } | ArchiveError::Damaged { .. })) => {
                tracing::error!(%error, backup = %backup.id, "a backup is not what was written");
                metrics::counter!(DAMAGED).increment(1);
                measure::backup_ended(false);
                false
            }
            Err(error) => return Err(error.into()),
        };
        let record = self.record(line, backup, created_at);
        // It was completed before it was found to be well.
        let at = record.completed_at;
        let about = AboutBackup { id: backup.id, scope: line.scope.clone(), at };
        if !is_well {
            return self.say(&Fact::BackupCompleted(record)).await;
        }
        measure::backup_ended(true);
        // Both are queued, in this order, before the first is waited for.
        let (completed, verified) = (Fact::BackupCompleted(record), Fact::BackupVerified(about));
        future::try_join(self.say(&completed), self.say(&verified)).await.map(|_| ())
    }

    /// Whether a record says so: it was kept for a shorter time then.
    async fn has_expired(
        &self,
        header: &Header,
        line: &ScopeLine,
        backup: &BackupObject,
    ) -> Result<bool, ArchiveError> {
        let names = Names::list(self.archive, header.log_id, header.partition).await?;
        let (kind, length) = (line.scope.kind, header.period_seconds);
        expired::has(self.archive, &names, kind, backup, length).await
    }

    pub(crate) async fn say(&self, fact: &Fact) -> Result<(), ArchiverError> {
        let value = schemas::encode_fact(fact)
            .map_err(|error| ArchiverError::Unencodable(error.to_string()))?;
        self.log.append_to(FACTS, Bytes::new(), Bytes::from(value)).await?;
        Ok(())
    }
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
