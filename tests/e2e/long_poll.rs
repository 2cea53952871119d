//! `wait`: a pull is held until there is something newer than its cursor.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    client::{Device, Reply, USER, contents, say, team},
    cluster::{Cluster, LogKind},
    equation::{DEADLINE, eventually},
    overload::shed,
};

/// Long enough that only a wake-up comes sooner.
const WAIT: u64 = 40;
const SOON: Duration = Duration::from_secs(20);

/// Pulls and waits at one node; meanwhile pushes at the other.
async fn wakes(puller: &Device, pusher: &Device, scope: &str) {
    for round in 0..3 {
        let cursor = puller.pull(scope, "").await.ok()["head"].as_u64().unwrap();
        let (puller, path) = (puller.clone(), scope.to_owned());
        let began = Instant::now();
        let waiting = tokio::spawn(async move {
            puller.pull(&path, &format!("cursor={cursor}&wait={WAIT}")).await.ok()
        });
        tokio::time::sleep(Duration::from_millis(50 * round)).await; // asleep, or not yet
        let content = format!("news {round} for {scope}");
        pusher.push(scope, &[say(&content)]).await.ok();
        assert_eq!(contents(&waiting.await.unwrap()), [content]);
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

both_logs! {
    a_push_wakes_who_waits,
    when_the_wait_runs_out_there_are_no_messages,
    a_hundred_wait_at_once,
    who_waits_is_answered_when_the_process_stops,
    one_tenants_long_polls_leave_places_for_anothers,
}

async fn a_push_wakes_who_waits(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    wakes(&ann, &ann.named("phone"), USER).await;
    ann.create_team("t", &[("bob", "member")]).await;
    wakes(&cluster.device("bob"), &ann, &team("t")).await;
}

async fn when_the_wait_runs_out_there_are_no_messages(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("x")]).await.ok();
    let began = Instant::now();
    let page = ann.pull(USER, "cursor=1&wait=1").await.ok();
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    assert_eq!(
        (&page["messages"], &page["cursor"], &page["has_more"]),
        (&json!([]), &json!(1), &json!(false))
    );
    // What is there already is not waited for.
    let began = Instant::now();
    ann.pull(USER, "cursor=0&wait=60").await.ok();
    assert!(began.elapsed() < SOON);
}

async fn a_hundred_wait_at_once(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("t", &[]).await;
    let waiting: Vec<_> = (0..100)
        .map(|n| {
            let device = ann.named(&format!("device-{n}"));
            let query = format!("cursor=0&wait={WAIT}");
            tokio::spawn(async move { device.pull(&team("t"), &query).await.ok() })
        })
        .collect();
    ann.push(&team("t"), &[say("x")]).await.ok();
    for waiting in waiting {
        assert_eq!(contents(&waiting.await.unwrap()), ["x"]);
    }
}

async fn who_waits_is_answered_when_the_process_stops(cluster: &mut Cluster) {
    for round in 0.. {
        assert!(round < 10, "the pull never came before the stop");
        let ann = cluster.device("ann");
        let waiting = ann.request(reqwest::Method::GET, &format!("{USER}/pull?wait=60"));
        let waiting = tokio::spawn(Reply::try_of(waiting));
        for _ in 0..3 {
            ann.pull(USER, "").await.ok(); // by now the other has likely begun
        }
        let began = Instant::now();
        cluster.restart(crate::cluster::ALL).await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        if let Ok(reply) = waiting.await.unwrap() {
            assert_eq!(reply.ok()["messages"], json!([]));
            break;
        }
    }
}

/// Waits for what comes after the first message, and comes back until it may.
fn comes_back(device: &Device) -> tokio::task::JoinHandle<Value> {
    let device = device.clone();
    tokio::spawn(async move {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let reply = device.pull(USER, &format!("cursor=1&wait={WAIT}")).await;
            if reply.status != 503 {
                return reply.ok();
            }
            assert!(Instant::now() < deadline, "it finds no place to wait in");
            tokio::time::sleep(Duration::from_millis(50)).await; // before it asks again
        }
    })
}

/// Asks until all places of its tenant are taken.
async fn full(device: &Device) -> Reply {
    eventually("the others wait", async || {
        let reply = device.pull(USER, "cursor=1&wait=1").await;
        (reply.status == 503).then_some(reply)
    })
    .await
}

async fn one_tenants_long_polls_leave_places_for_anothers(cluster: &mut Cluster) {
    cluster.settings.api.pulls_waiting_max = 4;
    cluster.restart(crate::cluster::ALL).await;
    let ann = cluster.device("ann");
    let other = cluster.device_of("globex", "ann", OrgRole::Member);
    ann.push(USER, &[say("x")]).await.ok();
    other.push(USER, &[say("theirs")]).await.ok();

    // The tenant gets half: one more is told when to come back, not that it has waited.
    let ours = [comes_back(&ann), comes_back(&ann.named("phone"))];
    let tablet = ann.named("tablet");
    let refused = full(&tablet).await;
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(shed(refused), ("pulls_waiting_max".to_owned(), 4));
    let began = Instant::now();
    shed(tablet.pull(USER, "cursor=1&wait=60").await);
    // What is there needs no place, nor does who does not wait.
    assert_eq!(contents(&tablet.pull(USER, "cursor=0&wait=60").await.ok()), ["x"]);
    assert_eq!(tablet.pull(USER, "cursor=1").await.ok()["messages"], json!([]));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // All nodes of this process count in one gauge.
    let metrics = ann.at(&cluster.node.ops_url).get("/metrics").await.ok();
    let of = |line: &str| line.strip_prefix("context_sync_pulls_waiting ")?.parse::<u64>().ok();
    assert!(metrics.as_str().unwrap().lines().find_map(of) >= Some(2));

    let began = Instant::now();
    assert_eq!(other.pull(USER, "cursor=1&wait=1").await.ok()["messages"], json!([]));
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    let theirs = [comes_back(&other), comes_back(&other.named("phone"))];
    full(&other.named("tablet")).await;
    other.push(USER, &[say("theirs too")]).await.ok();
    for waited in theirs {
        assert_eq!(contents(&waited.await.unwrap()), ["theirs too"]);
    }

    assert!(ours.iter().all(|waits| !waits.is_finished()));
    ann.push(USER, &[say("y")]).await.ok();
    for waited in ours {
        assert_eq!(contents(&waited.await.unwrap()), ["y"]);
    }
    // Their places are free again.
    tablet.pull(USER, "cursor=2&wait=1").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_at_one_node_wakes_who_waits_at_another() {
    use context_sync::serve::Role;
    let cluster = Cluster::start(LogKind::Kafka).await;
    let api = cluster.node(&[Role::Api]).await;
    let ann = cluster.device("ann");
    wakes(&ann.at(&api.url), &ann, USER).await;
    api.stop().await;
    cluster.finish().await;
}
