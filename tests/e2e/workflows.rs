//! WF-CS-001 to WF-CS-006 and the org scope, to the letter of the founding examples.

use model::ContentHash;
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    client::{Device, USER, assert_keys, org, project, say, team},
    cluster::Cluster,
};

const ANSWER: [&str; 8] = [
    "synced",
    "skipped",
    "cursor",
    "timestamp",
    "rejected",
    "previous_cursor",
    "push_id",
    "results",
];
const RESULT: [&str; 5] = ["index", "status", "id", "cursor", "updated_at"];
const PAGE: [&str; 8] =
    ["messages", "cursor", "has_more", "head", "floor", "count", "digest", "epoch"];
const MESSAGE: [&str; 11] = [
    "id",
    "type",
    "content",
    "content_hash",
    "metadata",
    "created_at",
    "updated_at",
    "contributed_by",
    "device_id",
    "cursor",
    "deleted",
];

/// The founding request.
fn example() -> Value {
    json!({
        "type": "decision",
        "content": "Use PostgreSQL RLS for tenant isolation",
        "metadata": {"source": "session-abc", "timestamp": "2025-12-30T10:00:00Z"}
    })
}

/// The founding request, and the founding response with all its keys.
async fn push_example(device: &Device, scope: &str) -> Value {
    let answer = device.push(scope, &[example()]).await.ok();
    assert_keys(&answer, &ANSWER);
    assert_eq!((&answer["synced"], &answer["skipped"]), (&json!(1), &json!(0)));
    assert_eq!((&answer["cursor"], &answer["previous_cursor"]), (&json!(1), &json!(0)));
    assert_eq!(answer["rejected"], 0);
    let timestamp = answer["timestamp"].as_str().unwrap();
    assert!(model::Timestamp::parse_rfc3339(timestamp).is_some() && timestamp.ends_with('Z'));
    let result = &answer["results"][0];
    assert_keys(result, &RESULT);
    assert_eq!((&result["index"], &result["status"]), (&json!(0), &json!("created")));
    assert_eq!(result["updated_at"], "2025-12-30T10:00:00Z");
    answer
}

/// The founding response of a pull, with all its keys.
async fn pull_example(device: &Device, scope: &str, by: &str) {
    let page = device.pull(scope, "cursor=0&limit=100").await.ok();
    assert_keys(&page, &PAGE);
    assert_eq!((&page["cursor"], &page["has_more"]), (&json!(1), &json!(false)));
    assert_eq!((&page["head"], &page["floor"], &page["count"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    let message = &page["messages"][0];
    assert_keys(message, &MESSAGE);
    assert_eq!(message["type"], "decision");
    assert_eq!(message["content"], "Use PostgreSQL RLS for tenant isolation");
    let hash = ContentHash::of("Use PostgreSQL RLS for tenant isolation").to_string();
    assert_eq!(message["content_hash"], hash);
    assert_eq!(message["metadata"], example()["metadata"]);
    assert_eq!(message["created_at"], "2025-12-30T10:00:00Z");
    assert_eq!(message["updated_at"], "2025-12-30T10:00:00Z");
    assert_eq!((&message["contributed_by"], &message["deleted"]), (&json!(by), &json!(false)));
    assert_eq!(message["device_id"], format!("{by}-laptop"));
    // Nothing newer.
    let page = device.pull(scope, "cursor=1").await.ok();
    assert_eq!((&page["messages"], &page["cursor"]), (&json!([]), &json!(1)));
}

both_logs! {
    wf_cs_001_user_context_push,
    wf_cs_002_user_context_pull,
    wf_cs_003_team_context_push,
    wf_cs_004_team_context_pull,
    wf_cs_005_project_context_push,
    wf_cs_006_project_context_pull,
    org_context_push_and_pull,
    a_scope_of_one_name_is_another_of_another_kind,
    every_answer_echoes_or_makes_a_request_id,
}

async fn wf_cs_001_user_context_push(cluster: &mut Cluster) {
    push_example(&cluster.device("ann"), USER).await;
    // Bob's scope is another.
    push_example(&cluster.device("bob"), USER).await;
}

async fn wf_cs_002_user_context_pull(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let empty = ann.pull(USER, "cursor=0&limit=100").await.ok();
    assert_keys(&empty, &PAGE);
    assert_eq!((&empty["messages"], &empty["cursor"]), (&json!([]), &json!(0)));
    push_example(&ann, USER).await;
    pull_example(&ann.named("phone"), USER, "ann").await;
    let bobs = cluster.device("bob").pull(USER, "").await.ok();
    assert_eq!((&bobs["messages"], &bobs["head"]), (&json!([]), &json!(0)));
}

async fn wf_cs_003_team_context_push(cluster: &mut Cluster) {
    cluster.device("ann").create_team("web", &[("bob", "member")]).await;
    push_example(&cluster.device("bob"), &team("web")).await;
}

async fn wf_cs_004_team_context_pull(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    let pattern = json!({"type": "pattern", "content": "Always validate input at API boundaries",
        "metadata": {"timestamp": "2025-12-30T09:00:00Z"}});
    cluster.device("bob").push(&team("web"), &[pattern]).await.ok();
    let page = ann.pull(&team("web"), "cursor=0&limit=100").await.ok();
    assert_keys(&page, &PAGE);
    let message = &page["messages"][0];
    assert_keys(message, &MESSAGE);
    assert_eq!((&message["type"], &message["contributed_by"]), (&json!("pattern"), &json!("bob")));
    assert_eq!(message["content"], "Always validate input at API boundaries");
    assert_eq!(message["created_at"], "2025-12-30T09:00:00Z");
    assert_eq!((&page["cursor"], &page["has_more"]), (&json!(1), &json!(false)));
}

async fn wf_cs_005_project_context_push(cluster: &mut Cluster) {
    cluster.device("ann").create("/api/v1/projects/site", &[("bob", "member")]).await;
    push_example(&cluster.device("bob"), &project("site")).await;
}

async fn wf_cs_006_project_context_pull(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create("/api/v1/projects/site", &[("bob", "viewer")]).await;
    push_example(&ann, &project("site")).await;
    pull_example(&cluster.device("bob"), &project("site"), "ann").await;
}

async fn org_context_push_and_pull(cluster: &mut Cluster) {
    push_example(&cluster.device_of("acme", "ann", OrgRole::Admin), &org("acme")).await;
    pull_example(&cluster.device("bob"), &org("acme"), "ann").await;
}

async fn a_scope_of_one_name_is_another_of_another_kind(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("ann", &[]).await;
    ann.create("/api/v1/projects/ann", &[]).await;
    for scope in [USER, &team("ann"), &project("ann")] {
        ann.push(scope, &[say(scope)]).await.ok();
    }
    for scope in [USER, &team("ann"), &project("ann")] {
        let page = ann.pull(scope, "").await.ok();
        assert_eq!(crate::client::contents(&page), [scope]);
    }
}

async fn every_answer_echoes_or_makes_a_request_id(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    assert!(ann.pull(USER, "").await.headers.contains_key("x-request-id"));
    let asked = ann.request(reqwest::Method::GET, "/api/v1/context/pull");
    let reply = crate::client::Reply::of(asked.header("X-Request-ID", "req-1")).await;
    assert_eq!(reply.headers["x-request-id"], "req-1");
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(ann.get(path).await.status, 200, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ann.at(&cluster.node.ops_url).get(path).await.status, 200, "{path}");
    }
}
