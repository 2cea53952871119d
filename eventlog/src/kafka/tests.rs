//! What can be told without a broker: that nothing waits for ever, and that no secret is shown.

use std::time::{Duration, Instant};

use super::*;
use crate::{AppendError, LogAddress, ReadLimit};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";
/// More than any timeout here, and what librdkafka adds to it.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(property: &str) -> LogConfig {
    let mut config = LogConfig::new(LogAddress::Kafka { brokers: NOWHERE.to_owned() });
    config.log_append_timeout_ms = 500;
    if !property.is_empty() {
        config.kafka_properties = vec![property.parse().unwrap()];
    }
    config
}

fn log_nowhere() -> KafkaLog {
    let clients = Clients::new(&config(""), NOWHERE).unwrap();
    KafkaLog {
        log_id: LogId(uuid::Uuid::nil()),
        partitions: 2,
        recovered_from: None,
        topic: "none.events.v1".into(),
        meta: "meta".into(),
        producer: Arc::new(Producer::new(&clients).unwrap()),
        inquirer: Arc::new(clients.inquirer().unwrap()),
        clients,
        append_timeout: Duration::from_millis(500),
    }
}

#[tokio::test]
async fn without_a_broker_nothing_waits_for_ever() {
    let log = log_nowhere();
    let begun = Instant::now();
    let append = log.append(Bytes::new(), Bytes::from_static(b"lost"));
    assert!(matches!(append.await.unwrap_err(), AppendError::Unknown { .. }));
    let unreachable = log.bounds(Partition::new(0)).await.unwrap_err();
    assert!(unreachable.is_retryable(), "{unreachable}");
    let mut reader = log.reader(&[(Partition::new(0), Offset::ZERO)]).unwrap();
    let limit = ReadLimit { records_max: 1, bytes_max: 1 };
    match reader.next(limit, Duration::from_millis(200)).await {
        Ok(records) => assert_eq!(records, []),
        Err(error) => assert!(error.is_retryable(), "{error}"),
    }
    log.close().await.unwrap();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_start_without_a_broker_says_so() {
    let begun = Instant::now();
    let config = config("");
    let clients = Clients::new(&config, NOWHERE).unwrap();
    let inquirer = Arc::new(clients.inquirer().unwrap());
    let producer = Producer::new(&clients).unwrap();
    let opened = topics::open(&config, Name::Events, &clients, &inquirer, &producer, begun).await;
    let refused = opened.err().unwrap();
    assert!(matches!(refused, OpenError::Unavailable(_)), "{refused}");
    assert!(refused.to_string().contains(NOWHERE), "{refused}");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn reserved_and_wrong_properties_are_refused_without_their_value() {
    let cases = [
        ("linger.ms=1,acks=1", "acks"),
        ("auto.offset.reset=latest", "auto.offset.reset"),
        ("enable.idempotence=false", "enable.idempotence"),
        ("security.protocol=hunter2", "security.protocol"),
        ("sasl.paswort=hunter2", "sasl.paswort"),
        ("ssl.ca.pem=hunter2\nsecurity.protocol=ssl", ""),
    ];
    for (property, name) in cases {
        let refused = open(&config(property), Name::Events, NOWHERE).await.err().unwrap();
        let text = format!("{refused} {refused:?}");
        assert!(text.contains(name), "{property}: {text}");
        assert!(!text.contains("hunter2"), "{property}: {text}");
    }
}
