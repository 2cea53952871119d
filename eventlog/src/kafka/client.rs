//! The settings of every connection to Kafka.

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, ConsumerContext, StreamConsumer},
    error::KafkaError,
};

use crate::{KafkaProperty, LogConfig, LogError, OpenError};

/// The `max.message.bytes` of the events topic, and the largest request to match: 8 MiB.
pub(super) const MESSAGE_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// What a reader fetches ahead, in KiB. (One more fetch may be on its way.)
const READER_QUEUE_KIB_MAX: u32 = 4 * 1024;
/// What one partition gives in one fetch, in bytes (a larger record comes alone).
const PARTITION_FETCH_BYTES: u32 = 256 * 1024;
/// How long a broker keeps a fetch open that has nothing to return, in milliseconds.
const FETCH_WAIT_MS: u32 = 100;
/// How soon a full reader looks whether it may fetch again, in milliseconds (librdkafka: 1000).
const FETCH_BACKOFF_MS: u32 = 50;
/// The longest pause between two attempts to reach a broker, in milliseconds (librdkafka: 10,000).
const RECONNECT_BACKOFF_MS_MAX: u32 = 1000;

/// Properties that this crate's promises rest on, or that have a flag of their own.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "use --log kafka://host:port"),
    ("metadata.broker.list", "use --log kafka://host:port"),
    ("delivery.timeout.ms", "use --log-append-timeout-ms"),
    ("message.timeout.ms", "use --log-append-timeout-ms"),
    ("queue.buffering.max.kbytes", "use --log-queue-bytes-max"),
    ("queue.buffering.max.messages", "use --log-queue-bytes-max"),
    ("enable.idempotence", "it is always true: appends keep their order"),
    ("enable.gapless.guarantee", "the log is not made for it"),
    ("acks", "it is always all: an acknowledged record is durable"),
    ("request.required.acks", "it is always all: an acknowledged record is durable"),
    ("transactional.id", "the log uses no transactions"),
    ("message.max.bytes", "it is always 8 MiB"),
    ("auto.offset.reset", "it is always error: positions are never reset silently"),
    ("isolation.level", "it is always read_committed"),
    ("check.crcs", "it is always true"),
    ("enable.auto.commit", "positions live in the database"),
    ("enable.auto.offset.store", "positions live in the database"),
    ("enable.partition.eof", "the log decides it"),
];

/// Makes clients of one Kafka.
#[derive(Clone)]
pub(super) struct Clients {
    base: ClientConfig,
    properties: Vec<KafkaProperty>,
    append_timeout_ms: u32,
    pub(super) queue_bytes_max: u32,
    group: String,
}

impl Clients {
    pub(super) fn new(config: &LogConfig, brokers: &str) -> Result<Self, OpenError> {
        let properties: Vec<KafkaProperty> = config.properties().cloned().collect();
        for property in &properties {
            let reserved = RESERVED.iter().find(|(name, _)| *name == property.name);
            if let Some((name, why)) = reserved {
                let (name, reason) = ((*name).to_owned(), (*why).to_owned());
                return Err(OpenError::Property { name, reason });
            }
        }
        let mut base = ClientConfig::new();
        base.set("bootstrap.servers", brokers)
            .set("client.id", "context-sync")
            .set("reconnect.backoff.max.ms", RECONNECT_BACKOFF_MS_MAX.to_string())
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true");
        Ok(Self {
            base,
            properties,
            append_timeout_ms: config.log_append_timeout_ms,
            queue_bytes_max: config.log_queue_bytes_max,
            group: format!("{}.reader", config.log_topic_prefix),
        })
    }

    pub(super) fn producer_config(&self) -> ClientConfig {
        let mut config = self.base.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Measured: 5 (librdkafka's default) costs three to four times the latency, and
            // whatever comes during a round trip is sent as one batch anyway.
            .set("linger.ms", "0")
            .set("delivery.timeout.ms", self.append_timeout_ms.to_string())
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("queue.buffering.max.kbytes", (self.queue_bytes_max / 1024).to_string())
            // Bytes alone count.
            .set("queue.buffering.max.messages", "0");
        self.with_properties(config)
    }

    fn reader_config(&self, tells_end: bool) -> ClientConfig {
        let mut config = self.base.clone();
        config
            // librdkafka assigns nothing without it; nobody joins the group, nothing is committed.
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", FETCH_WAIT_MS.to_string())
            .set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS.to_string())
            .set("fetch.error.backoff.ms", FETCH_BACKOFF_MS.to_string())
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("fetch.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("max.partition.fetch.bytes", PARTITION_FETCH_BYTES.to_string())
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", READER_QUEUE_KIB_MAX.to_string())
            .set("enable.partition.eof", if tells_end { "true" } else { "false" });
        self.with_properties(config)
    }

    /// What people set comes last.
    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for property in &self.properties {
            config.set(&property.name, &property.value);
        }
        config
    }

    /// A client that asks questions only. (A consumer, as a producer's questions make brokers
    /// create topics.)
    pub(super) fn inquirer(&self) -> Result<BaseConsumer<Context>, OpenError> {
        self.create(&self.with_properties(self.base.clone())).map_err(|e| self.refusal(&e))
    }

    /// A client for topic administration.
    pub(super) fn admin<T: FromClientConfigAndContext<Context>>(&self) -> Result<T, OpenError> {
        self.create(&self.with_properties(self.base.clone())).map_err(|e| self.refusal(&e))
    }

    /// A consumer without an assignment. `tells_end`: it reports the end of a partition.
    pub(super) fn reader(&self, tells_end: bool) -> Result<StreamConsumer<Context>, LogError> {
        let created = self.create(&self.reader_config(tells_end));
        created.map_err(|error| LogError::Failed(self.refusal(&error).to_string()))
    }

    fn create<T: FromClientConfigAndContext<Context>>(
        &self,
        config: &ClientConfig,
    ) -> Result<T, KafkaError> {
        config.create_with_context(Context)
    }

    /// The refusal of a client's settings. A value may be a secret: it is never repeated.
    pub(super) fn refusal(&self, error: &KafkaError) -> OpenError {
        match error {
            KafkaError::ClientConfig(_, text, name, value) => {
                let text = text.trim_end_matches('\0');
                let reason = if value.is_empty() {
                    text.to_owned()
                } else {
                    text.replace(value.as_str(), "[redacted]")
                };
                OpenError::Property { name: name.clone(), reason }
            }
            other => {
                let mut text = other.to_string();
                for property in self.properties.iter().filter(|p| !p.value.is_empty()) {
                    text = text.replace(&property.value, "[redacted]");
                }
                OpenError::Unavailable(text)
            }
        }
    }
}

/// The reason in an error, for people.
pub(super) fn reason(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

/// Passes librdkafka's messages on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_librdkafka(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka");
    }
}

impl ConsumerContext for Context {}

pub(super) fn log_librdkafka(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::warn!(facility, message, "librdkafka"),
        // The other client's properties and single broken connections are nothing to act on.
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}
