//! `fold(read(archive)) == fold(log)`. The end-to-end tests use this file too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use archive::{
    Archive, history,
    manifest::ManifestReader,
    path,
    period::{Hour, HourLength},
};
use eventlog::{EventLog, Record};
use model::{
    BackupId, LogFold, LogId, Message, MessageId, Offset, Partition, ScopeKey, Timestamp,
    log_fold::FoldedScope,
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
        let wrong = missing.or_else(|| unwanted.iter().find(|path| there.contains(*path)));
        let Some(wrong) = wrong else { return };
        assert!(Instant::now() < deadline, "{wrong} is not as it should be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every manifest says of every scope what the log folds to at its place; the newest backup of every scope, and every
/// so many-th of the others, read from the archive, holds the messages. Returns how many backups there are.
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
    let mut backups = 0;
    let mut parts: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
    for record in records {
        parts.entry(record.partition).or_default().push(record);
    }
    for (partition, records) in parts {
        let mut records = records.into_iter().peekable();
        let mut fold = LogFold::default();
        let manifests = manifests(archive, log, partition).await;
        let newest = newest(archive, &manifests).await;
        for (next, path) in manifests {
            while let Some(record) = records.next_if(|record| record.offset.get() < next) {
                let event = schemas::decode(&record.value).ok();
                let (place, time) = (record.place(), record.append_time);
                fold.apply(place, time, &record.key, event.as_ref()).unwrap();
            }
            let object = archive.fetch(&path).await.unwrap();
            let mut manifest = ManifestReader::new(object, &path).unwrap();
            while let Some(line) = manifest.next_scope().unwrap() {
                let folded = &fold.scopes[&line.scope];
                let heading = &folded.scope.heading;
                assert_eq!((line.head, line.digest), (heading.head, heading.digest), "{path}");
                assert_eq!(line.floor, heading.floor, "{path}");
                assert_eq!((line.count, line.bytes), (heading.count, heading.bytes), "{path}");
                assert_eq!(line.restore, heading.restore, "{path}");
                assert_eq!(line.members.len(), folded.scope.members.len(), "{path}");
                let Some(backup) = line.backup else { continue };
                if backups % every == 0 || newest[&line.scope] == path {
                    check_backup(archive, log, partition, &line.scope, backup.id, folded).await;
                }
                backups += 1;
            }
        }
    }
    backups
}

/// The manifests of hours and days and of backups on demand, in the order of their places on the log.
async fn manifests(archive: &Archive, log: LogId, partition: Partition) -> Vec<(u64, String)> {
    let names = history::Names::list(archive, log, partition).await.unwrap();
    let mut manifests = Vec::new();
    for path in names.hours().chain(names.fulls()).chain(names.on_demand()) {
        let object = archive.fetch(&path).await.unwrap();
        let header = ManifestReader::new(object, &path).unwrap().header;
        manifests.push((header.next_offset.get(), path));
    }
    manifests.sort();
    manifests
}

/// Of every scope, the last of the manifests that list a backup of it.
async fn newest(archive: &Archive, manifests: &[(u64, String)]) -> BTreeMap<ScopeKey, String> {
    let mut newest = BTreeMap::new();
    for (_, path) in manifests {
        let object = archive.fetch(path).await.unwrap();
        let mut manifest = ManifestReader::new(object, path).unwrap();
        while let Some(line) = manifest.next_scope().unwrap() {
            if line.backup.is_some() {
                newest.insert(line.scope, path.clone());
            }
        }
    }
    newest
}

async fn check_backup(
    archive: &Archive,
    log: LogId,
    partition: Partition,
    scope: &ScopeKey,
    id: BackupId,
    folded: &FoldedScope,
) {
    let Some(found) = history::find(archive, log, partition, scope, id).await.unwrap() else {
        // A day that ended before what is over expired has a full: what was before that is gone, and its manifest stays.
        let names = history::Names::list(archive, log, partition).await.unwrap();
        assert!(names.expired().next().is_some(), "{id} of {scope} is not found");
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
