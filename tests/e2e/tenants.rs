//! Nothing crosses a tenant, whatever it is called there.

use serde_json::json;
use service::auth::OrgRole;

use crate::{
    client::{USER, contents, org, project, say, team},
    cluster::Cluster,
};

both_logs! {
    the_same_names_in_two_tenants_are_two_things,
}

async fn the_same_names_in_two_tenants_are_two_things(cluster: &mut Cluster) {
    let tenants = ["acme", "globex"];
    let ann = |tenant: &str| cluster.device_of(tenant, "ann", OrgRole::Admin);
    let scopes = |tenant: &str| [USER.to_owned(), team("web"), project("web"), org(tenant)];
    for tenant in tenants {
        ann(tenant).create_team("web", &[("bob", "member")]).await;
        ann(tenant).create("/api/v1/projects/web", &[("bob", "viewer")]).await;
        for scope in scopes(tenant) {
            let message = say(&format!("of {tenant} in {scope}"));
            let answer = ann(tenant).push(&scope, &[message, say("of both")]).await.ok();
            assert_eq!((&answer["synced"], &answer["cursor"]), (&json!(2), &json!(2)));
        }
    }
    for tenant in tenants {
        for scope in scopes(tenant) {
            let page = ann(tenant).pull(&scope, "").await.ok();
            assert_eq!(contents(&page), [format!("of {tenant} in {scope}"), "of both".into()]);
        }
    }
    // Members of the one are none of the other; nor is its org seen by the other's owner.
    ann("acme").put("/api/v1/teams/web/members/cid", json!({"role": "member"})).await.ok();
    let cid = cluster.device_of("globex", "cid", OrgRole::Member);
    cid.pull(&team("web"), "").await.problem(403, "SYNC_005");
    let boss = cluster.device_of("globex", "boss", OrgRole::Owner);
    boss.pull(&org("acme"), "").await.problem(403, "SYNC_005");
    boss.push(&org("acme"), &[say("x")]).await.problem(403, "SYNC_005");
}
