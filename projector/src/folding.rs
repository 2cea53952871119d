//! Loading and folding a batch.

use readmodel::{ReadModelError, load::Loader};

use crate::{
    batch::{Batch, Folded, Parts, Steps},
    measure::{BATCHES, LOADED, NOT_WRITTEN, TAKEN_FOR_NEW},
    recent::Recent,
};

/// Batches that are loaded after one that was taken for new was not written: its like may come again.
const LOADED_AFTER_NOT_WRITTEN: u32 = 32;

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
        if let Some(folded) = self.fold_as_new(batch, changed).await {
            metrics::counter!(BATCHES, "how" => TAKEN_FOR_NEW).increment(1);
            return Ok(folded);
        }
        metrics::counter!(BATCHES, "how" => LOADED).increment(1);
        let mut loaded = self.loader.load(&batch.wanted()).await?;
        loaded.overlay(changed);
        let besides = batch.wanted_besides(&loaded);
        if !besides.is_empty() {
            loaded.add_messages(self.loader.load(&besides).await?);
            loaded.overlay(changed);
        }
        let mut steps = batch.steps(loaded);
        while go_on(&mut steps).await {}
        Ok(steps.finish())
    }

    /// What comes of it is written only if all is new. `None` if something is not, by what is known.
    async fn fold_as_new(&mut self, batch: &Batch, changed: &Parts) -> Option<Folded> {
        if self.loads > 0 {
            self.loads -= 1;
            return None;
        }
        let mut steps = self.recent.as_new(batch, [changed])?;
        while go_on(&mut steps).await && steps.makes_all() {}
        if !steps.makes_all() {
            return None;
        }
        let mut folded = steps.finish();
        folded.writes.taken_for_new = true;
        Some(folded)
    }

    /// A batch was committed.
    pub(crate) fn committed(&mut self, folded: Folded) {
        self.recent.committed(folded);
    }

    /// A batch that was taken for new was not written; it is to be folded again.
    pub(crate) fn not_written(&mut self) {
        metrics::counter!(BATCHES, "how" => NOT_WRITTEN).increment(1);
        self.loads = LOADED_AFTER_NOT_WRITTEN;
    }
}

/// Folds some of a batch, and lets others have their turn: the commit before it may still be on its way to Postgres.
async fn go_on(steps: &mut Steps<'_>) -> bool {
    let more = steps.go_on();
    if more {
        tokio::task::yield_now().await;
    }
    more
}
