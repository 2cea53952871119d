//! Backups and restores, asked for by one who may.

use std::time::Duration;

use device::problem::ClientError;
use model::{BackupId, Digest, RestoreId, RestoreMode};
use reqwest::Method;
use serde::Deserialize;

use super::{ANSWER_WITHIN, Call, Client, JSON};
use crate::device::scope::Scope;

const ASK_EVERY: Duration = Duration::from_millis(100);

/// A backup, as far as a device looks at it; null where it is not completed.
#[derive(Clone, Debug, Deserialize)]
pub struct Backup {
    pub id: BackupId,
    pub status: String,
    pub gcs_path: Option<String>,
    pub size_bytes: Option<u64>,
    pub record_count: Option<u64>,
    pub digest: Option<Digest>,
    pub verified_at: Option<String>,
}

/// What a restore came to.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Restored {
    pub restored: u64,
    pub skipped: u64,
    pub deleted: u64,
}

/// A restore that has ended, or one that still runs.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Ended(Restored),
    Running { restore_id: RestoreId },
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(flatten)]
    restored: Restored,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Backups {
    backups: Vec<Backup>,
}

impl Client {
    /// Asks for a backup of the scope, and waits until it is in the archive and was read back.
    pub async fn back_up(&self, scope: &Scope) -> Result<Backup, ClientError> {
        let path = format!("{}/backups", scope.context_path());
        let mut backup: Backup = self.post(&path, None).await?;
        while backup.verified_at.is_none() && backup.status != "failed" {
            tokio::time::sleep(ASK_EVERY).await;
            backup = self.get(&format!("{path}/{}", backup.id), ANSWER_WITHIN).await?;
        }
        Ok(backup)
    }

    /// The scope's backups, the newest first.
    pub async fn backups(&self, scope: &Scope) -> Result<Vec<Backup>, ClientError> {
        let path = format!("{}/backups", scope.context_path());
        self.get(&path, ANSWER_WITHIN).await.map(|Backups { backups }| backups)
    }

    /// Restores a backup of the scope, and waits for its end; the error of one that failed is what it says.
    pub async fn restore(
        &self,
        scope: &Scope,
        backup: BackupId,
        mode: RestoreMode,
    ) -> Result<Result<Restored, String>, ClientError> {
        let context = scope.context_path();
        let body = serde_json::json!({ "backup_id": backup, "mode": mode }).to_string();
        let answer = self.post(&format!("{context}/restore"), Some(body.into_bytes())).await?;
        let restore_id = match answer {
            Answer::Ended(restored) => return Ok(Ok(restored)),
            Answer::Running { restore_id } => restore_id,
        };
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            let path = format!("{context}/restores/{restore_id}");
            let Status { status, restored, detail } = self.get(&path, ANSWER_WITHIN).await?;
            match status.as_str() {
                "running" => {}
                "completed" => return Ok(Ok(restored)),
                _ => return Ok(Err(detail.unwrap_or(status))),
            }
        }
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let key = Some(uuid::Uuid::new_v4().to_string());
        let call =
            Call { method: Method::POST, path, body, media: JSON, key, within: ANSWER_WITHIN };
        self.send(call).await?.read(path)
    }
}
