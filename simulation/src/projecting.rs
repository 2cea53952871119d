//! The projector: it folds batches ahead of their commits.

use std::collections::VecDeque;

use projector::{
    batch::{Batch, Folded, Parts},
    recent::Recent,
    record::Decoded,
};
use readmodel::projection::Advance;

use crate::{
    Mistake, Violation,
    log::partitions,
    rows::Committed,
    world::{BATCH, World},
};

/// Batches that are folded before the first of them is committed, at most.
const FLYING: usize = 2;

/// What a session of the projector has in memory.
#[derive(Default)]
pub(crate) struct Projecting {
    flying: VecDeque<Flying>,
    recent: Recent,
    /// The next batch is loaded, whatever is known.
    loads: bool,
}

/// A batch that is folded, and not committed yet.
struct Flying {
    folded: Folded,
    advances: Vec<Advance>,
}

impl Projecting {
    pub(crate) fn is_idle(&self) -> bool {
        self.flying.is_empty()
    }

    /// Other rows have taken the place of those that it has committed: with its next commit its session would end.
    pub(crate) fn forget(&mut self) {
        self.recent = Recent::default();
    }

    fn fold_as_new(&self, batch: &Batch) -> Option<Folded> {
        let mut steps = self.recent.as_new(batch, self.changed())?;
        while steps.go_on() {}
        let makes_all = steps.makes_all();
        let mut folded = steps.finish();
        folded.writes.taken_for_new = true;
        makes_all.then_some(folded)
    }

    fn changed(&self) -> impl Iterator<Item = &Parts> {
        self.flying.iter().map(|flying| &flying.folded.changed)
    }
}

impl World {
    /// The projector folds a batch, or commits one.
    pub(crate) fn project(&mut self) -> Result<(), Violation> {
        let flying = &self.projecting.flying;
        let full = flying.len() >= FLYING;
        if full || (!flying.is_empty() && self.random.chance(60)) {
            return self.commit();
        }
        let mut positions = self.rows.positions.clone();
        for advance in flying.iter().flat_map(|flying| &flying.advances) {
            positions.insert(advance.partition, advance.to);
        }
        let mut records = Vec::new();
        let mut most = 1 + self.random.below(BATCH);
        for partition in partitions() {
            let from = positions[&partition].next_offset;
            let taken = self.log.from(partition, from);
            let taken = &taken[..taken.len().min(most)];
            most -= taken.len();
            records.extend(taken.iter().cloned().map(Decoded::new));
        }
        if records.is_empty() {
            return if self.projecting.is_idle() { Ok(()) } else { self.commit() };
        }
        let batch = Batch::new(records, &positions);
        let folded = self.fold(&batch);
        self.projecting.flying.push_back(Flying { folded, advances: batch.advances });
        Ok(())
    }

    /// As the projector does: what is known or loaded is brought up to the batches that fly.
    fn fold(&mut self, batch: &Batch) -> Folded {
        let loads = std::mem::take(&mut self.projecting.loads);
        if let Some(folded) = (!loads).then(|| self.projecting.fold_as_new(batch)).flatten() {
            return folded;
        }
        let with_commands = self.mistake != Some(Mistake::ForgetsCommands);
        let mut loaded = self.rows.load(&batch.wanted(), with_commands);
        self.projecting.changed().for_each(|parts| loaded.overlay(parts));
        let besides = batch.wanted_besides(&loaded);
        if !besides.is_empty() {
            loaded.add_messages(self.rows.load(&besides, with_commands));
            self.projecting.changed().for_each(|parts| loaded.overlay(parts));
        }
        batch.fold(loaded)
    }

    fn commit(&mut self) -> Result<(), Violation> {
        let Some(Flying { folded, advances }) = self.projecting.flying.pop_front() else {
            return Ok(());
        };
        if matches!(self.mistake, Some(Mistake::FoldsTwice | Mistake::AnswersEarly)) {
            self.before = Some(self.rows.clone());
        }
        match self.rows.commit(&folded.writes, &advances, true)? {
            Committed::Done(gone) => {
                self.effects.committed(&folded.writes, &gone);
                self.witness.committed(&folded.writes, gone)?;
                self.projecting.recent.committed(folded);
            }
            // It is folded again, and what was folded upon it too.
            Committed::NotNew => {
                self.effects.was_not_new();
                self.projecting.flying.clear();
                self.projecting.loads = true;
            }
            // Somebody else was there: a new session goes on from where they are.
            Committed::Moved => self.projecting = Projecting::default(),
        }
        Ok(())
    }
}
