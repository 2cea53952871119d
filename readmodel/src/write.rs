//! Writing what a batch changed, as sets.

use std::{collections::HashMap, sync::Arc};

use model::{
    BackupId, CommandId, Cursor, Entry, Heading, Member, Message, MessageId, Offset, Outcome,
    Partition, RestoreCounts, RestoreRecord, RestoreStatus, ScopeKey, ScopeRef, TenantId,
    Timestamp, UserId,
};
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    dead_letters::{DeadLetter, insert_dead_letters},
    erasures::{ErasedImage, erase},
    error::ReadModelError,
    history::{PastImage, insert_history},
    key::{content_key, id_key},
    projection::Advance,
};

/// The final images of what a batch changed.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    pub scopes: Vec<(ScopeKey, Heading)>,
    pub members: Vec<MemberImage>,
    /// Messages whose rows are there already: they are deleted, then inserted at their new cursors.
    pub replaced: Vec<(ScopeRef, MessageId)>,
    /// Scopes whose tombstones up to a cursor have expired: their rows are deleted.
    pub floors: Vec<(ScopeRef, Cursor)>,
    pub messages: Vec<MessageImage>,
    pub history: Vec<PastImage>,
    pub outcomes: Vec<OutcomeImage>,
    pub backups: Vec<RequestedBackup>,
    pub restores: Vec<RestoreImage>,
    pub dead_letters: Vec<DeadLetter>,
    pub erased: Vec<ErasedImage>,
    /// Nobody has looked for the messages, contents and commands that these rows are of: they are written only if
    /// none of them is there.
    pub taken_for_new: bool,
}

#[derive(Clone, Debug)]
pub struct MemberImage {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub user: UserId,
    pub member: Member,
}

#[derive(Clone, Debug)]
pub struct MessageImage {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub id: MessageId,
    pub entry: Entry,
    /// The message as a pull gives it.
    pub json: String,
}

impl MessageImage {
    pub fn new(scope: ScopeRef, tenant: TenantId, message: Message) -> Self {
        let json = message.to_json();
        Self { scope, tenant, id: message.id, entry: message.entry, json }
    }
}

#[derive(Clone, Debug)]
pub struct OutcomeImage {
    pub id: CommandId,
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub partition: Partition,
    pub offset: Offset,
    pub outcome: Arc<Outcome>,
}

/// A backup that was asked for: pending, until the archiver says that it is there.
#[derive(Clone, Debug)]
pub struct RequestedBackup {
    pub id: BackupId,
    pub scope: ScopeKey,
    /// The log's time of the request.
    pub at: Timestamp,
}

/// A restore as it stands after the batch.
#[derive(Clone, Debug)]
pub struct RestoreImage {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub record: RestoreRecord,
}

/// Compare-and-set of the positions, then messages, scopes, outcomes and what the tenants hold: one statement, a transaction of
/// its own. `fence` locks the positions, and holds if they all stand where the batch began; whoever has
/// lost a race to them finds that out before anything of theirs is inserted, and writes nothing. `gate` is open where it
/// holds and, of a batch that is taken for new, no unique index has refused a message or an outcome: `insert_new` has inserted them.
///
/// `select unnest(…), unnest(…)`, not `from unnest(…, …)`: that stores each array before it joins them,
/// three times the work for one row and half as much again for many.
const WRITE: &str = "
with standing as materialized (
    select p.partition
    from (select unnest($1::int[]), unnest($2::bigint[]), unnest($45::bigint[])) as a (partition, expected, rebuilds)
        join positions p on p.partition = a.partition and p.next_offset = a.expected and p.rebuilds = a.rebuilds
    for update of p
), fence as materialized (
    select count(*) = cardinality($1) as holds from standing
), gate as materialized (
    select holds, case
            when holds and $47 then context_sync.insert_new($8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                $20, $21, $43, $22, $23, $24, $25, $26, $27, $28, $29)
            else holds
        end as is_open
    from fence
), position as (
    update positions p
    set next_offset = a.next_offset, time_us = a.time_us, rules = a.rules,
        last_offset = a.last_offset, last_hash = a.last_hash
    from (select unnest($1::int[]), unnest($3::bigint[]), unnest($4::bigint[]), unnest($5::int[]),
            unnest($6::bigint[]), unnest($7::bytea[]))
        as a (partition, next_offset, time_us, rules, last_offset, last_hash)
    where (select is_open from gate) and p.partition = a.partition
), message as (
    insert into messages (scope, cursor, id, id_key, content_key, tenant_id, content_hash, body_hash,
        updated_at_us, created_at_us, deleted_at_us, bytes, json_bytes, json, restore_id)
    select unnest($8::uuid[]), unnest($9::bigint[]), unnest($10::uuid[]), unnest($11::uuid[]),
        unnest($12::uuid[]), unnest($13::text[]), unnest($14::bytea[]), unnest($15::bytea[]),
        unnest($16::bigint[]), unnest($17::bigint[]), unnest($18::bigint[]), unnest($19::bigint[]),
        unnest($20::int[]), unnest($21::text[]), unnest($43::uuid[])
    where (select is_open from gate) and not $47
), outcome as (
    insert into outcomes (command_id, scope, tenant_id, actor, partition, record_offset, folded_at_us, body)
    select unnest($22::uuid[]), unnest($23::uuid[]), unnest($24::text[]), unnest($25::text[]),
        unnest($26::int[]), unnest($27::bigint[]), unnest($28::bigint[]), unnest($29::text[])
    where (select is_open from gate) and not $47
    on conflict (command_id) do update
    set actor = excluded.actor, partition = excluded.partition, record_offset = excluded.record_offset,
        folded_at_us = excluded.folded_at_us, body = excluded.body
), scope as (
    insert into scopes (scope, tenant_id, kind, name, head, floor, clock_us, live_count, live_bytes,
        digest, owners, json_bytes_max, restore, erased)
    select unnest($30::uuid[]), unnest($31::text[]), unnest($32::text[]), unnest($33::text[]),
        unnest($34::bigint[]), unnest($35::bigint[]), unnest($36::bigint[]), unnest($37::bigint[]),
        unnest($38::bigint[]), unnest($39::bytea[]), unnest($40::int[]), unnest($41::int[]),
        unnest($44::text[]), unnest($46::bigint[])
    where (select is_open from gate)
    on conflict (scope) do update
    set head = excluded.head, floor = excluded.floor, clock_us = excluded.clock_us,
        live_count = excluded.live_count, live_bytes = excluded.live_bytes, digest = excluded.digest,
        owners = excluded.owners, restore = excluded.restore, erased = excluded.erased,
        json_bytes_max = greatest(scopes.json_bytes_max, excluded.json_bytes_max)
), grown as (
    select n.tenant_id, sum(n.live_count - coalesce(s.live_count, 0))::bigint as live_count,
        sum(n.live_bytes - coalesce(s.live_bytes, 0))::bigint as live_bytes
    from (select unnest($30::uuid[]), unnest($31::text[]), unnest($37::bigint[]), unnest($38::bigint[]))
            as n (scope, tenant_id, live_count, live_bytes)
        left join scopes s on s.scope = n.scope -- as it was before this statement
    where (select is_open from gate)
    group by n.tenant_id
), usage as (
    insert into tenant_usage (tenant_id, partition, live_count, live_bytes)
    -- What was parked moves no position: the row of partition 0, as what was there before anything was summed up.
    select tenant_id, (select coalesce(min(partition), 0) from unnest($1::int[]) as own (partition)),
        live_count, live_bytes
    from grown
    where live_count <> 0 or live_bytes <> 0
    on conflict (tenant_id, partition) do update
    set live_count = tenant_usage.live_count + excluded.live_count,
        live_bytes = tenant_usage.live_bytes + excluded.live_bytes
)
select holds, is_open, case when is_open and $42 then pg_notify('context_sync', '')::text end
from gate";

impl Writes {
    /// Writes all of it and advances the positions, or does nothing. `notify`: tells other processes
    /// once it is committed.
    pub(crate) async fn commit(
        &self,
        connection: &mut PgConnection,
        advances: &[Advance],
        notify: bool,
    ) -> Result<(), ReadModelError> {
        let one_statement = self.replaced.is_empty()
            && self.floors.is_empty()
            && self.history.is_empty()
            && self.members.is_empty()
            && self.backups.is_empty()
            && self.restores.is_empty()
            && self.dead_letters.is_empty()
            && self.erased.is_empty();
        if one_statement {
            return self.write(connection, advances, notify).await;
        }
        let mut transaction = connection.begin().await?;
        let deletes =
            !self.replaced.is_empty() || !self.floors.is_empty() || !self.erased.is_empty();
        if deletes || !self.history.is_empty() {
            fence(&mut transaction, advances).await?;
        }
        match self.commit_in(&mut transaction, advances, notify).await {
            // The positions must not stay locked while it is folded again.
            Err(ReadModelError::NotNew) => {
                transaction.rollback().await?;
                Err(ReadModelError::NotNew)
            }
            done => {
                done?;
                Ok(transaction.commit().await?)
            }
        }
    }

    /// Writes all of it in a transaction that has looked at the positions.
    pub(crate) async fn commit_in(
        &self,
        transaction: &mut PgConnection,
        advances: &[Advance],
        notify: bool,
    ) -> Result<(), ReadModelError> {
        // First: what the batch adds besides came after the erasure.
        if !self.erased.is_empty() {
            erase(transaction, &self.erased).await?;
        }
        // Then: it takes up what is replaced.
        if !self.history.is_empty() {
            insert_history(transaction, &self.history).await?;
        }
        if !self.replaced.is_empty() {
            self.delete_replaced(transaction).await?;
        }
        // Before what is there again under the same ids.
        if !self.floors.is_empty() {
            self.delete_tombstones(transaction).await?;
        }
        self.write(transaction, advances, notify).await?;
        if !self.members.is_empty() {
            self.insert_members(transaction).await?;
        }
        if !self.backups.is_empty() {
            self.insert_backups(transaction).await?;
        }
        if !self.restores.is_empty() {
            self.insert_restores(transaction).await?;
        }
        if !self.dead_letters.is_empty() {
            insert_dead_letters(transaction, &self.dead_letters).await?;
        }
        Ok(())
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        advances: &[Advance],
        notify: bool,
    ) -> Result<(), ReadModelError> {
        let query = bind_advances(sqlx::query(WRITE), advances);
        let query = bind_outcomes(bind_messages(query, &self.messages), &self.outcomes)?;
        let query = bind_scopes(query, &self.scopes, &self.json_bytes_max()).bind(notify);
        let query = bind_restores(query, self)?.bind(rebuilds(advances));
        let query = query.bind(each(&self.scopes, |(_, heading)| heading.erased.as_i64()));
        let row = query.bind(self.taken_for_new).fetch_one(connection).await?;
        held(row.try_get("holds")?)?;
        if row.try_get("is_open")? { Ok(()) } else { Err(ReadModelError::NotNew) }
    }

    /// The longest JSON that the batch writes into each scope.
    fn json_bytes_max(&self) -> HashMap<ScopeRef, usize> {
        let mut longest = HashMap::new();
        for image in &self.messages {
            let bytes = longest.entry(image.scope).or_insert(0);
            *bytes = image.json.len().max(*bytes);
        }
        longest
    }

    async fn delete_replaced(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        let keys: Vec<Uuid> = self.replaced.iter().map(|(scope, id)| id_key(*scope, id)).collect();
        sqlx::query(
            "delete from messages m using unnest($1::uuid[]) as d (id_key) where m.id_key = d.id_key",
        )
        .bind(keys)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// By an expression: a condition on `scope` itself would let the planner read the scope by its primary key
    /// (docs/decisions/0005-rows.md).
    async fn delete_tombstones(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        sqlx::query(
            "delete from messages m using unnest($1::uuid[], $2::bigint[]) as e (scope, floor)
             where m.deleted_at_us is not null
                 and (case when m.deleted_at_us is not null then m.scope end) = e.scope
                 and m.cursor <= e.floor",
        )
        .bind(each(&self.floors, |(scope, _)| scope.0))
        .bind(each(&self.floors, |(_, floor)| floor.as_i64()))
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn insert_members(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        sqlx::query(
            "insert into members (scope, user_id, tenant_id, role, since_us)
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[])
             on conflict (scope, user_id) do update
             set role = excluded.role, since_us = excluded.since_us",
        )
        .bind(each(&self.members, |m| m.scope.0))
        .bind(each(&self.members, |m| m.user.as_str()))
        .bind(each(&self.members, |m| m.tenant.as_str()))
        .bind(each(&self.members, |m| m.member.role.map(|role| role.as_str())))
        .bind(each(&self.members, |m| m.member.since.as_micros()))
        .execute(connection)
        .await?;
        Ok(())
    }

    /// A fact of the archiver may have been quicker.
    async fn insert_backups(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        sqlx::query(
            "insert into context_backups (id, tenant_id, scope_type, scope_id, scope, backup_type, status,
                 created_at)
             select id, tenant_id, scope_type, scope_id, scope, 'on_demand', 'pending', to_timestamp(at_us / 1e6)
             from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::bigint[])
                 as b (id, tenant_id, scope_type, scope_id, scope, at_us)
             on conflict (id) do nothing",
        )
        .bind(each(&self.backups, |b| b.id.0))
        .bind(each(&self.backups, |b| b.scope.tenant.as_str()))
        .bind(each(&self.backups, |b| b.scope.kind.as_str()))
        .bind(each(&self.backups, |b| b.scope.name.as_str()))
        .bind(each(&self.backups, |b| b.scope.reference().0))
        .bind(each(&self.backups, |b| b.at.as_micros()))
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn insert_restores(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        let counts = |of: fn(&RestoreCounts) -> u64| {
            each(&self.restores, |r| of(&r.record.restore.counts) as i64)
        };
        sqlx::query(
            "insert into restores (id, tenant_id, scope, backup_id, mode, status, restored, skipped, deleted,
                 code, detail)
             select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::text[],
                 $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[])
             on conflict (id) do update
             set status = excluded.status, restored = excluded.restored, skipped = excluded.skipped,
                 deleted = excluded.deleted, code = excluded.code, detail = excluded.detail",
        )
        .bind(each(&self.restores, |r| r.record.restore.id.0))
        .bind(each(&self.restores, |r| r.tenant.as_str()))
        .bind(each(&self.restores, |r| r.scope.0))
        .bind(each(&self.restores, |r| r.record.restore.backup.0))
        .bind(each(&self.restores, |r| r.record.restore.mode.as_str()))
        .bind(each(&self.restores, |r| status(&r.record.status).0))
        .bind(counts(|counts| counts.restored))
        .bind(counts(|counts| counts.skipped))
        .bind(counts(|counts| counts.deleted))
        .bind(each(&self.restores, |r| status(&r.record.status).1))
        .bind(each(&self.restores, |r| status(&r.record.status).2))
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The status, and why it failed.
fn status(status: &RestoreStatus) -> (&'static str, Option<&'static str>, Option<String>) {
    match status {
        RestoreStatus::Running => ("running", None, None),
        RestoreStatus::Completed { .. } => ("completed", None, None),
        RestoreStatus::Failed { code, detail, .. } => {
            ("failed", Some(code.as_str()), Some(detail.replace('\0', "\u{fffd}")))
        }
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

pub(crate) fn each<'a, T, U>(list: &'a [T], part: impl Fn(&'a T) -> U) -> Vec<U> {
    list.iter().map(part).collect()
}

/// The compare of the compare-and-set, before the first row of a transaction is touched.
pub(crate) async fn fence(
    connection: &mut PgConnection,
    advances: &[Advance],
) -> Result<(), ReadModelError> {
    let standing = sqlx::query(
        "select from unnest($1::int[], $2::bigint[], $3::bigint[]) as a (partition, expected, rebuilds)
             join positions p on p.partition = a.partition and p.next_offset = a.expected
                 and p.rebuilds = a.rebuilds
         for update of p",
    )
    .bind(each(advances, |a| a.partition.get() as i32))
    .bind(each(advances, |a| a.from.as_i64()))
    .bind(rebuilds(advances))
    .fetch_all(connection)
    .await?;
    held(standing.len() == advances.len())
}

fn rebuilds(advances: &[Advance]) -> Vec<i64> {
    each(advances, |a| a.to.rebuilds as i64)
}

fn held(holds: bool) -> Result<(), ReadModelError> {
    if holds { Ok(()) } else { Err(ReadModelError::PositionMoved) }
}

fn bind_advances<'q>(query: Query<'q>, advances: &'q [Advance]) -> Query<'q> {
    query
        .bind(each(advances, |a| a.partition.get() as i32))
        .bind(each(advances, |a| a.from.as_i64()))
        .bind(each(advances, |a| a.to.next_offset.as_i64()))
        .bind(each(advances, |a| a.to.clock.time.as_micros()))
        .bind(each(advances, |a| a.to.clock.rules.0 as i32))
        .bind(each(advances, |a| a.to.last.map(|last| last.offset.as_i64())))
        .bind(each(advances, |a| a.to.last.as_ref().map(|last| &last.hash[..])))
}

fn bind_messages<'q>(query: Query<'q>, images: &'q [MessageImage]) -> Query<'q> {
    query
        .bind(each(images, |i| i.scope.0))
        .bind(each(images, |i| i.entry.cursor.as_i64()))
        .bind(each(images, |i| i.id.0))
        .bind(each(images, |i| id_key(i.scope, &i.id)))
        .bind(each(images, |i| {
            i.entry.is_live().then(|| content_key(i.scope, &i.entry.content_hash))
        }))
        .bind(each(images, |i| i.tenant.as_str()))
        .bind(each(images, |i| &i.entry.content_hash.0[..]))
        .bind(each(images, |i| &i.entry.version.body.0[..]))
        .bind(each(images, |i| i.entry.version.updated_at.as_micros()))
        .bind(each(images, |i| i.entry.created_at.as_micros()))
        .bind(each(images, |i| i.entry.deleted_at.map(Timestamp::as_micros)))
        .bind(each(images, |i| i.entry.bytes as i64))
        .bind(each(images, |i| i.json.len() as i32))
        .bind(each(images, |i| i.json.as_str()))
}

fn bind_restores<'q>(query: Query<'q>, writes: &'q Writes) -> Result<Query<'q>, ReadModelError> {
    let running = |(_, heading): &(ScopeKey, Heading)| {
        heading.restore.as_ref().map(serde_json::to_string).transpose()
    };
    let running: Vec<Option<String>> = writes
        .scopes
        .iter()
        .map(running)
        .collect::<Result<_, _>>()
        .map_err(|e| ReadModelError::Damaged(format!("a running restore is not JSON: {e}")))?;
    Ok(query.bind(each(&writes.messages, |i| i.entry.restore.map(|id| id.0))).bind(running))
}

fn bind_outcomes<'q>(
    query: Query<'q>,
    images: &'q [OutcomeImage],
) -> Result<Query<'q>, ReadModelError> {
    let bodies = images
        .iter()
        .map(|image| serde_json::to_string(image.outcome.as_ref()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| ReadModelError::Damaged(format!("an outcome is not JSON: {e}")))?;
    Ok(query
        .bind(each(images, |i| i.id.0))
        .bind(each(images, |i| i.scope.0))
        .bind(each(images, |i| i.tenant.as_str()))
        .bind(each(images, |i| i.outcome.actor.as_str()))
        .bind(each(images, |i| i.partition.get() as i32))
        .bind(each(images, |i| i.offset.as_i64()))
        .bind(each(images, |i| i.outcome.folded_at.as_micros()))
        .bind(bodies))
}

fn bind_scopes<'q>(
    query: Query<'q>,
    scopes: &'q [(ScopeKey, Heading)],
    json_bytes_max: &HashMap<ScopeRef, usize>,
) -> Query<'q> {
    let longest = |key: &ScopeKey| json_bytes_max.get(&key.reference()).map_or(0, |n| *n as i32);
    query
        .bind(each(scopes, |(key, _)| key.reference().0))
        .bind(each(scopes, |(key, _)| key.tenant.as_str()))
        .bind(each(scopes, |(key, _)| key.kind.as_str()))
        .bind(each(scopes, |(key, _)| key.name.as_str()))
        .bind(each(scopes, |(_, heading)| heading.head.as_i64()))
        .bind(each(scopes, |(_, heading)| heading.floor.as_i64()))
        .bind(each(scopes, |(_, heading)| heading.clock.as_micros()))
        .bind(each(scopes, |(_, heading)| heading.count as i64))
        .bind(each(scopes, |(_, heading)| heading.bytes as i64))
        .bind(each(scopes, |(_, heading)| heading.digest.to_bytes().to_vec()))
        .bind(each(scopes, |(_, heading)| heading.owners as i32))
        .bind(each(scopes, |(key, _)| longest(key)))
}
