//! A user has their data erased: rows and history at once, the archive once the hour is sealed, everybody else's stays.

use std::{
    collections::BTreeSet,
    io::Read,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use archive::{
    Archive, ArchiveAddress,
    verify::{Sample, verify},
};
use arrow_array::{Array, BinaryArray, StringArray};
use context_sync::device::scope::Scope;
use dev::gcs::{Fault, Front};
use device::{drift::Mended, replica::Replica};
use reqwest::Method;
use serde_json::{Value, json};
use service::auth::OrgRole;

use crate::{
    backups::back_up,
    client::{Device, Reply, USER, assert_keys, contents, say, team},
    cluster::{Cluster, LogKind},
    equation::eventually,
    reconcile::{assert_in_sync, mend},
    recovering::sealed,
    restores::restore,
};

const SECRET: &str = "hunter2";
const ERASURE: [&str; 9] = [
    "erasure_id",
    "user_id",
    "status",
    "cursor",
    "erased_at",
    "read_model",
    "backups",
    "tables",
    "log",
];

archiving_on_both_logs! {
    what_a_user_had_is_erased_everywhere,
}

both_logs! {
    an_erasure_is_asked_for_by_those_who_may,
    what_is_pushed_after_an_erasure_is_as_ever,
}

fn data(user: &str) -> String {
    format!("/api/v1/users/{user}/data")
}

pub(crate) async fn erase(device: &Device, user: &str, key: &str) -> Reply {
    let request = device.request(Method::DELETE, &data(user)).header("Idempotency-Key", key);
    Reply::of(request).await
}

/// Whether an object says the secret, whatever it is packed in.
fn tells(name: &str, bytes: Vec<u8>, secret: &str) -> bool {
    let mut content = bytes.clone();
    if name.ends_with(".gz") {
        let mut unpacked = flate2::read::MultiGzDecoder::new(bytes.as_slice());
        // What is half written is not packed to its end.
        let _ = unpacked.read_to_end(&mut content);
    } else if name.ends_with(".parquet") {
        for batch in archive::table::rows(bytes.into(), name).unwrap() {
            for column in batch.columns() {
                let any = column.as_any();
                if let Some(texts) = any.downcast_ref::<StringArray>() {
                    texts.iter().flatten().for_each(|text| content.extend(text.bytes()));
                } else if let Some(values) = any.downcast_ref::<BinaryArray>() {
                    values.iter().flatten().for_each(|value| content.extend(value));
                }
            }
        }
    }
    content.windows(secret.len()).any(|part| part == secret.as_bytes())
}

/// The objects of an archive that say the secret.
pub(crate) async fn tellers(archive: &Archive, secret: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, _) in archive.list("").await.unwrap() {
        // The archiver may delete it just now.
        let Ok(mut object) = archive.fetch(&path).await else { continue };
        if tells(&path, object.bytes().unwrap(), secret) {
            found.insert(path);
        }
    }
    found
}

/// The files of a folder that do, objects or not.
fn tellers_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tellers_in(&path, found);
            continue;
        }
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let name = path.display().to_string();
        if tells(&name, bytes, SECRET) {
            found.insert(name);
        }
    }
}

/// Waits until an erasure is done, but for the log.
pub(crate) async fn erased_from_archive(device: &Device, location: &str) -> Value {
    eventually("the erasure is done", async || {
        let shown = device.get(location).await.ok();
        (shown["status"] == "completed").then_some(shown)
    })
    .await
}

async fn what_a_user_had_is_erased_everywhere(cluster: &mut Cluster) {
    let (laptop, bob) = (cluster.device("ann"), cluster.device("bob"));
    let phone = laptop.named("phone");
    let web = team("web");
    laptop.create_team("web", &[("bob", "member")]).await;
    laptop.push(&web, &[say("the team's")]).await.ok();
    bob.push(USER, &[say("bob's")]).await.ok();
    let secret = |n: u32| json!({"type": "decision", "content": format!("{SECRET} {n}"), "metadata": {"of": SECRET}});
    let pushed = laptop.push(USER, &[secret(1), secret(2), secret(3)]).await.ok();
    let id = pushed["results"][0]["id"].clone();
    let edit = json!({"id": id, "type": "decision", "content": format!("{SECRET} edited"), "base_cursor": 3});
    let delete = json!({"id": pushed["results"][1]["id"], "deleted": true, "base_cursor": 3});
    phone.push(USER, &[edit, delete]).await.ok();
    let mut replicas = [Replica::default(), Replica::default()];
    for replica in &mut replicas {
        mend(&laptop, &Scope::User, replica).await;
    }
    let history = format!("{USER}/messages/{}/history", id.as_str().unwrap());
    assert_eq!(laptop.get(&history).await.ok()["history"].as_array().unwrap().len(), 1);
    let backup = back_up(&laptop, USER).await;
    let bobs = back_up(&bob, USER).await;
    let others = (bob.pull(USER, "").await.ok(), bob.pull(&web, "").await.ok());
    // A device waits for news: it learns of it.
    let waiting = tokio::spawn({
        let phone = phone.clone();
        async move { phone.pull(USER, "cursor=5&wait=30").await.ok() }
    });

    let answer = erase(&laptop, "ann", "once").await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let erased = answer.ok();
    assert_eq!((&erased["cursor"], &erased["user_id"]), (&json!(6), &json!("ann")));
    assert_eq!(
        location,
        format!("/api/v1/users/ann/erasures/{}", erased["erasure_id"].as_str().unwrap())
    );
    assert_eq!(erase(&laptop, "ann", "once").await.ok(), erased, "a retry");

    // At once: nothing is shown, served or restored.
    let page = laptop.pull(USER, "cursor=0").await.ok();
    assert_eq!((contents(&page).len(), &page["head"], &page["floor"]), (0, &json!(6), &json!(6)));
    assert_eq!((&page["count"], &page["digest"]), (&json!(0), &json!("0".repeat(64))));
    assert_eq!(waiting.await.unwrap()["cursor"], 6);
    laptop.get(&history).await.problem(404, "NOT_FOUND");
    let fetched = json!({"ids": [id]});
    let fetched = laptop.request(Method::POST, &format!("{USER}/messages")).json(&fetched);
    assert_eq!(Reply::of(fetched).await.ok()["missing"], json!([id]));
    let listed = laptop.get(&format!("{USER}/backups")).await.ok();
    assert_eq!(listed["backups"], json!([]));
    let one = format!("{USER}/backups/{}", backup["id"].as_str().unwrap());
    laptop.get(&one).await.problem(404, "SYNC_003");
    laptop.get(&format!("{one}/content")).await.problem(404, "SYNC_003");
    let body = json!({"backup_id": backup["id"], "mode": "merge"});
    restore(&laptop, USER, body).await.problem(404, "SYNC_003");

    // Devices let go of it, and push nothing back.
    for (device, replica) in [&laptop, &phone].into_iter().zip(&mut replicas) {
        let held = replica.count();
        let mended = mend(device, &Scope::User, replica).await;
        assert_eq!(mended, Mended { repairs: 1, dropped: held, ..Mended::default() });
        assert_eq!((replica.count(), replica.cursor.get()), (0, 6));
        assert_in_sync(device, USER, replica).await;
    }

    // Then in the archive.
    let done = erased_from_archive(&laptop, &location).await;
    assert_keys(&done, &ERASURE);
    for copy in ["read_model", "backups", "tables"] {
        assert_eq!(done[copy]["status"], "erased", "{done}");
        assert!(done[copy]["at"].is_string(), "{done}");
    }
    assert_eq!((&done["log"]["status"], &done["log"]["at"]), (&json!("pending"), &Value::Null));
    assert!(done["log"]["before"].as_str().unwrap().contains('-'), "{done}");
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    let Some(ArchiveAddress::File(folder)) = cluster.settings.archive.archive.clone() else {
        panic!("the archive is a folder")
    };
    let mut found = BTreeSet::new();
    tellers_in(&folder, &mut found);
    assert_eq!(found, BTreeSet::new());
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    // What was written anew may be a part of its day by now; that it was stays.
    assert_ne!(archive.list("redactions").await.unwrap(), []);

    // Everybody else's is as it was, and a rebuild comes to the same.
    assert_eq!((bob.pull(USER, "").await.ok(), bob.pull(&web, "").await.ok()), others);
    let kept = bob.get(&format!("{USER}/backups/{}", bobs["id"].as_str().unwrap())).await.ok();
    assert_eq!(kept["checksum"], bobs["checksum"]);
    let rebuilt = format!("{}/rebuild?dry_run=true", cluster.node.ops_url);
    let said = reqwest::Client::new().post(rebuilt).send().await.unwrap().text().await.unwrap();
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["done"]["differing"], 0, "{said}");
    laptop.push(USER, &[say("anew")]).await.ok();
    let after = back_up(&laptop, USER).await;
    assert_eq!((&after["record_count"], &after["cursor_last"]), (&json!(1), &json!(7)));
    let merged = json!({"backup_id": after["id"], "mode": "replace"});
    assert_eq!(restore(&laptop, USER, merged).await.ok()["skipped"], 1);
}

/// In a bucket nothing is ever overwritten: what takes an object's place is created, and then the other is deleted. Also
/// where every fourth answer to that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_rewrites_the_objects_of_a_bucket() {
    let front = Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap();
    let bucket = front.make_bucket().await.unwrap();
    let archive = format!("--archive=gs://{bucket}/backups");
    let endpoint = format!("--archive-endpoint={}", front.url());
    let cluster = Cluster::start_archiving_to(LogKind::Embedded, &[&archive, &endpoint]).await;
    let (writes, requests) = (AtomicU64::new(0), Arc::new(Mutex::new(Vec::new())));
    let noted = requests.clone();
    front.misbehave(move |request| {
        let is_write = [Method::PUT, Method::DELETE].contains(&request.method);
        let number = is_write.then(|| writes.fetch_add(1, Ordering::SeqCst))?;
        let creates = request.headers.get("x-goog-if-generation-match").is_some_and(|to| to == "0");
        let path = request.uri.path().to_owned();
        noted.lock().unwrap().push((request.method.clone(), path, creates));
        (number % 4 == 3).then_some(Fault::AnswerLost)
    });
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    let secret = |n: u32| say(&format!("{SECRET} {n}"));
    ann.push(USER, &[secret(1), secret(2)]).await.ok();
    bob.push(USER, &[say("bob's")]).await.ok();
    let (anns, bobs) = (back_up(&ann, USER).await, back_up(&bob, USER).await);
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, cluster.node.log.as_ref()).await;
    let told = tellers(&archive, SECRET).await;
    let of = |folder: &str| told.iter().filter(|path| path.starts_with(folder)).count();
    assert!(of("tenants/") > 1 && of("events/") > 0 && of("messages/") > 0, "{told:?}");

    let answer = erase(&ann, "ann", "k").await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    answer.ok();
    erased_from_archive(&ann, &location).await;
    front.behave();
    assert_eq!(tellers(&archive, SECRET).await, BTreeSet::new());
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    let requests = requests.lock().unwrap().clone();
    let puts = requests.iter().filter(|(method, ..)| *method == Method::PUT);
    let blind: Vec<_> = puts.filter(|(.., creates)| !creates).collect();
    assert!(blind.is_empty(), "they may overwrite: {blind:?}");
    for path in &told {
        // All but letters and digits is escaped.
        let escaped = |c: char| match c.is_ascii_alphanumeric() {
            true => c.to_string(),
            false => format!("%{:02X}", u32::from(c)),
        };
        let escaped: String = path.chars().map(escaped).collect();
        let deleted = |(method, of, _): &(Method, String, bool)| {
            *method == Method::DELETE && of.ends_with(&escaped)
        };
        assert!(requests.iter().any(deleted), "{path}");
    }
    let rewritten = archive.list("redactions").await.unwrap();
    assert!(rewritten.iter().any(|(path, _)| path.ends_with(".json")), "{rewritten:?}");
    // Backups of before are not served; another's is.
    for (device, backup, status) in [(&ann, &anns, 404), (&bob, &bobs, 200)] {
        let content = format!("{USER}/backups/{}/content", backup["id"].as_str().unwrap());
        assert_eq!(device.request(Method::GET, &content).send().await.unwrap().status(), status);
    }
    cluster.finish().await;
}

async fn an_erasure_is_asked_for_by_those_who_may(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.push(USER, &[say("one")]).await.ok();
    // Whether the user exists or not.
    let mut refused = Vec::new();
    for user in ["ann", "nobody"] {
        let mut problem = bob.delete(&data(user)).await.problem(403, "SYNC_005");
        problem["request_id"].take();
        refused.push(problem);
    }
    assert_eq!(refused[0], refused[1]);
    assert_eq!(ann.pull(USER, "").await.ok()["count"], 1);
    // An admin of another tenant has another Ann.
    let stranger = cluster.device_of("other", "root", OrgRole::Owner);
    stranger.delete(&data("ann")).await.ok();
    assert_eq!(ann.pull(USER, "").await.ok()["count"], 1);
    for (number, role) in [OrgRole::Admin, OrgRole::Owner].into_iter().enumerate() {
        let admin = cluster.device_of("acme", "root", role);
        let erased = admin.delete(&data("ann")).await.ok();
        assert_eq!(ann.pull(USER, "").await.ok()["count"], 0);
        let shown =
            format!("/api/v1/users/ann/erasures/{}", erased["erasure_id"].as_str().unwrap());
        for device in [&ann, &admin] {
            let found = device.get(&shown).await.ok();
            assert_keys(&found, &ERASURE);
            assert_eq!(
                (&found["status"], &found["cursor"]),
                (&json!("running"), &erased["cursor"])
            );
        }
        for device in [&bob, &cluster.device_of("other", "ann", OrgRole::Member)] {
            let reply = device.get(&shown).await;
            assert!(matches!(reply.status, 403 | 404), "{}", reply.body);
        }
        ann.push(USER, &[say(&format!("once more {number}"))]).await.ok();
    }
    // One who never pushed has nothing, and is answered alike.
    let cy = cluster.device("cy");
    assert_eq!(cy.delete(&data("cy")).await.ok()["cursor"], 1);
    let unknown = format!("/api/v1/users/ann/erasures/{}", uuid::Uuid::nil());
    ann.get(&unknown).await.problem(404, "NOT_FOUND");
    for (method, path) in [
        (Method::DELETE, data("a%20b")),
        (Method::GET, "/api/v1/users/ann/erasures/none".to_owned()),
    ] {
        Reply::of(ann.request(method, &path)).await.problem(400, "INVALID_REQUEST");
    }
    Reply::of(ann.request(Method::GET, &data("ann"))).await.problem(405, "METHOD_NOT_ALLOWED");
    let large = ann.request(Method::DELETE, &data("ann")).body("x".repeat(5_000));
    Reply::of(large).await.problem(413, "PAYLOAD_TOO_LARGE");
}

async fn what_is_pushed_after_an_erasure_is_as_ever(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let quick = |n: u32| say(&format!("note {n}"));
    for n in 0..6 {
        ann.push(USER, &[quick(n), quick(n + 1)]).await.ok();
    }
    let key = ann.push_once(USER, "a key", &[say("under a key")]).await.ok();
    let racing = [say("racing")];
    let (erased, pushed) = tokio::join!(erase(&ann, "ann", "k"), ann.push(USER, &racing));
    let (erased, pushed) = (erased.ok(), pushed.ok());
    let survives = pushed["cursor"].as_u64() > erased["cursor"].as_u64();
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(page["count"], u64::from(survives));
    // A retry from before is known, and brings nothing back.
    assert_eq!(ann.push_once(USER, "a key", &[say("under a key")]).await.ok(), key);
    assert_eq!(ann.pull(USER, "").await.ok()["count"], u64::from(survives));
    // The same content again is new.
    let again = ann.push(USER, &[say("under a key"), quick(1)]).await.ok();
    assert_eq!(again["synced"], 2);
    let page = ann.pull(USER, "").await.ok();
    assert_eq!(page["count"], 2 + u64::from(survives));
    let other = erase(&ann, "ann", "k").await.ok();
    assert_eq!(other, erased, "a retry erases nothing twice");
}
