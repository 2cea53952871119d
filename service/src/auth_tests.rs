//! Each way to get in with a token that should not.

use std::path::Path;

use clap::{Args as _, Command};
use http::HeaderValue;
use jsonwebtoken::encode;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const RSA: &str = include_str!("../tests/keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("../tests/keys/rsa.pub.pem");
const P256: &str = include_str!("../tests/keys/p256.pem");
const P256_OTHER: &str = include_str!("../tests/keys/p256-other.pem");
const ED25519: &str = include_str!("../tests/keys/ed25519.pem");

/// The base64url of `{"alg":"none"}`.
const NONE_HEADER: &str = "eyJhbGciOiJub25lIn0";

fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

fn with_secret() -> AuthConfig {
    AuthConfig { jwt_secret: Some(SECRET.into()), ..AuthConfig::default() }
}

fn with_pem(name: &str) -> AuthConfig {
    AuthConfig { jwt_public_key_file: Some(key_file(name)), ..AuthConfig::default() }
}

/// Claims that are good for an hour, with some replaced (`null` removes one).
fn claims(changes: Value) -> Value {
    let mut claims = json!({"sub": "u-1", "tenant_id": "t-1", "exp": unix_now() + 3600});
    let (Some(claims_map), Some(changes)) = (claims.as_object_mut(), changes.as_object()) else {
        panic!("changes are an object");
    };
    for (name, value) in changes {
        match value {
            Value::Null => claims_map.remove(name),
            value => claims_map.insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn hs256(claims: &Value, secret: &[u8]) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// Verifies claims signed with the shared secret.
async fn check(config: AuthConfig, changes: Value) -> Result<Arc<Caller>, AuthError> {
    let token = hs256(&claims(changes), SECRET.as_bytes());
    Verifier::new(&config).unwrap().verify(&token).await
}

async fn refused(changes: Value) -> AuthError {
    check(with_secret(), changes).await.unwrap_err()
}

#[tokio::test]
async fn a_good_token_names_the_caller() {
    let caller = check(with_secret(), json!({})).await.unwrap();
    let member = OrgRole::Member;
    assert_eq!(*caller, Caller { user: "u-1".into(), tenant: "t-1".into(), org_role: member });
    for (word, role) in [("member", member), ("admin", OrgRole::Admin), ("owner", OrgRole::Owner)] {
        let caller = check(with_secret(), json!({"org_role": word})).await.unwrap();
        assert_eq!((caller.org_role, role.as_str()), (role, word));
    }
}

#[tokio::test]
async fn a_made_token_is_taken_by_the_server_with_that_secret_alone() {
    let hour = Duration::from_secs(3600);
    let token = sign_hs256(&SECRET.into(), "ann", "acme", OrgRole::Admin, hour).unwrap();
    let caller = Verifier::new(&with_secret()).unwrap().verify(&token).await.unwrap();
    assert_eq!((&*caller.user, &*caller.tenant, caller.org_role), ("ann", "acme", OrgRole::Admin));
    let other = AuthConfig { jwt_secret: Some("x".repeat(32).into()), ..AuthConfig::default() };
    let error = Verifier::new(&other).unwrap().verify(&token).await.unwrap_err();
    assert_eq!(error, AuthError::Signature);
    assert!(sign_hs256(&SECRET.into(), "..", "acme", OrgRole::Member, hour).is_err());
    assert!(sign_hs256(&"short".into(), "ann", "acme", OrgRole::Member, hour).is_err());
}

#[tokio::test]
async fn alg_none_is_refused() {
    let token = hs256(&claims(json!({})), SECRET.as_bytes());
    let payload = token.split('.').nth(1).unwrap();
    for config in [with_secret(), with_pem("rsa.pub.pem")] {
        let verifier = Verifier::new(&config).unwrap();
        for forged in [format!("{NONE_HEADER}.{payload}."), format!("{NONE_HEADER}.{payload}.AA")] {
            assert_eq!(verifier.verify(&forged).await.unwrap_err(), AuthError::Malformed);
        }
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    for trimmed in [RSA_PUBLIC, RSA_PUBLIC.trim_end()] {
        let forged = hs256(&claims(json!({})), trimmed.as_bytes());
        let verifier = Verifier::new(&with_pem("rsa.pub.pem")).unwrap();
        assert_eq!(verifier.verify(&forged).await.unwrap_err(), AuthError::Algorithm);
    }
    let config = AuthConfig { jwt_secret: Some(RSA_PUBLIC.into()), ..AuthConfig::default() };
    assert!(matches!(Verifier::new(&config).unwrap_err(), AuthConfigError::SecretIsPem));
}

#[tokio::test]
async fn each_public_key_takes_its_own_algorithm_alone() {
    let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
    let p256 = EncodingKey::from_ec_pem(P256.as_bytes()).unwrap();
    let ed25519 = EncodingKey::from_ed_pem(ED25519.as_bytes()).unwrap();
    let signed = |algorithm, key| encode(&Header::new(algorithm), &claims(json!({})), key).unwrap();
    let tokens = [
        ("rsa.pub.pem", signed(Algorithm::RS256, &rsa)),
        ("p256.pub.pem", signed(Algorithm::ES256, &p256)),
        ("ed25519.pub.pem", signed(Algorithm::EdDSA, &ed25519)),
    ];
    for (file, _) in &tokens {
        let verifier = Verifier::new(&with_pem(file)).unwrap();
        for (made_for, token) in &tokens {
            let result = verifier.verify(token).await;
            match file == made_for {
                true => assert_eq!(result.unwrap().user, "u-1"),
                false => assert_eq!(result.unwrap_err(), AuthError::Algorithm),
            }
        }
        for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
            let result = verifier.verify(&signed(algorithm, &rsa)).await;
            assert_eq!(result.unwrap_err(), AuthError::Algorithm);
        }
    }
}

#[tokio::test]
async fn another_key_of_the_right_kind_does_not_do() {
    let other = EncodingKey::from_ec_pem(P256_OTHER.as_bytes()).unwrap();
    let forged = encode(&Header::new(Algorithm::ES256), &claims(json!({})), &other).unwrap();
    let verifier = Verifier::new(&with_pem("p256.pub.pem")).unwrap();
    assert_eq!(verifier.verify(&forged).await.unwrap_err(), AuthError::Signature);
}

#[tokio::test]
async fn changed_claims_do_not_do() {
    let good = hs256(&claims(json!({})), SECRET.as_bytes());
    let wished = hs256(&claims(json!({"org_role": "owner"})), b"mine");
    let parts: Vec<_> = good.split('.').collect();
    let forged = format!("{}.{}.{}", parts[0], wished.split('.').nth(1).unwrap(), parts[2]);
    let verifier = Verifier::new(&with_secret()).unwrap();
    verifier.verify(&good).await.unwrap();
    assert_eq!(verifier.verify(&forged).await.unwrap_err(), AuthError::Signature);
}

#[tokio::test]
async fn garbage_is_refused() {
    let verifier = Verifier::new(&with_secret()).unwrap();
    let good = hs256(&claims(json!({})), SECRET.as_bytes());
    let (head, signature) = good.rsplit_once('.').unwrap();
    for garbage in ["", "x", "..", "a.b.c", "a.b", "a.b.c.d", "é.é.é", "\0.\0.\0", head] {
        assert_eq!(verifier.verify(garbage).await.unwrap_err(), AuthError::Malformed, "{garbage}");
    }
    for garbage in [format!("{head}."), format!("{head}.{signature}A"), format!("{head}.AAAA")] {
        assert!(verifier.verify(&garbage).await.is_err(), "{garbage}");
    }
    let error = verifier.verify(&format!("{good}.x")).await.unwrap_err();
    assert_eq!(error, AuthError::Malformed);
    let long = "a".repeat(TOKEN_BYTES + 1);
    assert_eq!(verifier.verify(&long).await.unwrap_err(), AuthError::TooLong);
}

#[tokio::test]
async fn a_critical_extension_is_not_understood() {
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&header, &claims(json!({})), &key).unwrap();
    let verifier = Verifier::new(&with_secret()).unwrap();
    assert_eq!(verifier.verify(&token).await.unwrap_err(), AuthError::Malformed);
}

#[tokio::test]
async fn times_are_checked_with_leeway() {
    let now = unix_now();
    let verifier = Verifier::new(&with_secret()).unwrap();
    let at = async |changes: Value| {
        let token = hs256(&claims(changes), SECRET.as_bytes());
        verifier.verify_at(&token, now).await.map(|_| ())
    };
    assert_eq!(at(json!({"exp": now - 29})).await, Ok(()));
    assert_eq!(at(json!({"exp": now - 30})).await, Err(AuthError::Expired));
    assert_eq!(at(json!({"exp": 0})).await, Err(AuthError::Expired));
    assert_eq!(at(json!({"nbf": now + 30})).await, Ok(()));
    assert_eq!(at(json!({"nbf": now + 31})).await, Err(AuthError::NotYet));
    assert_eq!(at(json!({"iat": now + ISSUED_AHEAD})).await, Ok(()));
    let ahead = at(json!({"iat": now + ISSUED_AHEAD + 1})).await;
    assert!(matches!(ahead, Err(AuthError::BadClaim { claim: "iat", .. })), "{ahead:?}");
    assert_eq!(at(json!({"exp": now as f64 + 0.5})).await, Ok(()));
    for exp in [json!("tomorrow"), json!(-1), json!([now + 9]), json!(true)] {
        let result = at(json!({"exp": exp})).await;
        assert!(matches!(result, Err(AuthError::BadClaim { claim: "exp", .. })), "{result:?}");
    }
}

const ISSUED_AHEAD: u64 = 300;

#[tokio::test]
async fn required_claims_are_named() {
    for claim in ["sub", "tenant_id", "exp"] {
        let error = refused(json!({claim: null})).await;
        assert_eq!(error, AuthError::MissingClaim(claim));
        assert!(error.to_string().contains(claim));
    }
}

#[tokio::test]
async fn ids_keep_to_the_rule() {
    let long = "a".repeat(129);
    let bad = ["", ".", "..", "a/b", "../x", "a%00", "a b", "é", "a\0", "a\n", &long];
    for bad in bad {
        for claim in ["sub", "tenant_id"] {
            let error = refused(json!({claim: bad})).await;
            let named = matches!(error, AuthError::BadClaim { claim: found, .. } if found == claim);
            assert!(named, "{bad:?}: {error}");
        }
    }
    assert!(matches!(refused(json!({"sub": 7})).await, AuthError::BadClaim { claim: "sub", .. }));
    let good = ["a", "...", "auth0|5f7c", "ann+x@example.org", "A_b:c-d.e", &"a".repeat(128)];
    for good in good {
        assert_eq!(check(with_secret(), json!({"sub": good})).await.unwrap().user, good);
    }
}

#[tokio::test]
async fn an_unknown_org_role_is_refused() {
    for role in [json!("king"), json!("Owner"), json!(""), json!(1), json!(["owner"])] {
        let error = refused(json!({"org_role": role})).await;
        assert!(matches!(error, AuthError::BadClaim { claim: "org_role", .. }), "{error}");
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_configured() {
    let config = || AuthConfig {
        jwt_issuer: Some("https://id".to_owned()),
        jwt_audience: Some("sync".to_owned()),
        ..with_secret()
    };
    for (changes, wrong) in [
        (json!({"iss": "https://id", "aud": "sync"}), None),
        (json!({"iss": "https://id", "aud": ["other", "sync"]}), None),
        (json!({"iss": "https://evil", "aud": "sync"}), Some("iss")),
        (json!({"iss": ["https://id"], "aud": "sync"}), Some("iss")),
        (json!({"aud": "sync"}), Some("iss")),
        (json!({"iss": "https://id", "aud": "other"}), Some("aud")),
        (json!({"iss": "https://id", "aud": []}), Some("aud")),
        (json!({"iss": "https://id"}), Some("aud")),
    ] {
        match (check(config(), changes.clone()).await, wrong) {
            (Ok(_), None) => {}
            (Err(error), Some(claim)) => assert!(error.to_string().contains(claim), "{error}"),
            (result, _) => panic!("{changes}: {result:?}"),
        }
    }
    let anything = json!({"iss": "x", "aud": "y"});
    check(with_secret(), anything).await.unwrap();
}

#[tokio::test]
async fn a_remembered_token_still_expires() {
    let verifier = Verifier::new(&with_secret()).unwrap();
    let now = unix_now();
    let token = hs256(&claims(json!({"exp": now + 10})), SECRET.as_bytes());
    let first = verifier.verify_at(&token, now).await.unwrap();
    let second = verifier.verify_at(&token, now + 39).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second), "the second comes out of the cache");
    assert_eq!(verifier.verify_at(&token, now + 40).await.unwrap_err(), AuthError::Expired);
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let verifier = Verifier::new(&with_secret()).unwrap();
    let caller =
        Arc::new(Caller { user: String::new(), tenant: String::new(), org_role: OrgRole::Member });
    for n in 0..2 * CACHED_TOKENS {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        verifier.verified.insert(digest, Verified { caller: caller.clone(), ends: 0 });
    }
    verifier.verified.run_pending_tasks();
    assert!(verifier.verified.entry_count() <= CACHED_TOKENS);
}

#[test]
fn exactly_one_key_source() {
    let error = Verifier::new(&AuthConfig::default()).unwrap_err();
    assert!(matches!(error, AuthConfigError::Sources { given: 0 }), "{error}");
    let both = AuthConfig { jwt_secret: Some(SECRET.into()), ..with_pem("rsa.pub.pem") };
    let error = Verifier::new(&both).unwrap_err();
    assert!(matches!(error, AuthConfigError::Sources { given: 2 }), "{error}");
    assert!(!error.to_string().contains(SECRET));
}

#[test]
fn weak_and_wrong_keys_are_refused_at_start() {
    let short = AuthConfig { jwt_secret: Some("x".repeat(31).into()), ..AuthConfig::default() };
    let error = Verifier::new(&short).unwrap_err();
    assert!(matches!(error, AuthConfigError::ShortSecret { bytes: 31 }), "{error}");
    for (file, reason) in [
        ("rsa-1024.pub.pem", "1024 bits"),
        ("p384.pub.pem", "P-256"),
        ("rsa.pem", "private key"),
        ("README.md", "BEGIN PUBLIC KEY"),
        ("none.pem", "cannot be read"),
    ] {
        let error = Verifier::new(&with_pem(file)).unwrap_err().to_string();
        assert!(error.contains(reason), "{file}: {error}");
    }
}

#[tokio::test]
async fn a_secret_file_may_end_in_a_line_break() {
    let path = std::env::temp_dir().join(format!("secret-{}", uuid::Uuid::now_v7()));
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let config = AuthConfig { jwt_secret_file: Some(path.clone()), ..AuthConfig::default() };
    let verifier = Verifier::new(&config).unwrap();
    std::fs::remove_file(&path).unwrap();
    verifier.verify(&hs256(&claims(json!({})), SECRET.as_bytes())).await.unwrap();
}

#[tokio::test]
async fn the_header_is_a_bearer_token_in_any_case() {
    let verifier = Verifier::new(&with_secret()).unwrap();
    let token = hs256(&claims(json!({})), SECRET.as_bytes());
    let call = async |values: &[String]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        authenticate(&headers, &verifier).await
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        call(&[format!("{scheme} {token}")]).await.unwrap();
    }
    let good = format!("Bearer {token}");
    let bad = [
        vec![],
        vec![good.clone(), good],
        vec![token.clone()],
        vec!["Bearer".to_owned()],
        vec!["Bearer ".to_owned()],
        vec![format!("Basic {token}")],
        vec![format!("Bearer {token} {token}")],
        vec!["Bearer é".to_owned()],
    ];
    for values in bad {
        let problem = call(&values).await.unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (401, "UNAUTHENTICATED"));
        assert!(!problem.detail().contains(&token), "{problem}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?} {}", with_secret(), Secret::from(SECRET));
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(!format!("{:?}", Verifier::new(&with_secret()).unwrap()).contains(SECRET));
    let command = AuthConfig::augment_args(Command::new("x"));
    let secret = command.get_arguments().find(|arg| arg.get_id() == "jwt_secret").unwrap();
    assert!(secret.is_hide_env_values_set(), "--help must not print the environment's secret");
}
