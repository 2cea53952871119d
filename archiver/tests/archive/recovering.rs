//! A cache that is lost while the log no longer reaches back is made again from the archive.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use archive::{
    path,
    verify::{Sample, verify},
};
use archiver::{
    ArchiverConfig, ArchiverError, Clock, NewLog, Recovering, Recovery, Retention, SegmentConfig,
    lost,
};
use bytes::Bytes;
use eventlog::{EventLog, LogAddress, LogConfig};
use model::{Action, BackupId, Event, LogId, Partition, Timestamp};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use crate::{
    bench::{Bench, open},
    commands::{command, push, say},
    expiring::midnight,
    held::{Place, killed_at, killed_at_each_change, never},
    random,
    segments::{SOON, all_uploaded, an_open_hour},
    shown,
    simulated_log::SimulatedLog,
};

const HOUR: i64 = 3_600_000_000;

/// Appends commands, an hour for each `per_hour` of them, and so many hours between.
pub(crate) fn play(bench: &Bench, log: &[random::Record], from: usize, per_hour: i64, hours: i64) {
    for (number, (time, command)) in log.iter().enumerate().skip(from) {
        let passed = number as i64 / per_hour * HOUR * hours;
        bench.log.at(time.plus_micros(passed), command);
    }
}

/// A tick in every partition that has records.
pub(crate) fn tick(bench: &Bench, time: Timestamp) {
    let value = Bytes::from(schemas::encode(&Event::Tick).unwrap());
    for partition in partitions(bench) {
        bench.log.put(time, partition, Bytes::new(), value.clone());
    }
}

/// The days after the last record come to their ends.
pub(crate) fn end(bench: &Bench) {
    let last = bench.log.all().iter().map(|record| record.append_time).max().unwrap();
    tick(bench, last.plus_micros(25 * HOUR));
    tick(bench, last.plus_micros(26 * HOUR));
}

/// Those that have records.
pub(crate) fn partitions(bench: &Bench) -> Vec<Partition> {
    let used: BTreeSet<_> = bench.log.all().iter().map(|record| record.partition).collect();
    used.into_iter().collect()
}

pub(crate) async fn archive_all(bench: &Bench, cache: &str) {
    let mut running = bench.start_with(cache, open(&bench.folder));
    running.during(bench.sealed()).await;
    running.stop().await;
}

/// An archiver that has seen the whole log writes the same bytes.
async fn check_against_undisturbed(bench: &Bench, what: &str) {
    let undisturbed = Bench::with_log_of(bench);
    archive_all(&undisturbed, "cache").await;
    assert_eq!(bench.differs_from(&undisturbed), [""; 0], "{what}");
    bench.check().await;
}

fn random_log(runner: &mut TestRunner) -> Vec<random::Record> {
    loop {
        let log = random::unerased_logs(90).new_tree(runner).unwrap().current();
        if log.len() > 30 {
            return log;
        }
    }
}

/// Whatever happened, wherever the log is cut: to the byte what an archiver with a full history writes.
#[tokio::test]
async fn a_cache_made_again_from_the_archive_goes_on_with_the_same_bytes() {
    let mut runner = TestRunner::deterministic();
    for case in 0..6 {
        let log = random_log(&mut runner);
        let (per_hour, hours) = ([2, 5, 9][case % 3], [1, 1, 7, 30][case % 4]);
        let bench = Bench::new(2);
        let half = log.len() * (case + 2) / 12;
        play(&bench, &log[..half], 0, per_hour, hours);
        archive_all(&bench, "cache").await;
        for partition in partitions(&bench) {
            bench.log.cut(partition, bench.sealed_until(partition).await);
        }
        play(&bench, &log, half, per_hour, hours);
        end(&bench);
        archive_all(&bench, "another cache").await;
        check_against_undisturbed(&bench, &format!("case {case}")).await;
    }
}

/// One scope's object is lost with the cache: an older full and the events since come to the same.
#[tokio::test]
async fn a_damaged_full_does_not_keep_a_cache_from_being_made_again() {
    let log = random_log(&mut TestRunner::deterministic());
    let bench = Bench::new(2);
    let half = log.len() * 2 / 3;
    play(&bench, &log[..half], 0, 2, 7);
    archive_all(&bench, "cache").await;
    let newest = bench.paths("tenants").into_iter().filter(|path| path.contains("/full/"));
    let newest = newest.max_by_key(|path| path.rsplit('/').next().unwrap().to_owned()).unwrap();
    std::fs::write(bench.folder.join(&newest), b"damaged").unwrap();
    for partition in partitions(&bench) {
        bench.log.cut(partition, bench.sealed_until(partition).await);
    }
    play(&bench, &log, half, 2, 7);
    end(&bench);
    archive_all(&bench, "another cache").await;
    let undisturbed = Bench::with_log_of(&bench);
    archive_all(&undisturbed, "cache").await;
    assert_eq!(bench.differs_from(&undisturbed), [newest]);
}

/// Some users push in two hours of each of some days.
fn play_days(bench: &Bench, days: Range<i64>) {
    for (day, hour) in days.flat_map(|day| [(day, 9), (day, 10)]) {
        for user in ["u0", "u1", "u2", "u3", "u4"] {
            let push = push(&format!("acme/user/{user}"), user, &[say(&format!("{day} {hour}"))]);
            bench.log.at(midnight(day).plus_micros(hour * HOUR), &push);
        }
    }
}

#[tokio::test]
async fn an_archiver_killed_while_it_makes_its_cache_again_ends_with_the_same_bytes() {
    let bench = Bench::new(2);
    play_days(&bench, 0..2);
    archive_all(&bench, "cache").await;
    for partition in partitions(&bench) {
        bench.log.cut(partition, bench.sealed_until(partition).await);
    }
    play_days(&bench, 2..3);
    end(&bench);
    // Wherever it reads what goes into the cache.
    for (cache, folder) in [("second", "manifests"), ("third", "tenants"), ("fourth", "events")] {
        let mut reads = 0;
        loop {
            let place = Place::Read(reads + 1);
            let held = killed_at(&bench, cache, (place, folder), never()).await;
            if held != Some(place) {
                assert_eq!(held, Some(Place::BeforeChange), "it goes on with its cache");
                break;
            }
            reads += 1;
        }
        assert!(reads > 2, "{reads} reads in {folder}");
    }
    // And whenever it writes what comes next.
    let is_sealed = async || {
        for partition in partitions(&bench) {
            let end = end_of_commands(&bench, partition);
            let sealed = async || bench.sealed_until(partition).await >= end;
            bench.eventually("all hours", sealed).await;
        }
    };
    let changes = killed_at_each_change(&bench, "another cache", is_sealed).await;
    assert!(changes.len() > 10, "{changes:?}");
    archive_all(&bench, "another cache").await;
    check_against_undisturbed(&bench, "").await;
}

/// After the last record that is no tick.
pub(crate) fn end_of_commands(bench: &Bench, partition: Partition) -> u64 {
    let records = bench.log.all();
    let is_own = |r: &&eventlog::Record| r.partition == partition && !r.key.is_empty();
    records.iter().rfind(is_own).unwrap().offset.next().get()
}

/// The open hour's head is gone from the log: its segments have it, with the cache and without.
#[tokio::test]
async fn what_retention_removed_is_read_out_of_the_segments() {
    let log = random_log(&mut TestRunner::deterministic());
    for cache in ["cache", "another cache"] {
        let soon = SegmentConfig { archive_segment_seconds: 1, archive_segment_bytes: 3_000 };
        let mut bench = Bench { segments: soon, ..Bench::new(2) };
        // In the middle of an hour.
        let half = log.len() / 20 * 20 - 10;
        play(&bench, &log[..half], 0, 20, 1);
        let running = bench.start();
        bench.sealed().await;
        for partition in partitions(&bench) {
            let end = end_of_commands(&bench, partition);
            bench
                .eventually("all is in segments", async || {
                    let verified = crate::segments::report(&bench).await;
                    let raw = verified.raw.iter().find(|raw| raw.partition == partition);
                    raw.is_some_and(|raw| raw.next_offset.get() >= end)
                })
                .await;
        }
        running.stop().await;
        assert_eq!(crate::segments::report(&bench).await.problems, []);
        bench.segments.archive_segment_seconds = 0;
        for partition in partitions(&bench) {
            let end = end_of_commands(&bench, partition);
            assert!(bench.sealed_until(partition).await < end);
            bench.log.cut(partition, end);
        }
        play(&bench, &log, half, 20, 1);
        end(&bench);
        archive_all(&bench, cache).await;
        check_against_undisturbed(&bench, cache).await;
    }
}

/// Without a database nothing can be done about a hole, and nothing is skipped.
#[tokio::test]
async fn a_hole_ends_an_archiver_that_has_no_read_model() {
    let log = random_log(&mut TestRunner::deterministic());
    let bench = Bench::new(2);
    let half = log.len() / 2;
    play(&bench, &log[..half], 0, 5, 1);
    archive_all(&bench, "cache").await;
    play(&bench, &log, half, 5, 1);
    let partition = partitions(&bench)[0];
    let start = bench.log.bounds(partition).await.unwrap().end.get() - 1;
    bench.log.cut(partition, start);
    let before = bench.objects();
    for cache in ["cache", "another cache"] {
        let error = bench.start_with(cache, open(&bench.folder)).error().await;
        let ArchiverError::Gap { partition: found, needed, start: begins } = &error else {
            panic!("{error}");
        };
        let sealed = bench.sealed_until(partition).await;
        assert_eq!((*found, needed.get(), begins.get()), (partition, sealed, start), "{error}");
        assert_eq!(bench.objects(), before);
    }
}

/// Recovers the log that the bench's archive has.
pub(crate) async fn recovery(bench: &Bench) -> Recovery {
    Recovery {
        config: ArchiverConfig {
            archive_hour_seconds: archive::period::HourLength::REAL,
            archive_cache: Some(bench.dir.path().join("recovery")),
            segments: SegmentConfig::default(),
            archive_drill_hours: 0,
            retention: Retention::default(),
        },
        archive: bench.archive.clone(),
        lost: lost(&bench.archive, None).await.unwrap(),
        clock: Clock::system(),
        quiet: std::time::Duration::ZERO,
    }
}

/// Recovers the log that the bench's archive has into another one.
pub(crate) async fn recover(bench: &Bench, into: Arc<dyn EventLog>, facts: Arc<dyn EventLog>) {
    let recovery = recovery(bench).await;
    let judged = recovery.judge(NewLog::There(into.as_ref())).await.unwrap();
    let (say, mut said) = tokio::sync::mpsc::channel(100);
    judged.run(into, facts, say, Default::default()).await;
    let mut last = None;
    while let Some(line) = said.recv().await {
        last = Some(line);
    }
    assert!(matches!(last, Some(Recovering::Done(_))), "{last:?}");
}

/// Every scope of the lost log is in what the new one begins with, as it stood where the archive ends; and so it goes on.
#[tokio::test]
async fn a_recovered_log_begins_with_all_that_the_lost_one_came_to() {
    let (mut runner, mut backups) = (TestRunner::deterministic(), 0);
    for case in 0..4 {
        let log = random_log(&mut runner);
        let bench = Bench::new(2);
        let (half, per_hour) = (log.len() * (case + 2) / 6, [3, 7][case % 2]);
        play(&bench, &log[..half], 0, per_hour, 1);
        archive_all(&bench, "cache").await;
        let lost = (bench.log.log_id(), bench.log.all());
        let new = SimulatedLog::with_id(LogId(uuid::Uuid::from_u128(8)), 2);
        recover(&bench, new.clone(), bench.facts.clone()).await;
        let bench = Bench { log: new, ..bench };
        play(&bench, &log, half, per_hour, 1);
        end(&bench);
        archive_all(&bench, "another cache").await;
        backups += shown::check_recovered(&bench.archive, lost, &bench.log).await;
        assert_eq!(crate::segments::report(&bench).await.problems, []);
    }
    assert!(backups > 20, "{backups} backups");
}

/// Lost before its first hour was sealed, a log has said nowhere how many partitions it had: but no fewer than have something.
#[tokio::test]
async fn a_recovery_into_fewer_partitions_is_refused_and_removes_nothing() {
    let bench = Bench::new(2);
    let log = LogId(uuid::Uuid::new_v4());
    let segment = bench.folder.join(format!("segments/{log}/partition=7/0.avro"));
    std::fs::create_dir_all(segment.parent().unwrap()).unwrap();
    std::fs::write(&segment, b"raw").unwrap();
    let before = bench.objects();
    let lost = lost(&bench.archive, None).await.unwrap();
    assert_eq!((lost.log, lost.partitions, lost.last), (log, None, Some(Partition::new(7))));
    let recovery = recovery(&bench).await;
    let Err(error) = recovery.judge(NewLog::There(bench.log.as_ref())).await else {
        panic!("not refused")
    };
    let error = error.to_string();
    assert!(error.contains("has 2 partitions, and there is something of partition 7"), "{error}");
    assert_eq!(bench.objects(), before);
}

/// The request of a backup on demand, and what came before it, were never uploaded raw: the hour is cut before them.
#[tokio::test]
async fn a_backup_on_demand_behind_the_last_segment_stands_in_a_cut_hour() {
    let bench = Bench { segments: SOON, ..Bench::new(1) };
    an_open_hour(&bench, 0, 20);
    let running = bench.start();
    all_uploaded(&bench).await;
    running.stop().await;
    let bench = Bench { segments: SegmentConfig { archive_segment_seconds: 0, ..SOON }, ..bench };
    an_open_hour(&bench, 20, 5);
    let backup = BackupId(uuid::Uuid::from_u128(9));
    let now = bench.log.all().iter().map(|record| record.append_time).max().unwrap();
    bench.log.at(now, &command("acme/user/u1", "u1", Action::BackupRequested { backup }));
    let running = bench.start();
    let manifest = path::on_demand_manifest(bench.log.log_id(), Partition::new(0), backup);
    bench.written(&manifest).await;
    running.stop().await;

    let (dir, config) = (tempfile::tempdir().unwrap(), LogConfig::new(LogAddress::Embedded));
    let config = LogConfig { log_partitions: Some(1), ..config };
    let new = eventlog::open(&config, &dir.path().join("log")).await.unwrap();
    let facts = eventlog::open_backups(&config, &dir.path().join("facts")).await.unwrap();
    recover(&bench, new, facts).await;
    let report = verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
}
