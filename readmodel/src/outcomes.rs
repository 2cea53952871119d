//! Outcomes, as they are asked for.

use std::sync::Arc;

use model::{CommandId, Offset, Outcome, Partition, Place, TenantId, UserId};
use uuid::Uuid;

use crate::{access::set_tenant, error::ReadModelError, pool::Pool};

/// Whether a command was decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Decided {
    /// The read model has not come to its place, or parked the record there until an operator retries it.
    NotYet,
    /// It is past that place.
    Outcome(Arc<Outcome>),
    /// It is past that place, and the record became no outcome: it was refused, and is a dead letter.
    Nothing,
}

pub(crate) fn outcome(body: &str) -> Result<Arc<Outcome>, ReadModelError> {
    serde_json::from_str(body)
        .map(Arc::new)
        .map_err(|e| ReadModelError::Damaged(format!("an outcome does not parse: {e}")))
}

/// What became of these commands, in the order asked: one round trip for all (the ingest role).
pub async fn decided(
    pool: &Pool,
    asked: &[(CommandId, Place)],
) -> Result<Vec<Decided>, ReadModelError> {
    let ids: Vec<Uuid> = asked.iter().map(|(id, _)| id.0).collect();
    let partitions: Vec<i32> = asked.iter().map(|(_, at)| at.partition.get() as i32).collect();
    let offsets: Vec<i64> = asked.iter().map(|(_, at)| at.offset.as_i64()).collect();
    // One statement, one snapshot: a position past the place comes with the outcome.
    let rows = sqlx::query_as::<_, (bool, Option<String>)>(
        "select coalesce(p.next_offset > asked.record_offset, false) and (o.body is not null or not exists (
                 select from dead_letters d
                 where d.partition = asked.partition and d.record_offset = asked.record_offset
                     and d.kind = 'parked')),
             o.body
         from unnest($1::uuid[], $2::int[], $3::bigint[]) with ordinality
                 as asked (command_id, partition, record_offset, place)
             left join positions p on p.partition = asked.partition
             left join outcomes o on o.command_id = asked.command_id
         order by asked.place",
    )
    .bind(ids)
    .bind(partitions)
    .bind(offsets)
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(past, body)| match (past, body) {
            (false, _) => Ok(Decided::NotYet),
            (true, Some(body)) => Ok(Decided::Outcome(outcome(&body)?)),
            (true, None) => Ok(Decided::Nothing),
        })
        .collect()
}

/// What became of a command of this tenant and user (the api role).
pub async fn decided_for(
    pool: &Pool,
    tenant: &TenantId,
    actor: &UserId,
    id: CommandId,
    at: Option<Place>,
) -> Result<Decided, ReadModelError> {
    let mut transaction = pool.begin().await?;
    set_tenant(&mut transaction, tenant).await?;
    let (past, body): (Option<bool>, Option<String>) = sqlx::query_as(
        "select (select next_offset > $5 and not is_parked($2, $4, $5) from positions where partition = $4),
             (select body from outcomes where command_id = $1 and tenant_id = $2 and actor = $3)",
    )
    .bind(id.0)
    .bind(tenant.as_str())
    .bind(actor.as_str())
    .bind(at.map(|at| at.partition.get() as i32))
    .bind(at.map(|at| at.offset.as_i64()))
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    match (body, past) {
        (Some(body), _) => Ok(Decided::Outcome(outcome(&body)?)),
        (None, Some(false)) => Ok(Decided::NotYet),
        (None, Some(true) | None) => Ok(Decided::Nothing),
    }
}

/// How far each partition is folded: the offset to fold next.
pub async fn positions(pool: &Pool) -> Result<Vec<(Partition, Offset)>, ReadModelError> {
    let rows = sqlx::query_as::<_, (i32, i64)>(
        "select partition, next_offset from positions order by partition",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(partition, next)| {
            Some((Partition::new(u32::try_from(partition).ok()?), Offset::from_i64(next)?))
        })
        .collect())
}
