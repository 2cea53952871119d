//! Pages that one device's pull got and others are given: none is older than what is there, and none is for who may not
//! see it.

use context_sync::serve::Role;
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    client::{Device, USER, contents, say, team},
    cluster::{Cluster, LogKind},
    erasing::erase,
};

both_logs! {
    every_pull_gives_what_the_scope_is_now,
    a_push_is_pulled_by_a_hundred_devices_at_once,
    who_is_no_member_is_given_no_page_of_others,
    an_erased_scope_gives_no_page_of_before,
}

/// Pages that were answered as another pull got them, in all nodes of this process.
async fn shared(cluster: &Cluster) -> u64 {
    let node = cluster.device("ann").at(&cluster.node.ops_url);
    let metrics = node.get("/metrics").await.ok();
    let of = |line: &str| line.strip_prefix("context_sync_pages_shared_total ")?.parse().ok();
    metrics.as_str().unwrap().lines().find_map(of).unwrap()
}

/// Who pulled before is given the page that was kept: it shows nothing of what only this test does to the rows.
async fn the_page_is_kept(cluster: &Cluster, readers: &[Device]) {
    let before = page(readers).await;
    let damage = "update messages set json = replace(json, 'content', 'damaged')";
    assert!(sqlx::query(damage).execute(&cluster.pool).await.unwrap().rows_affected() > 0);
    assert_eq!(page(readers).await, before);
    let mend = "update messages set json = replace(json, 'damaged', 'content')";
    sqlx::query(mend).execute(&cluster.pool).await.unwrap();
}

async fn three_members(cluster: &Cluster) -> [Device; 3] {
    let devices = ["ann", "bob", "cyd"].map(|user| cluster.device(user));
    devices[0].create_team("t", &[("bob", "member"), ("cyd", "member")]).await;
    devices
}

/// All pull the team from its beginning, each twice; what they get is the same.
async fn page(devices: &[Device]) -> Value {
    let mut pages = Vec::new();
    for device in devices.iter().chain(devices) {
        pages.push(device.pull(&team("t"), "cursor=0").await.ok());
    }
    for other in &pages[1..] {
        assert_eq!(*other, pages[0]);
    }
    pages.swap_remove(0)
}

/// Creates, edits and deletes, each by one device, and after each all see it.
async fn every_change_is_seen(writer: &Device, readers: &[Device]) {
    let before = page(readers).await["head"].as_u64().unwrap();
    let mut expected: Vec<String> =
        contents(&page(readers).await).into_iter().map(str::to_owned).collect();
    for round in 0..4 {
        let created = writer
            .push(&team("t"), &[say(&format!("created in {round} after {before}"))])
            .await
            .ok();
        let id = created["results"][0]["id"].clone();
        expected.push(format!("created in {round} after {before}"));
        assert_eq!(contents(&page(readers).await), expected);
        let cursor = created["results"][0]["cursor"].clone();
        let edited = format!("edited in {round} after {before}");
        let edit = json!({"id": id, "type": "decision", "content": edited, "base_cursor": cursor,
            "updated_at": "2100-01-01T00:00:00Z"});
        let answer = writer.push(&team("t"), &[edit]).await.ok();
        *expected.last_mut().unwrap() = edited;
        assert_eq!(contents(&page(readers).await), expected);
        if round % 2 == 1 {
            let cursor = answer["results"][0]["cursor"].clone();
            let delete = json!({"id": id, "deleted": true, "base_cursor": cursor});
            writer.push(&team("t"), &[delete]).await.ok();
            expected.pop();
            let page = page(readers).await;
            let live = |message: &&Value| message["deleted"] != true;
            let left: Vec<&str> = page["messages"]
                .as_array()
                .unwrap()
                .iter()
                .filter(live)
                .map(|message| message["content"].as_str().unwrap())
                .collect();
            assert_eq!(left, expected);
            return; // the tombstone stands in every later page
        }
    }
}

async fn every_pull_gives_what_the_scope_is_now(cluster: &mut Cluster) {
    let devices = three_members(cluster).await;
    let before = shared(cluster).await;
    every_change_is_seen(&devices[0], &devices).await;
    the_page_is_kept(cluster, &devices).await;
    assert!(shared(cluster).await > before, "it is not counted");
}

async fn a_push_is_pulled_by_a_hundred_devices_at_once(cluster: &mut Cluster) {
    let [ann, bob, cyd] = three_members(cluster).await;
    let head = ann.pull(&team("t"), "").await.ok()["head"].as_u64().unwrap();
    let waiting: Vec<_> = (0..99)
        .map(|n| {
            let device = [&ann, &bob, &cyd][n % 3].named(&format!("device-{n}"));
            tokio::spawn(async move {
                device.pull(&team("t"), &format!("cursor={head}&wait=40")).await.ok()
            })
        })
        .collect();
    ann.push(&team("t"), &[say("news")]).await.ok();
    for waited in waiting {
        assert_eq!(contents(&waited.await.unwrap()), ["news"]);
    }
}

async fn who_is_no_member_is_given_no_page_of_others(cluster: &mut Cluster) {
    let devices = three_members(cluster).await;
    let [ann, bob, cyd] = &devices;
    ann.push(&team("t"), &[say("ours")]).await.ok();
    page(&devices).await;
    cluster.device("dan").pull(&team("t"), "cursor=0").await.problem(403, "SYNC_005");
    let other = cluster.device_of("globex", "ann", OrgRole::Member);
    other.pull(&team("t"), "cursor=0").await.problem(403, "SYNC_005");
    other.create_team("t", &[]).await;
    assert_eq!(contents(&other.pull(&team("t"), "cursor=0").await.ok()), [""; 0]);
    for _ in 0..3 {
        page(&devices).await;
        ann.delete("/api/v1/teams/t/members/bob").await.ok();
        for _ in 0..2 {
            contents(&cyd.pull(&team("t"), "cursor=0").await.ok());
            let refused = bob.pull(&team("t"), "cursor=0").await.problem(403, "SYNC_005");
            assert_eq!(refused["purge"], true);
        }
        ann.put("/api/v1/teams/t/members/bob", json!({"role": "viewer"})).await;
        ann.put("/api/v1/teams/t/members/bob", json!({"role": "member"})).await.ok();
    }
}

async fn an_erased_scope_gives_no_page_of_before(cluster: &mut Cluster) {
    let (phone, laptop) = (cluster.device("ann"), cluster.device("ann").named("laptop"));
    phone.push(USER, &[say("a secret")]).await.ok();
    for device in [&phone, &laptop, &phone] {
        assert_eq!(contents(&device.pull(USER, "cursor=0").await.ok()), ["a secret"]);
    }
    erase(&phone, "ann", "erased").await;
    for device in [&phone, &laptop, &phone] {
        let page = device.pull(USER, "cursor=0").await.ok();
        assert!(!page.to_string().contains("a secret"), "{page}");
    }
}

/// Where the projector is elsewhere, one small question for all who ask says whether a page is what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_process_without_a_projector_are_no_older_than_its_database() {
    let cluster = Cluster::start(LogKind::Kafka).await;
    let api = cluster.node(&[Role::Api]).await;
    let devices = three_members(&cluster).await;
    let readers = devices.clone().map(|device| device.at(&api.url));
    every_change_is_seen(&devices[0], &readers).await;
    the_page_is_kept(&cluster, &readers).await;
    api.stop().await;
    cluster.finish().await;
}
