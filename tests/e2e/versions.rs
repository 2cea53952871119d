//! What becomes of each message of a push.

use model::{ContentHash, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    client::{USER, assert_keys, contents, say, statuses},
    cluster::Cluster,
};

both_logs! {
    a_deleted_message_is_a_tombstone,
    an_edit_keeps_id_and_creation,
    one_push_may_change_a_message_often,
    times_are_the_writers_within_bounds,
    sync_002_one_bad_message_does_not_reject_the_others,
    an_empty_push_changes_nothing,
    unknown_fields_and_parameters_are_ignored,
}

async fn a_deleted_message_is_a_tombstone(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let answer = ann.push(USER, &[say("a"), say("b"), say("c")]).await.ok();
    let delete = json!({"id": answer["results"][1]["id"], "deleted": true, "base_cursor": 2});
    let deleted = ann.named("phone").push(USER, &[delete]).await.ok();
    assert_eq!((&deleted["synced"], &deleted["cursor"]), (&json!(1), &json!(4)));
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(contents(&page), ["a", "c", "(deleted)"]);
    assert_eq!(page["count"], 2);
    let tombstone = &page["messages"][2];
    for key in ["type", "content", "content_hash", "metadata"] {
        assert_eq!(tombstone.get(key), Some(&Value::Null), "{key}");
    }
    assert_eq!((&tombstone["deleted"], &tombstone["cursor"]), (&json!(true), &json!(4)));
    assert_eq!(tombstone["device_id"], "phone");
    assert_eq!(tombstone["id"], answer["results"][1]["id"]);
    // Said again without an id, it is revived under the same one: the log's time is later.
    let again = ann.push(USER, &[say("b")]).await.ok();
    assert_eq!(statuses(&again), ["revived"]);
    assert_eq!(again["results"][0]["id"], answer["results"][1]["id"]);
}

async fn an_edit_keeps_id_and_creation(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let id = Uuid::new_v4();
    let version = |content: &str, base: Option<u64>| {
        json!({"id": id, "type": "pattern", "content": content, "base_cursor": base,
            "metadata": {"n": [1, {"deep": "é\u{10ffff}"}]}})
    };
    ann.push(USER, &[version("one", None), say("other")]).await.ok();
    let edited = ann.push(USER, &[version("two", Some(1))]).await.ok();
    assert_eq!((statuses(&edited), &edited["cursor"]), (vec!["updated"], &json!(3)));
    let same = ann.push(USER, &[version("two", Some(1))]).await.ok();
    assert_eq!((statuses(&same), &same["cursor"]), (vec!["duplicate"], &json!(3)));
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(contents(&page), ["other", "two"]);
    let message = &page["messages"][1];
    assert_eq!(message["id"], id.to_string());
    assert_eq!(message["metadata"], version("", None)["metadata"]);
    assert!(message["created_at"].as_str() < message["updated_at"].as_str());
    // Content of an edited message, said again, is a new message.
    let again = ann.push(USER, &[say("one")]).await.ok();
    assert_eq!(statuses(&again), ["created"]);
}

async fn one_push_may_change_a_message_often(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let id = Uuid::new_v4();
    let version = |n: u64| {
        json!({"id": id, "type": "decision", "content": format!("v{n}"),
        "base_cursor": n - 1})
    };
    let mut messages: Vec<Value> = (1..=20).map(version).collect();
    messages.push(json!({"id": id, "deleted": true, "base_cursor": 20}));
    let answer = ann.push(USER, &messages).await.ok();
    assert_eq!((&answer["synced"], &answer["cursor"]), (&json!(21), &json!(21)));
    let page = ann.pull(USER, "").await.ok();
    assert_eq!((contents(&page), &page["head"]), (vec!["(deleted)"], &json!(21)));
}

async fn times_are_the_writers_within_bounds(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let at = |content: &str, time: &str| {
        let kind = "decision";
        json!({"type": kind, "content": content, "updated_at": time})
    };
    let answer = ann.push(USER, &[
        at("offset", "2025-12-30T12:00:00.1234567+02:00"),
        at("old", "1901-01-01T00:00:00Z"),
        at("future", "2999-01-01T00:00:00Z"),
        json!({"type": "decision", "content": "no time", "metadata": {"timestamp": "yesterday"}}),
    ]).await.ok();
    let time = |n: usize| answer["results"][n]["updated_at"].as_str().unwrap();
    assert_eq!(time(0), "2025-12-30T10:00:00.123456Z");
    assert_eq!(time(1), "1970-01-01T00:00:00Z");
    let taken = Timestamp::parse_rfc3339(answer["timestamp"].as_str().unwrap()).unwrap();
    assert_eq!(time(2), taken.plus_micros(300_000_000).to_string());
    assert_eq!(time(3), taken.to_string());
}

async fn sync_002_one_bad_message_does_not_reject_the_others(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let wrong_hash = json!({"type": "decision", "content": "x",
        "content_hash": ContentHash::of("y").to_string()});
    let right_hash = json!({"type": "decision", "content": "x",
        "content_hash": ContentHash::of("x").to_string()});
    let answer = ann
        .push(
            USER,
            &[
                json!({"type": "Bad Type", "content": "x"}),
                say("good"),
                wrong_hash.clone(),
                json!({"type": "decision", "content": "y".repeat(65_537)}),
                right_hash,
                json!("no object"),
            ],
        )
        .await
        .ok();
    assert_eq!((&answer["synced"], &answer["rejected"]), (&json!(2), &json!(4)));
    assert_eq!(
        statuses(&answer),
        ["invalid", "created", "invalid", "invalid", "created", "invalid"]
    );
    let codes: Vec<&Value> = [0, 2, 3, 5].map(|n| &answer["results"][n]["code"]).into();
    assert_eq!(codes, ["INVALID_REQUEST", "SYNC_002", "PAYLOAD_TOO_LARGE", "INVALID_REQUEST"]);
    assert!(answer["results"][0]["detail"].as_str().unwrap().contains("type takes"));
    assert_keys(
        &answer["results"][0],
        &["index", "status", "id", "cursor", "updated_at", "code", "detail"],
    );
    // If every message is invalid, the first one's error is the answer.
    let problem = ann.push(USER, &[wrong_hash, say("")]).await.problem(422, "SYNC_002");
    assert!(problem["detail"].as_str().unwrap().contains("messages[0]"), "{problem}");
    assert_eq!(problem["resolution"], "Retry with correct hash");
}

async fn an_empty_push_changes_nothing(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    for head in [0, 1] {
        let answer = ann.push(USER, &[]).await.ok();
        assert_eq!(
            (&answer["synced"], &answer["skipped"], &answer["rejected"]),
            (&json!(0), &json!(0), &json!(0))
        );
        assert_eq!((&answer["cursor"], &answer["previous_cursor"]), (&json!(head), &json!(head)));
        assert_eq!(answer["results"], json!([]));
        ann.push(USER, &[say("x")]).await.ok();
    }
}

async fn unknown_fields_and_parameters_are_ignored(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let body = json!({"messages": [{"type": "decision", "content": "x", "mood": "good"}], "v": 2});
    let request = ann.request(reqwest::Method::POST, "/api/v1/context/push?trace=1").json(&body);
    crate::client::Reply::of(request).await.ok();
    ann.pull(USER, "cursor=0&colour=blue").await.ok();
}
