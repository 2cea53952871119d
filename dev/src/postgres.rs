//! A private PostgreSQL: its own data directory, a random password, a port of the loopback address.

mod binaries;
mod cluster;
mod directory;
mod orphan;
mod server;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use binaries::{MINIMUM_MAJOR, VERSION};
pub use shared::for_tests;

use crate::blocking;
use crate::process::Service;
use crate::progress::{Finish, Progress, Step};
use crate::sys::Signal;
use binaries::Binaries;
use directory::Directory;
use server::Server;

/// The database that is made for the caller.
pub const DATABASE: &str = "context_sync";

/// The owner of that database, a superuser.
pub const OWNER: &str = "context_sync";

/// Where and how to run PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Holds the data. May be deleted while nothing runs in it: the next start makes an empty one. It is a symbolic link
    /// where root starts PostgreSQL and the user it then runs as cannot reach this path.
    pub data_dir: PathBuf,
    /// The directory with `postgres` and `initdb` (`--postgres-bin`), instead of looking for one.
    pub bin_dir: Option<PathBuf>,
    /// Keeps downloaded programs, instead of the user's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// The port to listen on; a free one where there is none.
    pub port: Option<u16>,
    /// Whether a commit survives a crash of the machine. Only tests do without, for speed.
    pub durable: bool,
    /// Further settings of `postgresql.conf`, applied last.
    pub settings: Vec<(String, String)>,
}

impl PostgresConfig {
    /// A durable PostgreSQL on a free port.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bin_dir: None,
            cache_dir: None,
            port: None,
            durable: true,
            settings: Vec::new(),
        }
    }
}

/// Why there is no PostgreSQL, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("the directory {} for PostgreSQL's data cannot be used: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("another process uses PostgreSQL's data in {}: stop it first", path.display())]
    InUse { path: PathBuf },
    #[error("{} holds no usable PostgreSQL {MINIMUM_MAJOR} or newer ({why}): name the directory with its programs `postgres` and `initdb`", path.display())]
    BinDir { path: PathBuf, why: String },
    #[error(
        "PostgreSQL is missing: {VERSION} could not be fetched ({fetch}) and none from {MINIMUM_MAJOR} on is installed. Install it (Debian: apt install postgresql) or name the directory of its programs (--postgres-bin)"
    )]
    Missing { fetch: String },
    #[error(
        "the data in {} was made by PostgreSQL {made_by} and the programs found are {found}: delete the directory, or name the programs of {made_by} (--postgres-bin)", path.display()
    )]
    OtherVersion { path: PathBuf, made_by: u32, found: u32 },
    #[error("PostgreSQL's data could not be initialised: {why}")]
    Initialise { why: String },
    #[error("PostgreSQL did not start: {why}")]
    Start { why: String },
    #[error("PostgreSQL: {0}")]
    Io(#[from] std::io::Error),
}

/// A running PostgreSQL. Dropped, it is stopped at once, as in a crash: [`Postgres::stop`] is quicker to start again.
#[derive(Debug)]
pub struct Postgres {
    // Before the directory, which must be held until PostgreSQL has ended.
    service: Mutex<Arc<Service>>,
    server: Server,
    binaries: Binaries,
    url: String,
    port: u16,
}

impl Postgres {
    /// Finds the programs, makes the data directory where there is none, and starts PostgreSQL. It accepts connections
    /// when this returns.
    ///
    /// # Errors
    /// Where the programs cannot be had, the directory is in use or PostgreSQL does not start.
    pub async fn start(
        config: PostgresConfig,
        progress: &dyn Progress,
    ) -> Result<Self, PostgresError> {
        let _finish = Finish(progress);
        let data_dir = config.data_dir.clone();
        let directory = blocking(move || Directory::open(&data_dir)).await?;
        end_orphan(&directory, progress).await?;
        let made_by = cluster::major(&directory);
        let binaries = Binaries::find(&config, directory.user(), made_by, progress).await?;
        if let Some(made_by) = made_by.filter(|major| *major != binaries.major) {
            return Err(PostgresError::OtherVersion {
                path: config.data_dir,
                made_by,
                found: binaries.major,
            });
        }
        let password = cluster::prepare(&directory, &binaries, config.durable, progress).await?;
        progress.step(&Step::Starting(&format!("PostgreSQL {}", binaries.version)));
        let server = Server::new(directory, &binaries, &config).await?;
        let (service, port) = server.launch(config.port).await?;
        let url = format!("postgres://{OWNER}:{password}@{}:{port}/{DATABASE}", crate::LOOPBACK);
        Ok(Self { service: Mutex::new(Arc::new(service)), server, binaries, url, port })
    }

    /// The address of [`DATABASE`], with [`OWNER`]'s password in it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that serves, or served last.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.service().pid()
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.service().exited(), Ok(None))
    }

    /// PostgreSQL's own data directory (`PGDATA`).
    #[must_use]
    pub fn cluster_dir(&self) -> PathBuf {
        self.server.directory.cluster()
    }

    /// What PostgreSQL says.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.server.directory.log()
    }

    /// The directory of the programs in use.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.directory
    }

    /// The version in use, such as `18.6`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.binaries.version
    }

    /// Ends the sessions, writes everything out and stops; where that takes too long, stops at once.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    pub async fn stop(&self) -> Result<(), PostgresError> {
        Ok(self.service().end(&server::STOP).await?)
    }

    /// Kills the process (SIGKILL), for tests of crashes.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    pub async fn kill(&self) -> Result<(), PostgresError> {
        Ok(self.service().end(&[]).await?)
    }

    /// Stops it if it runs, and starts it again on the same data and port.
    ///
    /// # Errors
    /// Where it cannot be ended or does not start.
    pub async fn restart(&self) -> Result<(), PostgresError> {
        self.stop().await?;
        let (service, _) = self.server.launch(Some(self.port)).await?;
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(service);
        Ok(())
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Fetches the programs into the cache, or finds those of the machine, without starting anything. Returns their
/// directory.
///
/// # Errors
/// Where they cannot be had.
pub async fn fetch(
    cache_dir: Option<PathBuf>,
    progress: &dyn Progress,
) -> Result<PathBuf, PostgresError> {
    let _finish = Finish(progress);
    let config = PostgresConfig { cache_dir, ..PostgresConfig::new("") };
    let user = (crate::sys::effective_uid() == 0).then(crate::user::User::unprivileged);
    Ok(Binaries::find(&config, user, None, progress).await?.directory)
}

/// What this process holds nobody else started: a PostgreSQL in it outlived a killed process.
async fn end_orphan(directory: &Directory, progress: &dyn Progress) -> Result<(), PostgresError> {
    let cluster = directory.cluster();
    if let Some(pid) = orphan::running(&cluster) {
        progress.step(&Step::StoppingOrphan("PostgreSQL"));
        orphan::stop(&cluster, pid).await?;
    }
    Ok(orphan::forget(&cluster)?)
}

/// What PostgreSQL gets when this process dies: a fast shutdown, so that the next start has nothing to recover.
const ON_DEATH: Signal = Signal::Interrupt;

/// What it gets when the handle is dropped: an immediate shutdown, which does not wait for a checkpoint.
const ON_DROP: Signal = Signal::Quit;
