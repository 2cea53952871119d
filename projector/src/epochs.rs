//! Epochs that began without a new log are in the read model alone, until the archive has them too: then they outlive the
//! database.

use std::{collections::HashSet, time::Duration};

use archive::{
    Archive,
    base::{self, StoredEpoch},
};
use model::LogId;
use readmodel::{DatabaseConfig, epochs::NewEpoch};

use crate::ProjectorError;

const AGAIN: Duration = Duration::from_secs(10);

/// Puts into the archive what it has not got yet of the epochs that are, or were, in force in the read model. Nothing
/// waits for it.
pub(crate) async fn keep(
    database: &DatabaseConfig,
    archive: &Archive,
    log: LogId,
) -> Result<(), ProjectorError> {
    let begun = readmodel::epochs::begun(database, log).await?;
    if begun.is_empty() {
        return Ok(());
    }
    let kept = base::epochs(archive, log).await?;
    let kept: HashSet<_> = kept.into_iter().map(|stored| stored.epoch).collect();
    for (number, new) in begun.into_iter().filter(|(_, new)| !kept.contains(&new.epoch)) {
        let bases = new.bases.iter().map(|(scope, base)| (scope.0, *base)).collect();
        let NewEpoch { epoch, keeps_unlisted, fold_revision, .. } = new;
        let stored = StoredEpoch { epoch, bases, keeps_unlisted, fold_revision };
        stored.keep(archive, log, number).await?;
    }
    Ok(())
}

/// As [`keep`], until it is done.
pub(crate) async fn keep_trying(database: DatabaseConfig, archive: Archive, log: LogId) {
    while let Err(error) = keep(&database, &archive, log).await {
        tracing::warn!(%error, "an epoch is not in the archive yet");
        tokio::time::sleep(AGAIN).await;
    }
}
