//! The founding permission tables (WF-CS-003, WF-CS-005), the org's and a user's own: a row, a test. All
//! columns: who may push, pull, back up and restore.

use serde_json::json;
use service::auth::OrgRole;

use crate::{
    backups::{ask, back_up},
    client::{Device, USER, org, project, say, team},
    cluster::Cluster,
    restores::restore,
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

/// A row: whether one can push, pull, back up and restore. `owner`: one who may back up.
async fn check_row(
    device: &Device,
    owner: &Device,
    scope: &str,
    [can_push, can_pull, can_back_up, can_restore]: [bool; 4],
) {
    check(device, scope, can_push, can_pull).await;
    let backup = back_up(if can_back_up { device } else { owner }, scope).await;
    let path = format!("{scope}/backups/{}", backup["id"].as_str().unwrap());
    if can_back_up {
        assert_eq!(device.get(&path).await.ok(), backup);
    } else {
        ask(device, scope).await.problem(403, "SYNC_005");
        for path in [format!("{scope}/backups"), format!("{path}/content"), path] {
            device.get(&path).await.problem(403, "SYNC_005");
        }
    }
    for dry_run in [true, false] {
        let body = json!({"backup_id": backup["id"], "mode": "merge", "dry_run": dry_run});
        let restored = restore(device, scope, body).await;
        if can_restore {
            assert_eq!(restored.ok()["skipped"], u64::from(can_push));
        } else {
            restored.problem(403, "SYNC_005");
        }
    }
}

archiving_on_both_logs! {
    wf_cs_003_team_member,
    wf_cs_003_team_admin,
    wf_cs_003_team_owner,
    wf_cs_005_project_viewer,
    wf_cs_005_project_member,
    wf_cs_005_project_admin,
    wf_cs_005_project_owner,
    user_oneself,
    org_member_admin_and_owner,
}

both_logs! {
    an_org_owner_counts_as_owner_of_every_team_and_project,
    sync_005_a_stranger_and_a_scope_that_does_not_exist_are_answered_alike,
}

async fn of_team(cluster: &Cluster, role: &str, row: [bool; 4]) {
    let bob = with_role(cluster, "/api/v1/teams/t", role).await;
    check_row(&bob, &cluster.device("ann"), &team("t"), row).await;
}

async fn of_project(cluster: &Cluster, role: &str, row: [bool; 4]) {
    let bob = with_role(cluster, "/api/v1/projects/p", role).await;
    check_row(&bob, &cluster.device("ann"), &project("p"), row).await;
}

async fn wf_cs_003_team_member(cluster: &mut Cluster) {
    of_team(cluster, "member", [YES, YES, NO, NO]).await;
}

async fn wf_cs_003_team_admin(cluster: &mut Cluster) {
    of_team(cluster, "admin", [YES, YES, YES, YES]).await;
}

async fn wf_cs_003_team_owner(cluster: &mut Cluster) {
    of_team(cluster, "owner", [YES, YES, YES, YES]).await;
}

async fn wf_cs_005_project_viewer(cluster: &mut Cluster) {
    of_project(cluster, "viewer", [NO, YES, NO, NO]).await;
}

async fn wf_cs_005_project_member(cluster: &mut Cluster) {
    of_project(cluster, "member", [YES, YES, NO, NO]).await;
}

async fn wf_cs_005_project_admin(cluster: &mut Cluster) {
    of_project(cluster, "admin", [YES, YES, YES, YES]).await;
}

async fn wf_cs_005_project_owner(cluster: &mut Cluster) {
    of_project(cluster, "owner", [YES, YES, YES, YES]).await;
}

async fn user_oneself(cluster: &mut Cluster) {
    let bob = cluster.device("bob");
    check_row(&bob, &bob, USER, [YES, YES, YES, YES]).await;
}

/// Each in an org of its own.
async fn org_member_admin_and_owner(cluster: &mut Cluster) {
    for (tenant, role, row) in [
        ("acme", OrgRole::Member, [NO, YES, NO, NO]),
        ("globex", OrgRole::Admin, [YES, YES, YES, NO]),
        ("initech", OrgRole::Owner, [YES, YES, YES, YES]),
    ] {
        let of = |user, role| cluster.device_of(tenant, user, role);
        check_row(&of("bob", role), &of("ann", OrgRole::Owner), &org(tenant), row).await;
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

async fn sync_005_a_stranger_and_a_scope_that_does_not_exist_are_answered_alike(
    cluster: &mut Cluster,
) {
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
