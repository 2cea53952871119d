//! One PostgreSQL for all tests of a process.

use tokio::sync::OnceCell;

use super::{Postgres, PostgresConfig, PostgresError};
use crate::progress::Quiet;
use crate::scratch::Scratch;

/// Names a server to use instead of a private one.
const VARIABLE: &str = "TEST_DATABASE_URL";

/// Tests run at the same time, each with its own pools of connections.
pub(crate) const TEST_CONNECTIONS: &str = "300";

/// The address of a server for tests: the one that `TEST_DATABASE_URL` names, else a private one that the first test of
/// this process starts. It is a superuser's; each test makes its own database. Nothing in it survives the process.
///
/// # Errors
/// Where PostgreSQL does not start.
pub async fn for_tests() -> Result<String, PostgresError> {
    static SHARED: OnceCell<String> = OnceCell::const_new();
    if let Ok(url) = std::env::var(VARIABLE) {
        return Ok(url);
    }
    SHARED.get_or_try_init(start).await.cloned()
}

async fn start() -> Result<String, PostgresError> {
    let scratch = Scratch::new()?;
    let postgres = Postgres::start(PostgresConfig::for_tests(scratch.path()), &Quiet).await?;
    let url = postgres.url().to_owned();
    crate::process::end_at_exit((postgres, scratch));
    Ok(url)
}

impl PostgresConfig {
    /// A quick one whose data nobody needs again, below `directory`.
    #[must_use]
    pub fn for_tests(directory: &std::path::Path) -> Self {
        let settings = vec![
            ("max_connections".into(), TEST_CONNECTIONS.into()),
            // Dropping any database waits for whoever is half through a login: a minute else, for all tests.
            ("authentication_timeout".into(), "10s".into()),
        ];
        Self { durable: false, settings, ..Self::new(directory.join("postgres")) }
    }
}
