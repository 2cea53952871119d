//! What every log promises, checked on both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use eventlog::{
    AppendError, Bounds, LogError, OpenError, ReadLimit, Record, RejectReason, partition_of,
};
use futures_util::future::join_all;
use model::{LogId, Place};
use support::*;
use uuid::Uuid;

/// One test on each log for every promise.
macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(super::Home::embedded()).await;
            })*
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(super::Home::kafka().await).await;
            })*
        }
    };
}

contract!(
    order_is_dense_and_a_key_keeps_its_partition,
    concurrent_appends_keep_the_order_of_the_calls,
    a_reader_begins_anywhere,
    a_reader_waits_and_wakes,
    limits_are_kept,
    a_dropped_read_loses_nothing,
    seek_drops_what_was_fetched,
    many_seeks_give_the_right_record,
    out_of_range_is_an_error_until_sought,
    bounds_are_the_records,
    large_records,
    readers_are_independent,
    reopening_keeps_identity_and_records,
    what_it_was_recovered_from_is_a_part_of_its_identity,
    one_record_can_be_read,
    what_does_not_exist_is_refused,
    a_closed_log_takes_nothing,
    another_partition_count_is_refused,
);

fn by_partition(records: &[Record]) -> BTreeMap<u32, Vec<&Record>> {
    let mut by = BTreeMap::<u32, Vec<&Record>>::new();
    for record in records {
        by.entry(record.partition.get()).or_default().push(record);
    }
    by
}

fn assert_dense(records: &[Record]) {
    for (number, records) in by_partition(records) {
        for pair in records.windows(2) {
            assert_eq!(pair[1].offset, pair[0].offset.next(), "partition {number}");
            assert!(pair[1].append_time >= pair[0].append_time, "partition {number}");
        }
    }
}

async fn order_is_dense_and_a_key_keeps_its_partition(home: Home) {
    let log = home.open().await;
    let mut places = BTreeMap::new();
    for number in 0..100 {
        let key = format!("scope-{}", number % 10);
        let appended = append(&*log, &key, number).await;
        assert_eq!(appended.place.partition, partition_of(key.as_bytes(), log.partitions()));
        places.insert(appended.place, (key, number, appended.append_time));
    }
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let records = read_exactly(&mut *reader, 100).await;
    assert_dense(&records);
    for record in &records {
        let (key, number, time) = &places[&record.place()];
        assert_eq!(record.key, key.as_bytes());
        assert_eq!(record.value, value(number));
        assert!(time.is_none_or(|time| time == record.append_time));
    }
}

async fn concurrent_appends_keep_the_order_of_the_calls(home: Home) {
    let log = home.open().await;
    let mut total = 0;
    for in_flight in [1, 2, 16, 256] {
        let appends = (0..in_flight).map(|n| log.append(value(n % 8), value(n)));
        let appended: Vec<_> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
        for (earlier, later) in appended.iter().zip(appended.iter().skip(8)) {
            assert!(earlier.place < later.place);
        }
        total += in_flight;
    }
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let records = read_exactly(&mut *reader, total).await;
    assert_dense(&records);
    assert_eq!(records.iter().map(Record::place).collect::<HashSet<_>>().len(), total);
}

async fn a_reader_begins_anywhere(home: Home) {
    let log = home.open().await;
    for number in 0..20 {
        append_to(&*log, 1, number).await;
        append_to(&*log, 2, number).await;
    }
    for (begin, count) in [(0, 20), (7, 13), (19, 1), (20, 0)] {
        let mut reader = log.reader(&[(partition(1), offset(begin))]).unwrap();
        let records = read_exactly(&mut *reader, count).await;
        let values: Vec<Bytes> = records.into_iter().map(|record| record.value).collect();
        assert_eq!(values, (begin..20).map(value).collect::<Vec<_>>());
    }
    let from = [(partition(1), offset(18)), (partition(2), offset(3)), (partition(3), offset(0))];
    let records = read_exactly(&mut *log.reader(&from).unwrap(), 19).await;
    assert_eq!(by_partition(&records)[&1][0].offset, offset(18));
    assert_eq!(by_partition(&records)[&2][0].offset, offset(3));
}

async fn a_reader_waits_and_wakes(home: Home) {
    let log = home.open().await;
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let wait = Duration::from_millis(150);
    let begun = Instant::now();
    assert_eq!(reader.next(ALL, wait).await.unwrap(), []);
    assert!(begun.elapsed() >= wait);
    assert!(begun.elapsed() < DEADLINE);
    assert_eq!(reader.next(ALL, Duration::ZERO).await.unwrap(), []);

    let waiting = tokio::spawn(async move { reader.next(ALL, DEADLINE).await });
    let appended = append(&*log, "key", "woken").await;
    let records = waiting.await.unwrap().unwrap();
    assert_eq!(records[0].place(), appended.place);
    assert!(begun.elapsed() < DEADLINE, "it waited to the end");
}

async fn limits_are_kept(home: Home) {
    let log = home.open().await;
    let appends = (0..100).map(|n| log.append_to(partition(0), value("k"), value(n + 1000)));
    for appended in join_all(appends).await {
        appended.unwrap();
    }
    // The key has one byte, the value four.
    let limits = [
        (ReadLimit { records_max: 7, bytes_max: usize::MAX }, 7),
        (ReadLimit { records_max: 1000, bytes_max: 33 }, 6),
        (ReadLimit { records_max: 1000, bytes_max: 1 }, 1),
        (ReadLimit { records_max: 0, bytes_max: 0 }, 1),
    ];
    for (limit, most) in limits {
        let mut reader = log.reader(&[(partition(0), offset(0))]).unwrap();
        let mut records = Vec::new();
        while records.len() < 100 {
            let more = reader.next(limit, DEADLINE).await.unwrap();
            assert!((1..=most).contains(&more.len()), "{limit:?} gave {}", more.len());
            records.extend(more);
        }
        assert_dense(&records);
        assert_eq!(records.len(), 100);
    }
}

async fn a_dropped_read_loses_nothing(home: Home) {
    let log = home.open().await;
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let appending = tokio::spawn({
        let log = std::sync::Arc::clone(&log);
        async move {
            for number in 0..500 {
                append(&*log, &format!("key-{number}"), number).await;
            }
        }
    });
    let deadline = Instant::now() + DEADLINE;
    let mut records: Vec<Record> = Vec::new();
    for turn in 0_u64.. {
        if records.len() >= 500 {
            break;
        }
        assert!(Instant::now() < deadline, "{} came", records.len());
        let limit = ReadLimit { records_max: 3, bytes_max: usize::MAX };
        let next = reader.next(limit, Duration::from_secs(1));
        let patience = Duration::from_micros(turn * 37 % 2000);
        if let Ok(more) = tokio::time::timeout(patience, next).await {
            records.extend(more.unwrap());
        }
    }
    appending.await.unwrap();
    assert_dense(&records);
    assert_eq!(records.iter().map(Record::place).collect::<HashSet<_>>().len(), 500);
}

async fn seek_drops_what_was_fetched(home: Home) {
    let log = home.open().await;
    for number in 0..50 {
        append_to(&*log, 0, number).await;
        append_to(&*log, 1, number).await;
    }
    let mut reader = log.reader(&[(partition(0), offset(0)), (partition(1), offset(0))]).unwrap();
    let few = ReadLimit { records_max: 5, bytes_max: usize::MAX };
    let mut seen = reader.next(few, DEADLINE).await.unwrap();
    reader.seek(partition(0), offset(40)).unwrap();
    let ones = seen.iter().filter(|record| record.partition == partition(1)).count();
    let rest = read_exactly(&mut *reader, 10 + 50 - ones).await;
    let zeros: Vec<u64> =
        rest.iter().filter(|r| r.partition.get() == 0).map(|r| r.offset.get()).collect();
    assert_eq!(zeros, (40..50).collect::<Vec<_>>());
    seen.extend(rest);
    seen.retain(|record| record.partition == partition(1));
    assert_dense(&seen);
    assert_eq!(seen.len(), 50);

    reader.seek(partition(0), offset(3)).unwrap();
    let again = read_exactly(&mut *reader, 47).await;
    assert_eq!(again[0].place(), Place { partition: partition(0), offset: offset(3) });
    assert_dense(&again);
}

async fn many_seeks_give_the_right_record(home: Home) {
    let log = home.open().await;
    for appended in
        join_all((0..300).map(|n| log.append_to(partition(0), Bytes::new(), value(n)))).await
    {
        appended.unwrap();
    }
    let mut reader = log.reader(&[(partition(0), offset(0))]).unwrap();
    let few = ReadLimit { records_max: 2, bytes_max: usize::MAX };
    for turn in 0..40_u64 {
        let place = turn * 7919 % 300;
        reader.seek(partition(0), offset(place)).unwrap();
        let records = reader.next(few, DEADLINE).await.unwrap();
        assert_eq!(records[0].offset, offset(place));
        assert_eq!(records[0].value, value(place));
        assert_dense(&records);
    }
}

async fn out_of_range_is_an_error_until_sought(home: Home) {
    let log = home.open().await;
    for number in 0..5 {
        append_to(&*log, 0, number).await;
        append_to(&*log, 1, number).await;
    }
    let mut reader = log.reader(&[(partition(0), offset(9)), (partition(1), offset(5))]).unwrap();
    for _ in 0..2 {
        let refused = loop {
            match reader.next(ALL, DEADLINE).await {
                Ok(records) => assert_eq!(records, [], "nothing may come"),
                Err(error) if error.is_retryable() => {}
                Err(error) => break error,
            }
        };
        let LogError::OutOfRange { partition: at, asked, bounds } = refused else {
            panic!("{refused}");
        };
        assert_eq!((at, asked), (partition(0), offset(9)));
        assert_eq!(bounds, Bounds { start: offset(0), end: offset(5) });
    }
    reader.seek(partition(0), offset(3)).unwrap();
    let records = read_exactly(&mut *reader, 2).await;
    assert_eq!(records[0].offset, offset(3));
}

async fn bounds_are_the_records(home: Home) {
    let log = home.open().await;
    let empty = Bounds { start: offset(0), end: offset(0) };
    assert_eq!(log.bounds(partition(2)).await.unwrap(), empty);
    for number in 0..3 {
        append_to(&*log, 2, number).await;
    }
    let three = Bounds { start: offset(0), end: offset(3) };
    assert_eq!(log.bounds(partition(2)).await.unwrap(), three);
    assert_eq!(log.bounds(partition(1)).await.unwrap(), empty);
}

async fn large_records(home: Home) {
    let log = home.open().await;
    let large: Bytes = (0..7 * 1024 * 1024_u32).map(|n| (n * 31 % 251) as u8).collect();
    let appended = log.append(value("key"), large.clone()).await.unwrap();
    append(&*log, "key", "behind").await;
    let refused = log.append(value("key"), vec![1; 9 * 1024 * 1024].into()).await.unwrap_err();
    assert!(matches!(refused, AppendError::Rejected(RejectReason::TooLarge { .. })), "{refused}");
    assert!(!refused.is_retryable());
    let most = eventlog::RECORD_BYTES_MAX - 3;
    log.append(value("key"), vec![2; most].into()).await.unwrap();
    let over = log.append(value("key"), vec![2; most + 1].into()).await.unwrap_err();
    assert!(matches!(over, AppendError::Rejected(_)), "{over}");

    let mut reader = log.reader(&[(appended.place.partition, offset(0))]).unwrap();
    let records = read_exactly(&mut *reader, 3).await;
    assert!(records[0].value == large, "the large record is not what was appended");
    assert_eq!(records[1].value, value("behind"));
    assert_eq!(records[2].value.len(), most);
}

async fn readers_are_independent(home: Home) {
    let log = home.open().await;
    let mut one = log.reader(&from_start(&*log).await).unwrap();
    let mut two = log.reader(&from_start(&*log).await).unwrap();
    for number in 0..10 {
        append(&*log, &format!("k{number}"), number).await;
    }
    let first = read_exactly(&mut *one, 10).await;
    append(&*log, "k", "last").await;
    let second = read_exactly(&mut *two, 11).await;
    assert_eq!(read_exactly(&mut *one, 1).await[0].value, value("last"));
    let places = |records: &[Record]| records.iter().map(Record::place).collect::<HashSet<_>>();
    assert!(places(&first).is_subset(&places(&second)));
}

async fn reopening_keeps_identity_and_records(home: Home) {
    let log = home.open().await;
    let id = log.log_id();
    for number in 0..30 {
        append(&*log, &format!("k{number}"), number).await;
    }
    let before = read_exactly(&mut *log.reader(&from_start(&*log).await).unwrap(), 30).await;
    log.close().await.unwrap();
    drop(log);

    let log = home.open().await;
    assert_eq!(log.log_id(), id);
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let mut after = read_exactly(&mut *reader, 30).await;
    let end = log.bounds(partition(1)).await.unwrap().end;
    let appended = append_to(&*log, 1, "more").await;
    assert_eq!(appended.place.offset, end);
    after.extend(read_exactly(&mut *reader, 1).await);
    assert_dense(&after);
    after.pop();
    let sorted = |mut records: Vec<Record>| {
        records.sort_by_key(Record::place);
        records
    };
    assert_eq!(sorted(before), sorted(after));
}

async fn what_it_was_recovered_from_is_a_part_of_its_identity(home: Home) {
    let log = home.open().await;
    let (id, lost) = (log.log_id(), LogId(Uuid::new_v4()));
    assert_eq!(log.recovered_from(), None);
    // A recovery that was stopped, and begun again from another one.
    for lost in [LogId(Uuid::new_v4()), lost] {
        log.recover_from(lost).await.unwrap();
    }
    append(&*log, "k", 1).await;
    log.close().await.unwrap();
    drop(log);
    let log = home.open().await;
    assert_eq!((log.log_id(), log.recovered_from()), (id, Some(lost)));
}

async fn one_record_can_be_read(home: Home) {
    let log = home.open().await;
    for number in 0..10 {
        append_to(&*log, 0, number).await;
        append_to(&*log, 3, number * 100).await;
    }
    for number in [0, 5, 9] {
        let place = Place { partition: partition(3), offset: offset(number) };
        let record = log.read_one(place).await.unwrap().unwrap();
        assert_eq!((record.place(), record.value), (place, value(number * 100)));
    }
    for (number, at) in [(3, 10), (3, 1_000_000), (2, 0)] {
        let place = Place { partition: partition(number), offset: offset(at) };
        assert_eq!(log.read_one(place).await.unwrap(), None);
    }
}

async fn what_does_not_exist_is_refused(home: Home) {
    let log = home.open().await;
    let none = partition(log.partitions());
    let refused = log.append_to(none, Bytes::new(), value(1)).await.unwrap_err();
    assert!(matches!(refused, AppendError::Rejected(RejectReason::NoSuchPartition { .. })));
    let is_none = |error: &LogError| matches!(error, LogError::NoSuchPartition { .. });
    assert!(is_none(&log.bounds(none).await.unwrap_err()));
    assert!(is_none(&log.reader(&[(none, offset(0))]).err().unwrap()));
    let place = Place { partition: none, offset: offset(0) };
    assert!(is_none(&log.read_one(place).await.unwrap_err()));
    let mut reader = log.reader(&[(partition(0), offset(0))]).unwrap();
    let error = reader.seek(partition(1), offset(0)).unwrap_err();
    assert!(matches!(error, LogError::NotAssigned { .. }));
}

async fn a_closed_log_takes_nothing(home: Home) {
    let log = home.open().await;
    let queued: Vec<_> = (0..50).map(|n| log.append(value(n), value(n))).collect();
    log.close().await.unwrap();
    for appended in join_all(queued).await {
        appended.unwrap();
    }
    let refused = log.append(value("k"), value("v")).await.unwrap_err();
    assert!(matches!(refused, AppendError::Rejected(RejectReason::Closed)), "{refused}");
    log.close().await.unwrap();
}

async fn another_partition_count_is_refused(mut home: Home) {
    home.open().await.close().await.unwrap();
    home.config.log_partitions = Some(5);
    let refused = home.try_open().await.err().unwrap();
    let OpenError::PartitionCount { found, wanted, .. } = refused else { panic!("{refused}") };
    assert_eq!((found, wanted), (4, 5));
    home.config.log_partitions = None;
    assert_eq!(home.open().await.partitions(), 4);
}
