//! Objects that were replaced because a scope was erased. FORMAT.md, "What was erased".
//!
//! A table whose rows had the scope's content is written anew without it, and a record says which took the place of
//! which; only then the old one is deleted. Of a full that a fold may go on from, what is left has no content either.
//! All of it is a pure function of what was there, and may be repeated, by anyone.

use arrow_array::RecordBatch;
use model::{CommandId, Offset, ScopeKey};
use serde::{Deserialize, Serialize};

use crate::{
    error::ArchiveError,
    manifest::{BackupObject, FORMAT, TableFile, json, scope_text},
    message_line,
    object::{LinesWriter, Object, Scratch, Sha256Hex},
    path,
    store::Archive,
    table::{Blanking, Table, TableRewriter},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Redaction,
}

/// A table that another one took the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redaction {
    format: u32,
    kind: Kind,
    /// The command that erased.
    pub erasure_id: CommandId,
    #[serde(with = "scope_text")]
    pub scope: ScopeKey,
    /// What is deleted, or is about to be.
    pub old: TableFile,
    pub new: TableFile,
}

impl Redaction {
    pub fn new(erasure_id: CommandId, scope: ScopeKey, old: TableFile, new: TableFile) -> Self {
        Self { format: FORMAT, kind: Kind::Redaction, erasure_id, scope, old, new }
    }

    /// Commits it: from now on the new table is the one to read.
    pub async fn keep(&self, archive: &Archive) -> Result<(), ArchiveError> {
        let mut object = Object::of_bytes(archive.scratch(), &json(self)?)?;
        archive.create(&path::redaction(&self.old.sha256), &mut object).await
    }

    /// Reads a record.
    pub fn read(mut object: Object, path: &str) -> Result<Self, ArchiveError> {
        let read = serde_json::from_slice::<Self>(&object.bytes()?);
        let read = read.map_err(|error| ArchiveError::content(path, error.to_string()))?;
        if read.format > FORMAT {
            return Err(ArchiveError::content(path, format!("is of format {}", read.format)));
        }
        if path != path::redaction(&read.old.sha256) {
            return Err(ArchiveError::content(
                path,
                "its name is not the hash of what it replaced",
            ));
        }
        if read.old.sha256 == read.new.sha256 {
            return Err(ArchiveError::content(path, "it replaced a table by itself"));
        }
        if read.old.rows != read.new.rows {
            return Err(ArchiveError::content(path, "it replaced a table by one of other rows"));
        }
        Ok(read)
    }
}

/// The record that a table was replaced, if it was.
pub async fn find(archive: &Archive, table: &TableFile) -> Result<Option<Redaction>, ArchiveError> {
    let path = path::redaction(&table.sha256);
    match archive.fetch(&path).await {
        Ok(object) => Redaction::read(object, &path).map(Some),
        Err(ArchiveError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The erasures for which a table was rewritten, and what took its place.
pub async fn erasures_of(
    archive: &Archive,
    table: &TableFile,
) -> Result<Vec<CommandId>, ArchiveError> {
    let redactions = all_of(archive, table).await?;
    Ok(redactions.into_iter().map(|redaction| redaction.erasure_id).collect())
}

/// Deletes a table that another one took the place of: whoever wrote it once more did not know.
pub async fn delete_replaced(archive: &Archive, table: &TableFile) -> Result<(), ArchiveError> {
    let (_, replaced) = current(archive, table).await?;
    for old in replaced {
        archive.delete(&old.path).await?;
    }
    Ok(())
}

/// The table that is to be read in the place of one, which may be itself; and those that it replaced.
pub async fn current(
    archive: &Archive,
    table: &TableFile,
) -> Result<(TableFile, Vec<TableFile>), ArchiveError> {
    let redactions = all_of(archive, table).await?;
    let current = redactions.last().map_or(table, |last| &last.new).clone();
    Ok((current, redactions.into_iter().map(|redaction| redaction.old).collect()))
}

/// The records of a table and of those that took its place, the first one first.
async fn all_of(archive: &Archive, table: &TableFile) -> Result<Vec<Redaction>, ArchiveError> {
    let mut redactions: Vec<Redaction> = Vec::new();
    while let Some(next) = find(archive, redactions.last().map_or(table, |last| &last.new)).await? {
        redactions.push(next);
    }
    Ok(redactions)
}

/// Fetches a table, or what took its place.
///
/// # Errors
/// [`ArchiveError::NotFound`] if neither is there.
pub async fn fetch(archive: &Archive, table: &TableFile) -> Result<Object, ArchiveError> {
    let mut table = table.clone();
    loop {
        let missing = match archive.fetch_checked(&table.path, &table.sha256).await {
            Err(missing @ ArchiveError::NotFound { .. }) => missing,
            fetched => return fetched,
        };
        match find(archive, &table).await? {
            Some(redaction) => table = redaction.new,
            None => return Err(missing),
        }
    }
}

/// Fetches a full for a fold to go on from: its lines, or what an erasure left of them, which has no content.
///
/// # Errors
/// [`ArchiveError::NotFound`] if neither is there.
pub async fn fetch_full(archive: &Archive, full: &BackupObject) -> Result<Object, ArchiveError> {
    match archive.fetch_checked(&full.path, &full.sha256).await {
        Err(missing @ ArchiveError::NotFound { .. }) => {
            match archive.fetch(&path::redacted_full(&full.sha256)).await {
                Err(ArchiveError::NotFound { .. }) => Err(missing),
                fetched => fetched,
            }
        }
        fetched => fetched,
    }
}

/// What is left of a full: every line without its content.
pub fn without_content(
    scratch: &Scratch,
    full: Object,
    path: &str,
) -> Result<Object, ArchiveError> {
    let mut lines = full.lines(path)?;
    let mut left = LinesWriter::new(scratch);
    while let Some(line) = lines.next_line()? {
        let message = message_line::read(&line).map_err(|problem| lines.problem(&problem))?;
        left.push(message_line::without_content(&message).as_bytes())?;
    }
    left.finish()
}

/// Writes a table without the content of a scope's rows before an offset; `None` if there is none in it.
pub fn without_content_of(
    scratch: &Scratch,
    table: Table,
    file: Object,
    path: &str,
    scope: &ScopeKey,
    before: Offset,
) -> Result<Option<(Object, u64)>, ArchiveError> {
    let blanking = Blanking { scope, before };
    let mut rewriter: Option<TableRewriter> = None;
    let mut has_content = false;
    for batch in crate::table::opened(file.contents(), path)? {
        let batch: RecordBatch = batch?;
        let rewriter = match &mut rewriter {
            Some(rewriter) => rewriter,
            None => rewriter.insert(TableRewriter::new(scratch, table, batch.schema())?),
        };
        let blanked = blanking.blanked(table, &batch);
        let blanked = blanked.map_err(|problem| ArchiveError::content(path, problem))?;
        has_content |= blanked.is_some();
        rewriter.push(blanked.as_ref().unwrap_or(&batch))?;
    }
    match rewriter.filter(|_| has_content) {
        Some(rewriter) => rewriter.finish().map(Some),
        None => Ok(None),
    }
}

/// The path of what takes a table's place.
pub fn path_of(old: &TableFile) -> String {
    let stem = old.path.strip_suffix(".parquet").unwrap_or(&old.path);
    // Of what has replaced another one already, the name does not grow.
    let stem = match stem.rsplit_once('/') {
        Some((folder, name)) => {
            let name = name.split_once('-').map_or(name, |(name, _)| name);
            format!("{folder}/{name}")
        }
        None => stem.to_owned(),
    };
    format!("{stem}-{}.parquet", &old.sha256.0[..HASH_DIGITS])
}

/// Of the old table's hash in the new one's name.
const HASH_DIGITS: usize = 16;

/// All records, by the hash of what was replaced; and the hashes of the fulls of which something is left.
pub async fn list(archive: &Archive) -> Result<(Vec<String>, Vec<Sha256Hex>), ArchiveError> {
    let (mut records, mut fulls) = (Vec::new(), Vec::new());
    for (path, _) in archive.list(path::REDACTIONS).await? {
        if path.ends_with(".json") {
            records.push(path);
        } else if let Some(name) = path::name(&path) {
            fulls.push(Sha256Hex(name.to_owned()));
        }
    }
    Ok((records, fulls))
}
