//! Recovery: a log that was lost goes on in another one. What the other one begins with, and which logs an archive
//! has. FORMAT.md, "A recovered log".

use std::{collections::BTreeSet, sync::Arc};

use model::{CommandId, Cursor, Epoch, LogId, Offset, Outcome, Partition, ScopeKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    error::ArchiveError,
    history::Names,
    manifest::{Header, ManifestReader, TableFile, json, parse, scope_text},
    object::{Lines, Object},
    path,
    store::Archive,
};

/// Whose an archive is, as a log sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No log has written anything yet.
    Nobody,
    /// The log's own.
    Ours,
    /// Of other logs, of which this one is not recovered.
    Others(Vec<LogId>),
    /// The log was given up for another one, which goes on with the archive.
    GivenUpFor(LogId),
}

/// What became of a command before the log was lost: it may still be repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandLine {
    pub id: CommandId,
    #[serde(with = "scope_text")]
    pub scope: ScopeKey,
    /// On the lost log.
    pub offset: Offset,
    pub outcome: Arc<Outcome>,
}

/// The logs that have manifests or segments in the archive.
pub async fn logs(archive: &Archive) -> Result<BTreeSet<LogId>, ArchiveError> {
    let mut folders = archive.folders("manifests").await?;
    folders.extend(archive.folders("segments").await?);
    Ok(folders.iter().filter_map(|name| name.parse::<Uuid>().ok()).map(LogId).collect())
}

/// Whether a log may go on with an archive.
pub async fn owner(archive: &Archive, log: LogId) -> Result<Owner, ArchiveError> {
    let logs = logs(archive).await?;
    if logs.is_empty() {
        return Ok(Owner::Nobody);
    }
    if !logs.contains(&log) {
        return Ok(Owner::Others(logs.into_iter().collect()));
    }
    for other in logs.into_iter().filter(|other| *other != log) {
        if recovered_from(archive, other).await? == Some(log) {
            return Ok(Owner::GivenUpFor(other));
        }
    }
    Ok(Owner::Ours)
}

/// The log that a log was recovered from, if it was.
pub async fn recovered_from(archive: &Archive, log: LogId) -> Result<Option<LogId>, ArchiveError> {
    let names = Names::list(archive, log, Partition::new(0)).await?;
    Ok(header(archive, &names).await?.and_then(|header| header.recovered_from))
}

/// A log and those before it, the newest first.
pub async fn lineage(archive: &Archive, log: LogId) -> Result<Vec<LogId>, ArchiveError> {
    let mut lineage = vec![log];
    let mut last = log;
    while let Some(before) = recovered_from(archive, last).await? {
        if lineage.contains(&before) {
            break; // nobody writes that
        }
        lineage.push(before);
        last = before;
    }
    Ok(lineage)
}

/// What a partition of a recovered log begins with; `None` of any other.
pub async fn open(
    archive: &Archive,
    log: LogId,
    partition: Partition,
) -> Result<Option<ManifestReader>, ArchiveError> {
    let names = Names::list(archive, log, partition).await?;
    let Some(path) = names.base() else { return Ok(None) };
    ManifestReader::new(archive.fetch(&path).await?, &path).map(Some)
}

async fn header(archive: &Archive, names: &Names) -> Result<Option<Header>, ArchiveError> {
    let Some(path) = names.base() else { return Ok(None) };
    Ok(Some(ManifestReader::new(archive.fetch(&path).await?, &path)?.header))
}

/// Reads what became of commands, in the order of their offsets.
pub struct CommandReader {
    lines: Option<Lines>,
}

impl CommandReader {
    /// Of a partition's first manifest.
    pub async fn open(archive: &Archive, base: &Header) -> Result<Self, ArchiveError> {
        let Some(TableFile { path, sha256, .. }) = &base.commands else {
            return Ok(Self { lines: None });
        };
        let lines = archive.fetch_checked(path, sha256).await?.lines(path)?;
        Ok(Self { lines: Some(lines) })
    }

    /// The next one; `None` at the end.
    pub fn next_command(&mut self) -> Result<Option<CommandLine>, ArchiveError> {
        let Some(lines) = &mut self.lines else { return Ok(None) };
        match lines.next_line()? {
            Some(line) => parse(lines, &line).map(Some),
            None => Ok(None),
        }
    }
}

/// An epoch that began without a new log: cursors say something else since the rows were rebuilt, or may, since a
/// read model was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEpoch {
    pub epoch: Epoch,
    /// Up to which cursor scopes kept theirs, by their references.
    pub bases: Vec<(Uuid, Cursor)>,
    /// Whether the scopes that are not among them kept all, or nothing.
    #[serde(default = "kept")]
    pub keeps_unlisted: bool,
}

/// What an epoch does that does not say it.
const fn kept() -> bool {
    true
}

impl StoredEpoch {
    /// Keeps it, so that it outlives the database. `number`: how many were in force before it, and one.
    pub async fn keep(
        &self,
        archive: &Archive,
        log: LogId,
        number: u32,
    ) -> Result<(), ArchiveError> {
        let mut object = Object::of_bytes(archive.scratch(), &json(self)?)?;
        archive.create(&path::epoch(log, number, self.epoch), &mut object).await
    }
}

/// The epochs that began on a log after its first one, in their order.
pub async fn epochs(archive: &Archive, log: LogId) -> Result<Vec<StoredEpoch>, ArchiveError> {
    let mut epochs = Vec::new();
    for (path, _) in archive.list(&path::epochs(log)).await? {
        let bytes = archive.fetch(&path).await?.bytes()?;
        let epoch = serde_json::from_slice(&bytes);
        epochs.push(epoch.map_err(|error| ArchiveError::content(&path, error.to_string()))?);
    }
    Ok(epochs)
}
