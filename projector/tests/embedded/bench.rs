//! A log, a read model, and projectors between them.

use std::{path::Path, sync::Arc};

use archive::Archive;
use bytes::Bytes;
use eventlog::{EventLog, LogAddress, LogConfig};
use model::{Command, Event, Partition, Place};
use projector::{Projector, ProjectorConfig, ProjectorError};
use readmodel::{DatabaseConfig, Pool, feed::Feed};
use service::ops::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    database::Database,
    equation::{self, eventually},
};

pub(crate) struct Bench {
    pub(crate) database: Database,
    pub(crate) log: Arc<dyn EventLog>,
    /// The owner's: sees everything.
    pub(crate) pool: Pool,
    dir: tempfile::TempDir,
}

/// A projector that runs.
pub(crate) struct Running {
    pub(crate) readiness: Readiness,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ProjectorError>>,
}

pub(crate) async fn open(dir: &Path) -> Arc<dyn EventLog> {
    eventlog::open(&LogConfig::new(LogAddress::Embedded), dir).await.unwrap()
}

pub(crate) fn start(database: &Database, log: &Arc<dyn EventLog>) -> Running {
    start_with(database.config.clone(), log, Feed::new(true))
}

pub(crate) fn start_with(
    database: DatabaseConfig,
    log: &Arc<dyn EventLog>,
    feed: Arc<Feed>,
) -> Running {
    start_batching(batches(), database, log, feed, None)
}

/// As the binary has it where nothing is set.
pub(crate) fn batches() -> ProjectorConfig {
    ProjectorConfig {
        batch_records_max: 1_000,
        batch_changes_max: 2_000,
        batch_bytes_max: 8 << 20,
        projector_workers: 2,
        history_days: 90,
        partitions: Vec::new(),
    }
}

pub(crate) fn start_batching(
    config: ProjectorConfig,
    database: DatabaseConfig,
    log: &Arc<dyn EventLog>,
    feed: Arc<Feed>,
    archive: Option<Archive>,
) -> Running {
    let readiness = Readiness::new();
    let shutdown = CancellationToken::new();
    let projector = Projector {
        config,
        database,
        log: log.clone(),
        facts: None,
        archive,
        feed,
        ready: readiness.component("projector"),
    };
    let task = tokio::spawn(projector.run(shutdown.clone()));
    Running { readiness, shutdown, task }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it gives up.
    pub(crate) async fn error(self) -> ProjectorError {
        let ended = tokio::time::timeout(equation::DEADLINE, self.task).await;
        let error = ended.unwrap().unwrap().unwrap_err();
        let components = self.readiness.components();
        let reason = components[0].reason.clone();
        assert_eq!(reason, Some(error.to_string()), "operators read why it is not ready");
        error
    }

    /// Lets it begin, and look for what to expire.
    pub(crate) async fn ready_then_stop(self) {
        self.ready().await;
        self.stop().await;
    }

    /// Waits until it says that it is not ready because of this.
    pub(crate) async fn waits(&self, because: &str) {
        eventually(because, async || {
            let reason = self.readiness.components()[0].reason.clone()?;
            reason.contains(because).then_some(())
        })
        .await;
    }

    pub(crate) async fn ready(&self) {
        eventually("ready", async || self.readiness.is_ready().then_some(())).await;
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    /// On the log in the directory.
    pub(crate) async fn on(dir: tempfile::TempDir) -> Self {
        let database = Database::migrated().await;
        let log = open(dir.path()).await;
        let pool = database.owner_pool();
        Self { database, log, pool, dir }
    }

    /// Of the log.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn start(&self) -> Running {
        start(&self.database, &self.log)
    }

    /// One record a batch, so that there is always another one to load while the first commits.
    pub(crate) fn start_with_small_batches(&self) -> Running {
        let config = ProjectorConfig { batch_records_max: 1, ..batches() };
        start_batching(config, self.database.config.clone(), &self.log, Feed::new(true), None)
    }

    /// One that folds some partitions, and leaves the others to others.
    pub(crate) fn start_on(&self, partitions: &[Partition]) -> Running {
        let config = ProjectorConfig { partitions: partitions.to_vec(), ..batches() };
        start_batching(config, self.database.config.clone(), &self.log, Feed::new(true), None)
    }

    pub(crate) fn start_archiving(&self, archive: &Archive) -> Running {
        self.start_archiving_on(&self.database, archive)
    }

    /// On another database.
    pub(crate) fn start_archiving_on(&self, database: &Database, archive: &Archive) -> Running {
        let (database, feed) = (database.config.clone(), Feed::new(true));
        start_batching(batches(), database, &self.log, feed, Some(archive.clone()))
    }

    pub(crate) async fn append(&self, command: &Command) -> Place {
        let key = command.scope.to_string();
        self.append_raw(&key, schemas::encode_command(command).unwrap()).await
    }

    pub(crate) async fn append_raw(&self, key: &str, value: Vec<u8>) -> Place {
        let appended = self.log.append(Bytes::from(key.to_owned()), Bytes::from(value)).await;
        appended.unwrap().place
    }

    pub(crate) async fn append_event(&self, partition: Partition, event: &Event) -> Place {
        let value = Bytes::from(schemas::encode(event).unwrap());
        self.log.append_to(partition, Bytes::new(), value).await.unwrap().place
    }

    pub(crate) async fn caught_up(&self) {
        equation::caught_up(self.log.as_ref(), &self.pool).await;
    }

    /// `rows == fold(log)`.
    pub(crate) async fn check(&self) {
        equation::check(self.log.as_ref(), &self.pool).await;
    }

    /// Kind, key and reason of each dead letter, in the log's order.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, String, String)> {
        let query = "select kind, encode(key, 'escape'), reason from dead_letters
            order by partition, record_offset";
        sqlx::query_as(query).fetch_all(&self.pool).await.unwrap()
    }

    /// The head of a scope's row.
    pub(crate) async fn head(&self, key: &str) -> Option<i64> {
        sqlx::query_scalar("select head from scopes where scope = $1")
            .bind(crate::commands::scope(key).reference().0)
            .fetch_optional(&self.pool)
            .await
            .unwrap()
    }
}
