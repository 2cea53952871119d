//! What only Kafka brings: topics that others made or changed, and brokers that go and come back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dev::kafka::{Kafka, KafkaConfig};
use eventlog::{AppendError, EventLog, LogAddress, LogConfig, LogError, OpenError, Record};
use futures_util::future::join_all;
use model::{LogId, Place};
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{FutureProducer, FutureRecord},
};
use support::*;

fn client(home: &Home) -> ClientConfig {
    let LogAddress::Kafka { brokers } = &home.config.log else { panic!("no Kafka") };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

fn admin(home: &Home) -> AdminClient<DefaultClientContext> {
    client(home).create().unwrap()
}

fn events_topic(home: &Home) -> String {
    format!("{}.events.v1", home.config.log_topic_prefix)
}

/// The settings of a good topic.
const GOOD: &[(&str, &str)] = &[
    ("cleanup.policy", "delete"),
    ("message.timestamp.type", "LogAppendTime"),
    ("max.message.bytes", "8388608"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
];

async fn create_events_topic(home: &Home, changes: &[(&str, &str)]) {
    let mut settings: BTreeMap<&str, &str> = GOOD.iter().copied().collect();
    settings.extend(changes.iter().copied());
    let name = events_topic(home);
    let mut topic = NewTopic::new(&name, 4, TopicReplication::Fixed(1));
    for (setting, value) in settings {
        topic = topic.set(setting, value);
    }
    let created = admin(home).create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(created[0].is_ok(), "{created:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_creators_agree_on_one_identity() {
    for _ in 0..3 {
        let home = Home::kafka().await;
        let logs = join_all((0..5).map(|_| home.open())).await;
        let ids: Vec<LogId> = logs.iter().map(|log| log.log_id()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(home.open().await.log_id(), ids[0]);
        assert!(!logs[0].is_exclusive());
    }
}

#[tokio::test]
async fn a_topic_that_would_lose_or_reorder_events_is_refused() {
    for (setting, value, wanted) in [
        ("cleanup.policy", "compact", "delete"),
        ("message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("max.message.bytes", "1048588", "8388608 or more"),
        ("retention.ms", "604800000", "-1"),
        ("retention.bytes", "1000000", "-1"),
    ] {
        let home = Home::kafka().await;
        create_events_topic(&home, &[(setting, value)]).await;
        let refused = home.try_open().await.err().unwrap();
        let text = refused.to_string();
        let OpenError::TopicSetting { topic, setting: named, found, wanted: asked, .. } = refused
        else {
            panic!("{text}");
        };
        assert_eq!((topic, named.as_str()), (events_topic(&home), setting));
        assert_eq!((found.as_str(), asked.as_str()), (value, wanted));
        assert!(text.contains(setting) && text.contains(value), "{text}");
        assert_eq!(topics(&home), [events_topic(&home)], "nothing is made");
    }
}

/// Those of a log that there are.
fn topics(home: &Home) -> Vec<String> {
    let consumer: BaseConsumer = client(home).create().unwrap();
    let metadata = consumer.fetch_metadata(None, DEADLINE).unwrap();
    let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
    names.filter(|name| name.starts_with(&home.config.log_topic_prefix)).collect()
}

#[tokio::test]
async fn of_a_log_with_other_partitions_nothing_is_made() {
    let mut home = Home::kafka().await;
    create_events_topic(&home, &[]).await;
    home.config.log_partitions = Some(5);
    let refused = home.try_open().await.err().unwrap();
    let counts = (4, 5);
    assert!(
        matches!(refused, OpenError::PartitionCount { found, wanted, .. } if (found, wanted) == counts),
        "{refused}"
    );
    assert_eq!(topics(&home), [events_topic(&home)]);
    home.config.log_partitions = Some(4);
    home.open().await;
    assert_eq!(topics(&home).len(), 2);
}

#[tokio::test]
async fn retention_is_accepted_where_it_is_configured() {
    let mut home = Home::kafka().await;
    home.config.log_retention_hours = 24;
    create_events_topic(&home, &[("retention.ms", "86400000")]).await;
    home.open().await;
    home.config.log_retention_hours = 48;
    let refused = home.try_open().await.err().unwrap();
    assert!(refused.to_string().contains("172800000 or more"), "{refused}");
}

#[tokio::test]
async fn partitions_that_were_added_are_refused() {
    let mut home = Home::kafka().await;
    home.open().await;
    let name = events_topic(&home);
    let grown = NewPartitions::new(&name, 6);
    let options = AdminOptions::new();
    admin(&home).create_partitions([&grown], &options).await.unwrap()[0].as_ref().unwrap();
    home.config.log_partitions = None;
    let deadline = Instant::now() + DEADLINE;
    // Brokers tell of new partitions a moment later.
    let refused = loop {
        assert!(Instant::now() < deadline, "six partitions were accepted");
        if let Err(refused) = home.try_open().await {
            break refused;
        }
    };
    assert!(matches!(refused, OpenError::PartitionCount { found: 6, wanted: 4, .. }), "{refused}");
}

#[tokio::test]
async fn a_removed_events_topic_is_not_replaced_silently() {
    let home = Home::kafka().await;
    append(&*home.open().await, "key", "gone").await;
    let name = events_topic(&home);
    admin(&home).delete_topics(&[&name], &AdminOptions::new()).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    let refused = loop {
        assert!(Instant::now() < deadline, "the topic was replaced");
        if let Err(refused) = home.try_open().await {
            break refused;
        }
    };
    assert!(matches!(refused, OpenError::NoLogId { .. }), "{refused}");
}

#[tokio::test]
async fn records_without_an_identity_are_refused() {
    let home = Home::kafka().await;
    create_events_topic(&home, &[]).await;
    let producer: FutureProducer = client(&home).create().unwrap();
    let name = events_topic(&home);
    let record = FutureRecord::to(&name).key("key").payload("value");
    producer.send(record, DEADLINE).await.unwrap();
    let refused = home.try_open().await.err().unwrap();
    assert!(matches!(refused, OpenError::NoLogId { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_retention_removed_is_out_of_range() {
    let home = Home::kafka().await;
    let log = home.open().await;
    for number in 0..10 {
        append_to(&*log, 1, number).await;
    }
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&events_topic(&home), 1, KafkaOffset::Offset(6)).unwrap();
    admin(&home).delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut reader = log.reader(&[(partition(0), offset(0)), (partition(1), offset(2))]).unwrap();
    let refused = loop {
        match reader.next(ALL, DEADLINE).await {
            Ok(records) => assert_eq!(records, []),
            Err(error) if error.is_retryable() => {}
            Err(error) => break error,
        }
    };
    let LogError::OutOfRange { partition: at, asked, bounds } = refused else {
        panic!("{refused}")
    };
    assert_eq!(
        (at, asked, bounds.start, bounds.end),
        (partition(1), offset(2), offset(6), offset(10))
    );
    reader.seek(partition(1), bounds.start).unwrap();
    assert_eq!(read_exactly(&mut *reader, 4).await[0].offset, offset(6));
    let removed = Place { partition: partition(1), offset: offset(5) };
    assert_eq!(log.read_one(removed).await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_committed_and_no_group_is_joined() {
    let home = Home::kafka().await;
    let log = home.open().await;
    let appended = append_to(&*log, 0, 1).await;
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let read = read_exactly(&mut *reader, 1).await;
    assert_eq!(appended.append_time, Some(read[0].append_time));
    let group = format!("{}.reader", home.config.log_topic_prefix);
    let asking: BaseConsumer = client(&home).set("group.id", &group).create().unwrap();
    let groups = asking.fetch_group_list(Some(&group), DEADLINE).unwrap();
    assert!(groups.groups().iter().all(|group| group.members().is_empty()));
    let mut list = TopicPartitionList::new();
    list.add_partition(&events_topic(&home), 0);
    let committed = asking.committed_offsets(list, DEADLINE).unwrap();
    assert_eq!(committed.elements()[0].offset(), KafkaOffset::Invalid);
}

/// Appends until one is acknowledged again, within the deadline.
async fn append_again(log: &dyn EventLog, text: &str) -> Place {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match log.append_to(partition(0), Bytes::new(), value(text)).await {
            Ok(appended) => return appended.place,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(Instant::now() < deadline, "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_goes_on_when_a_killed_broker_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let progress = dev::progress::for_stderr();
    let kafka = Kafka::start(KafkaConfig::new(dir.path()), &*progress).await.unwrap();
    let brokers = kafka.bootstrap().to_owned();
    let mut config = LogConfig::new(LogAddress::Kafka { brokers });
    config.log_append_timeout_ms = 1500;
    let home = Home { config, dir: tempfile::tempdir().unwrap() };
    let log = home.open().await;
    assert_eq!(log.partitions(), 12);
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        acknowledged.push(append_to(&*log, 0, number).await.place);
    }
    let mut records = read_at_least(&mut *reader, 20).await;

    kafka.kill().await.unwrap();
    let begun = Instant::now();
    let refused = log.append_to(partition(0), Bytes::new(), value("lost?")).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unknown { .. }), "{refused}");
    match reader.next(ALL, Duration::from_millis(500)).await {
        Ok(more) => assert_eq!(more, []),
        Err(error) => assert!(error.is_retryable(), "{error}"),
    }
    assert!(log.bounds(partition(0)).await.unwrap_err().is_retryable());
    assert!(begun.elapsed() < DEADLINE);

    kafka.restart().await.unwrap();
    acknowledged.push(append_again(&*log, "back").await);
    let deadline = Instant::now() + DEADLINE;
    let has = |records: &[Record], place| records.iter().any(|record| record.place() == place);
    while !has(&records, acknowledged[20]) {
        assert!(Instant::now() < deadline, "the reader does not go on");
        records.extend(read_at_least(&mut *reader, 1).await);
    }
    for place in acknowledged {
        assert!(has(&records, place), "{place} was acknowledged and is lost");
    }
    for pair in records.windows(2) {
        assert_eq!(pair[1].offset, pair[0].offset.next());
    }
    assert_eq!(home.open().await.log_id(), log.log_id());
}

/// A broker that takes nobody in without TLS and a password; ann's is `secret`.
async fn strict_broker(dir: &std::path::Path) -> (Kafka, String) {
    let names = ["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let authority = dir.join("authority.pem");
    std::fs::write(&authority, made.cert.pem()).unwrap();
    // A properties file takes line ends as escapes.
    let one_line = |pem: String| pem.trim().replace('\n', "\\n");
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required \
        username=broker password=broker user_broker=broker user_ann=secret;";
    let mut config = KafkaConfig::new(dir.join("kafka"));
    let settings = [
        ("listener.security.protocol.map", "BROKER:SASL_SSL,CONTROLLER:PLAINTEXT".to_owned()),
        ("sasl.enabled.mechanisms", "PLAIN".to_owned()),
        ("sasl.mechanism.inter.broker.protocol", "PLAIN".to_owned()),
        ("listener.name.broker.plain.sasl.jaas.config", login.to_owned()),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.certificate.chain", one_line(made.cert.pem())),
        ("ssl.keystore.key", one_line(made.signing_key.serialize_pem())),
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.certificates", one_line(made.cert.pem())),
    ];
    config.settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let kafka = Kafka::start(config, &*dev::progress::for_stderr()).await.unwrap();
    (kafka, authority.display().to_string())
}

#[tokio::test]
async fn tls_and_a_password_pass_through_and_stay_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (kafka, authority) = strict_broker(dir.path()).await;
    let home = |password: &str| {
        let brokers = kafka.bootstrap().to_owned();
        let mut config = LogConfig::new(LogAddress::Kafka { brokers });
        config.log_partitions = Some(4);
        let properties = [
            "security.protocol=SASL_SSL".to_owned(),
            format!("ssl.ca.location={authority}"),
            "sasl.mechanism=PLAIN".to_owned(),
            "sasl.username=ann".to_owned(),
            format!("sasl.password={password}"),
        ];
        config.kafka_properties = properties.iter().map(|p| p.parse().unwrap()).collect();
        Home { config, dir: tempfile::tempdir().unwrap() }
    };
    let log = home("secret").open().await;
    let appended = append_to(&*log, 0, 1).await;
    let mut reader = log.reader(&from_start(&*log).await).unwrap();
    assert_eq!(read_at_least(&mut *reader, 1).await[0].place(), appended.place);
    let refused = home("a wrong one").try_open().await.err().unwrap().to_string();
    assert!(refused.contains("cannot be reached"), "{refused}");
    assert!(!refused.contains("a wrong one"), "{refused}");
    log.close().await.unwrap();
    kafka.stop().await.unwrap();
}
