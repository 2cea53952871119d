//! Reading: one consumer a reader, assigned by hand.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use model::{Offset, Partition, Place, Timestamp};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};

use super::{
    REQUEST_TIMEOUT,
    client::{Context, reason},
    fetch_bounds,
};
use crate::{LogError, LogReader, ReadLimit, Record, WAIT_MAX};

pub(super) struct KafkaReader {
    /// `None` only while it is dropped.
    consumer: Option<StreamConsumer<Context>>,
    inquirer: Arc<BaseConsumer<Context>>,
    topic: Arc<str>,
    /// Of each partition read, the offset to return next.
    wanted: BTreeMap<Partition, Offset>,
    /// Fetched, but above a limit: the first of the next call.
    held: Option<Record>,
    /// The error that came behind records: the first of the next call.
    held_error: Option<KafkaError>,
    /// The consumer does not stand at `wanted`.
    must_assign: bool,
    /// A broker refused an offset: which one, is found by asking.
    must_check: bool,
}

impl KafkaReader {
    pub(super) fn new(
        consumer: StreamConsumer<Context>,
        inquirer: Arc<BaseConsumer<Context>>,
        topic: Arc<str>,
        from: &[(Partition, Offset)],
    ) -> Self {
        Self {
            consumer: Some(consumer),
            inquirer,
            topic,
            wanted: from.iter().copied().collect(),
            held: None,
            held_error: None,
            must_assign: true,
            must_check: false,
        }
    }

    async fn read(&mut self, limit: ReadLimit, wait: Duration) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        loop {
            if let Some(error) = self.held_error.take() {
                self.judge(&error)?;
            }
            if self.must_check {
                self.check_range().await?;
                (self.must_check, self.must_assign) = (false, true);
            }
            if self.must_assign {
                self.assign()?;
                self.must_assign = false;
            }
            let mut batch = Batch { records: Vec::new(), bytes: 0, limit };
            if let Some(record) = self.held.take() {
                self.held = batch.take(record);
            }
            if batch.records.is_empty() {
                // Nothing is lost where this is dropped: it holds nothing yet.
                let Some(first) = self.first(deadline).await else { return Ok(Vec::new()) };
                self.keep(first, &mut batch);
            }
            self.drain(&mut batch);
            if !batch.records.is_empty() {
                return Ok(batch.records);
            }
            if self.held_error.is_none() && Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// The first message or error to come until `deadline`.
    async fn first(&self, deadline: Instant) -> Option<Result<Record, KafkaError>> {
        let consumer = self.consumer.as_ref()?;
        let received = tokio::time::timeout_at(deadline.into(), consumer.recv()).await;
        received.ok().map(|message| message.and_then(|m| to_record(&m)))
    }

    /// Takes what is ready, without waiting.
    fn drain(&mut self, batch: &mut Batch) {
        // Moved out, so that `self` is free.
        let Some(consumer) = self.consumer.take() else { return };
        let mut stream = consumer.stream();
        while self.held.is_none() && self.held_error.is_none() && !batch.is_full() {
            match stream.next().now_or_never() {
                Some(Some(message)) => {
                    let record = message.and_then(|message| to_record(&message));
                    self.keep(record, batch);
                }
                Some(None) | None => break,
            }
        }
        drop(stream);
        self.consumer = Some(consumer);
    }

    fn keep(&mut self, received: Result<Record, KafkaError>, batch: &mut Batch) {
        match received {
            Ok(record) => match self.wanted.get_mut(&record.partition) {
                Some(next) if record.offset >= *next => {
                    *next = record.offset.next();
                    self.held = batch.take(record);
                }
                // Fetched before a seek.
                _ => {}
            },
            Err(error) => self.held_error = Some(error),
        }
    }

    /// What a consumer's error means. librdkafka goes on by itself, except from a bad offset.
    fn judge(&mut self, error: &KafkaError) -> Result<(), LogError> {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                self.must_check = true;
                Ok(())
            }
            Some(Code::GroupAuthorizationFailed | Code::PartitionEOF) => Ok(()),
            Some(Code::TopicAuthorizationFailed | Code::SaslAuthenticationFailed | Code::Fatal) => {
                Err(LogError::Failed(reason(error)))
            }
            Some(Code::BadMessage | Code::InvalidMessage) => {
                // Not skipped: the fetch is tried again from the same offset.
                self.must_assign = true;
                Err(LogError::Unavailable(format!("a damaged answer: {}", reason(error))))
            }
            _ => Err(LogError::Unavailable(reason(error))),
        }
    }

    /// The position that the log does not hold, if there is one.
    async fn check_range(&self) -> Result<(), LogError> {
        let (inquirer, topic) = (Arc::clone(&self.inquirer), Arc::clone(&self.topic));
        let wanted = self.position();
        let check = move || {
            for (partition, asked) in wanted {
                let bounds = fetch_bounds(&inquirer, &topic, partition)?;
                if asked < bounds.start || asked > bounds.end {
                    return Err(LogError::OutOfRange { partition, asked, bounds });
                }
            }
            Ok(())
        };
        let checked = tokio::task::spawn_blocking(check).await;
        checked.unwrap_or_else(|error| Err(LogError::Failed(error.to_string())))
    }

    /// Where a consumer assigned now has to begin: a record that is held has been fetched.
    fn position(&self) -> Vec<(Partition, Offset)> {
        self.wanted.iter().map(|(partition, offset)| (*partition, *offset)).collect()
    }

    /// Drops all that is fetched, and fetches from `wanted` on.
    fn assign(&self) -> Result<(), LogError> {
        let Some(consumer) = &self.consumer else { return Err(LogError::Closed) };
        consumer.assign(&assignment(&self.topic, &self.position())?).map_err(failed)
    }
}

fn failed(error: KafkaError) -> LogError {
    LogError::Failed(error.to_string())
}

fn assignment(topic: &str, from: &[(Partition, Offset)]) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(from.len());
    for (partition, offset) in from {
        let number = i32::try_from(partition.get()).unwrap_or(i32::MAX);
        let offset = KafkaOffset::Offset(offset.as_i64());
        list.add_partition_offset(topic, number, offset).map_err(failed)?;
    }
    Ok(list)
}

impl LogReader for KafkaReader {
    fn next(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        self.read(limit, wait).boxed()
    }

    fn seek(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        let next = self.wanted.get_mut(&partition).ok_or(LogError::NotAssigned { partition })?;
        *next = offset;
        if self.held.as_ref().is_some_and(|record| record.partition == partition) {
            self.held = None;
        }
        self.must_assign = true;
        Ok(())
    }
}

impl Drop for KafkaReader {
    /// A consumer takes its time to end, which is no async thread's.
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            drop_aside(consumer);
        }
    }
}

fn drop_aside(consumer: StreamConsumer<Context>) {
    let thread = std::thread::Builder::new().name("kafka-drop".to_owned());
    // Where no thread can be had, it is dropped here.
    let _ = thread.spawn(move || drop(consumer));
}

struct Batch {
    records: Vec<Record>,
    bytes: usize,
    limit: ReadLimit,
}

impl Batch {
    fn is_full(&self) -> bool {
        let limit = self.limit;
        !self.records.is_empty()
            && (self.records.len() >= limit.records_max || self.bytes >= limit.bytes_max)
    }

    /// Gives the record back where it would go beyond a limit.
    fn take(&mut self, record: Record) -> Option<Record> {
        let bytes = self.bytes + record.key.len() + record.value.len();
        let over = self.records.len() >= self.limit.records_max || bytes > self.limit.bytes_max;
        if over && !self.records.is_empty() {
            return Some(record);
        }
        self.bytes = bytes;
        self.records.push(record);
        None
    }
}

fn to_record(message: &BorrowedMessage<'_>) -> Result<Record, KafkaError> {
    let partition =
        u32::try_from(message.partition()).map_err(|_| KafkaError::NoMessageReceived)?;
    let offset = Offset::from_i64(message.offset()).ok_or(KafkaError::NoMessageReceived)?;
    Ok(Record {
        partition: Partition::new(partition),
        offset,
        append_time: message
            .timestamp()
            .to_millis()
            .map_or(Timestamp::EPOCH, Timestamp::from_millis),
        key: message.key().map_or_else(Bytes::new, Bytes::copy_from_slice),
        value: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
    })
}

/// The record at `place`, by a consumer of its own that reports the partition's end.
pub(super) async fn read_one(
    consumer: StreamConsumer<Context>,
    topic: &str,
    place: Place,
) -> Result<Option<Record>, LogError> {
    let read = async {
        consumer.assign(&assignment(topic, &[(place.partition, place.offset)])?).map_err(failed)?;
        loop {
            match consumer.recv().await.and_then(|message| to_record(&message)) {
                Ok(record) => return Ok(Some(record).filter(|r| r.offset == place.offset)),
                Err(error) => match error.rdkafka_error_code() {
                    Some(Code::PartitionEOF | Code::AutoOffsetReset) => return Ok(None),
                    // Where brokers come and go, librdkafka tries again; the time is bounded.
                    _ if matches!(error, KafkaError::PartitionEOF(_)) => return Ok(None),
                    _ => {}
                },
            }
        }
    };
    let late = || LogError::Unavailable("Kafka did not answer".to_owned());
    let result = tokio::time::timeout(REQUEST_TIMEOUT, read).await.unwrap_or(Err(late()));
    drop_aside(consumer);
    result
}
