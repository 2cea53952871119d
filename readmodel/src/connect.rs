//! Connecting in a role of the read model, and migrating it.

use std::{str::FromStr, time::Duration};

use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use crate::{
    config::DatabaseConfig,
    error::ReadModelError,
    pool::{Pool, answer_within, answered, within},
};

/// Which set of the tables that a fold fills a connection works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProjectionSet {
    /// What requests are answered from. Every table, function and type of the read model is in its schema, and
    /// nothing else is: what operators have set, which no log has, stands in a schema of its own.
    #[default]
    Live,
    /// All of them, being filled anew beside the live ones.
    Rebuilt,
    /// One scope's rows, likewise.
    RebuiltScope,
}

impl ProjectionSet {
    pub(crate) const fn schema(self) -> &'static str {
        match self {
            Self::Live => "context_sync",
            Self::Rebuilt => "context_sync_rebuilt",
            Self::RebuiltScope => "context_sync_rebuilt_scope",
        }
    }
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// What a connection may do: a role of the database, taken when connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseRole {
    /// Writes everything, of all tenants.
    Projector,
    /// Asks for roles and outcomes of all tenants; sees no message.
    Ingest,
    /// Reads one tenant at a time.
    Api,
    /// Asks which scopes have moved, of any tenant; sees no table.
    Watcher,
}

impl DatabaseRole {
    pub(crate) const fn set_role(self) -> &'static str {
        match self {
            Self::Projector => "set role context_sync_projector",
            Self::Ingest => "set role context_sync_ingest",
            Self::Api => "set role context_sync_api",
            Self::Watcher => "set role context_sync_watcher",
        }
    }
}

fn options(
    config: &DatabaseConfig,
    set: ProjectionSet,
) -> Result<PgConnectOptions, ReadModelError> {
    let url = config.database_url.as_deref().ok_or(ReadModelError::NotConfigured)?;
    // The parser takes any scheme.
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(ReadModelError::InvalidUrl);
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| ReadModelError::InvalidUrl)?;
    // Every query is a look-up by a key. A plan made while the tables were small, and kept, must not scan
    // them when they are large.
    let by_key = ["seqscan", "bitmapscan", "hashjoin", "mergejoin", "material"]
        .map(|path| (format!("enable_{path}"), "off"));
    Ok(options.application_name("context-sync").options(by_key).options([
        ("search_path", set.schema()),
        // Planning a statement anew costs several times what it takes to run it for a few rows.
        ("plan_cache_mode", "force_generic_plan"),
        ("statement_timeout", &config.database_statement_timeout_ms.to_string()),
        // A client that stands still inside a transaction must not hold its locks for ever.
        ("idle_in_transaction_session_timeout", "5000"),
        // What nobody waits for any more ends, and makes room.
        ("client_connection_check_interval", "1000"),
    ]))
}

/// How long a connection that nobody used is taken to be there still.
const TRUSTED_FOR: Duration = Duration::from_secs(30);

/// A pool whose every connection has the role. Connects lazily: a database that is down is an error
/// of the queries, not of the start.
pub fn pool(config: &DatabaseConfig, role: DatabaseRole) -> Result<Pool, ReadModelError> {
    // A broken connection shows in the query, which is retried or answered with 503; asking before each would cost a
    // round trip.
    Ok(Pool::new(config, options(config, ProjectionSet::Live)?, Some(role), TRUSTED_FOR))
}

/// As [`pool`], for one who asks seldom and does not ask again: a connection that was lost meanwhile is replaced.
pub fn pool_seldom_used(
    config: &DatabaseConfig,
    role: DatabaseRole,
) -> Result<Pool, ReadModelError> {
    Ok(Pool::new(config, options(config, ProjectionSet::Live)?, Some(role), Duration::ZERO))
}

/// A connection that hears what projectors say.
pub(crate) async fn listener(config: &DatabaseConfig) -> Result<PgListener, ReadModelError> {
    let wait = Duration::from_millis(config.database_acquire_timeout_ms);
    let one = PgPoolOptions::new().max_connections(1).acquire_timeout(wait);
    let one = one.connect_lazy_with(options(config, ProjectionSet::Live)?);
    Ok(PgListener::connect_with(&one).await?)
}

/// Connects once, and takes the role: says why, where a pool would only say that it has no connection.
pub async fn try_role(config: &DatabaseConfig, role: DatabaseRole) -> Result<(), ReadModelError> {
    let mut connection = login(config).await?;
    let taking = sqlx::query(role.set_role()).execute(&mut connection);
    answered_at(config, LOGIN_WITHIN, taking).await?;
    connection.close().await.ok();
    Ok(())
}

/// One connection of the projector's own.
pub(crate) async fn projector(config: &DatabaseConfig) -> Result<PgConnection, ReadModelError> {
    projector_on(config, ProjectionSet::Live).await
}

/// As [`projector`], on one set of tables.
pub(crate) async fn projector_on(
    config: &DatabaseConfig,
    set: ProjectionSet,
) -> Result<PgConnection, ReadModelError> {
    let options = options(config, set)?;
    let connecting = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::query(DatabaseRole::Projector.set_role()).execute(&mut connection).await?;
        // A commit need not wait for the disk: positions go with the rows, and the log has it all
        // (docs/decisions/0007-commits.md).
        sqlx::raw_sql("set lock_timeout = '2s'; set synchronous_commit = off")
            .execute(&mut connection)
            .await?;
        Ok(connection)
    };
    let wait = Duration::from_millis(config.database_acquire_timeout_ms);
    Ok(within(wait, connecting).await?)
}

/// How long a server may take to let an operator in, and to answer what takes it no time: one that says nothing would be
/// waited for for ever.
pub(crate) const LOGIN_WITHIN: Duration = Duration::from_secs(10);

/// A connection of the login itself, which owns the tables, and what operators set.
pub(crate) async fn login(config: &DatabaseConfig) -> Result<PgConnection, ReadModelError> {
    let options = options(config, ProjectionSet::Live)?;
    answered_at(config, LOGIN_WITHIN, PgConnection::connect_with(&options)).await
}

/// Waits for an operator's answer no longer than this; which server it was that does not give it.
pub(crate) async fn answered_at<T, E: Into<ReadModelError>>(
    config: &DatabaseConfig,
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, ReadModelError> {
    match answered(limit, async { answer.await.map_err(Into::into) }).await {
        // One that ended the statement itself is there, and says so.
        Err(ReadModelError::Unavailable(source)) if !is_canceled(&source) => {
            let at = place(&options(config, ProjectionSet::Live)?);
            Err(ReadModelError::NoLogin { at, source })
        }
        answer => answer,
    }
}

/// The statement ran for too long.
fn is_canceled(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("57014")
}

/// Which database that is, without a user or a password.
fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    format!("{}:{}/{database}", options.get_host(), options.get_port())
}

/// As [`login`], for work on whole tables that takes its time.
pub(crate) async fn owner(config: &DatabaseConfig) -> Result<PgConnection, ReadModelError> {
    let mut connection = login(config).await?;
    answered_at(config, LOGIN_WITHIN, scan_tables(&mut connection)).await?;
    Ok(connection)
}

/// As [`owner`], with the rights of the projector: it sees the rows of all tenants.
pub(crate) async fn reader(config: &DatabaseConfig) -> Result<PgConnection, ReadModelError> {
    let mut connection = owner(config).await?;
    let taking = sqlx::query(DatabaseRole::Projector.set_role()).execute(&mut connection);
    answered_at(config, LOGIN_WITHIN, taking).await?;
    Ok(connection)
}

/// What is set for look-ups by a key is not for statements that read everything.
async fn scan_tables(connection: &mut PgConnection) -> Result<(), ReadModelError> {
    sqlx::raw_sql(
        "set enable_seqscan = on; set enable_bitmapscan = on; set enable_hashjoin = on;
         set enable_mergejoin = on; set enable_material = on; set plan_cache_mode = auto;
         set statement_timeout = 0; set idle_in_transaction_session_timeout = '10min';
         set client_min_messages = warning",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Creates the read model, or brings it to this version. Safe to run at any time, by many at once.
/// The login must be able to create roles, or the roles must exist and be granted to it.
pub async fn migrate(config: &DatabaseConfig) -> Result<(), ReadModelError> {
    let mut connection = login(config).await?;
    // Two processes that migrate a new database at once both find no schema. The other one is waited for.
    let alone = sqlx::raw_sql(
        "select pg_advisory_lock(hashtext('context_sync migrate')); \
         create schema if not exists context_sync",
    );
    answered_at(config, answer_within(config), alone.execute(&mut connection)).await?;
    let migrated = MIGRATIONS.run(&mut connection).await.map_err(ReadModelError::Migration);
    connection.close().await.ok();
    migrated
}
