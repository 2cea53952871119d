//! What comes back after an erasure goes again, and nothing goes that is not of it: other archivers and other logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use archive::{
    compaction::{self, Compaction},
    erasure::{self, Erasure},
    manifest::TableFile,
    object::Sha256Hex,
    path,
    period::{Hour, HourLength},
    redaction::{self, Redaction},
};
use archiver::Recovering;
use eventlog::EventLog;
use model::{CommandId, Cursor, ErasedFrom, LogId, Offset, Timestamp};
use uuid::Uuid;

use crate::{
    archiving::{at, tick},
    bench::Bench,
    commands::push,
    erasing::{
        ANN, P, a_story, an_erasure, done, is_well, mark, secret, secrets, tellers, until_erased,
    },
    other_logs::recover,
    recovering::archive_all,
    simulated_log::SimulatedLog,
    verifying::files,
};

const LENGTH: HourLength = HourLength::REAL;

fn first_hour() -> Hour {
    LENGTH.hour_of(at("2025-12-30T10:00:00Z"))
}

/// The first day, which was put together before anything was erased.
async fn first_day(bench: &Bench) -> Compaction {
    let day = first_hour().day();
    let path = path::compaction_manifest(bench.log.log_id(), P, LENGTH, day);
    compaction::find(&bench.archive, &path).await.unwrap().unwrap()
}

fn tables(day: &Compaction) -> Vec<TableFile> {
    day.header.events.iter().chain(&day.header.messages).cloned().collect()
}

/// An archiver that has not come to delete an hour's file looks at its day.
fn leave_an_hour(bench: &Bench) {
    let file = bench.folder.join(path::events(LENGTH, first_hour(), P));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "x").unwrap();
}

async fn until_the_hour_is_gone(bench: &Bench) {
    let left = path::events(LENGTH, first_hour(), P);
    let mut running = bench.start();
    let gone = bench.eventually("the hour goes", async || !bench.folder.join(&left).exists());
    running.during(gone).await;
    running.stop().await;
}

fn write(bench: &Bench, tables: &[TableFile], before: &BTreeMap<String, Vec<u8>>) {
    for TableFile { path, .. } in tables {
        fs::write(bench.folder.join(path), &before[path]).unwrap();
    }
}

/// A day's tables with the secrets, and the same story in which they were erased from them.
async fn an_erased_day() -> (Bench, u64, BTreeMap<String, Vec<u8>>) {
    let bench = Bench::new(1);
    secrets(&bench);
    archive_all(&bench, "cache").await;
    let before = files(&bench);
    let offset = an_erasure(&bench);
    until_erased(&bench, offset).await;
    assert_eq!(tellers(&bench.archive).await, BTreeSet::new());
    (bench, offset, before)
}

/// Another archiver was slow to put the day together, and has written it once more, with all that was in it.
#[tokio::test]
async fn a_day_that_is_written_once_more_goes_again() {
    let (bench, _, before) = an_erased_day().await;
    write(&bench, &tables(&first_day(&bench).await), &before);
    assert_ne!(tellers(&bench.archive).await, BTreeSet::new());
    leave_an_hour(&bench);
    until_the_hour_is_gone(&bench).await;
    assert_eq!(tellers(&bench.archive).await, BTreeSet::new());
    is_well(&bench.archive).await;
}

/// Another archiver has read the hours before they were rewritten, and committed the day when the erasure counted as done.
#[tokio::test]
async fn a_day_that_was_put_together_of_what_was_erased_is_erased_again() {
    let (bench, offset, before) = an_erased_day().await;
    let day = first_day(&bench).await;
    for table in tables(&day) {
        let record = bench.folder.join(path::redaction(&table.sha256));
        let redaction: serde_json::Value =
            serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        fs::remove_file(bench.folder.join(redaction["new"]["path"].as_str().unwrap())).unwrap();
        fs::remove_file(record).unwrap();
    }
    write(&bench, &tables(&day), &before);
    let request = erasure::list(&bench.archive, bench.log.log_id(), P).await.unwrap().remove(0);
    let Erasure { erasure_id, scope, .. } = request.erasure;
    // First for another one's erasure, then for this one.
    let mut hour = day.files().next().unwrap().clone();
    for (id, content) in [(CommandId(Uuid::from_u128(5)), "one"), (erasure_id, "two")] {
        let (path, sha256) = (redaction::path_of(&hour), Sha256Hex::of_bytes(content.as_bytes()));
        let rewritten = TableFile { path, sha256, ..hour.clone() };
        let redaction = Redaction::new(id, scope.clone(), hour, rewritten.clone());
        redaction.keep(&bench.archive).await.unwrap();
        hour = rewritten;
    }
    assert_ne!(tellers(&bench.archive).await, BTreeSet::new());
    leave_an_hour(&bench);
    until_the_hour_is_gone(&bench).await;
    until_erased(&bench, offset).await;
    assert_eq!(tellers(&bench.archive).await, BTreeSet::new());
}

/// An archiver was stopped when it had written a day's tables and not its manifest; then what is in them was erased from the
/// hours.
#[tokio::test]
async fn a_day_that_was_not_committed_is_written_anew() {
    let (bench, _, before) = an_erased_day().await;
    for table in ["events", "messages"] {
        let [other, own] = ["2025-12-30", "2026-01-01"]
            .map(|day| format!("{table}/date={day}/hour=all/partition=0.parquet"));
        let file = bench.folder.join(own);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, &before[&other]).unwrap();
    }
    assert_ne!(tellers(&bench.archive).await, BTreeSet::new());
    tick(&bench, at("2026-01-02T00:00:00Z"));
    tick(&bench, at("2026-01-02T01:00:00Z"));
    let day = LENGTH.hour_of(at("2026-01-01T10:00:00Z")).day();
    let mut running = bench.start();
    let compacted = path::compaction_manifest(bench.log.log_id(), P, LENGTH, day);
    running.during(bench.written(&compacted)).await;
    running.during(bench.sealed()).await;
    running.stop().await;
    assert_eq!(tellers(&bench.archive).await, BTreeSet::new());
    is_well(&bench.archive).await;
}

/// An erasure that was not done when its log was lost: what its user has pushed since, on the log that goes on, stays. And one
/// whose hour is not sealed is not begun: it would count as done before the hour's tables are there.
#[tokio::test]
async fn an_erasure_reaches_no_log_that_goes_on_and_no_hour_that_is_open() {
    let bench = Bench::new(1);
    let offset = a_story(&bench);
    until_erased(&bench, offset).await;
    let log = SimulatedLog::with_id(LogId(Uuid::from_u128(8)), 1);
    let into: Arc<dyn EventLog> = log.clone();
    recover(&bench, &into, |line| matches!(line, Recovering::Done(_))).await;
    for (number, time) in [(20, "2099-12-30T10:00:00Z"), (21, "2099-12-30T11:00:00Z")] {
        log.at(at(time), &push(ANN, "ann", &[secret(number)]));
    }
    let folder = path::manifests(log.log_id(), P);
    let mut running = bench.start_on(log.clone(), "another cache", bench.archive.clone());
    running.during(bench.written(&format!("{folder}/hour/2099-12-30-10.jsonl.gz"))).await;
    running.stop().await;
    let pushed = tellers(&bench.archive).await;
    assert_eq!(pushed.iter().filter(|path| path.contains("2099-12-30")).count(), 3, "{pushed:?}");

    for from in [ErasedFrom::Backups, ErasedFrom::Tables] {
        fs::remove_file(bench.folder.join(mark(&bench, offset, from))).unwrap();
    }
    let place = (log.log_id(), P, Offset::new(1_000).unwrap());
    let (id, scope) = (CommandId(Uuid::from_u128(77)), ANN.parse().unwrap());
    let open = Erasure::new(place, id, scope, Cursor::MAX, Timestamp::EPOCH);
    open.keep(&bench.archive).await.unwrap();
    // The newest log's come first.
    let mut running = bench.start_on(log.clone(), "another cache", bench.archive.clone());
    running.during(done(&bench, offset)).await;
    running.stop().await;
    assert_eq!(tellers(&bench.archive).await, pushed);
    let states = erasure::list(&bench.archive, log.log_id(), P).await.unwrap();
    assert!(states.iter().all(|state| state.done.is_empty()), "{states:?}");
}
