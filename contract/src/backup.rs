//! A backup, as the wire contract shows it.

use model::{ScopeKey, ScopeKind, Timestamp};
use readmodel::catalogue::BackupRow;
use serde::Serialize;

/// The founding fields and what goes beyond; null where a backup is not completed.
#[derive(Debug, Serialize)]
pub struct Backup<'a> {
    id: String,
    tenant_id: &'a str,
    scope_type: ScopeKind,
    scope_id: &'a str,
    backup_type: &'static str,
    gcs_path: Option<&'a str>,
    size_bytes: Option<u64>,
    record_count: Option<u64>,
    checksum: Option<&'a str>,
    status: &'static str,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    cursor_first: Option<u64>,
    cursor_last: Option<u64>,
    digest: Option<&'a str>,
    verified_at: Option<Timestamp>,
}

impl<'a> Backup<'a> {
    pub fn new(scope: &'a ScopeKey, row: &'a BackupRow) -> Self {
        let object = row.object.as_ref();
        Self {
            id: row.id.to_string(),
            tenant_id: scope.tenant.as_str(),
            scope_type: scope.kind,
            scope_id: scope.name.as_str(),
            backup_type: row.backup_type.as_str(),
            gcs_path: object.map(|object| object.gcs_path.as_str()),
            size_bytes: object.map(|object| object.size_bytes),
            record_count: object.map(|object| object.record_count),
            checksum: object.map(|object| object.checksum.as_str()),
            status: row.status.as_str(),
            created_at: row.created_at,
            completed_at: object.map(|object| object.completed_at),
            expires_at: row.expires_at,
            cursor_first: object.map(|object| object.cursor_first),
            cursor_last: object.map(|object| object.cursor_last),
            digest: object.map(|object| object.digest.as_str()),
            verified_at: row.verified_at,
        }
    }
}
