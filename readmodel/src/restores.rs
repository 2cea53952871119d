//! Restores, as they are asked for: what may be restored, and how restores stand.

use futures_util::TryStreamExt;
use model::{
    BackupId, Cursor, Heading, RestoreCounts, RestoreFailure, RestoreId, RestoreMode, Scope,
    ScopeKey, Standing, Timestamp,
};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{
    access::{AccessQuery, set_tenant, standing},
    error::ReadModelError,
    load::entry,
    pool::Pool,
};

/// What an answer says of the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredBackup {
    pub id: BackupId,
    /// The moment that it shows; `None` while the catalogue lacks the backup.
    pub created_at: Option<Timestamp>,
    /// Live messages in it; `None` likewise.
    pub record_count: Option<u64>,
}

/// A backup that may be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restorable {
    pub backup: RestoredBackup,
    /// Live messages in the state that it shows, at most: all that the objects have which it is made of. Of an
    /// incremental `record_count` is those that changed.
    pub messages_max: u64,
}

/// How a restore stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRow {
    pub id: RestoreId,
    pub mode: RestoreMode,
    pub counts: RestoreCounts,
    pub state: RestoreState,
    pub backup: RestoredBackup,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreState {
    Running,
    Completed,
    Failed { code: RestoreFailure, detail: String },
}

impl RestoreState {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A completed backup of a scope, if all that its state is made of is there (the ingest role).
pub async fn restorable(
    pool: &Pool,
    source: &ScopeKey,
    id: BackupId,
) -> Result<Option<Restorable>, ReadModelError> {
    first_restorable(pool, source, "b.id = $3", Target::Backup(id)).await
}

/// The newest scheduled backup that shows the scope at or before a moment, if all that its state is made of is
/// there (the ingest role).
pub async fn restorable_as_of(
    pool: &Pool,
    source: &ScopeKey,
    moment: Timestamp,
) -> Result<Option<Restorable>, ReadModelError> {
    let is = "b.backup_type <> 'on_demand' and b.created_at <= to_timestamp($3 / 1e6)";
    first_restorable(pool, source, is, Target::AsOf(moment)).await
}

enum Target {
    Backup(BackupId),
    AsOf(Timestamp),
}

/// What is expired is looked at too: a moment whose backup has expired must not come out as an earlier one.
///
/// The state of an incremental is made of the newest full at or before it, and of the incrementals in between; of what
/// came before an erasure that it shows, nothing is left in it.
async fn first_restorable(
    pool: &Pool,
    source: &ScopeKey,
    is: &str,
    target: Target,
) -> Result<Option<Restorable>, ReadModelError> {
    let query = sqlx::AssertSqlSafe(format!(
        "with b as (
             select b.* from context_backups b
             where b.scope = $1 and b.tenant_id = $2 and b.status = 'completed' and {is}
             order by b.created_at desc, b.backup_type = 'full' desc
             limit 1
         ), base as (
             select coalesce(max(f.created_at), '-infinity') as created_at
             from context_backups f, b
             where f.scope = $1 and f.backup_type = 'full' and f.status = 'completed' and f.created_at <= b.created_at
         )
         select b.id, (extract(epoch from b.created_at) * 1000000)::bigint as created, b.record_count,
             case b.backup_type when 'incremental' then (
                 select coalesce(sum(part.record_count), 0)::bigint from context_backups part
                 where part.scope = $1 and part.status = 'completed'
                     and (part.backup_type = 'full' and part.created_at = base.created_at
                         or part.backup_type = 'incremental' and part.created_at > base.created_at
                             and part.created_at <= b.created_at)
             ) else b.record_count end as messages_max
         from b, base
         where b.expired_at is null and (b.backup_type <> 'incremental' or not exists (
             select from context_backups part
             where part.scope = $1 and part.expired_at is not null
                 and not exists (
                     select from scopes s
                     where s.scope = $1 and part.cursor_last < s.erased and s.erased <= b.cursor_last)
                 and (part.backup_type = 'full' and part.created_at = base.created_at
                     or part.backup_type = 'incremental' and part.created_at > base.created_at
                         and part.created_at <= b.created_at)))"
    ));
    let query = sqlx::query_as::<_, (Uuid, i64, i64, i64)>(query)
        .bind(source.reference().0)
        .bind(source.tenant.as_str());
    let query = match target {
        Target::Backup(id) => query.bind(id.0),
        Target::AsOf(moment) => query.bind(moment.as_micros()),
    };
    let row = query.fetch_optional(pool).await?;
    Ok(row.map(|(id, created, count, messages_max)| Restorable {
        backup: restored_backup(id, Some(created), Some(count)),
        messages_max: messages_max.unsigned_abs(),
    }))
}

fn restored_backup(id: Uuid, created: Option<i64>, record_count: Option<i64>) -> RestoredBackup {
    RestoredBackup {
        id: BackupId(id),
        created_at: created.map(Timestamp::from_micros),
        record_count: record_count.map(i64::unsigned_abs),
    }
}

#[derive(FromRow)]
struct Row {
    mode: String,
    status: String,
    restored: i64,
    skipped: i64,
    deleted: i64,
    code: Option<String>,
    detail: Option<String>,
    backup_id: Uuid,
    created: Option<i64>,
    record_count: Option<i64>,
}

/// How a restore of the scope stands; `None` if there is none with this id (the ingest role).
pub async fn get(
    pool: &Pool,
    scope: &ScopeKey,
    id: RestoreId,
) -> Result<Option<RestoreRow>, ReadModelError> {
    row(pool, scope, id).await
}

/// The restore of a scope that is running (the ingest role).
pub async fn running(pool: &Pool, scope: &ScopeKey) -> Result<Option<RestoreId>, ReadModelError> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "select id from restores where scope = $1 and tenant_id = $2 and status = 'running' limit 1",
    )
    .bind(scope.reference().0)
    .bind(scope.tenant.as_str())
    .fetch_optional(pool)
    .await?;
    Ok(id.map(RestoreId))
}

/// As [`get`], and the asker's standing (the api role).
pub async fn get_for(
    pool: &Pool,
    asked: &AccessQuery,
    id: RestoreId,
) -> Result<(Standing, Option<RestoreRow>), ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asked.scope.tenant).await?;
    let standing = standing(&mut transaction, asked).await?;
    let row = row(&mut *transaction, &asked.scope, id).await?;
    transaction.commit().await?;
    Ok((standing, row))
}

async fn row(
    connection: impl PgExecutor<'_>,
    scope: &ScopeKey,
    id: RestoreId,
) -> Result<Option<RestoreRow>, ReadModelError> {
    let row: Option<Row> = sqlx::query_as(
        "select r.mode, r.status, r.restored, r.skipped, r.deleted, r.code, r.detail, r.backup_id,
             (extract(epoch from b.created_at) * 1000000)::bigint as created, b.record_count
         from restores r left join context_backups b on b.id = r.backup_id and b.tenant_id = r.tenant_id
         where r.id = $1 and r.scope = $2 and r.tenant_id = $3",
    )
    .bind(id.0)
    .bind(scope.reference().0)
    .bind(scope.tenant.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|row| row.read(id)).transpose()
}

impl Row {
    fn read(self, id: RestoreId) -> Result<RestoreRow, ReadModelError> {
        let damaged =
            |what: &str| ReadModelError::Damaged(format!("a restore's {what} is unknown"));
        let mode = RestoreMode::ALL.into_iter().find(|mode| mode.as_str() == self.mode);
        let failure = |code: &str| RestoreFailure::ALL.into_iter().find(|it| it.as_str() == code);
        let state = match self.status.as_str() {
            "running" => RestoreState::Running,
            "completed" => RestoreState::Completed,
            "failed" => RestoreState::Failed {
                code: self.code.as_deref().and_then(failure).ok_or_else(|| damaged("code"))?,
                detail: self.detail.unwrap_or_default(),
            },
            _ => return Err(damaged("status")),
        };
        Ok(RestoreRow {
            id,
            mode: mode.ok_or_else(|| damaged("mode"))?,
            counts: RestoreCounts {
                restored: self.restored.unsigned_abs(),
                skipped: self.skipped.unsigned_abs(),
                deleted: self.deleted.unsigned_abs(),
            },
            state,
            backup: restored_backup(self.backup_id, self.created, self.record_count),
        })
    }
}

/// All that the fold remembers of a scope's messages, and no content: for reckoning what a restore would do (the
/// ingest role).
pub async fn entries(pool: &Pool, key: &ScopeKey) -> Result<Scope, ReadModelError> {
    let mut scope = Scope::new(key.clone());
    // One statement, one snapshot. The head comes from the entries: each is at its own cursor.
    let mut transaction = pool.begin().await?;
    let mut rows = sqlx::query(
        "select id, cursor as n1, updated_at_us as n2, created_at_us as n3, bytes as n4, deleted_at_us as n5,
             content_hash as b1, body_hash as b2, restore_id as u1
         from messages where scope = $1 and tenant_id = $2 order by cursor",
    )
    .bind(key.reference().0)
    .bind(key.tenant.as_str())
    .fetch(&mut *transaction);
    let mut head = Cursor::ZERO;
    while let Some(row) = rows.try_next().await? {
        let (id, entry) = entry(&row)?;
        head = entry.cursor;
        scope.insert(id, entry);
    }
    drop(rows);
    transaction.commit().await?;
    scope.heading = Heading { exists: true, head, ..Heading::default() };
    Ok(scope)
}
