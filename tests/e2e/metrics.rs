//! The founding metrics at `/metrics`: each moves by what it is about. Of a process of its own, for all nodes of one
//! process count in one gauge.

use crate::{
    client::{Device, Reply, USER, contents, say, team},
    crash::{Child, ann, flags},
    database::Database,
    equation::eventually,
};

/// A gauge, or what a histogram's series counted together, where it is there; `labels` are among theirs.
async fn metric(node: &Child, name: &str, labels: &str) -> Option<f64> {
    let url = format!("{}/metrics", node.ops_url);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (of, value) = rest.rsplit_once(' ')?;
        let is_it = of.is_empty() || of.starts_with('{');
        (is_it && of.contains(labels)).then(|| value.parse::<f64>().unwrap())
    };
    text.lines().filter_map(value).reduce(|one, other| one + other)
}

async fn becomes(node: &Child, name: &str, labels: &str, wanted: impl Fn(f64) -> bool) {
    eventually(name, async || metric(node, name, labels).await.filter(|value| wanted(*value)))
        .await;
}

/// Of answered pushes and refused ones; an alert can tell what took longer than 5 s.
async fn context_sync_push_latency(node: &Child, ann: &Device) {
    const COUNT: &str = "context_sync_push_latency_count";
    assert_eq!(metric(node, COUNT, "").await, None);
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    ann.push(&team("none"), &[say("one")]).await.problem(403, "SYNC_005");
    becomes(node, COUNT, r#"scope="user",status="2xx""#, |count| count == 1.0).await;
    becomes(node, COUNT, r#"scope="team",status="4xx""#, |count| count == 1.0).await;
    assert!(metric(node, "context_sync_push_latency_sum", "").await > Some(0.0));
    assert!(metric(node, "context_sync_push_latency_bucket", r#"le="5""#).await.is_some());
}

/// As the push's; an alert can tell what took longer than 3 s.
async fn context_sync_pull_latency(node: &Child, ann: &Device) {
    const COUNT: &str = "context_sync_pull_latency_count";
    assert_eq!(metric(node, COUNT, "").await, None);
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "two"]);
    ann.pull(&team("none"), "").await.problem(403, "SYNC_005");
    becomes(node, COUNT, r#"scope="user",status="2xx""#, |count| count == 1.0).await;
    becomes(node, COUNT, r#"scope="team",status="4xx""#, |count| count == 1.0).await;
    assert!(metric(node, "context_sync_pull_latency_bucket", r#"le="3""#).await.is_some());
}

/// One duplicate of the four messages that were pushed.
async fn context_dedup_rate(node: &Child, ann: &Device) {
    const RATE: &str = "context_dedup_rate";
    becomes(node, RATE, "", |rate| rate == 0.0).await;
    ann.push(USER, &[say("two"), say("three")]).await.ok();
    becomes(node, RATE, "", |rate| rate == 0.25).await;
}

/// The greatest of what devices were behind at pulls and reconciles, first pulls left out.
async fn context_cursor_drift(node: &Child, ann: &Device) {
    const DRIFT: &str = "context_cursor_drift";
    ann.pull(USER, "cursor=0").await.ok();
    ann.pull(USER, "cursor=3").await.ok();
    becomes(node, DRIFT, "", |drift| drift == 0.0).await;
    ann.pull(USER, "cursor=2").await.ok();
    becomes(node, DRIFT, "", |drift| drift == 1.0).await;
    let page = ann.pull(USER, "cursor=1").await.ok();
    assert_eq!(page["head"], 3);
    becomes(node, DRIFT, "", |drift| drift == 2.0).await;
}

const LAG: &str = "context_sync_projector_lag_records";

async fn no_lag(node: &Child) {
    for partition in ["0", "1"] {
        becomes(node, LAG, &format!(r#"partition="{partition}""#), |lag| lag == 0.0).await;
    }
}

/// A push is accepted while the read model stands still.
async fn stand_still(ann: &Device, database: &Database) -> readmodel::LentTransaction {
    let mut standing = database.owner_pool().begin().await.unwrap();
    sqlx::query("select from positions for update").execute(&mut *standing).await.unwrap();
    let accepted = ann.pushing(USER, &[say("late")]).header("Prefer", "respond-async");
    Reply::of(accepted).await.is(202);
    standing
}

/// To the log's true end: a read model that stands still does not hide it.
async fn lag(node: &Child, ann: &Device, standing: readmodel::LentTransaction) {
    becomes(node, LAG, "", |lag| lag >= 1.0).await;
    standing.commit().await.unwrap();
    eventually("it goes on", async || (ann.pull(USER, "").await.ok()["head"] == 4).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_founding_metrics_move() {
    let (database, dir) = (Database::migrated().await, tempfile::tempdir().unwrap());
    let log = [
        format!("--log-dir={}", dir.path().join("log").display()),
        format!("--archive=file://{}", dir.path().join("archive").display()),
        format!("--archive-cache={}", dir.path().join("archiver").display()),
    ];
    let flags = flags(database.url(), &log);
    let mut node = Child::serve("ingest,projector,archiver,api", &flags, dir.path()).await;
    let ann = ann(&node);
    becomes(&node, "context_backup_success_rate", "", |rate| rate == 1.0).await;
    context_sync_push_latency(&node, &ann).await;
    context_sync_pull_latency(&node, &ann).await;
    context_dedup_rate(&node, &ann).await;
    no_lag(&node).await;
    // It is measured now and then: meanwhile the drift is.
    let standing = stand_still(&ann, &database).await;
    context_cursor_drift(&node, &ann).await;
    lag(&node, &ann, standing).await;
    node.kill().await;
}
