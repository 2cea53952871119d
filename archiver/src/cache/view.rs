//! What the cache has, read at one moment.

use archive::manifest::{BackupObject, ScopeLine};
use model::{
    CommandId, Cursor, Heading, Member, Offset, Partition, RunningRestore, ScopeKey, ScopeRef,
    UserId,
};
use redb::{ReadTransaction, ReadableTable};

use super::{
    COMMANDS, CacheError, ERASURES, FULLS, LINES, MEMBERS, OPEN_HOUR, RESTORING, Result, SCOPES,
    StoredCommand, StoredErasure,
    keys::{CursorKey, bytes, cursor_key, cursor_of, reference},
    record,
};

/// The state at one moment.
pub(crate) struct View {
    pub(super) transaction: ReadTransaction,
}

impl View {
    /// The references of the scopes that had an event in the open hour, in order.
    pub(crate) fn open_hour(&self, partition: Partition) -> Result<Vec<(ScopeRef, Cursor)>> {
        let table = self.transaction.open_table(OPEN_HOUR)?;
        let all = (partition.get(), [0; 16])..=(partition.get(), [0xff; 16]);
        table
            .range(all)?
            .map(|row| {
                let (key, head) = row?;
                Ok((reference(key.value().1), Cursor::from_i64(head.value() as i64)))
            })
            .collect()
    }

    /// The erasures of a partition that are not done in the archive, in their order.
    pub(crate) fn erasures(&self, partition: Partition) -> Result<Vec<(Offset, StoredErasure)>> {
        let table = self.transaction.open_table(ERASURES)?;
        let all = (partition.get(), 0)..=(partition.get(), u64::MAX);
        table
            .range(all)?
            .map(|row| {
                let (key, stored) = row?;
                let number = key.value().1;
                let damaged = || CacheError::Damaged(format!("an erasure has offset {number}"));
                let offset = Offset::new(number).ok_or_else(damaged)?;
                Ok((offset, serde_json::from_slice(stored.value())?))
            })
            .collect()
    }

    /// The erasure up to which a scope's messages are gone; 0: none, or there is no such scope.
    pub(crate) fn erased(&self, partition: Partition, scope: ScopeRef) -> Result<Cursor> {
        erased(&self.transaction.open_table(SCOPES)?, partition, scope)
    }

    /// The references of all scopes of a partition, in order.
    pub(crate) fn scopes(&self, partition: Partition) -> Result<Vec<ScopeRef>> {
        let table = self.transaction.open_table(SCOPES)?;
        let all = (partition.get(), [0; 16])..=(partition.get(), [0xff; 16]);
        table.range(all)?.map(|row| Ok(reference(row?.0.value().1))).collect()
    }

    /// A scope that is known to be there.
    pub(crate) fn existing_scope(
        &self,
        partition: Partition,
        scope: ScopeRef,
    ) -> Result<(ScopeKey, Heading)> {
        let table = self.transaction.open_table(SCOPES)?;
        let missing = || CacheError::Damaged(format!("scope {} is missing", scope.0));
        let stored = table.get((partition.get(), bytes(scope)))?.ok_or_else(missing)?;
        let stored = record::StoredScope::parse(stored.value())?;
        Ok((stored.key()?, stored.heading()))
    }

    /// The scope's members, in the order of their names.
    pub(crate) fn members(&self, scope: ScopeRef) -> Result<Vec<(UserId, Member)>> {
        let table = self.transaction.open_table(MEMBERS)?;
        let mut members = Vec::new();
        for row in table.range((bytes(scope), "")..)? {
            let (key, member) = row?;
            if key.value().0 != bytes(scope) {
                break;
            }
            let member = record::StoredMember::parse(member.value())?;
            members.push((member.user()?, member.member()));
        }
        Ok(members)
    }

    /// Gives the lines after a cursor, in order.
    pub(crate) fn lines(
        &self,
        scope: ScopeRef,
        after: Cursor,
        mut take: impl FnMut(Cursor, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let table = self.transaction.open_table(LINES)?;
        let [first, last] = [after.next(), Cursor::MAX].map(|end| cursor_key(bytes(scope), end));
        for row in table.range::<&CursorKey>(&first..=&last)? {
            let (key, line) = row?;
            take(cursor_of(key.value()), line.value())?;
        }
        Ok(())
    }

    pub(super) fn running_restores(&self) -> Result<Vec<(ScopeKey, RunningRestore)>> {
        let table = self.transaction.open_table(RESTORING)?;
        let mut running = Vec::new();
        for row in table.iter()? {
            let (partition, scope) = row?.0.value();
            let (key, heading) =
                self.existing_scope(Partition::new(partition), reference(scope))?;
            running.extend(heading.restore.map(|restore| (key, restore)));
        }
        Ok(running)
    }

    pub(crate) fn last_full(&self, scope: ScopeRef) -> Result<Option<BackupObject>> {
        let table = self.transaction.open_table(FULLS)?;
        let Some(full) = table.get(bytes(scope))? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(full.value())?))
    }

    /// What became of a command, and the offset at which it was folded.
    pub(crate) fn command(&self, id: CommandId) -> Result<Option<StoredCommand>> {
        let table = self.transaction.open_table(COMMANDS)?;
        let Some(known) = table.get(id.0.as_bytes())? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(known.value())?))
    }

    /// A scope as a manifest has it.
    pub(crate) fn scope_line(
        &self,
        partition: Partition,
        scope: ScopeRef,
        backup: Option<BackupObject>,
    ) -> Result<ScopeLine> {
        let (key, heading) = self.existing_scope(partition, scope)?;
        Ok(ScopeLine::new(key, &heading, self.members(scope)?, backup))
    }
}

/// The erasure up to which a scope's messages are gone; 0: none, or there is no such scope.
pub(super) fn erased(
    scopes: &impl ReadableTable<(u32, [u8; 16]), &'static [u8]>,
    partition: Partition,
    scope: ScopeRef,
) -> Result<Cursor> {
    match scopes.get((partition.get(), bytes(scope)))? {
        Some(stored) => Ok(record::StoredScope::parse(stored.value())?.heading().erased),
        None => Ok(Cursor::ZERO),
    }
}
