//! Verifying an archive end to end: the manifests and their chain, and every object that they list.

mod course;
mod epochs;
mod erasures;
mod expired;
mod place;
mod redacted;
mod report;
mod segments;
mod tables;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use model::{Cursor, LogId, Offset, Partition, ScopeKey};
use uuid::Uuid;

use crate::{
    error::{ArchiveError, Damage},
    history::{FoundBackup, Names},
    manifest::{BackupObject, Header, Kind, ManifestReader, Reference, ScopeLine, TableFile},
    message_line,
    object::{Object, Sha256Hex},
    path,
    redaction::Redaction,
    store::Archive,
};
use course::Course;
use place::Placed;
pub use report::{LostRecords, Problem, Proven, RawUntil, Report, Until};

/// Which of the objects are read whole: all, or one part of several, so that as many runs read everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    part: u32,
    parts: u32,
}

/// The text is no `n/t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "takes n/t with 1 <= n <= t, such as 3/30: the third of thirty runs that read all together"
)]
pub struct InvalidSample;

impl Sample {
    pub const ALL: Self = Self { part: 0, parts: 1 };

    /// Whether what has this name is of the part.
    pub fn has(self, path: &str) -> bool {
        let hash = Sha256Hex::of_bytes(path.as_bytes()).0;
        let number = u64::from_str_radix(&hash[..15], 16).unwrap_or_default();
        number % u64::from(self.parts) == u64::from(self.part)
    }
}

/// `3/30`, as it is given.
impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.part + 1, self.parts)
    }
}

impl std::str::FromStr for Sample {
    type Err = InvalidSample;

    fn from_str(text: &str) -> Result<Self, InvalidSample> {
        let (part, parts) = text.split_once('/').ok_or(InvalidSample)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| InvalidSample);
        let (part, parts) = (number(part)?, number(parts)?);
        if (1..=parts).contains(&part) {
            Ok(Self { part: part - 1, parts })
        } else {
            Err(InvalidSample)
        }
    }
}

/// Verifies the whole archive. `step` is told how far it is: what is being read, and of how many.
///
/// # Errors
/// The store cannot be read. What is wrong with the archive is in the report.
pub async fn verify(
    archive: &Archive,
    sample: Sample,
    mut step: impl FnMut(u64, u64),
) -> Result<Report, ArchiveError> {
    // Manifests first: what they list was there before them.
    let partitions = partitions(archive).await?;
    let mut stored = BTreeMap::new();
    for folder in ["tenants", "events", "messages"] {
        stored.extend(archive.list(folder).await?);
    }
    let mut verifier = Verifier { archive, sample, stored, ..Verifier::new(archive) };
    verifier.read_redactions().await?;
    let total = partitions.iter().map(|(_, _, names)| names.len() as u64).sum();
    let mut done = 0;
    let logs: BTreeSet<LogId> = partitions.iter().map(|(log, ..)| *log).collect();
    for (log, partition, names) in partitions {
        let mut progress = || {
            done += 1;
            step(done, total);
        };
        verifier.partition(log, partition, &names, &mut progress).await?;
    }
    for log in logs {
        verifier.epochs(log).await?;
    }
    verifier.schemas().await?;
    Ok(verifier.finish())
}

/// The partitions that have manifests or segments, and their manifests.
async fn partitions(archive: &Archive) -> Result<Vec<(LogId, Partition, Names)>, ArchiveError> {
    let mut found = BTreeSet::new();
    let mut paths = archive.list("manifests").await?;
    paths.extend(archive.list("segments").await?);
    for (path, _) in paths {
        let mut parts = path.split('/').skip(1);
        let log = parts.next().and_then(|log| log.parse::<Uuid>().ok());
        let partition = parts.next().and_then(|part| part.strip_prefix("partition=")?.parse().ok());
        if let (Some(log), Some(partition)) = (log, partition) {
            found.insert((LogId(log), Partition::new(partition)));
        }
    }
    let mut partitions = Vec::new();
    for (log, partition) in found {
        partitions.push((log, partition, Names::list(archive, log, partition).await?));
    }
    Ok(partitions)
}

struct Verifier<'a> {
    archive: &'a Archive,
    sample: Sample,
    /// What there is, with its size.
    stored: BTreeMap<String, u64>,
    listed: BTreeSet<String>,
    /// The objects of the partition that retention has deleted, or is about to, and the record that says so.
    expired: HashMap<String, String>,
    /// The records that were read.
    expired_records: HashSet<String>,
    /// What took the place of tables, by the hashes of those.
    redactions: HashMap<Sha256Hex, Redaction>,
    /// The fulls of which something is left for a fold to go on from, by their hashes.
    left: HashSet<Sha256Hex>,
    /// The schemas of the events that were read, and where one of each is.
    fingerprints: BTreeMap<u64, String>,
    report: Report,
}

/// What a chain has come to.
#[derive(Default)]
struct Chain {
    previous: Option<(Reference, Header)>,
    heads: HashMap<ScopeKey, Cursor>,
    /// What each scope came to since its last full.
    courses: HashMap<ScopeKey, Course>,
    /// An hour is missing or wrong: what scopes come to is not known up to the next full.
    is_broken: bool,
    /// The hours by the paths of their manifests.
    hours: HashMap<String, (Sha256Hex, Header)>,
    /// The hours' files that are in their days'.
    compacted: HashMap<String, TableFile>,
    placed: Placed,
    erasures: erasures::Shown,
}

impl<'a> Verifier<'a> {
    fn new(archive: &'a Archive) -> Self {
        Self {
            archive,
            sample: Sample::ALL,
            stored: BTreeMap::new(),
            listed: BTreeSet::new(),
            expired: HashMap::new(),
            expired_records: HashSet::new(),
            redactions: HashMap::new(),
            left: HashSet::new(),
            fingerprints: BTreeMap::new(),
            report: Report::default(),
        }
    }

    fn problem(&mut self, path: &str, problem: impl Into<String>) {
        self.report.problems.push(Problem { path: path.to_owned(), problem: problem.into() });
    }

    /// Keeps what is wrong with an object; what is wrong with the store ends the verification.
    fn keep<T>(&mut self, found: Result<T, ArchiveError>) -> Result<Option<T>, ArchiveError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(ArchiveError::Damaged { path, damage }) => {
                self.problem(&path, damage.to_string());
                Ok(None)
            }
            Err(ArchiveError::NotFound { path }) => {
                self.problem(&path, "it is missing");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn partition(
        &mut self,
        log: LogId,
        partition: Partition,
        names: &Names,
        step: &mut impl FnMut(),
    ) -> Result<(), ArchiveError> {
        let compactions = self.compactions(names, step).await?;
        self.read_expired(log, partition).await?;
        let mut chain = Chain::default();
        for file in compactions.iter().flat_map(|(_, compaction)| compaction.files()) {
            chain.compacted.insert(file.path.clone(), file.clone());
        }
        let mut fulls = names.fulls().peekable();
        for path in names.hours() {
            // A full stands between the hours: what is after it goes on from there.
            while let Some(full) = fulls.next_if(|full| path::goes_on_in(name(full)) <= name(&path))
            {
                self.manifest(&full, &mut chain).await?;
                step();
            }
            self.manifest(&path, &mut chain).await?;
            step();
        }
        for full in fulls {
            self.manifest(&full, &mut chain).await?;
            step();
        }
        for path in names.on_demand() {
            self.manifest(&path, &mut chain).await?;
            step();
        }
        self.check_placed(names, &chain.placed);
        self.check_expired(log, partition, names).await?;
        self.check_erasures(log, partition, std::mem::take(&mut chain.erasures)).await?;
        for (path, compaction) in &compactions {
            self.compaction(path, compaction, &chain).await?;
        }
        let mut sealed = Offset::ZERO;
        if let Some((_, header)) = chain.previous {
            let (hour, next_offset) = (header.period, header.next_offset);
            sealed = next_offset;
            self.report.until.push(Until { log_id: log, partition, hour, next_offset });
        }
        self.segments(log, partition, sealed).await?;
        for course in chain.courses.into_values() {
            self.course(course).await?;
        }
        Ok(())
    }

    async fn manifest(&mut self, path: &str, chain: &mut Chain) -> Result<(), ArchiveError> {
        self.report.manifests += 1;
        let fetched = self.archive.fetch(path).await;
        let Some(object) = self.keep(fetched)? else { return Ok(()) };
        let reference = Reference { path: path.to_owned(), sha256: object.sha256.clone() };
        let read = ManifestReader::new(object, path);
        let Some(mut reader) = self.keep(read)? else { return Ok(()) };
        let header = reader.header.clone();
        self.check_place(path, &header);
        if header.kind == Kind::Hour && !self.goes_on(path, &header, chain) {
            chain.is_broken = true;
            for course in std::mem::take(&mut chain.courses).into_values() {
                self.course(course).await?;
            }
        }
        self.gaps(&header);
        if let Some(file) = &header.commands {
            let fetched = self.archive.fetch_checked(&file.path, &file.sha256).await;
            self.keep(fetched)?;
        }
        for file in [&header.events, &header.messages].into_iter().flatten() {
            self.hour_table(file, &header, chain).await?;
        }
        if header.kind == Kind::Full {
            chain.is_broken = false;
        }
        let shared: Arc<str> = path.into();
        loop {
            let next = reader.next_scope();
            let Some(Some(line)) = self.keep(next)? else { break };
            self.check_line(path, &header, &line, chain);
            self.scope(&shared, &reference, &header, line, chain).await?;
        }
        self.check_lines_seen(path, &header, &mut chain.placed);
        chain.placed.push(path, &reference, &header);
        if header.kind == Kind::Hour {
            chain.hours.insert(reference.path.clone(), (reference.sha256.clone(), header.clone()));
            chain.previous = Some((reference, header));
        }
        Ok(())
    }

    /// Takes a manifest's gaps up; the full after a gap and the hour around it name the same one.
    fn gaps(&mut self, header: &Header) {
        for gap in &header.gaps {
            let (log_id, partition) = (header.log_id, header.partition);
            let lost = LostRecords { log_id, partition, gap: *gap };
            if !self.report.gaps.contains(&lost) {
                self.report.gaps.push(lost);
            }
        }
    }

    /// Whether an hour goes on from the one before it.
    fn goes_on(&mut self, path: &str, header: &Header, chain: &Chain) -> bool {
        let problems = self.report.problems.len();
        let before = chain.previous.as_ref();
        if header.previous.as_ref() != before.map(|(reference, _)| reference) {
            let problem =
                "it does not go on from the manifest before it: one is missing or changed";
            self.problem(path, problem);
        }
        let expected = before.map_or(Offset::ZERO, |(_, before)| before.next_offset);
        let gap = header.gaps.iter().find(|gap| gap.first_offset == expected);
        let expected = gap.map_or(expected, |gap| gap.next_offset);
        if header.first_offset != expected {
            let found = header.first_offset;
            self.problem(path, format!("it begins at offset {found}, not at {expected}"));
        }
        self.report.problems.len() == problems
    }

    async fn scope(
        &mut self,
        path: &Arc<str>,
        manifest: &Reference,
        header: &Header,
        line: ScopeLine,
        chain: &mut Chain,
    ) -> Result<(), ArchiveError> {
        let kind = header.kind;
        if kind == Kind::Hour && !chain.is_broken {
            self.hour_of_course(path, &line, chain).await?;
        }
        let Some(backup) = line.backup.clone() else { return Ok(()) };
        let is_new = self.listed.insert(backup.path.clone());
        if is_new {
            self.report.backups += 1;
            self.backup(header, &backup).await?;
        }
        let before = chain.heads.get(&line.scope).copied().unwrap_or_default();
        if kind == Kind::Hour && backup.cursor_first != before.next() {
            let problem =
                format!("{} goes on at cursor {}, after {before}", line.scope, backup.cursor_first);
            self.problem(path, problem);
        }
        if backup.cursor_last != line.head {
            let problem =
                format!("{} ends at {}, its head is {}", line.scope, backup.cursor_last, line.head);
            self.problem(path, problem);
        }
        match kind {
            Kind::Hour => {
                chain.heads.insert(line.scope, line.head);
            }
            Kind::Full => {
                if path::is_taken_up(name(path)) {
                    chain.heads.insert(line.scope.clone(), line.head);
                }
                chain.erasures.forget(&line.scope);
                let course = Course::of_full(path, &line, !is_new);
                if let Some(before) = chain.courses.insert(line.scope.clone(), course) {
                    self.course(before).await?;
                }
                if is_new && self.left.contains(&backup.sha256) {
                    self.what_is_left(&line, &backup.sha256).await?;
                }
            }
            Kind::OnDemand | Kind::Compaction => {
                let (hour_length, manifest) = (header.period_seconds, manifest.clone());
                let objects = vec![backup.clone()];
                self.state(&FoundBackup { line, hour_length, backup, objects, manifest }).await?;
            }
        }
        Ok(())
    }

    /// An hour of a scope. Of what came before an erasure nothing is left, nor needed.
    async fn hour_of_course(
        &mut self,
        path: &Arc<str>,
        line: &ScopeLine,
        chain: &mut Chain,
    ) -> Result<(), ArchiveError> {
        let before = chain.heads.get(&line.scope).copied().unwrap_or_default();
        if line.erased > before {
            let erased = chain.courses.remove(&line.scope);
            chain.erasures.push(path, line, erased.as_ref());
            if let Some(erased) = erased {
                self.course(erased).await?;
            }
        }
        chain.courses.entry(line.scope.clone()).or_default().push(path, line);
        Ok(())
    }

    /// Whether the listed object is there, has its size, and it is its turn to be read.
    fn is_to_be_read(&mut self, path: &str, size_bytes: u64) -> bool {
        self.report.objects += 1;
        self.listed.insert(path.to_owned());
        let Some(found) = self.stored.get(path).copied() else {
            if self.expired.contains_key(path) {
                self.report.expired += 1;
            } else {
                self.problem(path, "it is missing");
            }
            return false;
        };
        if found != size_bytes {
            self.problem(path, Damage::Size { expected: size_bytes, found }.to_string());
            return false;
        }
        let is_its_turn = self.sample.has(path);
        self.report.objects_read += u64::from(is_its_turn);
        is_its_turn
    }

    async fn backup(&mut self, of: &Header, backup: &BackupObject) -> Result<(), ArchiveError> {
        if !self.is_to_be_read(&backup.path, backup.size_bytes) {
            return Ok(());
        }
        let fetched = self.archive.fetch_checked(&backup.path, &backup.sha256).await;
        let is_missing = matches!(fetched, Err(ArchiveError::NotFound { .. }));
        if is_missing && self.has_expired_since(of, &backup.path).await? {
            self.report.objects_read -= 1;
            self.report.expired += 1;
            return Ok(());
        }
        let Some(object) = self.keep(fetched)? else { return Ok(()) };
        let checked = check_lines(object, backup);
        self.keep(checked)?;
        Ok(())
    }

    async fn state(&mut self, found: &FoundBackup) -> Result<(), ArchiveError> {
        if !self.sample.has(&found.backup.path) {
            return Ok(());
        }
        let read = read_state(self.archive, found).await;
        match read {
            Ok(()) => self.report.states_read += 1,
            Err(ArchiveError::Damaged { path, damage }) => {
                self.problem_of_state(path, damage.to_string());
            }
            Err(ArchiveError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is missing or damaged was found with the objects.
    fn problem_of_state(&mut self, path: String, problem: String) {
        if !self.report.problems.iter().any(|known| known.path == path) {
            self.report.problems.push(Problem { path, problem });
        }
    }

    fn finish(self) -> Report {
        let Self { stored, listed, mut report, .. } = self;
        report.orphans = stored.into_keys().filter(|path| !listed.contains(path)).collect();
        report
    }
}

fn name(path: &str) -> &str {
    path::name(path).unwrap_or(path)
}

/// Every line is one, in the order of cursors, and all come to what the manifest says.
fn check_lines(object: Object, backup: &BackupObject) -> Result<(), ArchiveError> {
    let mut lines = object.lines(&backup.path)?;
    let (mut count, mut live, mut last) = (0, 0, Cursor::ZERO);
    while let Some(line) = lines.next_line()? {
        let message = message_line::read(&line).map_err(|problem| lines.problem(&problem))?;
        let cursor = message.entry.cursor;
        if cursor <= last || cursor < backup.cursor_first || cursor > backup.cursor_last {
            return Err(lines.problem(&format!("has cursor {cursor}, after {last}")));
        }
        last = cursor;
        count += 1;
        live += u64::from(message.entry.is_live());
    }
    let content = lines.content_sha256();
    let problem = if content != backup.content_sha256 {
        format!("its content has sha256 {content}, its manifest says {}", backup.content_sha256)
    } else if (count, live) != (backup.lines, backup.record_count) {
        format!(
            "it has {count} lines and {live} live messages, its manifest says {} and {}",
            backup.lines, backup.record_count
        )
    } else {
        return Ok(());
    };
    Err(ArchiveError::content(&backup.path, problem))
}

async fn read_state(archive: &Archive, found: &FoundBackup) -> Result<(), ArchiveError> {
    let mut state = found.open(archive).await?;
    while state.next_message()?.is_some() {}
    Ok(())
}
