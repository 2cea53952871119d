//! Recovery: a log that was lost goes on in another one. What the other one begins with, and which logs an archive
//! has. FORMAT.md, "A recovered log".

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{CommandId, Cursor, Epoch, FoldRevision, LogId, Offset, Outcome, Partition, ScopeKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    error::ArchiveError,
    history::Names,
    manifest::{Header, ManifestReader, TableFile, json, parse, scope_text},
    object::{Lines, Object},
    path,
    store::Archive,
    unlisted::partitions,
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
    /// A recovery into the log was begun and not ended: this partition has nothing to begin with.
    Unfinished(Partition),
}

/// A recovery that was stopped before every partition of its log had what it begins with. Nothing ever ran on that log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The lost log; `None` if not even the first partition came to its base.
    pub from: Option<LogId>,
    /// The first partition that has no base.
    pub missing: Partition,
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
    let mut begun = None;
    for other in logs.into_iter().filter(|other| *other != log) {
        if recovered_from(archive, other).await? != Some(log) {
            continue;
        }
        // Of several, the one that can be gone on with.
        match unfinished(archive, other).await? {
            None => return Ok(Owner::GivenUpFor(other)),
            Some(_) => begun = Some(other),
        }
    }
    match (begun, unfinished(archive, log).await?) {
        (Some(other), _) => Ok(Owner::GivenUpFor(other)),
        (None, Some(Unfinished { missing, .. })) => Ok(Owner::Unfinished(missing)),
        (None, None) => Ok(Owner::Ours),
    }
}

/// Whether a log is one that nothing ran on, because its recovery was stopped: there is nothing of it but bases and their
/// commands, and not of every partition.
pub async fn unfinished(archive: &Archive, log: LogId) -> Result<Option<Unfinished>, ArchiveError> {
    // Of a log that was used there are folders that tell, and they are few: its objects are many.
    let of_base = |folder: &String| folder == "full" || folder == "commands";
    let folders = archive.folders(&format!("manifests/{log}")).await?;
    let is_used = folders.iter().any(|folder| !folder.starts_with("partition="))
        || !archive.folders(&format!("segments/{log}")).await?.is_empty();
    if folders.is_empty() || is_used {
        return Ok(None);
    }
    for partition in partitions(archive, "manifests", log).await? {
        if !archive.folders(&path::manifests(log, partition)).await?.iter().all(of_base) {
            return Ok(None);
        }
    }
    let listed = archive.list(&format!("manifests/{log}")).await?;
    let is_of_base = |path: &String| path.contains("/commands/") || path::is_base(path);
    if listed.is_empty() || !listed.iter().all(|(path, _)| is_of_base(path)) {
        return Ok(None);
    }
    let bases = bases(archive, log).await?;
    let Some(path) = bases.values().next() else {
        return Ok(Some(Unfinished { from: None, missing: Partition::new(0) }));
    };
    let from = ManifestReader::new(archive.fetch(path).await?, path)?.header.recovered_from;
    Ok(missing(archive, log).await?.map(|missing| Unfinished { from, missing }))
}

/// The first partition of a recovered log that has no base; `None` if all have one, or the log was not recovered.
pub async fn missing(archive: &Archive, log: LogId) -> Result<Option<Partition>, ArchiveError> {
    let bases = bases(archive, log).await?;
    let Some(path) = bases.values().next() else { return Ok(None) };
    let header = ManifestReader::new(archive.fetch(path).await?, path)?.header;
    let mut partitions = (0..header.partitions).map(Partition::new);
    Ok(partitions.find(|partition| !bases.contains_key(partition)))
}

/// The paths of the manifests that a recovered log begins with, by partition.
pub async fn bases(
    archive: &Archive,
    log: LogId,
) -> Result<BTreeMap<Partition, String>, ArchiveError> {
    let mut bases = BTreeMap::new();
    for partition in partitions(archive, "manifests", log).await? {
        let fulls = archive.list(&format!("{}/full", path::manifests(log, partition))).await?;
        let base = fulls.into_iter().map(|(path, _)| path).find(|path| path::is_base(path));
        bases.extend(base.map(|path| (partition, path)));
    }
    Ok(bases)
}

/// The log that a log was recovered from, if it was: the first partition gets its base first.
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
    /// By which revision of the fold the rows were folded that it began with.
    #[serde(default = "first_revision")]
    pub fold_revision: FoldRevision,
}

/// What an epoch does that does not say it.
const fn kept() -> bool {
    true
}

const fn first_revision() -> FoldRevision {
    FoldRevision::FIRST
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

    /// Reads what was kept under a path, which names the epoch.
    pub(crate) fn read(mut object: Object, path: &str) -> Result<Self, ArchiveError> {
        let read = serde_json::from_slice::<Self>(&object.bytes()?);
        let read = read.map_err(|error| ArchiveError::content(path, error.to_string()))?;
        if path.ends_with(&format!("-{}.json", read.epoch)) {
            return Ok(read);
        }
        Err(ArchiveError::content(path, format!("it says epoch {}", read.epoch)))
    }
}

/// The epochs that began on a log after its first one, in their order.
pub async fn epochs(archive: &Archive, log: LogId) -> Result<Vec<StoredEpoch>, ArchiveError> {
    let mut epochs = Vec::new();
    for (path, _) in archive.list(&path::epochs(log)).await? {
        epochs.push(StoredEpoch::read(archive.fetch(&path).await?, &path)?);
    }
    Ok(epochs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_says_by_which_revision_of_the_fold_its_rows_are() {
        let stored = StoredEpoch {
            epoch: Epoch(Uuid::from_u128(1)),
            bases: vec![(Uuid::from_u128(2), Cursor::from_i64(3))],
            keeps_unlisted: false,
            fold_revision: FoldRevision(7),
        };
        let text = String::from_utf8(json(&stored).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<StoredEpoch>(&text).unwrap(), stored);
        // As they were written before there was more than one.
        let before = text.replace(",\"fold_revision\":7", "");
        assert_ne!(before, text);
        let before: StoredEpoch = serde_json::from_str(&before).unwrap();
        assert_eq!(before.fold_revision, FoldRevision::FIRST);
    }
}
