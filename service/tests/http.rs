//! The envelope and the connection loop, over real sockets.

// Helpers of tests may panic as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;
use service::http::{HttpLimits, envelope, read_body, serve};
use service::ops::{self, Readiness};
use service::{Problem, RequestId, telemetry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough that only a fault reaches it.
const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(router: Router, limits: HttpLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = envelope(router, &limits);
        let served = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
        Self { address, shutdown, served }
    }

    async fn connect(&self) -> Connection {
        Connection(TcpStream::connect(self.address).await.unwrap(), Vec::new())
    }

    /// One request on a connection of its own.
    async fn ask(&self, request: &str) -> Answer {
        let mut connection = self.connect().await;
        connection.send(request).await;
        connection.answer().await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }
}

/// A client that sends what it is told, right or wrong.
struct Connection(TcpStream, Vec<u8>);

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Connection {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads one answer, whose size its `content-length` tells.
    async fn answer(&mut self) -> Answer {
        tokio::time::timeout(DEADLINE, self.read_answer()).await.expect("no answer in time")
    }

    async fn read_answer(&mut self) -> Answer {
        let head = loop {
            if let Some(end) = self.1.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break String::from_utf8(self.1.drain(..end + 4).collect()).unwrap();
            }
            assert!(self.0.read_buf(&mut self.1).await.unwrap() > 0, "closed before an answer");
        };
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        let headers: Vec<_> = lines.map(field).collect();
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.1.len() < length {
            assert!(self.0.read_buf(&mut self.1).await.unwrap() > 0, "closed within an answer");
        }
        answer.body = String::from_utf8(self.1.drain(..length).collect()).unwrap();
        answer
    }

    /// Waits until the server has closed the connection, without an answer.
    async fn closed(&mut self) {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(DEADLINE, self.0.read_to_end(&mut rest)).await;
        // A reset is a close as well.
        let _ = read.expect("the server keeps the connection open");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as a problem of this status and code, whole, under the request id of the header.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((self.status, problem["status"].as_u64()), (status, Some(status.into())));
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("urn:context-sync:error:{code}"));
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        for text in ["title", "detail", "resolution"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }
}

fn router() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/things/{number}", get(|Path(number): Path<u32>| async move { number.to_string() }))
        .route(
            "/query",
            get(|Query(query): Query<Vec<(String, u8)>>| async move { query.len().to_string() }),
        )
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("secret cause")
                }
            }),
        )
        .route("/internal", get(|| async { Problem::internal("secret cause") }))
        .route("/bare", get(|| async { (axum::http::StatusCode::BAD_GATEWAY, "secret cause") }))
        .route("/never", get(std::future::pending::<()>).post(std::future::pending::<()>))
        .route("/unread", post(|| async { Problem::unauthenticated("no") }))
        .route("/id", get(|| async { RequestId::current().unwrap().to_string() }))
        .route(
            "/body",
            post(|body: Body| async {
                let second = Duration::from_secs(1);
                let bytes = read_body(body, "body_bytes", 10, second).await?;
                Ok::<_, Problem>(bytes.len().to_string())
            }),
        )
}

async fn server() -> Server {
    Server::start(router(), HttpLimits::default()).await
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let server = server().await;
    let answer = server.ask("GET /id HTTP/1.1\r\nx-request-id: mine 1\r\n\r\n").await;
    assert_eq!((answer.header("x-request-id"), &*answer.body), (Some("mine 1"), "mine 1"));
    let made = server.get("/id").await;
    assert_eq!(made.header("x-request-id"), Some(&*made.body));
    let long = "x".repeat(129);
    let answer = server.ask(&format!("GET /id HTTP/1.1\r\nx-request-id: {long}\r\n\r\n")).await;
    assert_ne!(answer.body, long);
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_problems() {
    let server = server().await;
    server.get("/nowhere").await.problem(404, "NOT_FOUND");
    server.get("//hello").await.problem(404, "NOT_FOUND");
    let answer = server.ask("DELETE /never HTTP/1.1\r\n\r\n").await;
    answer.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), Some("GET,HEAD,POST"));
    server.ask("BREW /hello HTTP/1.1\r\n\r\n").await.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn what_extractors_refuse_is_a_problem_with_their_reason() {
    let server = server().await;
    let problem = server.get("/things/one").await.problem(400, "INVALID_REQUEST");
    assert!(problem["detail"].as_str().unwrap().contains("one"), "{problem}");
    server.get("/things/%ff").await.problem(400, "INVALID_REQUEST");
    server.get("/query?a=x").await.problem(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_panic_and_an_internal_error_tell_nothing_and_the_server_goes_on() {
    let server = server().await;
    for path in ["/panic", "/internal", "/bare"] {
        let answer = server.get(path).await;
        assert!(!answer.body.contains("secret cause"), "{answer:?}");
        answer.problem(if path == "/bare" { 502 } else { 500 }, "INTERNAL");
    }
    assert_eq!(server.get("/hello").await.body, "hello");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_unavailable() {
    let limits = HttpLimits { request_seconds: 1, ..HttpLimits::default() };
    let server = Server::start(router(), limits).await;
    let (read, write) =
        tokio::join!(server.get("/never"), server.ask("POST /never HTTP/1.1\r\n\r\n"));
    assert_eq!(read.problem(503, "UNAVAILABLE")["accepted"], false);
    assert_eq!(write.problem(503, "UNAVAILABLE")["accepted"], "unknown");
    assert_eq!(read.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = server().await;
    let post =
        |body: &str| format!("POST /body HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert_eq!(server.ask(&post("0123456789")).await.body, "10");
    let problem = server.ask(&post("0123456789x")).await.problem(413, "PAYLOAD_TOO_LARGE");
    let members = (&problem["limit"], problem["max"].as_u64(), problem["sent"].as_u64());
    assert_eq!(members, (&"body_bytes".into(), Some(10), Some(11)));
    let chunked = "POST /body HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = "6\r\n012345\r\n6\r\n012345\r\n0\r\n\r\n";
    let problem = server.ask(&format!("{chunked}{chunks}")).await.problem(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(problem["sent"], Value::Null);
    let slow = server.ask("POST /body HTTP/1.1\r\ncontent-length: 9\r\n\r\nslow").await;
    slow.problem(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_still_sends() {
    let server = server().await;
    let size = 2_000_000;
    for path in ["/unread", "/body"] {
        let mut connection = server.connect().await;
        connection.send(&format!("POST {path} HTTP/1.1\r\ncontent-length: {size}\r\n\r\n")).await;
        connection.send(&"x".repeat(size)).await;
        let answer = connection.answer().await;
        assert!(matches!(answer.status, 401 | 413), "{answer:?}");
    }
}

#[tokio::test]
async fn headers_are_bounded() {
    let server = server().await;
    let with = |bytes: usize| format!("GET /hello HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(bytes));
    assert_eq!(server.ask(&with(15 * 1024)).await.body, "hello");
    let problem = server.ask(&with(17 * 1024)).await.problem(431, "PAYLOAD_TOO_LARGE");
    assert_eq!((&problem["limit"], &problem["max"]), (&"header_bytes".into(), &16_384.into()));
    let long_target = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(17 * 1024));
    server.ask(&long_target).await.problem(431, "PAYLOAD_TOO_LARGE");
    assert_eq!(server.ask(&with(500_000)).await.status, 431);
    let many = "a: b\r\n".repeat(101);
    assert_eq!(server.ask(&format!("GET /hello HTTP/1.1\r\n{many}\r\n")).await.status, 431);
}

#[tokio::test]
async fn connections_that_send_no_whole_header_are_closed() {
    let limits = HttpLimits { header_seconds: 1, ..HttpLimits::default() };
    let server = Server::start(router(), limits).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    let mut second = server.connect().await;
    slow.send("GET /hello HTT").await;
    second.send("GET /hello HTTP/1.1\r\n\r\n").await;
    second.answer().await;
    second.send("GET /hello HTT").await;
    // One byte now and then does not help.
    let drip = async {
        while slow.0.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(silent.closed(), second.closed(), async {
        tokio::time::timeout(DEADLINE, drip).await.expect("the slow header is never cut off");
    });
}

#[tokio::test]
async fn an_idle_connection_lives_longer_than_a_slow_header() {
    let limits = HttpLimits { header_seconds: 1, keep_alive_seconds: 3, ..HttpLimits::default() };
    let server = Server::start(router(), limits).await;
    let mut connection = server.connect().await;
    let started = tokio::time::Instant::now();
    connection.send("GET /hello HTTP/1.1\r\n\r\n").await;
    connection.answer().await;
    connection.closed().await;
    assert!(started.elapsed() > Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn many_requests_on_one_connection_and_at_once() {
    let server = server().await;
    let mut connection = server.connect().await;
    for _ in 0..100 {
        connection.send("GET /hello HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n").await;
        assert_eq!(connection.answer().await.body, "hello");
        connection.answer().await.problem(404, "NOT_FOUND");
    }
}

/// Tells when it is dropped.
struct Held(Arc<Notify>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A body without end that tells when it is dropped.
fn endless(dropped: Arc<Notify>) -> Body {
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let held = Held(dropped);
    let stream = futures_util::stream::repeat_with(move || {
        let _held = &held;
        Ok::<_, std::io::Error>(chunk.clone())
    });
    Body::from_stream(stream)
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let gone = Arc::new(Notify::new());
    let dropped = gone.clone();
    let handler = get(move || async move { endless(dropped) });
    let limits = HttpLimits { write_seconds: 1, ..HttpLimits::default() };
    let server = Server::start(Router::new().route("/endless", handler), limits).await;
    let mut connection = server.connect().await;
    connection.send("GET /endless HTTP/1.1\r\n\r\n").await;
    let gone = tokio::time::timeout(DEADLINE, gone.notified()).await;
    gone.expect("the answer is kept for ever");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let limits = HttpLimits { connections: 1, ..HttpLimits::default() };
    let server = Server::start(router(), limits).await;
    let mut first = server.connect().await;
    first.send("GET /hello HTTP/1.1\r\n\r\n").await;
    first.answer().await;
    let mut second = server.connect().await;
    second.send("GET /hello HTTP/1.1\r\n\r\n").await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), second.0.peek(&mut byte)).await;
    assert!(early.is_err(), "two connections are served at once");
    drop(first);
    assert_eq!(second.answer().await.body, "hello");
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at, then) = (arrived.clone(), go_on.clone());
    let slow = get(move || async move {
        at.notify_one();
        then.notified().await;
        "done"
    });
    let router = router().route("/slow", slow);
    let server = Server::start(router, HttpLimits::default()).await;
    let mut idle = server.connect().await;
    idle.send("GET /hello HTTP/1.1\r\n\r\n").await;
    idle.answer().await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\n\r\n").await;
    arrived.notified().await;
    server.shutdown.cancel();
    idle.closed().await;
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, refused).await.expect("still listening");
    assert!(!server.served.is_finished());
    go_on.notify_one();
    let answer = busy.answer().await;
    assert_eq!((answer.header("connection"), &*answer.body), (Some("close"), "done"));
    drop((idle, busy));
    tokio::time::timeout(DEADLINE, server.served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_drain_is_bounded() {
    let limits = HttpLimits { drain_seconds: 1, ..HttpLimits::default() };
    let arrived = Arc::new(Notify::new());
    let signal = arrived.clone();
    let stuck = get(move || async move {
        signal.notify_one();
        std::future::pending::<()>().await;
    });
    let server = Server::start(Router::new().route("/stuck", stuck), limits).await;
    let mut connection = server.connect().await;
    connection.send("GET /stuck HTTP/1.1\r\n\r\n").await;
    arrived.notified().await;
    server.shutdown.cancel();
    tokio::time::timeout(DEADLINE, server.served).await.unwrap().unwrap().unwrap();
    connection.closed().await;
}

#[tokio::test]
async fn the_operators_port_tells_health_readiness_and_measurements() {
    let readiness = Readiness::new();
    let component = readiness.component("log");
    let metrics = telemetry::metrics().unwrap();
    let server = Server::start(ops::router(readiness, metrics), HttpLimits::default()).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    let problem = server.get("/readyz").await.problem(503, "UNAVAILABLE");
    assert_eq!(problem["components"][0]["name"], "log");
    assert_eq!(problem["components"][0]["reason"], "starting");
    component.set_ready();
    assert_eq!(server.get("/readyz").await.status, 200);
    server.get("/no/such/42").await;
    let text = server.get("/metrics").await.body;
    for part in [
        r#"http_request_seconds_count{method="GET",path="/readyz",status="200"} 1"#,
        r#"path="unmatched",status="404""#,
        r#"component_ready{component="log"} 1"#,
        "http_connections",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("/no/such/42"), "a path became a label");
}

#[tokio::test]
async fn a_whole_body_of_many_frames_arrives() {
    let echo = post(|body: Body| async { body.collect().await.unwrap().to_bytes() });
    let server = Server::start(Router::new().route("/echo", echo), HttpLimits::default()).await;
    let text = "x".repeat(300_000);
    let head = format!("POST /echo HTTP/1.1\r\ncontent-length: {}\r\n\r\n", text.len());
    assert_eq!(server.ask(&format!("{head}{text}")).await.body, text);
}
