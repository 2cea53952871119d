//! What messages were: written with each batch, asked for by the API.

use model::{
    Cursor, MessageId, Offset, Partition, PastResult, Place, ScopeRef, Standing, TenantId,
    Timestamp,
};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{
    access::{AccessQuery, set_tenant, standing},
    error::ReadModelError,
    key::id_key,
    pool::Pool,
    write::each,
};

/// A version that is past.
#[derive(Clone, Debug, PartialEq)]
pub struct PastImage {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub id: MessageId,
    /// The command that decided so, and which of its changes.
    pub place: Place,
    pub change: usize,
    pub result: PastResult,
    /// The cursor of the version that it gave way to.
    pub won_by: Cursor,
    /// The log's time.
    pub at: Timestamp,
    /// As a pull gives it; `None`: the row that is there.
    pub json: Option<String>,
}

/// What is replaced is copied where it lies: it need not come here first.
pub(crate) async fn insert_history(
    connection: &mut PgConnection,
    past: &[PastImage],
) -> Result<(), ReadModelError> {
    sqlx::query(
        "insert into message_history (id_key, record_offset, change, partition, scope, tenant_id, result, won_by,
             decided_at_us, json_bytes, json)
         select p.id_key, p.record_offset, p.change, p.partition, p.scope, p.tenant_id, p.result, p.won_by, p.at_us,
             octet_length(coalesce(p.json, m.json)), coalesce(p.json, m.json)
         from (select unnest($1::uuid[]), unnest($2::bigint[]), unnest($3::int[]), unnest($4::int[]),
                 unnest($5::uuid[]), unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]),
                 unnest($9::bigint[]), unnest($10::text[]))
                 as p (id_key, record_offset, change, partition, scope, tenant_id, result, won_by, at_us, json)
             left join messages m on m.id_key = case when p.json is null then p.id_key end",
    )
    .bind(each(past, |p| id_key(p.scope, &p.id)))
    .bind(each(past, |p| p.place.offset.as_i64()))
    .bind(each(past, |p| p.change as i32))
    .bind(each(past, |p| p.place.partition.get() as i32))
    .bind(each(past, |p| p.scope.0))
    .bind(each(past, |p| p.tenant.as_str()))
    .bind(each(past, |p| p.result.as_str()))
    .bind(each(past, |p| p.won_by.as_i64()))
    .bind(each(past, |p| p.at.as_micros()))
    .bind(each(past, |p| p.json.as_deref()))
    .execute(connection)
    .await?;
    Ok(())
}

/// What the rows of a message's past versions are found by.
pub fn history_key(scope: ScopeRef, id: MessageId) -> Uuid {
    id_key(scope, &id)
}

/// Where a version became past: the record, and which of its changes. Greater is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PastPlace {
    pub offset: Offset,
    pub change: u32,
}

/// Which of a message's past versions.
#[derive(Clone, Copy, Debug)]
pub struct HistoryPage {
    /// The newest of those before this place.
    pub before: Option<PastPlace>,
    pub limit: u32,
    /// Of JSON, at most; one version at least.
    pub bytes: u64,
}

/// A version as its row has it.
#[derive(Clone, Debug, PartialEq)]
pub struct PastRow {
    pub partition: Partition,
    pub place: PastPlace,
    pub result: PastResult,
    pub won_by: Cursor,
    pub at: Timestamp,
    /// As a pull gives it.
    pub json: String,
}

/// A message and what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// As a pull gives it now; `None` if there is no such message, or its tombstone has expired.
    pub current: Option<String>,
    /// The newest first.
    pub past: Vec<PastRow>,
    pub has_more: bool,
}

/// A page of a message's history, of one snapshot; and the asker's standing.
pub async fn history(
    pool: &Pool,
    asked: &AccessQuery,
    id: MessageId,
    page: HistoryPage,
) -> Result<(Standing, History), ReadModelError> {
    let begin = "begin isolation level repeatable read read only";
    let mut transaction = pool.begin_with(begin).await?;
    set_tenant(&mut transaction, &asked.scope.tenant).await?;
    let standing = standing(&mut transaction, asked).await?;
    let key = id_key(asked.scope.reference(), &id);
    let tenant = asked.scope.tenant.as_str();
    let current: Option<String> =
        sqlx::query_scalar("select json from messages where id_key = $1 and tenant_id = $2")
            .bind(key)
            .bind(tenant)
            .fetch_optional(&mut *transaction)
            .await?;
    let before = page.before.unwrap_or(PastPlace { offset: Offset::MAX, change: 0 });
    // Measured before it is read: a thousand versions may be far more than an answer takes.
    let rows = sqlx::query(
        "select h.partition, h.record_offset, h.change, h.result, h.won_by, h.decided_at_us, h.json
         from (select record_offset, change, row_number() over w as place, sum(json_bytes) over w as bytes
               from message_history
               where id_key = $1 and tenant_id = $2 and (record_offset, change) < ($3, $4)
               window w as (order by record_offset desc, change desc rows between unbounded preceding and current row)
               order by record_offset desc, change desc
               limit $5) p
             join message_history h on h.id_key = $1 and h.record_offset = p.record_offset and h.change = p.change
         where p.place = 1 or p.bytes <= $6
         order by h.record_offset desc, h.change desc",
    )
    .bind(key)
    .bind(tenant)
    .bind(before.offset.as_i64())
    .bind(before.change as i32)
    .bind(i64::from(page.limit))
    .bind(i64::try_from(page.bytes).unwrap_or(i64::MAX))
    .fetch_all(&mut *transaction)
    .await?;
    let past: Vec<PastRow> = rows.iter().map(past_row).collect::<Result<_, _>>()?;
    let has_more = match past.last() {
        None => false,
        Some(last) => {
            sqlx::query_scalar(
                "select exists (select from message_history
                     where id_key = $1 and tenant_id = $2 and (record_offset, change) < ($3, $4))",
            )
            .bind(key)
            .bind(tenant)
            .bind(last.place.offset.as_i64())
            .bind(last.place.change as i32)
            .fetch_one(&mut *transaction)
            .await?
        }
    };
    transaction.commit().await?;
    Ok((standing, History { current, past, has_more }))
}

pub(crate) fn past_row(row: &sqlx::postgres::PgRow) -> Result<PastRow, ReadModelError> {
    let damaged =
        |what: &str| ReadModelError::Damaged(format!("a past version's {what} is unknown"));
    let result: &str = row.try_get("result")?;
    let offset = Offset::from_i64(row.try_get("record_offset")?);
    Ok(PastRow {
        partition: Partition::new(row.try_get::<i32, _>("partition")?.unsigned_abs()),
        place: PastPlace {
            offset: offset.ok_or_else(|| damaged("record_offset"))?,
            change: row.try_get::<i32, _>("change")?.unsigned_abs(),
        },
        result: PastResult::ALL
            .into_iter()
            .find(|known| known.as_str() == result)
            .ok_or_else(|| damaged("result"))?,
        won_by: Cursor::from_i64(row.try_get("won_by")?),
        at: Timestamp::from_micros(row.try_get("decided_at_us")?),
        json: row.try_get("json")?,
    })
}
