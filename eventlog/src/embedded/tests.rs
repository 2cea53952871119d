//! What only the embedded log promises: crashes, damage, failed disks, retention.

use std::{
    collections::BTreeSet,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use model::{Offset, Partition};

use super::*;
use crate::{LogAddress, ReadLimit};

/// The directories whose next write fails.
static FAILING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

pub(super) fn inject_failure(dir: &Path) -> io::Result<()> {
    let failing = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
    if failing.contains(dir) { Err(io::Error::other("injected")) } else { Ok(()) }
}

const DEADLINE: Duration = Duration::from_secs(30);
const ALL: ReadLimit = ReadLimit { records_max: 1_000_000, bytes_max: usize::MAX };

fn options() -> Options {
    let mut options = Options::new(&LogConfig::new(LogAddress::Embedded));
    options.retention_interval = Duration::from_millis(10);
    options
}

fn partition(number: u32) -> Partition {
    Partition::new(number)
}

fn bounds(log: &EmbeddedLog, number: u32) -> Range<u64> {
    let bounds = log.shared.bounds(partition(number)).unwrap();
    bounds.start.get()..bounds.end.get()
}

fn payload(number: u64) -> Bytes {
    Bytes::from(format!("{number} {}", "x".repeat((number * 37 % 300) as usize)))
}

async fn append(log: &EmbeddedLog, number: u64) -> Appended {
    log.append_to(partition(0), Bytes::from_static(b"key"), payload(number)).await.unwrap()
}

/// The values of partition 0, which have to be those appended, without a hole.
async fn read_all(log: &EmbeddedLog) -> u64 {
    let bounds = bounds(log, 0);
    let mut reader = log.reader(&[(partition(0), Offset::new(bounds.start).unwrap())]).unwrap();
    let mut next = bounds.start;
    while next < bounds.end {
        let records = reader.next(ALL, DEADLINE).await.unwrap();
        assert!(!records.is_empty());
        for record in records {
            assert_eq!(record.offset.get(), next);
            assert_eq!(record.value, payload(next));
            next += 1;
        }
    }
    next - bounds.start
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A closed log of `groups` times `records` records, appended together, and the bytes of its only
/// segment.
async fn written(dir: &Path, groups: u64, records: u64) -> Vec<u8> {
    let log = open_dir(options(), dir).unwrap();
    for group in 0..groups {
        // The writer may take the first before the others are queued: at most two groups.
        let queued: Vec<_> = (0..records)
            .map(|n| payload(group * records + n))
            .map(|value| log.append_to(partition(0), Bytes::from_static(b"key"), value))
            .collect();
        for appended in join_all(queued).await {
            appended.unwrap();
        }
    }
    drop(log);
    fs::read(dir.join(Segment::file_name(0))).unwrap()
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_appends_go_on() {
    let home = tempfile::tempdir().unwrap();
    let origin = home.path().join("origin");
    let bytes = written(&origin, 12, 1).await;
    let header = open_dir(options(), &origin).unwrap().shared.state().segments[0].header_bytes();
    let mut kept_before = 0;
    for length in (header as usize..=bytes.len()).step_by(7).chain([bytes.len()]) {
        let torn = home.path().join(length.to_string());
        copy(&origin, &torn);
        fs::write(torn.join(Segment::file_name(0)), &bytes[..length]).unwrap();
        let log = open_dir(options(), &torn).unwrap();
        let kept = read_all(&log).await;
        assert!(kept >= kept_before, "{kept} records at {length} bytes");
        kept_before = kept;
        assert_eq!(append(&log, kept).await.place.offset.get(), kept);
        drop(log);
        assert_eq!(read_all(&open_dir(options(), &torn).unwrap()).await, kept + 1);
        fs::remove_dir_all(&torn).unwrap();
    }
    assert_eq!(kept_before, 12);
}

#[tokio::test]
async fn a_damaged_last_group_is_cut_and_earlier_damage_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let origin = home.path().join("origin");
    let bytes = written(&origin, 12, 1).await;
    // One append at a time: each frame is a group.
    let frames: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == [0x5E, 0xC0, 0x4D, 0xF1]).collect();
    assert_eq!(frames.len(), 12);
    for (at, is_last) in [
        (frames[11] + 2, true),
        (frames[11] + 9, true),
        (frames[11] + 60, true),
        (bytes.len() - 1, true),
        (frames[10] + 60, false),
        (frames[5] + 10, false),
        (frames[0] + 30, false),
    ] {
        for damage in [1_usize, 40] {
            let copied = home.path().join(format!("{at}-{damage}"));
            copy(&origin, &copied);
            let mut damaged = bytes.clone();
            let end = (at + damage)
                .min(bytes.len())
                .min(frames.iter().copied().find(|f| *f > at).unwrap_or(bytes.len()));
            damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(copied.join(Segment::file_name(0)), &damaged).unwrap();
            match open_dir(options(), &copied) {
                Ok(log) if is_last => assert_eq!(read_all(&log).await, 11),
                Ok(_) => panic!("acknowledged records were dropped silently at {at}"),
                Err(OpenError::Storage { reason, .. }) if !is_last => {
                    assert!(reason.contains("damaged at byte"), "{reason}");
                    let after = fs::read(copied.join(Segment::file_name(0))).unwrap();
                    assert!(after == damaged, "a refused file is left as it is");
                }
                Err(error) => panic!("{at}: {error}"),
            }
        }
    }
    // Garbage behind the end, such as a page of another file.
    let garbage: Vec<u8> = (0..5000_u32).map(|n| (n * 31 % 251) as u8).collect();
    fs::write(origin.join(Segment::file_name(0)), [bytes, garbage].concat()).unwrap();
    assert_eq!(read_all(&open_dir(options(), &origin).unwrap()).await, 12);
}

#[tokio::test]
async fn a_group_is_kept_whole_or_cut_whole() {
    let home = tempfile::tempdir().unwrap();
    let bytes = written(home.path(), 3, 20).await;
    let path = home.path().join(Segment::file_name(0));
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let log = open_dir(options(), home.path()).unwrap();
    let kept = read_all(&log).await;
    assert!((40..60).contains(&kept), "{kept}");
    assert_eq!(fs::metadata(&path).unwrap().len(), log.shared.state().tail.byte);
}

#[tokio::test]
async fn a_record_that_looks_like_a_frame_is_no_frame() {
    let home = tempfile::tempdir().unwrap();
    let bytes = written(home.path(), 5, 1).await;
    let other = tempfile::tempdir().unwrap();
    let log = open_dir(options(), other.path()).unwrap();
    let disguised = log.append_to(partition(0), Bytes::new(), bytes.into());
    disguised.await.unwrap();
    drop(log);
    let path = other.path().join(Segment::file_name(0));
    let torn = fs::read(&path).unwrap();
    fs::write(&path, &torn[..torn.len() - 1]).unwrap();
    assert_eq!(bounds(&open_dir(options(), other.path()).unwrap(), 0), 0..0);
}

#[tokio::test]
async fn a_failed_sync_poisons_the_log() {
    let home = tempfile::tempdir().unwrap();
    let log = open_dir(options(), home.path()).unwrap();
    append(&log, 0).await;
    FAILING.lock().unwrap().insert(home.path().to_owned());
    let failed = log.append(Bytes::new(), payload(1)).await.unwrap_err();
    assert!(matches!(failed, AppendError::Unknown { .. }), "{failed}");
    FAILING.lock().unwrap().remove(home.path());
    let refused = log.append(Bytes::new(), payload(1)).await.unwrap_err();
    assert!(matches!(&refused, AppendError::Rejected(RejectReason::LogFailed(_))), "{refused}");
    assert_eq!(read_all(&log).await, 1);
    assert!(log.close().await.is_err());
    drop(log);
    let log = open_dir(options(), home.path()).unwrap();
    append(&log, bounds(&log, 0).end).await;
}

#[tokio::test]
async fn a_full_queue_rejects_and_recovers() {
    let home = tempfile::tempdir().unwrap();
    let log = open_dir(options(), home.path()).unwrap();
    let large = Bytes::from(vec![7; 7 * 1024 * 1024]);
    let queued: Vec<_> =
        (0..12).map(|_| log.append_to(partition(0), Bytes::new(), large.clone())).collect();
    let results = join_all(queued).await;
    let full = results.iter().filter(|result| {
        matches!(result, Err(AppendError::Rejected(RejectReason::QueueFull { .. })))
    });
    let (full, end) = (full.count(), bounds(&log, 0).end as usize);
    assert!(full > 0, "12 records of 7 MiB were queued at once");
    assert_eq!(end, 12 - full);
    log.append(Bytes::new(), large).await.unwrap();
}

#[tokio::test]
async fn segments_follow_each_other() {
    let home = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4096, ..options() };
    let log = open_dir(small, home.path()).unwrap();
    let mut reader = log.reader(&[(partition(0), Offset::ZERO)]).unwrap();
    for number in 0..200 {
        append(&log, number).await;
    }
    assert!(log.shared.state().segments.len() > 5);
    assert_eq!(read_all(&log).await, 200);
    let mut count = 0;
    while count < 200 {
        count += reader.next(ALL, DEADLINE).await.unwrap().len();
    }
    for number in [0, 77, 199] {
        let place = Place { partition: partition(0), offset: Offset::new(number).unwrap() };
        assert_eq!(log.read_one(place).await.unwrap().unwrap().value, payload(number));
    }
    drop(log);
    let log = open_dir(small, home.path()).unwrap();
    assert_eq!(read_all(&log).await, 200);
    drop(log);

    fs::remove_file(home.path().join(Segment::file_name(2))).unwrap();
    let refused = open_dir(small, home.path()).err().unwrap();
    assert!(refused.to_string().contains("does not follow"), "{refused}");
}

#[tokio::test]
async fn damage_in_an_old_segment_is_an_error_for_its_reader() {
    let home = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4096, ..options() };
    let log = open_dir(small, home.path()).unwrap();
    for number in 0..100 {
        append(&log, number).await;
    }
    drop(log);
    let path = home.path().join(Segment::file_name(1));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let log = open_dir(small, home.path()).unwrap();
    let mut reader = log.reader(&[(partition(0), Offset::ZERO)]).unwrap();
    let error = loop {
        if let Err(error) = reader.next(ALL, DEADLINE).await {
            break error;
        }
    };
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
    assert!(!error.is_retryable());
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn retention_by_bytes_moves_the_start() {
    let home = tempfile::tempdir().unwrap();
    let kept = 20_000;
    let options = Options { segment_bytes: 4096, retention_bytes: Some(kept), ..options() };
    let log = open_dir(options, home.path()).unwrap();
    let mut reader = log.reader(&[(partition(0), Offset::ZERO)]).unwrap();
    for number in 0..400 {
        append(&log, number).await;
    }
    until("the start moves", || bounds(&log, 0).start > 200).await;
    let size = || {
        let files = fs::read_dir(home.path()).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    until("files are removed", || size() < kept + 3 * 4096).await;
    let start = bounds(&log, 0).start;
    assert!(matches!(
        reader.next(ALL, DEADLINE).await.unwrap_err(),
        LogError::OutOfRange { bounds, .. } if bounds.start.get() >= start
    ));
    // The start may move on once more between the two.
    let read = loop {
        reader.seek(partition(0), Offset::new(bounds(&log, 0).start).unwrap()).unwrap();
        match reader.next(ALL, DEADLINE).await {
            Err(LogError::OutOfRange { asked, bounds, .. }) => assert!(asked < bounds.start),
            read => break read.unwrap(),
        }
    };
    assert!(!read.is_empty());
    let place = Place { partition: partition(0), offset: Offset::ZERO };
    assert_eq!(log.read_one(place).await.unwrap(), None);
    drop(log);
    let log = open_dir(Options { retention_bytes: None, ..options }, home.path()).unwrap();
    assert!(bounds(&log, 0).start >= start);
    assert!(read_all(&log).await > 0);
    assert_eq!(bounds(&log, 0).end, 400);
}

#[tokio::test]
async fn retention_by_age_empties_an_idle_log_but_keeps_its_end() {
    let home = tempfile::tempdir().unwrap();
    let age = Some(Duration::from_millis(80));
    let options = Options { retention_age: age, ..options() };
    let log = open_dir(options, home.path()).unwrap();
    let id = log.log_id();
    for number in 0..10 {
        append(&log, number).await;
    }
    until("the log is emptied", || bounds(&log, 0) == (10..10)).await;
    assert_eq!(bounds(&log, 1), 0..0);
    let last = append(&log, 10).await;
    drop(log);
    let log = open_dir(Options { retention_age: None, ..options }, home.path()).unwrap();
    assert_eq!(log.log_id(), id);
    assert_eq!(last.place.offset.get(), 10);
    assert_eq!(bounds(&log, 0).end, 11);
}

#[tokio::test]
async fn append_time_survives_a_clock_that_was_set_back() {
    let home = tempfile::tempdir().unwrap();
    let future = lock::now().plus_micros(3_600_000_000);
    let mut first = first_segment(home.path(), 4);
    first.time_before = future;
    first.create().unwrap();
    let log = open_dir(options(), home.path()).unwrap();
    let appended = append(&log, 0).await;
    assert_eq!(appended.append_time, Some(future));
    drop(log);
    let log = open_dir(options(), home.path()).unwrap();
    assert!(append(&log, 1).await.append_time >= Some(future));
}

#[tokio::test]
async fn a_reader_never_sees_what_is_not_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let log = open_dir(options(), home.path()).unwrap();
    append(&log, 0).await;
    FAILING.lock().unwrap().insert(home.path().to_owned());
    let mut reader = log.reader(&[(partition(0), Offset::new(1).unwrap())]).unwrap();
    log.append_to(partition(0), Bytes::new(), payload(1)).await.unwrap_err();
    assert_eq!(reader.next(ALL, Duration::from_millis(50)).await.unwrap(), []);
    assert_eq!(bounds(&log, 0), 0..1);
    FAILING.lock().unwrap().remove(home.path());
}
