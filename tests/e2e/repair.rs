//! What a repair costs, and what frames get that are none.

use std::time::{Duration, Instant};

use model::Item;
use repair::{Finding, Held, Items};
use reqwest::Method;
use serde_json::{Value, json};
use service::auth::OrgRole;
use sqlx::Connection;

use crate::{
    client::{Device, Reply, USER, say},
    cluster::Cluster,
};

const COMPARE: &str = "/api/v1/context/reconcile/messages";

both_logs! {
    a_repair_moves_a_fraction_of_a_pull,
    frames_that_are_none,
    bodies_that_are_no_reconcile,
    what_waits_too_long_is_told_to_come_back,
}

/// Sends bodies, and counts what goes over the wire both ways: headers as HTTP/1.1 writes them too.
struct Counting<'a> {
    device: &'a Device,
    bytes: usize,
}

impl Counting<'_> {
    async fn post(&mut self, path: &str, body: Vec<u8>) -> Vec<u8> {
        let request = self.device.request(Method::POST, path).body(body.clone());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let headers = response.headers().iter();
        let sent: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let answer = response.bytes().await.unwrap().to_vec();
        // The request's own headers: a token and three short ones.
        self.bytes += body.len() + answer.len() + sent + self.device.token.len() + 200;
        answer
    }
}

/// The live messages, as a device that pulled them holds them; and what they were on the wire.
async fn pull(device: &Device) -> (Vec<Held>, usize) {
    let (mut held, mut bytes, mut cursor) = (Vec::new(), 0, 0);
    loop {
        let page = device.pull(USER, &format!("cursor={cursor}&limit=1000")).await.ok();
        bytes += page.to_string().len();
        for message in page["messages"].as_array().unwrap() {
            let raw = serde_json::from_value::<device::wire::Pulled>(message.clone()).unwrap();
            held.push(Held::new(raw.id, raw.version().unwrap()));
        }
        cursor = page["cursor"].as_u64().unwrap();
        if page["has_more"] == false {
            return (held, bytes);
        }
    }
}

async fn a_repair_moves_a_fraction_of_a_pull(cluster: &mut Cluster) {
    const MESSAGES: usize = 5_000;
    let ann = cluster.device("ann");
    for push in 0..MESSAGES / 500 {
        let long = "a usual note of a few sentences, and then some more of it. ".repeat(6);
        let messages: Vec<Value> = (0..500).map(|n| say(&format!("{push}/{n}: {long}"))).collect();
        ann.push(USER, &messages).await.ok();
    }
    let (all, whole) = pull(&ann).await;
    assert_eq!(all.len(), MESSAGES);
    // Of ten messages five are missing here, and five are unknown to the scope.
    let mut device: Vec<Held> = all.iter().skip(5).copied().collect();
    device.extend(all.iter().take(5).map(|held| {
        let other = model::Version {
            updated_at: model::Timestamp::from_millis(1_000),
            body: model::BodyHash(held.item.0),
        };
        Held::new(model::MessageId(uuid::Uuid::new_v4()), other)
    }));
    let device = Items::new(device);
    let mut wire = Counting { device: &ann, bytes: 0 };
    let (mut finding, first) = Finding::begin(&device, 64 << 10).unwrap();
    let mut next = Some(first);
    while let Some(frame) = next {
        next = finding.next(&wire.post(COMPARE, frame).await).unwrap();
    }
    let found = finding.end();
    assert_eq!((found.here_alone.len(), found.there_alone.len()), (5, 5));
    let ids: Vec<Item> = found.there_alone.into_iter().collect();
    let body = json!({"ids": ids}).to_string().into_bytes();
    let fetched: Value =
        serde_json::from_slice(&wire.post("/api/v1/context/messages", body).await).unwrap();
    assert_eq!(
        (fetched["messages"].as_array().unwrap().len(), &fetched["missing"]),
        (5, &json!([]))
    );
    assert!(wire.bytes < 64 << 10, "{} bytes", wire.bytes);
    assert!(wire.bytes * 50 < whole, "{} of {whole} bytes", wire.bytes);
}

async fn frames_that_are_none(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let messages: Vec<Value> = (0..400).map(|n| say(&format!("message {n}"))).collect();
    ann.push(USER, &messages).await.ok();
    let long = |begin: &[u8], range: &[u8], bytes: usize| {
        [begin, &range.repeat(bytes / range.len())].concat()
    };
    let table: Vec<(Vec<u8>, u16, &str)> = vec![
        (vec![], 400, "it is empty"),
        (b"not a frame".to_vec(), 400, "begins with byte 0x6e"),
        (b"{\"frame\": 1}".to_vec(), 400, "begins with byte 0x7b"),
        (vec![0x62, 0, 0, 0], 400, "begins with byte 0x62"),
        (vec![0x61, 0], 400, "breaks off within range 0"),
        (vec![0x61, 0, 0, 9], 400, "range 0 has mode 9"),
        (vec![0x61, 0, 0x7f], 400, "127 bytes of an id"),
        (long(&[0x61], &[0xff], 1_000), 400, "longer than 64 bits"),
        // 2^56 ids are announced.
        (vec![0x61, 0, 0, 2, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0], 400, "breaks off"),
        (long(&[0x61], &[2, 0, 0], 100_000)[..99_000].to_vec(), 400, "breaks off"),
        (long(&[0x61, 5, 0, 0], &[1, 0, 0], 300_000), 413, "repair_frame_bytes_max is 262144"),
        (vec![0x61; 16 << 20], 413, "repair_frame_bytes_max is 262144, sent was 16777216"),
    ];
    for (frame, status, what) in table {
        let shown = format!("{:02x?} of {}", &frame[..frame.len().min(8)], frame.len());
        let reply = match Reply::try_of(ann.request(Method::POST, COMPARE).body(frame)).await {
            Ok(reply) => reply,
            // Whoever sends it all may be cut off.
            Err(error) => {
                assert_eq!(status, 413, "{shown}: {error}");
                continue;
            }
        };
        let code = if status == 400 { "INVALID_REQUEST" } else { "PAYLOAD_TOO_LARGE" };
        let problem = reply.problem(status, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(what), "{shown}: {detail}");
    }
    // Frames that are frames, as large and as many as they can be: answered, in time, within the limit.
    let fingerprint = [&[2, 0, 1][..], &[7; 16]].concat();
    for range in [&[1, 0, 0][..], &[2, 0, 0], &[1, 0, 2, 0], &[0, 0, 2, 0], &fingerprint] {
        let begun = Instant::now();
        let request = ann.request(Method::POST, COMPARE).body(long(&[0x61], range, 262_000));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{range:?}");
        let answer = response.bytes().await.unwrap();
        assert!(answer.len() <= 262_144 && answer[0] == 0x61, "{range:?}: {}", answer.len());
        assert!(begun.elapsed() < Duration::from_secs(30), "{range:?}: {:?}", begun.elapsed());
    }
    ann.at(&cluster.node.ops_url).get("/readyz").await.ok();
}

async fn bodies_that_are_no_reconcile(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let digest = |length: usize| format!(r#"{{"cursor": 0, "digest": "{}"}}"#, "0".repeat(length));
    let ids = |count: usize| {
        let ids = vec![json!(uuid::Uuid::nil()); count];
        json!({ "ids": ids }).to_string()
    };
    for (path, body, status, what) in [
        ("reconcile", String::new(), 400, "The body takes a JSON object"),
        ("reconcile", "{}".to_owned(), 400, "cursor takes a whole number from 0"),
        ("reconcile", r#"{"cursor": -1}"#.to_owned(), 400, "cursor takes"),
        ("reconcile", r#"{"cursor": 9223372036854775808}"#.to_owned(), 400, "cursor takes"),
        ("reconcile", r#"{"cursor": 0, "count": -1}"#.to_owned(), 400, "count takes"),
        ("reconcile", digest(63), 400, "digest takes 64 lower-case hex digits"),
        ("reconcile", digest(65), 400, "digest takes 64 lower-case hex digits"),
        ("reconcile", r#"{"cursor": 0, "epoch": "x"}"#.to_owned(), 400, "epoch takes a UUID"),
        ("reconcile", " ".repeat(70_000), 413, "reconcile_bytes_max is 65536, sent was 70000"),
        ("messages", String::new(), 400, "ids takes an array"),
        ("messages", r#"{"ids": ["x"]}"#.to_owned(), 400, "ids[0] takes the id of a message"),
        ("messages", ids(1_001), 413, "fetch_messages_max is 1000, sent was 1001"),
        ("messages", " ".repeat(300_000), 413, "fetch_bytes_max is 262144, sent was 300000"),
    ] {
        let shown: String = body.chars().take(80).collect();
        let request = ann.request(Method::POST, &format!("{USER}/{path}")).body(body);
        let reply = Reply::of(request).await;
        let code = if status == 400 { "INVALID_REQUEST" } else { "PAYLOAD_TOO_LARGE" };
        let problem = reply.problem(status, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(what), "{path} {shown}: {detail}");
    }
    // A cursor of the future is no bad request: the device is told what to do.
    let body = json!({"cursor": i64::MAX});
    let answer =
        Reply::of(ann.request(Method::POST, &format!("{USER}/reconcile")).json(&body)).await.ok();
    assert_eq!((&answer["status"], &answer["action"]), (&json!("ahead"), &json!("repair")));
    for (method, path) in
        [(Method::GET, "reconcile"), (Method::GET, "messages"), (Method::PUT, "reconcile/messages")]
    {
        Reply::of(ann.request(method, &format!("{USER}/{path}")))
            .await
            .problem(405, "METHOD_NOT_ALLOWED");
    }
}

async fn what_waits_too_long_is_told_to_come_back(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("x")]).await.ok();
    // Nobody can read what the scope holds: the table is locked.
    let mut owner = cluster.database.owner().await;
    let mut lock = owner.begin().await.unwrap();
    sqlx::raw_sql("lock table context_sync.messages in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let frame = [0x61, 0, 0, 2, 0];
    let other = cluster.device_of("globex", "ann", OrgRole::Member);
    let asked = (0..80).map(|n| {
        let device = if n < 40 { &ann } else { &other };
        tokio::spawn(Reply::of(device.request(Method::POST, COMPARE).body(frame.to_vec())))
    });
    let asked: Vec<_> = asked.collect();
    // Two work and 64 wait, half of them of one tenant; the others need not.
    let refused = crate::equation::eventually("some are refused", async || {
        let refused = asked.iter().filter(|reply| reply.is_finished()).count();
        (refused >= 14).then_some(refused)
    })
    .await;
    assert_eq!(refused, 14);
    // Whatever they do, a pull with nothing new is answered.
    ann.pull(USER, "cursor=1").await.ok();
    lock.rollback().await.unwrap();
    let mut answered = 0;
    for reply in asked {
        let reply = reply.await.unwrap();
        match reply.status {
            200 => answered += 1,
            _ => {
                assert!(reply.headers.contains_key("retry-after"));
                reply.problem(503, "UNAVAILABLE");
            }
        }
    }
    assert_eq!(answered, 66);
}
