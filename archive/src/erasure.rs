//! Erasures of which something may be left in the archive. FORMAT.md, "What was erased".

use std::collections::BTreeSet;

use model::{CommandId, Cursor, ErasedFrom, LogId, Offset, Partition, ScopeKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    error::ArchiveError,
    manifest::{FORMAT, json, scope_text},
    object::Object,
    path,
    store::Archive,
};

pub(crate) const REQUEST: &str = "request.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Erasure,
}

/// A scope was erased: what the archive has of it up to a cursor is to go. It stands there before the manifest of
/// its hour does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    format: u32,
    kind: Kind,
    pub log_id: LogId,
    pub partition: Partition,
    /// Of the command.
    pub offset: Offset,
    pub erasure_id: CommandId,
    #[serde(with = "scope_text")]
    pub scope: ScopeKey,
    /// The one that it took.
    pub cursor: Cursor,
    /// The log's time.
    pub at: Timestamp,
}

/// An erasure, and where it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureState {
    pub erasure: Erasure,
    pub done: BTreeSet<&'static str>,
}

impl ErasureState {
    pub fn is_done(&self, from: ErasedFrom) -> bool {
        self.done.contains(from.as_str())
    }
}

impl Erasure {
    pub fn new(
        (log_id, partition, offset): (LogId, Partition, Offset),
        erasure_id: CommandId,
        scope: ScopeKey,
        cursor: Cursor,
        at: Timestamp,
    ) -> Self {
        let (format, kind) = (FORMAT, Kind::Erasure);
        Self { format, kind, log_id, partition, offset, erasure_id, scope, cursor, at }
    }

    /// Reads what was kept under a path, which says of which record it is.
    pub(crate) fn read(mut object: Object, path: &str) -> Result<Self, ArchiveError> {
        let read = serde_json::from_slice::<Self>(&object.bytes()?);
        let read = read.map_err(|error| ArchiveError::content(path, error.to_string()))?;
        if read.format > FORMAT {
            return Err(ArchiveError::content(path, format!("is of format {}", read.format)));
        }
        if path == read.path() {
            return Ok(read);
        }
        Err(ArchiveError::content(path, format!("it says it is {}", read.path())))
    }

    fn path(&self) -> String {
        format!("{}/{REQUEST}", self.folder())
    }

    fn folder(&self) -> String {
        path::erasure(self.log_id, self.partition, self.offset)
    }

    /// Writes down that it is to be done.
    pub async fn keep(&self, archive: &Archive) -> Result<(), ArchiveError> {
        let mut object = Object::of_bytes(archive.scratch(), &json(self)?)?;
        archive.create(&self.path(), &mut object).await
    }

    /// Writes down that nothing is left in a copy.
    pub async fn mark_done(&self, archive: &Archive, from: ErasedFrom) -> Result<(), ArchiveError> {
        let mut mark = Object::of_bytes(archive.scratch(), b"")?;
        archive.create(&format!("{}/{}", self.folder(), from.as_str()), &mut mark).await
    }
}

/// Takes back that nothing is left in the tables, of these erasures of a partition: it is looked for once more.
pub async fn reopen_tables(
    archive: &Archive,
    log: LogId,
    partition: Partition,
    ids: &BTreeSet<CommandId>,
) -> Result<(), ArchiveError> {
    for state in list(archive, log, partition).await? {
        if ids.contains(&state.erasure.erasure_id) && state.is_done(ErasedFrom::Tables) {
            let mark = format!("{}/{}", state.erasure.folder(), ErasedFrom::Tables.as_str());
            archive.delete(&mark).await?;
        }
    }
    Ok(())
}

/// The erasures of a partition, in their order.
pub async fn list(
    archive: &Archive,
    log: LogId,
    partition: Partition,
) -> Result<Vec<ErasureState>, ArchiveError> {
    let folder = path::erasures(log, partition);
    let paths: BTreeSet<String> =
        archive.list(&folder).await?.into_iter().map(|(path, _)| path).collect();
    let mut states = Vec::new();
    for path in paths.iter().filter(|path| path.ends_with(REQUEST)) {
        let erasure = Erasure::read(archive.fetch(path).await?, path)?;
        let own = erasure.folder();
        let marks = ErasedFrom::ALL.map(ErasedFrom::as_str).into_iter();
        let done = marks.filter(|mark| paths.contains(&format!("{own}/{mark}"))).collect();
        states.push(ErasureState { erasure, done });
    }
    states.sort_by_key(|state| state.erasure.offset);
    Ok(states)
}
