//! `ops recover` as an operator runs it: asked first, refused without a trace, and stopped anywhere.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use archive::{
    Archive, ArchiveConfig,
    base::{self, Owner},
    verify::{Sample, verify},
};
use context_sync::device::scope::Scope;
use dev::gcs::{Fault, Front};
use device::replica::Replica;
use eventlog::{LogAddress, LogConfig, OpenError};
use model::{Epoch, LogId};
use serde_json::{Value, json};
use tokio::{process::Command, sync::Notify};

use crate::{
    backups::{back_up, completed},
    client::{USER, contents, say},
    cluster::{ALL, Cluster, LogKind, kafka_flags, settings},
    crash::{Child, binary, flags as chaos_flags},
    database::Database,
    operators::said,
    reconcile::{assert_in_sync, mend},
    recovering::sealed,
};

/// As an operator types it: asked first, refused while the log lives, and then done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_given_up_only_if_it_is_said_so_and_it_is_lost() {
    let bucket = tempfile::tempdir().unwrap();
    let flag = format!("--archive=file://{}", bucket.path().display());
    let mut cluster = Cluster::start_archiving_to(LogKind::Embedded, &[&flag]).await;
    let ann = cluster.device("ann");
    let pushed = ann.push(USER, &[say("one"), say("two")]).await.ok();
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, cluster.node.log.as_ref()).await;
    let old = cluster.node.log.log_id();
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let cache = format!("--archive-cache={}", path("cache"));
    let into = format!("--log-dir={}", path("new"));
    let recover = async |args: &[&str]| said(&[&["ops", "recover"], args].concat()).await;
    // A mistyped archive is none, and is not made.
    let typo = format!("--archive=file://{}", path("typo"));
    let none = recover(&[&typo, &into, "--yes"]).await;
    assert!(none.status == 1 && none.error.contains("typo is missing"), "{none:?}");
    let which = recover(&[&flag, "--yes"]).await;
    assert!(which.status == 1 && which.error.contains("name the new log"), "{which:?}");
    let asked = recover(&[&flag, &into, &cache]).await;
    let text = asked.lines.join(" ");
    assert!(asked.status == 1 && text.contains("add --yes"), "{asked:?}");
    assert!(text.contains(&old.to_string()) && text.contains(&path("new")), "{text}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is made");
    let lives = recover(&[&flag, &into, &cache, "--yes"]).await;
    assert!(lives.status == 1 && lives.error.contains("it lives still"), "{lives:?}");
    let fewer =
        recover(&[&flag, &into, &cache, "--yes", "--quiet-seconds=0", "--log-partitions=3"]).await;
    let text = "the new log has 3 partitions, the lost one had 4";
    assert!(fewer.status == 1 && fewer.error.contains(text), "{fewer:?}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is made");
    assert_eq!(base::owner(&archive, old).await.unwrap(), Owner::Ours);

    let mut done = Value::Null;
    cluster
        .lose_all_but_the_archive(async |_, dir: &Path| {
            let into = format!("--log-dir={}", dir.display());
            let flags = [flag.as_str(), &into, &cache, "--yes", "--quiet-seconds=0", "--json"];
            let recovered = recover(&flags).await;
            assert_eq!(recovered.status, 0, "{recovered:?}");
            done = recovered.objects().pop().unwrap()["done"].clone();
        })
        .await;
    let new = cluster.node.log.log_id().to_string();
    assert_eq!((&done["from"], &done["log"]), (&json!(old.to_string()), &json!(new)));
    let page = cluster.device("ann").pull(USER, "").await.ok();
    assert_eq!((contents(&page).len(), &page["head"]), (2, &pushed["cursor"]));
    // Nothing is to be recovered from the one that was given up.
    let again = format!("--from={old}");
    let late = recover(&[&flag, &into, &cache, &again, "--yes", "--quiet-seconds=0"]).await;
    assert!(late.status == 1 && late.error.contains("goes on in log"), "{late:?}");
    assert!(!scratch.path().join("new").exists(), "nothing is made");
    let new = cluster.node.log.log_id();
    let (_, dir) = cluster.leave().await;
    let log = vec![format!("--log-dir={}", dir.join("log").display())];
    is_not_begun_with_nothing(&log, new, old).await;
}

/// A log that was recovered begins with what its archive has: without that, or with another, neither its rows nor an
/// archive are begun.
async fn is_not_begun_with_nothing(log: &[String], own: LogId, lost: LogId) {
    let (database, dir) = (Database::migrated().await, tempfile::tempdir().unwrap());
    let empty = format!("--archive=file://{}", dir.path().join("empty").display());
    // An epoch, as a projector on rows that are right may have kept it in a wrong archive, is nothing to begin with.
    let stray = archive::path::epoch(own, 2, Epoch(uuid::Uuid::new_v4()));
    let stray = dir.path().join("stray").join(stray);
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(stray, r#"{"epoch":"00000000-0000-0000-0000-000000000000","bases":[]}"#)
        .unwrap();
    let wrong = format!("--archive=file://{}", dir.path().join("stray").display());
    let cache = format!("--archive-cache={}", dir.path().join("cache").display());
    for (role, archive) in [
        ("projector", None),
        ("projector", Some(&empty)),
        ("archiver", Some(&empty)),
        ("projector", Some(&wrong)),
        ("archiver", Some(&wrong)),
    ] {
        let mut flags = chaos_flags(database.url(), log);
        flags.push(cache.clone());
        flags.extend(archive.cloned());
        let mut child = Child::serve_at_once(role, &flags, dir.path());
        let ended = child.exit().await;
        let said = child.said();
        assert!(!ended.success(), "{role}: {said}");
        assert!(said.contains(&format!("goes on from log {lost}")), "{role}: {said}");
    }
    let begun: bool = sqlx::query_scalar("select exists (select from source)")
        .fetch_one(&database.owner_pool())
        .await
        .unwrap();
    assert!(!begun);
}

/// Into an empty Kafka, which gets its topics. What was never archived comes back from a device that holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_bring_back_to_an_empty_kafka_what_was_never_archived() {
    let (bucket, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let flag = format!("--archive=file://{}", bucket.path().display());
    let mut cluster = Cluster::start_archiving_to(LogKind::Kafka, &[&flag]).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, cluster.node.log.as_ref()).await;
    let old = cluster.node.log.log_id();
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("three")]).await.ok();
    let mut replica = Replica::default();
    mend(&ann, &Scope::User, &mut replica).await;
    assert_in_sync(&ann, USER, &replica).await;

    cluster
        .lose_all_but_the_archive(async |settings, _| {
            let cache = format!("--archive-cache={}", scratch.path().join("cache").display());
            let LogAddress::Kafka { brokers } = &settings.log.log else { panic!("only Kafka") };
            let into = [
                format!("--log=kafka://{brokers}"),
                format!("--log-topic-prefix={}", settings.log.log_topic_prefix),
            ];
            let args = ["ops", "recover", &flag, &cache, &into[0], &into[1], "--quiet-seconds=0"];
            let recovered = said(&[&args[..], &["--yes", "--json"]].concat()).await;
            assert_eq!(recovered.status, 0, "{recovered:?}");
        })
        .await;
    let ann = cluster.device("ann");
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "two"]);
    let mended = mend(&ann, &Scope::User, &mut replica).await;
    assert_eq!((mended.dropped, mended.pushed_again), (0, 1), "{mended:?}");
    assert_in_sync(&ann, USER, &replica).await;
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "two", "three"]);
    let new = cluster.node.log.log_id();
    cluster.node.stop().await;
    let LogAddress::Kafka { brokers } = &cluster.settings.log.log else { panic!("only Kafka") };
    let prefix = &cluster.settings.log.log_topic_prefix;
    let log = [format!("--log=kafka://{brokers}"), format!("--log-topic-prefix={prefix}")];
    is_not_begun_with_nothing(&log, new, old).await;
}

/// Whatever is wrong with archive or flags: there is no new log, and no topic, nor anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_refused_makes_nothing() {
    let (bucket, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = |log: u128| format!("segments/{}", uuid::Uuid::from_u128(log));
    let put = |path: String| {
        let path = bucket.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"raw").unwrap();
    };
    put(format!("{}/partition=7/0.avro", folder(1)));
    let kafka = kafka_flags(&dev::kafka::for_tests().await.unwrap());
    let kafka: Vec<&str> = kafka.iter().map(String::as_str).take(2).collect();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (dir, data) =
        (format!("--log-dir={}", path("new")), format!("--data-dir={}", path("data")));
    let archive = format!("--archive=file://{}", bucket.path().display());
    let cases: [(&str, &[&str], &str); 4] = [
        ("too few partitions", &["--quiet-seconds=0", "--log-partitions=3"], "of partition 7"),
        ("it lives", &["--log-partitions=8"], "it lives still"),
        ("damaged", &["--log-partitions=8", "--quiet-seconds=0"], "0.avro is damaged"),
        ("two logs", &["--quiet-seconds=0"], "name one with --from"),
    ];
    for (what, flags, reason) in cases {
        if what == "two logs" {
            put(format!("{}/partition=0/0.avro", folder(2)));
        }
        for into in [std::slice::from_ref(&dir.as_str()), &kafka] {
            let args = [&["ops", "recover", "--yes", &archive, &data], into, flags].concat();
            let refused = said(&args).await;
            assert!(refused.status == 1 && refused.error.contains(reason), "{what}: {refused:?}");
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "{what}");
        }
        let flags: Vec<String> = kafka.iter().map(|&flag| flag.to_owned()).collect();
        let look = LogConfig { log_must_exist: true, ..settings(&flags).log };
        let found = eventlog::open(&look, scratch.path()).await.err();
        assert!(matches!(found, Some(OpenError::Missing { .. })), "{what}: {found:?}");
    }
}

/// Wherever it is stopped or killed, it goes on when it is started again, and ends as one that nobody disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_stopped_goes_on_and_comes_to_the_same() {
    let front = Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap();
    let (bucket, copy) = (front.make_bucket().await.unwrap(), front.make_bucket().await.unwrap());
    let endpoint = format!("--archive-endpoint={}", front.url());
    let archive = |bucket: &str| format!("--archive=gs://{bucket}");
    let flags = [archive(&bucket), endpoint.clone(), "--archive-segment-seconds=1".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut cluster = Cluster::start_archiving_to(LogKind::Embedded, &flags).await;
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    for device in [&ann, &bob] {
        device.push(USER, &[say("one"), say("two")]).await.ok();
    }
    let backup = back_up(&ann, USER).await;
    let own = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&own, cluster.node.log.as_ref()).await;
    let before = ann.pull(USER, "").await.ok();

    let scratch = tempfile::tempdir().unwrap();
    let mut recovered = Vec::new();
    cluster
        .lose_all_but_the_archive(async |_, dir: &Path| {
            copy_bucket(&own, &open(&archive(&copy), &endpoint)).await;
            let run = |bucket: &str, dir: &Path| {
                [
                    archive(bucket),
                    endpoint.clone(),
                    format!("--log-dir={}", dir.display()),
                    format!("--archive-cache={}", scratch.path().join(bucket).display()),
                ]
            };
            let undisturbed = run(&copy, &scratch.path().join("log"));
            recovered.push(done(&recover(&front, &undisturbed, None).await));
            let disturbed = run(&bucket, dir);
            let signals = ["TERM", "INT", "KILL"].into_iter().cycle();
            for (place, signal) in (1..).step_by(2).zip(signals) {
                let ended = recover(&front, &disturbed, Some((place, signal))).await;
                if ended.status.success() {
                    assert!(place > 8, "it wrote {place} objects only");
                    recovered.push(done(&ended));
                    break;
                }
                let error = String::from_utf8_lossy(&ended.stderr).into_owned();
                if signal != "KILL" {
                    assert_eq!(ended.status.code(), Some(1), "{error}");
                    assert!(error.contains("it was stopped; started again"), "{error}");
                    assert!(error.contains("it goes on from there"), "{error}");
                }
            }
        })
        .await;
    let logs: Vec<String> =
        recovered.iter_mut().map(|done| done["log"].take().as_str().unwrap().to_owned()).collect();
    assert_eq!(recovered[0], recovered[1]);
    assert_eq!(logs[1], cluster.node.log.log_id().to_string());
    let copied = objects(&open(&archive(&copy), &endpoint), &logs[0]).await;
    let mut disturbed = objects(&own, &logs[1]).await;
    disturbed.retain(|path, _| copied.contains_key(path)); // the services run again
    assert_eq!(disturbed.keys().collect::<Vec<_>>(), copied.keys().collect::<Vec<_>>());
    for (path, content) in &copied {
        assert!(disturbed[path] == *content, "{path}");
    }

    let ann = cluster.device("ann");
    let page = ann.pull(USER, "").await.ok();
    assert_eq!((&page["messages"], &page["digest"]), (&before["messages"], &before["digest"]));
    let known = completed(&ann, USER, backup["id"].as_str().unwrap()).await;
    assert_eq!(known["checksum"], backup["checksum"]);
    let report = verify(&own, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    cluster.node.stop().await;
}

fn open(archive: &str, endpoint: &str) -> Archive {
    let flags = [archive.to_owned(), endpoint.to_owned()];
    let config: ArchiveConfig = settings(&flags).archive;
    Archive::open(&config).unwrap()
}

async fn copy_bucket(from: &Archive, to: &Archive) {
    for (path, _) in from.list("").await.unwrap() {
        let mut object = from.fetch(&path).await.unwrap();
        to.create(&path, &mut object).await.unwrap();
    }
}

/// Runs the binary to its end; `stop`: it gets the signal at its n-th write, which hangs.
async fn recover(front: &Front, flags: &[String], stop: Option<(u64, &str)>) -> Output {
    let (writes, hangs) = (AtomicU64::new(0), Arc::new(Notify::new()));
    let (at, hanging) = (stop.map(|(at, _)| at), hangs.clone());
    front.misbehave(move |request| {
        let is_write = request.method == reqwest::Method::PUT;
        let count = is_write.then(|| writes.fetch_add(1, Ordering::SeqCst) + 1)?;
        at.filter(|at| count >= *at)?;
        hanging.notify_one();
        Some(Fault::Slow(Duration::from_secs(600)))
    });
    let mut command = Command::new(binary());
    command.args(["ops", "recover", "--yes", "--quiet-seconds=0", "--json"]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let pid = child.id().unwrap().to_string();
    let ending = child.wait_with_output();
    tokio::pin!(ending);
    let ended = tokio::select! {
        ended = &mut ending => ended,
        () = hangs.notified() => {
            let signal = format!("-{}", stop.map_or("KILL", |(_, signal)| signal));
            assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success());
            tokio::time::timeout(crate::equation::DEADLINE, ending).await.expect("stops")
        }
    };
    front.behave();
    ended.unwrap()
}

/// The last line of one that was done.
#[track_caller]
fn done(ended: &Output) -> Value {
    let (out, error) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{out} {error}");
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    last["done"].clone()
}

/// What is in a bucket, by path, unpacked: whatever the new log's id is, and the backups' that have it in their names.
async fn objects(archive: &Archive, log: &str) -> BTreeMap<String, Vec<String>> {
    let mut objects = BTreeMap::new();
    for (path, _) in archive.list("").await.unwrap() {
        let object = archive.fetch(&path).await.unwrap();
        let mut texts = Vec::new();
        match path.ends_with(".gz") {
            true => {
                let mut lines = object.lines(&path).unwrap();
                while let Some(line) = lines.next_line().unwrap() {
                    let line = String::from_utf8(line).unwrap().replace(log, "new");
                    texts.push(match path.contains(log) {
                        true => without_id(&line),
                        false => line,
                    });
                }
            }
            false => texts.push(object.sha256.to_string()),
        }
        objects.insert(path.replace(log, "new"), texts);
    }
    objects
}

fn without_id(line: &str) -> String {
    let mut line: Value = serde_json::from_str(line).unwrap();
    if let Some(id) = line.pointer_mut("/backup/id") {
        id.take();
    }
    line.to_string()
}
