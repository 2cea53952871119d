//! The founding permission tables (WF-CS-003, WF-CS-005) and the org's: a row, a test. Columns
//! "can push" and "can pull"; backups and restores come with the archiver.

use serde_json::json;
use service::auth::OrgRole;

use crate::{
    client::{Device, org, project, say, team},
    cluster::Cluster,
};

const YES: bool = true;
const NO: bool = false;

/// A user with the role in a team or project that someone else made.
async fn with_role(cluster: &Cluster, path: &str, role: &str) -> Device {
    cluster.device("ann").create(path, &[("bob", role)]).await;
    cluster.device("bob")
}

async fn check(device: &Device, scope: &str, can_push: bool, can_pull: bool) {
    let pushed = device.push(scope, &[say("x")]).await;
    if can_push {
        assert_eq!(pushed.ok()["synced"], 1);
    } else {
        pushed.problem(403, "SYNC_005");
    }
    let pulled = device.pull(scope, "").await;
    if can_pull {
        assert_eq!(pulled.ok()["head"], u64::from(can_push));
    } else {
        assert!(pulled.problem(403, "SYNC_005").get("purge").is_none());
    }
}

both_logs! {
    wf_cs_003_team_member,
    wf_cs_003_team_admin,
    wf_cs_003_team_owner,
    wf_cs_005_project_viewer,
    wf_cs_005_project_member,
    wf_cs_005_project_admin,
    wf_cs_005_project_owner,
    org_member_admin_and_owner,
    an_org_owner_counts_as_owner_of_every_team_and_project,
    a_stranger_and_a_scope_that_does_not_exist_are_answered_alike,
}

async fn wf_cs_003_team_member(cluster: &mut Cluster) {
    check(&with_role(cluster, "/api/v1/teams/t", "member").await, &team("t"), YES, YES).await;
}

async fn wf_cs_003_team_admin(cluster: &mut Cluster) {
    check(&with_role(cluster, "/api/v1/teams/t", "admin").await, &team("t"), YES, YES).await;
}

async fn wf_cs_003_team_owner(cluster: &mut Cluster) {
    check(&with_role(cluster, "/api/v1/teams/t", "owner").await, &team("t"), YES, YES).await;
}

async fn wf_cs_005_project_viewer(cluster: &mut Cluster) {
    let bob = with_role(cluster, "/api/v1/projects/p", "viewer").await;
    check(&bob, &project("p"), NO, YES).await;
}

async fn wf_cs_005_project_member(cluster: &mut Cluster) {
    let bob = with_role(cluster, "/api/v1/projects/p", "member").await;
    check(&bob, &project("p"), YES, YES).await;
}

async fn wf_cs_005_project_admin(cluster: &mut Cluster) {
    let bob = with_role(cluster, "/api/v1/projects/p", "admin").await;
    check(&bob, &project("p"), YES, YES).await;
}

async fn wf_cs_005_project_owner(cluster: &mut Cluster) {
    let bob = with_role(cluster, "/api/v1/projects/p", "owner").await;
    check(&bob, &project("p"), YES, YES).await;
}

async fn org_member_admin_and_owner(cluster: &mut Cluster) {
    let bob = |role| cluster.device_of("acme", "bob", role);
    check(&bob(OrgRole::Member), &org("acme"), NO, YES).await;
    for role in [OrgRole::Admin, OrgRole::Owner] {
        bob(role).push(&org("acme"), &[say(role.as_str())]).await.ok();
        bob(role).pull(&org("acme"), "").await.ok();
    }
}

async fn an_org_owner_counts_as_owner_of_every_team_and_project(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("t", &[]).await;
    ann.create("/api/v1/projects/p", &[]).await;
    let boss = cluster.device_of("acme", "boss", OrgRole::Owner);
    for (path, scope) in [("/api/v1/teams/t", team("t")), ("/api/v1/projects/p", project("p"))] {
        check(&boss, &scope, YES, YES).await;
        boss.get(&format!("{path}/members")).await.ok();
        let owner = json!({"role": "owner"});
        boss.put(&format!("{path}/members/cid"), owner).await.ok();
        assert_eq!(boss.put(path, json!({})).await.ok()["role"], "owner");
    }
    // An org admin does not; nor the owner of another org.
    for other in [
        cluster.device_of("acme", "adm", OrgRole::Admin),
        cluster.device_of("globex", "boss", OrgRole::Owner),
    ] {
        check(&other, &team("t"), NO, NO).await;
    }
}

async fn a_stranger_and_a_scope_that_does_not_exist_are_answered_alike(cluster: &mut Cluster) {
    cluster.device("ann").create_team("t", &[]).await;
    let eve = cluster.device("eve");
    let before = cluster.ends().await;
    for path in ["teams/t", "teams/none", "projects/t", "orgs/globex"] {
        let scope = format!("/api/v1/{path}/context");
        let mut answers = Vec::new();
        answers.push(eve.push(&scope, &[say("x")]).await.problem(403, "SYNC_005"));
        answers.push(eve.pull(&scope, "").await.problem(403, "SYNC_005"));
        if !path.starts_with("orgs") {
            let members = format!("/api/v1/{path}/members");
            answers.push(eve.get(&members).await.problem(403, "SYNC_005"));
            let eve_too = format!("{members}/eve");
            let role = json!({"role": "admin"});
            answers.push(eve.put(&eve_too, role).await.problem(403, "SYNC_005"));
            answers.push(eve.delete(&eve_too).await.problem(403, "SYNC_005"));
        }
        for answer in &mut answers {
            answer.as_object_mut().unwrap().remove("request_id");
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    assert_eq!(cluster.ends().await, before);
}
