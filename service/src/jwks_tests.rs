//! A JWKS served on this machine, changing as an issuer's does.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn signing(name: &str) -> (EncodingKey, Algorithm) {
    let rsa = include_bytes!("../tests/keys/rsa.pem");
    let p256 = include_bytes!("../tests/keys/p256.pem");
    let other = include_bytes!("../tests/keys/p256-other.pem");
    let ed25519 = include_bytes!("../tests/keys/ed25519.pem");
    match name {
        "rsa" => (EncodingKey::from_rsa_pem(rsa).unwrap(), Algorithm::RS256),
        "p256" => (EncodingKey::from_ec_pem(p256).unwrap(), Algorithm::ES256),
        "other" => (EncodingKey::from_ec_pem(other).unwrap(), Algorithm::ES256),
        _ => (EncodingKey::from_ed_pem(ed25519).unwrap(), Algorithm::EdDSA),
    }
}

/// The public half as a JWK whose `kid` is the key's name here.
fn jwk(name: &str) -> Value {
    let (key, algorithm) = signing(name);
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
    jwk["kid"] = json!(name);
    jwk
}

fn jwk_with(name: &str, member: &str, value: &str) -> Value {
    let mut jwk = jwk(name);
    jwk[member] = json!(value);
    jwk
}

fn header(name: &str) -> Header {
    let kid = Some(name.to_owned());
    Header { kid, ..Header::new(signing(name).1) }
}

#[derive(Default)]
struct Issuer {
    keys: Mutex<Vec<Value>>,
    status: Mutex<StatusCode>,
    asked: AtomicUsize,
    hold: Mutex<Option<Arc<Notify>>>,
}

impl Issuer {
    async fn start(keys: Vec<Value>) -> (Arc<Self>, String) {
        let issuer = Arc::new(Self { keys: Mutex::new(keys), ..Self::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let serving = issuer.clone();
        let answer = get(move || {
            let issuer = serving.clone();
            async move { issuer.answer().await }
        });
        let router = Router::new().route("/jwks", answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (issuer, url)
    }

    async fn answer(&self) -> (StatusCode, String) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let hold = self.hold.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        let keys = json!({"keys": *self.keys.lock().unwrap()});
        (*self.status.lock().unwrap(), keys.to_string())
    }

    fn set(&self, keys: Vec<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn asked_at_least(&self, times: usize) {
        let wait = async {
            while self.asked() < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }
}

#[tokio::test]
async fn keys_of_every_kind_are_found_and_fetched_once() {
    let (issuer, url) = Issuer::start(vec![jwk("rsa"), jwk("p256"), jwk("ed25519")]).await;
    let jwks = Jwks::new(&url).unwrap();
    for name in ["rsa", "p256", "ed25519", "rsa"] {
        assert_eq!(jwks.key(&header(name)).await.unwrap().algorithm(), signing(name).1);
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn a_whole_token_is_verified() {
    let (_issuer, url) = Issuer::start(vec![jwk("p256")]).await;
    let config = crate::auth::AuthConfig { jwt_jwks_url: Some(url), ..Default::default() };
    let verifier = crate::auth::Verifier::new(&config).unwrap();
    let exp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "u", "tenant_id": "t", "exp": exp + 60});
    let good = jsonwebtoken::encode(&header("p256"), &claims, &signing("p256").0).unwrap();
    assert_eq!(verifier.verify(&good).await.unwrap().user, "u");
    let forged = jsonwebtoken::encode(&header("p256"), &claims, &signing("other").0).unwrap();
    assert_eq!(verifier.verify(&forged).await.unwrap_err(), AuthError::Signature);
}

#[tokio::test]
async fn an_unknown_kid_fetches_again_but_not_at_once() {
    let (issuer, url) = Issuer::start(vec![jwk("p256")]).await;
    let patient = Jwks::with_times(&url, LONG, LONG).unwrap();
    patient.key(&header("p256")).await.unwrap();
    issuer.set(vec![jwk("p256"), jwk("other")]);
    for _ in 0..3 {
        let error = patient.key(&header("other")).await.err();
        assert_eq!(error, Some(AuthError::UnknownKey));
    }
    assert_eq!(issuer.asked(), 1, "the interval is not over");

    let eager = Jwks::with_times(&url, LONG, Duration::ZERO).unwrap();
    issuer.set(vec![jwk("p256")]);
    eager.key(&header("p256")).await.unwrap();
    issuer.set(vec![jwk("other")]);
    eager.key(&header("other")).await.unwrap();
    assert_eq!(eager.key(&header("p256")).await.err(), Some(AuthError::UnknownKey), "rotated out");
}

#[tokio::test]
async fn many_callers_make_one_fetch_and_one_who_leaves_does_not_stop_it() {
    let (issuer, url) = Issuer::start(vec![jwk("p256")]).await;
    let hold = Arc::new(Notify::new());
    *issuer.hold.lock().unwrap() = Some(hold.clone());
    let jwks = Arc::new(Jwks::new(&url).unwrap());
    let leaving = tokio::spawn({
        let jwks = jwks.clone();
        async move { jwks.key(&header("p256")).await.map(|_| ()) }
    });
    issuer.asked_at_least(1).await;
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    let others: Vec<_> = (0..20)
        .map(|_| {
            let jwks = jwks.clone();
            tokio::spawn(async move { jwks.key(&header("p256")).await.map(|_| ()) })
        })
        .collect();
    hold.notify_one();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn old_keys_stay_good_while_the_issuer_is_away() {
    let (issuer, url) = Issuer::start(vec![jwk("p256")]).await;
    let jwks = Jwks::with_times(&url, Duration::ZERO, Duration::ZERO).unwrap();
    jwks.key(&header("p256")).await.unwrap();
    *issuer.status.lock().unwrap() = StatusCode::INTERNAL_SERVER_ERROR;
    for _ in 0..3 {
        jwks.key(&header("p256")).await.unwrap();
    }
    assert_eq!(jwks.key(&header("other")).await.err(), Some(AuthError::KeysUnavailable));
    *issuer.status.lock().unwrap() = StatusCode::OK;
    issuer.set(vec![jwk("other")]);
    jwks.key(&header("other")).await.unwrap();
}

#[tokio::test]
async fn without_any_keys_the_answer_is_to_try_again() {
    let (issuer, url) = Issuer::start(vec![]).await;
    let jwks = Jwks::with_times(&url, LONG, Duration::ZERO).unwrap();
    assert_eq!(jwks.key(&header("p256")).await.err(), Some(AuthError::KeysUnavailable));
    let problem = crate::Problem::from(AuthError::KeysUnavailable);
    assert_eq!(problem.status().as_u16(), 503);
    issuer.set(vec![jwk("p256")]);
    jwks.key(&header("p256")).await.unwrap();
}

#[tokio::test]
async fn keys_for_other_uses_are_passed_over() {
    let unusable = [
        jwk_with("p256", "use", "enc"),
        jwk_with("rsa", "alg", "PS256"),
        jwk_with("rsa", "alg", "RSA-OAEP"),
        jwk_with("rsa", "n", "AQAB"),
        json!({"kty": "oct", "kid": "p256", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "new-kind", "kid": "p256"}),
        json!(7),
    ];
    for unusable in unusable {
        let (_issuer, url) = Issuer::start(vec![unusable.clone(), jwk("ed25519")]).await;
        let jwks = Jwks::new(&url).unwrap();
        jwks.key(&header("ed25519")).await.unwrap();
        for name in ["p256", "rsa"] {
            assert_eq!(jwks.key(&header(name)).await.err(), Some(AuthError::UnknownKey));
        }
    }
}

#[tokio::test]
async fn the_key_says_which_algorithm() {
    let (_issuer, url) = Issuer::start(vec![jwk("rsa"), jwk("p256"), jwk("other")]).await;
    let jwks = Jwks::new(&url).unwrap();
    for algorithm in [Algorithm::HS256, Algorithm::RS512, Algorithm::PS256, Algorithm::ES256] {
        let lying = Header { alg: algorithm, ..header("rsa") };
        assert_eq!(jwks.key(&lying).await.err(), Some(AuthError::Algorithm));
    }
    let nameless = |algorithm| Header { kid: None, ..Header::new(algorithm) };
    jwks.key(&nameless(Algorithm::RS256)).await.unwrap();
    assert_eq!(jwks.key(&nameless(Algorithm::ES256)).await.err(), Some(AuthError::UnknownKey));
}

#[tokio::test]
async fn a_huge_answer_is_not_read() {
    let (_issuer, url) = Issuer::start(vec![json!("x".repeat(ANSWER_BYTES)), jwk("p256")]).await;
    let jwks = Jwks::new(&url).unwrap();
    assert_eq!(jwks.key(&header("p256")).await.err(), Some(AuthError::KeysUnavailable));
}

#[test]
fn addresses_are_https_or_local() {
    for good in ["https://id.example.org/jwks", "http://127.0.0.1:9/x", "http://[::1]/x"] {
        assert!(Jwks::new(good).is_ok(), "{good}");
    }
    for bad in [
        "http://id.example.org/jwks",
        "http://127.0.0.1.example.org/",
        "https://user:secret@id.example.org/",
        "file:///x",
        "x",
    ] {
        assert!(Jwks::new(bad).is_err(), "{bad}");
    }
}
