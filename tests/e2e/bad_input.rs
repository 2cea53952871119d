//! What bad input gets: a clear 4xx naming the field and what it takes; nothing written; the
//! process unmoved.

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{Device, Reply, USER, say},
    cluster::Cluster,
};

/// A push's body, and the answer's status and what its detail names.
fn bodies() -> Vec<(Vec<u8>, u16, &'static str)> {
    let text = |body: &str| body.as_bytes().to_vec();
    let one = |message: Value| json!({"messages": [message]}).to_string().into_bytes();
    let with = |key: &str, value: Value| {
        let mut message = say("x");
        message[key] = value;
        one(message)
    };
    let raw =
        |content: &str| text(&format!(r#"{{"messages":[{{"type":"a","content":"{content}"}}]}}"#));
    let deep = (0..19).fold(json!({}), |inner, _| json!({"in": inner}));
    let deep_array = (0..19).fold(json!([]), |inner, _| json!([inner]));
    let many: Vec<Value> = (0..10_000).map(|n| say(&n.to_string())).collect();
    vec![
        (text(""), 400, "messages takes"),
        (text("not JSON"), 400, "messages takes"),
        (text("[]"), 400, "messages takes"),
        (text("{}"), 400, "messages takes"),
        (text("null"), 400, "messages takes"),
        (text(r#"{"messages": {}}"#), 400, "messages takes"),
        (text(r#"{"messages": null}"#), 400, "messages takes"),
        (text(r#"{"messages": []"#), 400, "messages takes"),
        (text(r#"{"messages": []} x"#), 400, "messages takes"),
        (text(r#"{"messages": [], "messages": []}"#), 400, "messages"),
        (text(r#"{"messages": [], "epoch": 7}"#), 400, "epoch takes"),
        (text(r#"{"messages": [], "epoch": "x"}"#), 400, "epoch takes"),
        (b"{\"messages\": [\"\xff\"]}".to_vec(), 400, "UTF-8"),
        (text(&"[".repeat(100_000)), 400, "messages takes"),
        (text(&format!(r#"{{"messages":[{}"#, "[".repeat(100_000))), 400, "messages"),
        (one(json!(1)), 400, "messages[0]: a message takes a JSON object"),
        (one(json!({})), 400, "messages[0]: type takes"),
        (with("type", json!(1)), 400, "messages[0]: type takes"),
        (with("type", json!("Decision")), 400, "messages[0]: type takes"),
        (with("type", json!("a".repeat(65))), 400, "messages[0]: type takes"),
        (with("content", json!(null)), 400, "messages[0]: content takes"),
        (with("content", json!(["x"])), 400, "messages[0]: content takes"),
        (with("content", json!("")), 400, "messages[0]: content takes"),
        (with("content", json!("a\0b")), 400, "messages[0]: content takes no NUL"),
        (raw(r"\ud800"), 400, "messages[0]: content takes well-formed JSON: "),
        (raw(r"\udc00x"), 400, "messages[0]: content takes well-formed JSON: "),
        (raw("a\nb"), 400, "messages"),
        (
            with("content", json!("x".repeat(65_537))),
            413,
            "content_bytes_max is 65536 bytes, 65537",
        ),
        (with("metadata", json!([])), 400, "messages[0]: metadata takes"),
        (with("metadata", json!("x")), 400, "messages[0]: metadata takes"),
        (with("metadata", deep), 400, "messages[0]: metadata takes at most 16 levels"),
        (with("metadata", json!({"a": deep_array})), 400, "messages[0]: metadata takes at most 16"),
        (
            with("metadata", json!({"n": u64::MAX})),
            400,
            "messages[0]: metadata takes whole numbers",
        ),
        (with("metadata", json!({"x": "y".repeat(16_384)})), 413, "metadata_bytes_max is 16384"),
        (with("id", json!("x")), 400, "messages[0]: id takes a UUID"),
        (with("id", json!(7)), 400, "messages[0]: id takes a UUID"),
        (with("updated_at", json!("yesterday")), 400, "messages[0]: updated_at takes"),
        (with("updated_at", json!(0)), 400, "messages[0]: updated_at takes"),
        (with("base_cursor", json!(-1)), 400, "messages[0]: base_cursor takes"),
        (with("base_cursor", json!(1.5)), 400, "messages[0]: base_cursor takes"),
        (with("base_cursor", json!(u64::MAX)), 400, "messages[0]: base_cursor takes"),
        (with("content_hash", json!("abc")), 400, "messages[0]: content_hash takes"),
        (with("content_hash", json!("0".repeat(64))), 422, "messages[0]: content_hash"),
        (with("deleted", json!("yes")), 400, "messages[0]: deleted takes"),
        (with("deleted", json!(true)), 400, "messages[0]: a delete takes an id"),
        (one(json!({"id": uuid::Uuid::new_v4(), "deleted": true})), 400, "takes a base_cursor"),
        (json!({"messages": many}).to_string().into_bytes(), 413, "push_messages_max is 500"),
    ]
}

/// A pull's query, and what the answer's detail says.
const QUERIES: &[(&str, &str)] = &[
    ("cursor=-1", "cursor takes a whole number from 0"),
    ("cursor=abc", "cursor takes a whole number"),
    ("cursor=9e99", "cursor takes a whole number"),
    ("cursor=1.0", "cursor takes a whole number"),
    ("cursor=", "cursor takes a whole number"),
    ("cursor=9223372036854775808", "cursor takes a whole number"),
    ("cursor=%00", "cursor takes a whole number"),
    ("cursor=0&cursor=1", "cursor takes one value"),
    ("limit=0", "limit takes a whole number from 1 to 1000"),
    ("limit=5000", "limit takes a whole number from 1 to 1000"),
    ("limit=1001", "limit takes a whole number from 1 to 1000"),
    ("limit=-5", "limit takes a whole number"),
    ("limit=ten", "limit takes a whole number"),
    ("wait=61", "wait takes a whole number of seconds from 0 to 60"),
    ("wait=1.5", "wait takes a whole number"),
    ("epoch=x", "epoch takes a UUID"),
];

/// Team ids as they stand in a path.
const IDS: &[&str] = &[
    "a%2Fb",
    "..",
    "%2e%2e",
    "%2E%2e",
    ".",
    "%00",
    "a%00b",
    "%ff",
    "caf%C3%A9",
    "a%20b",
    "a%25b",
    "%252e%252e",
    "a;b",
    "a*b",
];

fn names(problem: &Value, what: &str) {
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(what), "{detail:?} does not name {what:?}");
}

/// Sends bytes as they are: clients tidy paths up.
async fn raw(device: &Device, request: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(device.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut response = Vec::new();
    // The server may cut off what it will not read.
    let _ = stream.read_to_end(&mut response).await;
    let text = String::from_utf8_lossy(&response);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn head(device: &Device, method: &str, path: &str, more: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nX-Device-ID: d\r\n\
         Connection: close\r\n{more}\r\n",
        device.token
    )
    .into_bytes()
}

/// Runs the table, and makes sure that it left no trace.
async fn without_a_trace(cluster: &Cluster, table: impl AsyncFnOnce(&Device)) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("before")]).await.ok();
    let before = (cluster.ends().await, ann.pull(USER, "").await.ok());
    table(&ann).await;
    assert_eq!((cluster.ends().await, ann.pull(USER, "").await.ok()), before);
    ann.at(&cluster.node.ops_url).get("/readyz").await.ok();
}

both_logs! {
    bodies_that_are_no_push,
    queries_that_are_no_pull,
    a_body_of_100_mb,
    ids_that_are_none,
    headers_that_are_none,
    routes_that_are_none,
}

async fn bodies_that_are_no_push(cluster: &mut Cluster) {
    without_a_trace(cluster, async |ann| {
        for (body, status, what) in bodies() {
            let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
            let request = ann.request(Method::POST, "/api/v1/context/push").body(body);
            let reply = Reply::of(request).await;
            assert_eq!(reply.status, status, "{shown}: {}", reply.body);
            let code = match status {
                400 => "INVALID_REQUEST",
                413 => "PAYLOAD_TOO_LARGE",
                _ => "SYNC_002",
            };
            names(&reply.problem(status, code), what);
        }
    })
    .await;
}

async fn queries_that_are_no_pull(cluster: &mut Cluster) {
    without_a_trace(cluster, async |ann| {
        for (query, what) in QUERIES {
            names(&ann.pull(USER, query).await.problem(400, "INVALID_REQUEST"), what);
        }
    })
    .await;
}

async fn a_body_of_100_mb(cluster: &mut Cluster) {
    without_a_trace(cluster, async |ann| {
        const BYTES: usize = 100 << 20;
        let announced = format!("Content-Length: {BYTES}\r\n");
        let (status, problem) =
            raw(ann, &head(ann, "POST", "/api/v1/context/push", &announced)).await;
        assert_eq!((status, &problem["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));
        names(&problem, "push_bytes_max is 4194304, sent was 104857600");
        // Whoever sends it all is told, or cut off; never taken in.
        let request = ann.request(Method::POST, "/api/v1/context/push").body(vec![b' '; BYTES]);
        if let Ok(reply) = Reply::try_of(request).await {
            reply.problem(413, "PAYLOAD_TOO_LARGE");
        }
        let just_too_large = vec![b' '; (4 << 20) + 1];
        let request = ann.request(Method::POST, "/api/v1/context/push").body(just_too_large);
        names(&Reply::of(request).await.problem(413, "PAYLOAD_TOO_LARGE"), "push_bytes_max");
    })
    .await;
}

async fn ids_that_are_none(cluster: &mut Cluster) {
    without_a_trace(cluster, async |ann| {
        let long = "a".repeat(129);
        for id in IDS.iter().copied().chain([long.as_str()]) {
            let push = format!("/api/v1/teams/{id}/context/push");
            let (status, problem) =
                raw(ann, &head(ann, "POST", &push, "Content-Length: 0\r\n")).await;
            assert_eq!(
                (status, &problem["code"]),
                (400, &json!("INVALID_REQUEST")),
                "{id}: {problem}"
            );
            names(&problem, "team_id takes 1 to 128 characters");
            for (method, path, field) in [
                ("GET", format!("/api/v1/projects/{id}/context/pull"), "project_id takes"),
                ("GET", format!("/api/v1/orgs/{id}/context/pull"), "org_id takes"),
                ("PUT", format!("/api/v1/teams/{id}"), "team_id takes"),
                ("GET", format!("/api/v1/teams/{id}/members"), "team_id takes"),
            ] {
                let (status, problem) =
                    raw(ann, &head(ann, method, &path, "Content-Length: 0\r\n")).await;
                assert_eq!(status, 400, "{method} {path}: {problem}");
                names(&problem, field);
            }
        }
    })
    .await;
}

async fn headers_that_are_none(cluster: &mut Cluster) {
    without_a_trace(cluster, async |ann| {
        let pull = |headers: HeaderMap| {
            let client = reqwest::Client::new();
            let url = format!("{}/api/v1/context/pull", ann.url);
            Reply::of(client.get(url).bearer_auth(&ann.token).headers(headers))
        };
        let header = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        for headers in [HeaderMap::new(), header("x-device-id", "a/b"), header("x-device-id", "..")]
        {
            names(&pull(headers).await.problem(400, "INVALID_REQUEST"), "X-Device-ID");
        }
        for key in ["", &"k".repeat(129)] {
            let pushing = ann.pushing(USER, &[say("x")]).header("Idempotency-Key", key);
            names(
                &Reply::of(pushing).await.problem(400, "INVALID_REQUEST"),
                "Idempotency-Key takes",
            );
        }
    })
    .await;
}

async fn routes_that_are_none(cluster: &mut Cluster) {
    without_a_trace(cluster, async |ann| {
        for path in [
            "/",
            "/api/v1/galaxies/x/context/pull",
            "/api/v2/context/pull",
            "/api/v1/context",
            "/api/v1/context/pull/",
            "/metrics",
            "/readyz",
        ] {
            ann.get(path).await.problem(404, "NOT_FOUND");
        }
        for (method, path) in [
            (Method::GET, "/api/v1/context/push"),
            (Method::POST, "/api/v1/context/pull"),
            (Method::DELETE, "/api/v1/teams/t/context/push"),
        ] {
            let reply = Reply::of(ann.request(method, path)).await;
            assert!(reply.headers.contains_key("allow"), "{path}");
            reply.problem(405, "METHOD_NOT_ALLOWED");
        }
    })
    .await;
}
