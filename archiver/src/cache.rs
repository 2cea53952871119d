//! The fold's state on the local disk: a cache. What it holds is what the log folds to, and it is made
//! again from the log where it is missing; it decides nothing.
//!
//! Tables are ordered by scope, so that what an hour or a day needs is one scan: no scope is whole in memory.

mod loading;
mod record;
mod tombstones;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use archive::{
    manifest::{BackupObject, Gap, Reference, ScopeLine},
    message_line,
    period::{Day, Hour, HourLength},
};
use eventlog::Record;
use model::{
    Action, Applied, BackupId, Command, CommandId, ContentHash, Cursor, Entry, Heading,
    KnownCommand, LogId, Member, MessageId, Offset, Outcome, Partition, PartitionClock,
    RunningRestore, Scope, ScopeKey, ScopeRef, Timestamp, Touched, Unappliable, UserId, Verdict,
    limits::OUTCOME_KEPT_MICROS, log_fold::images,
};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};
pub(crate) use tombstones::{OldPart, OldTombstones};

/// Files of the cache: partitions are spread over them, and those of different files are folded at the same time.
const PARTS: u32 = 4;
/// Memory for the pages of all of them, in bytes, whatever the number of scopes.
const PAGES_BYTES: usize = 48 << 20;
/// A change of what is stored, or of the fold: caches of another version are made again.
const VERSION: u32 = 8;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Partition → [`PartitionState`].
const PARTITIONS: TableDefinition<u32, &[u8]> = TableDefinition::new("partitions");
/// Partition and scope → [`record::StoredScope`].
const SCOPES: TableDefinition<(u32, [u8; 16]), &[u8]> = TableDefinition::new("scopes");
/// Scope and id → entry. (Keys that each message has are plain bytes: they are compared as such, and not copied.)
const IDS: TableDefinition<&IdKey, &[u8]> = TableDefinition::new("ids");
/// Scope and content hash → the live message's id, unless it is the content's own: then the id says it.
const CONTENTS: TableDefinition<&ContentKey, &[u8; 16]> = TableDefinition::new("contents");
/// Scope and cursor → the line of a backup.
const LINES: TableDefinition<&CursorKey, &[u8]> = TableDefinition::new("lines");
/// Scope and cursor → when the message was deleted, and its id: the tombstones among the lines.
const TOMBSTONES: TableDefinition<&CursorKey, (i64, [u8; 16])> = TableDefinition::new("tombstones");
/// Scope and user → member.
const MEMBERS: TableDefinition<([u8; 16], &str), &[u8]> = TableDefinition::new("members");
/// Command → what is known of it.
const COMMANDS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("commands");
/// Partition, when it was folded, and command: which to forget.
const COMMAND_AGES: TableDefinition<(u32, i64, [u8; 16]), ()> =
    TableDefinition::new("command_ages");
/// Partition and scope → the head before the open hour: scopes that had an event in it.
const OPEN_HOUR: TableDefinition<(u32, [u8; 16]), u64> = TableDefinition::new("open_hour");
/// Partition and scope → nothing: a restore runs in it.
const RESTORING: TableDefinition<(u32, [u8; 16]), ()> = TableDefinition::new("restoring");
/// Partition and offset → [`StoredErasure`]: erasures of which something is left in the archive.
const ERASURES: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("erasures");
/// Scope → its newest full backup.
const FULLS: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("fulls");

/// How far a partition is folded and archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionState {
    pub(crate) next_offset: Offset,
    /// Where the state was taken up behind the last gap: the records before it are archived, not folded.
    pub(crate) taken_up: Offset,
    /// A full of every scope is to be written there; the log's time there.
    pub(crate) after_gap: Option<Timestamp>,
    pub(crate) time: Timestamp,
    pub(crate) rules: model::RulesVersion,
    /// Where the open hour begins: after the last one that was sealed.
    pub(crate) sealed: Offset,
    /// The log time there.
    pub(crate) sealed_time: Timestamp,
    /// The hour that is open; none before its first record.
    pub(crate) hour: Option<Hour>,
    /// It has a record that is no tick.
    pub(crate) hour_is_used: bool,
    /// The last hour's manifest.
    pub(crate) previous: Option<Reference>,
    /// The day that is open; none before the first record.
    pub(crate) day: Option<Day>,
    /// It has a record that is no tick.
    pub(crate) day_is_used: bool,
    /// In the open hour.
    pub(crate) gaps: Vec<Gap>,
    /// The record folded last asked for a backup, which is not made yet.
    pub(crate) requested: Option<RequestedBackup>,
    /// The record folded last, to recognise the log by.
    pub(crate) last: Option<LastRecord>,
}

/// A record, but for its value: the archive's copy of that may have been erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRecord {
    pub(crate) offset: Offset,
    append_time: Timestamp,
    key: Vec<u8>,
}

impl LastRecord {
    pub(crate) fn of(record: &Record) -> Self {
        let Record { offset, append_time, .. } = *record;
        Self { offset, append_time, key: record.key.to_vec() }
    }
}

/// A backup that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestedBackup {
    pub(crate) scope: String,
    pub(crate) backup: BackupId,
    pub(crate) at: Timestamp,
}

impl PartitionState {
    pub(crate) const START: Self = Self {
        next_offset: Offset::ZERO,
        taken_up: Offset::ZERO,
        after_gap: None,
        time: PartitionClock::START.time,
        rules: PartitionClock::START.rules,
        sealed: Offset::ZERO,
        sealed_time: PartitionClock::START.time,
        hour: None,
        hour_is_used: false,
        previous: None,
        day: None,
        day_is_used: false,
        gaps: Vec::new(),
        requested: None,
        last: None,
    };

    /// Where the fold's state stands.
    pub(crate) fn folded(&self) -> Offset {
        self.next_offset.max(self.taken_up)
    }

    pub(crate) fn clock(&self) -> PartitionClock {
        PartitionClock { time: self.time, rules: self.rules }
    }
}

/// A scope was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredErasure {
    pub(crate) id: CommandId,
    pub(crate) scope: String,
    pub(crate) cursor: Cursor,
    pub(crate) at: Timestamp,
}

/// What a command came to, and where it stood.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredCommand {
    pub(crate) offset: Offset,
    pub(crate) outcome: Arc<Outcome>,
    /// Of a restore's chunk: which of its messages changed, counted through, and their cursors after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) chunk: Vec<(usize, Cursor)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("the archiver's cache cannot be used: {0}")]
    Storage(String),
    /// Removing it is safe: it is made again from the log.
    #[error("the archiver's cache is damaged: {0}")]
    Damaged(String),
}

macro_rules! storage_error {
    ($($error:ty),*) => {
        $(impl From<$error> for CacheError {
            fn from(error: $error) -> Self {
                Self::Storage(error.to_string())
            }
        })*
    };
}
storage_error!(redb::TransactionError, redb::CommitError, redb::SetDurabilityError);

impl From<redb::StorageError> for CacheError {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Corrupted(problem) => Self::Damaged(problem),
            error => Self::Storage(error.to_string()),
        }
    }
}

impl From<redb::DatabaseError> for CacheError {
    fn from(error: redb::DatabaseError) -> Self {
        match &error {
            redb::DatabaseError::RepairAborted | redb::DatabaseError::UpgradeRequired(_) => {
                Self::Damaged(error.to_string())
            }
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)) => {
                Self::Damaged(error.to_string())
            }
            // Another process has it open, say.
            _ => Self::Storage(error.to_string()),
        }
    }
}

impl From<redb::TableError> for CacheError {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => error.into(),
            // Another version's.
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<serde_json::Error> for CacheError {
    fn from(error: serde_json::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

type Result<T> = std::result::Result<T, CacheError>;

/// The cache. All of a partition is in one part: a transaction is of one partition.
pub(crate) struct Cache {
    parts: Vec<Database>,
}

impl Cache {
    /// Opens the cache of a log, a new one if the one there is of another log or version.
    /// `hours`: how long they are.
    pub(crate) fn open(
        directory: &Path,
        name: &str,
        log: LogId,
        hours: HourLength,
    ) -> Result<Self> {
        let ours = format!("{VERSION} {log} {hours}");
        remove_file(&directory.join(format!("{name}.redb")))?; // of versions before 8
        let files = files(directory, name);
        Ok(Self { parts: files.map(|file| open_part(&file, &ours)).collect::<Result<_>>()? })
    }

    /// Removes a cache that nobody has open.
    pub(crate) fn remove(directory: &Path, name: &str) -> Result<()> {
        files(directory, name).try_for_each(|file| remove_file(&file))
    }

    fn part(&self, partition: Partition) -> &Database {
        &self.parts[(partition.get() % PARTS) as usize]
    }

    pub(crate) fn state(&self, partition: Partition) -> Result<PartitionState> {
        let states = self.part(partition).begin_read()?.open_table(PARTITIONS)?;
        match states.get(partition.get())? {
            Some(state) => Ok(serde_json::from_slice(state.value())?),
            None => Ok(PartitionState::START),
        }
    }

    /// The log's time: that of the partition that is the furthest.
    pub(crate) fn newest(&self, partitions: u32) -> Result<(Timestamp, Partition)> {
        let mut newest = (Timestamp::EPOCH, Partition::new(0));
        for partition in (0..partitions).map(Partition::new) {
            newest = newest.max((self.state(partition)?.time, partition));
        }
        Ok(newest)
    }

    /// What there is of a partition.
    pub(crate) fn read(&self, partition: Partition) -> Result<View> {
        Ok(View { transaction: self.part(partition).begin_read()? })
    }

    /// The restores that run, and where.
    pub(crate) fn running_restores(&self) -> Result<Vec<(ScopeKey, RunningRestore)>> {
        let mut running = Vec::new();
        for part in &self.parts {
            running.extend(View { transaction: part.begin_read()? }.running_restores()?);
        }
        Ok(running)
    }

    /// Folds in one transaction: all that `work` does to the partition, or nothing. `durable`: it outlives a crash of the
    /// machine; else a crash may take it back, which is folded again.
    pub(crate) fn write<T>(
        &self,
        partition: Partition,
        durable: bool,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut transaction = self.part(partition).begin_write()?;
        if !durable {
            transaction.set_durability(Durability::None)?;
        }
        let mut tables = Tables::open(&transaction)?;
        let done = work(&mut tables)?;
        drop(tables);
        transaction.commit()?;
        Ok(done)
    }
}

fn files(directory: &Path, name: &str) -> impl Iterator<Item = PathBuf> {
    (0..PARTS).map(move |part| directory.join(format!("{name}-{part}.redb")))
}

fn remove_file(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CacheError::Storage(format!("{}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

fn open_part(file: &Path, ours: &str) -> Result<Database> {
    match open_or_create(file) {
        Ok(part) if is_of(&part, ours)? => return Ok(part),
        Ok(_) | Err(CacheError::Damaged(_)) => {}
        // It may be another process's, and well.
        Err(error) => return Err(error),
    }
    remove_file(file)?;
    let part = open_or_create(file)?;
    let transaction = part.begin_write()?;
    transaction.open_table(META)?.insert("log", ours.as_bytes())?;
    transaction.commit()?;
    Ok(part)
}

fn open_or_create(file: &Path) -> Result<Database> {
    let part = Database::builder().set_cache_size(PAGES_BYTES / PARTS as usize).create(file)?;
    // Readers find every table.
    let transaction = part.begin_write()?;
    Tables::open(&transaction)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    Ok(part)
}

fn is_of(part: &Database, ours: &str) -> Result<bool> {
    let meta = part.begin_read()?.open_table(META)?;
    Ok(meta.get("log")?.is_some_and(|log| log.value() == ours.as_bytes()))
}

/// The tables of one transaction.
pub(crate) struct Tables<'t> {
    partitions: Table<'t, u32, &'static [u8]>,
    scopes: Table<'t, (u32, [u8; 16]), &'static [u8]>,
    ids: Table<'t, &'static IdKey, &'static [u8]>,
    contents: Table<'t, &'static ContentKey, &'static [u8; 16]>,
    lines: Table<'t, &'static CursorKey, &'static [u8]>,
    tombstones: Table<'t, &'static CursorKey, (i64, [u8; 16])>,
    members: Table<'t, ([u8; 16], &'static str), &'static [u8]>,
    commands: Table<'t, &'static [u8; 16], &'static [u8]>,
    command_ages: Table<'t, (u32, i64, [u8; 16]), ()>,
    open_hour: Table<'t, (u32, [u8; 16]), u64>,
    restoring: Table<'t, (u32, [u8; 16]), ()>,
    erasures: Table<'t, (u32, u64), &'static [u8]>,
    fulls: Table<'t, [u8; 16], &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            partitions: transaction.open_table(PARTITIONS)?,
            scopes: transaction.open_table(SCOPES)?,
            ids: transaction.open_table(IDS)?,
            contents: transaction.open_table(CONTENTS)?,
            lines: transaction.open_table(LINES)?,
            tombstones: transaction.open_table(TOMBSTONES)?,
            members: transaction.open_table(MEMBERS)?,
            commands: transaction.open_table(COMMANDS)?,
            command_ages: transaction.open_table(COMMAND_AGES)?,
            open_hour: transaction.open_table(OPEN_HOUR)?,
            restoring: transaction.open_table(RESTORING)?,
            erasures: transaction.open_table(ERASURES)?,
            fulls: transaction.open_table(FULLS)?,
        })
    }

    pub(crate) fn state(&self, partition: Partition) -> Result<PartitionState> {
        match self.partitions.get(partition.get())? {
            Some(state) => Ok(serde_json::from_slice(state.value())?),
            None => Ok(PartitionState::START),
        }
    }

    pub(crate) fn put_state(&mut self, partition: Partition, state: &PartitionState) -> Result<()> {
        let json = serde_json::to_vec(state)?;
        self.partitions.insert(partition.get(), json.as_slice())?;
        Ok(())
    }

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
                let id = MessageId(uuid::Uuid::from_bytes(*id.value()));
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

    fn put_entry(
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

    fn keep_command(
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

/// The state at one moment.
pub(crate) struct View {
    transaction: ReadTransaction,
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

    fn running_restores(&self) -> Result<Vec<(ScopeKey, RunningRestore)>> {
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

fn erased(
    scopes: &impl ReadableTable<(u32, [u8; 16]), &'static [u8]>,
    partition: Partition,
    scope: ScopeRef,
) -> Result<Cursor> {
    match scopes.get((partition.get(), bytes(scope)))? {
        Some(stored) => Ok(record::StoredScope::parse(stored.value())?.heading().erased),
        None => Ok(Cursor::ZERO),
    }
}

fn has_content(entry: &Entry, hash: &ContentHash) -> bool {
    entry.is_live() && entry.content_hash == *hash
}

/// A scope and a message's id.
type IdKey = [u8; 32];
/// A scope and a content's hash.
type ContentKey = [u8; 48];
/// A scope and a cursor, which is in the order of its bytes.
type CursorKey = [u8; 24];

fn id_key(scope: [u8; 16], id: MessageId) -> IdKey {
    joined(scope, id.0.as_bytes())
}

fn content_key(scope: [u8; 16], hash: &ContentHash) -> ContentKey {
    joined(scope, &hash.0)
}

fn cursor_key(scope: [u8; 16], cursor: Cursor) -> CursorKey {
    joined(scope, &cursor.get().to_be_bytes())
}

/// `LENGTH` is that of both.
fn joined<const REST: usize, const LENGTH: usize>(
    scope: [u8; 16],
    rest: &[u8; REST],
) -> [u8; LENGTH] {
    const { assert!(LENGTH == 16 + REST) };
    let mut key = [0; LENGTH];
    key[..16].copy_from_slice(&scope);
    key[16..].copy_from_slice(rest);
    key
}

fn cursor_of(key: &CursorKey) -> Cursor {
    let [.., a, b, c, d, e, f, g, h] = *key;
    Cursor::from_i64(i64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

fn bytes(scope: ScopeRef) -> [u8; 16] {
    scope.0.into_bytes()
}

fn reference(bytes: [u8; 16]) -> ScopeRef {
    ScopeRef(uuid::Uuid::from_bytes(bytes))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
