//! What an archive comes to: every scope of a partition as it stands at the end of an hour.

use std::collections::HashMap;

use model::{LogId, Offset, Partition, ScopeKey};

use crate::{
    error::ArchiveError,
    expired,
    history::{Names, StateReader},
    manifest::{BackupObject, ManifestReader, ScopeLine},
    period::HourLength,
    store::Archive,
};

/// A partition at the end of an hour.
pub struct StandingPartition {
    /// All records before it are in hours.
    pub next_offset: Offset,
    /// In no order.
    pub scopes: Vec<StandingScope>,
}

/// A scope at the end of that hour.
pub struct StandingScope {
    /// As the last manifest that lists it says.
    pub line: ScopeLine,
    /// What makes up its messages, the oldest first: a full, and the incrementals after it.
    objects: Vec<BackupObject>,
    manifest: String,
    hour_length: HourLength,
}

/// How the scopes that are wanted stand at the end of the newest hour that ends at or before `until`; `None` if there is
/// none. Each manifest is read once, and no object.
///
/// # Errors
/// A manifest cannot be read.
pub async fn standing(
    archive: &Archive,
    log: LogId,
    partition: Partition,
    until: Offset,
    wanted: impl Fn(&ScopeKey) -> bool,
) -> Result<Option<StandingPartition>, ArchiveError> {
    let names = Names::list(archive, log, partition).await?;
    let mut newest = None;
    for hour in names.hours().rev() {
        let header = ManifestReader::new(archive.fetch(&hour).await?, &hour)?.header;
        if header.next_offset <= until {
            newest = Some((hour, header.next_offset));
            break;
        }
    }
    let Some((hour, next_offset)) = newest else { return Ok(None) };
    let (full, hours) = names.making_up(&hour);
    let mut scopes: HashMap<ScopeKey, StandingScope> = HashMap::new();
    for path in full.into_iter().chain(hours) {
        let mut manifest = ManifestReader::new(archive.fetch(&path).await?, &path)?;
        while let Some(line) = manifest.next_scope()? {
            if !wanted(&line.scope) {
                continue;
            }
            let before = scopes.remove(&line.scope);
            let mut objects = before.map(|before| before.objects).unwrap_or_default();
            objects.extend(line.backup.clone());
            let (manifest, hour_length) = (path.clone(), manifest.header.period_seconds);
            let standing = StandingScope { line, objects, manifest, hour_length };
            scopes.insert(standing.line.scope.clone(), standing);
        }
    }
    let mut scopes: Vec<StandingScope> = scopes.into_values().collect();
    for StandingScope { line, objects, .. } in &mut scopes {
        // Of what came before an erasure nothing is left, nor needed.
        objects.retain(|object| object.cursor_last >= line.erased);
    }
    Ok(Some(StandingPartition { next_offset, scopes }))
}

impl StandingScope {
    /// Fetches and checks the objects, and reads what they come to.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] or [`ArchiveError::NotFound`] if one is not there as its manifest says.
    pub async fn open(&self, archive: &Archive) -> Result<StateReader, ArchiveError> {
        StateReader::open(archive, &self.objects, &self.line, &self.manifest).await
    }

    /// Whether an object of it has expired, or was erased, since its manifests were read.
    ///
    /// # Errors
    /// The archive cannot be read.
    pub async fn has_expired(
        &self,
        archive: &Archive,
        log: LogId,
        partition: Partition,
    ) -> Result<bool, ArchiveError> {
        let names = Names::list(archive, log, partition).await?;
        let kind = self.line.scope.kind;
        for object in &self.objects {
            if expired::has(archive, &names, kind, object, self.hour_length).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
