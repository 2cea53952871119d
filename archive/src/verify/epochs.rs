//! Epochs: what says which cursors devices keep, where a read model was lost.

use model::LogId;

use crate::{base::StoredEpoch, error::ArchiveError, path, verify::Verifier};

impl Verifier<'_> {
    /// Reads the epochs that began on a log.
    pub(super) async fn epochs(&mut self, log: LogId) -> Result<(), ArchiveError> {
        for (path, _) in self.archive.list(&path::epochs(log)).await? {
            let read = match self.archive.fetch(&path).await {
                Ok(object) => StoredEpoch::read(object, &path),
                Err(error) => Err(error),
            };
            self.keep(read)?;
        }
        Ok(())
    }
}
