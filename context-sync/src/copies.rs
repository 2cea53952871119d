//! The three copies, asked together: the log, the rows that it folds to, and the archive. What operators' commands
//! say is found out here, either in the command's own process, or in the one that holds an embedded log, which answers
//! on its ops port.

mod beginning;
pub mod check;
pub mod dead_letters;
mod disk;
pub mod status;
pub mod trace;

use std::{path::PathBuf, sync::Arc};

use archive::{Archive, ArchiveConfig};
use eventlog::{EventLog, LogAddress, LogConfig};
use readmodel::{DatabaseConfig, DatabaseRole, Pool, connect::try_role, feed::Feed};
use service::ops::Readiness;

/// A part that cannot be asked, and why: a line for people.
pub type Unasked = String;

/// Where the copies are.
#[derive(Clone)]
pub struct Copies {
    pub log: Result<Arc<dyn EventLog>, Unasked>,
    /// The archiver's facts; where they are not there, the catalogue's lag is not known, and that is all.
    pub facts: Option<Arc<dyn EventLog>>,
    pub database: DatabaseConfig,
    /// The projector's role: dead letters are nobody else's.
    pub rows: Result<Pool, Unasked>,
    /// `None`: none is configured.
    pub archive: Option<Result<Archive, Unasked>>,
    /// Of the projector of this process.
    pub feed: Option<Arc<Feed>>,
    /// Which roles of this process are ready; `None`: it is a command's.
    pub readiness: Option<Readiness>,
    /// What is kept on this machine's disk, by what it is.
    pub disks: Vec<(String, PathBuf)>,
}

async fn rows(config: &DatabaseConfig) -> Result<Pool, Unasked> {
    // It says itself which server lets nobody in, in time.
    try_role(config, DatabaseRole::Projector).await.map_err(|error| error.to_string())?;
    readmodel::pool(config, DatabaseRole::Projector).map_err(|error| error.to_string())
}

impl Copies {
    /// Opens what the flags name. Nothing is created anywhere.
    pub async fn open(log: &LogConfig, database: &DatabaseConfig, archive: &ArchiveConfig) -> Self {
        let look = LogConfig { log_must_exist: true, ..log.clone() };
        let nowhere = PathBuf::new(); // an embedded log is not opened beside the process that holds it
        let (events, facts) = match &log.log {
            LogAddress::Embedded => {
                let held = "an embedded log is asked through the process that holds it: name its --ops-url";
                (Err(held.to_owned()), None)
            }
            LogAddress::Kafka { .. } => {
                let facts = async {
                    match archive.archive {
                        Some(_) => eventlog::open_backups(&look, &nowhere).await.ok(),
                        None => None,
                    }
                };
                let (events, facts) = tokio::join!(eventlog::open(&look, &nowhere), facts);
                (events.map_err(|error| error.to_string()), facts)
            }
        };
        let two = DatabaseConfig { database_connections: 2, ..database.clone() };
        let rows = rows(&two).await;
        let archive = archive
            .archive
            .as_ref()
            .map(|_| Archive::open_existing(archive).map_err(|error| error.to_string()));
        Self {
            log: events,
            facts,
            database: two,
            rows,
            archive,
            feed: None,
            readiness: None,
            disks: Vec::new(),
        }
    }

    /// The log and the rows, which must be of each other.
    ///
    /// # Errors
    /// Which of them cannot be asked, or that they are not.
    async fn of_each_other(&self) -> Result<(&Arc<dyn EventLog>, &Pool), Unasked> {
        let log = self.log.as_ref().map_err(|why| format!("the log: {why}"))?;
        let rows = self.rows.as_ref().map_err(|why| format!("the database: {why}"))?;
        let of = readmodel::dead_letters::log_of(rows).await;
        match of.map_err(|error| format!("the database: {error}"))? {
            Some((id, _)) if id == log.log_id() => Ok((log, rows)),
            Some((id, _)) => Err(format!(
                "the database is of log {id}, this log is {}: name those that belong together",
                log.log_id()
            )),
            None => Err("the database: no projector has folded anything into it yet".to_owned()),
        }
    }
}
