//! The catalogue's projector: folds the archiver's facts into `context_backups`.

use std::{sync::Arc, time::Duration};

use eventlog::{EventLog, LogError, ReadLimit};
use model::Partition;
use readmodel::{DatabaseConfig, ReadModelError, catalogue::Catalogue};
use tokio_util::sync::CancellationToken;

const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 8 << 20 };
const READ_WAIT: Duration = Duration::from_millis(500);
/// How long to wait after a failure, or while another process is the writer.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// The log of facts has one partition.
const FACTS: Partition = Partition::new(0);

#[derive(Debug, thiserror::Error)]
enum CatalogueError {
    #[error(transparent)]
    ReadModel(#[from] ReadModelError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Folds facts until shutdown; what fails is tried again for ever. Pushes and pulls do not need it.
pub(crate) async fn run(
    database: DatabaseConfig,
    facts: Arc<dyn EventLog>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        if let Err(error) = session(&database, &facts, &shutdown).await {
            tracing::warn!(%error, "the catalogue of backups is not brought up to date; trying again");
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(RETRY_AFTER) => {}
        }
    }
}

async fn session(
    database: &DatabaseConfig,
    facts: &Arc<dyn EventLog>,
    shutdown: &CancellationToken,
) -> Result<(), CatalogueError> {
    let Some(mut catalogue) = Catalogue::connect(database).await? else { return Ok(()) };
    let mut next = catalogue.position(facts.log_id()).await?;
    let mut reader = facts.reader(&[(FACTS, next)])?;
    loop {
        let records = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            read = reader.next(READ, READ_WAIT) => read?,
        };
        let Some(last) = records.last() else { continue };
        let to = last.offset.next();
        let mut decoded = Vec::with_capacity(records.len());
        for record in &records {
            match schemas::decode_fact(&record.value) {
                Ok(fact) => decoded.push(fact),
                // Nobody waits for it, and nothing depends on it.
                Err(error) => {
                    tracing::error!(place = %record.place(), %error, "a fact of the archiver is unusable");
                }
            }
        }
        catalogue.apply(next, to, &decoded).await?;
        next = to;
    }
}
