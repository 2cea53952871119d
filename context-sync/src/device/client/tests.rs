//! The client against a server that answers as it is told.

use std::sync::Mutex;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
};

use super::*;

type Script = Arc<Mutex<Vec<(u16, &'static str, &'static str)>>>;
type Seen = Arc<Mutex<Vec<String>>>;

const PUSHED: &str = r#"{"status": "completed", "synced": 1, "skipped": 0, "cursor": 1,
    "timestamp": "2025-12-30T10:00:00Z", "rejected": 0, "previous_cursor": 0,
    "push_id": "01940f2e-7c00-7000-8000-000000000001", "results": []}"#;
const ACCEPTED: &str =
    r#"{"status": "accepted", "push_id": "01940f2e-7c00-7000-8000-000000000001", "at": "0-1"}"#;

async fn answer(State((script, seen)): State<(Script, Seen)>, request: Request) -> Response {
    let key = request.headers().get("idempotency-key");
    let key = key.map_or("none", |key| key.to_str().unwrap()).to_owned();
    seen.lock().unwrap().push(format!("{} {} {key}", request.method(), request.uri()));
    let (status, header, body) = script.lock().unwrap().remove(0);
    let (name, value) = header.split_once(": ").unwrap_or(("x-none", ""));
    Response::builder().status(status).header(name, value).body(body.into()).unwrap()
}

/// A client whose delays are short, and what its server saw.
async fn client(script: Vec<(u16, &'static str, &'static str)>) -> (Client, Seen, Script) {
    let (script, seen) = (Arc::new(Mutex::new(script)), Seen::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state((script.clone(), seen.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let server = Server::new(&url, Arc::new(|_| {})).unwrap();
    let mut client = server.client(Secret::new("token"), DeviceId::new("laptop").unwrap());
    client.retry.base = Duration::from_millis(1);
    (client, seen, script)
}

fn message() -> Box<RawValue> {
    RawValue::from_string(r#"{"type": "decision", "content": "x"}"#.to_owned()).unwrap()
}

#[tokio::test]
async fn a_push_is_tried_again_under_the_same_key() {
    let problem = r#"{"code": "SYNC_006", "detail": "too fast"}"#;
    let script = vec![(429, "retry-after: 0", problem), (503, "", ""), (200, "", PUSHED)];
    let (client, seen, _) = client(script).await;
    let message = message();
    assert_eq!(client.push(&Scope::User, [&*message]).await.unwrap().synced, 1);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].starts_with("POST /api/v1/context/push ") && !seen[0].ends_with("none"));
    assert!(seen.iter().all(|request| *request == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn three_retries_and_no_more() {
    let (client, seen, _) = client(vec![(502, "", "<html>"); 9]).await;
    let message = message();
    let error = client.push(&Scope::User, [&*message]).await.unwrap_err();
    assert!(error.to_string().starts_with("HTTP 502"), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_tried_again() {
    for (status, header) in [(403, ""), (500, ""), (429, "retry-after: 3600")] {
        let (client, seen, _) = client(vec![(status, header, ""); 2]).await;
        assert!(client.pull(&Scope::User, PullFrom::default()).await.is_err());
        assert_eq!(seen.lock().unwrap().len(), 1, "{status}");
    }
    let script = vec![(502, "", r#"{"code": "SYNC_004", "detail": "checksum"}"#)];
    let (client, ..) = client(script).await;
    let error = client.pull(&Scope::User, PullFrom::default()).await.err().unwrap();
    assert_eq!(error.problem().unwrap().code, "SYNC_004");
}

#[tokio::test]
async fn an_accepted_push_is_asked_for() {
    let location = "location: /api/v1/pushes/01940f2e-7c00-7000-8000-000000000001?at=0-1";
    let script = vec![(202, location, ACCEPTED), (200, "", ACCEPTED), (200, "", PUSHED)];
    let (client, seen, _) = client(script).await;
    let message = message();
    assert_eq!(client.push(&Scope::User, [&*message]).await.unwrap().cursor.get(), 1);
    let seen = seen.lock().unwrap();
    let asked = "GET /api/v1/pushes/01940f2e-7c00-7000-8000-000000000001?at=0-1 none";
    assert_eq!(seen[1..], [asked, asked]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let server = Server::new(&url, Arc::new(|_| {})).unwrap();
    let mut client = server.client(Secret::new("token"), DeviceId::new("laptop").unwrap());
    client.retry.base = Duration::from_millis(1);
    let error = client.create(&Scope::team("web").unwrap()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{url} cannot be reached: ")), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn a_url_that_is_none_is_named() {
    for url in ["", "localhost:8080", "ftp://x", "http://"] {
        let error = Server::new(url, Arc::new(|_| {})).err().unwrap().to_string();
        assert!(error.contains("is no URL"), "{url}: {error}");
    }
}
