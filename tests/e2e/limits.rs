//! Every limit of a push and a pull is a setting: small ones refuse by their own value and name.

use serde_json::{Value, json};

use crate::{
    client::{Device, USER, contents, say},
    cluster::{Cluster, LogKind},
};

const LIMITS: &[&str] = &[
    "--push-messages-max=3",
    "--push-bytes-max=2048",
    "--content-bytes-max=200",
    "--metadata-bytes-max=50",
    "--pull-limit-max=9",
    "--pull-wait-seconds-max=1",
    "--page-bytes-max=1024",
];

/// With contents of so many bytes.
fn contents_of(bytes: usize) -> Value {
    say(&"x".repeat(bytes))
}

/// Whose metadata are so many bytes of JSON.
fn metadata_of(bytes: usize) -> Value {
    json!({"type": "a", "content": "a", "metadata": {"x": "y".repeat(bytes - r#"{"x":""}"#.len())}})
}

#[track_caller]
fn says(problem: &Value, what: &str) {
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(what), "{detail:?} does not say {what:?}");
}

async fn pushes_are_limited(ann: &Device) {
    let many: Vec<Value> = (0..4).map(|n| say(&n.to_string())).collect();
    let problem = ann.push(USER, &many).await.problem(413, "PAYLOAD_TOO_LARGE");
    says(&problem, "push_messages_max is 3, sent was 4");
    assert_eq!((&problem["limit"], &problem["max"]), (&json!("push_messages_max"), &json!(3)));
    let problem = ann.push(USER, &[contents_of(3_000)]).await.problem(413, "PAYLOAD_TOO_LARGE");
    says(&problem, "push_bytes_max is 2048, sent was 30");
    assert_eq!((&problem["limit"], &problem["max"]), (&json!("push_bytes_max"), &json!(2_048)));
    for (message, what) in [
        (contents_of(201), "content_bytes_max is 200 bytes, 201 were sent"),
        (metadata_of(51), "metadata_bytes_max is 50 bytes, 51 were sent"),
    ] {
        says(&ann.push(USER, &[message]).await.problem(413, "PAYLOAD_TOO_LARGE"), what);
    }
    let pushed = ann.push(USER, &[contents_of(200), metadata_of(50), say("third")]).await.ok();
    assert_eq!(pushed["synced"], 3);
}

async fn pulls_are_limited(ann: &Device) {
    for (query, what) in [
        ("limit=10", "limit takes a whole number from 1 to 9"),
        ("wait=2", "wait takes a whole number of seconds from 0 to 1"),
    ] {
        says(&ann.pull(USER, query).await.problem(400, "INVALID_REQUEST"), what);
    }
    ann.pull(USER, "limit=9&wait=1").await.ok();
}

/// A page ends before its bytes or its messages are more, and says that there is more.
async fn pages_are_limited(ann: &Device) {
    let mut pages = Vec::new();
    let mut cursor = 0;
    loop {
        let page = ann.pull(USER, &format!("cursor={cursor}")).await.ok();
        let bytes: usize =
            page["messages"].as_array().unwrap().iter().map(|m| m.to_string().len()).sum();
        assert!(bytes <= 1_024, "{bytes}");
        pages.push(contents(&page).len());
        cursor = page["cursor"].as_u64().unwrap();
        if page["has_more"] == false {
            break;
        }
    }
    assert!(pages.len() > 1 && pages[0] < 9, "{pages:?}");
    assert_eq!(pages.iter().sum::<usize>(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_of_pushes_and_pulls_is_what_it_is_set_to() {
    let cluster = Cluster::start_with(LogKind::Embedded, LIMITS).await;
    let ann = cluster.device("ann");
    pushes_are_limited(&ann).await;
    pulls_are_limited(&ann).await;
    for n in 0..6 {
        ann.push(USER, &[say(&format!("{n}{}", "x".repeat(190)))]).await.ok();
    }
    pages_are_limited(&ann).await;
    cluster.finish().await;
}
