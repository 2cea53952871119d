//! A private Apache Kafka: one node, without Docker.

mod broker;
mod jars;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use jars::VERSION;
pub use shared::for_tests;

use crate::process::Service;
use crate::progress::{Finish, Progress, Step};
use broker::Broker;
use jars::Jars;

/// The memory of a broker for tests.
const DEFAULT_HEAP_MB: u32 = 512;

/// Where and how to run Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Holds the data, the settings and the log.
    pub dir: PathBuf,
    /// The port for clients; a free one where there is none.
    pub port: Option<u16>,
    /// Keeps the downloaded jars, instead of the user's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// The most memory Java's heap may take.
    pub heap_mb: u32,
    /// Let Java optimise fully, for measurements; without, it starts sooner.
    pub full_jit: bool,
    /// Further settings of `server.properties`, applied last.
    pub settings: Vec<(String, String)>,
}

impl KafkaConfig {
    /// A quick broker on a free port.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            cache_dir: None,
            heap_mb: DEFAULT_HEAP_MB,
            full_jit: false,
            settings: Vec::new(),
        }
    }
}

/// Why there is no Kafka, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    #[error(
        "Java {} or newer is missing ({why}): install it (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME",
        jars::MINIMUM_JAVA
    )]
    Java { why: String },
    #[error(
        "Apache Maven, which fetches Apache Kafka, is missing: install it (Debian: apt install maven)"
    )]
    Maven,
    #[error("Apache Kafka {VERSION} could not be fetched: {why}")]
    Fetch { why: String },
    #[error(
        "no directory to keep Apache Kafka in can be written: set XDG_CACHE_HOME to one that can"
    )]
    Cache,
    #[error("another process uses Kafka's data in {}: stop it first", path.display())]
    InUse { path: PathBuf },
    #[error("Apache Kafka's data in {} could not be initialised: {why}", path.display())]
    Initialise { path: PathBuf, why: String },
    #[error("Apache Kafka did not start: {why}")]
    Start { why: String },
    #[error("Apache Kafka: {0}")]
    Io(#[from] std::io::Error),
}

/// A running broker. Dropped, it is stopped.
#[derive(Debug)]
pub struct Kafka {
    // Before the broker, which holds the directory until Kafka has ended.
    service: Mutex<Arc<Service>>,
    broker: Broker,
    port: u16,
    bootstrap: String,
}

impl Kafka {
    /// Finds Java and the jars, makes the data directory where there is none, and starts the broker. It takes requests
    /// when this returns.
    ///
    /// # Errors
    /// Where Java or the jars cannot be had, the directory is in use or Kafka does not start.
    pub async fn start(config: KafkaConfig, progress: &dyn Progress) -> Result<Self, KafkaError> {
        let _finish = Finish(progress);
        let jars = Jars::find(config.cache_dir.as_deref(), progress).await?;
        let port = config.port;
        let broker = Broker::open(config, jars)?;
        broker.format(progress).await?;
        progress.step(&Step::Starting(&format!("Apache Kafka {VERSION}")));
        let (service, port) = broker.launch(port).await?;
        let bootstrap = format!("{}:{port}", crate::LOOPBACK);
        Ok(Self { service: Mutex::new(Arc::new(service)), broker, port, bootstrap })
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
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

    /// What the broker says.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.broker.log()
    }

    /// The directory of the jars in use.
    #[must_use]
    pub fn jars(&self) -> &Path {
        self.broker.jars()
    }

    /// Stops it in order; where that takes too long, kills it.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    pub async fn stop(&self) -> Result<(), KafkaError> {
        Ok(self.service().end(&broker::STOP).await?)
    }

    /// Kills the process (SIGKILL), for tests of crashes.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    pub async fn kill(&self) -> Result<(), KafkaError> {
        Ok(self.service().end(&[]).await?)
    }

    /// Stops it if it runs, and starts it again on the same data and port.
    ///
    /// # Errors
    /// Where it cannot be ended or does not start.
    pub async fn restart(&self) -> Result<(), KafkaError> {
        self.stop().await?;
        let (service, _) = self.broker.launch(Some(self.port)).await?;
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(service);
        Ok(())
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Fetches the jars into the cache without starting anything. Returns their directory.
///
/// # Errors
/// Where they cannot be had.
pub async fn fetch(
    cache_dir: Option<PathBuf>,
    progress: &dyn Progress,
) -> Result<PathBuf, KafkaError> {
    let _finish = Finish(progress);
    Ok(Jars::find(cache_dir.as_deref(), progress).await?.directory)
}
