//! A log that stands still, as where a broker's disk or network hangs: what is too much is refused at once and by the
//! name of a limit, what was taken is there once, and all goes on with the log.

use dev::{
    kafka::{Kafka, KafkaConfig},
    progress::Quiet,
};
use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use service::auth::OrgRole;

use super::{
    Child,
    chaos::{ann, flags, open},
};
use crate::{
    client::{Device, Reply, USER, say},
    cluster::kafka_flags,
    database::Database,
    equation::{self, eventually},
    overload::shed,
};

/// Messages of a large push: four such pushes fit into the queue, a fifth does not.
const LARGE: usize = 60;
const QUEUE_BYTES: u64 = 16 << 20;

fn signal(kafka: &Kafka, name: &str) {
    let pid = kafka.pid().to_string();
    let kill = std::process::Command::new("kill").args([format!("-{name}"), pid]).status();
    assert!(kill.unwrap().success(), "SIG{name}");
}

fn large(n: usize) -> Vec<Value> {
    (0..LARGE).map(|i| say(&format!("{n}, {i}: {}", "x".repeat(65_000)))).collect()
}

/// A push, with what it was answered.
type Pushed = (String, Reply);

async fn push(device: &Device, key: String, messages: Vec<Value>) -> Pushed {
    let reply = device.push_once(USER, &key, &messages).await;
    (key, reply)
}

/// So many of them are refused while the log stands still, all by one limit; their keys.
async fn refused(
    pushes: &mut (impl Stream<Item = Pushed> + Unpin),
    count: usize,
    limit: (&str, u64),
) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        let (key, reply) = pushes.next().await.unwrap();
        let (name, max) = shed(reply);
        assert_eq!((name.as_str(), max), limit, "{key}");
        keys.push(key);
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_a_log_that_stands_still_takes_no_more_than_its_limits() {
    let dir = dev::scratch::Scratch::new().unwrap();
    let config = KafkaConfig::new(dir.path().join("kafka"));
    let kafka = Kafka::start(config, &Quiet).await.unwrap();
    let database = Database::migrated().await;
    let mut flags = flags(database.url(), &kafka_flags(kafka.bootstrap()));
    flags.extend([
        "--pushes-in-flight-max=16".to_owned(),
        format!("--log-queue-bytes-max={QUEUE_BYTES}"),
        // Longer than it stands still: whatever waits is appended then.
        "--log-append-timeout-ms=60000".to_owned(),
    ]);
    let node = Child::serve("ingest,projector,api", &flags, dir.path()).await;
    let ann = ann(&node);
    let client = reqwest::Client::new();
    let other = Device::new(&client, &node.url, "globex", "ann", OrgRole::Member);
    ann.push(USER, &[say("before")]).await.ok();

    signal(&kafka, "STOP");
    let mut bytes: FuturesUnordered<_> =
        (0..6).map(|n| push(&ann, format!("large {n}"), large(n))).collect();
    let too_many_bytes = refused(&mut bytes, 2, ("log_queue_bytes_max", QUEUE_BYTES)).await;
    // Half of what may be under way is one tenant's: four are.
    let small = |n: usize| push(&ann, format!("small {n}"), vec![say(&format!("small {n}"))]);
    let mut number: FuturesUnordered<_> = (0..12).map(small).collect();
    let too_many = refused(&mut number, 8, ("pushes_in_flight_max", 16)).await;
    let theirs = [say("theirs")];
    let mut theirs = std::pin::pin!(other.push(USER, &theirs));
    // Another tenant is let in, to wait like all; and what is there is read as ever.
    let page = tokio::select! {
        reply = &mut theirs => panic!("{reply:?}"),
        page = ann.pull(USER, "") => page.ok(),
    };
    assert_eq!(page["count"], 1);

    signal(&kafka, "CONT");
    theirs.await.ok();
    let mut taken: Vec<Pushed> = bytes.collect().await;
    taken.extend(number.collect::<Vec<_>>().await);
    assert_eq!(taken.len(), 8);
    for (key, reply) in &taken {
        assert!(matches!(reply.status, 200 | 202), "{key}: {reply:?}");
    }
    // What was taken is not applied again, and what was refused is applied now.
    let again = |key: &String| match key.split_once(' ') {
        Some(("large", n)) => large(n.parse().unwrap()),
        _ => vec![say(key)],
    };
    let refused = too_many_bytes.into_iter().chain(too_many).map(|key| (key, None));
    let taken = taken.into_iter().map(|(key, reply)| (key, Some(reply.body["push_id"].clone())));
    for (key, push_id) in refused.chain(taken) {
        let answer = eventually("it has an outcome", async || {
            let reply = ann.push_once(USER, &key, &again(&key)).await;
            (reply.status == 200).then_some(reply.body)
        })
        .await;
        assert_eq!((&answer["rejected"], &answer["skipped"]), (&json!(0), &json!(0)), "{key}");
        assert!(push_id.is_none_or(|push_id| push_id == answer["push_id"]), "{key}");
    }
    let page = ann.pull(USER, "limit=1").await.ok();
    let expected = json!(1 + 6 * LARGE + 12);
    assert_eq!((&page["count"], &page["head"]), (&expected, &expected), "each once");
    assert_eq!(other.pull(USER, "").await.ok()["count"], 1);
    let log = open(&flags, dir.path()).await;
    equation::check(log.as_ref(), &database.owner_pool()).await;
}
