//! Requests through the whole router, onto a log in memory that folds what it is given. There is no
//! database: what needs none must not ask it, and what needs one must say that it cannot be reached.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use contract::{
    Entrance,
    rates::{RateConfig, Rates},
};
use eventlog::{
    AppendError, AppendFuture, Appended, Bounds, EventLog, LogError, LogReader, Record,
    RejectReason,
};
use ingest::{Ingest, IngestConfig};
use model::{Event, LogFold, LogId, Offset, Partition, Place, Timestamp};
use readmodel::{
    DatabaseConfig, DatabaseRole,
    feed::{Committed, Feed},
};
use serde_json::{Value, json};
use service::{
    Secret,
    auth::{AuthConfig, OrgRole, Verifier, sign_hs256},
    http::{HttpLimits, envelope},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tower::ServiceExt;
use uuid::Uuid;

const SECRET: &str = "a secret for tests, and nothing but tests";
const PUSH: &str = "/api/v1/context/push";

type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// What the log does with a record.
enum Does {
    Folds,
    /// Takes it, and nobody folds it.
    Keeps,
    Fails(AppendError),
    /// Takes it, and answers and folds once it may.
    Pauses(Arc<Semaphore>),
}

/// A log of one partition that folds in memory what it takes.
struct MemoryLog {
    does: Does,
    feed: Arc<Feed>,
    fold: Mutex<LogFold>,
    next: AtomicU64,
}

impl EventLog for MemoryLog {
    fn log_id(&self) -> LogId {
        LogId(Uuid::nil())
    }

    fn partitions(&self) -> u32 {
        1
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        if let Does::Fails(error) = &self.does {
            let error = error.clone();
            return Box::pin(async move { Err(error) });
        }
        let goes_on = match &self.does {
            Does::Pauses(goes_on) => Some(goes_on.clone()),
            _ => None,
        };
        let offset = Offset::new(self.next.fetch_add(1, Ordering::SeqCst)).unwrap();
        let place = Place { partition, offset };
        if matches!(self.does, Does::Folds | Does::Pauses(_)) {
            let event = schemas::decode(&value).unwrap();
            let time = Timestamp::parse_rfc3339("2025-12-30T10:00:01Z").unwrap();
            let applied = self.fold.lock().unwrap().apply(place, time, &key, Some(&event)).unwrap();
            let Event::Command(command) = event else { panic!("{event:?} is no command") };
            let outcomes =
                applied.map(|applied| (command.id, applied.outcome)).into_iter().collect();
            self.feed.committed(&Committed { outcomes, ..Committed::default() });
        }
        Box::pin(async move {
            if let Some(goes_on) = goes_on {
                let _permit = goes_on.acquire().await.unwrap();
            }
            Ok(Appended { place, append_time: None })
        })
    }

    fn bounds(&self, _: Partition) -> Future<'_, Result<Bounds, LogError>> {
        unreachable!("ingest reads nothing")
    }

    fn reader(&self, _: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        unreachable!("ingest reads nothing")
    }

    fn read_one(&self, _: Place) -> Future<'_, Result<Option<Record>, LogError>> {
        unreachable!("ingest reads nothing")
    }

    fn close(&self) -> Future<'_, Result<(), LogError>> {
        unreachable!("ingest does not close the log")
    }
}

fn service(does: Does) -> Router {
    service_with(does, IngestConfig { push_wait_ms: 50, ..IngestConfig::default() })
}

fn service_with(does: Does, config: IngestConfig) -> Router {
    service_at(does, config, &RateConfig::default())
}

fn service_at(does: Does, config: IngestConfig, rates: &RateConfig) -> Router {
    let feed = Feed::new(true);
    let log =
        MemoryLog { does, feed: feed.clone(), fold: Mutex::default(), next: AtomicU64::new(7) };
    let nowhere = DatabaseConfig {
        database_url: Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
        database_connections: 1,
        database_acquire_timeout_ms: 200,
        database_statement_timeout_ms: 1_000,
    };
    let pool = readmodel::pool(&nowhere, DatabaseRole::Ingest).unwrap();
    let auth = AuthConfig { jwt_secret: Some(SECRET.into()), ..AuthConfig::default() };
    let verifier = Arc::new(Verifier::new(&auth).unwrap());
    let entrance = Entrance { verifier, rates: Arc::new(Rates::new(rates)) };
    let ingest = Arc::new(Ingest::new(config, Arc::new(log), pool, feed, entrance, None));
    envelope(ingest::router(ingest), &HttpLimits::default())
}

fn token(org_role: OrgRole) -> String {
    static SIGNED: OnceLock<[String; 3]> = OnceLock::new();
    let sign = |org_role| {
        let secret = Secret::new(SECRET);
        let hour = Duration::from_secs(3600);
        format!("Bearer {}", sign_hs256(&secret, "ann", "acme", org_role, hour).unwrap())
    };
    SIGNED.get_or_init(|| [OrgRole::Member, OrgRole::Admin, OrgRole::Owner].map(sign))
        [org_role as usize]
        .clone()
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> Request {
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", token(OrgRole::Member))
        .header("x-device-id", "laptop")
        .body(body.into())
        .unwrap()
}

fn push(body: &Value) -> Request {
    request("POST", PUSH, body.to_string())
}

fn message(content: &str) -> Value {
    json!({"type": "decision", "content": content})
}

async fn json_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn ask(service: &Router, request: Request) -> (u16, Value) {
    json_of(service.clone().oneshot(request).await.unwrap()).await
}

#[tokio::test]
async fn a_push_is_answered_with_what_the_fold_decided() {
    let service = service(Does::Folds);
    let founding = json!({"messages": [{"type": "decision",
        "content": "Use PostgreSQL RLS for tenant isolation",
        "metadata": {"source": "session-abc", "timestamp": "2025-12-30T10:00:00Z"}}]});
    let (status, answer) = ask(&service, push(&founding)).await;
    assert_eq!(status, 200, "{answer}");
    let keys: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "cursor",
            "previous_cursor",
            "push_id",
            "rejected",
            "results",
            "skipped",
            "synced",
            "timestamp"
        ]
    );
    assert_eq!(
        (&answer["synced"], &answer["skipped"], &answer["cursor"], &answer["previous_cursor"]),
        (&1.into(), &0.into(), &1.into(), &0.into())
    );
    assert_eq!(answer["timestamp"], "2025-12-30T10:00:01Z");
    assert_eq!(answer["results"][0]["status"], "created");
    assert_eq!(answer["results"][0]["updated_at"], "2025-12-30T10:00:00Z");
    let (_, again) = ask(&service, push(&founding)).await;
    assert_eq!(
        (&again["skipped"], &again["results"][0]["status"]),
        (&1.into(), &"duplicate".into())
    );
    let (status, empty) = ask(&service, push(&json!({"messages": []}))).await;
    assert_eq!((status, &empty["synced"], &empty["cursor"]), (200, &0.into(), &1.into()));
}

#[tokio::test]
async fn one_bad_message_rejects_no_other_but_bad_ones_alone_are_an_error() {
    let service = service(Does::Folds);
    let mixed = json!({"messages": [message(""), message("fine"), 5]});
    let (status, answer) = ask(&service, push(&mixed)).await;
    assert_eq!((status, &answer["synced"], &answer["rejected"]), (200, &1.into(), &2.into()));
    let statuses: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["invalid", "created", "invalid"]);
    assert_eq!(answer["results"][0]["code"], "INVALID_REQUEST");
    assert_eq!(answer["results"][2]["detail"], "messages[2]: a message takes a JSON object");
    let hash = json!({"type": "a", "content": "x", "content_hash": "0".repeat(64)});
    let large = message(&"x".repeat((64 << 10) + 1));
    let table = [
        (json!([message(""), hash]), 400, "INVALID_REQUEST"),
        (json!([hash, message("")]), 422, "SYNC_002"),
        (json!([large, hash]), 413, "PAYLOAD_TOO_LARGE"),
    ];
    for (messages, status, code) in table {
        let (found, problem) = ask(&service, push(&json!({"messages": messages}))).await;
        assert_eq!((found, &problem["code"]), (status, &code.into()), "{problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with("messages[0]: "), "{problem}");
    }
}

#[tokio::test]
async fn a_wrong_hash_is_told_only_to_those_who_may_push() {
    let service = service(Does::Folds);
    let hash = json!({"type": "a", "content": "x", "content_hash": "0".repeat(64)});
    let table = [
        (json!([hash]), OrgRole::Member, 403, "SYNC_005"),
        (json!([hash]), OrgRole::Admin, 422, "SYNC_002"),
        (json!([message("")]), OrgRole::Member, 400, "INVALID_REQUEST"),
        (json!([message("x")]), OrgRole::Member, 403, "SYNC_005"),
    ];
    for (messages, org_role, status, code) in table {
        let body = json!({"messages": messages}).to_string();
        let mut request = request("POST", "/api/v1/orgs/acme/context/push", body);
        request.headers_mut().insert("authorization", token(org_role).parse().unwrap());
        let (found, problem) = ask(&service, request).await;
        assert_eq!((found, &problem["code"]), (status, &code.into()), "{problem}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_by_the_field() {
    let service = service(Does::Folds);
    let fine = || json!({"messages": [message("x")]}).to_string();
    let team = |id: &str| format!("/api/v1/teams/{id}/context/push");
    let with = |name: &'static str, value: &[u8]| {
        let mut request = request("POST", PUSH, fine());
        request.headers_mut().insert(name, http::HeaderValue::from_bytes(value).unwrap());
        request
    };
    let without = |name: &str| {
        let mut request = request("POST", PUSH, fine());
        request.headers_mut().remove(name);
        request
    };
    let members = "/api/v1/teams/t/members/bob";
    let table = [
        (without("authorization"), 401, "There is no Authorization header"),
        (with("authorization", b"Bearer x"), 401, "The token"),
        (without("x-device-id"), 400, "X-Device-ID is required"),
        (with("x-device-id", b"a/b"), 400, "X-Device-ID takes 1 to 128"),
        (with("idempotency-key", b""), 400, "Idempotency-Key takes 1 to 128"),
        (with("idempotency-key", &[b'k'; 129]), 400, "Idempotency-Key takes 1 to 128"),
        (request("POST", &team(".."), fine()), 400, "team_id takes 1 to 128"),
        (request("POST", &team("a%2Fb"), fine()), 400, "team_id takes 1 to 128"),
        (request("POST", &team("%00"), fine()), 400, "team_id takes 1 to 128"),
        (request("POST", &team("%ff"), fine()), 400, "team_id takes 1 to 128"),
        (request("POST", PUSH, "not json"), 400, "messages takes an array"),
        (
            request("POST", PUSH, vec![b' '; 100_000_000]),
            413,
            "push_bytes_max is 4194304, sent was 1",
        ),
        (request("PUT", "/api/v1/projects/%2e%2e", ""), 400, "project_id takes 1 to 128"),
        (request("PUT", "/api/v1/teams/t/members/a%2Fb", "{}"), 400, "user_id takes 1 to 128"),
        (request("PUT", members, "{}"), 400, "role takes one of member, admin, owner"),
        (request("PUT", members, r#"{"role":"viewer"}"#), 400, "role takes one of member,"),
        (request("PUT", members, vec![b' '; 5000]), 413, "member_bytes_max is 4096, sent was 5000"),
        (request("POST", "/api/v1/things/x/context/push", fine()), 404, ""),
        (request("GET", PUSH, ""), 405, ""),
    ];
    for (request, status, detail) in table {
        let shown = format!("{} {}", request.method(), request.uri());
        let (found, problem) = ask(&service, request).await;
        assert_eq!(found, status, "{shown}: {problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with(detail), "{shown}: {problem}");
        for member in ["type", "title", "status", "code", "resolution", "request_id"] {
            assert!(!problem[member].is_null(), "{shown}: no {member}");
        }
    }
}

#[tokio::test]
async fn a_push_that_is_not_folded_in_time_is_accepted() {
    let service = service(Does::Keeps);
    let mut request = push(&json!({"messages": [message("x")]}));
    request.headers_mut().insert("prefer", "respond-async".parse().unwrap());
    let response = service.clone().oneshot(request).await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let (status, answer) = json_of(response).await;
    assert_eq!(
        (status, &answer["status"], &answer["at"]),
        (202, &"accepted".into(), &"0-7".into())
    );
    let push_id = answer["push_id"].as_str().unwrap();
    assert_eq!(location, format!("/api/v1/pushes/{push_id}?at=0-7"));
    let (status, answer) = ask(&service, push(&json!({"messages": [message("y")]}))).await;
    assert_eq!((status, &answer["at"]), (202, &"0-8".into()));
}

#[tokio::test]
async fn a_log_that_fails_says_whether_it_was_accepted() {
    let rejected = |reason| Does::Fails(AppendError::Rejected(reason));
    let unknown = AppendError::Unknown { reason: "no answer".to_owned() };
    let too_large = RejectReason::TooLarge { bytes: 9, bytes_max: 8 };
    let table = [
        (rejected(RejectReason::QueueFull { bytes_max: 8 }), 503, "UNAVAILABLE", json!(false)),
        (rejected(RejectReason::Closed), 503, "UNAVAILABLE", json!(false)),
        (Does::Fails(unknown), 503, "UNAVAILABLE", json!("unknown")),
        (rejected(too_large), 413, "PAYLOAD_TOO_LARGE", json!(null)),
    ];
    for (does, status, code, accepted) in table {
        let request = push(&json!({"messages": [message("x")]}));
        let response = service(does).oneshot(request).await.unwrap();
        assert_eq!(response.headers().contains_key("retry-after"), status == 503);
        let (found, problem) = json_of(response).await;
        assert_eq!((found, &problem["code"]), (status, &code.into()), "{problem}");
        assert_eq!(problem["accepted"], accepted);
    }
}

#[tokio::test]
async fn overload_a_log_that_cannot_keep_up_is_named_with_its_limit() {
    let full = AppendError::Rejected(RejectReason::QueueFull { bytes_max: 8 });
    let request = push(&json!({"messages": [message("x")]}));
    let (_, problem) = ask(&service(Does::Fails(full)), request).await;
    let limit = json!([problem["limit"], problem["max"]]);
    assert_eq!(limit, json!(["log_queue_bytes_max", 8]), "{problem}");
}

#[tokio::test]
async fn without_a_database_what_needs_it_is_not_accepted() {
    let service = service(Does::Folds);
    let fine = json!({"messages": [message("x")]});
    let mut keyed = push(&fine);
    keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    let epoch = Uuid::nil();
    let based = json!({"type": "a", "content": "x", "base_cursor": 1});
    let unavailable = [
        keyed,
        push(&json!({"messages": [based], "epoch": epoch})),
        request("POST", "/api/v1/teams/t/context/push", fine.to_string()),
        request("PUT", "/api/v1/teams/t/members/bob", r#"{"role":"member"}"#),
        request("DELETE", "/api/v1/teams/t/members/bob", ""),
    ];
    for request in unavailable {
        let shown = format!("{} {}", request.method(), request.uri());
        let (status, problem) = ask(&service, request).await;
        assert_eq!((status, &problem["accepted"]), (503, &false.into()), "{shown}: {problem}");
    }
    // An epoch says nothing where no cursor is named.
    let (status, _) =
        ask(&service, push(&json!({"messages": [message("y")], "epoch": epoch}))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_team_is_created_by_its_owner_and_once() {
    let service = service(Does::Folds);
    let create = || request("PUT", "/api/v1/teams/backend", "");
    let owner = json!({"id": "backend", "role": "owner"});
    assert_eq!(ask(&service, create()).await, (201, owner.clone()));
    assert_eq!(ask(&service, create()).await, (200, owner));
}

#[tokio::test]
async fn overload_a_log_that_stands_still_holds_so_many_bytes_and_takes_no_more() {
    const PUSHES: usize = 50;
    let goes_on = Arc::new(Semaphore::new(0));
    let bytes_max = 4 << 20;
    let config = IngestConfig { push_bytes_in_flight_max: bytes_max, ..IngestConfig::default() };
    let service = service_with(Does::Pauses(goes_on.clone()), config);
    let mut asked = JoinSet::new();
    for n in 0..PUSHES {
        // 0.29 MiB each: half of all is for one tenant, and holds six of them.
        let messages: Vec<_> =
            (0..5).map(|m| message(&format!("{n} {m} {}", "x".repeat(60_000)))).collect();
        let (service, request) = (service.clone(), push(&json!({"messages": messages})));
        asked.spawn(async move { ask(&service, request).await });
    }
    for _ in 0..PUSHES - 6 {
        let (status, problem) = asked.join_next().await.unwrap().unwrap();
        assert_eq!((status, &problem["accepted"]), (503, &false.into()), "{problem}");
        assert_eq!(
            (&problem["limit"], &problem["max"]),
            (&"push_bytes_in_flight_max".into(), &bytes_max.into())
        );
    }
    assert_eq!(asked.len(), 6, "those wait");
    goes_on.add_permits(1);
    while let Some(answered) = asked.join_next().await {
        let (status, answer) = answered.unwrap();
        assert_eq!((status, &answer["synced"]), (200, &5.into()), "{answer}");
    }
    let (status, _) = ask(&service, push(&json!({"messages": [message("after")]}))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn sync_006_a_request_over_its_rate_is_refused_before_its_body_is_read() {
    let rates = RateConfig { device_requests_per_second: 1, ..RateConfig::OFF };
    let service = service_at(Does::Folds, IngestConfig::default(), &rates);
    let never_ends = || {
        let body = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        request("POST", PUSH, Body::from_stream(body))
    };
    for _ in 0..2 {
        ask(&service, push(&json!({"messages": []}))).await;
    }
    let (status, problem) = ask(&service, never_ends()).await;
    assert_eq!((status, &problem["code"]), (429, &"SYNC_006".into()), "{problem}");
}
