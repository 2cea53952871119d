//! SYNC_007: how much a scope and a tenant may hold, and what operators set.

use model::TenantId;
use readmodel::quotas::{self, Overrides};
use reqwest::Method;
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    backups::back_up,
    client::{Reply, USER, assert_keys, contents, say, statuses, team},
    cluster::{ALL, ARCHIVING, Cluster, LogKind},
    crash::run,
};

both_logs! {
    sync_007_a_scope_that_is_full_takes_deletes_alone,
    sync_007_deletes_pass_and_the_writes_of_the_same_push_do_not,
    sync_007_bytes_count_in_the_scope_and_in_all_of_the_tenant,
    sync_007_messages_count_in_all_of_the_tenant,
    sync_007_an_operator_sets_a_tenant_s_quotas,
}

/// The quota that refuses it: its name, its value, what is used, and what was sent.
fn refused(reply: Reply) -> (String, [u64; 3]) {
    let problem = reply.problem(507, "SYNC_007");
    let mut keys = vec!["type", "title", "status", "detail", "code", "resolution", "request_id"];
    keys.extend(["limit", "max", "used", "sent"]);
    assert_keys(&problem, &keys);
    assert_eq!(problem["resolution"], "Contact admin");
    let numbers = ["max", "used", "sent"].map(|key| problem[key].as_u64().unwrap());
    (problem["limit"].as_str().unwrap().to_owned(), numbers)
}

fn limit(name: &str, max: u64, used: u64, sent: u64) -> (String, [u64; 3]) {
    (name.to_owned(), [max, used, sent])
}

async fn sync_007_a_scope_that_is_full_takes_deletes_alone(cluster: &mut Cluster) {
    cluster.settings.ingest.scope_messages_max = 3;
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    let web = team("web");
    let four: Vec<Value> = ["one", "two", "three", "four"].map(say).into();
    let none_fits = ann.push(&web, &four).await;
    assert_eq!(refused(none_fits), limit("scope_messages_max", 3, 0, 4));
    let first = ann.push_once(&web, "first", &four[..3]).await.ok();
    let before = cluster.ends().await;
    let full = limit("scope_messages_max", 3, 3, 1);
    for pusher in [&ann, &cluster.device("bob")] {
        assert_eq!(refused(pusher.push(&web, &four[3..]).await), full);
    }
    // Who retries what was taken is told so.
    assert_eq!(ann.push_once(&web, "first", &four[..3]).await.ok(), first);
    assert_eq!(cluster.ends().await, before, "nothing of it went to the log");
    // The caller's right is asked before.
    cluster.device("eve").push(&web, &four[3..]).await.problem(403, "SYNC_005");

    let id = first["results"][0]["id"].clone();
    let delete = json!({"id": id, "deleted": true, "base_cursor": 3});
    assert_eq!(statuses(&ann.push(&web, &[delete]).await.ok()), ["deleted"]);
    assert_eq!(statuses(&ann.push(&web, &four[3..]).await.ok()), ["created"]);
    assert_eq!(refused(ann.push(&web, &[say("five")]).await), full);
    let page = ann.pull(&web, "").await.ok();
    assert_eq!(
        (contents(&page), &page["count"]),
        (vec!["two", "three", "(deleted)", "four"], &json!(3))
    );
    // Every scope has a quota of its own.
    ann.push(USER, &four[..3]).await.ok();
}

async fn sync_007_deletes_pass_and_the_writes_of_the_same_push_do_not(cluster: &mut Cluster) {
    cluster.settings.ingest.scope_messages_max = 3;
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    let first = ann.push(USER, &["one", "two", "three"].map(say)).await.ok();
    let delete = |place: usize| json!({"id": first["results"][place]["id"], "deleted": true, "base_cursor": 3});
    let mixed = [say("four"), delete(0), json!({"type": "decision"}), say("five"), delete(1)];
    let answer = ann.push_once(USER, "mixed", &mixed).await.ok();
    assert_eq!(statuses(&answer), ["invalid", "deleted", "invalid", "invalid", "deleted"]);
    assert_eq!(
        (&answer["synced"], &answer["skipped"], &answer["rejected"], &answer["cursor"]),
        (&json!(2), &json!(0), &json!(3), &json!(5))
    );
    let codes: Vec<&Value> = (0..5).map(|place| &answer["results"][place]["code"]).collect();
    let quota = json!("SYNC_007");
    assert_eq!(codes, [&quota, &json!(null), &json!("INVALID_REQUEST"), &quota, &json!(null)]);
    let detail = answer["results"][3]["detail"].as_str().unwrap();
    let expected = "messages[3]: scope_messages_max is 3, used are 3, sent were 2; deletes pass";
    assert_eq!(detail, expected);

    // That key has its answer, though there is room now; another one finds it.
    let before = cluster.ends().await;
    assert_eq!(ann.push_once(USER, "mixed", &mixed).await.ok(), answer);
    assert_eq!(cluster.ends().await, before, "nothing of it went to the log");
    let status = ann.get(&format!("/api/v1/pushes/{}", answer["push_id"].as_str().unwrap())).await;
    assert_eq!(status.ok()["results"], answer["results"]);
    let again = ann.push(USER, &[say("four"), say("five")]).await.ok();
    assert_eq!(statuses(&again), ["created", "created"]);
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(contents(&page), ["three", "(deleted)", "(deleted)", "four", "five"]);
    // Where nothing but writes is left, all is refused: what is invalid among them says nothing of the others.
    let none = ann.push(USER, &[say("six"), json!({"type": "decision"})]).await;
    assert_eq!(refused(none), limit("scope_messages_max", 3, 3, 1));
    // A delete of what is not there passes too.
    let absent = json!({"id": uuid::Uuid::new_v4(), "deleted": true, "base_cursor": 1});
    assert_eq!(statuses(&ann.push(USER, &[say("six"), absent]).await.ok()), ["invalid", "absent"]);
}

/// A message that counts this many bytes.
fn bytes(name: char, bytes: usize) -> Value {
    say(&name.to_string().repeat(bytes - "{}".len()))
}

async fn sync_007_bytes_count_in_the_scope_and_in_all_of_the_tenant(cluster: &mut Cluster) {
    cluster.settings.ingest.scope_bytes_max = 100;
    cluster.settings.ingest.tenant_bytes_max = 150;
    cluster.restart(ALL).await;
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.push(USER, &[bytes('a', 60)]).await.ok();
    assert_eq!(
        refused(ann.push(USER, &[bytes('b', 60)]).await),
        limit("scope_bytes_max", 100, 60, 60)
    );
    // What metadata there is counts too.
    let with = json!({"type": "decision", "content": "x", "metadata": {"k": "v".repeat(40)}});
    assert_eq!(refused(ann.push(USER, &[with]).await), limit("scope_bytes_max", 100, 60, 49));
    bob.push(USER, &[bytes('a', 60)]).await.ok();
    let cy = cluster.device("cy");
    let full = limit("tenant_bytes_max", 150, 120, 60);
    assert_eq!(refused(cy.push(USER, &[bytes('a', 60)]).await), full);
    cy.push(USER, &[bytes('a', 30)]).await.ok();
    // Another tenant's is another sum.
    let other = cluster.device_of("globex", "cy", OrgRole::Member);
    other.push(USER, &[bytes('a', 60)]).await.ok();
    let id = bob.pull(USER, "").await.ok()["messages"][0]["id"].clone();
    let delete = json!({"id": id, "deleted": true, "base_cursor": 1});
    bob.push(USER, &[delete]).await.ok();
    cy.push(USER, &[bytes('b', 60)]).await.ok();
}

async fn sync_007_messages_count_in_all_of_the_tenant(cluster: &mut Cluster) {
    cluster.settings.ingest.tenant_messages_max = 5;
    cluster.restart(ALL).await;
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create_team("web", &[]).await;
    let first = ann.push(&team("web"), &["one", "two", "three"].map(say)).await.ok();
    bob.push(USER, &["one", "two"].map(say)).await.ok();
    let full = limit("tenant_messages_max", 5, 5, 1);
    for scope in [USER, &team("web")] {
        assert_eq!(refused(ann.push(scope, &[say("four")]).await), full);
    }
    // Another tenant's is another sum.
    let other = cluster.device_of("globex", "ann", OrgRole::Member);
    other.push(USER, &["1", "2", "3", "4", "5"].map(say)).await.ok();
    // What is deleted anywhere makes room everywhere, and what was there already takes none.
    let id = first["results"][0]["id"].clone();
    let delete = json!({"id": id, "deleted": true, "base_cursor": 3});
    ann.push(&team("web"), &[delete]).await.ok();
    bob.push(USER, &[say("two")]).await.ok();
    assert_eq!(statuses(&bob.push(USER, &[say("three")]).await.ok()), ["created"]);
    assert_eq!(refused(bob.push(USER, &[say("four")]).await), full);
    // An operator's is another one.
    let (acme, database) = (TenantId::new("acme").unwrap(), cluster.settings.database.clone());
    let set = Overrides { tenant_messages_max: Some(6), ..Overrides::default() };
    quotas::set(&database, &acme, &set).await.unwrap();
    bob.push(USER, &[say("four")]).await.ok();
    let full = limit("tenant_messages_max", 6, 6, 1);
    assert_eq!(refused(ann.push(USER, &[say("five")]).await), full);
}

async fn sync_007_an_operator_sets_a_tenant_s_quotas(cluster: &mut Cluster) {
    cluster.settings.ingest.scope_messages_max = 1;
    cluster.restart(ALL).await;
    let (acme, database) = (TenantId::new("acme").unwrap(), cluster.settings.database.clone());
    let ann = cluster.device("ann");
    let globex = cluster.device_of("globex", "ann", OrgRole::Member);
    for device in [&ann, &globex] {
        device.push(USER, &[say("one")]).await.ok();
        assert_eq!(device.push(USER, &[say("two")]).await.status, 507);
    }
    let set = Overrides { scope_messages_max: Some(2), ..Overrides::default() };
    quotas::set(&database, &acme, &set).await.unwrap();
    ann.push(USER, &[say("two")]).await.ok();
    assert_eq!(
        refused(ann.push(USER, &[say("three")]).await),
        limit("scope_messages_max", 2, 2, 1)
    );
    assert_eq!(globex.push(USER, &[say("two")]).await.status, 507, "it is another tenant's");
    quotas::set(&database, &acme, &Overrides { scope_messages_max: Some(0), ..set }).await.unwrap();
    ann.push(USER, &[say("three"), say("four")]).await.ok();

    // What the command shows: the tenant holds what the read model says.
    let url = format!("--database-url={}", cluster.database.url());
    for quota in ["--scope-bytes-max=7", "--tenant-messages-max=8"] {
        let args = ["ops", "quota", "set", &url, "--tenant=acme", quota];
        assert!(run(&args).await.status.success());
    }
    let shown = run(&["ops", "quota", "show", &url, "--json"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let expected = json!({
        "tenant_id": "acme", "messages": 4, "bytes": 15 + 4 * 2,
        "scope_messages_max": 0, "scope_bytes_max": 7, "tenant_messages_max": 8, "tenant_bytes_max": null,
    });
    assert_eq!(shown, expected);
    assert!(run(&["ops", "quota", "unset", &url, "--tenant=acme"]).await.status.success());
    assert_eq!(quotas::show(&database, None).await.unwrap(), []);

    // Bad ones change nothing, and say why.
    for (args, said) in [
        (["ops", "quota", "set", &url, "--tenant=acme"].as_slice(), "scope-bytes-max"),
        (&["ops", "quota", "set", &url, "--tenant=a/b", "--scope-bytes-max=7"], "1 to 128"),
        (&["ops", "quota", "show", "--database-url=postgres://127.0.0.1:1/none"], "Postgres"),
    ] {
        let ended = run(args).await;
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && stderr.contains(said), "{args:?}: {stderr}");
    }
    assert_eq!(quotas::show(&database, None).await.unwrap(), []);
}

/// A scope's own backup comes back whatever the quota; another's is a copy, and counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_007_a_restore_brings_back_what_was_there_and_a_copy_counts() {
    let mut cluster = Cluster::start_archiving(LogKind::Embedded).await;
    let ann = cluster.device("ann");
    ann.create_team("web", &[]).await;
    let web = team("web");
    let pushed = ann.push(USER, &["one", "two", "three"].map(say)).await.ok();
    ann.push(&web, &[say("ours")]).await.ok();
    let backup = back_up(&ann, USER).await;
    let id = &pushed["results"][0]["id"];
    ann.push(USER, &[json!({"id": id, "deleted": true, "base_cursor": 3})]).await.ok();
    cluster.settings.ingest.scope_messages_max = 2;
    cluster.restart(ARCHIVING).await;
    let ann = cluster.device("ann");
    let restore = async |scope: &str, body: Value| {
        Reply::of(ann.request(Method::POST, &format!("{scope}/restore")).json(&body)).await
    };
    let mut body = json!({"backup_id": backup["id"], "mode": "merge"});
    restore(USER, body.clone()).await.ok();
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(page["count"], 3, "over its quota, and all there");
    assert_eq!(refused(ann.push(USER, &[say("four")]).await), limit("scope_messages_max", 2, 3, 1));
    body["source"] = json!({"scope_type": "user", "scope_id": "ann"});
    assert_eq!(refused(restore(&web, body.clone()).await), limit("scope_messages_max", 2, 1, 3));
    cluster.settings.ingest.scope_messages_max = 4;
    cluster.restart(ARCHIVING).await;
    let ann = cluster.device("ann");
    let request = ann.request(Method::POST, &format!("{web}/restore")).json(&body);
    assert_eq!(Reply::of(request).await.ok()["restored"], 3);
    cluster.finish().await;
}
