//! Teams, projects, and who is in them.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    client::{Device, assert_keys, contents, say, team},
    cluster::Cluster,
    equation::eventually,
};

/// Rounds of a race, each with a team of its own.
const ROUNDS: u32 = 6;

fn role(role: &str) -> Value {
    json!({"role": role})
}

both_logs! {
    whoever_creates_is_owner,
    one_of_many_who_create_at_once_is_owner,
    admins_set_members_and_owners_set_owners,
    the_last_owner_stays,
    of_two_owners_who_remove_each_other_at_once_one_stays,
    a_push_in_flight_while_its_author_is_removed_counts_or_is_refused,
    a_removed_member_is_out_at_once_and_told_to_purge,
    members_that_are_none_are_refused,
    only_admins_create_where_it_is_so_configured,
}

async fn whoever_creates_is_owner(cluster: &mut Cluster) {
    let (ann, eve) = (cluster.device("ann"), cluster.device("eve"));
    for path in ["/api/v1/teams/x.y_z:1@a+b", "/api/v1/projects/x"] {
        let created = ann.put(path, Value::Null).await.is(201);
        let id = path.rsplit('/').next().unwrap();
        assert_eq!(created, json!({"id": id, "role": "owner"}));
        assert_eq!(ann.put(path, json!({"any": "body"})).await.ok(), created);
        eve.put(path, Value::Null).await.problem(403, "SYNC_005");
        let members = ann.get(&format!("{path}/members")).await.ok();
        assert_keys(&members["members"][0], &["user_id", "role", "since"]);
        assert_eq!(members["members"][0]["user_id"], "ann");
        assert_eq!(members["members"].as_array().unwrap().len(), 1);
    }
}

async fn one_of_many_who_create_at_once_is_owner(cluster: &mut Cluster) {
    let names: Vec<String> = (0..8).map(|n| format!("user-{n}")).collect();
    let creating = names.iter().map(|name| {
        let device = cluster.device(name);
        async move { device.put("/api/v1/teams/t", Value::Null).await.status }
    });
    let statuses = futures_util::future::join_all(creating).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 7, "{statuses:?}");
}

async fn admins_set_members_and_owners_set_owners(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create_team("t", &[("bob", "admin"), ("cid", "member")]).await;
    let member = |user: &str| format!("/api/v1/teams/t/members/{user}");
    let set = bob.put(&member("dora"), role("member")).await.ok();
    assert_eq!((&set["user_id"], &set["role"]), (&json!("dora"), &json!("member")));
    bob.put(&member("dora"), role("admin")).await.ok();
    bob.put(&member("dora"), role("owner")).await.problem(403, "SYNC_005");
    bob.put(&member("ann"), role("member")).await.problem(403, "SYNC_005");
    bob.delete(&member("ann")).await.problem(403, "SYNC_005");
    let cid = cluster.device("cid");
    cid.put(&member("eve"), role("member")).await.problem(403, "SYNC_005");
    cid.put(&member("cid"), role("admin")).await.problem(403, "SYNC_005");
    cid.delete(&member("dora")).await.problem(403, "SYNC_005");
    ann.put(&member("bob"), role("owner")).await.ok();
    bob.put(&member("ann"), role("member")).await.ok();
    let list = cid.get("/api/v1/teams/t/members").await.ok();
    let list: Vec<(&str, &str)> = list["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["user_id"].as_str().unwrap(), m["role"].as_str().unwrap()))
        .collect();
    assert_eq!(list, [("ann", "member"), ("bob", "owner"), ("cid", "member"), ("dora", "admin")]);
}

async fn the_last_owner_stays(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("t", &[("bob", "admin")]).await;
    let own = "/api/v1/teams/t/members/ann";
    ann.put(own, role("admin")).await.problem(409, "CONFLICT");
    ann.delete(own).await.problem(409, "CONFLICT");
    ann.put(own, role("owner")).await.ok();
    ann.put("/api/v1/teams/t/members/bob", role("owner")).await.ok();
    ann.delete(own).await.ok();
    ann.pull(&team("t"), "").await.problem(403, "SYNC_005");
    // Of two owners who leave at once, one stays.
    let bob = cluster.device("bob");
    bob.put("/api/v1/teams/t/members/cid", role("owner")).await.ok();
    let cid = cluster.device("cid");
    let (one, two) = tokio::join!(
        bob.delete("/api/v1/teams/t/members/bob"),
        cid.delete("/api/v1/teams/t/members/cid")
    );
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

async fn of_two_owners_who_remove_each_other_at_once_one_stays(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    for round in 0..ROUNDS {
        let path = format!("/api/v1/teams/t{round}");
        ann.create(&path, &[("bob", "owner")]).await;
        let (anns, bobs) = (format!("{path}/members/ann"), format!("{path}/members/bob"));
        // One of them takes only the other's role, in every second round.
        let is_demoted = round % 2 == 1;
        let demoting = async {
            match is_demoted {
                true => bob.put(&anns, role("member")).await,
                false => bob.delete(&anns).await,
            }
        };
        let (by_ann, by_bob) = tokio::join!(ann.delete(&bobs), demoting);
        // Whoever comes second is no owner any more.
        let (refused, first, ann_stays) = match by_ann.status {
            200 => (by_bob, by_ann, true),
            _ => (by_ann, by_bob, false),
        };
        first.ok();
        let is_out = ann_stays || !is_demoted;
        assert_eq!(refused.problem(403, "SYNC_005").get("purge"), is_out.then_some(&json!(true)));
        let (stays, stayed) = if ann_stays { (&ann, "ann") } else { (&bob, "bob") };
        let list = stays.get(&format!("{path}/members")).await.ok();
        let list = list["members"].as_array().unwrap();
        let owners: Vec<_> = list.iter().filter(|member| member["role"] == "owner").collect();
        assert_eq!(owners.len(), 1, "{list:?}");
        assert_eq!(owners[0]["user_id"], stayed);
        assert_eq!(list.len(), if is_out { 1 } else { 2 }, "{list:?}");
        stays.delete(&format!("{path}/members/{stayed}")).await.problem(409, "CONFLICT");
    }
}

/// Pushes one message after another until it is refused; how many the answers said are there.
async fn push_until_refused(device: &Device, scope: &str) -> (u64, Value) {
    let mut synced = 0;
    loop {
        let pushed = device.push(scope, &[say(&format!("{} {synced}", device.device))]).await;
        if pushed.status != 200 {
            return (synced, pushed.problem(403, "SYNC_005"));
        }
        assert_eq!(pushed.body["synced"], 1, "{}", pushed.body);
        synced += 1;
    }
}

async fn a_push_in_flight_while_its_author_is_removed_counts_or_is_refused(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    let bobs: Vec<Device> = (0..4).map(|n| bob.named(&format!("bobs-{n}"))).collect();
    for round in 0..ROUNDS {
        let id = format!("t{round}");
        ann.create_team(&id, &[("bob", "member")]).await;
        let scope = team(&id);
        let remove = async {
            eventually("bob pushes", async || {
                (ann.pull(&scope, "").await.ok()["head"] != 0).then_some(())
            })
            .await;
            ann.delete(&format!("/api/v1/teams/{id}/members/bob")).await.ok()
        };
        let pushing = join_all(bobs.iter().map(|device| push_until_refused(device, &scope)));
        let (pushed, _) = tokio::join!(pushing, remove);
        for (_, refused) in &pushed {
            assert_eq!(refused["purge"], true, "{refused}");
        }
        let synced: u64 = pushed.iter().map(|(synced, _)| synced).sum();
        let page = ann.pull(&scope, "limit=1000").await.ok();
        assert_eq!((&page["count"], contents(&page).len() as u64), (&json!(synced), synced));
        assert_eq!(bob.pull(&scope, "").await.problem(403, "SYNC_005")["purge"], true);
    }
}

async fn a_removed_member_is_out_at_once_and_told_to_purge(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    for _ in 0..5 {
        ann.put("/api/v1/teams/t", Value::Null).await;
        ann.put("/api/v1/teams/t/members/bob", role("member")).await.ok();
        bob.push(&team("t"), &[say("hello")]).await.ok();
        bob.pull(&team("t"), "").await.ok();
        ann.delete("/api/v1/teams/t/members/bob").await.ok();
        let pushed = bob.push(&team("t"), &[say("too late")]).await.problem(403, "SYNC_005");
        let pulled = bob.pull(&team("t"), "").await.problem(403, "SYNC_005");
        assert_eq!((&pushed["purge"], &pulled["purge"]), (&json!(true), &json!(true)));
    }
    ann.delete("/api/v1/teams/t/members/bob").await.problem(404, "NOT_FOUND");
    bob.put("/api/v1/teams/t", Value::Null).await.problem(403, "SYNC_005");
}

async fn members_that_are_none_are_refused(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("t", &[]).await;
    let before = cluster.ends().await;
    for body in [json!({"role": "viewer"}), json!({"role": 1}), json!([]), json!({})] {
        let problem = ann.put("/api/v1/teams/t/members/bob", body).await;
        let detail = problem.problem(400, "INVALID_REQUEST")["detail"].clone();
        assert!(detail.as_str().unwrap().contains("member, admin, owner"), "{detail}");
    }
    let problem = ann.put("/api/v1/teams/t/members/b%2Fob", role("member")).await;
    let detail = problem.problem(400, "INVALID_REQUEST")["detail"].clone();
    assert!(detail.as_str().unwrap().starts_with("user_id takes"), "{detail}");
    assert_eq!(cluster.ends().await, before);
}

async fn only_admins_create_where_it_is_so_configured(cluster: &mut Cluster) {
    let admins = crate::cluster::settings(&["--who-may-create=admins".to_owned()]);
    cluster.settings.ingest.who_may_create = admins.ingest.who_may_create;
    cluster.restart(crate::cluster::ALL).await;
    let ann = cluster.device("ann");
    ann.put("/api/v1/teams/t", Value::Null).await.problem(403, "SYNC_005");
    let admin = cluster.device_of("acme", "adm", service::auth::OrgRole::Admin);
    admin.put("/api/v1/teams/t", Value::Null).await.is(201);
}
