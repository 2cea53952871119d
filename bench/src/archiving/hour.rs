//! A log as if all of it had been appended in one hour of the past: it is sealed as one, and may be the day's last.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use eventlog::{AppendFuture, Bounds, EventLog, LogError, LogReader, ReadLimit, Record};
use futures_util::{FutureExt, future::BoxFuture};
use model::{LogId, Offset, Partition, Place, Timestamp};

use crate::Failure;

/// 2025-12-30T10:30:00Z, in microseconds.
const TIME: Timestamp = Timestamp::from_micros(1_767_090_600_000_000);
const HOUR_MICROS: i64 = 3_600_000_000;

/// What is over once all was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Over {
    Hour,
    Day,
}

impl Over {
    /// Backups that a scope has then: an incremental, and a full.
    pub(super) const fn backups(self) -> usize {
        match self {
            Self::Hour => 1,
            Self::Day => 2,
        }
    }

    const fn later(self) -> Timestamp {
        let hours = match self {
            Self::Hour => 1,
            Self::Day => 24,
        };
        TIME.plus_micros(hours * HOUR_MICROS)
    }
}

pub(super) struct OneHour {
    log: Arc<dyn EventLog>,
    /// Where each partition's hour ends: what is appended later is of the next.
    ends: Vec<Offset>,
    later: Timestamp,
}

impl OneHour {
    pub(super) async fn of(log: Arc<dyn EventLog>, over: Over) -> Result<Self, Failure> {
        let mut ends = Vec::new();
        for partition in 0..log.partitions() {
            ends.push(log.bounds(Partition::new(partition)).await?.end);
        }
        Ok(Self { log, ends, later: over.later() })
    }
}

struct Reader {
    reader: Box<dyn LogReader>,
    ends: Vec<Offset>,
    later: Timestamp,
}

fn set_time(ends: &[Offset], later: Timestamp, record: &mut Record) {
    let end = ends.get(record.partition.get() as usize).copied().unwrap_or(Offset::ZERO);
    record.append_time = if record.offset < end { TIME } else { later };
}

impl EventLog for OneHour {
    fn log_id(&self) -> LogId {
        self.log.log_id()
    }

    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn is_exclusive(&self) -> bool {
        self.log.is_exclusive()
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        self.log.append_to(partition, key, value)
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        self.log.bounds(partition)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        let (reader, ends) = (self.log.reader(from)?, self.ends.clone());
        Ok(Box::new(Reader { reader, ends, later: self.later }))
    }

    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        async move {
            let mut record = self.log.read_one(place).await?;
            if let Some(record) = &mut record {
                set_time(&self.ends, self.later, record);
            }
            Ok(record)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.close()
    }
}

impl LogReader for Reader {
    fn next(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        async move {
            let mut records = self.reader.next(limit, wait).await?;
            records.iter_mut().for_each(|record| set_time(&self.ends, self.later, record));
            Ok(records)
        }
        .boxed()
    }

    fn seek(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        self.reader.seek(partition, offset)
    }
}
