//! What no manifest lists: left by a crash, or of an hour that was being sealed.

use std::collections::{BTreeSet, HashSet};

use sha2::{Digest as _, Sha256};

use crate::{
    base, compaction, error::ArchiveError, history::Names, manifest::ManifestReader, store::Archive,
};
use model::{LogId, Partition};

/// Paths as half their SHA-256: an archive has millions.
#[derive(Default)]
struct Paths(HashSet<[u8; 16]>);

impl Paths {
    fn hash(path: &str) -> [u8; 16] {
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(path)[..16]);
        half
    }

    fn insert(&mut self, path: &str) {
        self.0.insert(Self::hash(path));
    }

    fn has(&self, path: &str) -> bool {
        self.0.contains(&Self::hash(path))
    }
}

/// The objects below `tenants/`, `events/` and `messages/` that no manifest of any log lists. `step` is told of each
/// manifest that is read.
///
/// # Errors
/// A manifest cannot be read: then nobody knows what it lists.
pub async fn unlisted(
    archive: &Archive,
    mut step: impl FnMut(),
) -> Result<Vec<String>, ArchiveError> {
    let mut stored = Vec::new();
    for folder in ["tenants", "events", "messages"] {
        stored.extend(archive.list(folder).await?.into_iter().map(|(path, _)| path));
    }
    let mut listed = Paths::default();
    for log in base::logs(archive).await? {
        for partition in partitions(archive, "manifests", log).await? {
            let names = Names::list(archive, log, partition).await?;
            for path in names.hours().chain(names.fulls()).chain(names.on_demand()) {
                note(archive, &path, &mut listed).await?;
                step();
            }
            for path in names.compactions() {
                let found = compaction::find(archive, &path).await?;
                let files = found.iter().flat_map(|compaction| {
                    [&compaction.header.events, &compaction.header.messages].into_iter().flatten()
                });
                files.for_each(|file| listed.insert(&file.path));
                step();
            }
        }
    }
    stored.retain(|path| !listed.has(path));
    Ok(stored)
}

/// The partitions of a log that have anything in a folder: `manifests` or `segments`.
///
/// # Errors
/// The store does not list it.
pub async fn partitions(
    archive: &Archive,
    folder: &str,
    log: LogId,
) -> Result<BTreeSet<Partition>, ArchiveError> {
    let number = |name: &str| name.strip_prefix("partition=")?.parse().ok().map(Partition::new);
    let names = archive.folders(&format!("{folder}/{log}")).await?;
    Ok(names.iter().filter_map(|name| number(name)).collect())
}

async fn note(archive: &Archive, path: &str, listed: &mut Paths) -> Result<(), ArchiveError> {
    let mut manifest = ManifestReader::new(archive.fetch(path).await?, path)?;
    let files = [&manifest.header.events, &manifest.header.messages];
    files.into_iter().flatten().for_each(|file| listed.insert(&file.path));
    while let Some(line) = manifest.next_scope()? {
        if let Some(backup) = line.backup {
            listed.insert(&backup.path);
        }
    }
    Ok(())
}
