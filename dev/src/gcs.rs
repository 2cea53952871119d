//! A private stand-in for Google Cloud Storage: fake-gcs-server, on files.
//!
//! It takes no upload of the XML API, which [`Front`] mends, and it is laxer than the real one: it looks at
//! `ifGenerationMatch` for multipart uploads alone, takes any checksum, appends a chunk of a resumable upload wherever
//! the chunk says it belongs, and ends a resumable upload that is asked how far it got. `tests/gcs.rs` shows it.

mod emulator;
mod front;
mod program;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use front::{Fault, Front};
pub use program::VERSION;
pub use shared::for_tests;

use crate::process::Service;
use crate::progress::{Finish, Progress, Step};
use crate::python::PythonError;
use emulator::Emulator;

/// Where and how to run it.
#[derive(Clone, Debug)]
pub struct GcsConfig {
    /// Holds the objects and the log. Its file system has to have extended attributes (tmpfs has them from Linux 6.6).
    pub dir: PathBuf,
    /// The port for clients; a free one where there is none.
    pub port: Option<u16>,
    /// Keeps the downloaded program, instead of the user's cache directory.
    pub cache_dir: Option<PathBuf>,
}

impl GcsConfig {
    /// On a free port.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), port: None, cache_dir: None }
    }
}

/// Why there is no stand-in for Cloud Storage, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GcsError {
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error(
        "no directory to keep fake-gcs-server in can be written: set XDG_CACHE_HOME to one that can"
    )]
    Cache,
    #[error("another process uses fake-gcs-server's data in {}: stop it first", path.display())]
    InUse { path: PathBuf },
    #[error("fake-gcs-server did not start: {why}")]
    Start { why: String },
    #[error("fake-gcs-server: {0}")]
    Io(#[from] std::io::Error),
}

/// A running stand-in for Cloud Storage. Dropped, it is stopped.
#[derive(Debug)]
pub struct FakeGcs {
    // Before the emulator, which holds the directory until the process has ended.
    service: Mutex<Arc<Service>>,
    emulator: Emulator,
    port: u16,
    url: String,
}

impl FakeGcs {
    /// Finds the program and starts it. It takes requests when this returns; there is no bucket unless the directory has
    /// one.
    ///
    /// # Errors
    /// Where the program cannot be had, the directory is in use or the program does not start.
    pub async fn start(config: GcsConfig, progress: &dyn Progress) -> Result<Self, GcsError> {
        let _finish = Finish(progress);
        let program = program::find(config.cache_dir.as_deref(), progress).await?;
        let emulator = Emulator::open(&config.dir, program)?;
        progress.step(&Step::Starting(&format!("fake-gcs-server {VERSION}")));
        let (service, port) = emulator.launch(config.port).await?;
        let url = emulator::url(port);
        Ok(Self { service: Mutex::new(Arc::new(service)), emulator, port, url })
    }

    /// `http://host:port`, without a slash at its end.
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

    /// A line a request.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.emulator.log()
    }

    /// Stops it in order; where that takes too long, kills it.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    pub async fn stop(&self) -> Result<(), GcsError> {
        Ok(self.service().end(&emulator::STOP).await?)
    }

    /// Kills the process (SIGKILL), for tests of crashes.
    ///
    /// # Errors
    /// Where the process cannot be ended.
    pub async fn kill(&self) -> Result<(), GcsError> {
        Ok(self.service().end(&[]).await?)
    }

    /// Stops it if it runs, and starts it again on the same objects and port.
    ///
    /// # Errors
    /// Where it cannot be ended or does not start.
    pub async fn restart(&self) -> Result<(), GcsError> {
        self.stop().await?;
        let (service, _) = self.emulator.launch(Some(self.port)).await?;
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(service);
        Ok(())
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Fetches the program into the cache without starting it. Returns its directory.
///
/// # Errors
/// Where it cannot be had.
pub async fn fetch(cache_dir: Option<&Path>, progress: &dyn Progress) -> Result<PathBuf, GcsError> {
    let _finish = Finish(progress);
    program::directory(cache_dir, progress).await
}
