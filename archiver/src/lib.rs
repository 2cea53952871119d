//! The archiver: folds the log, and writes what it comes to into the archive.
//!
//! [`session`] reads the log and folds it into the [`cache`]; where an hour or a day of the log's time ends,
//! [`sealing`] writes objects and the manifest that makes them a backup. All of it is a pure function of
//! the log: killed anywhere and started again, or running twice at once, it ends with the same bytes.
//! Beside that, [`upkeep`] deletes what is over its time ([`expiry`]), and compares backups with the live rows ([`mod@drill`]).
//! What fails is tried again for ever, with back-off; pushes and the projector never wait for it.

mod cache;
mod clock;
mod config;
mod drill;
mod error;
mod events;
mod expiry;
mod facts;
mod fold;
mod restoring;
mod sealing;
mod session;
mod upkeep;

use std::{sync::Arc, time::Duration};

use archive::Archive;
use eventlog::EventLog;
use service::ops::ComponentHandle;
use tokio_util::sync::CancellationToken;

pub use clock::Clock;
pub use config::{ArchiverConfig, Retention};
pub use drill::{DRILL_SCOPES, DrillError, DrilledScope, Drilling, drill};
pub use error::ArchiverError;
pub use expiry::{Fate, Overdue, Stays, Summary};
pub use upkeep::{Expiring, Operator, Upkeep};

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
    pub ready: ComponentHandle,
    pub upkeep: Upkeep,
}

impl Archiver {
    /// Archives until shutdown.
    ///
    /// # Errors
    /// What trying again cannot mend: rules that this build does not know, an archive that holds something
    /// else than the log gives, events that retention removed before they were archived.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ArchiverError> {
        let mut back_off = BACK_OFF_MIN;
        while !shutdown.is_cancelled() {
            let began = tokio::time::Instant::now();
            let session = Session {
                config: &self.config,
                log: &self.log,
                facts: &self.facts,
                archive: &self.archive,
                ready: &self.ready,
                upkeep: &self.upkeep,
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
}
