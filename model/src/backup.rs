//! Backups and restores.

use serde::{Deserialize, Serialize};

use crate::{
    cursor::Cursor,
    hash::Digest,
    ids::{BackupId, CommandId, DrillId},
    scope::ScopeKey,
    time::Timestamp,
};

/// What a backup holds, and why it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupType {
    Incremental,
    Full,
    OnDemand,
}

impl BackupType {
    pub const ALL: [Self; 3] = [Self::Incremental, Self::Full, Self::OnDemand];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
            Self::OnDemand => "on_demand",
        }
    }
}

/// A backup that is in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRecord {
    pub id: BackupId,
    pub scope: ScopeKey,
    pub backup_type: BackupType,
    /// The object's full URL.
    pub path: String,
    pub size_bytes: u64,
    /// Live messages in it.
    pub record_count: u64,
    /// SHA-256 of the object's bytes.
    pub checksum: [u8; 32],
    /// The moment that it shows, by the log's time.
    pub created_at: Timestamp,
    pub completed_at: Timestamp,
    /// `None`: never.
    pub expires_at: Option<Timestamp>,
    pub cursor_first: Cursor,
    pub cursor_last: Cursor,
    /// The scope's, at the backup's end.
    pub digest: Digest,
}

/// What the archiver says that it did. The first of a kind about a backup counts, later ones repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    BackupCompleted(BackupRecord),
    BackupFailed {
        about: AboutBackup,
        backup_type: BackupType,
        detail: String,
    },
    BackupVerified(AboutBackup),
    BackupExpired(AboutBackup),
    DrillCompleted(DrillRecord),
    /// Nothing of what an erasure erased is left in a copy.
    ErasureDone(ErasureDone),
}

/// A copy of the log that an erasure is done in later than in the read model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErasedFrom {
    /// The scope's backups.
    Backups,
    /// The archive's tables of events and messages.
    Tables,
    /// The log itself, whose retention has removed what came before the erasure.
    Log,
}

impl ErasedFrom {
    pub const ALL: [Self; 3] = [Self::Backups, Self::Tables, Self::Log];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backups => "backups",
            Self::Tables => "tables",
            Self::Log => "log",
        }
    }
}

/// Which erasure, by its command and the cursor that it took, and where and when it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureDone {
    pub erasure: CommandId,
    pub scope: ScopeKey,
    pub cursor: Cursor,
    pub from: ErasedFrom,
    pub at: Timestamp,
}

/// A drill: the newest backups of some scopes were read, and compared with the live rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillRecord {
    pub id: DrillId,
    pub at: Timestamp,
    /// Compared.
    pub scopes: u64,
    /// Those that did not agree.
    pub failures: Vec<DrillFailure>,
}

/// A backup that is not what the live rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillFailure {
    pub scope: ScopeKey,
    pub backup: BackupId,
    pub problem: String,
}

/// Which backup, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutBackup {
    pub id: BackupId,
    pub scope: ScopeKey,
    pub at: Timestamp,
}
