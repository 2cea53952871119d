//! The topics: created with the right settings, checked at every start, and the log's identity.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{LogId, Partition};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
    },
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::RDKafkaErrorCode as Code,
};
use uuid::Uuid;

use super::{
    REQUEST_TIMEOUT,
    client::{Clients, Context, MESSAGE_BYTES_MAX, reason},
    fetch_bounds,
    producer::{self, Producer},
};
use crate::{Bounds, KAFKA_PARTITIONS, LogConfig, Name, OpenError};

/// The pause between two looks at something that is about to happen.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Name {
    const fn topic(self) -> &'static str {
        match self {
            Self::Events => "events.v1",
            Self::Backups => "backups.v1",
        }
    }

    /// What the key of a log's identity begins with in the meta topic; its id follows, so that
    /// compaction keeps every candidate, and the value is the number of partitions.
    const fn log_id_key(self) -> &'static str {
        match self {
            Self::Events => "log_id/",
            Self::Backups => "backups_log_id/",
        }
    }
}

/// What opening the topics found.
pub(super) struct Opened {
    pub(super) log_id: LogId,
    pub(super) recovered_from: Option<LogId>,
    pub(super) partitions: u32,
    pub(super) events_topic: String,
    pub(super) meta_topic: String,
}

struct Topics<'a> {
    config: &'a LogConfig,
    name: Name,
    clients: &'a Clients,
    admin: AdminClient<Context>,
    inquirer: &'a Arc<BaseConsumer<Context>>,
    events: String,
    meta: String,
    deadline: Instant,
}

/// Creates the topics that do not exist, checks them, and reads the log's identity.
pub(super) async fn open(
    config: &LogConfig,
    name: Name,
    clients: &Clients,
    inquirer: &Arc<BaseConsumer<Context>>,
    producer: &Producer,
    deadline: Instant,
) -> Result<Opened, OpenError> {
    let prefix = &config.log_topic_prefix;
    let (events, meta) = (format!("{prefix}.{}", name.topic()), format!("{prefix}.meta.v1"));
    let wanted = config.log_partitions;
    if let Some(count) = wanted.filter(|count| !(1..=Partition::COUNT_MAX).contains(count)) {
        return Err(OpenError::InvalidPartitionCount(count));
    }
    let admin = clients.admin()?;
    let topics = Topics { config, name, clients, admin, inquirer, events, meta, deadline };

    let (found, known) = topics.create_missing().await?;
    topics.check_partitions(found)?;
    let log = format!("topic {}", topics.events);
    let identity = match known {
        Some(identity) => identity,
        None => topics.make_identity(producer, found).await?,
    };
    if identity.partitions != found {
        let wanted = identity.partitions;
        return Err(OpenError::PartitionCount { log, found, wanted });
    }
    Ok(Opened {
        log_id: identity.log_id,
        recovered_from: identity.recovered_from,
        partitions: found,
        events_topic: topics.events,
        meta_topic: topics.meta,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    log_id: LogId,
    recovered_from: Option<LogId>,
    partitions: u32,
}

impl Topics<'_> {
    /// The number of partitions of the events topic, and the identity if there is one already. What exists is checked
    /// before anything is created: of a log that is refused, nothing is made.
    async fn create_missing(&self) -> Result<(u32, Option<Identity>), OpenError> {
        let events = self.partition_count(&self.events).await?;
        let meta = self.partition_count(&self.meta).await?;
        let identity = if meta.is_some() { self.read_identity().await? } else { None };
        if let (None, Some(_)) = (events, identity) {
            // Asked again: another process may have created both just now.
            if self.partition_count(&self.events).await?.is_none() {
                return Err(OpenError::NoLogId {
                    log: format!("topic {}", self.events),
                    reason: format!(
                        "it is gone, but its identity is still in {}; a new log is another log: \
                         remove that topic too, or use another --log-topic-prefix",
                        self.meta
                    ),
                });
            }
        }
        if self.config.log_must_exist && (events.is_none() || identity.is_none()) {
            let log = format!("topic {} with a log_id on {}", self.events, self.config.log);
            return Err(OpenError::Missing { log });
        }
        if let Some(found) = events {
            self.check_partitions(found)?;
            self.check_settings(&self.events).await?;
            if identity.is_none() {
                self.refuse_records(found).await?;
            }
        }
        if meta.is_some() {
            self.check_settings(&self.meta).await?;
        }
        let missing = [(&self.events, events), (&self.meta, meta)];
        for (topic, _) in missing.iter().filter(|(_, found)| found.is_none()) {
            self.create(topic).await?;
        }
        let found = self.wait_until_known(&self.events).await?;
        self.wait_until_known(&self.meta).await?;
        for (topic, _) in missing.iter().filter(|(_, found)| found.is_none()) {
            self.check_settings(topic).await?;
        }
        Ok((found, identity))
    }

    fn check_partitions(&self, found: u32) -> Result<(), OpenError> {
        let log = format!("topic {}", self.events);
        match self.config.log_partitions.filter(|wanted| *wanted != found) {
            Some(wanted) => Err(OpenError::PartitionCount { log, found, wanted }),
            None => Ok(()),
        }
    }

    /// `None` if the topic does not exist. Waits while no broker can be reached.
    async fn partition_count(&self, topic: &str) -> Result<Option<u32>, OpenError> {
        loop {
            let (inquirer, name) = (Arc::clone(self.inquirer), topic.to_owned());
            let asked = tokio::task::spawn_blocking(move || {
                let metadata = inquirer.fetch_metadata(Some(&name), REQUEST_TIMEOUT)?;
                let topic = metadata.topics().iter().find(|topic| topic.name() == name);
                let error = topic.and_then(|topic| topic.error()).map(Code::from);
                let led = topic.is_some_and(|t| t.partitions().iter().all(|p| p.leader() >= 0));
                let count = topic.map_or(0, |topic| topic.partitions().len());
                Ok::<_, rdkafka::error::KafkaError>((error, led, count))
            });
            let problem = match asked.await {
                Ok(Ok((None, true, count))) if count > 0 => return Ok(u32::try_from(count).ok()),
                Ok(Ok((Some(Code::UnknownTopicOrPartition | Code::UnknownTopic), _, _))) => {
                    return Ok(None);
                }
                Ok(Ok((Some(code), _, _))) => code.to_string(),
                Ok(Ok((None, _, _))) => format!("topic {topic} has no leader"),
                Ok(Err(error)) => reason(&error),
                Err(error) => error.to_string(),
            };
            self.pause(&problem).await?;
        }
    }

    async fn pause(&self, problem: &str) -> Result<(), OpenError> {
        if Instant::now() >= self.deadline {
            let log = &self.config.log;
            return Err(OpenError::Unavailable(format!(
                "{log}: {problem}; check the address, the network and --kafka-property"
            )));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }

    async fn wait_until_known(&self, topic: &str) -> Result<u32, OpenError> {
        loop {
            if let Some(count) = self.partition_count(topic).await? {
                return Ok(count);
            }
            self.pause(&format!("topic {topic} was created but is not known yet")).await?;
        }
    }

    /// Creates the topic, unless another process just did.
    async fn create(&self, topic: &str) -> Result<(), OpenError> {
        let settings = self.settings_to_create(topic);
        let partitions = if topic == self.events {
            self.config.log_partitions.unwrap_or(KAFKA_PARTITIONS)
        } else {
            1
        };
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        loop {
            let replication = TopicReplication::Fixed(self.config.log_replication);
            let new = NewTopic::new(topic, partitions, replication);
            let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
            let problem = match self.admin.create_topics([&new], &options).await {
                Ok(results) => match results.into_iter().next() {
                    Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => return Ok(()),
                    Some(Err((_, code))) if is_final(code) => {
                        return Err(OpenError::Unavailable(format!(
                            "topic {topic} cannot be created: {code}; create it by hand with {}",
                            describe(&settings)
                        )));
                    }
                    Some(Err((_, code))) => code.to_string(),
                    None => "no answer".to_owned(),
                },
                Err(error) => reason(&error),
            };
            self.pause(&format!("topic {topic} cannot be created: {problem}")).await?;
        }
    }

    fn settings_to_create(&self, topic: &str) -> Vec<(&'static str, String)> {
        let mut settings = if topic == self.meta {
            vec![("cleanup.policy", "compact".to_owned())]
        } else {
            vec![
                ("cleanup.policy", "delete".to_owned()),
                ("message.timestamp.type", "LogAppendTime".to_owned()),
                ("max.message.bytes", MESSAGE_BYTES_MAX.to_string()),
                ("retention.ms", or_unlimited(self.retention_ms())),
                ("retention.bytes", or_unlimited(self.config.log_retention_bytes)),
            ]
        };
        if spares_a_broker(self.config.log_replication) {
            settings.push((IN_SYNC, "2".to_owned()));
        }
        settings
    }

    fn retention_ms(&self) -> u64 {
        self.config.log_retention_hours.saturating_mul(3_600_000)
    }

    async fn check_settings(&self, topic: &str) -> Result<(), OpenError> {
        loop {
            let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
            let named = [ResourceSpecifier::Topic(topic)];
            let problem = match self.admin.describe_configs(&named, &options).await {
                Ok(described) => match described.into_iter().next() {
                    Some(Ok(described)) => {
                        self.warn_of_one_copy(topic, entries(&described).get(IN_SYNC)).await;
                        return self.check_described(topic, &described);
                    }
                    Some(Err(code)) => code.to_string(),
                    None => "the brokers did not describe it".to_owned(),
                },
                Err(error) => reason(&error),
            };
            self.pause(&format!("the settings of topic {topic} cannot be read: {problem}")).await?;
        }
    }

    /// A warning is all that comes of it: brokers that do not say how many replicas there are keep nobody from starting.
    async fn warn_of_one_copy(&self, topic: &str, in_sync: Option<&&str>) {
        let in_sync = in_sync.and_then(|in_sync| in_sync.parse().ok());
        let (inquirer, name) = (Arc::clone(self.inquirer), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = inquirer.fetch_metadata(Some(&name), REQUEST_TIMEOUT).ok()?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
            topic.partitions().iter().map(|partition| partition.replicas().len()).min()
        });
        let Ok(Some(replicas)) = asked.await else { return };
        if may_be_one_copy(replicas, in_sync) {
            tracing::warn!(
                topic,
                replicas,
                "min.insync.replicas is 1: what is acknowledged may be on one broker alone, and is lost with it; \
                 set it to 2 with kafka-configs --alter, and have three replicas, so that appends go on while a broker is down"
            );
        }
    }

    fn check_described(&self, topic: &str, described: &ConfigResource) -> Result<(), OpenError> {
        let keeps = "records would be removed before anything archived them; ask for it with \
                     --log-retention-hours or --log-retention-bytes, or change the topic";
        let change = "change the topic with kafka-configs --alter";
        let checked = Checked { topic, settings: entries(described) };
        if topic == self.meta {
            return checked.equals("cleanup.policy", "compact", change);
        }
        checked.equals("cleanup.policy", "delete", change)?;
        checked.equals("message.timestamp.type", "LogAppendTime", change)?;
        let size = u64::from(MESSAGE_BYTES_MAX);
        checked.at_least("max.message.bytes", Some(size), change)?;
        let limit = |asked: u64| if asked == 0 { None } else { Some(asked) };
        checked.at_least("retention.ms", limit(self.retention_ms()), keeps)?;
        checked.at_least("retention.bytes", limit(self.config.log_retention_bytes), keeps)
    }

    /// The identity with the lowest offset: of two that were written at once, all take the same.
    async fn read_identity(&self) -> Result<Option<Identity>, OpenError> {
        loop {
            let (inquirer, topic) = (Arc::clone(self.inquirer), self.meta.clone());
            let bounds = tokio::task::spawn_blocking(move || {
                fetch_bounds(&inquirer, &topic, Partition::new(0))
            });
            let problem = match bounds.await {
                Ok(Ok(bounds)) if bounds.start == bounds.end => return Ok(None),
                Ok(Ok(bounds)) => match self.scan_identity(bounds).await {
                    Ok(identity) => return Ok(identity),
                    Err(problem) => problem,
                },
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            self.pause(&format!("topic {} cannot be read: {problem}", self.meta)).await?;
        }
    }

    /// From an offset, by its number: librdkafka asks for the beginning's only after half a second.
    async fn scan_identity(&self, bounds: Bounds) -> Result<Option<Identity>, String> {
        let consumer: StreamConsumer<Context> =
            self.clients.reader(true).map_err(|error| error.to_string())?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.meta, 0, KafkaOffset::Offset(bounds.start.as_i64()))
            .and_then(|()| consumer.assign(&list))
            .map_err(|error| error.to_string())?;
        let mut found = Found::default();
        let scan = async {
            loop {
                match consumer.recv().await {
                    Ok(message) => {
                        found.take(self.name, message.key(), message.payload());
                        if message.offset() + 1 >= bounds.end.as_i64() {
                            return Ok(found.identity());
                        }
                    }
                    Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return Ok(found.identity()),
                    Err(error) => match error.rdkafka_error_code() {
                        Some(Code::PartitionEOF) => return Ok(found.identity()),
                        Some(Code::TopicAuthorizationFailed) => return Err(reason(&error)),
                        _ => {}
                    },
                }
            }
        };
        let scanned = tokio::time::timeout(REQUEST_TIMEOUT, scan).await;
        scanned.unwrap_or_else(|_| Err("Kafka did not answer".to_owned()))
    }

    async fn make_identity(
        &self,
        producer: &Producer,
        partitions: u32,
    ) -> Result<Identity, OpenError> {
        if let Some(identity) = self.read_identity().await? {
            return Ok(identity);
        }
        let key = format!("{}{}", self.name.log_id_key(), Uuid::new_v4());
        let value = partitions.to_string();
        let meta = Partition::new(0);
        loop {
            let sent = producer.send(&self.meta, meta, key.as_bytes(), value.as_bytes());
            match producer::answer(sent, self.config.append_timeout()).await {
                Ok(_) => break,
                Err(error) => self.pause(&error.to_string()).await?,
            }
        }
        self.read_identity().await?.ok_or_else(|| OpenError::NoLogId {
            log: format!("topic {}", self.events),
            reason: format!("it was written to {}, but is not there; start again", self.meta),
        })
    }

    /// A log with records but no identity has lost it.
    async fn refuse_records(&self, partitions: u32) -> Result<(), OpenError> {
        for number in 0..partitions {
            let bounds = loop {
                let (inquirer, topic) = (Arc::clone(self.inquirer), self.events.clone());
                let asked = tokio::task::spawn_blocking(move || {
                    fetch_bounds(&inquirer, &topic, Partition::new(number))
                });
                match asked.await {
                    Ok(Ok(bounds)) => break bounds,
                    Ok(Err(error)) => self.pause(&error.to_string()).await?,
                    Err(error) => self.pause(&error.to_string()).await?,
                }
            };
            // Asked again: another process may have given it one just now.
            if bounds.end.get() > 0 && !self.has_identity().await? {
                return Err(OpenError::NoLogId {
                    log: format!("topic {}", self.events),
                    reason: format!(
                        "topic {} holds none; restore that topic, or use another \
                         --log-topic-prefix",
                        self.meta
                    ),
                });
            }
        }
        Ok(())
    }

    async fn has_identity(&self) -> Result<bool, OpenError> {
        let is_there = self.partition_count(&self.meta).await?.is_some();
        Ok(is_there && self.read_identity().await?.is_some())
    }
}

/// The key of a log's record that says which log it goes on from; the value is that one's id.
pub(super) fn recovered_from_key(log: LogId) -> String {
    format!("{RECOVERED_FROM}{log}")
}

const RECOVERED_FROM: &str = "recovered_from/";

/// What the meta topic has so far.
#[derive(Default)]
struct Found {
    identity: Option<Identity>,
    /// By the id of the log that goes on.
    recovered: HashMap<LogId, LogId>,
}

impl Found {
    fn take(&mut self, name: Name, key: Option<&[u8]>, value: Option<&[u8]>) {
        if self.identity.is_none() {
            self.identity = parse_identity(name, key, value);
        }
        if let Some((log, lost)) = parse_recovered(key, value) {
            self.recovered.insert(log, lost);
        }
    }

    fn identity(&self) -> Option<Identity> {
        let identity = self.identity?;
        let recovered_from = self.recovered.get(&identity.log_id).copied();
        Some(Identity { recovered_from, ..identity })
    }
}

fn parse_identity(name: Name, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Identity> {
    let id = std::str::from_utf8(key?).ok()?.strip_prefix(name.log_id_key())?;
    let partitions = std::str::from_utf8(value?).ok()?.parse().ok()?;
    let log_id = LogId(Uuid::parse_str(id).ok()?);
    Some(Identity { log_id, recovered_from: None, partitions })
}

fn parse_recovered(key: Option<&[u8]>, value: Option<&[u8]>) -> Option<(LogId, LogId)> {
    let log = std::str::from_utf8(key?).ok()?.strip_prefix(RECOVERED_FROM)?;
    let lost = std::str::from_utf8(value?).ok()?;
    Some((LogId(Uuid::parse_str(log).ok()?), LogId(Uuid::parse_str(lost).ok()?)))
}

const fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidConfig
            | Code::PolicyViolation
    )
}

fn or_unlimited(limit: u64) -> String {
    if limit == 0 { "-1".to_owned() } else { limit.to_string() }
}

/// The setting of a topic that says how many replicas must have a record before it is acknowledged; `acks=all` waits only
/// for those that are in sync at the moment.
const IN_SYNC: &str = "min.insync.replicas";

/// Whether appends that two replicas must have go on while one broker is down. A number that the brokers decide (-1) is not
/// known before the topic is there.
const fn spares_a_broker(replication: i32) -> bool {
    replication >= 3
}

/// Whether what is acknowledged may be in one copy, though the topic has more.
fn may_be_one_copy(replicas: usize, in_sync: Option<u32>) -> bool {
    replicas > 1 && in_sync.is_some_and(|in_sync| in_sync < 2)
}

fn describe(settings: &[(&'static str, String)]) -> String {
    let pairs: Vec<String> =
        settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(",")
}

fn entries(resource: &ConfigResource) -> HashMap<&str, &str> {
    let entries = resource.entries.iter();
    entries.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?))).collect()
}

/// A topic's settings as the brokers describe them.
struct Checked<'a> {
    topic: &'a str,
    settings: HashMap<&'a str, &'a str>,
}

impl Checked<'_> {
    fn found(&self, setting: &str) -> &str {
        self.settings.get(setting).copied().unwrap_or("unknown")
    }

    fn equals(&self, setting: &str, wanted: &str, advice: &str) -> Result<(), OpenError> {
        if self.found(setting) == wanted { Ok(()) } else { self.refuse(setting, wanted, advice) }
    }

    /// `least`: `None` for unlimited, which Kafka writes -1.
    fn at_least(&self, setting: &str, least: Option<u64>, advice: &str) -> Result<(), OpenError> {
        let found = self.found(setting).parse::<i64>().ok();
        let wide = found == Some(-1)
            || found.and_then(|f| u64::try_from(f).ok()).zip(least).is_some_and(|(f, l)| f >= l);
        let wanted = least.map_or_else(|| "-1".to_owned(), |least| format!("{least} or more"));
        if wide { Ok(()) } else { self.refuse(setting, &wanted, advice) }
    }

    fn refuse(&self, setting: &str, wanted: &str, advice: &str) -> Result<(), OpenError> {
        Err(OpenError::TopicSetting {
            topic: self.topic.to_owned(),
            setting: setting.to_owned(),
            found: self.found(setting).to_owned(),
            wanted: wanted.to_owned(),
            advice: advice.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_is_warned_of_where_there_could_be_more() {
        // replicas, min.insync.replicas => a warning
        for (replicas, in_sync, warns) in [
            (1, Some(1), false),
            (2, Some(1), true),
            (3, Some(1), true),
            (3, Some(2), false),
            (3, None, false),
        ] {
            assert_eq!(may_be_one_copy(replicas, in_sync), warns, "{replicas} {in_sync:?}");
        }
    }

    #[test]
    fn two_must_have_a_record_where_a_third_may_be_down() {
        assert_eq!([-1, 1, 2, 3, 5].map(spares_a_broker), [false, false, false, true, true]);
    }
}
