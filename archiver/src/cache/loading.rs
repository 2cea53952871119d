//! Filling the cache with a state that was folded elsewhere.

use std::sync::Arc;

use model::{
    CommandId, Entry, Heading, Member, MessageId, Offset, Outcome, Partition, ScopeKey, UserId,
};
use redb::ReadableTable;

use super::{
    CacheError, Result, StoredCommand, Tables,
    keys::{ContentKey, CursorKey, IdKey, bytes, cursor_key, joined},
    record,
};

/// After all names: they are ASCII.
const LAST_NAME: &str = "\u{7f}";

impl Tables<'_> {
    /// Forgets all of a partition.
    pub(crate) fn clear(&mut self, partition: Partition) -> Result<()> {
        let all = || (partition.get(), [0; 16])..=(partition.get(), [0xff; 16]);
        let mut scopes = Vec::new();
        for row in self.scopes.range(all())? {
            scopes.push(row?.0.value().1);
        }
        for scope in scopes {
            self.clear_scope(scope)?;
        }
        let ages = (partition.get(), i64::MIN, [0; 16])..=(partition.get(), i64::MAX, [0xff; 16]);
        for age in self.command_ages.range(ages.clone())? {
            self.commands.remove(&age?.0.value().2)?;
        }
        self.command_ages.retain_in(ages, |_, _| false)?;
        self.scopes.retain_in(all(), |_, _| false)?;
        self.open_hour.retain_in(all(), |_, _| false)?;
        self.restoring.retain_in(all(), |_, _| false)?;
        let erasures = (partition.get(), 0)..=(partition.get(), u64::MAX);
        self.erasures.retain_in(erasures, |_, _| false)?;
        self.partitions.remove(partition.get())?;
        Ok(())
    }

    fn clear_scope(&mut self, scope: [u8; 16]) -> Result<()> {
        self.clear_messages(scope)?;
        self.members.retain_in((scope, "")..=(scope, LAST_NAME), |_, _| false)?;
        self.fulls.remove(scope)?;
        Ok(())
    }

    /// Forgets all messages of a scope.
    pub(super) fn clear_messages(&mut self, scope: [u8; 16]) -> Result<()> {
        let ids: [IdKey; 2] = [joined(scope, &[0; 16]), joined(scope, &[0xff; 16])];
        self.ids.retain_in::<&IdKey, _>(&ids[0]..=&ids[1], |_, _| false)?;
        let contents: [ContentKey; 2] = [joined(scope, &[0; 32]), joined(scope, &[0xff; 32])];
        self.contents.retain_in::<&ContentKey, _>(&contents[0]..=&contents[1], |_, _| false)?;
        let cursors: [CursorKey; 2] = [joined(scope, &[0; 8]), joined(scope, &[0xff; 8])];
        self.lines.retain_in::<&CursorKey, _>(&cursors[0]..=&cursors[1], |_, _| false)?;
        self.tombstones.retain_in::<&CursorKey, _>(&cursors[0]..=&cursors[1], |_, _| false)?;
        Ok(())
    }

    /// Puts a scope in place, without its messages.
    pub(crate) fn load_scope(
        &mut self,
        partition: Partition,
        key: &ScopeKey,
        heading: &Heading,
        members: &[(UserId, Member)],
    ) -> Result<()> {
        let scope = bytes(key.reference());
        let stored = record::StoredScope::of(key, heading).json()?;
        self.scopes.insert((partition.get(), scope), stored.as_slice())?;
        if heading.restore.is_some() {
            self.restoring.insert((partition.get(), scope), ())?;
        }
        for (user, member) in members {
            let member = record::StoredMember::of(user, member).json()?;
            self.members.insert((scope, user.as_str()), member.as_slice())?;
        }
        Ok(())
    }

    /// Puts a message in place, with its line of a backup.
    pub(crate) fn load_message(
        &mut self,
        key: &ScopeKey,
        id: MessageId,
        entry: &Entry,
        line: &[u8],
    ) -> Result<()> {
        let scope = bytes(key.reference());
        self.lines.insert(&cursor_key(scope, entry.cursor), line)?;
        self.put_entry(key, scope, id, entry)
    }

    /// Puts what became of a command in place, unless that is known: then this is a repetition of it.
    pub(crate) fn load_command(
        &mut self,
        partition: Partition,
        offset: Offset,
        id: CommandId,
        outcome: &Arc<Outcome>,
    ) -> Result<()> {
        let known = match self.commands.get(id.0.as_bytes())? {
            Some(known) => Some(serde_json::from_slice::<StoredCommand>(known.value())?),
            None => None,
        };
        if known.is_some_and(|known| known.outcome.folded_at >= outcome.folded_at) {
            return Ok(());
        }
        let stored = StoredCommand { offset, outcome: outcome.clone(), chunk: Vec::new() };
        self.keep_command(partition, id, &stored)
    }
}

impl CacheError {
    /// What was to be loaded is none.
    pub(crate) fn unloadable(problem: impl std::fmt::Display) -> Self {
        Self::Damaged(problem.to_string())
    }
}
