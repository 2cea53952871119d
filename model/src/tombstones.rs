//! Tombstones that are forgotten: an event raises the scope's floor, and none stands at or below it.

use crate::{
    cursor::Cursor,
    event::Write,
    fold::Scope,
    outcome::{Refusal, Verdict},
};

impl Scope {
    /// Whether this edits what is not there, at a cursor that the writer had seen it at, up to the floor: it has
    /// been deleted, and the tombstone that would decide has expired.
    pub(crate) fn was_forgotten(&self, write: &Write) -> bool {
        let base = self.base(write.base_cursor);
        write.id.is_some() && Cursor::ZERO < base && base <= self.heading.floor
    }

    /// Lets go of tombstones. Not while a restore runs: it counts on what it has deleted, and leaves alone what
    /// was deleted since it began. The archiver says it again.
    pub(crate) fn expire_tombstones(&mut self, up_to: Cursor) -> Verdict {
        if let Some(running) = &self.heading.restore {
            return Verdict::Refused(Refusal::RestoreRunning { restore: running.id });
        }
        self.heading.floor = up_to.min(self.heading.head).max(self.heading.floor);
        self.forget_tombstones();
        Verdict::TombstonesExpired { floor: self.heading.floor }
    }

    /// No tombstone stands at or below the floor.
    pub(crate) fn forget_tombstones(&mut self) {
        let floor = self.heading.floor;
        if floor > Cursor::ZERO {
            self.messages.retain(|_, entry| entry.is_live() || entry.cursor > floor);
        }
    }
}
