//! Rebuilding: a second set of the tables that a fold fills, beside the live one, compared with it and put in its
//! place. What the archiver's facts say (the catalogue) and what operators set is no part of it.

mod compare;
mod kept;
mod swap;

pub use compare::{Comparing, ScopeDifference, Sums, TenantDifference};
pub use kept::{Cursors, DifferingScope};

use model::{FoldRevision, LogId, ScopeKey};
use sqlx::PgConnection;

use crate::{
    config::DatabaseConfig,
    connect::{self, LOGIN_WITHIN, ProjectionSet, answered_at},
    epochs::IS_RECOVERED,
    error::ReadModelError,
    projection::{Position, check_source, positions_of},
};

/// One rebuild at a time.
const LOCK: &str = "select pg_try_advisory_lock(hashtext('context_sync rebuild'))";
const UNLOCK: &str = "select pg_advisory_unlock(hashtext('context_sync rebuild'))";

const SHADOW: &str = include_str!("rebuild/shadow.sql");

/// The tables that the fold fills: they are put in the place of the live ones. A migration that adds one adds it here.
/// `positions` comes first: whoever commits waits there, before anything of theirs is locked.
pub(crate) const REPLACED: [&str; 10] = [
    "positions",
    "scopes",
    "members",
    "messages",
    "message_history",
    "outcomes",
    "dead_letters",
    "restores",
    "erasures",
    "tenant_usage",
];
/// Of those, the ones that are of no single scope.
pub(crate) const OF_NO_SCOPE: [&str; 2] = ["positions", "tenant_usage"];
/// The fold writes to these too; the live ones stay.
const WRITTEN: [&str; 2] = ["source", "context_backups"];

/// Where the tables from before a swap are until they are dropped.
const TAKEN_AWAY: &str = "context_sync_replaced";

/// What is rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    All,
    Scope(ScopeKey),
}

/// A rebuild of a read model: the only one while this lives.
pub struct Rebuild {
    owner: PgConnection,
    config: DatabaseConfig,
    extent: Extent,
    /// What the second set is made after.
    mark: String,
    /// The live set does not move while this is true.
    is_holding: bool,
}

impl Extent {
    /// Where it is filled.
    pub fn set(&self) -> ProjectionSet {
        match self {
            Self::All => ProjectionSet::Rebuilt,
            Self::Scope(_) => ProjectionSet::RebuiltScope,
        }
    }
}

impl Rebuild {
    /// Begins to rebuild the read model of a log. Nothing is changed yet.
    ///
    /// # Errors
    /// The read model is of another log or of none, the login does not own it, or another rebuild runs.
    pub async fn begin(
        config: &DatabaseConfig,
        log: LogId,
        partitions: u32,
        extent: Extent,
    ) -> Result<Self, ReadModelError> {
        let mut owner = connect::owner(config).await?;
        let beginning = Self::begin_as(&mut owner, log, partitions, &extent);
        let mark = answered_at(config, LOGIN_WITHIN, beginning).await?;
        Ok(Self { owner, config: config.clone(), extent, mark, is_holding: false })
    }

    /// What takes no time: whose log and whose tables it is, and that nobody else rebuilds.
    async fn begin_as(
        owner: &mut PgConnection,
        log: LogId,
        partitions: u32,
        extent: &Extent,
    ) -> Result<String, ReadModelError> {
        check_source(owner, log, partitions).await?;
        let (login, owns): (String, bool) = sqlx::query_as(
            "select current_user::text, pg_has_role(current_user, tableowner, 'member')
             from pg_tables where schemaname = 'context_sync' and tablename = 'scopes'",
        )
        .fetch_one(&mut *owner)
        .await?;
        if !owns {
            return Err(ReadModelError::NotOwner { login });
        }
        let locked: bool = sqlx::query_scalar(LOCK).fetch_one(&mut *owner).await?;
        if !locked {
            return Err(ReadModelError::RebuildRuns);
        }
        mark(owner, extent).await
    }

    /// Makes the second set of tables, or goes on with the one that an earlier rebuild left, if that is of this
    /// version, and of the same scope. True if it goes on.
    pub async fn prepare(&mut self, anew: bool) -> Result<bool, ReadModelError> {
        // Of a rebuild that was killed after its swap.
        self.drop_replaced().await?;
        self.execute(format!("create schema {TAKEN_AWAY}")).await?;
        let schema = self.extent.set().schema();
        let found: Option<String> =
            sqlx::query_scalar("select obj_description(to_regnamespace($1)::oid, 'pg_namespace')")
                .bind(schema)
                .fetch_one(&mut self.owner)
                .await?;
        self.mark = mark(&mut self.owner, &self.extent).await?;
        if !anew && found.as_ref() == Some(&self.mark) {
            return Ok(true);
        }
        let make = [
            "begin".to_owned(),
            format!("drop schema if exists {schema} cascade"),
            format!("set local context_sync.shadow = '{schema}'"),
            format!(
                "set local context_sync.shadowed = '{} {}'",
                REPLACED.join(" "),
                WRITTEN.join(" ")
            ),
            SHADOW.to_owned(),
            format!("comment on schema {schema} is '{}'", self.mark),
            "commit".to_owned(),
        ];
        for statement in make {
            self.execute(statement).await?;
        }
        Ok(false)
    }

    /// Whether the log goes on from another one: then its first record is not the beginning.
    pub async fn is_recovered(&mut self) -> Result<bool, ReadModelError> {
        Ok(sqlx::query_scalar(IS_RECOVERED).fetch_one(&mut self.owner).await?)
    }

    /// How far one of the two sets is folded.
    pub async fn positions(&mut self, set: ProjectionSet) -> Result<Vec<Position>, ReadModelError> {
        positions_of(&mut self.owner, set).await
    }

    /// Whether the rebuilt set has parked events that the live one has not: it lacks them.
    pub async fn parks_more(&mut self) -> Result<bool, ReadModelError> {
        let query = format!(
            "select exists (select from {}.dead_letters s where s.kind = 'parked' and not exists (
                 select from context_sync.dead_letters l where l.kind = 'parked'
                     and l.partition = s.partition and l.record_offset = s.record_offset))",
            self.extent.set().schema()
        );
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut self.owner).await?)
    }

    /// Drops what was filled, or what it took the place of.
    pub async fn discard(&mut self) -> Result<(), ReadModelError> {
        let schema = self.extent.set().schema();
        self.execute(format!("drop schema if exists {schema} cascade")).await?;
        self.drop_replaced().await
    }

    async fn drop_replaced(&mut self) -> Result<(), ReadModelError> {
        self.execute(format!("drop schema if exists {TAKEN_AWAY} cascade")).await
    }

    /// Lets another rebuild begin.
    pub async fn end(mut self) {
        use sqlx::Connection;
        // The server may take its time to notice that the connection is closed.
        let _ = self.execute(UNLOCK.to_owned()).await;
        let _ = self.owner.close().await;
    }

    async fn execute(&mut self, statement: String) -> Result<(), ReadModelError> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut self.owner).await?;
        Ok(())
    }
}

/// What the tables are: of which migration, folded by which revision, and of which scope if not of all.
async fn mark(owner: &mut PgConnection, extent: &Extent) -> Result<String, ReadModelError> {
    let version = "select max(version) from _sqlx_migrations";
    let migration: i64 = sqlx::query_scalar(version).fetch_one(owner).await?;
    let mut mark = format!("migration {migration}, fold revision {}", FoldRevision::CURRENT.0);
    if let Extent::Scope(scope) = extent {
        mark.push_str(&format!(", scope {}", scope.reference().0));
    }
    Ok(mark)
}
