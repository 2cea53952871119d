//! WF-CS-011: | Scenario | Resolution |, a test a row.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    client::{Device, USER, contents, say, statuses, team},
    cluster::Cluster,
};

/// A team's two writers.
async fn two_writers(cluster: &Cluster) -> (Device, Device) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create_team("t", &[("bob", "member")]).await;
    (ann, bob)
}

fn edit(id: Uuid, content: &str, base: u64, at: &str) -> Value {
    json!({"id": id, "type": "decision", "content": content, "base_cursor": base,
        "updated_at": format!("2025-12-30T{at}Z")})
}

fn delete(id: Uuid, base: u64) -> Value {
    json!({"id": id, "deleted": true, "base_cursor": base})
}

async fn status(device: &Device, message: Value) -> String {
    let answer = device.push(&team("t"), &[message]).await.ok();
    statuses(&answer)[0].to_owned()
}

both_logs! {
    same_content_from_multiple_devices_is_deduplicated_by_content_hash,
    concurrent_edits_to_same_record_last_write_wins_by_updated_at,
    delete_vs_update_conflict_update_wins_when_it_comes_first,
    delete_vs_update_conflict_update_wins_when_it_comes_second,
    new_record_collision_is_prevented_by_uuid_based_ids,
}

async fn same_content_from_multiple_devices_is_deduplicated_by_content_hash(cluster: &mut Cluster) {
    let devices: Vec<Device> =
        (0..6).map(|n| cluster.device("ann").named(&format!("device-{n}"))).collect();
    let pushing = devices
        .iter()
        .map(|device| async { device.push(USER, &[say("Use PostgreSQL")]).await.ok() });
    let answers = futures_util::future::join_all(pushing).await;
    let sum = |key: &str| answers.iter().map(|a| a[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("synced"), sum("skipped")), (1, 5));
    let ids: Vec<&Value> = answers.iter().map(|a| &a["results"][0]["id"]).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "duplicates name the existing message");
    let page = devices[0].pull(USER, "").await.ok();
    assert_eq!(contents(&page), ["Use PostgreSQL"]);
}

async fn concurrent_edits_to_same_record_last_write_wins_by_updated_at(cluster: &mut Cluster) {
    let (ann, bob) = two_writers(cluster).await;
    let id = Uuid::new_v4();
    assert_eq!(status(&ann, edit(id, "first", 0, "11:00:00")).await, "created");
    assert_eq!(status(&bob, edit(id, "bob's", 1, "11:00:02")).await, "updated");
    assert_eq!(status(&ann, edit(id, "ann's", 1, "11:00:01")).await, "stale");
    let page = ann.pull(&team("t"), "").await.ok();
    assert_eq!(contents(&page), ["bob's"]);
    assert_eq!(page["messages"][0]["created_at"], "2025-12-30T11:00:00Z");
    assert_eq!(page["messages"][0]["updated_at"], "2025-12-30T11:00:02Z");
    // Whatever the order in which truly concurrent ones arrive, the latest stands.
    let edits = (10..30).map(|s| {
        let (device, s) = (if s % 2 == 0 { &ann } else { &bob }, (s * 7) % 20 + 10);
        status(device, edit(id, &format!("at {s}"), 1, &format!("12:00:{s}")))
    });
    futures_util::future::join_all(edits).await;
    assert_eq!(contents(&ann.pull(&team("t"), "").await.ok()), ["at 29"]);
}

async fn delete_vs_update_conflict_update_wins_when_it_comes_first(cluster: &mut Cluster) {
    let (ann, bob) = two_writers(cluster).await;
    let id = Uuid::new_v4();
    status(&ann, edit(id, "first", 0, "11:00:00")).await;
    assert_eq!(status(&bob, edit(id, "second", 1, "11:00:01")).await, "updated");
    assert_eq!(status(&ann, delete(id, 1)).await, "superseded");
    assert_eq!(contents(&ann.pull(&team("t"), "").await.ok()), ["second"]);
}

async fn delete_vs_update_conflict_update_wins_when_it_comes_second(cluster: &mut Cluster) {
    let (ann, bob) = two_writers(cluster).await;
    let id = Uuid::new_v4();
    status(&ann, edit(id, "first", 0, "11:00:00")).await;
    assert_eq!(status(&ann, delete(id, 1)).await, "deleted");
    let page = ann.pull(&team("t"), "").await.ok();
    assert_eq!((contents(&page), &page["count"]), (vec!["(deleted)"], &json!(0)));
    assert_eq!(status(&bob, edit(id, "second", 1, "11:00:01")).await, "revived");
    let page = ann.pull(&team("t"), "cursor=2").await.ok();
    assert_eq!((contents(&page), &page["cursor"]), (vec!["second"], &json!(3)));
    assert_eq!(status(&ann, delete(id, 3)).await, "deleted");
    assert_eq!(status(&bob, edit(id, "too old", 1, "10:00:00")).await, "stale");
    assert_eq!(status(&ann, delete(id, 4)).await, "absent");
}

async fn new_record_collision_is_prevented_by_uuid_based_ids(cluster: &mut Cluster) {
    let (ann, bob) = two_writers(cluster).await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let scope = team("t");
    let (one, two) = ([edit(a, "ann's new", 0, "11:00:00")], [edit(b, "bob's new", 0, "11:00:00")]);
    let (one, two) = tokio::join!(ann.push(&scope, &one), bob.push(&scope, &two));
    let (one, two) = (one.ok(), two.ok());
    assert_eq!((statuses(&one), statuses(&two)), (vec!["created"], vec!["created"]));
    let mut cursors = [one["cursor"].as_u64().unwrap(), two["cursor"].as_u64().unwrap()];
    cursors.sort_unstable();
    assert_eq!(cursors, [1, 2]);
    // The same new id with other content is an edit, not a collision.
    assert_eq!(status(&bob, edit(a, "bob's of ann's", 9, "11:00:01")).await, "updated");
}
