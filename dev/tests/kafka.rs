//! Apache Kafka as it is really started, stopped, killed and started again.
#![allow(clippy::unwrap_used, reason = "a test may panic, and so may its helpers")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dev::kafka::{Kafka, KafkaConfig, KafkaError};
use dev::progress::Quiet;

const LIMIT: Duration = Duration::from_secs(30);

const TOPIC: &str = "kept";

fn is_open(kafka: &Kafka) -> bool {
    TcpStream::connect(kafka.bootstrap()).is_ok()
}

/// Asks for the metadata of [`TOPIC`] in Kafka's protocol (key 3, version 1), and returns the answer's bytes. A broker
/// that creates topics by itself creates it.
fn metadata(kafka: &Kafka) -> Vec<u8> {
    let mut request = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 1, 0, TOPIC.len() as u8];
    request.extend(TOPIC.as_bytes());
    let mut broker = TcpStream::connect(kafka.bootstrap()).unwrap();
    broker.set_read_timeout(Some(LIMIT)).unwrap();
    broker.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    broker.write_all(&request).unwrap();
    let mut length = [0; 4];
    broker.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
    broker.read_exact(&mut answer).unwrap();
    answer
}

/// Whether the broker serves [`TOPIC`]: no error stands before its name.
fn has_topic(kafka: &Kafka) -> bool {
    let expected = [&[0, 0, 0, TOPIC.len() as u8], TOPIC.as_bytes()].concat();
    metadata(kafka).windows(expected.len()).any(|window| window == expected)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn starts_stops_and_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let settings = vec![("auto.create.topics.enable".into(), "true".into())];
    let config = KafkaConfig { settings, ..KafkaConfig::new(directory.path()) };
    let kafka = Kafka::start(config, &Quiet).await.unwrap();
    assert!(kafka.is_running());
    let meta = fs::read_to_string(directory.path().join("data/meta.properties")).unwrap();
    let bootstrap = kafka.bootstrap().to_owned();
    wait_until("the topic is made", || has_topic(&kafka));

    let error = Kafka::start(KafkaConfig::new(directory.path()), &Quiet).await.unwrap_err();
    assert!(matches!(error, KafkaError::InUse { .. }), "{error}");

    kafka.kill().await.unwrap();
    assert!(!kafka.is_running() && !is_open(&kafka));
    kafka.restart().await.unwrap();
    assert_eq!(kafka.bootstrap(), bootstrap);
    kafka.stop().await.unwrap();
    assert!(!is_open(&kafka));
    drop(kafka);

    // This one makes no topics by itself: what it knows was kept.
    let again = Kafka::start(KafkaConfig::new(directory.path()), &Quiet).await.unwrap();
    wait_until("the topic is kept", || has_topic(&again));
    let kept = fs::read_to_string(directory.path().join("data/meta.properties")).unwrap();
    assert_eq!(kept, meta);
}

#[tokio::test]
async fn one_broker_serves_the_tests_of_a_process() {
    let (first, second) = tokio::join!(dev::kafka::for_tests(), dev::kafka::for_tests());
    assert_eq!(first.unwrap(), second.unwrap());
}
