//! A retry with the same Idempotency-Key gets the first outcome and applies nothing twice.

use reqwest::Method;
use serde_json::json;

use crate::{
    client::{Device, Reply, USER, contents, say, team},
    cluster::Cluster,
};

both_logs! {
    a_retry_gets_the_first_outcome,
    the_same_key_with_another_body_is_a_mismatch,
    keys_are_of_one_user_scope_and_tenant,
    of_concurrent_retries_one_applies_and_all_get_its_outcome,
    of_concurrent_pushes_under_one_key_with_other_bodies_one_wins,
    requests_about_members_have_keys_too,
    a_former_members_retry_is_answered_as_before,
}

async fn a_retry_gets_the_first_outcome(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let messages = [say("a"), say("b")];
    let first = ann.push_once(USER, "key", &messages).await.ok();
    ann.push(USER, &[say("c")]).await.ok();
    for _ in 0..3 {
        let again = ann.named("phone").push_once(USER, "key", &messages).await.ok();
        assert_eq!(again, first);
    }
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["a", "b", "c"]);
    cluster.restart(crate::cluster::ALL).await;
    let ann = cluster.device("ann");
    assert_eq!(ann.push_once(USER, "key", &messages).await.ok(), first);
}

async fn the_same_key_with_another_body_is_a_mismatch(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push_once(USER, "key", &[say("a")]).await.ok();
    let before = cluster.ends().await;
    ann.push_once(USER, "key", &[say("b")]).await.problem(409, "IDEMPOTENCY_MISMATCH");
    ann.push_once(USER, "key", &[]).await.problem(409, "IDEMPOTENCY_MISMATCH");
    assert_eq!(cluster.ends().await, before);
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["a"]);
}

async fn keys_are_of_one_user_scope_and_tenant(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("t", &[("bob", "member")]).await;
    for (device, scope) in [
        (ann.clone(), USER.to_owned()),
        (ann.clone(), team("t")),
        (cluster.device("bob"), team("t")),
        (cluster.device("bob"), USER.to_owned()),
        (cluster.device_of("globex", "ann", service::auth::OrgRole::Member), USER.to_owned()),
    ] {
        let message = say(&format!("{} {scope}", device.device));
        let answer = device.push_once(&scope, "one key", &[message]).await.ok();
        assert_eq!(answer["synced"], 1);
    }
}

async fn of_concurrent_retries_one_applies_and_all_get_its_outcome(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    for round in 0..5 {
        let (key, message) = (format!("key {round}"), [say(&format!("x {round}"))]);
        let pushing = (0..8).map(|_| ann.push_once(USER, &key, &message));
        let answers = futures_util::future::join_all(pushing).await;
        let first = answers[0].body.clone();
        assert_eq!((&first["synced"], &first["cursor"]), (&json!(1), &json!(round + 1)));
        for answer in answers {
            assert_eq!(answer.ok(), first);
        }
    }
}

async fn of_concurrent_pushes_under_one_key_with_other_bodies_one_wins(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let messages: Vec<_> = (0..8).map(|n| [say(&format!("body {n}"))]).collect();
    let pushing = messages.iter().map(|message| ann.push_once(USER, "key", message));
    let answers = futures_util::future::join_all(pushing).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    let lost = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((won, lost), (1, 7));
    assert_eq!(ann.pull(USER, "").await.ok()["head"], 1);
}

async fn requests_about_members_have_keys_too(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let create = || {
        let request = ann.request(Method::PUT, "/api/v1/teams/t");
        Reply::of(request.header("Idempotency-Key", "k"))
    };
    assert_eq!(create().await.is(201), create().await.is(201));
}

/// A request about a member of the team, under a key.
async fn about(device: &Device, method: Method, member: &str, key: &str) -> Reply {
    let request = device.request(method, &format!("/api/v1/teams/t/members/{member}"));
    Reply::of(request.json(&json!({"role": "admin"})).header("Idempotency-Key", key)).await
}

/// Their answers were lost: of a push before they were removed, of their own removal, of what they did as an admin.
async fn a_former_members_retry_is_answered_as_before(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create_team("t", &[("bob", "admin"), ("carl", "member")]).await;
    let messages = [say("a")];
    let pushed = bob.push_once(&team("t"), "push", &messages).await.ok();
    let [put, delete] = [Method::PUT, Method::DELETE];
    let set = about(&bob, put.clone(), "carl", "set").await.ok();
    let removed = about(&bob, delete.clone(), "bob", "leave").await.ok();
    // What let him in is not remembered by now.
    cluster.restart(crate::cluster::ALL).await;
    let bob = cluster.device("bob");
    assert_eq!(bob.push_once(&team("t"), "push", &messages).await.ok(), pushed);
    assert_eq!(about(&bob, put.clone(), "carl", "set").await.ok(), set);
    assert_eq!(about(&bob, delete.clone(), "bob", "leave").await.ok(), removed);
    // Anything else is refused.
    for refused in [
        bob.push_once(&team("t"), "another", &messages).await,
        bob.push(&team("t"), &messages).await,
        about(&bob, put, "carl", "another").await,
        about(&bob, delete, "carl", "another").await,
    ] {
        refused.problem(403, "SYNC_005");
    }
}
