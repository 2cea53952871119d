//! The recovery point: what the log has is in the archive within a minute, whatever becomes of sealing.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use archive::{
    ArchiveError, path,
    segment::{self, SegmentReader, SegmentWriter},
    verify::{Report, Sample, verify},
};
use archiver::{ArchiverError, SegmentConfig};
use bytes::Bytes;
use eventlog::{EventLog, Record};
use model::{Epoch, Event, LogId, Offset, Partition, Timestamp};
use object_store::{ObjectStoreExt, memory::InMemory};
use uuid::Uuid;

use crate::{
    archiving::a_day,
    bench::{Bench, open},
    commands::{push, say},
    held::{Place, killed_at, never},
    reading::proves,
    unreliable::{Cause, Fails, Operation, Unreliable, archive},
};

pub(crate) const SOON: SegmentConfig =
    SegmentConfig { archive_segment_seconds: 1, archive_segment_bytes: 16 << 20 };

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

fn with_segments(partitions: usize) -> Bench {
    Bench { segments: SOON, ..Bench::new(partitions) }
}

/// Some pushes in one hour that stays open.
pub(crate) fn an_open_hour(bench: &Bench, from: i64, count: i64) {
    for n in from..from + count {
        let time = at("2025-12-30T10:00:00Z").plus_micros(n * 1_000_000);
        let user = format!("u{}", n % 7);
        let command = push(&format!("acme/user/{user}"), &user, &[say(&format!("message {n}"))]);
        bench.log.at(time, &command);
    }
}

pub(crate) fn tick(bench: &Bench, partition: Partition, time: &str) {
    let value = Bytes::from(schemas::encode(&Event::Tick).unwrap());
    bench.log.put(at(time), partition, Bytes::new(), value);
}

fn partitions(bench: &Bench) -> impl Iterator<Item = Partition> {
    (0..bench.log.partitions()).map(Partition::new)
}

fn logged(bench: &Bench, partition: Partition) -> Vec<Record> {
    bench.log.all().into_iter().filter(|record| record.partition == partition).collect()
}

/// The records of a partition's segments, each of which begins where the one before it ended.
async fn uploaded(bench: &Bench, partition: Partition) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let log = bench.log.log_id();
    for name in segment::list(&bench.archive, log, partition).await.unwrap() {
        let object = match bench.archive.fetch(&name.path).await {
            // Its hour was sealed since it was listed.
            Err(ArchiveError::NotFound { .. }) => continue,
            fetched => fetched.unwrap(),
        };
        let mut segment = SegmentReader::new(object, &name.path).unwrap();
        let end = records.last().map(|last| last.offset.next());
        assert_eq!(end.unwrap_or(segment.first_offset), segment.first_offset, "{}", name.path);
        while let Some(record) = segment.next_record().unwrap() {
            records.push(record);
        }
    }
    records
}

pub(crate) async fn all_uploaded(bench: &Bench) {
    for partition in partitions(bench) {
        let expected = logged(bench, partition);
        bench
            .eventually("all is in segments", async || {
                uploaded(bench, partition).await.len() >= expected.len()
            })
            .await;
        assert_eq!(uploaded(bench, partition).await, expected);
    }
}

pub(crate) async fn report(bench: &Bench) -> Report {
    verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap()
}

/// Log and database lost together: the archive has what is older than the interval.
#[tokio::test]
async fn raw_records_are_in_the_archive_before_their_hour_is_sealed() {
    let bench = with_segments(2);
    an_open_hour(&bench, 0, 40);
    let running = bench.start();
    all_uploaded(&bench).await;
    running.stop().await;
    proves(&bench);
    let report = report(&bench).await;
    assert_eq!((report.problems, report.until, report.leftovers), (vec![], vec![], vec![]));
    let raw: Vec<_> = report.raw.iter().map(|raw| (raw.partition, raw.next_offset)).collect();
    // Not the log's ends: the archiver may have appended a tick since.
    let mut ends = Vec::new();
    for partition in partitions(&bench) {
        let last = uploaded(&bench, partition).await.pop().unwrap();
        ends.push((partition, last.offset.next()));
    }
    assert_eq!(raw, ends);
    assert_eq!(
        report.raw.iter().map(|raw| raw.append_time).max(),
        Some(at("2025-12-30T10:00:39Z"))
    );
}

#[tokio::test]
async fn the_sealed_hour_replaces_its_segments() {
    let bench = with_segments(2);
    an_open_hour(&bench, 0, 40);
    let running = bench.start();
    all_uploaded(&bench).await;
    partitions(&bench).for_each(|partition| tick(&bench, partition, "2025-12-30T11:00:00Z"));
    bench.sealed().await;
    for partition in partitions(&bench) {
        bench
            .eventually("segments are deleted", async || {
                let log = bench.log.log_id();
                segment::list(&bench.archive, log, partition).await.unwrap().is_empty()
            })
            .await;
    }
    running.stop().await;
    assert_eq!(report(&bench).await.problems, []);
    bench.check().await;
}

/// A partition where only time passes.
#[tokio::test]
async fn ticks_alone_make_no_segment() {
    let bench = with_segments(2);
    let idle = Partition::new(1);
    tick(&bench, idle, "2025-12-30T10:00:00Z");
    let busy = Partition::new(0);
    bench.log.put(at("2025-12-30T10:00:00Z"), busy, Bytes::from("k"), Bytes::from("v"));
    let running = bench.start();
    bench.eventually("a segment", async || !uploaded(&bench, busy).await.is_empty()).await;
    assert_eq!(uploaded(&bench, idle).await, []);
    // With the next record that is none, they come along.
    bench.log.put(at("2025-12-30T10:00:01Z"), idle, Bytes::from("k"), Bytes::from("v"));
    all_uploaded(&bench).await;
    running.stop().await;
}

#[tokio::test]
async fn an_archiver_killed_anywhere_leaves_segments_that_are_the_log() {
    let bench =
        Bench { segments: SegmentConfig { archive_segment_bytes: 2_000, ..SOON }, ..Bench::new(2) };
    let (mut parts, mut last) = (0.., 0);
    for place in [Place::BeforeChange, Place::AfterChange].into_iter().cycle().take(30) {
        an_open_hour(&bench, parts.next().unwrap() * 20, 20);
        let held = killed_at(&bench, "cache", (place, "segments"), never()).await;
        assert_eq!(held, Some(place));
        let mut records = 0;
        for partition in partitions(&bench) {
            records += uploaded(&bench, partition).await.len();
        }
        // Each time some more, and never all.
        assert_eq!(records > last, place == Place::AfterChange, "{records} after {last}");
        assert!(records < bench.log.all().len(), "{records} are all");
        last = records;
    }
    let running = bench.start();
    all_uploaded(&bench).await;
    running.stop().await;
    assert_eq!(report(&bench).await.problems, []);
}

/// Each cuts by a clock and a size of its own.
#[tokio::test]
async fn two_archivers_take_each_others_segments() {
    let mut bench =
        Bench { segments: SegmentConfig { archive_segment_bytes: 2_000, ..SOON }, ..Bench::new(2) };
    an_open_hour(&bench, 0, 100);
    let one = bench.start();
    bench.segments.archive_segment_bytes = 3_100;
    let other = bench.start_with("other", open(&bench.folder));
    for n in 1..10 {
        an_open_hour(&bench, n * 100, 100);
        tokio::task::yield_now().await;
    }
    all_uploaded(&bench).await;
    one.stop().await;
    other.stop().await;
    assert_eq!(report(&bench).await.problems, []);
    proves(&bench);
}

#[tokio::test]
async fn a_segment_that_is_not_the_logs_is_left_alone_and_stops_only_its_partition() {
    let bench = with_segments(2);
    let (wrong, right) = (Partition::new(0), Partition::new(1));
    for partition in [wrong, right] {
        bench.log.put(at("2025-12-30T10:00:00Z"), partition, Bytes::from("k"), Bytes::from("v"));
    }
    let log = bench.log.log_id();
    let mut writer = SegmentWriter::new(bench.archive.scratch(), log, wrong, Offset::ZERO);
    let other = Record { value: Bytes::from("other"), ..logged(&bench, wrong).remove(0) };
    writer.push(&other).unwrap();
    let path = path::segment(log, wrong, Offset::ZERO);
    bench.archive.create(&path, &mut writer.finish().unwrap()).await.unwrap();
    let running = bench.start();
    bench.eventually("a segment", async || !uploaded(&bench, right).await.is_empty()).await;
    assert_eq!(uploaded(&bench, wrong).await, [other]);
    // Hours are sealed all the same.
    partitions(&bench).for_each(|partition| tick(&bench, partition, "2025-12-30T11:00:00Z"));
    bench.sealed().await;
    running.stop().await;
}

#[tokio::test]
async fn sealing_that_is_stuck_does_not_stop_segments() {
    let bench = with_segments(2);
    an_open_hour(&bench, 0, 20);
    partitions(&bench).for_each(|partition| tick(&bench, partition, "2025-12-30T11:00:00Z"));
    fs::create_dir_all(&bench.folder).unwrap();
    // Where a folder is to be, a file: every hour fails, and is tried again.
    fs::write(bench.folder.join("events"), "").unwrap();
    let running = bench.start();
    all_uploaded(&bench).await;
    fs::remove_file(bench.folder.join("events")).unwrap();
    bench.sealed().await;
    running.stop().await;
}

/// The one partition of its number in these tests: its gauges are of this one alone.
#[tokio::test]
async fn how_far_the_archive_is_behind_is_measured() {
    let metrics = service::telemetry::metrics().unwrap();
    let bench = with_segments(6);
    bench.set_time(at("2025-12-30T12:30:00Z"));
    let partition = Partition::new(5);
    for n in 0..3 {
        let time = at("2025-12-30T10:00:00Z").plus_micros(n);
        bench.log.put(time, partition, Bytes::from("k"), Bytes::from("v"));
    }
    let measured = |name: &str| {
        let line = format!("context_sync_archive_{name}{{partition=\"5\"}} ");
        let rendered = metrics.render();
        let value = rendered.lines().find_map(|found| found.strip_prefix(&line))?;
        value.parse::<f64>().ok()
    };
    let running = bench.start();
    bench
        .eventually("segments have it, no hour has", async || {
            // The archiver's own ticks come after it.
            let (lag, in_none) = (measured("lag_records"), measured("segment_lag_records"));
            lag.is_some_and(|lag| lag >= 3.0) && in_none.map(|in_none| in_none + 3.0) == lag
        })
        .await;
    tick(&bench, partition, "2025-12-30T11:00:00Z");
    bench
        .eventually("the hour is sealed", async || {
            // All after the three; the archiver's own ticks may be among them.
            let sealed = bench.sealed_until(partition).await;
            let end = bench.log.bounds(partition).await.unwrap().end.get();
            sealed >= 3
                && measured("lag_records") == Some((end - sealed) as f64)
                && measured("sealed_age_seconds").is_some_and(|age| age > 3_600.0)
        })
        .await;
    running.stop().await;
}

#[tokio::test]
async fn damage_of_segments_is_named_and_leftovers_are_harmless() {
    let bench = with_segments(1);
    an_open_hour(&bench, 0, 20);
    let running = bench.start();
    all_uploaded(&bench).await;
    an_open_hour(&bench, 20, 20);
    all_uploaded(&bench).await;
    running.stop().await;
    let names = segment::list(&bench.archive, bench.log.log_id(), Partition::new(0)).await.unwrap();
    assert!(names.len() >= 2, "{names:?}");
    let problems = async || -> Vec<String> {
        let report = report(&bench).await;
        report.problems.into_iter().map(|problem| problem.path).collect()
    };
    let last = names.last().unwrap();
    let file: PathBuf = bench.folder.join(&last.path);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() - 30] ^= 4;
    for damaged in [&flipped[..], &whole[..whole.len() - 40], b"", b"Obj"] {
        fs::write(&file, damaged).unwrap();
        assert_eq!(problems().await, [last.path.as_str()]);
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(problems().await, [""; 0]);
    // Without the first one, the next does not begin where it should.
    fs::remove_file(bench.folder.join(&names[0].path)).unwrap();
    assert_eq!(problems().await, [names[1].path.as_str()]);
}

/// As operating.md says: once the hour is sealed, an archiver that starts gives the segment up, and writes others.
#[tokio::test]
async fn a_damaged_segment_is_given_up_once_its_hour_is_sealed() {
    let partition = Partition::new(0);
    for wholly_sealed in [true, false] {
        let bench = with_segments(1);
        an_open_hour(&bench, 0, 20);
        if !wholly_sealed {
            tick(&bench, partition, "2025-12-30T11:00:00Z");
        }
        let log = bench.log.log_id();
        let mut writer = SegmentWriter::new(bench.archive.scratch(), log, partition, Offset::ZERO);
        logged(&bench, partition).iter().for_each(|record| writer.push(record).unwrap());
        let path = path::segment(log, partition, Offset::ZERO);
        bench.archive.create(&path, &mut writer.finish().unwrap()).await.unwrap();
        let file = bench.folder.join(&path);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        tick(&bench, partition, "2025-12-30T11:00:01Z");
        let running = bench.start();
        bench.sealed().await;
        running.stop().await;

        an_open_hour(&bench, 20, 3);
        let running = bench.start();
        bench
            .eventually("all after the hour is in others", async || {
                let sealed = bench.sealed_until(partition).await;
                let rest = logged(&bench, partition).into_iter();
                let rest: Vec<_> = rest.filter(|r| r.offset.get() >= sealed).collect();
                !file.exists() && uploaded(&bench, partition).await == rest
            })
            .await;
        running.stop().await;
        assert_eq!(report(&bench).await.problems, [], "{wholly_sealed}");
    }
}

#[tokio::test]
async fn a_segment_of_a_sealed_hour_is_a_leftover() {
    let bench = Bench::new(1);
    a_day(&bench);
    let partition = Partition::new(0);
    let log = bench.log.log_id();
    let mut writer = SegmentWriter::new(bench.archive.scratch(), log, partition, Offset::ZERO);
    logged(&bench, partition)[..3].iter().for_each(|record| writer.push(record).unwrap());
    let path = path::segment(log, partition, Offset::ZERO);
    bench.archive.create(&path, &mut writer.finish().unwrap()).await.unwrap();
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    let found = report(&bench).await;
    assert_eq!((found.problems, found.raw), (vec![], vec![]));
    assert_eq!(found.leftovers, [path]);
    // The next one with segments deletes it.
    let bench = Bench { segments: SOON, ..bench };
    let running = bench.start();
    bench.eventually("it is deleted", async || report(&bench).await.leftovers.is_empty()).await;
    running.stop().await;
}

/// Whose an archive is, segments ask themselves: the session that will be refused may have to ask again and again before it knows.
#[tokio::test]
async fn nothing_is_uploaded_to_another_logs_archive() {
    let inner = Arc::new(InMemory::new());
    let others = path::epoch(LogId(Uuid::new_v4()), 2, Epoch(Uuid::new_v4()));
    inner.put(&others.into(), "{}".into()).await.unwrap();
    let written = Arc::new(AtomicBool::new(false));
    let (mut asked, notes) = (0, written.clone());
    let unreliable = Unreliable::over(&inner, move |operation| {
        notes.fetch_or(operation == Operation::Write, Ordering::SeqCst);
        asked += usize::from(operation == Operation::ListFolders);
        (operation == Operation::ListFolders && asked < 8).then_some(Fails::Before(Cause::Down))
    });
    let at_once = SegmentConfig { archive_segment_bytes: 1, ..SOON };
    let bench = Bench { segments: at_once, ..Bench::on(1, archive(inner)) };
    an_open_hour(&bench, 0, 20);
    let error = bench.start_with("cache", unreliable).error().await;
    assert!(matches!(error, ArchiverError::OtherLogs { .. }), "{error:?}");
    assert!(!written.load(Ordering::SeqCst));
    assert_eq!(bench.archive.folders("segments").await.unwrap(), Vec::<String>::new());
}
