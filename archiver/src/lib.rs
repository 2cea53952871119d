//! The archiver: folds the log, and writes what it comes to into the archive.
//!
//! [`session`] reads the log and folds it into the [`cache`]; where an hour or a day of the log's time ends,
//! [`sealing`] writes objects and the manifest that makes them a backup. All of it is a pure function of
//! the log: killed anywhere and started again, or running twice at once, it ends with the same bytes.
//! What fails is tried again for ever, with back-off; pushes and the projector never wait for it.

mod bootstrap;
mod cache;
mod config;
mod error;
mod events;
mod facts;
mod fold;
mod gap;
mod measure;
mod records;
mod restoring;
mod sealing;
mod segments;
mod session;

use std::{sync::Arc, time::Duration};

use archive::Archive;
use eventlog::EventLog;
use readmodel::DatabaseConfig;
use service::ops::ComponentHandle;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use config::{ArchiverConfig, Retention, SegmentConfig};
pub use error::ArchiverError;

use measure::Progress;
use segments::Segments;
use session::Session;

const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// The archiver and what it works with.
pub struct Archiver {
    pub config: ArchiverConfig,
    pub log: Arc<dyn EventLog>,
    /// Where it says what it did.
    pub facts: Arc<dyn EventLog>,
    pub archive: Archive,
    /// The read model: after a gap the fold goes on from its rows. Without one a gap ends the archiver.
    pub database: Option<DatabaseConfig>,
    pub ready: ComponentHandle,
}

impl Archiver {
    /// Archives until shutdown.
    ///
    /// # Errors
    /// What trying again cannot mend: rules that this build does not know, an archive that holds something
    /// else than the log gives, events that retention removed before they were archived.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ArchiverError> {
        measure::describe();
        let progress = watch::Sender::new(Progress::default());
        // They end with this, however this ends.
        let mut beside = JoinSet::new();
        beside.spawn(measure::measure(self.log.clone(), progress.subscribe()));
        if self.config.segments.is_on() {
            beside.spawn(self.segments(&progress).run(shutdown.clone()));
        }
        let mut back_off = BACK_OFF_MIN;
        while !shutdown.is_cancelled() {
            let began = tokio::time::Instant::now();
            let session = Session {
                config: &self.config,
                log: &self.log,
                facts: &self.facts,
                archive: &self.archive,
                database: self.database.as_ref(),
                progress: &progress,
                ready: &self.ready,
            };
            let error = match session.run(&shutdown).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() => error,
                Err(error) => {
                    self.ready.set_not_ready(error.to_string());
                    return Err(error);
                }
            };
            if began.elapsed() > BACK_OFF_MAX {
                back_off = BACK_OFF_MIN; // it worked for a while: this is a new failure
            }
            tracing::warn!(%error, "archiving stopped; trying again");
            self.ready.set_not_ready(error.to_string());
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(back_off) => {}
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
        Ok(())
    }

    fn segments(&self, progress: &watch::Sender<Progress>) -> Segments {
        Segments {
            config: self.config.segments.clone(),
            log: self.log.clone(),
            archive: self.archive.clone(),
            progress: progress.clone(),
        }
    }
}
