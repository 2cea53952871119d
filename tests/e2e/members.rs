//! Teams, projects, and who is in them.

use serde_json::{Value, json};

use crate::{
    client::{assert_keys, say, team},
    cluster::Cluster,
};

fn role(role: &str) -> Value {
    json!({"role": role})
}

both_logs! {
    whoever_creates_is_owner,
    one_of_many_who_create_at_once_is_owner,
    admins_set_members_and_owners_set_owners,
    the_last_owner_stays,
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
