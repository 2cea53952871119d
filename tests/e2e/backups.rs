//! WF-CS-007 and WF-CS-009, the catalogue, and who may see it.

use std::time::{SystemTime, UNIX_EPOCH};

use archive::ArchiveAddress;
use eventlog::partition_of;
use model::{CommandId, ScopeKey, UserId};
use reqwest::Method;
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    client::{Device, Reply, USER, assert_keys, contents, project, say, team},
    cluster::Cluster,
    equation::eventually,
};

/// The founding metadata, and what goes beyond.
const BACKUP: [&str; 17] = [
    "id",
    "tenant_id",
    "scope_type",
    "scope_id",
    "backup_type",
    "gcs_path",
    "size_bytes",
    "record_count",
    "checksum",
    "status",
    "created_at",
    "completed_at",
    "expires_at",
    "cursor_first",
    "cursor_last",
    "digest",
    "verified_at",
];

archiving_on_both_logs! {
    wf_cs_009_a_backup_on_demand_shows_the_scope_where_the_request_is,
    wf_cs_009_a_backup_that_cannot_be_made_has_failed,
    wf_cs_007_an_hour_becomes_an_incremental,
    backups_are_for_those_who_may_back_up,
}

async fn ask(device: &Device, scope: &str) -> Reply {
    Reply::of(device.request(Method::POST, &format!("{scope}/backups"))).await
}

/// Asks for a backup, and waits until it is completed and verified.
pub(crate) async fn back_up(device: &Device, scope: &str) -> Value {
    let asked = ask(device, scope).await.is(202);
    assert_keys(&asked, &BACKUP);
    assert_eq!((&asked["status"], &asked["backup_type"]), (&json!("pending"), &json!("on_demand")));
    completed(device, scope, asked["id"].as_str().unwrap()).await
}

pub(crate) async fn completed(device: &Device, scope: &str, id: &str) -> Value {
    eventually("the backup is completed", async || {
        let reply = device.get(&format!("{scope}/backups/{id}")).await;
        let done = reply.status == 200 && reply.body["verified_at"].is_string();
        done.then_some(reply.body)
    })
    .await
}

async fn wf_cs_009_a_backup_on_demand_shows_the_scope_where_the_request_is(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let empty = back_up(&ann, USER).await;
    assert_eq!((&empty["record_count"], &empty["cursor_last"]), (&json!(0), &json!(0)));
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    let before = ann.pull(USER, "cursor=0").await.ok();
    let backup = back_up(&ann, USER).await;
    ann.push(USER, &[say("three")]).await.ok();
    assert_keys(&backup, &BACKUP);
    assert_eq!((&backup["tenant_id"], &backup["scope_type"]), (&json!("acme"), &json!("user")));
    assert_eq!((&backup["scope_id"], &backup["status"]), (&json!("ann"), &json!("completed")));
    assert_eq!((&backup["record_count"], &backup["cursor_last"]), (&json!(2), &json!(2)));
    assert_eq!(backup["digest"], before["digest"]);
    assert_eq!(backup["expires_at"], Value::Null, "kept for ever");
    let path = backup["gcs_path"].as_str().unwrap();
    assert!(path.starts_with("file:///") && path.contains("/tenants/acme/users/ann/on-demand/"));

    let content = ann.request(Method::GET, &format!("{USER}/backups/{}/content", id(&backup)));
    let content = content.send().await.unwrap();
    assert_eq!(content.headers()["content-type"], "application/gzip");
    let bytes = content.bytes().await.unwrap();
    assert_eq!(json!(bytes.len()), backup["size_bytes"]);
    assert_eq!(std::fs::read(path.strip_prefix("file://").unwrap()).unwrap(), bytes);
    assert_eq!(backup["checksum"], format!("sha256:{}", sha256(&bytes)));

    let listed = ann.get(&format!("{USER}/backups?type=on_demand&limit=1")).await.ok();
    assert_eq!((&listed["has_more"], &listed["backups"][0]), (&json!(true), &backup));
    let older =
        ann.get(&format!("{USER}/backups?type=on_demand&before={}", id(&backup))).await.ok();
    assert_eq!((&older["has_more"], &older["backups"]), (&json!(false), &json!([empty])));
}

/// Something else lies where its manifest is to be: it is left alone, and the next backup is made.
async fn wf_cs_009_a_backup_that_cannot_be_made_has_failed(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    let (scope, user): (ScopeKey, _) =
        ("acme/user/ann".parse().unwrap(), UserId::new("ann").unwrap());
    // The id is of the key and the day, so that a key is free again the day after.
    let command = CommandId::of_key(&scope, "backup-requested", &user, "the key");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let day = i64::try_from(since.as_secs() / 86_400).unwrap();
    let id = uuid::Uuid::new_v5(&command.0, &day.to_be_bytes());
    let partition = partition_of(scope.to_string().as_bytes(), cluster.node.log.partitions());
    let folder = archive::path::manifests(cluster.node.log.log_id(), partition);
    let Some(ArchiveAddress::File(archive)) = &cluster.settings.archive.archive else { panic!() };
    let path = archive.join(format!("{folder}/on-demand/{id}.jsonl.gz"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "no manifest").unwrap();
    let asked = ann.request(Method::POST, &format!("{USER}/backups"));
    let asked = Reply::of(asked.header("Idempotency-Key", "the key")).await.is(202);
    assert_eq!(asked["id"], id.to_string());
    let failed = eventually("the backup has failed", async || {
        let reply = ann.get(&format!("{USER}/backups/{id}")).await;
        (reply.status == 200 && reply.body["status"] != "pending").then_some(reply.body)
    })
    .await;
    assert_keys(&failed, &BACKUP);
    assert_eq!((&failed["status"], &failed["gcs_path"]), (&json!("failed"), &Value::Null));
    ann.get(&format!("{USER}/backups/{id}/content")).await.problem(404, "SYNC_003");
    assert_eq!(back_up(&ann, USER).await["record_count"], 1);
}

fn id(backup: &Value) -> &str {
    backup["id"].as_str().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    archive::object::Sha256Hex::of_bytes(bytes).0
}

async fn wf_cs_007_an_hour_becomes_an_incremental(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    ann.push(&team("web"), &[say("one"), say("two")]).await.ok();
    let pulled = ann.pull(&team("web"), "cursor=0").await.ok();
    // Nothing comes after it: the archiver ends the hour by itself.
    let listed = eventually("an incremental", async || {
        let listed = ann.get(&format!("{}/backups?type=incremental", team("web"))).await.ok();
        (!listed["backups"].as_array().unwrap().is_empty()).then_some(listed)
    })
    .await;
    let backup = &listed["backups"][0];
    assert_eq!((&backup["cursor_first"], &backup["cursor_last"]), (&json!(1), &json!(2)));
    assert_eq!((&backup["record_count"], &backup["digest"]), (&json!(2), &pulled["digest"]));
    let path = backup["gcs_path"].as_str().unwrap();
    assert!(path.contains("/tenants/acme/teams/web/incremental/2"), "{path}");
    let created = model::Timestamp::parse_rfc3339(backup["created_at"].as_str().unwrap()).unwrap();
    let expires = model::Timestamp::parse_rfc3339(backup["expires_at"].as_str().unwrap()).unwrap();
    assert_eq!(expires.micros_since(created), 7 * 86_400_000_000);
    assert_eq!(contents(&pulled), ["one", "two"]);
}

async fn backups_are_for_those_who_may_back_up(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "admin"), ("cy", "member")]).await;
    ann.create("/api/v1/projects/shop", &[("bob", "admin"), ("cy", "member"), ("dan", "viewer")])
        .await;
    let of = |user: &str| cluster.device(user);
    for (scope, refused) in
        [(team("web"), &["cy", "eve"][..]), (project("shop"), &["cy", "dan", "eve"])]
    {
        let backup = back_up(&of("bob"), &scope).await;
        let one = format!("{scope}/backups/{}", id(&backup));
        for user in refused {
            ask(&of(user), &scope).await.problem(403, "SYNC_005");
            for path in [format!("{scope}/backups"), one.clone(), format!("{one}/content")] {
                of(user).get(&path).await.problem(403, "SYNC_005");
            }
        }
        of("ann").get(&one).await.ok();
    }
    // Another scope's, another tenant's, no one's.
    let backup = back_up(&ann, USER).await;
    let of_team = format!("{}/backups/{}", team("web"), id(&backup));
    ann.get(&of_team).await.problem(404, "SYNC_003");
    let stranger = cluster.device_of("globex", "ann", OrgRole::Owner);
    for rest in ["", "/content"] {
        let path = format!("{USER}/backups/{}{rest}", id(&backup));
        stranger.get(&path).await.problem(404, "SYNC_003");
    }
    let unknown = uuid::Uuid::new_v4();
    ann.get(&format!("{USER}/backups/{unknown}")).await.problem(404, "SYNC_003");
    ann.get(&format!("{USER}/backups/x")).await.problem(400, "INVALID_REQUEST");
    let unknown = format!("before={unknown}");
    for query in ["type=daily", "limit=0", "limit=1001", "before=x", &unknown] {
        ann.get(&format!("{USER}/backups?{query}")).await.problem(400, "INVALID_REQUEST");
    }
}
