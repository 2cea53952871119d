//! Folding a command: what it needs is loaded, what it changes is stored.

use archive::{manifest::BackupObject, message_line};
use model::{
    Action, Applied, Command, CommandId, ContentHash, Cursor, Entry, KnownCommand, MessageId,
    Offset, Partition, Scope, ScopeKey, ScopeRef, Timestamp, Touched, Unappliable, Verdict,
    limits::OUTCOME_KEPT_MICROS, log_fold::images,
};
use redb::ReadableTable;
use uuid::Uuid;

use super::{
    Result, StoredCommand, StoredErasure, Tables,
    keys::{bytes, content_key, cursor_key, id_key},
    record,
    view::erased,
};

impl Tables<'_> {
    /// Folds a command of a partition, at the log's time.
    pub(crate) fn apply(
        &mut self,
        partition: Partition,
        offset: Offset,
        command: &Command,
        time: Timestamp,
    ) -> Result<std::result::Result<Applied, Unappliable>> {
        let mut scope = self.load(partition, command)?;
        let before = scope.heading.head;
        let applied = match scope.apply(command, time) {
            Ok(applied) => applied,
            Err(reason) => return Ok(Err(reason)),
        };
        self.store(partition, offset, command, &scope, before, &applied)?;
        Ok(Ok(applied))
    }

    /// What folding a command needs of its scope.
    fn load(&self, partition: Partition, command: &Command) -> Result<Scope> {
        let reference = bytes(command.scope.reference());
        let mut scope = Scope::new(command.scope.clone());
        if let Some(stored) = self.scopes.get((partition.get(), reference))? {
            scope.heading = record::StoredScope::parse(stored.value())?.heading();
        }
        let touched = Touched::by(command);
        for id in touched.messages {
            self.load_entry(&mut scope, reference, id)?;
        }
        for hash in touched.contents {
            let own = MessageId::of_content(&command.scope, &hash);
            self.load_entry(&mut scope, reference, own)?;
            if !scope.messages.get(&own).is_some_and(|entry| has_content(entry, &hash))
                && let Some(id) = self.contents.get(&content_key(reference, &hash))?
            {
                let id = MessageId(Uuid::from_bytes(*id.value()));
                self.load_entry(&mut scope, reference, id)?;
            }
        }
        for user in touched.users {
            if let Some(member) = self.members.get((reference, user.as_str()))? {
                let member = record::StoredMember::parse(member.value())?.member();
                scope.members.insert(user, member);
            }
        }
        if let Some(known) = self.commands.get(command.id.0.as_bytes())? {
            let StoredCommand { outcome, .. } = serde_json::from_slice(known.value())?;
            let known = KnownCommand { folded_at: outcome.folded_at, outcome };
            scope.commands.insert(command.id, known);
        }
        let written = Touched::written(command).collect();
        for id in Touched::again(command, &scope, &written) {
            self.load_entry(&mut scope, reference, id)?;
        }
        Ok(scope)
    }

    fn load_entry(&self, scope: &mut Scope, reference: [u8; 16], id: MessageId) -> Result<()> {
        if scope.messages.contains_key(&id) {
            return Ok(());
        }
        if let Some(entry) = self.ids.get(&id_key(reference, id))? {
            scope.insert(id, record::parse_entry(entry.value())?);
        }
        Ok(())
    }

    fn store(
        &mut self,
        partition: Partition,
        offset: Offset,
        command: &Command,
        scope: &Scope,
        before: Cursor,
        applied: &Applied,
    ) -> Result<()> {
        let key = bytes(command.scope.reference());
        let changed = images(scope, command, &applied.changes);
        if let Verdict::ScopeErased { cursor } = applied.outcome.verdict
            && !applied.repeated
        {
            self.clear_messages(key)?;
            self.note_erasure(partition, offset, command, cursor, scope.heading.clock)?;
        }
        // First every content is let go of, then each is taken again: they may have changed hands.
        for (changed, _) in changed.iter().filter(|(changed, _)| !changed.is_new) {
            self.let_go(&command.scope, key, changed.id)?;
        }
        for (changed, message) in &changed {
            let line = message_line::write(message);
            self.lines.insert(&cursor_key(key, message.entry.cursor), line.as_bytes())?;
            self.put_entry(&command.scope, key, changed.id, &message.entry)?;
        }
        if let Some(floor) = applied.floor {
            self.forget_tombstones(key, floor)?;
        }
        if let Some(user) = &applied.member
            && let Some(member) = scope.members.get(user)
        {
            let member = record::StoredMember::of(user, member).json()?;
            self.members.insert((key, user.as_str()), member.as_slice())?;
        }
        if !applied.repeated {
            self.put_command(partition, offset, command, applied)?;
        }
        if scope.heading.exists {
            let stored = record::StoredScope::of(&command.scope, &scope.heading).json()?;
            self.scopes.insert((partition.get(), key), stored.as_slice())?;
            match (&scope.heading.restore, &applied.restore) {
                (Some(_), _) => self.restoring.insert((partition.get(), key), ())?.is_some(),
                (None, Some(_)) => self.restoring.remove((partition.get(), key))?.is_some(),
                (None, None) => false,
            };
            if self.open_hour.get((partition.get(), key))?.is_none() {
                self.open_hour.insert((partition.get(), key), before.get())?;
            }
        }
        Ok(())
    }

    /// What the archive has of a scope is to go.
    pub(crate) fn note_erasure(
        &mut self,
        partition: Partition,
        offset: Offset,
        command: &Command,
        cursor: Cursor,
        at: Timestamp,
    ) -> Result<()> {
        let (id, scope) = (command.id, command.scope.to_string());
        let json = serde_json::to_vec(&StoredErasure { id, scope, cursor, at })?;
        self.erasures.insert((partition.get(), offset.get()), json.as_slice())?;
        Ok(())
    }

    /// Nothing is left of what these erased.
    pub(crate) fn forget_erasures(&mut self, partition: Partition, done: &[Offset]) -> Result<()> {
        for offset in done {
            self.erasures.remove((partition.get(), offset.get()))?;
        }
        Ok(())
    }

    /// The erasure up to which a scope's messages are gone; 0: none.
    pub(crate) fn erased(&self, partition: Partition, scope: ScopeRef) -> Result<Cursor> {
        erased(&self.scopes, partition, scope)
    }

    fn let_go(&mut self, key: &ScopeKey, scope: [u8; 16], id: MessageId) -> Result<()> {
        let Some(old) =
            self.ids.get(&id_key(scope, id))?.map(|old| record::parse_entry(old.value()))
        else {
            return Ok(());
        };
        let old = old?;
        self.lines.remove(&cursor_key(scope, old.cursor))?;
        if !old.is_live() {
            self.tombstones.remove(&cursor_key(scope, old.cursor))?;
        } else if id != MessageId::of_content(key, &old.content_hash) {
            self.contents.remove(&content_key(scope, &old.content_hash))?;
        }
        Ok(())
    }

    pub(super) fn put_entry(
        &mut self,
        key: &ScopeKey,
        scope: [u8; 16],
        id: MessageId,
        entry: &Entry,
    ) -> Result<()> {
        self.ids.insert(&id_key(scope, id), record::entry(entry).as_slice())?;
        if let Some(at) = entry.deleted_at {
            let tombstone = (at.as_micros(), id.0.into_bytes());
            self.tombstones.insert(&cursor_key(scope, entry.cursor), tombstone)?;
        } else if id != MessageId::of_content(key, &entry.content_hash) {
            self.contents.insert(&content_key(scope, &entry.content_hash), id.0.as_bytes())?;
        }
        Ok(())
    }

    fn put_command(
        &mut self,
        partition: Partition,
        offset: Offset,
        command: &Command,
        applied: &Applied,
    ) -> Result<()> {
        let outcome = applied.outcome.clone();
        let changes = match command.action {
            Action::RestoreChunk(_) => applied.changes.as_slice(),
            _ => &[],
        };
        let chunk = changes.iter().map(|changed| (changed.change, changed.cursor)).collect();
        self.keep_command(partition, command.id, &StoredCommand { offset, outcome, chunk })
    }

    pub(super) fn keep_command(
        &mut self,
        partition: Partition,
        id: CommandId,
        stored: &StoredCommand,
    ) -> Result<()> {
        let age = stored.outcome.folded_at.as_micros();
        let (id, json) = (id.0.into_bytes(), serde_json::to_vec(stored)?);
        self.commands.insert(&id, json.as_slice())?;
        self.command_ages.insert((partition.get(), age, id), ())?;
        Ok(())
    }

    /// The hour is sealed: the next one begins here.
    pub(crate) fn close_hour(&mut self, partition: Partition) -> Result<()> {
        let all = (partition.get(), [0; 16])..=(partition.get(), [0xff; 16]);
        self.open_hour.retain_in(all, |_, _| false)?;
        Ok(())
    }

    /// Forgets commands that no record can repeat any more.
    pub(crate) fn forget_commands(&mut self, partition: Partition, time: Timestamp) -> Result<()> {
        let before = time.as_micros() - OUTCOME_KEPT_MICROS;
        let old = (partition.get(), i64::MIN, [0; 16])..(partition.get(), before, [0; 16]);
        let mut forgotten = Vec::new();
        for age in self.command_ages.range(old.clone())? {
            let (_, folded_at, id) = age?.0.value();
            forgotten.push((folded_at, id));
        }
        for (folded_at, id) in forgotten {
            self.command_ages.remove((partition.get(), folded_at, id))?;
            let later = self.commands.get(&id)?.map(|known| {
                serde_json::from_slice::<StoredCommand>(known.value())
                    .map(|known| known.outcome.folded_at.as_micros() > folded_at)
            });
            // It may have come again since, after a day.
            if !later.transpose()?.unwrap_or(false) {
                self.commands.remove(&id)?;
            }
        }
        Ok(())
    }

    pub(crate) fn put_full(&mut self, scope: ScopeRef, full: &BackupObject) -> Result<()> {
        let json = serde_json::to_vec(full)?;
        self.fulls.insert(bytes(scope), json.as_slice())?;
        Ok(())
    }
}

fn has_content(entry: &Entry, hash: &ContentHash) -> bool {
    entry.is_live() && entry.content_hash == *hash
}
