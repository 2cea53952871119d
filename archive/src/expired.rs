//! What retention has deleted. FORMAT.md, "What has expired".

use std::{collections::HashSet, fmt};

use model::{BackupId, BackupType, LogId, Partition, ScopeKey, ScopeKind};
use serde::{Deserialize, Serialize};

use crate::{
    error::ArchiveError,
    history::{FoundBackup, Names},
    manifest::{BackupObject, FORMAT, json, scope_text},
    object::{Lines, LinesWriter, Object, Scratch, Sha256Hex},
    path,
    period::HourLength,
    store::Archive,
};

/// The mark that everything of a class and period is deleted, and nothing of it is left to expire.
pub const DONE: &str = "done";

/// Backups that are kept equally long: of a type, of a kind of scope. `incremental-team`, `full-org`, `on-demand-user`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Class {
    pub backup_type: BackupType,
    pub kind: ScopeKind,
}

/// The text names no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no class of backups, such as incremental-team")]
pub struct InvalidClass;

impl Class {
    pub const fn new(backup_type: BackupType, kind: ScopeKind) -> Self {
        Self { backup_type, kind }
    }

    fn type_name(self) -> &'static str {
        match self.backup_type {
            BackupType::Incremental => "incremental",
            BackupType::Full => "full",
            BackupType::OnDemand => "on-demand",
        }
    }

    /// The class of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let of_type =
            |backup_type| ScopeKind::ALL.into_iter().map(move |kind| Self { backup_type, kind });
        BackupType::ALL.into_iter().flat_map(of_type).find(|class| class.to_string() == name)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.type_name(), self.kind.as_str())
    }
}

impl TryFrom<String> for Class {
    type Error = InvalidClass;

    fn try_from(name: String) -> Result<Self, InvalidClass> {
        Self::parse(&name).ok_or(InvalidClass)
    }
}

impl From<Class> for String {
    fn from(class: Class) -> Self {
        class.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Expired,
}

/// Which backups a record names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: u32,
    kind: Kind,
    pub log_id: LogId,
    pub partition: Partition,
    pub class: Class,
    /// Of incrementals the day; of fulls the day of the last manifest that lists them; of a backup on demand its id.
    pub period: String,
}

impl Header {
    pub fn new(log_id: LogId, partition: Partition, class: Class, period: String) -> Self {
        Self { format: FORMAT, kind: Kind::Expired, log_id, partition, class, period }
    }
}

/// A backup whose object is deleted, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredBackup {
    #[serde(with = "scope_text")]
    pub scope: ScopeKey,
    pub id: BackupId,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    pub path: String,
    pub sha256: Sha256Hex,
    pub size_bytes: u64,
}

impl ExpiredBackup {
    pub fn new(scope: ScopeKey, backup: BackupObject) -> Self {
        let BackupObject { id, backup_type, path, sha256, size_bytes, .. } = backup;
        Self { scope, id, backup_type, path, sha256, size_bytes }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    objects: u64,
}

/// Writes a record: nothing is deleted before it stands.
pub struct ExpiredWriter {
    lines: LinesWriter,
}

impl ExpiredWriter {
    pub fn new(scratch: &Scratch, header: &Header) -> Result<Self, ArchiveError> {
        let mut lines = LinesWriter::new(scratch);
        lines.push(&json(header)?)?;
        Ok(Self { lines })
    }

    pub fn push(&mut self, backup: &ExpiredBackup) -> Result<(), ArchiveError> {
        self.lines.push(&json(backup)?)
    }

    pub fn is_empty(&self) -> bool {
        self.lines.lines == 1
    }

    pub fn finish(mut self) -> Result<Object, ArchiveError> {
        let objects = self.lines.lines - 1;
        self.lines.push(&json(&Trailer { objects })?)?;
        self.lines.finish()
    }
}

/// Reads a record.
pub struct ExpiredReader {
    pub header: Header,
    lines: Lines,
    read: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Trailer(Trailer),
    Backup(ExpiredBackup),
}

impl ExpiredReader {
    pub async fn fetch(archive: &Archive, path: &str) -> Result<Self, ArchiveError> {
        let object = archive.fetch(path).await?;
        if !path.ends_with(&format!("/{}.jsonl.gz", object.sha256)) {
            let problem = format!("it has sha256 {}, which is not its name", object.sha256);
            return Err(ArchiveError::content(path, problem));
        }
        let mut lines = object.lines(path)?;
        let Some(header) = lines.next_json::<Header>()? else {
            return Err(ArchiveError::content(path, "it is empty"));
        };
        if header.format > FORMAT {
            return Err(lines.problem(&format!("is of format {}", header.format)));
        }
        Ok(Self { header, lines, read: 0 })
    }

    /// The next backup; `None` at the end, once the trailer was found and is right.
    pub fn next_backup(&mut self) -> Result<Option<ExpiredBackup>, ArchiveError> {
        match self.lines.next_json()? {
            Some(Line::Backup(backup)) => {
                self.read += 1;
                Ok(Some(backup))
            }
            Some(Line::Trailer(Trailer { objects })) if objects == self.read => {
                match self.lines.next_line()? {
                    None => Ok(None),
                    Some(_) => Err(self.lines.problem("follows the trailer")),
                }
            }
            Some(Line::Trailer(Trailer { objects })) => {
                let problem = format!("says {objects} objects, there are {}", self.read);
                Err(self.lines.problem(&problem))
            }
            None => Err(self.lines.problem("is the last, but not the trailer: the record is cut")),
        }
    }
}

/// Whether a record names one of the objects that a backup is made of.
pub(crate) async fn has_any(
    archive: &Archive,
    names: &Names,
    found: &FoundBackup,
) -> Result<bool, ArchiveError> {
    for object in &found.objects {
        if has(archive, names, found.line.scope.kind, object, found.hour_length).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a record names an object of a scope of this kind.
pub async fn has(
    archive: &Archive,
    names: &Names,
    kind: ScopeKind,
    object: &BackupObject,
    hour_length: HourLength,
) -> Result<bool, ArchiveError> {
    let class = Class::new(object.backup_type, kind);
    let name = path::name(&object.path).unwrap_or_default();
    let records: Vec<String> = match class.backup_type {
        BackupType::Incremental => {
            let hour = hour_length.hour_named(name);
            let day = hour.map(|hour| hour_length.day_name(hour.day()));
            names.expired_of(class, &day.unwrap_or_default()).collect()
        }
        // The manifests after its own may list it too: its record is of the last one.
        BackupType::Full => names.expired_since(class, path::full_of_object(name)).collect(),
        BackupType::OnDemand => names.expired_of(class, &object.id.to_string()).collect(),
    };
    for record in records {
        if paths(archive, &record).await?.contains(&object.path) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The paths of the objects that a record names.
pub async fn paths(archive: &Archive, record: &str) -> Result<HashSet<String>, ArchiveError> {
    let mut reader = ExpiredReader::fetch(archive, record).await?;
    let mut paths = HashSet::new();
    while let Some(backup) = reader.next_backup()? {
        paths.insert(backup.path);
    }
    Ok(paths)
}
