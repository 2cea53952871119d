//! Days that are over become one file a table, whatever happens on the way.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use archive::{
    object::Sha256Hex,
    verify::{Sample, verify},
};
use eventlog::{EventLog, Record};
use model::CommandId;

use crate::{
    archiving::{a_day, at, tick},
    bench::Bench,
    commands::{push, say},
    verbatim::check_events,
};

const DAY: &str = "date=2025-12-30/hour=all/";

/// A log with a day that is over, in both partitions.
fn a_log() -> Bench {
    let bench = Bench::new(2);
    for number in 0..4 {
        let mut command = push(&format!("acme/user/u{number}"), &format!("u{number}"), &[say("x")]);
        // The same in every log.
        command.id = CommandId(uuid::Uuid::from_u128(number));
        bench.log.at(at("2025-12-30T09:00:00Z"), &command);
    }
    a_day(&bench);
    bench
}

/// An archive whose day is over, and compacted.
async fn compacted() -> Bench {
    let bench = a_log();
    run(&bench).await;
    bench
}

/// An archive of the same hours as of [`compacted`], whose day is not over yet.
async fn not_over() -> Bench {
    let whole = a_log().log.all();
    let part = Bench::new(2);
    let end = at("2025-12-30T23:00:00Z");
    for record in whole.into_iter().filter(|record| record.append_time < end) {
        let Record { partition, append_time, key, value, .. } = record;
        part.log.put(append_time, partition, key, value);
    }
    tick(&part, end);
    run(&part).await;
    part
}

async fn run(bench: &Bench) {
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
}

fn tables(objects: &BTreeMap<String, Sha256Hex>) -> Vec<&str> {
    let is_table = |path: &&String| path.ends_with(".parquet");
    objects.keys().filter(is_table).map(String::as_str).collect()
}

async fn problems(bench: &Bench) -> Vec<(String, String)> {
    let report = verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap();
    report.problems.into_iter().map(|problem| (problem.path, problem.problem)).collect()
}

#[tokio::test]
async fn a_day_that_is_over_is_one_file_a_table() {
    let bench = compacted().await;
    let objects = bench.objects();
    assert_eq!(
        tables(&objects),
        [
            "events/date=2025-12-30/hour=all/partition=0.parquet",
            "events/date=2025-12-30/hour=all/partition=1.parquet",
            "events/date=2025-12-31/hour=00/partition=0.parquet",
            "events/date=2025-12-31/hour=00/partition=1.parquet",
            "messages/date=2025-12-30/hour=all/partition=0.parquet",
            "messages/date=2025-12-30/hour=all/partition=1.parquet",
        ]
    );
    check_events(&bench).await;
    assert_eq!(problems(&bench).await, []);
}

#[tokio::test]
async fn a_day_that_is_not_over_keeps_its_hours() {
    let bench = not_over().await;
    let objects = bench.objects();
    assert!(tables(&objects).iter().all(|path| !path.contains("hour=all")), "{objects:?}");
    check_events(&bench).await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// What an archiver leaves that was killed after so many steps of compacting.
fn killed_after(steps: usize, hourly: &Bench, whole: &Bench) -> Option<Bench> {
    let bench = a_log();
    let (before, after) = (hourly.objects(), whole.objects());
    for path in before.keys() {
        copy(&hourly.folder.join(path), &bench.folder.join(path));
    }
    // In the order in which they are written: a manifest after what it lists.
    let mut written: Vec<&String> = after.keys().filter(|path| is_of_compaction(path)).collect();
    written.sort_by_key(|path| path.starts_with("manifests/"));
    let deleted: Vec<&String> = before.keys().filter(|path| path.ends_with(".parquet")).collect();
    if steps > written.len() + deleted.len() {
        return None;
    }
    for path in written.iter().take(steps) {
        copy(&whole.folder.join(path), &bench.folder.join(path));
    }
    for path in deleted.iter().take(steps.saturating_sub(written.len())) {
        fs::remove_file(bench.folder.join(path)).unwrap();
    }
    Some(bench)
}

fn is_of_compaction(path: &str) -> bool {
    path.contains(DAY) || path.contains("/compaction/")
}

/// Killed before any step, between any two of them, or after the last: the next archiver ends with the same bytes.
/// The first of these is an archive of a time before compaction.
#[tokio::test]
async fn an_archiver_killed_between_any_two_steps_goes_on() {
    let (hourly, whole) = (not_over().await, compacted().await);
    let mut states = 0;
    while let Some(bench) = killed_after(states, &hourly, &whole) {
        check_events_where_they_are(&bench).await;
        run(&bench).await;
        assert_eq!(bench.objects(), whole.objects(), "killed after {states} steps");
        states += 1;
    }
    assert!(states > 12, "{states} states");
}

/// At every moment of the swap, the records of the hours that are sealed can be read.
async fn check_events_where_they_are(bench: &Bench) {
    check_events(bench).await;
    assert_eq!(problems(bench).await, []);
}

/// An archiver that was slow to seal an hour may upload its file anew, after the day was compacted.
#[tokio::test]
async fn a_file_of_an_hour_that_comes_back_is_deleted_again() {
    let (hourly, bench) = (not_over().await, compacted().await);
    let before = bench.objects();
    let path = "events/date=2025-12-30/hour=09/partition=0.parquet";
    copy(&hourly.folder.join(path), &bench.folder.join(path));
    assert_eq!(problems(&bench).await, []);
    let running = bench.start();
    bench.settled(Vec::new(), vec![path.to_owned()]).await;
    running.stop().await;
    assert_eq!(bench.objects(), before);
}

/// Days come one after another; each is compacted as it ends, and none twice.
#[tokio::test]
async fn a_day_after_a_day_is_compacted() {
    let bench = compacted().await;
    let before = bench.objects();
    bench.log.at(at("2025-12-31T02:00:00Z"), &push("acme/user/ann", "ann", &[say("later")]));
    tick(&bench, at("2026-01-01T00:00:00Z"));
    let running = bench.start();
    bench.sealed().await;
    bench.log.at(at("2026-01-01T02:00:00Z"), &push("acme/user/ann", "ann", &[say("the next")]));
    tick(&bench, at("2026-01-02T00:00:00Z"));
    bench.sealed().await;
    running.stop().await;
    let objects = bench.objects();
    for path in before.keys().filter(|path| is_of_compaction(path)) {
        assert_eq!(objects.get(path), before.get(path));
    }
    assert!(tables(&objects).iter().all(|path| path.contains("hour=all")), "{objects:?}");
    check_events(&bench).await;
    assert_eq!(problems(&bench).await, []);
}

/// A file of an hour that is damaged keeps its day from being compacted, and nothing else.
#[tokio::test]
async fn a_day_that_cannot_be_compacted_stops_nothing() {
    let (hourly, whole) = (not_over().await, compacted().await);
    let bench = killed_after(0, &hourly, &whole).unwrap();
    let damaged = "events/date=2025-12-30/hour=09/partition=0.parquet";
    let path = bench.folder.join(damaged);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let running = bench.start();
    let other = "events/date=2025-12-30/hour=all/partition=1.parquet";
    let later = "events/date=2025-12-31/hour=00/partition=0.parquet";
    bench.settled(vec![other.to_owned(), later.to_owned()], Vec::new()).await;
    running.stop().await;
    assert!(!bench.folder.join(DAY_OF_0).exists());
    assert!(problems(&bench).await.iter().any(|(path, _)| path == damaged));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

const DAY_OF_0: &str = "events/date=2025-12-30/hour=all/partition=0.parquet";
const DAY_OF_1: &str = "events/date=2025-12-30/hour=all/partition=1.parquet";

/// The problems once an object is damaged somehow.
async fn problems_of(path: &str, damage: impl FnOnce(PathBuf)) -> Vec<(String, String)> {
    let bench = compacted().await;
    damage(bench.folder.join(path));
    problems(&bench).await
}

#[tokio::test]
async fn what_is_wrong_with_a_compacted_day_is_named() {
    let gone = |path: PathBuf| fs::remove_file(path).unwrap();
    let found = problems_of(DAY_OF_0, gone).await;
    assert_eq!(found, [(DAY_OF_0.to_owned(), "it is missing".to_owned())]);
    let found = problems_of(DAY_OF_0, |path| {
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 1;
        fs::write(&path, bytes).unwrap();
    })
    .await;
    assert!(found.len() == 1 && found[0].0 == DAY_OF_0, "{found:?}");
    // Without the manifest that says where they are, the hours' rows are missing.
    let log = Bench::new(1).log.log_id();
    let manifest = format!("manifests/{log}/partition=0/compaction/2025-12-30.jsonl.gz");
    let found = problems_of(&manifest, gone).await;
    let missing = |(path, problem): &(String, String)| {
        path.contains("date=2025-12-30/hour=09/partition=0") && problem == "it is missing"
    };
    assert!(!found.is_empty() && found.iter().all(missing), "{found:?}");
}

/// A day's file that lacks a row of an hour is found, though its own hash is right.
#[tokio::test]
async fn a_day_without_all_rows_of_its_hours_is_found() {
    use archive::{
        compaction::Compaction,
        object::Object,
        table::{Merger, Table},
    };
    let (hourly, bench) = (not_over().await, compacted().await);
    let log = bench.log.log_id();
    let path = format!("manifests/{log}/partition=1/compaction/2025-12-30.jsonl.gz");
    let object = bench.archive.fetch(&path).await.unwrap();
    let mut compaction = Compaction::read(object, &path).unwrap();
    let mut merger = Merger::new(bench.archive.scratch(), Table::Events);
    for hour in &compaction.hours[1..] {
        let path = &hour.events.as_ref().unwrap().path;
        merger.push(hourly.archive.fetch(path).await.unwrap(), path).unwrap();
    }
    let (mut object, rows) = merger.finish().unwrap().unwrap();
    let file = compaction.header.events.as_mut().unwrap();
    (file.sha256, file.size_bytes) = (object.sha256.clone(), object.size_bytes);
    let expected = file.rows;
    assert!(rows < expected);
    let replace = |path: &str, object: &mut Object| {
        fs::write(bench.folder.join(path), object.bytes().unwrap()).unwrap();
    };
    replace(DAY_OF_1, &mut object);
    replace(&path, &mut compaction.write(bench.archive.scratch()).unwrap());
    let found = problems(&bench).await;
    assert!(found.len() == 1 && found[0].0 == DAY_OF_1, "{found:?}");
    assert!(found[0].1.contains("its manifest says"), "{found:?}");
}
