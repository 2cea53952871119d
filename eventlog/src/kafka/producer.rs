//! Appending: one idempotent producer, made anew if it ever fails for good.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use model::{Offset, Partition, Place};
use rdkafka::{
    ClientContext, Message, Timestamp as KafkaTimestamp,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, DeliveryResult},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;

use super::client::{Clients, log_librdkafka, reason};
use crate::{AppendError, Appended, LogError, OpenError, RECORD_BYTES_MAX, RejectReason};

/// How much longer than its timeout an append is waited for: librdkafka looks at its timeouts about
/// once a second.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

type Answer = Result<Appended, AppendError>;
type Inner = ThreadedProducer<Deliveries>;

/// Passes each delivery to whoever waits for it.
struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_librdkafka(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka producer");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Answer>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        let delivered = match result {
            Ok(message) => appended(message),
            Err((error, message)) => Err(refused(error, message)),
        };
        // Nobody may wait any more.
        let _ = answer.send(delivered);
    }
}

fn appended(message: &BorrowedMessage<'_>) -> Answer {
    let partition = u32::try_from(message.partition()).ok();
    match (partition, Offset::from_i64(message.offset())) {
        (Some(partition), Some(offset)) => Ok(Appended {
            place: Place { partition: Partition::new(partition), offset },
            append_time: match message.timestamp() {
                KafkaTimestamp::LogAppendTime(ms) => Some(model::Timestamp::from_millis(ms)),
                _ => None,
            },
        }),
        // The answer to a retry whose first attempt had succeeded may not tell the offset.
        _ => Err(AppendError::Unknown { reason: "Kafka did not tell its offset".to_owned() }),
    }
}

/// Only what a broker refused, and what never left, is certainly not in the log.
fn refused(error: &KafkaError, message: &BorrowedMessage<'_>) -> AppendError {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => RejectReason::TooLarge {
            bytes: message.payload_len() + message.key_len(),
            bytes_max: RECORD_BYTES_MAX,
        }
        .into(),
        Some(
            Code::PurgeQueue
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::InvalidRecord,
        ) => RejectReason::Unavailable(reason(error)).into(),
        _ => AppendError::Unknown { reason: reason(error) },
    }
}

pub(super) struct Producer {
    clients: Clients,
    inner: RwLock<Arc<Inner>>,
    closed: AtomicBool,
}

impl Producer {
    pub(super) fn new(clients: &Clients) -> Result<Self, OpenError> {
        let inner = create(clients).map_err(|error| clients.refusal(&error))?;
        Ok(Self {
            clients: clients.clone(),
            inner: RwLock::new(Arc::new(inner)),
            closed: AtomicBool::new(false),
        })
    }

    fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues a record.
    pub(super) fn send(
        &self,
        topic: &str,
        partition: Partition,
        key: &[u8],
        value: &[u8],
    ) -> Result<oneshot::Receiver<Answer>, RejectReason> {
        if self.closed.load(Ordering::Acquire) {
            return Err(RejectReason::Closed);
        }
        let inner = self.inner();
        match send_with(&inner, topic, partition, key, value) {
            Err(error) if is_fatal(&inner, &error) => {
                let renewed = self.renew(&inner)?;
                send_with(&renewed, topic, partition, key, value)
            }
            sent => sent,
        }
        .map_err(|error| match error.rdkafka_error_code() {
            Some(Code::QueueFull) => {
                RejectReason::QueueFull { bytes_max: self.clients.queue_bytes_max.into() }
            }
            Some(Code::MessageSizeTooLarge) => {
                let bytes = key.len() + value.len();
                RejectReason::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX }
            }
            _ => RejectReason::Unavailable(reason(&error)),
        })
    }

    /// An idempotent producer that lost count of its sequence never sends again. A new one does;
    /// the fold knows what was appended twice.
    fn renew(&self, failed: &Arc<Inner>) -> Result<Arc<Inner>, RejectReason> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&inner, failed) {
            tracing::warn!("the Kafka producer failed for good; it is made anew");
            let created = create(&self.clients);
            let new = created.map_err(|error| RejectReason::Unavailable(reason(&error)))?;
            *inner = Arc::new(new);
        }
        Ok(Arc::clone(&inner))
    }

    /// Waits until all that is queued is answered. Blocks.
    pub(super) fn close(&self, timeout: Duration) -> Result<(), LogError> {
        self.closed.store(true, Ordering::Release);
        let flushed = self.inner().flush(timeout + ANSWER_GRACE);
        flushed.map_err(|error| LogError::Failed(reason(&error)))
    }
}

fn create(clients: &Clients) -> Result<Inner, KafkaError> {
    clients.producer_config().create_with_context(Deliveries)
}

fn is_fatal(inner: &Inner, error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::Fatal) || inner.client().fatal_error().is_some()
}

fn send_with(
    inner: &Inner,
    topic: &str,
    partition: Partition,
    key: &[u8],
    value: &[u8],
) -> Result<oneshot::Receiver<Answer>, KafkaError> {
    let (answer, receiver) = oneshot::channel();
    let number = i32::try_from(partition.get()).unwrap_or(i32::MAX);
    let mut record =
        BaseRecord::with_opaque_to(topic, Box::new(answer)).partition(number).payload(value);
    if !key.is_empty() {
        record = record.key(key);
    }
    inner.send(record).map(|()| receiver).map_err(|(error, _)| error)
}

/// The outcome of a record that was queued, or refused at once.
pub(super) async fn answer(
    sent: Result<oneshot::Receiver<Answer>, RejectReason>,
    timeout: Duration,
) -> Answer {
    match tokio::time::timeout(timeout + ANSWER_GRACE, sent?).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(AppendError::Unknown { reason: "the producer was closed".to_owned() }),
        Err(_) => Err(AppendError::Unknown { reason: "Kafka did not answer".to_owned() }),
    }
}
