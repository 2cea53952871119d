//! WF-CS-010: a backup comes back, on every device, as ordinary changes.

use reqwest::Method;
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    backups::back_up,
    client::{Device, Reply, USER, assert_keys, contents, org, project, say, team},
    cluster::{ALL, ARCHIVING, Cluster},
    equation::eventually,
    operators::{ops, said},
    replica::Replica,
};

archiving_on_both_logs! {
    wf_cs_010_a_merge_brings_back_what_was_deleted,
    wf_cs_010_a_replace_shows_what_the_backup_shows,
    a_dry_run_says_what_it_would_come_to_and_changes_nothing,
    a_scope_is_set_back_to_a_moment,
    a_backup_of_another_scope_is_restored_by_one_who_may_in_both,
    a_retry_gets_the_first_restore_and_a_second_one_waits,
    sync_003_what_is_no_backup_of_the_scope_is_not_found,
    sync_004_a_damaged_backup_changes_nothing,
    wf_cs_003_and_005_who_may_restore,
}

pub(crate) fn restoring(device: &Device, scope: &str, body: &Value) -> reqwest::RequestBuilder {
    device.request(Method::POST, &format!("{scope}/restore")).json(body)
}

pub(crate) async fn restore(device: &Device, scope: &str, body: Value) -> Reply {
    Reply::of(restoring(device, scope, &body)).await
}

/// What a completed restore must say, its founding part apart.
pub(crate) fn counts(answer: &Value) -> [u64; 3] {
    let keys = ["restored", "skipped", "mode", "backup", "restore_id", "status", "deleted"];
    assert_keys(answer, &keys);
    assert_keys(&answer["backup"], &["id", "created_at", "record_count"]);
    ["restored", "skipped", "deleted"].map(|key| answer[key].as_u64().unwrap())
}

pub(crate) async fn delete_all(device: &Device, scope: &str) {
    let page = device.pull(scope, "limit=1000").await.ok();
    let live = page["messages"].as_array().unwrap().iter().filter(|m| m["deleted"] == false);
    let delete = |m: &Value| json!({"id": m["id"], "deleted": true, "base_cursor": m["cursor"]});
    let deletes: Vec<Value> = live.map(delete).collect();
    assert_eq!(device.push(scope, &deletes).await.ok()["synced"], deletes.len());
}

pub(crate) fn three() -> [Value; 3] {
    ["one", "two", "three"].map(say)
}

async fn wf_cs_010_a_merge_brings_back_what_was_deleted(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    let web = team("web");
    cluster.device("bob").push(&web, &three()).await.ok();
    let before = ann.pull(&web, "").await.ok();
    let mut replica = Replica::default();
    replica.catch_up(&ann, &web, 100).await;
    let backup = back_up(&ann, &web).await;
    delete_all(&ann, &web).await;
    ann.push(&web, &[say("four")]).await.ok();

    let body = json!({"backup_id": backup["id"], "mode": "merge"});
    let answer = restore(&ann, &web, body).await.ok();
    assert_eq!(counts(&answer), [3, 0, 0]);
    assert_eq!((&answer["mode"], &answer["status"]), (&json!("merge"), &json!("completed")));
    for key in ["id", "created_at", "record_count"] {
        assert_eq!(answer["backup"][key], backup[key], "{key}");
    }
    // An ordinary change for a device: its contributor and times are the backup's.
    replica.catch_up(&ann, &web, 100).await;
    let after = ann.pull(&web, "").await.ok();
    assert_eq!(contents(&after), ["four", "one", "two", "three"]);
    for (message, old) in after["messages"].as_array().unwrap()[1..]
        .iter()
        .zip(before["messages"].as_array().unwrap())
    {
        for key in ["id", "contributed_by", "device_id", "created_at", "updated_at"] {
            assert_eq!(message[key], old[key], "{key}");
        }
    }
    let shown = ann.get(&format!("{web}/restores/{}", text(&answer["restore_id"]))).await.ok();
    assert_eq!(shown, answer);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn wf_cs_010_a_replace_shows_what_the_backup_shows(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let pushed = ann.push(USER, &three()).await.ok();
    let backup = back_up(&ann, USER).await;
    let edit = json!({"id": pushed["results"][0]["id"], "type": "decision", "content": "one, edited",
        "base_cursor": 1});
    ann.push(USER, &[edit, say("four")]).await.ok();
    let body = json!({"backup_id": backup["id"], "mode": "replace"});
    let answer = restore(&ann, USER, body.clone()).await.ok();
    assert_eq!(counts(&answer), [1, 2, 1]);
    let after = ann.pull(USER, "").await.ok();
    assert_eq!((&after["count"], &after["digest"]), (&json!(3), &backup["digest"]));
    let again = restore(&ann, USER, body).await.ok();
    assert_eq!(counts(&again), [0, 3, 0]);
    assert_eq!(ann.pull(USER, "").await.ok(), after, "nothing was left to do");
}

async fn a_dry_run_says_what_it_would_come_to_and_changes_nothing(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &three()).await.ok();
    let backup = back_up(&ann, USER).await;
    delete_all(&ann, USER).await;
    ann.push(USER, &[say("four"), say("two")]).await.ok();
    for (mode, expected) in [("merge", [2, 1, 0]), ("replace", [3, 0, 1])] {
        let (before, ends) = (ann.pull(USER, "").await.ok(), cluster.ends().await);
        let body = json!({"backup_id": backup["id"], "mode": mode, "dry_run": true});
        let told = restore(&ann, USER, body).await.ok();
        assert_eq!(counts(&told), expected, "{mode}");
        assert_eq!((&told["restore_id"], &told["status"]), (&Value::Null, &Value::Null));
        assert_eq!(ann.pull(USER, "").await.ok(), before);
        assert!(cluster.ends().await.iter().sum::<u64>() <= ends.iter().sum::<u64>() + 4, "ticks");
        let body = json!({"backup_id": backup["id"], "mode": mode});
        let done = restore(&ann, USER, body).await.ok();
        assert_eq!(counts(&done), expected, "{mode}");
        delete_all(&ann, USER).await;
        ann.push(USER, &[say("four"), say("two")]).await.ok();
    }
}

/// Of the incremental that shows what is there now.
pub(crate) async fn sealed(device: &Device, scope: &str) -> Value {
    let digest = device.pull(scope, "").await.ok()["digest"].clone();
    eventually("the hour is sealed", async || {
        let listed = device.get(&format!("{scope}/backups?type=incremental")).await.ok();
        let newest = listed["backups"][0].clone();
        (newest["digest"] == digest && newest["verified_at"].is_string()).then_some(newest)
    })
    .await
}

async fn a_scope_is_set_back_to_a_moment(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &three()).await.ok();
    let first = sealed(&ann, USER).await;
    ann.push(USER, &[say("four")]).await.ok();
    let second = sealed(&ann, USER).await;
    delete_all(&ann, USER).await;
    for (backup, count) in [(&second, 4), (&first, 3)] {
        let body = json!({"as_of": backup["created_at"], "mode": "replace"});
        // By an incremental, or by the full of a day that ended there: the scope is as it was.
        restore(&ann, USER, body).await.ok();
        let now = ann.pull(USER, "").await.ok();
        assert_eq!((&now["count"], &now["digest"]), (&json!(count), &backup["digest"]));
    }
    let body = json!({"as_of": "2020-01-01T00:00:00Z", "mode": "merge"});
    restore(&ann, USER, body).await.problem(404, "SYNC_003");
}

async fn a_backup_of_another_scope_is_restored_by_one_who_may_in_both(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create_team("web", &[("bob", "member")]).await;
    ann.create("/api/v1/projects/drill", &[("bob", "admin")]).await;
    ann.push(&team("web"), &three()).await.ok();
    let backup = back_up(&ann, &team("web")).await;
    let source = json!({"scope_type": "team", "scope_id": "web"});
    let body = json!({"backup_id": backup["id"], "mode": "replace", "source": source});
    let drill = project("drill");
    restore(&bob, &drill, body.clone()).await.problem(403, "SYNC_005");
    restore(&ann, &drill, json!({"backup_id": backup["id"], "mode": "replace"}))
        .await
        .problem(404, "SYNC_003");
    let answer = restore(&ann, &drill, body).await.ok();
    assert_eq!(counts(&answer), [3, 0, 0]);
    let copy = bob.pull(&drill, "").await.ok();
    assert_eq!(
        (&copy["digest"], contents(&copy)),
        (&backup["digest"], vec!["one", "two", "three"])
    );
}

async fn a_retry_gets_the_first_restore_and_a_second_one_waits(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &three()).await.ok();
    let backup = back_up(&ann, USER).await;
    // Nobody executes it yet.
    cluster.restart(ALL).await;
    let ann = ann.at(&cluster.node.url);
    delete_all(&ann, USER).await;
    let body = json!({"backup_id": backup["id"], "mode": "merge"});
    let once = |wait: bool| {
        let request = restoring(&ann, USER, &body).header("Idempotency-Key", "a");
        if wait { request } else { request.header("Prefer", "respond-async") }
    };
    // Without the wait for the fold it is answered at once; the retry finds what became of it.
    Reply::of(once(false)).await.is(202);
    let running = eventually("it runs", async || {
        let reply = Reply::of(once(false)).await.is(202);
        let id = text(&reply["restore_id"]).to_owned();
        let shown = ann.get(&format!("{USER}/restores/{id}")).await;
        (shown.status == 200).then_some(shown.body)
    })
    .await;
    assert_eq!((&running["status"], counts(&running)), (&json!("running"), [0, 0, 0]));
    let id = text(&running["restore_id"]).to_owned();
    operators_see(cluster, Some(&id)).await;
    let second = restoring(&ann, USER, &body).header("Idempotency-Key", "b");
    let conflict = Reply::of(second).await.problem(409, "CONFLICT");
    assert_eq!(conflict["restore_id"], running["restore_id"]);
    let other = json!({"backup_id": backup["id"], "mode": "replace"});
    let mismatch = restoring(&ann, USER, &other).header("Idempotency-Key", "a");
    Reply::of(mismatch).await.problem(409, "IDEMPOTENCY_MISMATCH");
    // What is pushed meanwhile stays.
    ann.push(USER, &[say("meanwhile")]).await.ok();

    cluster.restart(ARCHIVING).await;
    let ann = ann.at(&cluster.node.url);
    let once = restoring(&ann, USER, &body).header("Idempotency-Key", "a");
    let done = Reply::of(once).await.ok();
    assert_eq!((&done["restore_id"], counts(&done)), (&running["restore_id"], [3, 0, 0]));
    assert_eq!(ann.pull(USER, "").await.ok()["count"], 4);
    operators_see(cluster, None).await;
}

/// What `ops status` says of the restores that run: of one of Ann's, or that there is none.
async fn operators_see(cluster: &Cluster, id: Option<&str>) {
    let status = ops(cluster, &["status"]).await.json();
    let restore = id.map(|id| {
        json!({"restore_id": id, "scope": "acme/user/ann", "mode": "merge", "restored": 0, "skipped": 0, "deleted": 0})
    });
    assert_eq!(status["restores"], json!(restore.as_slice()));
    let port = format!("--ops-url={}", cluster.node.ops_url);
    let shown = said(&["ops", "status", &port]).await.lines.join("\n");
    let lines = match id {
        Some(id) => format!(
            "restores      1 running\n              acme/user/ann: {id} (merge), 0 restored\n"
        ),
        None => "restores      0 running\n".to_owned(),
    };
    assert!(shown.contains(&lines), "{shown}");
}

async fn sync_003_what_is_no_backup_of_the_scope_is_not_found(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[]).await;
    let backup = back_up(&ann, USER).await;
    let body = |id: &Value| json!({"backup_id": id, "mode": "merge"});
    restore(&ann, &team("web"), body(&backup["id"])).await.problem(404, "SYNC_003");
    restore(&ann, USER, body(&json!(uuid::Uuid::new_v4()))).await.problem(404, "SYNC_003");
    let stranger = cluster.device_of("globex", "ann", OrgRole::Owner);
    restore(&stranger, USER, body(&backup["id"])).await.problem(404, "SYNC_003");
    let overwrite = json!({"backup_id": backup["id"], "mode": "overwrite"});
    restore(&ann, USER, overwrite).await.problem(400, "INVALID_REQUEST");
    let unknown = format!("{USER}/restores/{}", uuid::Uuid::new_v4());
    ann.get(&unknown).await.problem(404, "NOT_FOUND");
    ann.get(&format!("{USER}/restores/x")).await.problem(400, "INVALID_REQUEST");
    // One that is asked for, and not made.
    cluster.restart(ALL).await;
    let ann = ann.at(&cluster.node.url);
    let pending = Reply::of(ann.request(Method::POST, &format!("{USER}/backups"))).await.is(202);
    restore(&ann, USER, body(&pending["id"])).await.problem(404, "SYNC_003");
}

async fn sync_004_a_damaged_backup_changes_nothing(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &three()).await.ok();
    let backup = back_up(&ann, USER).await;
    delete_all(&ann, USER).await;
    let before = ann.pull(USER, "").await.ok();
    let path = text(&backup["gcs_path"]).strip_prefix("file://").unwrap();
    let whole = std::fs::read(path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let body = json!({"backup_id": backup["id"], "mode": "replace"});
    for damaged in [&flipped[..], &whole[..whole.len() / 2]] {
        std::fs::write(path, damaged).unwrap();
        let problem = restore(&ann, USER, body.clone()).await.problem(502, "SYNC_004");
        assert_eq!(ann.pull(USER, "").await.ok(), before);
        let failed = format!("{USER}/restores/{}", text(&problem["restore_id"]));
        let failed = ann.get(&failed).await.ok();
        assert_eq!((&failed["status"], &failed["code"]), (&json!("failed"), &json!("SYNC_004")));
        let dry = json!({"backup_id": backup["id"], "mode": "merge", "dry_run": true});
        restore(&ann, USER, dry).await.problem(502, "SYNC_004");
    }
    std::fs::remove_file(path).unwrap();
    restore(&ann, USER, body.clone()).await.problem(404, "SYNC_003");
    assert_eq!(ann.pull(USER, "").await.ok(), before);
    // Whole again, it is restored.
    std::fs::write(path, &whole).unwrap();
    assert_eq!(counts(&restore(&ann, USER, body).await.ok()), [3, 0, 0]);
}

/// The column "can restore" of the founding tables, and the org's.
async fn wf_cs_003_and_005_who_may_restore(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "admin"), ("cy", "member")]).await;
    ann.create("/api/v1/projects/shop", &[("bob", "admin"), ("cy", "member"), ("dan", "viewer")])
        .await;
    let backup_of = async |scope: &str| back_up(&ann, scope).await["id"].clone();
    for (scope, refused) in
        [(team("web"), &["cy", "eve"][..]), (project("shop"), &["cy", "dan", "eve"])]
    {
        let body = json!({"backup_id": backup_of(&scope).await, "mode": "merge"});
        for user in refused {
            restore(&cluster.device(user), &scope, body.clone()).await.problem(403, "SYNC_005");
            let shown = format!("{scope}/restores/{}", uuid::Uuid::new_v4());
            cluster.device(user).get(&shown).await.problem(403, "SYNC_005");
        }
        for user in ["ann", "bob"] {
            restore(&cluster.device(user), &scope, body.clone()).await.ok();
        }
    }
    let of = |role| cluster.device_of("acme", "bob", role);
    let backup = back_up(&of(OrgRole::Admin), &org("acme")).await;
    let body = json!({"backup_id": backup["id"], "mode": "merge"});
    for role in [OrgRole::Member, OrgRole::Admin] {
        restore(&of(role), &org("acme"), body.clone()).await.problem(403, "SYNC_005");
    }
    restore(&of(OrgRole::Owner), &org("acme"), body).await.ok();
}
