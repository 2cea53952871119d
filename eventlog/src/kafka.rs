//! The log on Apache Kafka: explicit partitions, manual assignment, and no consumer group
//! (docs/decisions/0002-log-consumers.md).

mod client;
mod producer;
mod reader;
mod topics;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use model::{LogId, Offset, Partition, Place};
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::{
    AppendFuture, Bounds, EventLog, LogConfig, LogError, LogReader, Name, OpenError,
    RECORD_BYTES_MAX, Record, RejectReason,
};
use client::{Clients, Context, reason};
use producer::Producer;
use reader::KafkaReader;

/// How long one question to the brokers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long opening the log may take: brokers that start, topics that become known.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long, of one that must be there already: somebody looks at it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// An open log on Kafka.
struct KafkaLog {
    log_id: LogId,
    recovered_from: Option<LogId>,
    partitions: u32,
    topic: Arc<str>,
    meta: Arc<str>,
    clients: Clients,
    producer: Arc<Producer>,
    /// Asks the brokers; reads nothing.
    inquirer: Arc<BaseConsumer<Context>>,
    append_timeout: Duration,
}

pub(crate) async fn open(
    config: &LogConfig,
    name: Name,
    brokers: &str,
) -> Result<Arc<dyn EventLog>, OpenError> {
    let clients = Clients::new(config, brokers)?;
    let within = if config.log_must_exist { LOOK_TIMEOUT } else { OPEN_TIMEOUT };
    let deadline = Instant::now() + within;
    let inquirer = Arc::new(clients.inquirer()?);
    let producer = Arc::new(Producer::new(&clients)?);
    let opened = topics::open(config, name, &clients, &inquirer, &producer, deadline).await?;
    Ok(Arc::new(KafkaLog {
        log_id: opened.log_id,
        recovered_from: opened.recovered_from,
        partitions: opened.partitions,
        topic: opened.events_topic.into(),
        meta: opened.meta_topic.into(),
        clients,
        producer,
        inquirer,
        append_timeout: config.append_timeout(),
    }))
}

/// The watermarks of a partition. Blocks, at most [`REQUEST_TIMEOUT`].
fn fetch_bounds(
    inquirer: &BaseConsumer<Context>,
    topic: &str,
    partition: Partition,
) -> Result<Bounds, LogError> {
    let number = i32::try_from(partition.get()).unwrap_or(i32::MAX);
    let (low, high) = inquirer
        .fetch_watermarks(topic, number, REQUEST_TIMEOUT)
        .map_err(|error| LogError::Unavailable(reason(&error)))?;
    match (Offset::from_i64(low), Offset::from_i64(high)) {
        (Some(start), Some(end)) => Ok(Bounds { start, end }),
        _ => Err(LogError::Unavailable(format!("partition {partition} has no leader"))),
    }
}

impl KafkaLog {
    fn check(&self, partition: Partition) -> Result<(), LogError> {
        let partitions = self.partitions;
        if partition.get() < partitions {
            Ok(())
        } else {
            Err(LogError::NoSuchPartition { partition, partitions })
        }
    }
}

impl EventLog for KafkaLog {
    fn log_id(&self) -> LogId {
        self.log_id
    }

    fn recovered_from(&self) -> Option<LogId> {
        self.recovered_from
    }

    fn recover_from(&self, lost: LogId) -> BoxFuture<'_, Result<(), LogError>> {
        let (key, value) = (topics::recovered_from_key(self.log_id), lost.to_string());
        let meta = Partition::new(0);
        let sent = self.producer.send(&self.meta, meta, key.as_bytes(), value.as_bytes());
        let answer = producer::answer(sent, self.append_timeout);
        async move {
            let noted = answer.await;
            noted.map(drop).map_err(|error| LogError::Unavailable(error.to_string()))
        }
        .boxed()
    }

    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn is_exclusive(&self) -> bool {
        false
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        let partitions = self.partitions;
        let bytes = key.len() + value.len();
        let sent = if partition.get() >= partitions {
            Err(RejectReason::NoSuchPartition { partition, partitions })
        } else if bytes > RECORD_BYTES_MAX {
            Err(RejectReason::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX })
        } else {
            self.producer.send(&self.topic, partition, &key, &value)
        };
        producer::answer(sent, self.append_timeout).boxed()
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        let (inquirer, topic) = (Arc::clone(&self.inquirer), Arc::clone(&self.topic));
        let checked = self.check(partition);
        async move {
            checked?;
            tokio::task::spawn_blocking(move || fetch_bounds(&inquirer, &topic, partition))
                .await
                .unwrap_or_else(|error| Err(LogError::Failed(error.to_string())))
        }
        .boxed()
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        for (partition, _) in from {
            self.check(*partition)?;
        }
        let consumer = self.clients.reader(false)?;
        let (topic, inquirer) = (Arc::clone(&self.topic), Arc::clone(&self.inquirer));
        Ok(Box::new(KafkaReader::new(consumer, inquirer, topic, from)))
    }

    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        async move {
            let bounds = self.bounds(place.partition).await?;
            if !(bounds.start..bounds.end).contains(&place.offset) {
                return Ok(None);
            }
            let consumer = self.clients.reader(true)?;
            reader::read_one(consumer, &self.topic, place).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        let producer = Arc::clone(&self.producer);
        let timeout = self.append_timeout;
        async move {
            tokio::task::spawn_blocking(move || producer.close(timeout))
                .await
                .unwrap_or_else(|error| Err(LogError::Failed(error.to_string())))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
