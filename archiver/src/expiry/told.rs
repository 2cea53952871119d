//! What is said of an expiry, and to whom.

use std::time::Duration;

use archive::expired::ExpiredBackup;
use model::{BackupId, BackupType, Cursor};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{cache::OldTombstones, upkeep::Expiring};

/// How long a line waits for who listens: they may have stopped reading without having gone.
pub(crate) const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// A backup that is over its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overdue {
    /// `tenant/kind/name`.
    pub scope: String,
    pub id: BackupId,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    pub path: String,
    pub size_bytes: u64,
    #[serde(flatten)]
    pub fate: Fate,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    Goes,
    Stays { why: Stays },
}

/// Why a backup that is over its time stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stays {
    #[error("the scope's newest full")]
    NewestFull,
    /// It goes with the last manifest that lists it.
    #[error("a later day's full too: the scope had not changed")]
    CarriedOn,
    /// Who folds it from its first event, to check the rows or to make them again, goes on from this.
    #[error("the log was recovered, and begins with it")]
    LogBegins,
    #[error("no full has what is in it")]
    NotCovered,
    #[error("the newest full is not good: {0}")]
    NewestFullDamaged(String),
    #[error("a running restore needs it")]
    Restoring,
    /// A hold on the object, or a policy of the bucket; or nobody gave the permission.
    #[error("the bucket refuses to delete it: {0}")]
    Refused(String),
}

/// What an expiry came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Backups that went, or would go.
    pub expired: u64,
    /// Of their objects.
    pub bytes: u64,
    /// Backups over their time that stay.
    pub stays: u64,
    /// Tombstones that went, or would go.
    pub tombstones: u64,
}

/// Tombstones of a scope that are over their time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// `tenant/kind/name`.
    pub scope: String,
    /// The cursor of the last of them: the scope's floor, once they are gone.
    pub up_to: Cursor,
    pub tombstones: u64,
}

/// Who is told of each backup, and of tombstones.
#[derive(Default)]
pub(crate) struct Told {
    to: Option<mpsc::Sender<Expiring>>,
    pub(super) summary: Summary,
}

impl Told {
    pub(crate) fn to(to: mpsc::Sender<Expiring>) -> Self {
        Self { to: Some(to), summary: Summary::default() }
    }

    pub(super) async fn tell(&mut self, backup: ExpiredBackup, fate: Fate) {
        match &fate {
            Fate::Goes => {
                self.summary.expired += 1;
                self.summary.bytes += backup.size_bytes;
            }
            Fate::Stays { .. } => self.summary.stays += 1,
        }
        if self.to.is_none() {
            return;
        }
        let ExpiredBackup { scope, id, backup_type, path, size_bytes, .. } = backup;
        let scope = scope.to_string();
        let overdue = Overdue { scope, id, backup_type, path, size_bytes, fate };
        self.say(Expiring::Overdue(overdue)).await;
    }

    /// Who asked may have gone, or have stopped reading: what is due is due, and nothing else of the upkeep waits for them.
    pub(crate) async fn say(&mut self, line: Expiring) {
        let Some(to) = &self.to else { return };
        if to.send_timeout(line, LISTENS_WITHIN).await.is_err() {
            self.to = None;
        }
    }

    pub(crate) async fn tell_tombstones(&mut self, old: &OldTombstones) {
        let tombstones = old.parts.iter().map(|part| part.count).sum();
        self.summary.tombstones += tombstones;
        let Some(last) = old.parts.last() else { return };
        let (scope, up_to) = (old.scope.to_string(), last.up_to);
        self.say(Expiring::Forgotten(Forgotten { scope, up_to, tombstones })).await;
    }
}
