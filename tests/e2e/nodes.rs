//! Several processes around one Kafka log.

use context_sync::serve::Role;
use model::Partition;

use crate::{
    client::{Device, Reply, USER, contents, say, team},
    cluster::{Cluster, LogKind, Node, flags, settings},
    crash::Child,
    equation::eventually,
};

/// ingest, projector and api, each a process of its own.
async fn apart() -> (Cluster, Node, Node) {
    let mut cluster = Cluster::start(LogKind::Kafka).await;
    cluster.restart(&[Role::Projector]).await;
    let ingest = cluster.node(&[Role::Ingest]).await;
    let api = cluster.node(&[Role::Api]).await;
    (cluster, ingest, api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_by_one_node_is_pulled_from_another() {
    let (mut cluster, ingest, api) = apart().await;
    let ann = cluster.device("ann").at(&ingest.url);
    ann.create_team("t", &[]).await;
    let bob = cluster.device("bob");
    for round in 0..30_u64 {
        let answer = ann.push(&team("t"), &[say(&format!("round {round}"))]).await.ok();
        let page = ann.at(&api.url).pull(&team("t"), &format!("cursor={round}")).await.ok();
        assert_eq!(contents(&page), [format!("round {round}")]);
        assert_eq!(page["cursor"], answer["cursor"]);
        // So is a change of members.
        let member = "/api/v1/teams/t/members/bob";
        ann.put(member, serde_json::json!({"role": "member"})).await.ok();
        bob.at(&api.url).pull(&team("t"), "").await.ok();
        bob.at(&ingest.url).push(&team("t"), &[]).await.ok();
        ann.delete(member).await.ok();
        bob.at(&api.url).pull(&team("t"), "").await.problem(403, "SYNC_005");
        bob.at(&ingest.url).push(&team("t"), &[say("late")]).await.problem(403, "SYNC_005");
    }
    cluster.node.url = api.url.clone();
    cluster.check().await;
    for node in [ingest, api] {
        node.stop().await;
    }
    cluster.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_at_many_nodes_apply_once() {
    let cluster = Cluster::start(LogKind::Kafka).await;
    let other = cluster.node(&[Role::Ingest]).await;
    let ann = cluster.device("ann");
    for round in 0..5 {
        let (key, message) = (format!("key {round}"), [say(&format!("x {round}"))]);
        let nodes = [&cluster.node.url, &other.url, &cluster.node.url, &other.url];
        let devices: Vec<Device> = nodes.map(|url| ann.at(url)).into();
        let pushing = devices.iter().map(|device| device.push_once(USER, &key, &message));
        let answers = futures_util::future::join_all(pushing).await;
        let first = answers[0].body.clone();
        for answer in answers {
            assert_eq!(answer.ok(), first);
        }
        let mismatch = ann.at(&other.url).push_once(USER, &key, &[say("another")]).await;
        mismatch.problem(409, "IDEMPOTENCY_MISMATCH");
    }
    other.stop().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projectors_come_and_go_under_load() {
    let cluster = Cluster::start(LogKind::Kafka).await;
    let ann = cluster.device("ann");
    let pushing = tokio::spawn(async move {
        for n in 0..150 {
            let pushed = ann.push_once(USER, &format!("key {n}"), &[say(&format!("x {n}"))]).await;
            assert!(matches!(pushed.status, 200 | 202), "{}", pushed.body);
        }
    });
    while !pushing.is_finished() {
        let other = cluster.node(&[Role::Projector]).await;
        other.stop().await;
    }
    pushing.await.unwrap();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_projector_takes_over() {
    let mut cluster = Cluster::start(LogKind::Kafka).await;
    let standby = cluster.node(&[Role::Projector]).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("before")]).await.ok();
    cluster.restart(&[Role::Ingest, Role::Api]).await;
    let ann = cluster.device("ann");
    let answer = ann.push_once(USER, "key", &[say("after")]).await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.body);
    cluster.check().await;
    standby.stop().await;
    cluster.node.stop().await;
}

/// Nobody would ever fold what an ingest process adds to a log that the rows are not of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_that_writes_to_another_log_takes_nothing() {
    let cluster = Cluster::start(LogKind::Kafka).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    let dir = tempfile::tempdir().unwrap();
    let flags = flags(LogKind::Kafka, cluster.database.url()).await;
    let other = Child::serve_at_once("ingest", &flags, dir.path());
    let there = ann.at(&other.url);
    let refused = eventually("it answers", async || {
        Reply::try_of(there.pushing(USER, &[say("two")])).await.ok()
    })
    .await;
    let problem = refused.problem(503, "UNAVAILABLE");
    assert_eq!(problem["accepted"], false, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("another log"), "{problem}");
    let ready = reqwest::get(format!("{}/readyz", other.ops_url)).await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("name the log that it is of"));
    let log = eventlog::open(&settings(&flags).log, dir.path()).await.unwrap();
    for partition in (0..log.partitions()).map(Partition::new) {
        assert_eq!(log.bounds(partition).await.unwrap().end.get(), 0);
    }
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one"]);
    cluster.finish().await;
}
