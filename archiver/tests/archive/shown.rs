//! `fold(read(archive)) == fold(log)`. The end-to-end tests use this file too.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    time::{Duration, Instant},
};

use archive::{
    Archive, history,
    manifest::{BackupObject, Gap, Header, Kind, ManifestReader, MemberLine, ScopeLine},
    path,
    period::{Hour, HourLength},
};
use eventlog::{EventLog, Record};
use model::{
    Event, LogFold, LogId, Member, Message, MessageId, Offset, Partition, PartitionClock, Scope,
    ScopeKey, Timestamp, log_fold::FoldedScope,
};

use crate::simulated_log::SimulatedLog;

const DEADLINE: Duration = Duration::from_secs(300);

fn partitions(log: &SimulatedLog) -> impl Iterator<Item = Partition> {
    (0..log.partitions()).map(Partition::new)
}

/// Waits until all hours before the last record of each partition are sealed, and the days before it are compacted. Of
/// hours that are lost in a gap there is nothing to wait for.
pub(crate) async fn sealed(archive: &Archive, log: &SimulatedLog) {
    let mut unwanted = Vec::new();
    let length = HourLength::REAL;
    for partition in partitions(log) {
        let mut hours: Vec<(Hour, Offset)> = Vec::new();
        let mut time = Timestamp::EPOCH;
        for record in log.all().iter().filter(|record| record.partition == partition) {
            time = time.max(record.append_time);
            let hour = length.hour_of(time);
            if hours.last().is_none_or(|(last, _)| *last != hour) {
                hours.push((hour, record.offset));
            }
        }
        let Some((open, first_offset)) = hours.pop() else { continue };
        if !hours.is_empty() {
            sealed_until(archive, log, partition, first_offset).await;
        }
        for (hour, _) in hours.into_iter().filter(|(hour, _)| hour.day() < open.day()) {
            unwanted.push(path::events(length, hour, partition));
            unwanted.push(path::messages(length, hour, partition));
        }
    }
    settled(archive, &[], &unwanted).await;
}

async fn sealed_until(archive: &Archive, log: &SimulatedLog, partition: Partition, end: Offset) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        // A store that fails has nothing yet.
        let newest = history::newest_hour(archive, log.log_id(), partition).await.ok().flatten();
        let sealed = newest.map_or(Offset::ZERO, |(_, hour)| hour.next_offset);
        if sealed >= end {
            return;
        }
        assert!(Instant::now() < deadline, "{partition} is sealed up to {sealed}, not {end}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until some objects are there, and others are not.
pub(crate) async fn settled(archive: &Archive, wanted: &[String], unwanted: &[String]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut there = BTreeSet::new();
        for folder in ["events", "manifests", "messages"] {
            // A store that fails has nothing yet.
            let listed = archive.list(folder).await.unwrap_or_default();
            there.extend(listed.into_iter().map(|(path, _)| path));
        }
        let missing = wanted.iter().find(|path| !there.contains(*path));
        let wrong = missing.or_else(|| unwanted.iter().find(|path| is_stored(&there, path)));
        let Some(wrong) = wrong else { return };
        assert!(Instant::now() < deadline, "{wrong} is not as it should be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether an object is there, or one that took its place because of an erasure.
fn is_stored(there: &BTreeSet<String>, path: &str) -> bool {
    let replaced = path.replace(".parquet", "-");
    there.contains(path)
        || there.range(replaced.clone()..).next().is_some_and(|found| found.starts_with(&replaced))
}

/// Every manifest says what the log folds to at its place: a full of every scope that there is, an hour of every one that
/// had an event in it. The newest backup of every scope, and every so many-th of the others, read from the archive, holds the
/// messages. Returns how many backups there are.
pub(crate) async fn check(archive: &Archive, log: &SimulatedLog, every: usize) -> usize {
    check_records(archive, log.log_id(), log.all(), every).await
}

/// As [`check`], of any log, by all of its records, those of a partition in their order.
pub(crate) async fn check_records(
    archive: &Archive,
    log: LogId,
    records: Vec<Record>,
    every: usize,
) -> usize {
    let (mut backups, mut parts) = (0, by_partition(records));
    // Also those that the archive alone has something of.
    for name in archive.folders(&format!("manifests/{log}")).await.unwrap() {
        let number = name.strip_prefix("partition=").and_then(|number| number.parse().ok());
        number.map(|number| parts.entry(Partition::new(number)).or_default());
    }
    for (partition, records) in parts {
        let mut part = Part::open(archive, log, partition, every).await;
        part.check(records, LogFold::default()).await;
        backups += part.backups;
    }
    backups
}

/// As [`check`], of a log that goes on from a lost one, where that one's last hour ends.
#[allow(dead_code, reason = "each test binary uses a part")]
pub(crate) async fn check_recovered(
    archive: &Archive,
    lost: (LogId, Vec<Record>),
    log: &SimulatedLog,
) -> usize {
    let (mut backups, mut before, mut own) = (0, by_partition(lost.1), by_partition(log.all()));
    for partition in partitions(log) {
        let mut fold = LogFold::default();
        for (log, records) in [(lost.0, &mut before), (log.log_id(), &mut own)] {
            let mut part = Part::open(archive, log, partition, 1).await;
            fold = part.check(records.remove(&partition).unwrap_or_default(), fold).await;
            backups += part.backups;
        }
    }
    backups
}

fn by_partition(records: Vec<Record>) -> BTreeMap<Partition, Vec<Record>> {
    let mut parts: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
    for record in records {
        parts.entry(record.partition).or_default().push(record);
    }
    parts
}

struct Manifest {
    path: String,
    header: Header,
    lines: Vec<ScopeLine>,
}

/// What the archive has of a partition.
struct Part<'a> {
    archive: &'a Archive,
    log: LogId,
    partition: Partition,
    every: usize,
    /// The manifests of hours and days and of backups on demand, in the order of their places on the log.
    manifests: Vec<Manifest>,
    /// Of every scope, the last of the manifests that list a backup of it.
    newest: BTreeMap<ScopeKey, String>,
    /// The paths that records of what has expired name.
    expired: HashSet<String>,
    /// Of what hours say nothing: see [`unfolded`].
    unfolded: Vec<Range<Offset>>,
    /// Where the fold stands.
    next: Offset,
    /// The scopes that had an event in the hour that is folded.
    used: BTreeSet<ScopeKey>,
    backups: usize,
}

impl<'a> Part<'a> {
    async fn open(archive: &'a Archive, log: LogId, partition: Partition, every: usize) -> Self {
        let names = history::Names::list(archive, log, partition).await.unwrap();
        let mut manifests = Vec::new();
        for path in names.hours().chain(names.fulls()).chain(names.on_demand()) {
            manifests.push(Manifest::read(archive, path).await);
        }
        manifests.sort_by_key(|manifest| (manifest.header.next_offset, manifest.path.clone()));
        let mut newest = BTreeMap::new();
        for Manifest { path, lines, .. } in &manifests {
            let listed = lines.iter().filter(|line| line.backup.is_some());
            newest.extend(listed.map(|line| (line.scope.clone(), path.clone())));
        }
        let mut expired = HashSet::new();
        for record in names.expired() {
            expired.extend(archive::expired::paths(archive, &record).await.unwrap());
        }
        let unfolded = unfolded(&manifests);
        let (next, used, backups) = (Offset::ZERO, BTreeSet::new(), 0);
        Self {
            archive,
            log,
            partition,
            every,
            manifests,
            newest,
            expired,
            unfolded,
            next,
            used,
            backups,
        }
    }

    /// Folds the partition's records, and compares each manifest where the fold is at its place. Returns the fold as it was
    /// at the end of the last hour.
    async fn check(&mut self, records: Vec<Record>, mut fold: LogFold) -> LogFold {
        let mut records = records.into_iter().peekable();
        let is_hour = |manifest: &Manifest| manifest.header.kind == Kind::Hour;
        let last_hour = self.manifests.iter().rposition(is_hour);
        let mut sealed = fold.clone();
        for (number, manifest) in std::mem::take(&mut self.manifests).into_iter().enumerate() {
            let Manifest { path, header, lines } = manifest;
            while let Some(record) = records.next_if(|record| record.offset < header.next_offset) {
                self.fold(&mut fold, &record);
            }
            assert_eq!(self.next, header.next_offset, "{path}");
            if header.recovered_from.is_some() {
                let begins = PartitionClock { time: header.clock, rules: header.rules };
                let ended = fold.partitions.insert(self.partition, begins);
                assert!(ended.is_none_or(|ended| ended.time <= begins.time), "{path}");
            }
            self.check_scopes(&fold, &header, &lines, &path);
            for line in lines {
                let folded = &fold.scopes[&line.scope];
                check_line(&line, folded, &path);
                let Some(backup) = line.backup else { continue };
                if self.backups.is_multiple_of(self.every) || self.newest[&line.scope] == path {
                    self.check_backup(&line.scope, &backup, folded).await;
                }
                self.backups += 1;
            }
            if Some(number) == last_hour {
                sealed = fold.clone();
            }
        }
        sealed
    }

    fn fold(&mut self, fold: &mut LogFold, record: &Record) {
        let event = schemas::decode(&record.value).ok();
        let (place, time) = (record.place(), record.append_time);
        let applied = fold.apply(place, time, &record.key, event.as_ref()).unwrap();
        self.next = record.offset.next();
        let is_told = !self.unfolded.iter().any(|range| range.contains(&record.offset));
        if let (Some(Event::Command(command)), Some(_), true) = (event, applied, is_told) {
            self.used.insert(command.scope);
        }
    }

    /// That a manifest lists every scope that it is to list, once, in the order of their references.
    fn check_scopes(&mut self, fold: &LogFold, header: &Header, lines: &[ScopeLine], path: &str) {
        let exists = |scope: &&ScopeKey| {
            fold.scopes.get(scope).is_some_and(|folded| folded.scope.heading.exists)
        };
        let mut expected: Vec<ScopeKey> = match header.kind {
            Kind::Full => fold.scopes.keys().filter(exists).cloned().collect(),
            Kind::Hour => std::mem::take(&mut self.used).iter().filter(exists).cloned().collect(),
            // Whoever asked for it is told which: its line has the id.
            Kind::OnDemand => {
                let ids: Vec<_> =
                    lines.iter().map(|line| line.backup.as_ref().unwrap().id).collect();
                assert_eq!(ids.len(), 1, "{path}");
                assert_eq!(ids[0].to_string(), header.period, "{path}");
                return;
            }
            Kind::Compaction => unreachable!("{path}"),
        };
        expected.sort_by_key(ScopeKey::reference);
        let listed: Vec<_> = lines.iter().map(|line| line.scope.clone()).collect();
        assert_eq!(listed, expected, "{path}");
    }

    async fn check_backup(&self, scope: &ScopeKey, backup: &BackupObject, folded: &FoldedScope) {
        let Self { archive, log, partition, .. } = *self;
        let id = backup.id;
        let Some(found) = history::find(archive, log, partition, scope, id).await.unwrap() else {
            // A day that ended before what is over expired has a full: what was before that is gone, and its manifest stays.
            let path = &backup.path;
            assert!(self.expired.contains(path), "{path} is not found, and no record names it");
            return;
        };
        let mut state = found.open(archive).await.unwrap();
        let mut messages: BTreeMap<MessageId, Message> = BTreeMap::new();
        while let Some(message) = state.next_message().unwrap() {
            // A full that is carried on shows what has expired since.
            if !message.entry.is_live() && message.entry.cursor <= folded.scope.heading.floor {
                continue;
            }
            assert_eq!(messages.insert(message.id, message), None, "{scope}");
        }
        let expected = folded.messages.iter().map(|(id, message)| (*id, message.clone()));
        assert_eq!(messages, expected.collect(), "{scope} {}", found.backup.path);
    }
}

impl Manifest {
    async fn read(archive: &Archive, path: String) -> Self {
        let object = archive.fetch(&path).await.unwrap();
        let mut reader = ManifestReader::new(object, &path).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.next_scope().unwrap() {
            lines.push(line);
        }
        Self { path, header: reader.header, lines }
    }
}

/// What the log's retention removed before it was archived, and what lies behind that up to where the state was taken up:
/// hours say of no scope what became of these.
fn unfolded(manifests: &[Manifest]) -> Vec<Range<Offset>> {
    let taken_up = |gap: &Gap| {
        let fulls = manifests.iter().filter(|manifest| manifest.path.ends_with("-gap.jsonl.gz"));
        let places = fulls.map(|full| full.header.next_offset);
        places.filter(|place| *place >= gap.next_offset).min().unwrap()
    };
    let headers = manifests.iter().map(|manifest| &manifest.header);
    let hours = headers.filter(|header| header.kind == Kind::Hour);
    let gaps = hours.flat_map(|hour| hour.gaps.iter().map(|gap| (hour.first_offset, gap)));
    gaps.map(|(hour, gap)| hour.min(gap.first_offset)..taken_up(gap)).collect()
}

/// A line says all that the scope sums up to, and its members; its backup how many of the messages it has.
fn check_line(line: &ScopeLine, folded: &FoldedScope, path: &str) {
    let Scope { heading, members, .. } = &folded.scope;
    let what = format!("{} in {path}", line.scope);
    assert_eq!(line.heading(), *heading, "{what}");
    let member =
        |line: &MemberLine| (line.user.clone(), Member { role: line.role, since: line.since });
    let listed: Vec<_> = line.members.iter().map(member).collect();
    let members: BTreeMap<_, _> = members.clone().into_iter().collect();
    assert_eq!(listed, members.into_iter().collect::<Vec<_>>(), "{what}");
    let Some(backup) = &line.backup else { return };
    let live = folded.messages.values().filter(|message| message.entry.is_live());
    let in_it = live.filter(|message| message.entry.cursor >= backup.cursor_first).count();
    assert_eq!(backup.cursor_last, heading.head, "{what}");
    assert_eq!(backup.record_count, in_it as u64, "{what}");
}
