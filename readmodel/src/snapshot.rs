//! A partition's part of the read model at one moment: what an archive goes on from that has lost events.

use std::{collections::HashMap, sync::Arc};

use model::{
    CommandId, Cursor, Entry, Heading, LogId, Member, MessageId, Offset, Outcome, Partition,
    ScopeKey, ScopeRef, TenantId, UserId, limits::OUTCOME_KEPT_MICROS,
};
use sqlx::{Connection, PgConnection, PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    connect,
    error::ReadModelError,
    history::{PastPlace, PastRow, past_row},
    load::{entry, heading, member},
    outcomes::outcome,
    pool::Pool,
    projection::{Position, check_source, positions},
};

/// Rows read at once. Messages are large.
const SCOPES_AT_ONCE: i64 = 1_000;
const MESSAGES_AT_ONCE: i64 = 200;
const OUTCOMES_AT_ONCE: i64 = 1_000;

/// One snapshot of all rows: they are at the position, whatever is committed meanwhile.
pub struct Snapshot {
    connection: PgConnection,
    /// How far the partition is folded.
    pub position: Position,
}

/// A message as its row has it.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRow {
    pub id: MessageId,
    pub entry: Entry,
    /// As a pull gives it.
    pub json: String,
}

/// What became of a command that may still be repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct OutcomeRow {
    pub id: CommandId,
    pub offset: Offset,
    pub outcome: Arc<Outcome>,
}

impl Snapshot {
    /// # Errors
    /// The read model is of another log, or events of the partition are parked: then its rows are not what
    /// the log folds to.
    pub async fn begin(
        config: &DatabaseConfig,
        log: LogId,
        partitions: u32,
        partition: Partition,
    ) -> Result<Self, ReadModelError> {
        let mut snapshot = Self::begin_as_it_is(config, log, partitions, partition).await?;
        let parked: bool = sqlx::query_scalar(
            "select exists (select from dead_letters where partition = $1 and kind = 'parked')",
        )
        .bind(partition.get() as i32)
        .fetch_one(&mut snapshot.connection)
        .await?;
        if parked { Err(ReadModelError::Parked(partition)) } else { Ok(snapshot) }
    }

    /// As [`Self::begin`], also where events are parked.
    pub async fn begin_as_it_is(
        config: &DatabaseConfig,
        log: LogId,
        partitions: u32,
        partition: Partition,
    ) -> Result<Self, ReadModelError> {
        let mut connection = connect::projector(config).await?;
        // Between two reads what was read is stored elsewhere: that may take its time.
        for prepare in [
            "set idle_in_transaction_session_timeout = '10min'",
            "begin transaction isolation level repeatable read read only",
        ] {
            sqlx::raw_sql(prepare).execute(&mut connection).await?;
        }
        check_source(&mut connection, log, partitions).await?;
        let found = positions(&mut connection).await?;
        let position = found.into_iter().find(|position| position.partition == partition);
        let position = position.ok_or(ReadModelError::NoPosition(partition))?;
        Ok(Self { connection, position })
    }

    /// The first event that is parked, of each scope that has one.
    pub async fn parked(&mut self) -> Result<HashMap<ScopeRef, Offset>, ReadModelError> {
        parked(&mut self.connection, self.position.partition).await
    }

    /// The records that were refused, in their order.
    pub async fn refused(&mut self) -> Result<Vec<Offset>, ReadModelError> {
        let offsets: Vec<i64> = sqlx::query_scalar(
            "select record_offset from dead_letters where partition = $1 and kind = 'refused' order by 1",
        )
        .bind(self.position.partition.get() as i32)
        .fetch_all(&mut self.connection)
        .await?;
        Ok(offsets.into_iter().filter_map(Offset::from_i64).collect())
    }

    /// The next scopes of all partitions after one, in the order of their references; none at the end.
    pub async fn scopes(
        &mut self,
        after: Option<ScopeRef>,
    ) -> Result<Vec<(ScopeKey, Heading)>, ReadModelError> {
        let rows = sqlx::query(
            "select tenant_id, kind, name, restore as body, head as n1, floor as n2, clock_us as n3,
                 live_count as n4, live_bytes as n5, owners::bigint as n6, erased as n7, digest as b1
             from scopes where scope > $1 order by scope limit $2",
        )
        .bind(after.map_or(Uuid::nil(), |after| after.0))
        .bind(SCOPES_AT_ONCE)
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter().map(|row| Ok((key(row)?, heading(row)?))).collect()
    }

    /// The scope's members, removed ones too, in the order of their names' bytes.
    pub async fn members(
        &mut self,
        scope: ScopeRef,
    ) -> Result<Vec<(UserId, Member)>, ReadModelError> {
        let rows = sqlx::query(
            "select user_id as name, role as body, since_us as n1 from members where scope = $1
             order by user_id collate \"C\"",
        )
        .bind(scope.0)
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter().map(member).collect()
    }

    /// The next messages of a scope after a cursor, tombstones too; none at the end.
    pub async fn messages(
        &mut self,
        scope: ScopeRef,
        after: Cursor,
    ) -> Result<Vec<MessageRow>, ReadModelError> {
        let rows = sqlx::query(
            "select id, cursor as n1, updated_at_us as n2, created_at_us as n3, bytes as n4,
                 deleted_at_us as n5, content_hash as b1, body_hash as b2, restore_id as u1, json
             from messages where scope = $1 and cursor > $2 order by cursor limit $3",
        )
        .bind(scope.0)
        .bind(after.as_i64())
        .bind(MESSAGES_AT_ONCE)
        .fetch_all(&mut self.connection)
        .await?;
        let message = |row: &PgRow| {
            let (id, entry) = entry(row)?;
            Ok(MessageRow { id, entry, json: row.try_get("json")? })
        };
        rows.iter().map(message).collect()
    }

    /// The next outcomes of the partition's commands that may still be repeated, after one; none at the end.
    pub async fn outcomes(
        &mut self,
        after: Option<CommandId>,
    ) -> Result<Vec<OutcomeRow>, ReadModelError> {
        let Position { partition, clock, .. } = self.position;
        let rows = sqlx::query(
            "select command_id, record_offset, body from outcomes
             where command_id > $1 and partition = $2 and folded_at_us >= $3
             order by command_id limit $4",
        )
        .bind(after.map_or(Uuid::nil(), |after| after.0))
        .bind(partition.get() as i32)
        .bind(clock.time.as_micros() - OUTCOME_KEPT_MICROS)
        .bind(OUTCOMES_AT_ONCE)
        .fetch_all(&mut self.connection)
        .await?;
        let row = |row: &PgRow| {
            let number: i64 = row.try_get("record_offset")?;
            let damaged = || ReadModelError::Damaged(format!("an outcome has offset {number}"));
            Ok(OutcomeRow {
                id: CommandId(row.try_get("command_id")?),
                offset: Offset::from_i64(number).ok_or_else(damaged)?,
                outcome: outcome(row.try_get("body")?)?,
            })
        };
        rows.iter().map(row).collect()
    }

    /// The next past versions of the partition after one, with their keys ([`history_key`]) and scopes; none at the end.
    /// `only`: of one scope.
    pub async fn history(
        &mut self,
        after: Option<(Uuid, PastPlace)>,
        only: Option<ScopeRef>,
    ) -> Result<Vec<(Uuid, ScopeRef, PastRow)>, ReadModelError> {
        let (key, place) =
            after.unwrap_or((Uuid::nil(), PastPlace { offset: Offset::ZERO, change: 0 }));
        let rows = sqlx::query(
            "select id_key, scope, partition, record_offset, change, result, won_by, decided_at_us, json
             from message_history
             where (id_key, record_offset, change) > ($1, $2, $3) and partition = $4 and ($5 is null or scope = $5)
             order by id_key, record_offset, change limit $6",
        )
        .bind(key)
        .bind(place.offset.as_i64())
        .bind(place.change as i32)
        .bind(self.position.partition.get() as i32)
        .bind(only.map(|scope| scope.0))
        .bind(MESSAGES_AT_ONCE)
        .fetch_all(&mut self.connection)
        .await?;
        let row = |row: &PgRow| {
            let (key, scope) = (row.try_get("id_key")?, row.try_get("scope")?);
            Ok((key, ScopeRef(scope), past_row(row)?))
        };
        rows.iter().map(row).collect()
    }

    /// What tenants have that is not what their scopes sum up to, as it is kept for quotas, of all partitions: live
    /// messages and their bytes, and those of the scopes. `only`: of one tenant.
    pub async fn wrong_usage(
        &mut self,
        only: Option<&TenantId>,
    ) -> Result<Vec<(String, [i64; 2], [i64; 2])>, ReadModelError> {
        let rows = sqlx::query_as::<_, (String, i64, i64, i64, i64)>(
            "select tenant_id, coalesce(u.count, 0), coalesce(u.bytes, 0), coalesce(s.count, 0), coalesce(s.bytes, 0)
             from (select tenant_id, sum(live_count)::bigint as count, sum(live_bytes)::bigint as bytes
                   from tenant_usage group by tenant_id) u
                 full join (select tenant_id, sum(live_count)::bigint as count, sum(live_bytes)::bigint as bytes
                            from scopes group by tenant_id) s using (tenant_id)
             where (coalesce(u.count, 0) <> coalesce(s.count, 0) or coalesce(u.bytes, 0) <> coalesce(s.bytes, 0))
                 and ($1 is null or tenant_id = $1)
             order by tenant_id",
        )
        .bind(only.map(TenantId::as_str))
        .fetch_all(&mut self.connection)
        .await?;
        let sums = |(tenant, count, bytes, of_count, of_bytes)| {
            (tenant, [count, bytes], [of_count, of_bytes])
        };
        Ok(rows.into_iter().map(sums).collect())
    }

    /// Gives the connection back. Dropping it does too, some time later.
    pub async fn end(self) {
        let _ = self.connection.close().await;
    }
}

/// The first event that is parked, of each scope of a partition that has one (the projector's role).
pub async fn parked_in(
    pool: &Pool,
    partition: Partition,
) -> Result<HashMap<ScopeRef, Offset>, ReadModelError> {
    parked(pool, partition).await
}

async fn parked(
    connection: impl PgExecutor<'_>,
    partition: Partition,
) -> Result<HashMap<ScopeRef, Offset>, ReadModelError> {
    let rows = sqlx::query_as::<_, (Uuid, i64)>(
        "select scope, min(record_offset) from dead_letters
         where partition = $1 and kind = 'parked' and scope is not null group by scope",
    )
    .bind(partition.get() as i32)
    .fetch_all(connection)
    .await?;
    let first = |(scope, offset): (Uuid, i64)| Some((ScopeRef(scope), Offset::from_i64(offset)?));
    Ok(rows.into_iter().filter_map(first).collect())
}

fn key(row: &PgRow) -> Result<ScopeKey, ReadModelError> {
    let (tenant, kind, name): (&str, &str, &str) =
        (row.try_get("tenant_id")?, row.try_get("kind")?, row.try_get("name")?);
    let key = format!("{tenant}/{kind}/{name}");
    key.parse().map_err(|_| ReadModelError::Damaged(format!("{key} is no scope")))
}
