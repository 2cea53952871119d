//! Loading and folding a batch.

use readmodel::{ReadModelError, load::Loader};

use crate::{
    batch::{Batch, Folded, Parts},
    recent::Recent,
};

/// Batches that are loaded after one was taken for new that was not: its like may come again.
const LOADED_AFTER_NOT_NEW: u32 = 32;

/// What a worker folds with: what it knows, and how it learns the rest.
pub(crate) struct Folding {
    loader: Loader,
    recent: Recent,
    /// So many batches are not taken for new.
    loads: u32,
}

impl Folding {
    pub(crate) fn new(loader: Loader) -> Self {
        Self { loader, recent: Recent::default(), loads: 0 }
    }

    /// Folds a batch; `changed` is what the batch before it changes, whose commit is under way.
    pub(crate) async fn fold(
        &mut self,
        batch: &Batch,
        changed: &Parts,
    ) -> Result<Folded, ReadModelError> {
        if self.loads > 0 {
            self.loads -= 1;
        } else if let Some(folded) = self.recent.fold_as_new(batch, [changed]) {
            return Ok(folded);
        }
        let mut loaded = self.loader.load(&batch.wanted()).await?;
        loaded.overlay(changed);
        let besides = batch.wanted_besides(&loaded);
        if !besides.is_empty() {
            loaded.add_messages(self.loader.load(&besides).await?);
            loaded.overlay(changed);
        }
        Ok(batch.fold(loaded))
    }

    /// A batch was committed.
    pub(crate) fn committed(&mut self, folded: Folded) {
        self.recent.committed(folded);
    }

    /// A batch was taken for new, and was not: it is to be folded again.
    pub(crate) fn was_not_new(&mut self) {
        self.loads = LOADED_AFTER_NOT_NEW;
    }
}
