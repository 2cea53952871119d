//! What a scope holds, message by message, for those who compare it with what they hold.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use model::{BodyHash, Cursor, MessageId, Timestamp, Version};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    access::set_tenant,
    error::ReadModelError,
    key::id_key,
    load::hash32,
    pool::Pool,
    pull::{Asker, Glance, glance},
};

/// Which version of a message a scope holds, and whether it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub id: MessageId,
    /// Of a tombstone: the deleted version.
    pub version: Version,
    pub live: bool,
}

/// A row of the scope and the caller first, as of a pull; then the messages. One statement: one snapshot.
const CALLER: &str = "
with caller as materialized (
    select s.scope is not null as known, r.user_id is not null as membership, r.role,
        s.head, s.floor, s.live_count, s.digest, source.epoch,
        (select sum(p.rebuilds)::bigint from positions p) as rebuilds
    from source
        left join scopes s on s.scope = $2 and s.tenant_id = $1
        left join members r on r.scope = $2 and r.tenant_id = $1 and r.user_id = $3
)
select known, membership, role, head, floor, live_count, digest, epoch, rebuilds,
    null::uuid as id, null::bigint as updated_at_us, null::bytea as body_hash, null::boolean as live, null::text as json
from caller
union all
select null, null, null, null, null, null, null, null, null,
    m.id, m.updated_at_us, m.body_hash, m.deleted_at_us is null, ";

/// From 0 on the live messages are enough: who has none need not be told of deletions.
const CHANGED: &str = "null
from messages m
where m.scope = $2 and m.tenant_id = $1 and m.cursor > $5 and ($5 > 0 or m.deleted_at_us is null)
    and ($4 or (select role from caller) is not null)";

/// Measured before it is read: what is beyond the bytes has no JSON.
const NAMED: &str =
    "case when m.bytes_before = 0 or m.bytes_before + m.json_bytes <= $6 then m.json end
from (
    select m.*, sum(m.json_bytes) over (order by w.place) - m.json_bytes as bytes_before
    from (select unnest($5::uuid[]), generate_subscripts($5::uuid[], 1)) as w (id_key, place)
        join messages m on m.id_key = w.id_key
    where m.scope = $2 and m.tenant_id = $1 and ($4 or (select role from caller) is not null)
) m";

/// Hands out what a scope holds that changed after `after`, in no order: the live messages alone, if that is 0;
/// else tombstones too. Nothing, for a caller who may not pull. They are as many as the scope has: none is kept here.
pub async fn changed(
    pool: &Pool,
    asker: &Asker<'_>,
    after: Cursor,
    each: &mut (dyn FnMut(Holding) + Send),
) -> Result<Glance, ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asker.scope.tenant).await?;
    let mut told = None;
    let query = format!("{CALLER}{CHANGED}");
    let query = asker.bind(sqlx::query(sqlx::AssertSqlSafe(query))).bind(after.as_i64());
    let mut rows = query.fetch(&mut *transaction);
    while let Some(row) = rows.try_next().await? {
        if row.try_get::<Option<Uuid>, _>("id")?.is_some() {
            each(holding(&row)?);
        } else {
            told = Some(glance(&row)?);
        }
    }
    drop(rows);
    transaction.commit().await?;
    // No row: no projector has said yet which log this is.
    told.ok_or(ReadModelError::NotMigrated)
}

/// A message that was asked for by its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub holding: Holding,
    /// As a pull gives it; `None`: it would have made the answer too large.
    pub json: Option<String>,
}

/// The messages of these ids, tombstones too, up to `bytes` of their JSON (but one message at least), in the
/// order asked for. What is not there is not in the answer.
pub async fn named(
    pool: &Pool,
    asker: &Asker<'_>,
    ids: &[MessageId],
    bytes: u64,
) -> Result<(Glance, HashMap<MessageId, Named>), ReadModelError> {
    let scope = asker.scope.reference();
    let keys: Vec<Uuid> = ids.iter().map(|id| id_key(scope, id)).collect();
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, &asker.scope.tenant).await?;
    let rows = asker
        .bind(sqlx::query(sqlx::AssertSqlSafe(format!("{CALLER}{NAMED}"))))
        .bind(keys)
        .bind(bytes.min(i64::MAX as u64) as i64)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let mut told = None;
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        if row.try_get::<Option<Uuid>, _>("id")?.is_some() {
            let named = Named { holding: holding(row)?, json: row.try_get("json")? };
            found.insert(named.holding.id, named);
        } else {
            told = Some(glance(row)?);
        }
    }
    Ok((told.ok_or(ReadModelError::NotMigrated)?, found))
}

fn holding(row: &PgRow) -> Result<Holding, ReadModelError> {
    Ok(Holding {
        id: MessageId(row.try_get("id")?),
        version: Version {
            updated_at: Timestamp::from_micros(row.try_get("updated_at_us")?),
            body: BodyHash(hash32(row.try_get("body_hash")?)?),
        },
        live: row.try_get("live")?,
    })
}
