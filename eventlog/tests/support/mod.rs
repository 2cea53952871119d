//! Logs to test against: a fresh embedded one, or fresh topics on a real Kafka.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use eventlog::{
    Appended, EventLog, LogAddress, LogConfig, LogReader, OpenError, ReadLimit, Record,
};
use model::{Offset, Partition};

/// Nothing a test waits for takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// More than any test writes.
pub(crate) const ALL: ReadLimit = ReadLimit { records_max: 100_000, bytes_max: 64 * 1024 * 1024 };

/// Where a log is, so that it can be opened again.
pub(crate) struct Home {
    pub(crate) config: LogConfig,
    pub(crate) dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn embedded() -> Self {
        Self { config: LogConfig::new(LogAddress::Embedded), dir: tempfile::tempdir().unwrap() }
    }

    /// Topics that no other test uses.
    pub(crate) async fn kafka() -> Self {
        let brokers = kafka_address().await;
        let mut config = LogConfig::new(LogAddress::Kafka { brokers });
        config.log_topic_prefix = format!("test-{}", uuid::Uuid::new_v4());
        config.log_partitions = Some(4);
        Self { config, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn try_open(&self) -> Result<Arc<dyn EventLog>, OpenError> {
        eventlog::open(&self.config, self.dir.path()).await
    }

    pub(crate) async fn open(&self) -> Arc<dyn EventLog> {
        self.try_open().await.unwrap()
    }
}

/// `host:port` of a real Apache Kafka: the one that `TEST_KAFKA` names, or one of this process.
pub(crate) async fn kafka_address() -> String {
    dev::kafka::for_tests().await.unwrap()
}

pub(crate) fn partition(number: u32) -> Partition {
    Partition::new(number)
}

pub(crate) fn offset(number: u64) -> Offset {
    Offset::new(number).unwrap()
}

pub(crate) fn value(text: impl std::fmt::Display) -> Bytes {
    Bytes::from(text.to_string())
}

/// Every partition from its first record on.
pub(crate) async fn from_start(log: &dyn EventLog) -> Vec<(Partition, Offset)> {
    let mut from = Vec::new();
    for number in 0..log.partitions() {
        from.push((partition(number), log.bounds(partition(number)).await.unwrap().start));
    }
    from
}

/// Reads until `count` records have come, and that nothing comes behind them.
pub(crate) async fn read_exactly(reader: &mut dyn LogReader, count: usize) -> Vec<Record> {
    let mut records = read_at_least(reader, count).await;
    let behind = reader.next(ALL, Duration::from_millis(50)).await.unwrap();
    records.extend(behind);
    assert_eq!(records.len(), count);
    records
}

pub(crate) async fn read_at_least(reader: &mut dyn LogReader, count: usize) -> Vec<Record> {
    let deadline = Instant::now() + DEADLINE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", records.len());
        match reader.next(ALL, Duration::from_secs(1)).await {
            Ok(more) => records.extend(more),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    records
}

pub(crate) async fn append(
    log: &dyn EventLog,
    key: &str,
    text: impl std::fmt::Display,
) -> Appended {
    log.append(Bytes::from(key.to_owned()), value(text)).await.unwrap()
}

pub(crate) async fn append_to(
    log: &dyn EventLog,
    number: u32,
    text: impl std::fmt::Display,
) -> Appended {
    log.append_to(partition(number), Bytes::new(), value(text)).await.unwrap()
}
