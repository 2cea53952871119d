//! The archiver's facts as Avro has them, field by field, and their way to and from the model.

use model::{
    AboutBackup, BackupId, BackupRecord, BackupType, CommandId, Cursor, Digest, DrillId,
    DrillRecord, ErasedFrom, Fact, ScopeKey, ScopeKind, ScopeName, TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::wire::{Bytes32, InvalidField};

#[derive(Serialize, Deserialize)]
pub(crate) struct BackupCompleted {
    backup_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    backup_type: BackupType,
    path: String,
    size_bytes: i64,
    record_count: i64,
    checksum: Bytes32,
    created_at: i64,
    completed_at: i64,
    expires_at: Option<i64>,
    cursor_first: i64,
    cursor_last: i64,
    digest: Bytes32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BackupFailed {
    backup_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    backup_type: BackupType,
    at: i64,
    detail: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BackupVerified {
    backup_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    at: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BackupExpired {
    backup_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    at: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ErasureDone {
    erasure_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    cursor: i64,
    from: ErasedFrom,
    at: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct DrillCompleted {
    drill_id: Uuid,
    at: i64,
    scopes: i64,
    failures: Vec<DrillFailure>,
}

#[derive(Serialize, Deserialize)]
struct DrillFailure {
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    backup_id: Uuid,
    problem: String,
}

fn scope(tenant: &str, kind: ScopeKind, name: &str) -> Result<ScopeKey, InvalidField> {
    Ok(ScopeKey {
        tenant: TenantId::new(tenant).map_err(|_| InvalidField::Name)?,
        kind,
        name: ScopeName::new(name).map_err(|_| InvalidField::Name)?,
    })
}

fn number(number: i64) -> Result<u64, InvalidField> {
    u64::try_from(number).map_err(|_| InvalidField::Negative)
}

impl BackupCompleted {
    pub(crate) fn new(backup: &BackupRecord) -> Self {
        Self {
            backup_id: backup.id.0,
            tenant_id: backup.scope.tenant.to_string(),
            scope_type: backup.scope.kind,
            scope_id: backup.scope.name.to_string(),
            backup_type: backup.backup_type,
            path: backup.path.clone(),
            size_bytes: backup.size_bytes as i64,
            record_count: backup.record_count as i64,
            checksum: Bytes32(backup.checksum),
            created_at: backup.created_at.as_micros(),
            completed_at: backup.completed_at.as_micros(),
            expires_at: backup.expires_at.map(Timestamp::as_micros),
            cursor_first: backup.cursor_first.as_i64(),
            cursor_last: backup.cursor_last.as_i64(),
            digest: Bytes32(backup.digest.to_bytes()),
        }
    }

    pub(crate) fn into_record(self) -> Result<BackupRecord, InvalidField> {
        Ok(BackupRecord {
            id: BackupId(self.backup_id),
            scope: scope(&self.tenant_id, self.scope_type, &self.scope_id)?,
            backup_type: self.backup_type,
            path: self.path,
            size_bytes: number(self.size_bytes)?,
            record_count: number(self.record_count)?,
            checksum: self.checksum.0,
            created_at: Timestamp::from_micros(self.created_at),
            completed_at: Timestamp::from_micros(self.completed_at),
            expires_at: self.expires_at.map(Timestamp::from_micros),
            cursor_first: Cursor::from_i64(number(self.cursor_first)? as i64),
            cursor_last: Cursor::from_i64(number(self.cursor_last)? as i64),
            digest: Digest::from_bytes(&self.digest.0),
        })
    }
}

impl BackupFailed {
    pub(crate) fn new(about: &AboutBackup, backup_type: BackupType, detail: &str) -> Self {
        Self {
            backup_id: about.id.0,
            tenant_id: about.scope.tenant.to_string(),
            scope_type: about.scope.kind,
            scope_id: about.scope.name.to_string(),
            backup_type,
            at: about.at.as_micros(),
            detail: detail.to_owned(),
        }
    }

    pub(crate) fn into_fact(self) -> Result<Fact, InvalidField> {
        let about = AboutBackup {
            id: BackupId(self.backup_id),
            scope: scope(&self.tenant_id, self.scope_type, &self.scope_id)?,
            at: Timestamp::from_micros(self.at),
        };
        Ok(Fact::BackupFailed { about, backup_type: self.backup_type, detail: self.detail })
    }
}

impl DrillCompleted {
    pub(crate) fn new(drill: &DrillRecord) -> Self {
        let failure = |failure: &model::DrillFailure| DrillFailure {
            tenant_id: failure.scope.tenant.to_string(),
            scope_type: failure.scope.kind,
            scope_id: failure.scope.name.to_string(),
            backup_id: failure.backup.0,
            problem: failure.problem.clone(),
        };
        Self {
            drill_id: drill.id.0,
            at: drill.at.as_micros(),
            scopes: drill.scopes as i64,
            failures: drill.failures.iter().map(failure).collect(),
        }
    }

    pub(crate) fn into_record(self) -> Result<DrillRecord, InvalidField> {
        let failure = |failure: DrillFailure| {
            Ok(model::DrillFailure {
                scope: scope(&failure.tenant_id, failure.scope_type, &failure.scope_id)?,
                backup: BackupId(failure.backup_id),
                problem: failure.problem,
            })
        };
        Ok(DrillRecord {
            id: DrillId(self.drill_id),
            at: Timestamp::from_micros(self.at),
            scopes: number(self.scopes)?,
            failures: self.failures.into_iter().map(failure).collect::<Result<_, _>>()?,
        })
    }
}

impl ErasureDone {
    pub(crate) fn new(done: &model::ErasureDone) -> Self {
        Self {
            erasure_id: done.erasure.0,
            tenant_id: done.scope.tenant.to_string(),
            scope_type: done.scope.kind,
            scope_id: done.scope.name.to_string(),
            cursor: done.cursor.as_i64(),
            from: done.from,
            at: done.at.as_micros(),
        }
    }

    pub(crate) fn into_record(self) -> Result<model::ErasureDone, InvalidField> {
        Ok(model::ErasureDone {
            erasure: CommandId(self.erasure_id),
            scope: scope(&self.tenant_id, self.scope_type, &self.scope_id)?,
            cursor: Cursor::from_i64(number(self.cursor)? as i64),
            from: self.from,
            at: Timestamp::from_micros(self.at),
        })
    }
}

/// Avro has no inheritance: both records are the same but for their names.
macro_rules! about {
    ($fact:ident) => {
        impl $fact {
            pub(crate) fn new(about: &AboutBackup) -> Self {
                Self {
                    backup_id: about.id.0,
                    tenant_id: about.scope.tenant.to_string(),
                    scope_type: about.scope.kind,
                    scope_id: about.scope.name.to_string(),
                    at: about.at.as_micros(),
                }
            }

            pub(crate) fn into_about(self) -> Result<AboutBackup, InvalidField> {
                Ok(AboutBackup {
                    id: BackupId(self.backup_id),
                    scope: scope(&self.tenant_id, self.scope_type, &self.scope_id)?,
                    at: Timestamp::from_micros(self.at),
                })
            }
        }
    };
}

about!(BackupVerified);
about!(BackupExpired);
