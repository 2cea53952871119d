//! The archiver: folds the log, and writes what it comes to into the archive.
//!
//! [`session`] reads the log and folds it into the [`cache`]; where an hour or a day of the log's time ends,
//! [`sealing`] writes objects and the manifest that makes them a backup. All of it is a pure function of
//! the log: killed anywhere and started again, or running twice at once, it ends with the same bytes.
//! Beside that, [`upkeep`] deletes what is over its time ([`expiry`], [`tombstones`]), and compares backups with the live rows ([`mod@drill`]);
//! [`segments`] uploads raw records until their hour is sealed, [`compaction`] puts the tables of a day that is over together,
//! [`restoring`] executes restores, and [`facts`] says what was done. Where the log no longer reaches back, [`bootstrap`] makes
//! the cache again from the archive ([`records`]: what the log or the segments have), and [`mod@gap`] goes on from the read model.
//! What fails is tried again for ever, with back-off; pushes and the projector never wait for it.

mod back_off;
mod bootstrap;
mod cache;
mod clock;
mod compaction;
mod config;
mod drill;
mod erasing;
mod error;
mod events;
mod expiry;
mod facts;
mod fold;
mod gap;
mod measure;
mod records;
mod recovery;
mod restoring;
mod sealing;
mod segments;
mod session;
mod tombstones;
mod upkeep;
mod workers;

use std::{sync::Arc, time::Duration};

use archive::Archive;
use eventlog::EventLog;
use readmodel::DatabaseConfig;
use service::ops::ComponentHandle;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use clock::Clock;
pub use config::{ArchiverConfig, InvalidKeptDays, KeptDays, Retention, SegmentConfig};
pub use drill::{DRILL_SCOPES, DrillError, DrilledScope, Drilling, drill};
pub use error::ArchiverError;
pub use expiry::{Fate, Forgotten, Overdue, Stays, Summary};
pub use recovery::{
    Judged, Lost, NewLog, Recovered, Recovering, Recovery, RecoveryError, last_written, lost,
    lost_log,
};
pub use upkeep::{Expiring, Operator, Upkeep};

use back_off::BackOff;
use measure::Progress;
use segments::Segments;
use session::Session;

/// How long after shutdown began what is under way may still take: less than the process has.
const STOP_WITHIN: Duration = Duration::from_secs(5);

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
    pub upkeep: Upkeep,
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
        let clock = self.upkeep.clock.clone();
        beside.spawn(measure::measure(self.log.clone(), progress.subscribe(), clock));
        if self.config.segments.is_on() {
            beside.spawn(self.segments(&progress).run(shutdown.clone()));
        }
        let mut back_off = BackOff::new();
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
                upkeep: &self.upkeep,
            };
            let ended = tokio::select! {
                ended = session.run(&shutdown) => ended,
                () = overdue(&shutdown) => break,
            };
            let error = match ended {
                Ok(()) => break,
                Err(error) if error.is_retryable() => error,
                Err(error) => {
                    self.ready.set_not_ready(error.to_string());
                    drop(beside);
                    measure::ended_for_good();
                    return Err(error);
                }
            };
            measure::backup_ended(false);
            let pause = back_off.pause(began.elapsed(), error.needs_operator());
            tracing::warn!(%error, ?pause, "archiving stopped; trying again");
            self.ready.set_not_ready(error.to_string());
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    fn segments(&self, progress: &watch::Sender<Progress>) -> Segments {
        Segments {
            config: self.config.segments.clone(),
            log: self.log.clone(),
            archive: self.archive.clone(),
            clock: self.upkeep.clock.clone(),
            progress: progress.clone(),
        }
    }
}

/// A store that does not answer keeps nobody: what was under way is done again, as after a crash.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(STOP_WITHIN).await;
}
