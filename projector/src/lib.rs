//! The projector: folds the log into the read model.
//!
//! A [`session`] reads, [`record`] decodes ahead, and [`outlets`] gives each of its workers what is of that one's
//! partitions. [`projecting`] is a worker's loop: take records, load what they touch and fold it ([`batch`], pure), commit
//! rows and positions together, tell those who wait. When Postgres or the log fails, the session ends and another begins
//! from the stored positions, for ever, with back-off. What no other session could mend ends the process. [`rebuild`] does
//! the same beside the live rows, and puts what comes of it in their place.

mod adopting;
pub mod batch;
mod catalogue;
mod config;
mod epochs;
mod folding;
mod inbox;
mod lag;
mod measure;
mod outlets;
pub mod parked;
mod progress;
mod projecting;
mod rebuild;
pub mod recent;
pub mod record;
mod session;

use std::{sync::Arc, time::Duration};

use archive::Archive;
use eventlog::EventLog;
use readmodel::{DatabaseConfig, DatabaseRole, ReadModelError, feed::Feed};
use service::ops::ComponentHandle;
use tokio_util::sync::CancellationToken;

pub use config::ProjectorConfig;
pub use rebuild::{Difference, RebuildError, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
pub use session::ProjectorError;

use session::Session;

const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// How long the archive is asked whose it is.
const OWNER_WITHIN: Duration = Duration::from_secs(5);

/// The projector and what it works with.
pub struct Projector {
    pub config: ProjectorConfig,
    pub database: DatabaseConfig,
    pub log: Arc<dyn EventLog>,
    /// The archiver's facts, if there is an archive.
    pub facts: Option<Arc<dyn EventLog>>,
    /// The archive: a log that was recovered begins with what it has.
    pub archive: Option<Archive>,
    pub feed: Arc<Feed>,
    pub ready: ComponentHandle,
}

impl Projector {
    /// Projects until shutdown.
    ///
    /// # Errors
    /// What trying again cannot mend: another log than the read model's, missing records, rules that
    /// this build does not know, a database that was never configured.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ProjectorError> {
        measure::describe();
        let lag_pool = readmodel::pool(
            &DatabaseConfig { database_connections: 1, ..self.database.clone() },
            DatabaseRole::Projector,
        )?;
        tokio::spawn(lag::measure(self.log.clone(), lag_pool, shutdown.clone()));
        if let Some(facts) = &self.facts {
            tokio::spawn(catalogue::run(self.database.clone(), facts.clone(), shutdown.clone()));
        }
        let session = Session {
            config: &self.config,
            database: &self.database,
            log: &self.log,
            feed: &self.feed,
            ready: &self.ready,
            archive: self.archive.as_ref(),
            aim: None,
        };
        self.check_owner().await?;
        let mut leases = None;
        let mut back_off = BACK_OFF_MIN;
        while !shutdown.is_cancelled() {
            let began = tokio::time::Instant::now();
            let error = match session.run(&mut leases, &shutdown).await {
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
            if !is_routine(&error) {
                tracing::warn!(%error, "projecting stopped; trying again");
                self.ready.set_not_ready(error.to_string());
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(back_off) => {}
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
        if let Some(leases) = leases {
            leases.release().await;
        }
        Ok(())
    }
}

impl Projector {
    /// The archive must not go on from another log. One that cannot be asked keeps nobody from being served.
    async fn check_owner(&self) -> Result<(), ProjectorError> {
        let Some(archive) = &self.archive else { return Ok(()) };
        let asked = adopting::check_owner(archive, self.log.log_id());
        match tokio::time::timeout(OWNER_WITHIN, asked).await {
            Ok(Err(error)) if !matches!(error, ProjectorError::Archive(_)) => {
                self.ready.set_not_ready(error.to_string());
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// Another projector came or went: nothing is wrong.
fn is_routine(error: &ProjectorError) -> bool {
    matches!(
        error,
        ProjectorError::LeasesChanged | ProjectorError::ReadModel(ReadModelError::PositionMoved)
    )
}
