//! The catalogue of backups: written from the archiver's facts, asked by the API.

use std::time::Duration;

use model::{
    AboutBackup, BackupId, BackupRecord, BackupType, Fact, LogId, Offset, ScopeKey, Standing,
    Timestamp,
};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    access::{AccessQuery, set_tenant, standing},
    config::DatabaseConfig,
    connect, drill, erasures,
    error::ReadModelError,
    pool::{Pool, answer_within, answered, within},
};

/// Who writes the catalogue: one process at a time.
const LOCK: &str = "select pg_try_advisory_lock(hashtext('context_sync catalogue'))";

/// The writer of the catalogue.
pub struct Catalogue {
    connection: PgConnection,
    answer_within: Duration,
}

/// A backup as the wire contract has it, less its scope's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRow {
    pub id: BackupId,
    pub backup_type: BackupType,
    pub status: BackupStatus,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub verified_at: Option<Timestamp>,
    /// Of a completed one.
    pub object: Option<StoredObject>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupStatus {
    Pending,
    Completed,
    Failed,
}

/// What is in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub gcs_path: String,
    pub size_bytes: u64,
    pub record_count: u64,
    pub checksum: String,
    pub completed_at: Timestamp,
    pub cursor_first: u64,
    pub cursor_last: u64,
    pub digest: String,
}

/// Which of a scope's backups.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub backup_type: Option<BackupType>,
    /// The newest of those older than this one.
    pub before: Option<BackupId>,
    pub limit: u32,
}

impl BackupStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Completed, Self::Failed].into_iter().find(|s| s.as_str() == text)
    }
}

impl Catalogue {
    /// Connects; `None` while another process is the writer.
    pub async fn connect(config: &DatabaseConfig) -> Result<Option<Self>, ReadModelError> {
        let mut connection = connect::projector(config).await?;
        let answer_within = answer_within(config);
        let lock = sqlx::query_scalar(LOCK);
        let locked: bool = within(answer_within, lock.fetch_one(&mut connection)).await?;
        Ok(locked.then_some(Self { connection, answer_within }))
    }

    /// The offset of the log of facts to go on from.
    ///
    /// # Errors
    /// [`ReadModelError::OtherLog`] if the catalogue is of another log.
    pub async fn position(&mut self, log: LogId) -> Result<Offset, ReadModelError> {
        answered(self.answer_within * 2, position(&mut self.connection, log)).await
    }

    /// Applies facts and advances the position, both or neither.
    pub async fn apply(
        &mut self,
        from: Offset,
        to: Offset,
        facts: &[Fact],
    ) -> Result<(), ReadModelError> {
        // A statement a fact, besides those of the transaction.
        let limit = self.answer_within * (facts.len() as u32 + 3);
        answered(limit, apply(&mut self.connection, from, to, facts)).await
    }
}

async fn position(connection: &mut PgConnection, log: LogId) -> Result<Offset, ReadModelError> {
    sqlx::query(
        "insert into catalogue_position (log_id, next_offset) values ($1, 0)
         on conflict (one) do nothing",
    )
    .bind(log.0)
    .execute(&mut *connection)
    .await?;
    let (stored, next): (Uuid, i64) =
        sqlx::query_as("select log_id, next_offset from catalogue_position")
            .fetch_one(&mut *connection)
            .await?;
    if stored != log.0 {
        return Err(ReadModelError::OtherLog { stored: LogId(stored), found: log });
    }
    Ok(Offset::from_i64(next).unwrap_or(Offset::ZERO))
}

async fn apply(
    connection: &mut PgConnection,
    from: Offset,
    to: Offset,
    facts: &[Fact],
) -> Result<(), ReadModelError> {
    let mut transaction = connection.begin().await?;
    let moved =
        sqlx::query("update catalogue_position set next_offset = $2 where next_offset = $1")
            .bind(from.as_i64())
            .bind(to.as_i64())
            .execute(&mut *transaction)
            .await?;
    if moved.rows_affected() != 1 {
        return Err(ReadModelError::PositionMoved);
    }
    for fact in facts {
        match fact {
            Fact::BackupCompleted(backup) => complete(&mut transaction, backup).await?,
            Fact::BackupFailed { about, backup_type, detail } => {
                fail(&mut transaction, about, *backup_type, detail).await?;
            }
            Fact::BackupVerified(about) => note(&mut transaction, VERIFIED, about).await?,
            Fact::BackupExpired(about) => note(&mut transaction, EXPIRED, about).await?,
            Fact::DrillCompleted(drill) => drill::complete(&mut transaction, drill).await?,
            Fact::ErasureDone(done) => erasures::note_done(&mut transaction, done).await?,
        }
    }
    transaction.commit().await?;
    Ok(())
}

const VERIFIED: &str = "update context_backups set verified_at = coalesce(verified_at, to_timestamp($2 / 1e6)) where id = $1";
const EXPIRED: &str = "update context_backups set expired_at = coalesce(expired_at, to_timestamp($2 / 1e6)) where id = $1";

/// The first such fact counts.
async fn complete(
    connection: &mut PgConnection,
    backup: &BackupRecord,
) -> Result<(), ReadModelError> {
    let checksum: String = backup.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
    sqlx::query(
        "insert into context_backups (id, tenant_id, scope_type, scope_id, scope, backup_type, status,
             gcs_path, size_bytes, record_count, checksum, created_at, completed_at, expires_at,
             cursor_first, cursor_last, digest, expired_at)
         values ($1, $2, $3, $4, $5, $6, 'completed', $7, $8, $9, $10, to_timestamp($11 / 1e6),
             to_timestamp($12 / 1e6), to_timestamp($13 / 1e6), $14, $15, $16,
             -- The scope was erased since: it is on its way out.
             (select to_timestamp($12 / 1e6) from scopes where scope = $5 and erased > $15))
         on conflict (id) do update
         set status = 'completed', gcs_path = excluded.gcs_path, size_bytes = excluded.size_bytes,
             record_count = excluded.record_count, checksum = excluded.checksum,
             created_at = excluded.created_at, completed_at = excluded.completed_at,
             expires_at = excluded.expires_at, cursor_first = excluded.cursor_first,
             cursor_last = excluded.cursor_last, digest = excluded.digest, detail = null,
             expired_at = coalesce(context_backups.expired_at, excluded.expired_at)
         where context_backups.status <> 'completed'",
    )
    .bind(backup.id.0)
    .bind(backup.scope.tenant.as_str())
    .bind(backup.scope.kind.as_str())
    .bind(backup.scope.name.as_str())
    .bind(backup.scope.reference().0)
    .bind(backup.backup_type.as_str())
    .bind(&backup.path)
    .bind(backup.size_bytes as i64)
    .bind(backup.record_count as i64)
    .bind(format!("sha256:{checksum}"))
    .bind(backup.created_at.as_micros())
    .bind(backup.completed_at.as_micros())
    .bind(backup.expires_at.map(Timestamp::as_micros))
    .bind(backup.cursor_first.as_i64())
    .bind(backup.cursor_last.as_i64())
    .bind(backup.digest.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

async fn fail(
    connection: &mut PgConnection,
    about: &AboutBackup,
    backup_type: BackupType,
    detail: &str,
) -> Result<(), ReadModelError> {
    sqlx::query(
        "insert into context_backups (id, tenant_id, scope_type, scope_id, scope, backup_type, status,
             created_at, detail)
         values ($1, $2, $3, $4, $5, $6, 'failed', to_timestamp($7 / 1e6), $8)
         on conflict (id) do update set status = 'failed', detail = excluded.detail
         where context_backups.status = 'pending'",
    )
    .bind(about.id.0)
    .bind(about.scope.tenant.as_str())
    .bind(about.scope.kind.as_str())
    .bind(about.scope.name.as_str())
    .bind(about.scope.reference().0)
    .bind(backup_type.as_str())
    .bind(about.at.as_micros())
    .bind(detail.replace('\0', "\u{fffd}"))
    .execute(connection)
    .await?;
    Ok(())
}

async fn note(
    connection: &mut PgConnection,
    update: &'static str,
    about: &AboutBackup,
) -> Result<(), ReadModelError> {
    sqlx::query(update).bind(about.id.0).bind(about.at.as_micros()).execute(connection).await?;
    Ok(())
}

const COLUMNS: &str = "id, backup_type, status, gcs_path, size_bytes, record_count, checksum,
    cursor_first, cursor_last, digest,
    (extract(epoch from created_at) * 1000000)::bigint as created,
    (extract(epoch from completed_at) * 1000000)::bigint as completed,
    (extract(epoch from expires_at) * 1000000)::bigint as expires,
    (extract(epoch from verified_at) * 1000000)::bigint as verified";

/// A scope's backups, the newest first, one more than asked for if there are more, or `None` if [`Page::before`] is
/// none of them; and the asker's standing.
pub async fn list(
    pool: &Pool,
    asked: &AccessQuery,
    page: Page,
) -> Result<(Standing, Option<Vec<BackupRow>>), ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asked.scope.tenant).await?;
    let standing = standing(&mut transaction, asked).await?;
    if let Some(before) = page.before {
        let is_known: bool = sqlx::query_scalar(
            "select exists (select from context_backups where id = $1 and scope = $2 and tenant_id = $3)",
        )
        .bind(before.0)
        .bind(asked.scope.reference().0)
        .bind(asked.scope.tenant.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        if !is_known {
            transaction.commit().await?;
            return Ok((standing, None));
        }
    }
    let query = sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from context_backups b
         where scope = $1 and tenant_id = $2 and expired_at is null
             and ($3::text is null or backup_type = $3)
             and ($4::uuid is null or (created_at, id) < (
                 select created_at, id from context_backups p where p.id = $4 and p.scope = $1))
         order by created_at desc, id desc
         limit $5"
    ));
    let rows = sqlx::query(query)
        .bind(asked.scope.reference().0)
        .bind(asked.scope.tenant.as_str())
        .bind(page.backup_type.map(BackupType::as_str))
        .bind(page.before.map(|id| id.0))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let rows = rows.iter().map(backup_row).collect::<Result<_, _>>()?;
    Ok((standing, Some(rows)))
}

/// One backup of a scope; and the asker's standing.
pub async fn get(
    pool: &Pool,
    asked: &AccessQuery,
    id: BackupId,
) -> Result<(Standing, Option<BackupRow>), ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asked.scope.tenant).await?;
    let standing = standing(&mut transaction, asked).await?;
    let query = sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from context_backups
         where id = $1 and scope = $2 and tenant_id = $3 and expired_at is null"
    ));
    let row = sqlx::query(query)
        .bind(id.0)
        .bind(asked.scope.reference().0)
        .bind(asked.scope.tenant.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok((standing, row.as_ref().map(backup_row).transpose()?))
}

/// What has been asked for on demand since a moment: how many of them are pending, and how many there are (the
/// ingest role).
pub async fn on_demand(
    pool: &Pool,
    scope: &ScopeKey,
    since: Timestamp,
) -> Result<(u64, u64), ReadModelError> {
    let (pending, recent): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where status = 'pending'), count(*)
         from context_backups
         where scope = $1 and tenant_id = $2 and backup_type = 'on_demand'
             and created_at >= to_timestamp($3 / 1e6)",
    )
    .bind(scope.reference().0)
    .bind(scope.tenant.as_str())
    .bind(since.as_micros())
    .fetch_one(pool)
    .await?;
    Ok((pending.unsigned_abs(), recent.unsigned_abs()))
}

fn backup_row(row: &PgRow) -> Result<BackupRow, ReadModelError> {
    let damaged = |column: &str| ReadModelError::Damaged(format!("a backup's {column} is unknown"));
    let time = |column: &str| {
        Ok::<_, ReadModelError>(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
    };
    let number =
        |column: &str| Ok::<_, ReadModelError>(row.try_get::<i64, _>(column)?.unsigned_abs());
    let status = BackupStatus::parse(row.try_get("status")?).ok_or_else(|| damaged("status"))?;
    let backup_type: &str = row.try_get("backup_type")?;
    let object = match status {
        BackupStatus::Completed => Some(StoredObject {
            gcs_path: row.try_get("gcs_path")?,
            size_bytes: number("size_bytes")?,
            record_count: number("record_count")?,
            checksum: row.try_get("checksum")?,
            completed_at: time("completed")?.ok_or_else(|| damaged("completed_at"))?,
            cursor_first: number("cursor_first")?,
            cursor_last: number("cursor_last")?,
            digest: row.try_get("digest")?,
        }),
        BackupStatus::Pending | BackupStatus::Failed => None,
    };
    Ok(BackupRow {
        id: BackupId(row.try_get("id")?),
        backup_type: BackupType::ALL
            .into_iter()
            .find(|known| known.as_str() == backup_type)
            .ok_or_else(|| damaged("backup_type"))?,
        status,
        created_at: time("created")?.ok_or_else(|| damaged("created_at"))?,
        expires_at: time("expires")?,
        verified_at: time("verified")?,
        object,
    })
}
