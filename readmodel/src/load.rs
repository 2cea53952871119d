//! Loading what a batch touches: one statement.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use model::{
    BodyHash, CommandId, ContentHash, Cursor, Digest, Entry, Heading, KnownCommand, Later, Member,
    MessageId, RestoreId, Role, RunningRestore, Scope, ScopeKey, ScopeRef, Timestamp, Touched,
    UserId, Version,
};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    connect::{self, ProjectionSet},
    error::ReadModelError,
    key::{content_key, id_key},
    outcomes::outcome,
    pool::{answer_within, answered},
};

/// Reads what batches touch, on a connection of its own: while one batch commits, the next one loads.
pub struct Loader {
    connection: PgConnection,
    answer_within: Duration,
}

impl Loader {
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, ReadModelError> {
        Self::connect_to(config, ProjectionSet::Live).await
    }

    /// As [`Self::connect`], to one set of tables.
    pub async fn connect_to(
        config: &DatabaseConfig,
        set: ProjectionSet,
    ) -> Result<Self, ReadModelError> {
        let connection = connect::projector_on(config, set).await?;
        Ok(Self { connection, answer_within: answer_within(config) })
    }

    /// Loads what a batch's commands touch.
    pub async fn load(&mut self, wanted: &Wanted) -> Result<Loaded, ReadModelError> {
        answered(self.answer_within, load(&mut self.connection, wanted)).await
    }
}

/// What a batch of commands touches, by scope.
#[derive(Debug, Default)]
pub struct Wanted {
    scopes: HashMap<ScopeKey, HashSet<CommandId>>,
    /// Row keys of ids and of contents.
    messages: HashSet<Uuid>,
    contents: HashSet<Uuid>,
    users: HashSet<(Uuid, UserId)>,
}

impl Wanted {
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    pub fn add(&mut self, scope: &ScopeKey, id: CommandId, touched: Touched) {
        self.scopes.entry(scope.clone()).or_default().insert(id);
        let reference = scope.reference();
        let scope = reference.0;
        self.messages.extend(touched.messages.iter().map(|id| id_key(reference, id)));
        self.contents.extend(touched.contents.iter().map(|hash| content_key(reference, hash)));
        self.users.extend(touched.users.into_iter().map(|user| (scope, user)));
    }
}

impl Wanted {
    /// The scopes, and of each the commands that may be known.
    pub fn scopes(&self) -> &HashMap<ScopeKey, HashSet<CommandId>> {
        &self.scopes
    }

    /// Whether a message's row is to be loaded.
    pub fn has_message(&self, scope: ScopeRef, id: &MessageId, entry: &Entry) -> bool {
        self.messages.contains(&id_key(scope, id))
            || entry.is_live() && self.contents.contains(&content_key(scope, &entry.content_hash))
    }

    /// Whether a member's row is to be loaded.
    pub fn has_user(&self, scope: ScopeRef, user: &UserId) -> bool {
        self.users.contains(&(scope.0, user.clone()))
    }
}

/// The touched part of every scope that a batch names, as the rows have it.
#[derive(Debug, Default)]
pub struct Loaded {
    pub scopes: HashMap<ScopeKey, Scope>,
    /// Scopes whose events wait for an operator.
    pub parked: HashSet<ScopeKey>,
}

impl Loaded {
    /// Brings what was loaded up to a later state: `later` has the headings of the scopes that changed
    /// in between, and all that changed in them.
    pub fn overlay(&mut self, later: &HashMap<ScopeKey, Later>) {
        for (key, later) in later {
            if let Some(scope) = self.scopes.get_mut(key) {
                scope.overlay(later);
            }
        }
    }

    /// Puts messages that were loaded later beside the rest.
    pub fn add_messages(&mut self, later: Self) {
        for (key, later) in later.scopes {
            if let Some(scope) = self.scopes.get_mut(&key) {
                later.messages.into_iter().for_each(|(id, entry)| scope.insert(id, entry));
            }
        }
    }
}

/// All of it in one snapshot. A row is of one kind, and fills the columns that kind needs. No lock is
/// held until the commit: positions only rise, so if they then stand where the batch begins, nobody moved
/// the scopes of their partitions since this was read.
const LOAD: &str = "
select 1::int2 as kind, s.scope, null::uuid as id, null::text as name, s.restore as body,
    s.head as n1, s.floor as n2, s.clock_us as n3, s.live_count as n4, s.live_bytes as n5,
    s.owners::bigint as n6, s.digest as b1, null::bytea as b2, null::uuid as u1, s.erased as n7
from (select unnest($1::uuid[])) as w (scope) join scopes s on s.scope = w.scope
union all
select 2::int2, m.scope, m.id, null, null,
    m.cursor, m.updated_at_us, m.created_at_us, m.bytes, m.deleted_at_us, null, m.content_hash, m.body_hash, m.restore_id, null
from (select unnest($2::uuid[])) as w (id_key) join messages m on m.id_key = w.id_key
union all
select 2::int2, m.scope, m.id, null, null,
    m.cursor, m.updated_at_us, m.created_at_us, m.bytes, m.deleted_at_us, null, m.content_hash, m.body_hash, m.restore_id, null
from (select unnest($3::uuid[])) as w (content_key)
    join messages m on m.content_key = w.content_key
union all
select 3::int2, r.scope, null, r.user_id, r.role, r.since_us, null, null, null, null, null, null, null, null, null
from (select unnest($4::uuid[]), unnest($5::text[])) as w (scope, user_id)
    join members r on r.scope = w.scope and r.user_id = w.user_id
union all
select 4::int2, o.scope, o.command_id, null, o.body, o.folded_at_us, null, null, null, null, null, null, null, null, null
from (select unnest($6::uuid[])) as w (command_id) join outcomes o on o.command_id = w.command_id
union all
select 5::int2, w.scope, null, null, null, null, null, null, null, null, null, null, null, null, null
from (select unnest($1::uuid[])) as w (scope)
where exists (select from dead_letters d where d.scope = w.scope and d.kind = 'parked')";

pub(crate) async fn load(
    connection: &mut PgConnection,
    wanted: &Wanted,
) -> Result<Loaded, ReadModelError> {
    let rows = bind(wanted).fetch_all(connection).await?;
    let keys: HashMap<Uuid, &ScopeKey> =
        wanted.scopes.keys().map(|key| (key.reference().0, key)).collect();
    let mut loaded = Loaded {
        scopes: keys.values().map(|key| ((*key).clone(), Scope::new((*key).clone()))).collect(),
        parked: HashSet::new(),
    };
    for row in &rows {
        let kind: i16 = row.try_get("kind")?;
        let key = keys.get(&row.try_get::<Uuid, _>("scope")?).copied();
        let Some((key, scope)) = key.and_then(|key| Some((key, loaded.scopes.get_mut(key)?)))
        else {
            continue; // a command id of another scope: its outcome is none of ours
        };
        match kind {
            1 => scope.heading = heading(row)?,
            2 => {
                let (id, entry) = entry(row)?;
                scope.insert(id, entry);
            }
            3 => {
                let (user, member) = member(row)?;
                scope.members.insert(user, member);
            }
            4 => {
                let (id, command) = known_command(row)?;
                scope.commands.insert(id, command);
            }
            _ => {
                loaded.parked.insert(key.clone());
            }
        }
    }
    Ok(loaded)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind(wanted: &Wanted) -> Query<'static> {
    let scopes: Vec<Uuid> = wanted.scopes.keys().map(|key| key.reference().0).collect();
    let messages: Vec<Uuid> = wanted.messages.iter().copied().collect();
    let contents: Vec<Uuid> = wanted.contents.iter().copied().collect();
    let (user_scopes, users): (Vec<Uuid>, Vec<String>) =
        wanted.users.iter().map(|(scope, user)| (*scope, user.to_string())).unzip();
    let commands: Vec<Uuid> = wanted.scopes.values().flatten().map(|id| id.0).collect();
    sqlx::query(LOAD)
        .bind(scopes)
        .bind(messages)
        .bind(contents)
        .bind(user_scopes)
        .bind(users)
        .bind(commands)
}

pub(crate) fn heading(row: &PgRow) -> Result<Heading, ReadModelError> {
    let number = |column: &str| row.try_get::<i64, _>(column);
    Ok(Heading {
        exists: true,
        head: Cursor::from_i64(number("n1")?),
        floor: Cursor::from_i64(number("n2")?),
        erased: Cursor::from_i64(number("n7")?),
        clock: Timestamp::from_micros(number("n3")?),
        count: number("n4")?.unsigned_abs(),
        bytes: number("n5")?.unsigned_abs(),
        owners: u32::try_from(number("n6")?).unwrap_or_default(),
        digest: Digest::from_bytes(&hash32(row.try_get("b1")?)?),
        restore: running(row.try_get("body")?)?,
    })
}

fn running(restore: Option<&str>) -> Result<Option<RunningRestore>, ReadModelError> {
    let running = restore.map(serde_json::from_str).transpose();
    running.map_err(|e| ReadModelError::Damaged(format!("a running restore does not parse: {e}")))
}

pub(crate) fn entry(row: &PgRow) -> Result<(MessageId, Entry), ReadModelError> {
    let number = |column: &str| row.try_get::<i64, _>(column);
    let entry = Entry {
        cursor: Cursor::from_i64(number("n1")?),
        version: Version {
            updated_at: Timestamp::from_micros(number("n2")?),
            body: BodyHash(hash32(row.try_get("b2")?)?),
        },
        content_hash: ContentHash(hash32(row.try_get("b1")?)?),
        created_at: Timestamp::from_micros(number("n3")?),
        bytes: number("n4")?.unsigned_abs(),
        deleted_at: row.try_get::<Option<i64>, _>("n5")?.map(Timestamp::from_micros),
        restore: row.try_get::<Option<Uuid>, _>("u1")?.map(RestoreId),
    };
    Ok((MessageId(row.try_get("id")?), entry))
}

pub(crate) fn member(row: &PgRow) -> Result<(UserId, Member), ReadModelError> {
    let name: &str = row.try_get("name")?;
    let user = UserId::new(name)
        .map_err(|_| ReadModelError::Damaged(format!("a member's user id is {name:?}")))?;
    let role: Option<&str> = row.try_get("body")?;
    let since = Timestamp::from_micros(row.try_get("n1")?);
    Ok((user, Member { role: role.and_then(Role::parse), since }))
}

fn known_command(row: &PgRow) -> Result<(CommandId, KnownCommand), ReadModelError> {
    let known = KnownCommand {
        folded_at: Timestamp::from_micros(row.try_get("n1")?),
        outcome: outcome(row.try_get("body")?)?,
    };
    Ok((CommandId(row.try_get("id")?), known))
}

pub(crate) fn hash32(bytes: &[u8]) -> Result<[u8; 32], ReadModelError> {
    bytes
        .try_into()
        .map_err(|_| ReadModelError::Damaged(format!("a hash has {} bytes", bytes.len())))
}
