//! Drills: which backups to compare with the live rows, those rows, and what drills came to.

use model::{
    BackupId, BodyHash, Cursor, Digest, DrillRecord, LogId, MessageId, ScopeKey, Timestamp, Version,
};
use serde_json::json;
use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    error::ReadModelError,
    pool::{Pool, within},
};

/// Rows read at once.
const PAGE_ROWS: i64 = 10_000;

/// The log that the read model is of, and its number of partitions (the ingest role).
pub async fn source(pool: &Pool) -> Result<(LogId, u32), ReadModelError> {
    let (log, partitions): (Uuid, i32) =
        sqlx::query_as("select log_id, partitions from source").fetch_one(pool).await?;
    Ok((LogId(log), partitions.unsigned_abs()))
}

/// The newest backups of some scopes that have one, from a place on in the order of references: those are hashes, so
/// a random place gives a fair sample (the ingest role).
pub async fn sample(
    pool: &Pool,
    from: Uuid,
    limit: u32,
) -> Result<Vec<(ScopeKey, BackupId)>, ReadModelError> {
    let rows = sqlx::query_as::<_, (String, String, String, Uuid)>(
        "(select s.tenant_id, s.kind, s.name, b.id
          from scopes s cross join lateral (
              select id from context_backups
              where scope = s.scope and status = 'completed' and expired_at is null
              order by created_at desc, id desc limit 1) b
          where s.scope >= $1 order by s.scope limit $2)
         union all
         (select s.tenant_id, s.kind, s.name, b.id
          from scopes s cross join lateral (
              select id from context_backups
              where scope = s.scope and status = 'completed' and expired_at is null
              order by created_at desc, id desc limit 1) b
          where s.scope < $1 order by s.scope limit $2)
         limit $2",
    )
    .bind(from)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    let sampled = |(tenant, kind, name, id): (String, String, String, Uuid)| {
        let key = format!("{tenant}/{kind}/{name}");
        let scope = key.parse().map_err(|_| ReadModelError::Damaged(format!("scope {key}")))?;
        Ok((scope, BackupId(id)))
    };
    rows.into_iter().map(sampled).collect()
}

/// A scope as it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveScope {
    pub head: Cursor,
    pub floor: Cursor,
    /// All up to this cursor was erased.
    pub erased: Cursor,
    /// Of the live messages.
    pub count: u64,
    pub digest: Digest,
}

/// A message as it is live, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRow {
    pub id: MessageId,
    pub cursor: Cursor,
    pub version: Version,
    pub is_deleted: bool,
}

/// A scope; `None` if there is none (the ingest role).
pub async fn live(pool: &Pool, scope: &ScopeKey) -> Result<Option<LiveScope>, ReadModelError> {
    live_scope(pool, scope).await
}

/// A scope, and every row of it in the order of cursors, all of one snapshot (the ingest role).
pub async fn live_rows(
    pool: &Pool,
    scope: &ScopeKey,
    mut take: impl FnMut(LiveRow),
) -> Result<Option<LiveScope>, ReadModelError> {
    let begin = "begin isolation level repeatable read read only";
    let mut transaction = pool.begin_with(begin).await?;
    let limit = transaction.answer_within();
    let live = within(limit, async { Ok(live_scope(&mut *transaction, scope).await) }).await??;
    let mut after = 0_i64;
    loop {
        let page = sqlx::query(
            "select id, cursor, updated_at_us, body_hash, deleted_at_us is not null as deleted
             from messages
             where scope = $1 and tenant_id = $2 and cursor > $3
             order by cursor limit $4",
        )
        .bind(scope.reference().0)
        .bind(scope.tenant.as_str())
        .bind(after)
        .bind(PAGE_ROWS);
        let rows = within(limit, page.fetch_all(&mut *transaction)).await?;
        let Some(last) = rows.last() else { break };
        after = last.try_get("cursor")?;
        for row in &rows {
            take(live_row(row)?);
        }
    }
    transaction.commit().await?;
    Ok(live)
}

async fn live_scope(
    connection: impl PgExecutor<'_>,
    scope: &ScopeKey,
) -> Result<Option<LiveScope>, ReadModelError> {
    let row = sqlx::query_as::<_, (i64, i64, i64, i64, Vec<u8>)>(
        "select head, floor, erased, live_count, digest from scopes where scope = $1 and tenant_id = $2",
    )
    .bind(scope.reference().0)
    .bind(scope.tenant.as_str())
    .fetch_optional(connection)
    .await?;
    let Some((head, floor, erased, count, digest)) = row else { return Ok(None) };
    let [head, floor, erased] = [head, floor, erased].map(Cursor::from_i64);
    let digest = Digest::from_bytes(&bytes32(&digest)?);
    Ok(Some(LiveScope { head, floor, erased, count: count.unsigned_abs(), digest }))
}

fn live_row(row: &PgRow) -> Result<LiveRow, ReadModelError> {
    let body = BodyHash(bytes32(row.try_get("body_hash")?)?);
    let updated_at = Timestamp::from_micros(row.try_get("updated_at_us")?);
    Ok(LiveRow {
        id: MessageId(row.try_get("id")?),
        cursor: Cursor::from_i64(row.try_get("cursor")?),
        version: Version { updated_at, body },
        is_deleted: row.try_get("deleted")?,
    })
}

fn bytes32(bytes: &[u8]) -> Result<[u8; 32], ReadModelError> {
    bytes.try_into().map_err(|_| ReadModelError::Damaged("a hash has not 32 bytes".to_owned()))
}

/// When the last drill was, and whether all agreed (the ingest role).
pub async fn newest(pool: &Pool) -> Result<Option<(Timestamp, bool)>, ReadModelError> {
    let row = sqlx::query_as::<_, (i64, bool)>(
        "select (extract(epoch from drilled_at) * 1000000)::bigint, failures = '[]'
         from drills order by drilled_at desc limit 1",
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(at, ok)| (Timestamp::from_micros(at), ok)))
}

/// Keeps what a drill came to; repeated, the first counts.
pub(crate) async fn complete(
    connection: &mut PgConnection,
    drill: &DrillRecord,
) -> Result<(), ReadModelError> {
    let failure = |failure: &model::DrillFailure| {
        let problem = failure.problem.replace('\0', "\u{fffd}");
        json!({"scope": failure.scope.to_string(), "backup_id": failure.backup, "problem": problem})
    };
    let failures: Vec<_> = drill.failures.iter().map(failure).collect();
    sqlx::query(
        "insert into drills (id, drilled_at, scopes, failures)
         values ($1, to_timestamp($2 / 1e6), $3, $4::jsonb)
         on conflict (id) do nothing",
    )
    .bind(drill.id.0)
    .bind(drill.at.as_micros())
    .bind(drill.scopes as i64)
    .bind(json!(failures).to_string())
    .execute(connection)
    .await?;
    Ok(())
}
