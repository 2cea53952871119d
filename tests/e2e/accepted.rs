//! 202: the log has the push, the read model not yet.

use context_sync::serve::Role;
use serde_json::json;

use crate::{
    client::{Reply, USER, assert_keys, say},
    cluster::{ALL, Cluster},
    equation::eventually,
};

both_logs! {
    who_prefers_no_wait_asks_later,
    without_a_projector_a_push_is_accepted_and_folded_once_there_is_one,
    pushes_that_are_none_are_not_found,
}

async fn who_prefers_no_wait_asks_later(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    // The outcome may be there sooner than the answer: then it is a 200.
    for n in 0.. {
        assert!(n < 50, "never a 202");
        let pushing = ann.pushing(USER, &[say(&format!("x {n}"))]);
        let reply = Reply::of(pushing.header("Prefer", "respond-async")).await;
        if reply.status == 200 {
            continue;
        }
        let location = reply.headers["location"].to_str().unwrap().to_owned();
        let accepted = reply.is(202);
        assert_keys(&accepted, &["status", "push_id", "at"]);
        assert_eq!(accepted["status"], "accepted");
        let (push, at) = (accepted["push_id"].as_str().unwrap(), accepted["at"].as_str().unwrap());
        assert_eq!(location, format!("/api/v1/pushes/{push}?at={at}"));
        let completed = eventually("completed", async || {
            let status = ann.get(&location).await.ok();
            (status["status"] == "completed").then_some(status)
        })
        .await;
        assert_keys(
            &completed,
            &[
                "status",
                "synced",
                "skipped",
                "cursor",
                "timestamp",
                "rejected",
                "previous_cursor",
                "push_id",
                "results",
            ],
        );
        assert_eq!((&completed["synced"], &completed["push_id"]), (&json!(1), &json!(push)));
        // Its pusher alone.
        cluster.device("bob").get(&location).await.problem(404, "NOT_FOUND");
        let other = cluster.device_of("globex", "ann", service::auth::OrgRole::Member);
        other.get(&location).await.problem(404, "NOT_FOUND");
        break;
    }
}

async fn without_a_projector_a_push_is_accepted_and_folded_once_there_is_one(
    cluster: &mut Cluster,
) {
    cluster.device("ann").push(USER, &[say("before")]).await.ok();
    cluster.settings.ingest.push_wait_ms = 100;
    cluster.restart(&[Role::Ingest, Role::Api]).await;
    let ann = cluster.device("ann");
    let reply = ann.push_once(USER, "key", &[say("x")]).await;
    let location = reply.headers["location"].to_str().unwrap().to_owned();
    let accepted = reply.is(202);
    assert_eq!(ann.get(&location).await.ok(), accepted);
    // A retry waits too, and is another record of the same command.
    let retried = ann.push_once(USER, "key", &[say("x")]).await.is(202);
    assert_eq!(retried["push_id"], accepted["push_id"]);
    assert_eq!(ann.pull(USER, "").await.ok()["head"], 1, "what is not folded is not there");
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    let completed = eventually("completed", async || {
        let status = ann.get(&location).await.ok();
        (status["status"] == "completed").then_some(status)
    })
    .await;
    assert_eq!((&completed["synced"], &completed["cursor"]), (&json!(1), &json!(2)));
    let again = ann.push_once(USER, "key", &[say("x")]).await.ok();
    assert_eq!(
        (&again["results"], &again["push_id"]),
        (&completed["results"], &accepted["push_id"])
    );
}

async fn pushes_that_are_none_are_not_found(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("x")]).await.ok();
    let unknown = uuid::Uuid::new_v4();
    ann.get(&format!("/api/v1/pushes/{unknown}")).await.problem(404, "NOT_FOUND");
    for (path, field) in [
        ("/api/v1/pushes/x".to_owned(), "push_id takes a UUID"),
        (format!("/api/v1/pushes/{unknown}?at=x"), "at takes a partition"),
        (format!("/api/v1/pushes/{unknown}?at=0--1"), "at takes a partition"),
    ] {
        let problem = ann.get(&path).await.problem(400, "INVALID_REQUEST");
        assert!(problem["detail"].as_str().unwrap().contains(field), "{problem}");
    }
}
