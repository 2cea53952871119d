//! More than the log or the read model can take is refused at once, with `accepted: false`; all that was
//! accepted is delivered.

use context_sync::serve::Role;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    client::{Device, Reply, USER, contents, say},
    cluster::{ALL, Cluster},
    equation::eventually,
};

both_logs! {
    overload_pushes_beyond_those_under_way_are_refused_at_once,
    overload_a_read_model_that_is_too_far_behind_gets_no_more,
}

/// 503 in its whole: which limit, its value, that nothing was accepted, and when to come back.
pub(crate) fn shed(reply: Reply) -> (String, u64) {
    assert!(reply.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let problem = reply.problem(503, "UNAVAILABLE");
    assert_eq!(problem["accepted"], false);
    (problem["limit"].as_str().unwrap().to_owned(), problem["max"].as_u64().unwrap())
}

async fn overload_pushes_beyond_those_under_way_are_refused_at_once(cluster: &mut Cluster) {
    const PUSHES: usize = 20;
    cluster.settings.ingest.pushes_in_flight_max = 8;
    cluster.settings.ingest.push_wait_ms = 4_000;
    // Nobody folds: who is let in waits for as long as there is.
    cluster.restart(&[Role::Ingest, Role::Api]).await;
    let ann = cluster.device("ann");
    let push = async |ann: &Device, n: usize| {
        (n, ann.push_once(USER, &format!("key {n}"), &[say(&format!("message {n}"))]).await)
    };
    let mut pushes: FuturesUnordered<_> = (0..PUSHES).map(|n| push(&ann, n)).collect();
    // One tenant gets half, and has it: the others are answered before any of those is.
    let mut refused = Vec::new();
    while refused.len() < PUSHES - 4 {
        let (n, reply) = pushes.next().await.unwrap();
        assert_eq!(shed(reply), ("pushes_in_flight_max".to_owned(), 8), "of push {n}");
        refused.push(n);
    }
    let other = cluster.device_of("globex", "ann", OrgRole::Member);
    let theirs = [say("theirs")];
    let ours = pushes.map(|(n, reply)| (n, reply.is(202))).collect::<Vec<_>>();
    let (theirs, ours) = tokio::join!(other.push(USER, &theirs), ours);
    theirs.is(202);
    assert_eq!(ours.len(), 4);

    cluster.settings.ingest.push_wait_ms = 10_000;
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    for (n, accepted) in ours {
        let (_, again) = push(&ann, n).await;
        assert_eq!(again.ok()["push_id"], accepted["push_id"], "accepted is delivered");
    }
    for n in refused {
        push(&ann, n).await.1.ok();
    }
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(page["count"], json!(PUSHES), "each once");
}

async fn overload_a_read_model_that_is_too_far_behind_gets_no_more(cluster: &mut Cluster) {
    cluster.device("ann").push(USER, &[say("before")]).await.ok();
    cluster.settings.ingest.projector_lag_records_max = 5;
    cluster.settings.ingest.push_wait_ms = 0;
    cluster.restart(&[Role::Ingest, Role::Api]).await;
    let ann = cluster.device("ann");
    let mut accepted = vec!["before".to_owned()];
    let (limit, max) = eventually("it is too far behind", async || {
        let content = format!("message {}", accepted.len());
        let reply = ann.push(USER, &[say(&content)]).await;
        if reply.status == 503 {
            return Some(shed(reply));
        }
        reply.is(202);
        accepted.push(content);
        None
    })
    .await;
    assert_eq!((limit.as_str(), max), ("projector_lag_records_max", 5));
    assert!(accepted.len() > 5, "{}", accepted.len());
    // Partitions that are not behind go on.
    let mut elsewhere = Vec::new();
    for n in 0..32 {
        let reply = cluster.device(&format!("u{n}")).push(USER, &[say("x")]).await;
        elsewhere.push(reply.status);
    }
    assert!(elsewhere.contains(&202), "{elsewhere:?}");
    ann.pull(USER, "").await.ok();

    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    let page: Value = eventually("all that was accepted is there", async || {
        let page = ann.pull(USER, "limit=1000").await.ok();
        (page["count"] == json!(accepted.len())).then_some(page)
    })
    .await;
    assert_eq!(contents(&page), accepted);
    ann.push(USER, &[say("after")]).await;
}
