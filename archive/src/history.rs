//! Finding a backup, and reading the state that it shows.

use std::collections::{HashMap, HashSet};

use model::{BackupId, BackupType, Cursor, LogId, Message, MessageId, Partition, ScopeKey};

use crate::{
    error::ArchiveError,
    expired::{self, Class, DONE},
    manifest::{BackupObject, Header, ManifestReader, Reference, ScopeLine},
    message_line,
    object::{Lines, Sha256Hex},
    path,
    period::HourLength,
    store::Archive,
    total::{Part, Total},
};

const HOUR: &str = "hour";
const FULL: &str = "full";
const ON_DEMAND: &str = "on-demand";
const COMPACTION: &str = "compaction";
const EXPIRED: &str = "expired";

/// The names of a partition's manifests, sorted: what there is without reading any of it.
#[derive(Clone, Debug, Default)]
pub struct Names {
    folder: String,
    hours: Vec<String>,
    fulls: Vec<String>,
    on_demand: Vec<String>,
    compactions: Vec<String>,
    expired: Vec<ExpiredName>,
    /// Of which all is deleted.
    done: HashSet<(Class, String)>,
}

/// The name of a record of what has expired.
#[derive(Clone, Debug)]
struct ExpiredName {
    class: Class,
    period: String,
    file: String,
}

/// A backup that a manifest lists.
#[derive(Clone, Debug)]
pub struct FoundBackup {
    /// The scope as the backup shows it.
    pub line: ScopeLine,
    /// How long the hours of its archive are.
    pub hour_length: HourLength,
    pub backup: BackupObject,
    /// The objects that make up the state, the oldest first: one, or a full and the incrementals after it.
    pub objects: Vec<BackupObject>,
    pub manifest: Reference,
}

impl Names {
    /// Of the manifests of a partition.
    pub async fn list(
        archive: &Archive,
        log: LogId,
        partition: Partition,
    ) -> Result<Self, ArchiveError> {
        let folder = path::manifests(log, partition);
        let mut names = Self { folder: folder.clone(), ..Self::default() };
        for (path, _) in archive.list(&folder).await? {
            let rest = path.strip_prefix(&folder).unwrap_or_default();
            let rest = rest.trim_start_matches('/');
            if let Some(name) = ExpiredName::parse(rest) {
                names.push_expired(name);
                continue;
            }
            let rest = rest.strip_suffix(".jsonl.gz").unwrap_or_default();
            match rest.split_once('/') {
                Some((HOUR, name)) => names.hours.push(name.to_owned()),
                Some((FULL, name)) => names.fulls.push(name.to_owned()),
                Some((ON_DEMAND, name)) => names.on_demand.push(name.to_owned()),
                Some((COMPACTION, name)) => names.compactions.push(name.to_owned()),
                _ => {}
            }
        }
        // Names, not paths: a full after a gap comes after the one of its day.
        names.fulls.sort_unstable();
        Ok(names)
    }

    /// The paths of the hours' manifests, the oldest first.
    pub fn hours(&self) -> impl DoubleEndedIterator<Item = String> + '_ {
        self.hours.iter().map(|name| self.path(HOUR, name))
    }

    /// The paths of the fulls' manifests, the oldest first.
    pub fn fulls(&self) -> impl DoubleEndedIterator<Item = String> + '_ {
        self.fulls.iter().map(|name| self.path(FULL, name))
    }

    /// The path of the manifest that a recovered log begins with, if it is one.
    pub fn base(&self) -> Option<String> {
        let base = self.fulls.iter().find(|name| path::is_base(name));
        base.map(|name| self.path(FULL, name))
    }

    /// The path of the manifest of the fulls of a day, be it there or not.
    pub(crate) fn full(&self, day: &str) -> String {
        self.path(FULL, day)
    }

    /// The paths of the on-demand backups' manifests.
    pub fn on_demand(&self) -> impl Iterator<Item = String> + '_ {
        self.on_demand.iter().map(|name| self.path(ON_DEMAND, name))
    }

    /// The paths of the compacted days' manifests, the oldest first.
    pub fn compactions(&self) -> impl Iterator<Item = String> + '_ {
        self.compactions.iter().map(|name| self.path(COMPACTION, name))
    }

    /// The paths of the manifests that list backups.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.hours().chain(self.fulls()).chain(self.on_demand())
    }

    /// The path of the manifest that lists the backup with this object first, if it is one of these.
    pub fn manifest_of(&self, object: &str) -> Option<String> {
        let mut parts = object.rsplit('/');
        let (file, folder) = (parts.next()?.strip_suffix(".jsonl.gz")?, parts.next()?);
        match folder {
            "incremental" => {
                self.hours.iter().find(|name| *name == file).map(|name| self.path(HOUR, name))
            }
            FULL => {
                let full = path::full_of_object(file);
                self.fulls.iter().find(|name| *name == full).map(|name| self.path(FULL, name))
            }
            _ => self
                .on_demand
                .iter()
                .find(|id| file.ends_with(id.as_str()))
                .map(|id| self.path(ON_DEMAND, id)),
        }
    }

    /// The hours, by the names of their manifests.
    pub fn hour_names(&self) -> impl Iterator<Item = &str> {
        self.hours.iter().map(String::as_str)
    }

    fn push_expired(&mut self, name: ExpiredName) {
        if name.file == DONE {
            self.done.insert((name.class, name.period));
        } else {
            self.expired.push(name);
        }
    }

    /// The paths of the records of what has expired.
    pub fn expired(&self) -> impl Iterator<Item = String> + '_ {
        self.records(|_| true)
    }

    /// As [`Self::expired`], of a class and period.
    pub fn expired_of(&self, class: Class, period: &str) -> impl Iterator<Item = String> {
        self.records(move |name| name.class == class && name.period == period)
    }

    /// As [`Self::expired`], of a class, of a period and later ones.
    pub(crate) fn expired_since(&self, class: Class, period: &str) -> impl Iterator<Item = String> {
        self.records(move |name| name.class == class && name.period.as_str() >= period)
    }

    /// Whether all that could expire of a class and period is deleted.
    pub fn is_expired(&self, class: Class, period: &str) -> bool {
        self.done.contains(&(class, period.to_owned()))
    }

    fn records(&self, is: impl Fn(&ExpiredName) -> bool) -> impl Iterator<Item = String> {
        self.expired.iter().filter(move |name| is(name)).map(
            |ExpiredName { class, period, file }| {
                format!("{}/{EXPIRED}/{class}/{period}/{file}", self.folder)
            },
        )
    }

    /// How many manifests there are.
    pub fn len(&self) -> usize {
        self.hours.len() + self.fulls.len() + self.on_demand.len() + self.compactions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!("{}/{kind}/{name}.jsonl.gz", self.folder)
    }

    /// The hours, by their names, that go on from a full.
    pub fn hours_after(&self, full: &str) -> impl Iterator<Item = String> + '_ {
        let begin = self.hours.partition_point(|name| name.as_str() < path::goes_on_in(full));
        self.hours[begin..].iter().map(|name| self.path(HOUR, name))
    }

    /// The hours before those, the newest first.
    pub fn hours_before(&self, full: &str) -> impl Iterator<Item = String> + '_ {
        let end = self.hours.partition_point(|name| name.as_str() < path::goes_on_in(full));
        self.hours[..end].iter().rev().map(|name| self.path(HOUR, name))
    }

    /// The newest full at or before the end of an hour, and the hours after it up to that one. A full
    /// follows every gap: what is before it is never composed with what comes after.
    fn chain(&self, hour: &str) -> (Option<&String>, &[String]) {
        let full = self.fulls.iter().rev().find(|full| path::goes_on_in(full) <= hour);
        let goes_on = full.map_or("", |full| path::goes_on_in(full));
        let begin = self.hours.partition_point(|name| name.as_str() < goes_on);
        let end = self.hours.partition_point(|name| name.as_str() <= hour);
        (full, &self.hours[begin..end])
    }

    /// The paths of the manifests that make up the state at the end of an hour, given by its manifest's path: the newest
    /// full before it, if there is one, and the hours after that up to this one.
    pub(crate) fn making_up(&self, hour: &str) -> (Option<String>, Vec<String>) {
        let name = path::name(hour).unwrap_or_default();
        let (full, hours) = self.chain(name);
        (
            full.map(|name| self.path(FULL, name)),
            hours.iter().map(|name| self.path(HOUR, name)).collect(),
        )
    }
}

/// The newest hour's manifest of a partition, and what its header says; `None` before the first one.
pub async fn newest_hour(
    archive: &Archive,
    log: LogId,
    partition: Partition,
) -> Result<Option<(Reference, Header)>, ArchiveError> {
    let names = Names::list(archive, log, partition).await?;
    let Some(path) = names.hours().next_back() else { return Ok(None) };
    let object = archive.fetch(&path).await?;
    let sha256 = object.sha256.clone();
    let header = ManifestReader::new(object, &path)?.header;
    Ok(Some((Reference { path, sha256 }, header)))
}

impl ExpiredName {
    /// `expired/{class}/{period}/{file}`.
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix(EXPIRED)?.strip_prefix('/')?.split('/');
        let (class, period, file) = (parts.next()?, parts.next()?, parts.next()?);
        let (class, period, file) = (Class::parse(class)?, period.to_owned(), file.to_owned());
        Some(Self { class, period, file })
    }
}

/// Finds a backup of a scope by its id, in the log's manifests or in those of a log that it was recovered from; `None`
/// if none lists it, or if it, or what it goes on from, has expired.
pub async fn find(
    archive: &Archive,
    log: LogId,
    partition: Partition,
    scope: &ScopeKey,
    id: BackupId,
) -> Result<Option<FoundBackup>, ArchiveError> {
    let Some((names, found)) = find_with_names(archive, log, partition, scope, id).await? else {
        return Ok(None);
    };
    let has_expired = expired::has_any(archive, &names, &found).await?;
    Ok((!has_expired).then_some(found))
}

/// As [`find`], of a backup that may have expired.
pub async fn find_listed(
    archive: &Archive,
    log: LogId,
    partition: Partition,
    scope: &ScopeKey,
    id: BackupId,
) -> Result<Option<FoundBackup>, ArchiveError> {
    Ok(find_with_names(archive, log, partition, scope, id).await?.map(|(_, found)| found))
}

async fn find_with_names(
    archive: &Archive,
    mut log: LogId,
    partition: Partition,
    scope: &ScopeKey,
    id: BackupId,
) -> Result<Option<(Names, FoundBackup)>, ArchiveError> {
    loop {
        let names = Names::list(archive, log, partition).await?;
        if let Some(found) = find_in(archive, &names, log, partition, scope, id).await? {
            return Ok(Some((names, found)));
        }
        let before = match names.base() {
            Some(path) => ManifestReader::new(archive.fetch(&path).await?, &path)?.header,
            None => return Ok(None),
        };
        match before.recovered_from {
            Some(before) if before != log => log = before,
            _ => return Ok(None),
        }
    }
}

async fn find_in(
    archive: &Archive,
    names: &Names,
    log: LogId,
    partition: Partition,
    scope: &ScopeKey,
    id: BackupId,
) -> Result<Option<FoundBackup>, ArchiveError> {
    let is = |backup_type, name: &str| BackupId::scheduled(scope, backup_type, name) == id;
    if let Some(hour) = names.hours.iter().find(|name| is(BackupType::Incremental, name)) {
        return incremental(archive, names, scope, hour).await;
    }
    let full = names.fulls.iter().find(|name| is(BackupType::Full, name));
    let path = match full {
        Some(name) => names.path(FULL, name),
        None => path::on_demand_manifest(log, partition, id),
    };
    let Some((manifest, hour_length, line)) = scope_line(archive, &path, scope).await? else {
        return Ok(None);
    };
    let Some(backup) = line.backup.clone().filter(|backup| backup.id == id) else {
        return Ok(None);
    };
    Ok(Some(FoundBackup { line, hour_length, objects: vec![backup.clone()], backup, manifest }))
}

async fn incremental(
    archive: &Archive,
    names: &Names,
    scope: &ScopeKey,
    hour: &str,
) -> Result<Option<FoundBackup>, ArchiveError> {
    let (full, hours) = names.chain(hour);
    let mut objects = Vec::new();
    if let Some(name) = full
        && let Some((.., line)) = scope_line(archive, &names.path(FULL, name), scope).await?
    {
        objects.extend(line.backup);
    }
    let mut last = None;
    for name in hours {
        let found = scope_line(archive, &names.path(HOUR, name), scope).await?;
        if let Some((manifest, hour_length, line)) = found {
            objects.extend(line.backup.clone());
            last = Some((name.as_str(), manifest, hour_length, line));
        }
    }
    let Some((_, manifest, hour_length, line)) = last.filter(|(name, ..)| *name == hour) else {
        return Ok(None);
    };
    let Some(backup) = line.backup.clone() else { return Ok(None) };
    // Of what came before an erasure nothing is left, nor needed.
    objects.retain(|object| object.cursor_last >= line.erased);
    Ok(Some(FoundBackup { line, hour_length, backup, objects, manifest }))
}

/// A scope's line of a manifest, if both are there.
async fn scope_line(
    archive: &Archive,
    path: &str,
    scope: &ScopeKey,
) -> Result<Option<(Reference, HourLength, ScopeLine)>, ArchiveError> {
    let object = match archive.fetch(path).await {
        Ok(object) => object,
        Err(ArchiveError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let reference = Reference { path: path.to_owned(), sha256: object.sha256.clone() };
    let mut reader = ManifestReader::new(object, path)?;
    let mut found = None;
    while let Some(line) = reader.next_scope()? {
        if line.scope == *scope {
            found = Some(line);
        }
    }
    let hour_length = reader.header.period_seconds;
    Ok(found.map(|line| (reference, hour_length, line)))
}

/// The messages of a state, in the order of their cursors: the lines of its objects one after another, less those
/// that a later one says otherwise.
pub struct StateReader {
    /// The oldest first, each with its content's hash as its manifest says.
    objects: std::vec::IntoIter<(Lines, Sha256Hex)>,
    reading: Option<(Lines, Sha256Hex)>,
    /// Where each message stands that an object after the first has: no line before that counts.
    last: HashMap<MessageId, Cursor>,
    floor: Cursor,
    /// What is to come out of it.
    expected: Total,
    total: Total,
    path: String,
}

impl FoundBackup {
    /// Whether it is from before an erasure of its scope, the last one: then what it shows is not to come back. It may be
    /// listed still: what is deleted is deleted once the hour is sealed.
    pub fn was_erased(&self, erased: Cursor) -> bool {
        erased > Cursor::ZERO && self.line.erased != erased
    }

    /// As [`StateReader::open`].
    ///
    /// # Errors
    /// Likewise.
    pub async fn open(&self, archive: &Archive) -> Result<StateReader, ArchiveError> {
        StateReader::open(archive, &self.objects, &self.line, &self.backup.path).await
    }
}

impl StateReader {
    /// Fetches and checks every object that makes up a scope's state, so that nothing is read of a damaged one. `line`:
    /// what they come to. `path`: whose problem it is if they do not.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] if one is not what its manifest says.
    pub(crate) async fn open(
        archive: &Archive,
        made_of: &[BackupObject],
        line: &ScopeLine,
        path: &str,
    ) -> Result<Self, ArchiveError> {
        let mut objects = Vec::with_capacity(made_of.len());
        let mut last = HashMap::new();
        for object in made_of {
            let fetched = archive.fetch_checked(&object.path, &object.sha256).await?;
            let mut lines = fetched.lines(&object.path)?;
            if !objects.is_empty() {
                while let Some(line) = lines.next_line()? {
                    let (id, cursor) = message_line::place(&line).map_err(|p| lines.problem(&p))?;
                    last.insert(id, cursor);
                }
                lines = lines.restart()?;
            }
            objects.push((lines, object.content_sha256.clone()));
        }
        Ok(Self {
            objects: objects.into_iter(),
            reading: None,
            last,
            floor: line.floor,
            expected: Total::said(line),
            total: Total::default(),
            path: path.to_owned(),
        })
    }

    /// The next message, tombstones included; `None` at the end, once count, bytes and digest were found to be what
    /// the manifest says.
    pub fn next_message(&mut self) -> Result<Option<Message>, ArchiveError> {
        while let Some(message) = self.next_unchecked()? {
            if let Some(part) = Part::of(&message) {
                self.total.add(part);
                return Ok(Some(message));
            }
            if message.entry.cursor > self.floor {
                return Ok(Some(message));
            }
        }
        match self.total.contradiction(self.expected) {
            None => Ok(None),
            Some(problem) => Err(ArchiveError::content(&self.path, problem)),
        }
    }

    fn next_unchecked(&mut self) -> Result<Option<Message>, ArchiveError> {
        loop {
            let Some((lines, content)) = &mut self.reading else {
                self.reading = self.objects.next();
                if self.reading.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let Some(message) = next_message(lines)? else {
                check_content(lines, content)?;
                self.reading = None;
                continue;
            };
            if self.last.get(&message.id).is_none_or(|last| *last == message.entry.cursor) {
                return Ok(Some(message));
            }
        }
    }
}

pub(crate) fn next_message(lines: &mut Lines) -> Result<Option<Message>, ArchiveError> {
    let Some(line) = lines.next_line()? else { return Ok(None) };
    message_line::read(&line).map(Some).map_err(|problem| lines.problem(&problem))
}

pub(crate) fn check_content(lines: &Lines, expected: &Sha256Hex) -> Result<(), ArchiveError> {
    if lines.content_sha256() == *expected {
        Ok(())
    } else {
        Err(lines.problem("is the last of another content than the manifest says"))
    }
}
