//! Connections that are lent to whoever asks something. A database that does not answer costs its askers a bounded time,
//! and once it answers again they are served again: what was not answered is not waited for any more, nor used again.
//!
//! sqlx's own pool asks each connection once more when it is given back, which costs every query a second round trip, and
//! keeps its place for as long as that is not answered (docs/decisions/0022-connections.md).

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Connection, Describe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{
        PgConnectOptions, PgDatabaseError, PgQueryResult, PgRow, PgSeverity, PgStatement,
        PgTypeInfo,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{DatabaseConfig, DatabaseRole, ReadModelError};

/// After so long a connection is replaced: Postgres frees what it has gathered, and another server gets its share.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// How long a statement may take to be answered beyond what the server lets it run.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);
/// Where the server lets statements run for ever, no answer is given up.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
/// The pauses between two attempts to connect to a server that starts, or has no room.
const CONNECT_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// Connections in one role, at most as many as were asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Lender>);

#[derive(Debug)]
struct Lender {
    options: PgConnectOptions,
    role: Option<DatabaseRole>,
    idle: Mutex<Vec<Idle>>,
    free: Arc<Semaphore>,
    acquire_within: Duration,
    answer_within: Duration,
    /// One that was idle for longer is asked whether it is still there.
    trusted_for: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    made: Instant,
    since: Instant,
}

/// A connection until it is given back; one that is dropped instead is closed.
struct Lent {
    connection: PgConnection,
    made: Instant,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

/// A transaction of a lent connection; one that is dropped is rolled back.
pub struct LentTransaction(Lent);

/// How long the database may take to answer one statement.
pub(crate) fn answer_within(config: &DatabaseConfig) -> Duration {
    match config.database_statement_timeout_ms {
        0 => FOR_EVER,
        limit => Duration::from_millis(limit) + ANSWER_MARGIN,
    }
}

/// Waits for an answer no longer than this.
pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} ms", limit.as_millis());
        Err(Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
    })
}

/// As [`within`], of work on a connection that is given up if there is no answer.
pub(crate) async fn answered<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, ReadModelError>>,
) -> Result<T, ReadModelError> {
    within(limit, async { Ok(answer.await) }).await?
}

impl Pool {
    pub(crate) fn new(
        config: &DatabaseConfig,
        options: PgConnectOptions,
        role: Option<DatabaseRole>,
        trusted_for: Duration,
    ) -> Self {
        Self(Arc::new(Lender {
            options,
            role,
            idle: Mutex::default(),
            free: Arc::new(Semaphore::new(config.database_connections as usize)),
            acquire_within: Duration::from_millis(config.database_acquire_timeout_ms),
            answer_within: answer_within(config),
            trusted_for,
        }))
    }

    /// Of whoever the login is, for tests and tools.
    pub fn of_login(options: PgConnectOptions, connections: u32) -> Self {
        let config = DatabaseConfig {
            database_url: None,
            database_connections: connections,
            database_acquire_timeout_ms: 30_000,
            database_statement_timeout_ms: 60_000,
        };
        Self::new(&config, options, None, Duration::ZERO)
    }

    async fn acquire(&self) -> Result<Lent, Error> {
        let lending = async {
            let free = self.0.free.clone();
            let permit = free.acquire_owned().await.map_err(|_| Error::PoolClosed)?;
            let (connection, made) = match self.idle().await {
                Some(idle) => (idle.connection, idle.made),
                None => (self.connect().await?, Instant::now()),
            };
            Ok(Lent { connection, made, pool: self.clone(), _permit: permit })
        };
        tokio::time::timeout(self.0.acquire_within, lending)
            .await
            .unwrap_or(Err(Error::PoolTimedOut))
    }

    /// The one that was used last, if it is still there. If it is not, nor are the others.
    async fn idle(&self) -> Option<Idle> {
        let mut idle = self.idling().pop()?;
        if idle.since.elapsed() <= self.0.trusted_for {
            return Some(idle);
        }
        if within(self.0.acquire_within / 3, idle.connection.ping()).await.is_err() {
            self.idling().clear();
            return None;
        }
        Some(idle)
    }

    fn idling(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever asks for a connection bounds how long this takes.
    async fn connect(&self) -> Result<PgConnection, Error> {
        let [mut pause, pause_max] = CONNECT_PAUSES;
        let mut connection = loop {
            match PgConnection::connect_with(&self.0.options).await {
                Err(error) if is_passing(&error) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(pause_max);
                }
                connected => break connected?,
            }
        };
        if let Some(role) = self.0.role {
            let taken = sqlx::query(role.set_role()).execute(&mut connection).await;
            // A role that is not there yet is made by whoever migrates.
            taken.map_err(|error| match error.as_database_error().and_then(|e| e.code()) {
                Some(code) if code != "42501" => Error::Configuration(error.into()),
                _ => error,
            })?;
        }
        Ok(connection)
    }

    /// A transaction on a connection of its own.
    pub async fn begin(&self) -> Result<LentTransaction, Error> {
        self.begin_with("begin").await
    }

    pub(crate) async fn begin_with(&self, begin: &'static str) -> Result<LentTransaction, Error> {
        let mut lent = self.acquire().await?;
        match within(self.0.answer_within, lent.execute(begin)).await {
            Ok(_) => Ok(LentTransaction(lent)),
            Err(error) => {
                let begun = Err(error);
                lent.end(&begun);
                begun
            }
        }
    }

    /// Says goodbye to the server on connections that nobody uses; those that are lent follow as they come back.
    pub async fn close(&self) {
        self.0.free.close();
        let idle = std::mem::take(&mut *self.idling());
        let closing = idle.into_iter().map(|idle| idle.connection.close());
        let _ = within(self.0.acquire_within, async {
            futures_util::future::join_all(closing).await;
            Ok(())
        })
        .await;
    }
}

impl Lent {
    /// Whoever has all answers gives it back.
    fn give_back(self) {
        let Self { connection, made, pool, .. } = self;
        let mut idling = pool.idling();
        idling.push(Idle { connection, made, since: Instant::now() });
        idling.retain(|idle| idle.made.elapsed() <= LIFETIME && !pool.0.free.is_closed());
    }

    /// Gives it back, unless it broke: then what idles is likely to be broken too.
    fn end<T>(self, answer: &Result<T, Error>) {
        match answer {
            Err(error) if is_broken(error) => self.pool.idling().clear(),
            Ok(_) | Err(Error::Database(_)) => self.give_back(),
            Err(_) => {}
        }
    }
}

fn is_broken(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) => true,
        // The server ends this connection; often all of them.
        Error::Database(error) => error
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|e| matches!(e.severity(), PgSeverity::Fatal | PgSeverity::Panic)),
        _ => false,
    }
}

/// Whether connecting is likely to succeed in a moment: nobody listens, the server starts or stops, or has no room.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Error::Database(error) => {
            error.code().is_some_and(|code| code == "57P03" || code == "53300")
        }
        _ => false,
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl LentTransaction {
    /// Every statement is then answered within this.
    pub(crate) fn answer_within(&self) -> Duration {
        self.0.pool.0.answer_within
    }

    pub async fn commit(self) -> Result<(), Error> {
        let mut lent = self.0;
        let limit = lent.pool.0.answer_within;
        let committed = within(limit, lent.connection.execute("commit")).await;
        // Where it failed, who knows what is still open.
        if committed.is_ok() {
            lent.give_back();
        }
        committed.map(drop)
    }
}

impl Deref for LentTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for LentTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

/// Each query has a connection of its own for as long as it takes.
impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let all = async move {
            let mut lent = self.acquire().await?;
            let answer = lent.connection.fetch_many(query).try_collect::<Vec<_>>();
            let answer = within(self.0.answer_within, answer).await;
            lent.end(&answer);
            answer
        };
        stream::once(all).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        async move {
            let mut lent = self.acquire().await?;
            let answer = within(self.0.answer_within, lent.connection.fetch_all(query)).await;
            lent.end(&answer);
            answer
        }
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        async move {
            let mut lent = self.acquire().await?;
            let answer = within(self.0.answer_within, lent.connection.fetch_optional(query)).await;
            lent.end(&answer);
            answer
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        async move {
            let mut lent = self.acquire().await?;
            let answer =
                within(self.0.answer_within, lent.connection.prepare_with(sql, parameters)).await;
            lent.end(&answer);
            answer
        }
        .boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        async move {
            let mut lent = self.acquire().await?;
            let answer = within(self.0.answer_within, lent.connection.describe(sql)).await;
            lent.end(&answer);
            answer
        }
        .boxed()
    }
}
