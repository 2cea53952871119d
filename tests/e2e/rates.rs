//! SYNC_006: how often a device, a user and a tenant may ask, and what they are told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use context_sync::device::{client::Server, scope::Scope};
use contract::rates::RateConfig;
use model::DeviceId;
use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use service::{Secret, auth::OrgRole};

use crate::{
    client::{Device, Reply, USER, say},
    cluster::{ALL, Cluster},
    equation::eventually,
};

both_logs! {
    sync_006_each_limit_is_named_and_holds_up_nobody_else,
    sync_006_holds_on_every_route,
    sync_006_a_device_s_commands_wait_as_they_are_told,
}

async fn limit(cluster: &mut Cluster, device: u32, user: u32, tenant: u32) {
    cluster.settings.rates = RateConfig {
        device_requests_per_second: device,
        user_requests_per_second: user,
        tenant_requests_per_second: tenant,
    };
    cluster.restart(ALL).await;
}

/// Sends until it is too much for a rate: backups have limits of their own.
async fn exceed(mut send: impl AsyncFnMut(usize) -> Reply) -> Reply {
    for n in 0..1_000 {
        let reply = send(n).await;
        if reply.status == 429 && reply.headers.contains_key("ratelimit") {
            return reply;
        }
    }
    panic!("it is never too much");
}

/// The limit, and that the answer says all there is to say of it.
fn told(reply: Reply, policy: &str, all: &str) -> Value {
    let header = |name: &str| reply.headers[name].to_str().unwrap().to_owned();
    let seconds: u64 = header("retry-after").parse().unwrap();
    assert_eq!(header("ratelimit"), format!("\"{policy}\";r=0;t={seconds}"));
    assert_eq!(header("ratelimit-policy"), all);
    let problem = reply.problem(429, "SYNC_006");
    assert_eq!(problem["limit"], format!("{policy}_requests_per_second"));
    assert_eq!(problem["resolution"], "Retry with backoff");
    problem
}

async fn sync_006_each_limit_is_named_and_holds_up_nobody_else(cluster: &mut Cluster) {
    const ALL_POLICIES: &str = r#""device";q=2;w=2, "user";q=20;w=2, "tenant";q=80;w=2"#;
    limit(cluster, 1, 10, 40).await;
    let ann = cluster.device("ann");
    let problem = told(exceed(async |_| ann.pull(USER, "").await).await, "device", ALL_POLICIES);
    assert_eq!(problem["max"], 1);
    ann.named("phone").pull(USER, "").await.ok();

    let many = async |n| ann.named(&format!("d{n}")).pull(USER, "").await;
    told(exceed(many).await, "user", ALL_POLICIES);
    cluster.device("bob").pull(USER, "").await.ok();

    let users = async |n| cluster.device(&format!("u{n}")).pull(USER, "").await;
    told(exceed(users).await, "tenant", ALL_POLICIES);
    // Another tenant's user and device of the same names.
    cluster.device_of("globex", "ann", OrgRole::Member).pull(USER, "").await.ok();

    // Who waits is let in again.
    eventually("ann may", async || (ann.pull(USER, "").await.status == 200).then_some(())).await;
    let metrics = ann.at(&cluster.node.ops_url).get("/metrics").await.ok();
    for of in ["device", "user", "tenant"] {
        let line = format!("context_sync_refused_total{{limit=\"{of}_requests_per_second\"}}");
        assert!(metrics.as_str().unwrap().contains(&line), "{line}");
    }
}

async fn sync_006_holds_on_every_route(cluster: &mut Cluster) {
    limit(cluster, 1, 0, 0).await;
    let id = uuid::Uuid::new_v4();
    let mut routes = vec![
        (Method::GET, format!("/api/v1/pushes/{id}")),
        (Method::DELETE, "/api/v1/users/bob/data".to_owned()),
        (Method::GET, format!("/api/v1/users/bob/erasures/{id}")),
    ];
    for of in ["/api/v1", "/api/v1/teams/t", "/api/v1/projects/p", "/api/v1/orgs/acme"] {
        let context = |method, rest: &str| (method, format!("{of}/context/{rest}"));
        routes.extend([
            context(Method::POST, "push"),
            context(Method::GET, "pull"),
            context(Method::POST, "reconcile"),
            context(Method::POST, "reconcile/messages"),
            context(Method::POST, "messages"),
            context(Method::GET, &format!("messages/{id}/history")),
            context(Method::POST, "backups"),
            context(Method::GET, "backups"),
            context(Method::GET, &format!("backups/{id}")),
            context(Method::GET, &format!("backups/{id}/content")),
            context(Method::POST, "restore"),
            context(Method::GET, &format!("restores/{id}")),
        ]);
    }
    for of in ["/api/v1/teams/t", "/api/v1/projects/p"] {
        let member = format!("{of}/members/bob");
        routes.push((Method::PUT, of.to_owned()));
        routes.push((Method::GET, format!("{of}/members")));
        routes.extend([(Method::PUT, member.clone()), (Method::DELETE, member)]);
    }
    let ann = cluster.device("ann");
    for (place, (method, path)) in routes.iter().enumerate() {
        // A device each, whose bucket is full.
        let ann = ann.named(&format!("d{place}"));
        let reply = exceed(async |_| Reply::of(ann.request(method.clone(), path)).await).await;
        let problem = reply.problem(429, "SYNC_006");
        assert_eq!(problem["limit"], "device_requests_per_second", "{method} {path}");
    }
    // What needs no token is limited by nothing but connections.
    for _ in 0..10 {
        ann.get("/openapi.json").await.ok();
    }
}

fn raw(message: &Value) -> Box<RawValue> {
    RawValue::from_string(message.to_string()).unwrap()
}

async fn sync_006_a_device_s_commands_wait_as_they_are_told(cluster: &mut Cluster) {
    limit(cluster, 3, 0, 0).await;
    let Device { url, token, .. } = cluster.device("ann");
    let waits = Arc::new(AtomicUsize::new(0));
    let noted = waits.clone();
    let notify = Arc::new(move |_: &str| {
        noted.fetch_add(1, Ordering::SeqCst);
    });
    let server = Server::new(&url, notify).unwrap();
    let client = server.client(Secret::new(token), DeviceId::new("cli").unwrap());
    let scope: Scope = "user".parse().unwrap();
    // As `push` and `import` send, one after the other, and more than a burst.
    let mut pushed = 0;
    while waits.load(Ordering::SeqCst) == 0 {
        assert!(pushed < 1_000, "it is never too much");
        let message = raw(&say(&format!("message {pushed}")));
        assert_eq!(client.push(&scope, [&*message]).await.unwrap().synced, 1);
        pushed += 1;
    }
    eventually("all are there", async || {
        let page = cluster.device("ann").named("phone").pull(USER, "limit=1000").await;
        (page.status == 200 && page.body["count"] == json!(pushed)).then_some(())
    })
    .await;
}
