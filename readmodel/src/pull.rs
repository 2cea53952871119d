//! Pulls: pages of a scope's messages after a cursor.

use std::collections::HashMap;

use bytes::Bytes;
use model::{Cursor, Digest, Epoch, Role, ScopeKey, ScopeRef, TenantId, UserId};
use sqlx::{Row, postgres::PgRow};

use crate::{error::ReadModelError, load::hash32, pool::Pool};

/// Columns of a page's messages, by their place: names are looked up in each row.
const MESSAGE_CURSOR: usize = 8;
const MESSAGE: usize = 9;

/// What a scope sums up to, as an answer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub head: Cursor,
    pub floor: Cursor,
    pub count: u64,
    pub digest: Digest,
    pub epoch: Epoch,
    /// How often rows were replaced by rebuilt ones. No answer says it: what is the same but for this may have been mended.
    pub rebuilds: u64,
}

/// What a pull needs to know of the caller and the scope when there is nothing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// A team or project that was never created has no rows.
    pub exists: bool,
    /// The caller's row among the members: a role, or removed.
    pub member: Option<Option<Role>>,
    pub summary: Summary,
}

/// A page of a pull, and all that goes with it: one snapshot.
#[derive(Clone, Debug)]
pub struct Page {
    /// A team or project that was never created has no rows.
    pub exists: bool,
    /// The caller's row among the members: a role, or removed.
    pub member: Option<Option<Role>>,
    pub summary: Summary,
    /// The messages' JSON, joined by commas; empty if there are none.
    pub messages: Bytes,
    /// The cursor of the last message in the page.
    pub last: Option<Cursor>,
    /// A message lies beyond the page.
    pub has_more: bool,
}

impl Page {
    /// The page of one who has everything.
    pub fn empty(glance: Glance) -> Self {
        let Glance { exists, member, summary } = glance;
        let messages = Bytes::new();
        Self { exists, member, summary, messages, last: None, has_more: false }
    }

    /// What it says beside its messages.
    pub fn glance(&self) -> Glance {
        Glance { exists: self.exists, member: self.member, summary: self.summary }
    }
}

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullQuery<'a> {
    pub asker: Asker<'a>,
    pub after: Cursor,
    /// Messages in the page, at most.
    pub limit: u32,
    /// Bytes of the messages' JSON, at most (but one message at least).
    pub bytes: u64,
}

/// Reads a page, in one round trip. A caller who is no member gets none of the messages.
pub async fn pull(pool: &Pool, query: &PullQuery<'_>) -> Result<Page, ReadModelError> {
    let rows = query
        .asker
        .bind(sqlx::query("select * from page($1, $2, $3, $4, $5, $6, $7)"))
        .bind(query.after.as_i64())
        .bind(query.limit as i32)
        .bind(query.bytes.min(i64::MAX as u64) as i64)
        .fetch_all(pool)
        .await?;
    // No row: no projector has said yet which log this is.
    let (first, messages) = rows.split_first().ok_or(ReadModelError::NotMigrated)?;
    page(glance(first)?, messages)
}

/// One who asks about a scope.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub scope: &'a ScopeKey,
    pub user: &'a UserId,
    /// May pull without being a member.
    pub privileged: bool,
}

impl<'a> Asker<'a> {
    /// Tenant, scope, user and privilege, as the first parameters of a query.
    pub(crate) fn bind<'q>(self, query: Query<'q>) -> Query<'q>
    where
        'a: 'q,
    {
        query
            .bind(self.scope.tenant.as_str())
            .bind(self.scope.reference().0)
            .bind(self.user.as_str())
            .bind(self.privileged)
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// What there is to know of the caller and the scope, without messages: one statement, one snapshot.
pub async fn summary(pool: &Pool, asker: &Asker<'_>) -> Result<Glance, ReadModelError> {
    // Nothing is beyond the greatest cursor.
    let query = asker.bind(sqlx::query("select * from page($1, $2, $3, $4, $5, 1, 1)"));
    let row = query.bind(i64::MAX).fetch_optional(pool).await?;
    glance(&row.ok_or(ReadModelError::NotMigrated)?)
}

/// A scope and one who asks about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GlanceQuery {
    pub scope: ScopeRef,
    pub tenant: TenantId,
    pub user: UserId,
}

/// What callers need to know of their scopes when there is nothing to send, in the order asked: one
/// round trip for all.
pub async fn glances(pool: &Pool, asked: &[GlanceQuery]) -> Result<Vec<Glance>, ReadModelError> {
    // Devices of one user ask the same at the same time.
    let mut places = HashMap::with_capacity(asked.len());
    let mut distinct: Vec<&GlanceQuery> = Vec::new();
    let place = |query| {
        *places.entry(query).or_insert_with(|| {
            distinct.push(query);
            distinct.len() - 1
        })
    };
    let answered_by: Vec<usize> = asked.iter().map(place).collect();
    let scopes: Vec<uuid::Uuid> = distinct.iter().map(|query| query.scope.0).collect();
    let tenants: Vec<&str> = distinct.iter().map(|query| query.tenant.as_str()).collect();
    let users: Vec<&str> = distinct.iter().map(|query| query.user.as_str()).collect();
    let rows = sqlx::query("select * from glances($1, $2, $3)")
        .bind(scopes)
        .bind(tenants)
        .bind(users)
        .fetch_all(pool)
        .await?;
    if rows.len() != distinct.len() {
        return Err(ReadModelError::NotMigrated); // no projector has said yet which log this is
    }
    let glances = rows.iter().map(glance).collect::<Result<Vec<_>, _>>()?;
    Ok(answered_by.into_iter().map(|place| glances[place]).collect())
}

fn page(glance: Glance, rows: &[PgRow]) -> Result<Page, ReadModelError> {
    let mut messages = String::new();
    for (place, row) in rows.iter().enumerate() {
        let message: &str = row.try_get(MESSAGE)?;
        if place == 0 {
            messages.reserve((message.len() + message.len() / 8) * rows.len());
        } else {
            messages.push(',');
        }
        messages.push_str(message);
    }
    let mut page = Page { messages: Bytes::from(messages), ..Page::empty(glance) };
    if let Some(last) = rows.last() {
        let last = Cursor::from_i64(last.try_get(MESSAGE_CURSOR)?);
        page.last = Some(last);
        page.has_more = last < glance.summary.head;
    }
    Ok(page)
}

pub(crate) fn glance(row: &PgRow) -> Result<Glance, ReadModelError> {
    let number = |column: &str| -> Result<i64, ReadModelError> {
        Ok(row.try_get::<Option<i64>, _>(column)?.unwrap_or(0))
    };
    let digest: Option<&[u8]> = row.try_get("digest")?;
    let digest = match digest {
        Some(bytes) => Digest::from_bytes(&hash32(bytes)?),
        None => Digest::EMPTY,
    };
    let membership: bool = row.try_get("membership")?;
    let role: Option<&str> = row.try_get("role")?;
    Ok(Glance {
        exists: row.try_get("known")?,
        member: membership.then(|| role.and_then(Role::parse)),
        summary: Summary {
            head: Cursor::from_i64(number("head")?),
            floor: Cursor::from_i64(number("floor")?),
            count: number("live_count")?.unsigned_abs(),
            digest,
            epoch: Epoch(row.try_get("epoch")?),
            rebuilds: number("rebuilds")?.unsigned_abs(),
        },
    })
}

/// Which of these scopes have gone past these cursors, and where they are.
pub async fn moved(
    pool: &Pool,
    asked: &[(model::ScopeRef, Cursor)],
) -> Result<Vec<(model::ScopeRef, Cursor)>, ReadModelError> {
    let scopes: Vec<uuid::Uuid> = asked.iter().map(|(scope, _)| scope.0).collect();
    let cursors: Vec<i64> = asked.iter().map(|(_, cursor)| cursor.as_i64()).collect();
    let rows = sqlx::query_as::<_, (uuid::Uuid, i64)>("select scope, head from moved($1, $2)")
        .bind(scopes)
        .bind(cursors)
        .fetch_all(pool)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(scope, head)| (model::ScopeRef(scope), Cursor::from_i64(head)))
        .collect())
}

/// The epoch in force: cursors of another one are not this read model's.
pub async fn epoch(pool: &Pool) -> Result<Epoch, ReadModelError> {
    let epoch: Option<uuid::Uuid> =
        sqlx::query_scalar("select epoch from source").fetch_optional(pool).await?;
    epoch.map(Epoch).ok_or(ReadModelError::NotMigrated)
}
