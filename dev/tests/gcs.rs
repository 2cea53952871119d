//! The stand-in for Cloud Storage as it is really started, stopped and killed, and where it is not like the real one.
#![allow(clippy::unwrap_used, reason = "a test may panic, and so may its helpers")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dev::gcs::{FakeGcs, GcsConfig, GcsError};
use dev::progress::Quiet;

const LIMIT: Duration = Duration::from_secs(30);

/// The smallest chunk of a resumable upload.
const CHUNK: usize = 256 * 1024;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// One request by HTTP 1.0, which ends with its connection. `headers` are whole lines.
fn ask(url: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let host = url.strip_prefix("http://").unwrap();
    let mut server = TcpStream::connect(host).unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let headers = headers.iter().map(|line| format!("{line}\r\n")).collect::<String>();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n");
    server.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    server.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A bucket that no test made before, wherever the stand-in is from.
fn make_bucket(url: &str) -> String {
    let bucket = uuid::Uuid::new_v4().to_string();
    let body = format!(r#"{{"name": "{bucket}"}}"#);
    let json = ["Content-Type: application/json"];
    let answer = ask(url, "POST", "/storage/v1/b?project=tests", &json, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    bucket
}

/// A multipart upload where there is no object of that name yet.
fn put_new(url: &str, bucket: &str, metadata: &str, content: &str) -> u16 {
    let path = format!("/upload/storage/v1/b/{bucket}/o?uploadType=multipart&ifGenerationMatch=0");
    let json = "Content-Type: application/json";
    let binary = "Content-Type: application/octet-stream";
    let body = format!(
        "--part\r\n{json}\r\n\r\n{metadata}\r\n--part\r\n{binary}\r\n\r\n{content}\r\n--part--\r\n"
    );
    let multipart = ["Content-Type: multipart/related; boundary=part"];
    ask(url, "POST", &path, &multipart, &body).status
}

fn get(url: &str, bucket: &str, name: &str) -> Answer {
    ask(url, "GET", &format!("/storage/v1/b/{bucket}/o/{name}?alt=media"), &[], "")
}

/// Begins a resumable upload where there is no object of that name yet. Returns the path of its address.
fn begin(url: &str, bucket: &str, name: &str) -> String {
    let path = format!(
        "/upload/storage/v1/b/{bucket}/o?uploadType=resumable&ifGenerationMatch=0&name={name}"
    );
    let answer = ask(url, "POST", &path, &["Content-Type: application/json"], "{}");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.header("Location").unwrap().strip_prefix(url).unwrap().to_owned()
}

fn put_range(url: &str, upload: &str, range: &str, content: &str) -> Answer {
    ask(url, "PUT", upload, &[&format!("Content-Range: bytes {range}")], content)
}

#[tokio::test]
async fn starts_stops_and_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let gcs = FakeGcs::start(GcsConfig::new(directory.path()), &Quiet).await.unwrap();
    assert!(gcs.is_running());
    let url = gcs.url().to_owned();
    let bucket = make_bucket(&url);
    assert_eq!(put_new(&url, &bucket, r#"{"name": "object"}"#, "content"), 200);

    let error = FakeGcs::start(GcsConfig::new(directory.path()), &Quiet).await.unwrap_err();
    assert!(matches!(error, GcsError::InUse { .. }), "{error}");

    gcs.kill().await.unwrap();
    assert!(!gcs.is_running());
    gcs.restart().await.unwrap();
    assert_eq!(gcs.url(), url);
    assert_eq!(get(&url, &bucket, "object").body, "content");
    assert_eq!(put_new(&url, &bucket, r#"{"name": "object"}"#, "other"), 412);
    gcs.stop().await.unwrap();
    assert!(TcpStream::connect(url.strip_prefix("http://").unwrap()).is_err());
    drop(gcs);

    let again = FakeGcs::start(GcsConfig::new(directory.path()), &Quiet).await.unwrap();
    assert_eq!(get(again.url(), &bucket, "object").body, "content");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_in_one_line() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let port = Some(taken.local_addr().unwrap().port());
    let config = GcsConfig { port, ..GcsConfig::new(directory.path()) };
    let error = FakeGcs::start(config, &Quiet).await.unwrap_err().to_string();
    assert!(error.contains("address already in use") && error.lines().count() == 1, "{error}");
}

#[tokio::test]
async fn only_the_first_of_many_multipart_uploads_makes_an_object() {
    let url = dev::gcs::for_tests().await.unwrap();
    assert_eq!(dev::gcs::for_tests().await.unwrap(), url);
    let bucket = make_bucket(&url);
    let put = |writer: u32| put_new(&url, &bucket, r#"{"name": "object"}"#, &writer.to_string());
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let put = &put;
        let writers: Vec<_> = (0..16).map(|writer| scope.spawn(move || put(writer))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses[..2], [200, 412], "{statuses:?}");
    assert_eq!(put(16), 412);
}

/// The real one refuses both with 412.
#[tokio::test]
async fn the_other_uploads_replace_an_object_whatever_they_ask_for() {
    let url = dev::gcs::for_tests().await.unwrap();
    let bucket = make_bucket(&url);
    let simple =
        format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name=simple&ifGenerationMatch=0");
    for content in ["first", "second"] {
        assert_eq!(ask(&url, "POST", &simple, &[], content).status, 200);
        let upload = begin(&url, &bucket, "resumable");
        assert_eq!(put_range(&url, &upload, "0-*/*", content).status, 200);
    }
    assert_eq!(get(&url, &bucket, "simple").body, "second");
    assert_eq!(get(&url, &bucket, "resumable").body, "second");
}

/// The real one refuses it with 400.
#[tokio::test]
async fn a_wrong_checksum_is_taken() {
    let url = dev::gcs::for_tests().await.unwrap();
    let bucket = make_bucket(&url);
    let metadata =
        r#"{"name": "object", "crc32c": "AAAAAA==", "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="}"#;
    assert_eq!(put_new(&url, &bucket, metadata, "content"), 200);
    let found = ask(&url, "GET", &format!("/storage/v1/b/{bucket}/o/object"), &[], "");
    assert!(found.body.contains(r#""crc32c":""#) && !found.body.contains("AAAAAA=="));
}

/// The real one goes on where the last chunk it has ends, and only tells how far it got when it is asked.
#[tokio::test]
async fn a_resumable_upload_is_taken_in_order_only() {
    let url = dev::gcs::for_tests().await.unwrap();
    let bucket = make_bucket(&url);
    let (chunk, length) = ("c".repeat(CHUNK), CHUNK + 3);
    let first = format!("0-{}/*", CHUNK - 1);
    let last = format!("{CHUNK}-{}/{length}", length - 1);

    let upload = begin(&url, &bucket, "in-order");
    let answer = put_range(&url, &upload, &first, &chunk);
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("Range"), Some(&*format!("bytes=0-{}", CHUNK - 1)));
    assert_eq!(get(&url, &bucket, "in-order").status, 404);
    assert_eq!(put_range(&url, &upload, &last, "end").status, 200);
    assert_eq!(get(&url, &bucket, "in-order").body.len(), length);

    let upload = begin(&url, &bucket, "repeated");
    for _ in 0..2 {
        assert_eq!(put_range(&url, &upload, &first, &chunk).status, 308);
    }
    assert_eq!(put_range(&url, &upload, &last, "end").status, 200);
    assert_eq!(get(&url, &bucket, "repeated").body.len(), CHUNK + length);

    let upload = begin(&url, &bucket, "asked");
    assert_eq!(put_range(&url, &upload, &first, &chunk).status, 308);
    assert_eq!(put_range(&url, &upload, &format!("*/{length}"), "").status, 200);
    assert_eq!(put_range(&url, &upload, &last, "end").status, 404);
    assert_eq!(get(&url, &bucket, "asked").body.len(), CHUNK);
}
