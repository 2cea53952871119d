//! What a recovery left that was stopped, and whose log was given up before anything ran on it: no log goes on from there, so
//! that neither retention nor an erasure would come to it.

use archive::{base, manifest::ManifestReader};
use model::LogId;
use tokio::sync::mpsc;

use super::{Recovering, Recovery, RecoveryError, tell};

impl Recovery {
    /// Removes all there is of such a log. What no manifest lists any more, because this too was stopped, is removed as
    /// other leftovers are.
    pub(super) async fn remove_abandoned(
        &self,
        log: LogId,
        say: &mpsc::Sender<Recovering>,
    ) -> Result<(), RecoveryError> {
        for path in base::bases(&self.archive, log).await?.into_values() {
            let mut manifest = ManifestReader::new(self.archive.fetch(&path).await?, &path)?;
            let mut paths = vec![path];
            while let Some(line) = manifest.next_scope()? {
                paths.extend(line.backup.map(|backup| backup.path));
            }
            self.remove(&paths, say).await?;
        }
        let rest = self.archive.list(&format!("manifests/{log}")).await?;
        self.remove(&rest.into_iter().map(|(path, _)| path).collect::<Vec<_>>(), say).await
    }

    pub(super) async fn remove(
        &self,
        paths: &[String],
        say: &mpsc::Sender<Recovering>,
    ) -> Result<(), RecoveryError> {
        for path in paths {
            self.archive.delete(path).await?;
            tell(say, Recovering::Removed(path.clone())).await?;
        }
        Ok(())
    }
}
