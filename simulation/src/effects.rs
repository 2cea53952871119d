//! What came to something: steps that do nothing show nothing.

use std::collections::BTreeMap;

use device::drift::Mended;
use model::restore::{RestoreRecord, RestoreStatus};
use readmodel::write::Writes;

use crate::{machine::Unsynced, rows::Gone};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// A device became what its scope is.
    Sync,
    /// It held something else, and compared.
    Repair,
    /// It brought back what its scope had lost.
    BroughtBack,
    /// A server or a device died while devices synced.
    Kill,
    /// It brought back or deleted something.
    Restore,
    /// A batch was taken for new.
    TakenForNew,
    /// And some of it was there.
    NotNew,
    /// There was something to fold.
    Rebuild,
    /// A device held what was lost.
    Recovery,
    /// Tombstones went.
    Expiry,
    /// Messages went.
    Erasure,
    /// A role was given or taken.
    Role,
    /// A device of a removed member held something, and purged it.
    Purge,
}

impl Effect {
    pub const ALL: [Self; 13] = [
        Self::Sync,
        Self::Repair,
        Self::BroughtBack,
        Self::Kill,
        Self::Restore,
        Self::TakenForNew,
        Self::NotNew,
        Self::Rebuild,
        Self::Recovery,
        Self::Expiry,
        Self::Erasure,
        Self::Role,
        Self::Purge,
    ];
}

/// How often each was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects(BTreeMap<Effect, u64>);

impl Effects {
    pub fn count(&mut self, effect: Effect, came_to_something: bool) {
        *self.0.entry(effect).or_default() += u64::from(came_to_something);
    }

    pub(crate) fn synced(&mut self, ended: &Result<Mended, Unsynced>, held_before: bool) {
        match ended {
            Ok(mended) => {
                self.count(Effect::Sync, true);
                self.count(Effect::Repair, mended.repairs > 0);
                self.count(Effect::BroughtBack, mended.pushed_again > 0);
            }
            Err(error) => self.count(Effect::Purge, error.is_purge() && held_before),
        }
    }

    pub(crate) fn was_not_new(&mut self) {
        self.count(Effect::NotNew, true);
    }

    pub(crate) fn committed(&mut self, writes: &Writes, gone: &Gone) {
        self.count(Effect::TakenForNew, writes.taken_for_new);
        let has_changed = |record: &RestoreRecord| {
            let counts = record.restore.counts;
            matches!(record.status, RestoreStatus::Completed { .. })
                && counts.restored + counts.deleted > 0
        };
        for image in &writes.restores {
            self.count(Effect::Restore, has_changed(&image.record));
        }
        self.count(Effect::Role, !writes.members.is_empty());
        self.count(Effect::Expiry, gone.tombstones > 0);
        for erased in &gone.erased {
            self.count(Effect::Erasure, !erased.items.is_empty());
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (effect, times) in &other.0 {
            *self.0.entry(*effect).or_default() += times;
        }
    }

    /// What never was.
    pub fn lacking(&self) -> Vec<Effect> {
        let never = |effect: &Effect| self.0.get(effect).is_none_or(|times| *times == 0);
        Effect::ALL.into_iter().filter(never).collect()
    }
}
