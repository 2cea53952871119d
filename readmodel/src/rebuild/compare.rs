//! Comparing the rebuilt rows with the live ones, all of one snapshot.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use model::{
    BodyHash, Cursor, Digest, MessageId, ScopeKey, ScopeRef, Timestamp, Version,
    limits::OUTCOME_KEPT_MICROS,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Extent, Rebuild};
use crate::{
    connect::{self, ProjectionSet},
    error::ReadModelError,
    load::hash32,
    projection::{Position, positions_of},
};

/// Past versions are kept for a day at least.
const DAY_MICROS: i64 = 24 * 3_600_000_000;
/// Scopes compared at once.
const SCOPES_AT_ONCE: i64 = 500;

/// What a scope sums up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub head: Cursor,
    /// Of the live messages.
    pub count: u64,
    pub digest: Digest,
}

/// A scope whose live rows are not what its events come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeDifference {
    pub reference: ScopeRef,
    /// `tenant/kind/name`; none where neither set has the scope.
    pub scope: Option<ScopeKey>,
    /// `None`: the set has no such scope.
    pub live: Option<Sums>,
    pub rebuilt: Option<Sums>,
    /// How many rows of each table differ, or are in one set only; of messages, places.
    pub messages: u64,
    pub members: u64,
    pub outcomes: u64,
    pub restores: u64,
    pub dead_letters: u64,
    /// Versions that are past.
    pub history: u64,
    /// The first place of a message that differs.
    pub first: Option<Cursor>,
}

/// What a tenant has, as quotas are compared with it: live messages and their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantDifference {
    pub tenant: String,
    pub live: (i64, i64),
    pub rebuilt: (i64, i64),
}

/// Compares both sets as they were when it began, whatever is committed meanwhile.
pub struct Comparing {
    pub(super) connection: PgConnection,
    pub(super) shadow: &'static str,
    extent: Extent,
    /// How many scopes there are to compare, and were compared.
    pub total: u64,
    pub done: u64,
    last: Option<ScopeRef>,
    /// Differences of tables that are not kept by scope.
    besides: Besides,
}

/// By scope, how many rows differ.
#[derive(Default)]
struct Besides {
    outcomes: HashMap<Uuid, u64>,
    restores: HashMap<Uuid, u64>,
    dead_letters: HashMap<Uuid, u64>,
    history: HashMap<Uuid, u64>,
    tenants: Vec<TenantDifference>,
}

impl Rebuild {
    /// Begins to compare. Both sets should be held at the same positions; once this returns, they may move.
    pub async fn compare(&self) -> Result<Comparing, ReadModelError> {
        let mut connection = connect::reader(&self.config).await?;
        sqlx::raw_sql("begin isolation level repeatable read read only")
            .execute(&mut connection)
            .await?;
        let shadow = self.extent.set().schema();
        // The first statement takes the snapshot.
        let only = match &self.extent {
            Extent::Scope(scope) => format!("where scope = '{}'", scope.reference().0),
            Extent::All => String::new(),
        };
        let count = format!(
            "select count(*) from (select scope from context_sync.scopes
                 union select scope from {shadow}.scopes) s {only}"
        );
        let total: i64 =
            sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut connection).await?;
        let live = positions_of(&mut connection, ProjectionSet::Live).await?;
        let mut comparing = Self::comparing(connection, shadow, self.extent.clone(), total);
        comparing.find_besides(&live).await?;
        Ok(comparing)
    }

    fn comparing(
        connection: PgConnection,
        shadow: &'static str,
        extent: Extent,
        total: i64,
    ) -> Comparing {
        let (total, done, last) = (total.unsigned_abs(), 0, None);
        Comparing { connection, shadow, extent, total, done, last, besides: Besides::default() }
    }
}

impl Comparing {
    /// The differences of the next scopes; `None` at the end.
    ///
    /// # Errors
    /// [`ReadModelError::Damaged`] if the rebuilt messages do not come to what their scope says: then they must not
    /// take anyone's place.
    pub async fn next(&mut self) -> Result<Option<Vec<ScopeDifference>>, ReadModelError> {
        let scopes = self.next_scopes().await?;
        let Some(last) = scopes.last() else { return Ok(None) };
        self.last = Some(ScopeRef(*last));
        self.done += scopes.len() as u64;
        self.verify(&scopes).await?;
        let shadow = self.shadow;
        let query = format!(
            "with message as (
                 select coalesce(l.scope, s.scope) as scope, count(*) as places,
                     min(coalesce(l.cursor, s.cursor)) as first
                 from (select * from context_sync.messages where scope = any($1)) l
                     full join (select * from {shadow}.messages where scope = any($1)) s
                         on s.scope = l.scope and s.cursor = l.cursor
                 where l is distinct from s
                 group by 1
             ), member as (
                 select coalesce(l.scope, s.scope) as scope, count(*) as users
                 from (select * from context_sync.members where scope = any($1)) l
                     full join (select * from {shadow}.members where scope = any($1)) s
                         on s.scope = l.scope and s.user_id = l.user_id
                 where l is distinct from s
                 group by 1
             )
             select w.scope, coalesce(l.tenant_id, s.tenant_id) || '/' || coalesce(l.kind, s.kind) || '/'
                     || coalesce(l.name, s.name) as key,
                 l.head as live_head, l.live_count as live_count, l.digest as live_digest,
                 s.head as rebuilt_head, s.live_count as rebuilt_count, s.digest as rebuilt_digest,
                 (l.head, l.floor, l.erased, l.clock_us, l.live_count, l.live_bytes, l.digest, l.owners, l.restore)
                     is distinct from
                 (s.head, s.floor, s.erased, s.clock_us, s.live_count, s.live_bytes, s.digest, s.owners, s.restore)
                     as heading_differs,
                 coalesce(message.places, 0) as messages, message.first, coalesce(member.users, 0) as members
             from unnest($1::uuid[]) as w (scope)
                 left join context_sync.scopes l on l.scope = w.scope
                 left join {shadow}.scopes s on s.scope = w.scope
                 left join message on message.scope = w.scope
                 left join member on member.scope = w.scope
             order by w.scope"
        );
        let rows =
            sqlx::query(AssertSqlSafe(query)).bind(&scopes).fetch_all(&mut self.connection).await?;
        let found = rows.iter().map(|row| self.difference(row)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(found.into_iter().flatten().collect()))
    }

    /// The tenants of which the sets say that they have something else.
    pub fn tenants(&mut self) -> Vec<TenantDifference> {
        std::mem::take(&mut self.besides.tenants)
    }

    /// Gives the connection back.
    pub async fn end(self) {
        let _ = self.connection.close().await;
    }

    async fn next_scopes(&mut self) -> Result<Vec<Uuid>, ReadModelError> {
        if let Extent::Scope(scope) = &self.extent {
            let is_next = self.last.is_none() && self.total > 0;
            return Ok(is_next.then(|| scope.reference().0).into_iter().collect());
        }
        let query = format!(
            "(select scope from context_sync.scopes where scope > $1 order by scope limit $2)
             union (select scope from {}.scopes where scope > $1 order by scope limit $2)
             order by scope limit $2",
            self.shadow
        );
        let after = self.last.map_or(Uuid::nil(), |last| last.0);
        let query = sqlx::query_scalar(AssertSqlSafe(query)).bind(after).bind(SCOPES_AT_ONCE);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    fn difference(&self, row: &PgRow) -> Result<Option<ScopeDifference>, ReadModelError> {
        let scope: Uuid = row.try_get("scope")?;
        let number =
            |column: &str| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
        let of = |counts: &HashMap<Uuid, u64>| counts.get(&scope).copied().unwrap_or(0);
        let key: Option<String> = row.try_get("key")?;
        let difference = ScopeDifference {
            reference: ScopeRef(scope),
            scope: key.and_then(|key| key.parse().ok()),
            live: sums(row, "live")?,
            rebuilt: sums(row, "rebuilt")?,
            messages: number("messages")?,
            members: number("members")?,
            outcomes: of(&self.besides.outcomes),
            restores: of(&self.besides.restores),
            dead_letters: of(&self.besides.dead_letters),
            history: of(&self.besides.history),
            first: row.try_get::<Option<i64>, _>("first")?.map(Cursor::from_i64),
        };
        let is_one = row.try_get("heading_differs")?
            || difference.messages > 0
            || difference.members > 0
            || difference.outcomes > 0
            || difference.restores > 0
            || difference.dead_letters > 0
            || difference.history > 0;
        Ok(is_one.then_some(difference))
    }

    /// What the rebuilt messages come to is what their scopes say.
    async fn verify(&mut self, scopes: &[Uuid]) -> Result<(), ReadModelError> {
        let shadow = self.shadow;
        let mut found: HashMap<Uuid, (i64, Digest)> = HashMap::new();
        let query = format!(
            "select scope, id, updated_at_us, body_hash from {shadow}.messages
             where scope = any($1) and content_key is not null"
        );
        let mut rows = sqlx::query(AssertSqlSafe(query)).bind(scopes).fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await? {
            let updated_at = Timestamp::from_micros(row.try_get("updated_at_us")?);
            let body = BodyHash(hash32(row.try_get("body_hash")?)?);
            let item = Version { updated_at, body }.item(MessageId(row.try_get("id")?));
            let (count, digest) = found.entry(row.try_get("scope")?).or_insert((0, Digest::EMPTY));
            *count += 1;
            digest.add(item);
        }
        drop(rows);
        let query =
            format!("select scope, live_count, digest from {shadow}.scopes where scope = any($1)");
        let rows =
            sqlx::query(AssertSqlSafe(query)).bind(scopes).fetch_all(&mut self.connection).await?;
        for row in rows {
            let (scope, count): (Uuid, i64) = (row.try_get("scope")?, row.try_get("live_count")?);
            let digest = Digest::from_bytes(&hash32(row.try_get("digest")?)?);
            let (found_count, found_digest) = found.remove(&scope).unwrap_or((0, Digest::EMPTY));
            if (found_count, found_digest) != (count, digest) {
                let problem = format!(
                    "the rebuilt messages of scope {scope} come to {found_count} with digest {found_digest}, \
                     their scope says {count} with {digest}"
                );
                return Err(ReadModelError::Damaged(problem));
            }
        }
        Ok(())
    }

    /// Outcomes that a command may still repeat, restores, dead letters, past versions, and what tenants have.
    async fn find_besides(&mut self, live: &[Position]) -> Result<(), ReadModelError> {
        let since = "join unnest($1::int[], $2::bigint[]) as k (partition, since)
            on k.partition = t.partition and t.{at} >= k.since";
        let known_from = |p: &Position| {
            (p.partition.get() as i32, p.clock.time.as_micros() - OUTCOME_KEPT_MICROS)
        };
        let known: Vec<_> = live.iter().map(known_from).collect();
        let kept = self.history_kept(live).await?;
        let (known_only, kept_only) =
            (since.replace("{at}", "folded_at_us"), since.replace("{at}", "decided_at_us"));
        let (letter, past) =
            ("(t.partition, t.record_offset)", "(t.id_key, t.record_offset, t.change)");
        self.besides = Besides {
            outcomes: self.differing("outcomes", "t.command_id", &known_only, &known).await?,
            restores: self.differing("restores", "t.id", "", &[]).await?,
            dead_letters: self.differing("dead_letters", letter, "", &[]).await?,
            history: self.differing("message_history", past, &kept_only, &kept).await?,
            tenants: match &self.extent {
                Extent::All => self.differing_tenants().await?,
                Extent::Scope(_) => Vec::new(), // the second set has nothing of its others
            },
        };
        Ok(())
    }

    /// From when on both sets must have the same past versions, by partition: they are deleted some at a time once they
    /// are too old, after a day at the earliest.
    async fn history_kept(&mut self, live: &[Position]) -> Result<Vec<(i32, i64)>, ReadModelError> {
        let scope = match &self.extent {
            Extent::Scope(scope) => format!("and scope = '{}'", scope.reference().0),
            Extent::All => String::new(),
        };
        let oldest = |schema: &str| {
            format!(
                "coalesce((select min(decided_at_us) from {schema}.message_history
                     where partition = p.partition {scope}), p.since)"
            )
        };
        let query = format!(
            "select p.partition, least(greatest({}, {}), p.since)
             from unnest($1::int[], $2::bigint[]) as p (partition, since)",
            oldest("context_sync"),
            oldest(self.shadow)
        );
        let rows = sqlx::query_as::<_, (i32, i64)>(AssertSqlSafe(query))
            .bind(live.iter().map(|p| p.partition.get() as i32).collect::<Vec<_>>())
            .bind(live.iter().map(|p| p.clock.time.as_micros() - DAY_MICROS).collect::<Vec<_>>())
            .fetch_all(&mut self.connection)
            .await?;
        Ok(rows)
    }

    async fn differing_tenants(&mut self) -> Result<Vec<TenantDifference>, ReadModelError> {
        let sums = |schema: &str| {
            format!(
                "(select tenant_id, sum(live_count)::bigint as count, sum(live_bytes)::bigint as bytes
                  from {schema}.tenant_usage group by tenant_id)"
            )
        };
        let query = format!(
            "select tenant_id, coalesce(l.count, 0), coalesce(l.bytes, 0), coalesce(s.count, 0), coalesce(s.bytes, 0)
             from {} l full join {} s using (tenant_id)
             where coalesce(l.count, 0) <> coalesce(s.count, 0) or coalesce(l.bytes, 0) <> coalesce(s.bytes, 0)
             order by tenant_id",
            sums("context_sync"),
            sums(self.shadow)
        );
        let rows = sqlx::query_as::<_, (String, i64, i64, i64, i64)>(AssertSqlSafe(query));
        let rows = rows.fetch_all(&mut self.connection).await?;
        let difference = |(tenant, count, bytes, of_count, of_bytes)| TenantDifference {
            tenant,
            live: (count, bytes),
            rebuilt: (of_count, of_bytes),
        };
        Ok(rows.into_iter().map(difference).collect())
    }

    /// How many rows of a table differ, by scope. `$1` and `$2`: partitions, and the time from which they are compared.
    async fn differing(
        &mut self,
        table: &str,
        key: &str,
        only: &str,
        since: &[(i32, i64)],
    ) -> Result<HashMap<Uuid, u64>, ReadModelError> {
        let rows = |schema: &str| {
            format!("select t as row, t.scope, {key} as key from {schema}.{table} t {only}")
        };
        let scope = match &self.extent {
            Extent::Scope(scope) => format!("= '{}'", scope.reference().0),
            Extent::All => "is not null".to_owned(),
        };
        let query = format!(
            "select coalesce(l.scope, s.scope) as scope, count(*) as count
             from ({}) l full join ({}) s on s.key = l.key
             where l.row is distinct from s.row and coalesce(l.scope, s.scope) {scope}
             group by 1",
            rows("context_sync"),
            rows(self.shadow)
        );
        let (partitions, from): (Vec<i32>, Vec<i64>) = since.iter().copied().unzip();
        let rows = sqlx::query_as::<_, (Uuid, i64)>(AssertSqlSafe(query))
            .bind(partitions)
            .bind(from)
            .fetch_all(&mut self.connection)
            .await?;
        Ok(rows.into_iter().map(|(scope, count)| (scope, count.unsigned_abs())).collect())
    }
}

fn sums(row: &PgRow, set: &str) -> Result<Option<Sums>, ReadModelError> {
    let Some(head) = row.try_get::<Option<i64>, _>(format!("{set}_head").as_str())? else {
        return Ok(None);
    };
    let count: i64 = row.try_get(format!("{set}_count").as_str())?;
    let digest: &[u8] = row.try_get(format!("{set}_digest").as_str())?;
    Ok(Some(Sums {
        head: Cursor::from_i64(head),
        count: count.unsigned_abs(),
        digest: Digest::from_bytes(&hash32(digest)?),
    }))
}
