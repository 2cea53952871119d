//! A log in memory whose records have the append times that a test wants.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use eventlog::{
    AppendError, AppendFuture, Appended, Bounds, EventLog, LogError, LogReader, ReadLimit, Record,
    RejectReason, partition_of,
};
use futures_util::{FutureExt, future::BoxFuture};
use model::{Command, LogId, Offset, Partition, Place, Timestamp};
use tokio::sync::watch;
use uuid::Uuid;

type Partitions = Vec<Vec<Record>>;

pub(crate) struct SimulatedLog {
    log_id: LogId,
    records: watch::Sender<Partitions>,
    /// Of each partition, the offset below which retention has removed everything.
    starts: Arc<Mutex<Vec<u64>>>,
    now: Mutex<Timestamp>,
    /// The log that this one goes on from.
    recovered_from: Mutex<Option<LogId>>,
    /// Takes no command from archivers.
    pub(crate) is_closed: AtomicBool,
}

struct Reader {
    records: watch::Receiver<Partitions>,
    starts: Arc<Mutex<Vec<u64>>>,
    next: Vec<(Partition, Offset)>,
}

impl SimulatedLog {
    pub(crate) fn new(partitions: usize) -> Arc<Self> {
        Self::with_id(LogId(Uuid::from_u128(7)), partitions)
    }

    pub(crate) fn with_id(log_id: LogId, partitions: usize) -> Arc<Self> {
        let records = watch::Sender::new(vec![Vec::new(); partitions]);
        let starts = Arc::new(Mutex::new(vec![0; partitions]));
        let (now, is_closed) = (Mutex::new(Timestamp::EPOCH), AtomicBool::new(false));
        let recovered_from = Mutex::new(None);
        Arc::new(Self { log_id, records, starts, now, recovered_from, is_closed })
    }

    /// What time it is by the log from now on, for what archivers append.
    pub(crate) fn set_time(&self, now: Timestamp) {
        *self.now.lock().unwrap() = now;
    }

    /// Appends a command at a time.
    pub(crate) fn at(&self, time: Timestamp, command: &Command) -> Place {
        let key = Bytes::from(command.scope.to_string());
        let partition = partition_of(&key, self.partitions());
        let value = Bytes::from(schemas::encode_command(command).unwrap());
        self.put(time, partition, key, value)
    }

    pub(crate) fn put(
        &self,
        append_time: Timestamp,
        partition: Partition,
        key: Bytes,
        value: Bytes,
    ) -> Place {
        let mut offset = Offset::ZERO;
        self.records.send_modify(|partitions| {
            let records = &mut partitions[partition.get() as usize];
            offset = Offset::new(records.len() as u64).unwrap();
            records.push(Record { partition, offset, append_time, key, value });
        });
        Place { partition, offset }
    }

    /// Retention removes the records of a partition below an offset: [`Self::all`] remembers them.
    pub(crate) fn cut(&self, partition: Partition, below: u64) {
        self.starts.lock().unwrap()[partition.get() as usize] = below;
    }

    /// Loses the records of a partition from an offset on, as a disk that was put back to an older copy.
    pub(crate) fn lose_end(&self, partition: Partition, from: usize) {
        self.records.send_modify(|all| all[partition.get() as usize].truncate(from));
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.records.borrow().iter().flatten().cloned().collect()
    }
}

impl EventLog for SimulatedLog {
    fn log_id(&self) -> LogId {
        self.log_id
    }

    fn recovered_from(&self) -> Option<LogId> {
        *self.recovered_from.lock().unwrap()
    }

    fn recover_from(&self, lost: LogId) -> BoxFuture<'_, Result<(), LogError>> {
        *self.recovered_from.lock().unwrap() = Some(lost);
        async { Ok(()) }.boxed()
    }

    fn partitions(&self) -> u32 {
        self.records.borrow().len() as u32
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        if self.is_closed.load(Ordering::SeqCst) && !key.is_empty() {
            return async { Err(AppendError::from(RejectReason::QueueFull { bytes_max: 0 })) }
                .boxed();
        }
        let now = *self.now.lock().unwrap();
        let place = self.put(now, partition, key, value);
        async move { Ok(Appended { place, append_time: Some(now) }) }.boxed()
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        let end = self.records.borrow()[partition.get() as usize].len() as u64;
        let start = self.starts.lock().unwrap()[partition.get() as usize];
        let (start, end) = (Offset::new(start).unwrap(), Offset::new(end).unwrap());
        async move { Ok(Bounds { start, end }) }.boxed()
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        let (records, starts) = (self.records.subscribe(), self.starts.clone());
        Ok(Box::new(Reader { records, starts, next: from.to_vec() }))
    }

    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        let records = &self.records.borrow()[place.partition.get() as usize];
        let start = self.starts.lock().unwrap()[place.partition.get() as usize];
        let record = records.get(place.offset.get() as usize).cloned();
        let record = record.filter(|record| record.offset.get() >= start);
        async move { Ok(record) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        async { Ok(()) }.boxed()
    }
}

impl Reader {
    fn ready(&mut self, limit: ReadLimit) -> Result<Vec<Record>, LogError> {
        let partitions = self.records.borrow_and_update();
        let starts = self.starts.lock().unwrap();
        let mut read = Vec::new();
        for (partition, next) in &mut self.next {
            let all = &partitions[partition.get() as usize];
            let bounds = Bounds {
                start: Offset::new(starts[partition.get() as usize]).unwrap(),
                end: Offset::new(all.len() as u64).unwrap(),
            };
            if *next < bounds.start || *next > bounds.end {
                let (partition, asked) = (*partition, *next);
                return Err(LogError::OutOfRange { partition, asked, bounds });
            }
            let records = &all[next.get() as usize..];
            let taken = records.len().min(limit.records_max - read.len());
            read.extend_from_slice(&records[..taken]);
            *next = Offset::new(next.get() + taken as u64).unwrap();
        }
        Ok(read)
    }
}

impl LogReader for Reader {
    fn next(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        async move {
            let read = self.ready(limit)?;
            if !read.is_empty() {
                return Ok(read);
            }
            let _ = tokio::time::timeout(wait, self.records.changed()).await;
            self.ready(limit)
        }
        .boxed()
    }

    fn seek(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        let found = self.next.iter_mut().find(|(own, _)| *own == partition);
        found.unwrap().1 = offset;
        Ok(())
    }
}
