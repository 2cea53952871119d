//! Tokens that are none: 401, nothing written.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::{
    client::{Reply, USER, say},
    cluster::{Cluster, SECRET},
};

/// 2286: not expired.
const FAR: u64 = 10_000_000_000;

fn sign(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), claims, &key).unwrap()
}

/// `alg: none` has no signature; the header and claims are another token's.
fn unsigned() -> String {
    // {"alg":"none","typ":"JWT"}
    let header = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let token = sign(&claims(), Algorithm::HS256, SECRET);
    let claims = token.split('.').nth(1).unwrap();
    format!("{header}.{claims}.")
}

fn claims() -> Value {
    json!({"sub": "ann", "tenant_id": "acme", "exp": FAR})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn without(key: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(key);
    claims
}

/// Each with what the answer says of it.
fn bad() -> Vec<(&'static str, String)> {
    let hs = |claims: Value| sign(&claims, Algorithm::HS256, SECRET);
    let good = hs(claims());
    let (signed, _) = good.rsplit_once('.').unwrap();
    vec![
        ("expired", hs(with("exp", json!(1_700_000_000)))),
        ("forged", sign(&claims(), Algorithm::HS256, "another secret, of whoever forges tokens")),
        ("alg none", unsigned()),
        ("signature cut", format!("{signed}.")),
        ("another algorithm", sign(&claims(), Algorithm::HS512, SECRET)),
        ("no exp", hs(without("exp"))),
        ("exp as text", hs(with("exp", json!("later")))),
        ("no tenant", hs(without("tenant_id"))),
        ("empty tenant", hs(with("tenant_id", json!("")))),
        ("tenant with /", hs(with("tenant_id", json!("acme/x")))),
        ("tenant ..", hs(with("tenant_id", json!("..")))),
        ("no sub", hs(without("sub"))),
        ("sub with NUL", hs(with("sub", json!("ann\0")))),
        ("sub too long", hs(with("sub", json!("a".repeat(129))))),
        ("sub a number", hs(with("sub", json!(7)))),
        ("unknown org role", hs(with("org_role", json!("god")))),
        ("not yet valid", hs(with("nbf", json!(FAR)))),
        ("no token", "x.y.z".to_owned()),
        ("endless", "e".repeat(9_000)),
        ("empty", String::new()),
    ]
}

both_logs! {
    bad_tokens_are_refused_and_nothing_is_written,
}

async fn bad_tokens_are_refused_and_nothing_is_written(cluster: &mut Cluster) {
    let before = cluster.ends().await;
    let mut ann = cluster.device("ann");
    for (what, token) in bad() {
        ann.token = token;
        for reply in [ann.pull(USER, "").await, ann.push(USER, &[say("x")]).await] {
            assert!(reply.headers.contains_key("www-authenticate"), "{what}: {}", reply.body);
            let problem = reply.problem(401, "UNAUTHENTICATED");
            let shown = problem.to_string();
            assert!(ann.token.len() < 6 || !shown.contains(&ann.token), "{what}: {shown}");
        }
    }
    for path in ["/api/v1/context/push", "/api/v1/teams/t", "/api/v1/teams/t/members/x"] {
        let request = reqwest::Client::new().put(format!("{}{path}", ann.url));
        let status = Reply::of(request).await.status;
        assert!(matches!(status, 401 | 405), "{path}: {status}");
    }
    assert_eq!(cluster.ends().await, before);
    cluster.device("ann").push(USER, &[say("good")]).await.ok();
}
