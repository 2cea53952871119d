//! The OpenAPI document says what the routers do: every route is in it, and nothing else is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{collections::BTreeSet, sync::Arc};

use api::{Api, ApiConfig, docs::OPENAPI};
use axum::{Router, body::Body, extract::Request};
use contract::{
    Entrance,
    rates::{RateConfig, Rates},
};
use eventlog::{AppendFuture, Bounds, EventLog, LogError, LogReader, Record};
use ingest::{Ingest, IngestConfig};
use model::{LogId, Offset, Partition, Place};
use readmodel::{DatabaseConfig, DatabaseRole, feed::Feed};
use serde_json::Value;
use service::{
    auth::{AuthConfig, Verifier},
    http::{HttpLimits, envelope},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "PATCH"];

type Future<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;

/// A log that nothing here reaches.
struct NoLog;

impl EventLog for NoLog {
    fn log_id(&self) -> LogId {
        LogId(Default::default())
    }
    fn partitions(&self) -> u32 {
        1
    }
    fn is_exclusive(&self) -> bool {
        unreachable!()
    }
    fn append_to(&self, _: Partition, _: bytes::Bytes, _: bytes::Bytes) -> AppendFuture {
        unreachable!()
    }
    fn bounds(&self, _: Partition) -> Future<'_, Result<Bounds, LogError>> {
        unreachable!()
    }
    fn reader(&self, _: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        unreachable!()
    }
    fn read_one(&self, _: Place) -> Future<'_, Result<Option<Record>, LogError>> {
        unreachable!()
    }
    fn close(&self) -> Future<'_, Result<(), LogError>> {
        unreachable!()
    }
}

fn routers() -> Router {
    let nowhere = DatabaseConfig {
        database_url: Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
        database_connections: 1,
        database_acquire_timeout_ms: 100,
        database_statement_timeout_ms: 1_000,
    };
    let pool = |role| readmodel::pool(&nowhere, role).unwrap();
    let secret = "a secret for tests, and nothing but tests";
    let auth = AuthConfig { jwt_secret: Some(secret.into()), ..AuthConfig::default() };
    let verifier = Arc::new(Verifier::new(&auth).unwrap());
    let entrance = Entrance { verifier, rates: Arc::new(Rates::new(&RateConfig::default())) };
    let ingest = Ingest::new(
        IngestConfig::default(),
        Arc::new(NoLog),
        pool(DatabaseRole::Ingest),
        Feed::new(false),
        entrance.clone(),
        None,
    );
    let api = Api::new(
        ApiConfig::default(),
        pool(DatabaseRole::Api),
        pool(DatabaseRole::Api),
        Feed::new(false),
        entrance,
        None,
        CancellationToken::new(),
    );
    ingest::router(Arc::new(ingest)).merge(api::router(Arc::new(api)))
}

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// An address that the path matches.
fn address(path: &str) -> String {
    let segment = |segment: &str| match segment {
        "{push_id}" | "{backup_id}" | "{restore_id}" | "{message_id}" => {
            "01940f2e-7c00-7000-8000-000000000001".to_owned()
        }
        named if named.starts_with('{') => "x".to_owned(),
        plain => plain.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_documented_operation_is_a_route_and_the_other_methods_are_none() {
    let router = envelope(routers(), &HttpLimits::default());
    for (path, item) in document()["paths"].as_object().unwrap() {
        for method in METHODS {
            let request = Request::builder().method(method).uri(address(path));
            let request = request.body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let expected = match item.get(method.to_lowercase()) {
                Some(operation) if operation.get("security").is_some() => 200,
                Some(_) => 401,
                None => 405,
            };
            assert_eq!(response.status().as_u16(), expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_route_is_documented() {
    // A router does not list its routes, but it shows them.
    let shown = format!("{:?}", routers());
    let is_route = |text: &&str| {
        // "/" and a wildcard stand for the fallback.
        text.starts_with('/') && *text != "/" && !text.contains("{*")
    };
    let routes: BTreeSet<_> = shown.split('"').filter(is_route).collect();
    let document = document();
    let paths: BTreeSet<_> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(routes, paths);
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(document: &Value, value: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                }
                map.values().for_each(|value| check(document, value));
            }
            Value::Array(list) => list.iter().for_each(|value| check(document, value)),
            _ => {}
        }
    }
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    check(&document, &document);
}

#[test]
fn every_operation_says_its_parameters_and_errors() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            let Some(operation) = item.get(method.to_lowercase()) else { continue };
            let shown = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{shown}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{shown}");
            if operation.get("security").is_some() {
                continue;
            }
            for status in ["400", "401", "429", "500", "503"] {
                assert!(operation["responses"].get(status).is_some(), "{shown} has no {status}");
            }
            let empty = Vec::new();
            let list = |of: &Value| of["parameters"].as_array().unwrap_or(&empty).clone();
            let parameters: Vec<_> = list(item)
                .into_iter()
                .chain(list(operation))
                .map(|parameter| parameter["$ref"].as_str().unwrap().to_owned())
                .collect();
            for name in path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')) {
                let reference = format!("#/components/parameters/{name}");
                assert!(parameters.contains(&reference), "{shown} has no {name}");
            }
        }
    }
}

#[test]
fn the_documented_limits_are_the_defaults() {
    let (document, ingest, api) = (document(), IngestConfig::default(), ApiConfig::default());
    let at = |pointer: &str| document.pointer(pointer).and_then(Value::as_u64);
    let table = [
        ("/components/schemas/Push/properties/messages/maxItems", ingest.push_messages_max),
        ("/components/parameters/limit/schema/maximum", api.pull_limit_max),
        ("/components/parameters/limit/schema/default", api.pull_limit),
        ("/components/parameters/wait/schema/maximum", api.pull_wait_seconds_max),
        ("/components/schemas/FetchRequest/properties/ids/maxItems", api.fetch_messages_max),
        (
            "/components/requestBodies/Frame/content/application~1octet-stream/schema/maxLength",
            api.repair_frame_bytes_max,
        ),
    ];
    for (pointer, limit) in table {
        assert_eq!(at(pointer), Some(u64::from(limit)), "{pointer}");
    }
}
