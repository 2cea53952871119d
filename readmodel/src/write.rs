//! Writing what a batch changed, as sets.

use std::sync::Arc;

use model::{
    CommandId, Heading, Member, Message, MessageId, Offset, Outcome, Partition, ScopeKey, ScopeRef,
    TenantId, Timestamp, UserId,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::ReadModelError,
    key::{content_key, id_key},
};

/// The final images of what a batch changed.
#[derive(Debug, Default)]
pub struct Writes {
    pub scopes: Vec<(ScopeKey, Heading)>,
    pub members: Vec<MemberImage>,
    /// Messages whose rows are there already: they are deleted, then inserted at their new cursors.
    pub replaced: Vec<(ScopeRef, MessageId)>,
    pub messages: Vec<MessageImage>,
    pub outcomes: Vec<OutcomeImage>,
    pub dead_letters: Vec<DeadLetter>,
}

#[derive(Debug)]
pub struct MemberImage {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub user: UserId,
    pub member: Member,
}

#[derive(Debug)]
pub struct MessageImage {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub message: Message,
}

#[derive(Debug)]
pub struct OutcomeImage {
    pub id: CommandId,
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub partition: Partition,
    pub offset: Offset,
    pub outcome: Arc<Outcome>,
}

/// A record that became no rows.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub partition: Partition,
    pub offset: Offset,
    pub kind: DeadLetterKind,
    pub scope: Option<ScopeRef>,
    pub append_time: Timestamp,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterKind {
    /// It is no event, or contradicts itself.
    Refused,
    /// The database refused it; it waits for an operator.
    Parked,
}

impl DeadLetterKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Parked => "parked",
        }
    }
}

impl Writes {
    pub(crate) async fn run(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        if !self.replaced.is_empty() {
            self.delete_replaced(connection).await?;
        }
        if !(self.messages.is_empty() && self.scopes.is_empty() && self.outcomes.is_empty()) {
            self.insert(connection).await?;
        }
        if !self.members.is_empty() {
            self.insert_members(connection).await?;
        }
        if !self.dead_letters.is_empty() {
            self.insert_dead_letters(connection).await?;
        }
        Ok(())
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

    /// Messages, scopes and outcomes: three tables, one round trip.
    async fn insert(&self, connection: &mut PgConnection) -> Result<(), ReadModelError> {
        const INSERT: &str = "
with message as (
    insert into messages (scope, cursor, id, id_key, content_key, tenant_id, content_hash, body_hash,
        updated_at_us, created_at_us, deleted_at_us, bytes, json_bytes, json)
    select * from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[],
        $7::bytea[], $8::bytea[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::int[],
        $14::text[])
), outcome as (
    insert into outcomes (command_id, scope, tenant_id, actor, partition, record_offset, folded_at_us, body)
    select * from unnest($15::uuid[], $16::uuid[], $17::text[], $18::text[], $19::int[], $20::bigint[],
        $21::bigint[], $22::text[])
    on conflict (command_id) do update
    set actor = excluded.actor, partition = excluded.partition, record_offset = excluded.record_offset,
        folded_at_us = excluded.folded_at_us, body = excluded.body
)
insert into scopes (scope, tenant_id, kind, name, head, floor, clock_us, live_count, live_bytes, digest, owners)
select * from unnest($23::uuid[], $24::text[], $25::text[], $26::text[], $27::bigint[], $28::bigint[],
    $29::bigint[], $30::bigint[], $31::bigint[], $32::bytea[], $33::int[])
on conflict (scope) do update
set head = excluded.head, floor = excluded.floor, clock_us = excluded.clock_us,
    live_count = excluded.live_count, live_bytes = excluded.live_bytes, digest = excluded.digest,
    owners = excluded.owners";
        let query = bind_messages(sqlx::query(INSERT), &self.messages);
        let query = bind_outcomes(query, &self.outcomes)?;
        bind_scopes(query, &self.scopes).execute(connection).await?;
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

    async fn insert_dead_letters(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), ReadModelError> {
        let letters = &self.dead_letters;
        sqlx::query(
            "insert into dead_letters (partition, record_offset, kind, scope, append_time_us, key,
                 value, reason)
             select * from unnest($1::int[], $2::bigint[], $3::text[], $4::uuid[], $5::bigint[],
                 $6::bytea[], $7::bytea[], $8::text[])",
        )
        .bind(each(letters, |d| d.partition.get() as i32))
        .bind(each(letters, |d| d.offset.as_i64()))
        .bind(each(letters, |d| d.kind.as_str()))
        .bind(each(letters, |d| d.scope.map(|scope| scope.0)))
        .bind(each(letters, |d| d.append_time.as_micros()))
        .bind(each(letters, |d| d.key.as_slice()))
        .bind(each(letters, |d| d.value.as_slice()))
        // Postgres takes no NUL in text; a reason may quote the record.
        .bind(each(letters, |d| d.reason.replace('\0', "\u{fffd}")))
        .execute(connection)
        .await?;
        Ok(())
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn each<'a, T, U>(list: &'a [T], part: impl Fn(&'a T) -> U) -> Vec<U> {
    list.iter().map(part).collect()
}

fn bind_messages<'q>(query: Query<'q>, images: &'q [MessageImage]) -> Query<'q> {
    let entry = |image: &'q MessageImage| &image.message.entry;
    let json: Vec<String> = each(images, |i| i.message.to_json());
    query
        .bind(each(images, |i| i.scope.0))
        .bind(each(images, |i| entry(i).cursor.as_i64()))
        .bind(each(images, |i| i.message.id.0))
        .bind(each(images, |i| id_key(i.scope, &i.message.id)))
        .bind(each(images, |i| {
            entry(i).is_live().then(|| content_key(i.scope, &entry(i).content_hash))
        }))
        .bind(each(images, |i| i.tenant.as_str()))
        .bind(each(images, |i| &entry(i).content_hash.0[..]))
        .bind(each(images, |i| &entry(i).version.body.0[..]))
        .bind(each(images, |i| entry(i).version.updated_at.as_micros()))
        .bind(each(images, |i| entry(i).created_at.as_micros()))
        .bind(each(images, |i| entry(i).deleted_at.map(Timestamp::as_micros)))
        .bind(each(images, |i| entry(i).bytes as i64))
        .bind(json.iter().map(|json| json.len() as i32).collect::<Vec<_>>())
        .bind(json)
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

fn bind_scopes<'q>(query: Query<'q>, scopes: &'q [(ScopeKey, Heading)]) -> Query<'q> {
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
}
