//! How many backups one may ask for, and what a retry asks for.

use model::{Action, Command, Event};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    backups::{ask, back_up, completed},
    client::{Device, Reply, USER, say, team},
    cluster::{ALL, ARCHIVING, Cluster},
    equation,
};

archiving_on_both_logs! {
    one_backup_of_a_scope_is_made_at_a_time,
    a_scope_has_ten_backups_on_demand_a_day,
    a_retry_gets_the_first_backup,
}

/// The problem of a request that was one too many: it names the limit, and says when to come again.
fn limited(reply: Reply, limit: &str, max: u64) {
    let again: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(again > 0, "{again}");
    let problem = reply.problem(429, "SYNC_006");
    assert_eq!((&problem["limit"], &problem["max"]), (&json!(limit), &json!(max)), "{problem}");
    assert_eq!(problem["resolution"], "Retry with backoff");
}

async fn keyed(device: &Device, scope: &str, key: &str, body: Option<Value>) -> Reply {
    let request = device.request(Method::POST, &format!("{scope}/backups"));
    let request = request.header("Idempotency-Key", key);
    Reply::of(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

/// How many requests for backups are on the log.
async fn requests(cluster: &Cluster) -> usize {
    let mut requests = 0;
    let is_one = |event| {
        matches!(event, Event::Command(Command { action: Action::BackupRequested { .. }, .. }))
    };
    equation::read(cluster.node.log.as_ref(), |record| {
        requests += usize::from(schemas::decode(&record.value).is_ok_and(is_one));
    })
    .await;
    requests
}

async fn one_backup_of_a_scope_is_made_at_a_time(cluster: &mut Cluster) {
    cluster.device("ann").create_team("web", &[]).await;
    // Nobody makes it yet.
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    let first = ask(&ann, USER).await.is(202);
    let before = cluster.ends().await;
    limited(ask(&ann, USER).await, "backups_running_max", 1);
    limited(keyed(&ann, USER, "a", None).await, "backups_running_max", 1);
    assert_eq!(cluster.ends().await, before, "nothing was asked of the log");
    let other = ask(&ann, &team("web")).await.is(202);
    cluster.restart(ARCHIVING).await;
    let ann = cluster.device("ann");
    completed(&ann, USER, first["id"].as_str().unwrap()).await;
    completed(&ann, &team("web"), other["id"].as_str().unwrap()).await;
    back_up(&ann, USER).await;
}

async fn a_scope_has_ten_backups_on_demand_a_day(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[]).await;
    for _ in 0..9 {
        back_up(&ann, USER).await;
    }
    let tenth = keyed(&ann, USER, "the tenth", None).await.is(202);
    completed(&ann, USER, tenth["id"].as_str().unwrap()).await;
    limited(ask(&ann, USER).await, "backups_on_demand_per_day_max", 10);
    // A retry is none, and another scope has ten of its own.
    assert_eq!(keyed(&ann, USER, "the tenth", None).await.is(202)["id"], tenth["id"]);
    back_up(&ann, &team("web")).await;
    back_up(&cluster.device("bob"), USER).await;
    let listed = ann.get(&format!("{USER}/backups?type=on_demand")).await.ok();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 10);
}

async fn a_retry_gets_the_first_backup(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    let phone = ann.named("phone");
    let (first, second) =
        tokio::join!(keyed(&ann, USER, "a", None), keyed(&phone, USER, "a", None));
    let (first, second) = (first.is(202), second.is(202));
    assert_eq!(first["id"], second["id"]);
    let id = first["id"].as_str().unwrap();
    let backup = completed(&ann, USER, id).await;
    ann.push(USER, &[say("two")]).await.ok();
    let requests = requests(cluster).await;
    assert_eq!(keyed(&ann, USER, "a", None).await.is(202)["id"], id);
    keyed(&ann, USER, "a", Some(json!({}))).await.problem(409, "IDEMPOTENCY_MISMATCH");
    assert_eq!(self::requests(cluster).await, requests);
    assert_eq!(completed(&ann, USER, id).await, backup, "nothing was made anew");
    let listed = ann.get(&format!("{USER}/backups?type=on_demand")).await.ok();
    assert_eq!(listed["backups"], json!([backup]));
    // The key is of one user and scope.
    let other = keyed(&cluster.device("bob"), USER, "a", None).await.is(202);
    assert_ne!(other["id"], first["id"]);
    let next = keyed(&ann, USER, "b", Some(json!({}))).await.is(202);
    let next = completed(&ann, USER, next["id"].as_str().unwrap()).await;
    assert_eq!((&backup["record_count"], &next["record_count"]), (&json!(1), &json!(2)));
}
