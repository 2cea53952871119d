//! WF-CS-012: a device that has drifted is told so, and mended.

use std::{collections::HashMap, sync::Arc};

use context_sync::device::{
    client::{Client, Server},
    scope::Scope,
};
use device::{
    drift::{Mended, Mending},
    replica::Replica,
};
use model::{Cursor, DeviceId, Epoch, Item};
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json, value::RawValue};
use service::{Secret, auth::OrgRole};
use uuid::Uuid;

use crate::{
    client::{Device, Reply, USER, assert_keys, contents, org, project, say, team},
    cluster::{ALL, Cluster},
};

const ANSWER: [&str; 8] =
    ["status", "action", "cursor", "head", "floor", "count", "digest", "epoch"];

both_logs! {
    wf_cs_012_in_sync,
    wf_cs_012_client_cursor_ahead_of_server,
    wf_cs_012_client_cursor_behind_server,
    wf_cs_012_cursor_corruption,
    wf_cs_012_messages_that_are_not_the_scope_s,
    wf_cs_012_another_epoch,
    wf_cs_012_who_may,
    a_repair_goes_on_while_others_push,
    what_a_scope_has_lost_is_kept_until_it_has_it_again,
    messages_are_fetched_by_id_and_by_item,
    a_fetch_has_at_most_4_mib,
}

pub(crate) async fn reconcile(device: &Device, scope: &str, body: Value) -> Reply {
    Reply::of(device.request(Method::POST, &format!("{scope}/reconcile")).json(&body)).await
}

async fn fetch(device: &Device, scope: &str, ids: &[Value]) -> Reply {
    let body = json!({"ids": ids});
    Reply::of(device.request(Method::POST, &format!("{scope}/messages")).json(&body)).await
}

/// What a device would send of what it holds.
pub(crate) fn claim(replica: &Replica) -> Value {
    let claim = replica.claim();
    json!({"cursor": claim.cursor, "epoch": replica.epoch, "count": claim.count, "digest": claim.digest})
}

pub(crate) fn gist(answer: &Value) -> (&str, &str, u64) {
    let text = |key: &str| answer[key].as_str().unwrap();
    (text("status"), text("action"), answer["cursor"].as_u64().unwrap())
}

/// The product's own client, as the same device.
pub(crate) fn own_client(device: &Device) -> Client {
    let server = Server::new(&device.url, Arc::new(|_| {})).unwrap();
    server.client(Secret::new(device.token.clone()), DeviceId::new(&device.device).unwrap())
}

pub(crate) async fn mend(device: &Device, scope: &Scope, replica: &mut Replica) -> Mended {
    let client = own_client(device);
    let mut mending = Mending::new(client.in_scope(scope), replica);
    mending.run().await.unwrap();
    mending.mended
}

/// Says that the replica is the scope.
pub(crate) async fn assert_in_sync(device: &Device, scope: &str, replica: &Replica) {
    let answer = reconcile(device, scope, claim(replica)).await.ok();
    assert_eq!(gist(&answer), ("in_sync", "none", replica.cursor.get()), "{answer}");
    assert_eq!(
        (&answer["count"], &answer["digest"]),
        (&json!(replica.count()), &json!(replica.digest()))
    );
}

/// Ann's scope with so many messages, and a device that has them.
async fn with(cluster: &Cluster, count: u32) -> (Device, Replica) {
    let ann = cluster.device("ann");
    let messages: Vec<Value> = (1..=count).map(|n| say(&format!("message {n}"))).collect();
    for push in messages.chunks(500) {
        ann.push(USER, push).await.ok();
    }
    let mut replica = Replica::default();
    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!(mended, Mended { pulled: u64::from(count), ..Mended::default() });
    (ann, replica)
}

async fn what_a_scope_has_lost_is_kept_until_it_has_it_again(cluster: &mut Cluster) {
    cluster.settings.ingest.scope_messages_max = 3;
    cluster.restart(ALL).await;
    let (ann, mut replica) = with(cluster, 3).await;
    // The server forgot what this device had pulled, and has no room for it now.
    replica.apply(pulled(77, 4, "lost")).unwrap();
    replica.cursor = Cursor::new(4).unwrap();
    let client = own_client(&ann);
    let mut mending = Mending::new(client.in_scope(&Scope::User), &mut replica);
    let error = mending.run().await.unwrap_err().to_string();
    assert!(error.contains("scope_messages_max"), "{error}");
    let (mended, left) = (mending.mended, mending.left);
    assert_eq!((mended.pushed_again, mended.dropped, left.refused.len()), (0, 0, 0));
    assert!(left.owed.len() == 1 && left.owed[0].get().contains("lost"), "{left:?}");
    let message: Value = serde_json::from_str(left.owed[0].get()).unwrap();
    cluster.settings.ingest.scope_messages_max = 0;
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[message]).await.ok();
    mend(&ann, &Scope::User, &mut replica).await;
    assert_in_sync(&ann, USER, &replica).await;
    assert_eq!(replica.count(), 4);
}

/// A message as a pull would have given it.
fn pulled(id: u128, cursor: u64, content: &str) -> Box<RawValue> {
    let message = json!({
        "id": Uuid::from_u128(id), "type": "decision", "content": content, "content_hash": "…",
        "metadata": {}, "created_at": "2025-12-30T10:00:00Z", "updated_at": "2025-12-30T10:00:00Z",
        "contributed_by": "ann", "device_id": "phone", "cursor": cursor, "deleted": false,
    });
    serde_json::value::to_raw_value(&message).unwrap()
}

async fn wf_cs_012_in_sync(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let empty = reconcile(&ann, USER, json!({"cursor": 0})).await.ok();
    assert_keys(&empty, &ANSWER);
    assert_eq!(gist(&empty), ("in_sync", "none", 0));
    let (ann, replica) = with(cluster, 7).await;
    let answer = reconcile(&ann, USER, claim(&replica)).await.ok();
    assert_keys(&answer, &ANSWER);
    assert_eq!(gist(&answer), ("in_sync", "none", 7));
    assert_eq!(
        (&answer["head"], &answer["floor"], &answer["count"]),
        (&json!(7), &json!(0), &json!(7))
    );
    let page = ann.pull(USER, "cursor=7").await.ok();
    for key in ["head", "floor", "count", "digest", "epoch"] {
        assert_eq!(answer[key], page[key], "{key}");
    }
    assert_in_sync(&ann, USER, &replica).await;
}

/// The server lost data: the device has seen what the scope has not, and brings it back.
async fn wf_cs_012_client_cursor_ahead_of_server(cluster: &mut Cluster) {
    let (ann, mut replica) = with(cluster, 7).await;
    for cursor in 8..=10 {
        replica.apply(pulled(cursor.into(), cursor, &format!("lost {cursor}"))).unwrap();
    }
    replica.cursor = Cursor::from_i64(10);
    // What SYNC_001 says is enough to go on.
    let epoch = replica.epoch.unwrap();
    let problem =
        ann.pull(USER, &format!("cursor=10&epoch={epoch}")).await.problem(409, "SYNC_001");
    assert_eq!(
        (&problem["head"], &problem["floor"], &problem["epoch"]),
        (&json!(7), &json!(0), &json!(epoch))
    );
    let answer = reconcile(&ann, USER, claim(&replica)).await.ok();
    assert_eq!(gist(&answer), ("ahead", "repair", 7));

    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!(mended, Mended { pulled: 3, repairs: 1, pushed_again: 3, ..Mended::default() });
    assert_eq!((replica.count(), replica.cursor.get()), (10, 10));
    assert_in_sync(&ann, USER, &replica).await;
    let page = ann.pull(USER, "cursor=7").await.ok();
    assert_eq!(page["messages"].as_array().unwrap().len(), 3);
    assert_eq!(page["messages"][0]["updated_at"], "2025-12-30T10:00:00Z");
}

/// The device missed syncs.
async fn wf_cs_012_client_cursor_behind_server(cluster: &mut Cluster) {
    let (ann, mut replica) = with(cluster, 7).await;
    let id = Uuid::from_u128(1);
    let messages = [say("missed"), json!({"id": id, "type": "decision", "content": "edited"})];
    ann.named("phone").push(USER, &messages).await.ok();
    // Count and digest are those of another cursor: they are not compared.
    let answer = reconcile(&ann, USER, claim(&replica)).await.ok();
    assert_eq!(gist(&answer), ("behind", "pull", 7));
    assert_eq!(answer["head"], 9);
    assert_eq!(
        mend(&ann, &Scope::User, &mut replica).await,
        Mended { pulled: 2, ..Mended::default() }
    );
    assert_in_sync(&ann, USER, &replica).await;
    // From 0 as well.
    let answer = reconcile(&ann, USER, json!({"cursor": 0, "count": 0})).await.ok();
    assert_eq!(gist(&answer), ("behind", "pull", 0));
}

/// The cursor is not where the device really was.
async fn wf_cs_012_cursor_corruption(cluster: &mut Cluster) {
    let (ann, mut replica) = with(cluster, 20).await;
    ann.push(USER, &[say("never pulled"), say("nor this")]).await.ok();
    // Too far, but within the scope: what lies between is missing, and only count and digest tell.
    replica.cursor = Cursor::from_i64(22);
    let answer = reconcile(&ann, USER, claim(&replica)).await.ok();
    assert_eq!(gist(&answer), ("diverged", "repair", 22));
    assert_eq!(
        reconcile(&ann, USER, json!({"cursor": 22})).await.ok()["status"],
        "in_sync",
        "nothing was said"
    );
    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!(mended, Mended { repairs: 1, fetched: 2, ..Mended::default() });
    assert_in_sync(&ann, USER, &replica).await;
    // Beyond the scope: the messages are fine, nothing is pushed or fetched.
    for cursor in [23, i64::MAX] {
        replica.cursor = Cursor::from_i64(cursor);
        let mended = mend(&ann, &Scope::User, &mut replica).await;
        assert_eq!(mended, Mended { repairs: 1, ..Mended::default() });
        assert_in_sync(&ann, USER, &replica).await;
    }
    // Too early: pulling again what is there changes nothing.
    replica.cursor = Cursor::from_i64(3);
    assert_eq!(mend(&ann, &Scope::User, &mut replica).await.repairs, 0);
    assert_in_sync(&ann, USER, &replica).await;
}

/// Messages lost, altered, and kept though they were deleted; among many that are right.
async fn wf_cs_012_messages_that_are_not_the_scope_s(cluster: &mut Cluster) {
    let (ann, mut replica) = with(cluster, 1_500).await;
    let page = ann.pull(USER, "limit=6").await.ok();
    let message = |n: usize| page["messages"][n].clone();
    let item_of = |n: usize| {
        let mut one = Replica::default();
        let raw = serde_json::value::to_raw_value(&message(n)).unwrap();
        one.apply(raw).unwrap().unwrap().item
    };
    let lost: HashMap<Item, ()> = (0..3).map(|n| (item_of(n), ())).collect();
    assert_eq!(replica.remove(|message| lost.contains_key(&message.held.item)).len(), 3);
    let mut altered = message(3);
    altered["content"] = json!("bit rot");
    replica.apply(serde_json::value::to_raw_value(&altered).unwrap()).unwrap();
    replica.apply(pulled(77, 5, "deleted long ago")).unwrap();
    let answer = reconcile(&ann, USER, claim(&replica)).await.ok();
    assert_eq!(gist(&answer), ("diverged", "repair", 1_500));
    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!(mended, Mended { repairs: 1, fetched: 4, dropped: 2, ..Mended::default() });
    assert_in_sync(&ann, USER, &replica).await;
}

async fn wf_cs_012_another_epoch(cluster: &mut Cluster) {
    let (ann, mut replica) = with(cluster, 5).await;
    let epoch = replica.epoch.unwrap();
    let other = Epoch(Uuid::new_v4());
    replica.apply(pulled(6, 6, "of the other history")).unwrap();
    replica.epoch = Some(other);
    let answer = reconcile(&ann, USER, claim(&replica)).await.ok();
    assert_eq!(gist(&answer), ("diverged", "resync", 0));
    assert_eq!((&answer["epoch"], &answer["base"]), (&json!(epoch), &json!(0)));
    // Of another epoch nothing was kept: whatever the device had beyond that, it brings back.
    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!((mended.repairs, mended.pushed_again, mended.dropped), (1, 1, 0));
    assert_eq!((replica.epoch, replica.count()), (Some(epoch), 6));
    assert_in_sync(&ann, USER, &replica).await;
    // From 0 every epoch is good.
    let answer = reconcile(&ann, USER, json!({"cursor": 0, "epoch": other})).await.ok();
    assert_eq!(gist(&answer), ("behind", "pull", 0));
    assert_eq!(answer["base"], 0);
}

/// As for a pull: a viewer may, a stranger not, and a former member is told to purge.
async fn wf_cs_012_who_may(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create("/api/v1/projects/p", &[("bob", "viewer")]).await;
    ann.push(&project("p"), &[say("x")]).await.ok();
    ann.create_team("t", &[("bob", "member")]).await;
    ann.delete("/api/v1/teams/t/members/bob").await.ok();
    let frame = [0x61, 0, 0, 2, 0];
    let compare = async |device: &Device, scope: &str| {
        let request = device.request(Method::POST, &format!("{scope}/reconcile/messages"));
        Reply::of(request.body(frame.to_vec())).await
    };
    let ids = [json!(Uuid::nil()), json!("0".repeat(64))];
    for scope in [project("p"), org("acme"), USER.to_owned()] {
        reconcile(&bob, &scope, json!({"cursor": 0})).await.ok();
        assert_eq!(compare(&bob, &scope).await.headers[CONTENT_TYPE], "application/octet-stream");
        fetch(&bob, &scope, &ids).await.ok();
    }
    for (scope, purge) in
        [(team("t"), json!(true)), (team("u"), Value::Null), (org("globex"), Value::Null)]
    {
        let answers = [
            reconcile(&bob, &scope, json!({"cursor": 0})).await,
            compare(&bob, &scope).await,
            fetch(&bob, &scope, &ids[..1]).await,
            fetch(&bob, &scope, &ids).await,
        ];
        for answer in answers {
            assert_eq!(answer.problem(403, "SYNC_005")["purge"], purge, "{scope}");
        }
    }
    let owner = cluster.device_of("acme", "olga", OrgRole::Owner);
    reconcile(&owner, &team("t"), json!({"cursor": 0})).await.ok();
    compare(&owner, &team("t")).await.is(200);
}

async fn a_repair_goes_on_while_others_push(cluster: &mut Cluster) {
    let (ann, mut replica) = with(cluster, 300).await;
    let phone = ann.named("phone");
    let pushing = tokio::spawn(async move {
        for n in 0..30 {
            let id = Uuid::from_u128(n % 5 + 1);
            let edit = json!({"id": id, "type": "decision", "content": format!("edit {n}"),
                "base_cursor": u64::from(u32::MAX)});
            phone.push(USER, &[say(&format!("new {n}")), edit]).await.ok();
        }
    });
    let mut round = 0;
    while !pushing.is_finished() {
        // A third of the messages is lost each time.
        round += 1;
        replica.remove(|message| message.held.item.0[0] % 3 == round % 3);
        // Pulled past it, so that only the digest tells.
        mend(&ann, &Scope::User, &mut replica).await;
    }
    pushing.await.unwrap();
    mend(&ann, &Scope::User, &mut replica).await;
    assert_in_sync(&ann, USER, &replica).await;
}

async fn messages_are_fetched_by_id_and_by_item(cluster: &mut Cluster) {
    let (ann, _) = with(cluster, 3).await;
    let page = ann.pull(USER, "").await.ok();
    let messages = page["messages"].as_array().unwrap();
    let item = |message: &Value| {
        let raw = serde_json::value::to_raw_value(message).unwrap();
        json!(Replica::default().apply(raw).unwrap().unwrap().item)
    };
    let (first, third) = (&messages[0], &messages[2]);
    let (unknown, nowhere) = (json!(Uuid::nil()), json!("f".repeat(64)));
    let ids =
        [third["id"].clone(), nowhere.clone(), item(first), unknown.clone(), first["id"].clone()];
    let fetched = fetch(&ann, USER, &ids).await.ok();
    assert_keys(&fetched, &["messages", "missing", "has_more"]);
    assert_eq!(
        fetched,
        json!({"messages": [third, first], "missing": [nowhere, unknown], "has_more": false})
    );
    let none = json!({"messages": [], "missing": [], "has_more": false});
    assert_eq!(fetch(&ann, USER, &[]).await.ok(), none);

    // An item names that version alone; a deleted message is a tombstone by its id.
    let old = item(first);
    let edit =
        json!({"id": first["id"], "type": "decision", "content": "edited", "base_cursor": 3});
    let delete = json!({"id": third["id"], "deleted": true, "base_cursor": 3});
    ann.push(USER, &[edit, delete]).await.ok();
    let fetched = fetch(&ann, USER, &[old.clone(), item(third), third["id"].clone()]).await.ok();
    assert_eq!(fetched["missing"], json!([old, item(third)]));
    assert_eq!(contents(&fetched), ["(deleted)"]);
    let fetched = fetch(&ann, USER, &[first["id"].clone()]).await.ok();
    assert_eq!(contents(&fetched), ["edited"]);
    let again = fetch(&ann, USER, &[item(&fetched["messages"][0])]).await.ok();
    assert_eq!(again["messages"], fetched["messages"]);
    // Another's messages are nowhere.
    let bobs = fetch(&cluster.device("bob"), USER, &[first["id"].clone()]).await.ok();
    assert_eq!(bobs["missing"], json!([first["id"]]));
}

async fn a_fetch_has_at_most_4_mib(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    for push in 0..2 {
        let large = |n: u32| say(&format!("{n:03}{}", "x".repeat((64 << 10) - 3)));
        let messages: Vec<Value> = (0..50).map(|n| large(push * 50 + n)).collect();
        ann.push(USER, &messages).await.ok();
    }
    let mut replica = Replica::default();
    mend(&ann, &Scope::User, &mut replica).await;
    let ids: Vec<Value> = {
        let mut ids = Vec::new();
        for cursor in [0, 50] {
            let page = ann.pull(USER, &format!("cursor={cursor}&limit=50")).await.ok();
            ids.extend(page["messages"].as_array().unwrap().iter().map(|m| m["id"].clone()));
        }
        ids
    };
    let first = fetch(&ann, USER, &ids).await.ok();
    let got = first["messages"].as_array().unwrap();
    let bytes: usize = got.iter().map(|message| message.to_string().len()).sum();
    assert!(bytes <= 4 << 20 && bytes + 66_000 > 4 << 20, "{bytes} bytes");
    assert_eq!((&first["missing"], &first["has_more"]), (&json!([]), &json!(true)));
    let asked: Vec<&Value> = ids.iter().take(got.len()).collect();
    assert_eq!(got.iter().map(|m| &m["id"]).collect::<Vec<_>>(), asked);
    let rest = fetch(&ann, USER, &ids[got.len()..]).await.ok();
    assert_eq!(
        (rest["messages"].as_array().unwrap().len(), &rest["has_more"]),
        (100 - got.len(), &json!(false))
    );

    // A device asks again for the rest by itself.
    replica.remove(|_| true);
    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!(mended, Mended { repairs: 1, fetched: 100, ..Mended::default() });
}
