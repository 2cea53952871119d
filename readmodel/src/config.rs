//! How the read model is reached.

use std::fmt;

/// Settings of the Postgres database that holds the read model.
#[derive(Clone, clap::Args)]
pub struct DatabaseConfig {
    /// Postgres, as postgres://user:password@host:port/database. TLS by `?sslmode=…`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Connections of each role to Postgres, at most.
    #[arg(long, env = "CONTEXT_SYNC_DATABASE_CONNECTIONS", default_value_t = 8)]
    pub database_connections: u32,

    /// How long a request waits for a connection, in milliseconds.
    #[arg(long, env = "CONTEXT_SYNC_DATABASE_ACQUIRE_TIMEOUT_MS", default_value_t = 3_000)]
    pub database_acquire_timeout_ms: u64,

    /// How long a statement may run, in milliseconds (0: without a limit).
    #[arg(long, env = "CONTEXT_SYNC_DATABASE_STATEMENT_TIMEOUT_MS", default_value_t = 30_000)]
    pub database_statement_timeout_ms: u64,
}

impl fmt::Debug for DatabaseConfig {
    /// The URL holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("database_url", &self.database_url.as_ref().map(|_| "[redacted]"))
            .field("database_connections", &self.database_connections)
            .field("database_acquire_timeout_ms", &self.database_acquire_timeout_ms)
            .field("database_statement_timeout_ms", &self.database_statement_timeout_ms)
            .finish()
    }
}
