//! Erasures: what they take out of the rows, and how far each is in the other copies.

use model::{
    CommandId, Cursor, ErasedFrom, ErasureDone, Place, ScopeRef, Standing, TenantId, Timestamp,
};
use sqlx::PgConnection;

use crate::{
    access::{AccessQuery, set_tenant, standing},
    error::ReadModelError,
    pool::Pool,
    write::each,
};

/// A scope that was erased.
#[derive(Clone, Debug)]
pub struct ErasedImage {
    /// The command's.
    pub id: CommandId,
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub place: Place,
    /// All up to this cursor is gone.
    pub cursor: Cursor,
    /// The log's time.
    pub at: Timestamp,
}

/// Past versions that one statement deletes, at most.
const PAST_AT_ONCE: i64 = 10_000;

/// Deletes past versions of what is to be erased, where there are too many for the transaction that does it; whether there
/// are more. Neither the fold nor any sum knows of them.
pub(crate) async fn erase_past(
    connection: &mut PgConnection,
    erased: &ErasedImage,
) -> Result<bool, ReadModelError> {
    let delete = "with found as materialized (
             select ctid from message_history where scope = $1 and won_by <= $2 limit $3
         ), gone as (
             delete from message_history
             where ctid = any(array(select ctid from found)) and (select count(*) from found) = $3
         ) select count(*) = $3 from found";
    let is_more = sqlx::query_scalar(delete)
        .bind(erased.scope.0)
        .bind(erased.cursor.as_i64())
        .bind(PAST_AT_ONCE)
        .fetch_one(connection)
        .await?;
    Ok(is_more)
}

/// Deletes all that holds content of what was erased. Outcomes hold none.
pub(crate) async fn erase(
    connection: &mut PgConnection,
    erased: &[ErasedImage],
) -> Result<(), ReadModelError> {
    let scopes = each(erased, |e| e.scope.0);
    // Messages go with the sums that count them, however many they are: whoever asked waits.
    sqlx::raw_sql("set local statement_timeout = 0").execute(&mut *connection).await?;
    sqlx::query(
        "delete from messages m using unnest($1::uuid[], $2::bigint[]) as e (scope, cursor)
         where m.scope = e.scope and m.cursor <= e.cursor",
    )
    .bind(&scopes)
    .bind(each(erased, |e| e.cursor.as_i64()))
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from message_history where scope = any($1)")
        .bind(&scopes)
        .execute(&mut *connection)
        .await?;
    // The archiver deletes them, and says so; until then nobody is shown one.
    sqlx::query(
        "update context_backups b set expired_at = to_timestamp(e.at_us / 1e6)
         from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as e (scope, cursor, at_us)
         where b.scope = e.scope and b.expired_at is null
             and (b.cursor_last < e.cursor
                 or b.cursor_last is null and b.created_at <= to_timestamp(e.at_us / 1e6))",
    )
    .bind(&scopes)
    .bind(each(erased, |e| e.cursor.as_i64()))
    .bind(each(erased, |e| e.at.as_micros()))
    .execute(&mut *connection)
    .await?;
    // That it was refused stays: an outcome like any other, the same in every copy.
    sqlx::query(
        "update dead_letters set value = '', reason = $2 where scope = any($1) and kind = 'refused'",
    )
    .bind(&scopes)
    .bind(ERASED_REASON)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into erasures (id, tenant_id, scope, partition, record_offset, cursor, erased_at_us)
         select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[])
         on conflict (id) do update
         set partition = excluded.partition, record_offset = excluded.record_offset, cursor = excluded.cursor,
             erased_at_us = excluded.erased_at_us",
    )
    .bind(each(erased, |e| e.id.0))
    .bind(each(erased, |e| e.tenant.as_str()))
    .bind(&scopes)
    .bind(each(erased, |e| e.place.partition.get() as i32))
    .bind(each(erased, |e| e.place.offset.as_i64()))
    .bind(each(erased, |e| e.cursor.as_i64()))
    .bind(each(erased, |e| e.at.as_micros()))
    .execute(connection)
    .await?;
    Ok(())
}

/// What stands in the place of a dead letter's reason, which may quote the record.
pub const ERASED_REASON: &str = "its scope was erased";

/// The archiver has said so. It may say so again.
pub(crate) async fn note_done(
    connection: &mut PgConnection,
    done: &ErasureDone,
) -> Result<(), ReadModelError> {
    sqlx::query(
        "insert into erasures_done (scope, cursor, erased_from, tenant_id, done_at_us) values ($1, $2, $3, $4, $5)
         on conflict do nothing",
    )
    .bind(done.scope.reference().0)
    .bind(done.cursor.as_i64())
    .bind(done.from.as_str())
    .bind(done.scope.tenant.as_str())
    .bind(done.at.as_micros())
    .execute(connection)
    .await?;
    Ok(())
}

/// How an erasure stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureRow {
    pub id: CommandId,
    pub cursor: Cursor,
    pub at: Timestamp,
    /// Where it stands on the log, as 3-12345.
    pub place: String,
    /// Where else it is done, and since when.
    pub done: Vec<(ErasedFrom, Timestamp)>,
}

impl ErasureRow {
    pub fn done_at(&self, from: ErasedFrom) -> Option<Timestamp> {
        self.done.iter().find(|(done, _)| *done == from).map(|(_, at)| *at)
    }
}

/// An erasure of a scope; and the asker's standing.
pub async fn get(
    pool: &Pool,
    asked: &AccessQuery,
    id: CommandId,
) -> Result<(Standing, Option<ErasureRow>), ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asked.scope.tenant).await?;
    let standing = standing(&mut transaction, asked).await?;
    let found: Option<(i64, i64, i32, i64)> = sqlx::query_as(
        "select cursor, erased_at_us, partition, record_offset from erasures
         where id = $1 and scope = $2 and tenant_id = $3",
    )
    .bind(id.0)
    .bind(asked.scope.reference().0)
    .bind(asked.scope.tenant.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((cursor, at, partition, offset)) = found else {
        transaction.commit().await?;
        return Ok((standing, None));
    };
    let done: Vec<(String, i64)> = sqlx::query_as(
        "select erased_from, done_at_us from erasures_done
         where scope = $1 and tenant_id = $2 and cursor = $3",
    )
    .bind(asked.scope.reference().0)
    .bind(asked.scope.tenant.as_str())
    .bind(cursor)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let known = |(from, at): (String, i64)| {
        let from = ErasedFrom::ALL.into_iter().find(|known| known.as_str() == from)?;
        Some((from, Timestamp::from_micros(at)))
    };
    let row = ErasureRow {
        id,
        cursor: Cursor::from_i64(cursor),
        at: Timestamp::from_micros(at),
        place: format!("{partition}-{offset}"),
        done: done.into_iter().filter_map(known).collect(),
    };
    Ok((standing, Some(row)))
}
