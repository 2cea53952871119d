//! A restore, as the wire contract shows it.

use model::{RestoreCounts, RestoreId, RestoreMode, Timestamp};
use readmodel::restores::{RestoreRow, RestoreState, RestoredBackup};
use serde::Serialize;

/// What a restore came to so far.
#[derive(Debug, Serialize)]
pub struct Restore<'a> {
    restored: u64,
    skipped: u64,
    mode: RestoreMode,
    backup: Backup,
    /// Null of a dry run: nothing runs.
    restore_id: Option<RestoreId>,
    status: Option<&'static str>,
    deleted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Backup {
    id: String,
    created_at: Option<Timestamp>,
    record_count: Option<u64>,
}

impl Backup {
    fn new(backup: &RestoredBackup) -> Self {
        let RestoredBackup { id, created_at, record_count } = *backup;
        Self { id: id.to_string(), created_at, record_count }
    }
}

impl<'a> Restore<'a> {
    pub fn new(row: &'a RestoreRow) -> Self {
        let (code, detail) = match &row.state {
            RestoreState::Failed { code, detail } => (Some(code.as_str()), Some(detail.as_str())),
            RestoreState::Running | RestoreState::Completed => (None, None),
        };
        Self {
            restore_id: Some(row.id),
            status: Some(row.state.as_str()),
            code,
            detail,
            ..Self::dry_run(row.mode, row.counts, &row.backup)
        }
    }

    /// What one would come to.
    pub fn dry_run(mode: RestoreMode, counts: RestoreCounts, backup: &RestoredBackup) -> Self {
        Self {
            restored: counts.restored,
            skipped: counts.skipped,
            mode,
            backup: Backup::new(backup),
            restore_id: None,
            status: None,
            deleted: counts.deleted,
            code: None,
            detail: None,
        }
    }
}
