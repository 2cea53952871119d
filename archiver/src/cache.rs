//! The fold's state on the local disk: a cache. What it holds is what the log folds to, and it is made
//! again from the log where it is missing; it decides nothing.
//!
//! Tables are ordered by scope, so that what an hour or a day needs is one scan: no scope is whole in memory.

mod error;
mod folding;
mod keys;
mod loading;
mod record;
mod state;
mod tombstones;
mod view;

use std::path::{Path, PathBuf};

use archive::period::HourLength;
use model::{LogId, Partition, RunningRestore, ScopeKey, Timestamp};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};

pub(crate) use error::CacheError;
use keys::{ContentKey, CursorKey, IdKey};
pub(crate) use state::{LastRecord, PartitionState, RequestedBackup, StoredCommand, StoredErasure};
pub(crate) use tombstones::{OldPart, OldTombstones};
pub(crate) use view::View;

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
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
