//! A database of a test's own on a real Postgres, dropped with it. The projector's and the
//! end-to-end tests use this file too.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use readmodel::{DatabaseConfig, DatabaseRole, Pool};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

pub(crate) struct Database {
    pub(crate) config: DatabaseConfig,
    name: String,
    server: String,
}

/// The settings' defaults, for the database at `url`.
pub(crate) fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig {
        database_url: Some(url.to_owned()),
        database_connections: 8,
        database_acquire_timeout_ms: 3_000,
        database_statement_timeout_ms: 30_000,
    }
}

impl Database {
    /// An empty database.
    pub(crate) async fn fresh() -> Self {
        Self::copy_of("template1").await
    }

    /// A database with an empty read model: a copy of one that is migrated, which the first of a process makes.
    pub(crate) async fn migrated() -> Self {
        static MIGRATED: OnceCell<String> = OnceCell::const_new();
        let migrated = MIGRATED.get_or_init(async || {
            let database = Self::fresh().await;
            readmodel::migrate(&database.config).await.unwrap();
            let name = database.name.clone();
            std::mem::forget(database); // it goes with the server
            name
        });
        Self::copy_of(migrated.await).await
    }

    async fn copy_of(template: &str) -> Self {
        let server = dev::postgres::for_tests().await.unwrap();
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        // Copying files takes a quarter of the time where nothing is synced.
        let create =
            AssertSqlSafe(format!("create database {name} template {template} strategy file_copy"));
        connection.execute(create).await.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        let config = config(&format!("{base}/{name}"));
        Self { config, name, server }
    }

    pub(crate) fn url(&self) -> &str {
        self.config.database_url.as_deref().unwrap()
    }

    fn owner_options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::from_str(self.url()).unwrap();
        options.options([("search_path", "context_sync")])
    }

    /// A connection that may do everything.
    pub(crate) async fn owner(&self) -> PgConnection {
        PgConnection::connect_with(&self.owner_options()).await.unwrap()
    }

    /// As [`Database::owner`], for a test that asks often.
    pub(crate) fn owner_pool(&self) -> Pool {
        Pool::of_login(self.owner_options(), 2)
    }

    /// Returns when so many connections wait for locks.
    pub(crate) async fn until_waiting(&self, count: i64) {
        let pool = self.owner_pool();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            if waiting >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{waiting} of {count} connections wait for a lock");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One connection of a role: what one query leaves behind, the next one meets.
    pub(crate) fn role(&self, role: DatabaseRole) -> Pool {
        let one = DatabaseConfig { database_connections: 1, ..self.config.clone() };
        readmodel::pool(&one, role).unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.clone();
        let drop = AssertSqlSafe(format!("drop database if exists {} with (force)", self.name));
        // A runtime of its own: the test's may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                // A server that is gone has dropped it already.
                if let Ok(mut connection) = PgConnection::connect(&server).await {
                    let _ = connection.execute(drop).await;
                }
            });
        });
        let _ = dropping.join();
    }
}
