//! Tombstones by their age: which have expired, and letting go of those that have.

use std::ops::Bound;

use model::{Cursor, Partition, ScopeKey, ScopeRef, Timestamp, limits::TOMBSTONES_EXPIRED_MAX};
use redb::ReadableTable;

use super::{
    OPEN_HOUR, Result, SCOPES, TOMBSTONES, Tables, View,
    keys::{CursorKey, bytes, cursor_key, cursor_of, joined, reference},
    record,
};

/// Scopes with old tombstones that are looked up at once.
const SCOPES_AT_ONCE: usize = 1_000;

/// Tombstones of a scope that have expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OldTombstones {
    pub(crate) scope: ScopeKey,
    /// Those that one event lets go of, and then those of the next one, and so on.
    pub(crate) parts: Vec<OldPart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OldPart {
    /// The cursor of the last of them.
    pub(crate) up_to: Cursor,
    pub(crate) count: u64,
}

impl Tables<'_> {
    /// Lets go of a scope's tombstones up to its floor.
    pub(super) fn forget_tombstones(&mut self, scope: [u8; 16], floor: Cursor) -> Result<()> {
        let [first, last] = [Cursor::ZERO, floor].map(|end| cursor_key(scope, end));
        let up_to = &first..=&last;
        for tombstone in self.tombstones.range::<&CursorKey>(up_to.clone())? {
            let (place, tombstone) = tombstone?;
            self.lines.remove(place.value())?;
            self.ids.remove(&joined(scope, &tombstone.value().1))?;
        }
        self.tombstones.retain_in::<&CursorKey, _>(up_to, |_, _| false)?;
        Ok(())
    }
}

impl View {
    /// Tombstones of a partition of before a time, scope by scope, of some of the scopes after one; and the scope
    /// to go on after, if there are more. One look-up a scope, and one a tombstone that is old.
    ///
    /// Left out are scopes with a running restore, and what was deleted in the open hour: the hour is to be
    /// archived with its deletions.
    pub(crate) fn old_tombstones(
        &self,
        partition: Partition,
        after: Option<ScopeRef>,
        before: Timestamp,
    ) -> Result<(Vec<OldTombstones>, Option<ScopeRef>)> {
        let scopes = self.transaction.open_table(SCOPES)?;
        let begin = after.map_or(Bound::Included((partition.get(), [0; 16])), |after| {
            Bound::Excluded((partition.get(), bytes(after)))
        });
        let end = Bound::Included((partition.get(), [0xff; 16]));
        let mut old = Vec::new();
        for row in scopes.range::<(u32, [u8; 16])>((begin, end))? {
            let (key, stored) = row?;
            let scope = key.value().1;
            let parts = self.old_of_scope(partition, scope, before)?;
            if parts.is_empty() {
                continue;
            }
            let stored = record::StoredScope::parse(stored.value())?;
            if stored.heading().restore.is_some() {
                continue;
            }
            old.push(OldTombstones { scope: stored.key()?, parts });
            if old.len() == SCOPES_AT_ONCE {
                return Ok((old, Some(reference(scope))));
            }
        }
        Ok((old, None))
    }

    fn old_of_scope(
        &self,
        partition: Partition,
        scope: [u8; 16],
        before: Timestamp,
    ) -> Result<Vec<OldPart>> {
        let tombstones = self.transaction.open_table(TOMBSTONES)?;
        let sealed = self.transaction.open_table(OPEN_HOUR)?.get((partition.get(), scope))?;
        let last = sealed.map_or(Cursor::MAX, |head| Cursor::from_i64(head.value() as i64));
        let [first, last] = [Cursor::ZERO, last].map(|end| cursor_key(scope, end));
        let mut parts: Vec<OldPart> = Vec::new();
        // In the order of their cursors, which is that of their times.
        for row in tombstones.range::<&CursorKey>(&first..=&last)? {
            let (place, tombstone) = row?;
            if tombstone.value().0 >= before.as_micros() {
                break;
            }
            let up_to = cursor_of(place.value());
            match parts.last_mut().filter(|part| part.count < TOMBSTONES_EXPIRED_MAX as u64) {
                Some(part) => *part = OldPart { up_to, count: part.count + 1 },
                None => parts.push(OldPart { up_to, count: 1 }),
            }
        }
        Ok(parts)
    }
}
