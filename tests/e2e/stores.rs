//! An archive in a bucket that is down for a while: pushes and pulls go on, and it catches up.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dev::gcs::{Fault, Front};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    backups::completed,
    client::{Device, Reply, USER, contents, say},
    cluster::{Cluster, LogKind},
    equation::eventually,
    operators::ops,
    restores::{counts, delete_all, restore, restoring, three},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_and_pulls_go_on_without_the_archive_on_the_embedded_log() {
    pushes_and_pulls_go_on_without_the_archive(LogKind::Embedded, 429).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_and_pulls_go_on_without_the_archive_on_kafka() {
    pushes_and_pulls_go_on_without_the_archive(LogKind::Kafka, 503).await;
}

async fn pushes_and_pulls_go_on_without_the_archive(kind: LogKind, status: u16) {
    let front = Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap();
    let bucket = front.make_bucket().await.unwrap();
    let archive = format!("--archive=gs://{bucket}/backups");
    let endpoint = format!("--archive-endpoint={}", front.url());
    let cluster = Cluster::start_archiving_to(kind, &[&archive, &endpoint]).await;
    front.misbehave(move |_| Some(Fault::Status(status)));
    let ann = cluster.device("ann");
    let before = ask(&ann).await;
    let messages: Vec<String> = (0..20).map(|number| format!("message {number}")).collect();
    for message in &messages {
        ann.push(USER, &[say(message)]).await.ok();
    }
    let pulled = ann.pull(USER, "cursor=0").await.ok();
    assert_eq!(contents(&pulled), messages);
    let archiver = eventually("the archiver says why it waits", async || {
        let archiver = component(&cluster, "archiver").await;
        let reason = archiver["reason"].as_str().unwrap_or_default();
        reason.contains(&status.to_string()).then_some(archiver)
    })
    .await;
    assert_eq!(archiver["ready"], json!(false));
    let status = ops(&cluster, &["status"]).await.json();
    let problems = status["problems"].as_array().unwrap();
    let names_it = |own: &Value| own.as_str().unwrap().starts_with("archiver is not ready: ");
    assert!(problems.iter().any(names_it), "{status}");
    let waits = ann.get(&format!("{USER}/backups/{before}")).await;
    assert_ne!(waits.body["status"], json!("completed"));

    front.behave();
    let backup = completed(&ann, USER, &before).await;
    assert_eq!(backup["record_count"], json!(0), "as of its request");
    let path = backup["gcs_path"].as_str().unwrap();
    let expected = format!("gs://{bucket}/backups/tenants/acme/users/ann/on-demand/");
    assert!(path.starts_with(&expected), "{path}");
    let after = completed(&ann, USER, &ask(&ann).await).await;
    assert_eq!((&after["record_count"], &after["digest"]), (&json!(20), &pulled["digest"]));

    let content = format!("{USER}/backups/{}/content", after["id"].as_str().unwrap());
    let reply = ann.request(Method::GET, &content).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(json!(reply.bytes().await.unwrap().len()), after["size_bytes"]);
    for refused in [500, 429] {
        front.misbehave(move |_| Some(Fault::Status(refused)));
        ann.get(&content).await.problem(503, "UNAVAILABLE");
    }
    front.behave();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_waits_for_the_archive_and_ends_well_on_the_embedded_log() {
    a_restore_waits_for_the_archive_and_ends_well(LogKind::Embedded, 503, "merge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_waits_for_the_archive_and_ends_well_on_kafka() {
    a_restore_waits_for_the_archive_and_ends_well(LogKind::Kafka, 500, "replace").await;
}

async fn a_restore_waits_for_the_archive_and_ends_well(kind: LogKind, status: u16, mode: &str) {
    let front = Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap();
    let bucket = front.make_bucket().await.unwrap();
    let archive = format!("--archive=gs://{bucket}");
    let endpoint = format!("--archive-endpoint={}", front.url());
    let cluster = Cluster::start_archiving_to(kind, &[&archive, &endpoint]).await;
    let ann = cluster.device("ann");
    ann.push(USER, &three()).await.ok();
    let backup = completed(&ann, USER, &ask(&ann).await).await;
    delete_all(&ann, USER).await;
    let before = ann.pull(USER, "").await.ok();

    let refused = Arc::new(AtomicU64::new(0));
    let seen = refused.clone();
    front.misbehave(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        Some(Fault::Status(status))
    });
    let real = json!({"backup_id": backup["id"], "mode": mode});
    let dry = json!({"backup_id": backup["id"], "mode": mode, "dry_run": true});
    let problem = restore(&ann, USER, dry.clone()).await.problem(503, "UNAVAILABLE");
    assert_eq!(problem["accepted"], json!(false));
    let asked = restoring(&ann, USER, &real).header("Prefer", "respond-async");
    let asked = Reply::of(asked).await.is(202);
    let path = format!("{USER}/restores/{}", asked["restore_id"].as_str().unwrap());
    let before_it = refused.load(Ordering::SeqCst);
    let running = eventually("it is tried, and runs", async || {
        let shown = ann.get(&path).await;
        let tried = refused.load(Ordering::SeqCst) > before_it;
        (shown.status == 200 && tried).then_some(shown.body)
    })
    .await;
    assert_eq!((&running["status"], counts(&running)), (&json!("running"), [0, 0, 0]));
    let meanwhile = ann.pull(USER, "").await.ok();
    assert_eq!(meanwhile["messages"], before["messages"], "nothing is changed");

    front.behave();
    let done = eventually("it is restored", async || {
        let shown = ann.get(&path).await.ok();
        assert_ne!(shown["status"], "failed", "{shown}");
        (shown["status"] == "completed").then_some(shown)
    })
    .await;
    assert_eq!(counts(&done), [3, 0, 0]);
    let after = ann.pull(USER, "").await.ok();
    assert_eq!((&after["count"], &after["digest"]), (&json!(3), &backup["digest"]));
    assert_eq!(counts(&restore(&ann, USER, dry).await.ok()), [0, 3, 0]);
    cluster.finish().await;
}

/// Asks for a backup; its id.
async fn ask(device: &Device) -> String {
    let asked = Reply::of(device.request(Method::POST, &format!("{USER}/backups"))).await.is(202);
    asked["id"].as_str().unwrap().to_owned()
}

/// What `/readyz` shows of a component, which keeps nobody out.
async fn component(cluster: &Cluster, name: &str) -> Value {
    let reply = reqwest::get(format!("{}/readyz", cluster.node.ops_url)).await.unwrap();
    assert_eq!(reply.status(), 200);
    let body: Value = reply.json().await.unwrap();
    let components = body["components"].as_array().unwrap();
    components.iter().find(|component| component["name"] == name).unwrap().clone()
}
