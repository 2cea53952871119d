//! The drill: everything but the bucket is gone while devices hold cursors. They carry on up to what was archived.

use std::{path::Path, time::Duration};

use archive::{
    Archive,
    base::{self, Owner},
    history::newest_hour,
    segment::{self, SegmentReader},
    verify::{Sample, verify},
};
use archiver::{Clock, NewLog, Recovered, Recovering, Recovery, lost};
use context_sync::serve::{Logs, Role, Settings};
use eventlog::{EventLog, LogAddress, ReadLimit};
use model::{LogFold, LogId, Offset, Partition};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    backups::{back_up, completed},
    client::{Device, Reply, USER, contents, say, team},
    cluster::{Cluster, LogKind},
    equation::eventually,
    operators::ops,
    replica::Replica,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_but_the_bucket_is_lost_with_an_embedded_log() {
    drill(LogKind::Embedded, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_but_the_bucket_is_lost_with_kafka() {
    drill(LogKind::Kafka, 1).await;
}

async fn drill(kind: LogKind, losses: u32) {
    let bucket = tempfile::tempdir().unwrap();
    let archive = format!("--archive=file://{}", bucket.path().display());
    let flags = [archive.as_str(), "--archive-segment-seconds=1"];
    let mut cluster = Cluster::start_archiving_to(kind, &flags).await;
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    ann.push_once(USER, "a key", &[say("once")]).await.ok();
    for loss in 0..losses {
        lose(&mut cluster, loss).await;
    }
    cluster.node.stop().await;
    read_by_format(bucket.path());
}

/// Whoever reads the bucket by its format alone finds it well.
fn read_by_format(bucket: &Path) {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../archive/tests/reader.py");
    let said = std::process::Command::new("python3").arg(reader).arg(bucket).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

/// What a device has of a scope, and in which epoch.
struct Held {
    replica: Replica,
    epoch: String,
}

impl Held {
    async fn pull(device: &Device, scope: &str) -> Self {
        let mut replica = Replica::default();
        replica.catch_up(device, scope, 100).await;
        let page = device.pull(scope, "limit=1").await.ok();
        Self { replica, epoch: page["epoch"].as_str().unwrap().to_owned() }
    }

    fn query(&self) -> String {
        format!("cursor={}&epoch={}", self.replica.cursor, self.epoch)
    }
}

async fn lose(cluster: &mut Cluster, loss: u32) {
    let (web, key) = (team("web"), "acme/team/web".parse().unwrap());
    let ann = cluster.device("ann");
    let texts =
        |from: u32| (from..from + 5).map(|n| say(&format!("{loss}: {n}"))).collect::<Vec<_>>();
    let pushed = ann.push(&web, &texts(0)).await.ok();
    let edit = json!({"id": pushed["results"][0]["id"], "type": "decision", "content": format!("{loss}: edited"),
        "base_cursor": pushed["cursor"]});
    let delete =
        json!({"id": pushed["results"][1]["id"], "deleted": true, "base_cursor": pushed["cursor"]});
    let once = ann.push_once(&web, &format!("key {loss}"), &[edit, delete]).await.ok();
    let backup = back_up(&ann, &web).await;
    let log = cluster.node.log.clone();
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, log.as_ref()).await;
    // Beyond the sealed hours, in segments alone.
    ann.push(&web, &texts(10)).await.ok();
    archived(&archive, log.as_ref()).await;
    let early = Held::pull(&cluster.device("bob"), &web).await;
    let before = fold_of(cluster, loss).await;

    // Never archived; a device has it all the same.
    cluster.restart(&[Role::Ingest, Role::Projector, Role::Api]).await;
    let ann = cluster.device("ann");
    ann.push(&web, &[say(&format!("{loss}: lost")), say(&format!("{loss}: lost too"))]).await.ok();
    let late = Held::pull(&ann, &web).await;
    let old = cluster.node.log.log_id();
    drop(log);

    let mut recovered = None;
    cluster
        .lose_all_but_the_archive(async |settings: &Settings, dir: &Path| {
            recovered = Some(recover(settings, dir, old).await);
        })
        .await;
    let recovered = recovered.unwrap();
    assert_eq!((recovered.from, recovered.log), (old, cluster.node.log.log_id()));
    assert_eq!(recovered.scopes, 2);

    // Who had only what was archived carries on.
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    let page = bob.pull(&web, &early.query()).await.ok();
    let base = early.replica.cursor;
    assert_eq!(
        (contents(&page).len(), &page["head"], &page["base"]),
        (0, &json!(base), &json!(base))
    );
    assert_eq!(page["digest"], early.replica.digest);
    // Who had more learns it, and what was kept.
    let problem = ann.pull(&web, &late.query()).await.problem(409, "SYNC_001");
    assert_eq!((&problem["base"], &problem["head"]), (&json!(base), &json!(base)));
    let mut replica = Replica::default();
    replica.catch_up(&ann, &web, 3).await;
    if let Some(before) = &before {
        replica.assert_is(before, &key);
    }
    assert_eq!(
        (&replica.digest, &replica.messages),
        (&early.replica.digest, &early.replica.messages)
    );
    // A retry of before gets its first answer.
    let again = ann.push_once(USER, "a key", &[say("once")]).await.ok();
    assert_eq!((&again["synced"], &again["cursor"]), (&json!(1), &json!(1)), "{again}");
    let page = ann.pull(&web, "limit=1000").await.ok();
    let id = |place: usize| once["results"][place]["id"].clone();
    let edited = page["messages"].as_array().unwrap().iter().find(|m| m["id"] == id(0)).unwrap();
    assert_eq!(edited["content"], format!("{loss}: edited"));

    // Devices push again what was lost, and all converge.
    ann.push(&web, &[say(&format!("{loss}: lost")), say(&format!("{loss}: lost too"))]).await.ok();
    let after = ann.push(&web, &[say(&format!("{loss}: after"))]).await.ok();
    let mut early = early;
    early.replica.catch_up(&bob, &web, 100).await;
    replica.catch_up(&ann, &web, 100).await;
    assert_eq!((early.replica.cursor, replica.cursor), (base + 3, base + 3));
    assert_eq!(early.replica.messages, replica.messages);

    // To operators it is one history: what was lost is told out of the archive.
    let checked = ops(cluster, &["check"]).await;
    let sums = checked.objects().pop().unwrap();
    assert_eq!((checked.status, &sums["scopes"], &sums["only_rows"]), (0, &json!(2), &json!([])));
    check_traces(cluster, old, [&pushed, &once, &after]).await;

    // Backups of before are there, and can be restored; new ones go on.
    let id = backup["id"].as_str().unwrap();
    assert_eq!(completed(&ann, &web, id).await["digest"], backup["digest"]);
    let body = json!({"backup_id": id, "mode": "replace"});
    let request = ann.request(reqwest::Method::POST, &format!("{web}/restore")).json(&body);
    let restored = Reply::of(request).await.ok();
    let sum = restored["restored"].as_u64().unwrap() + restored["skipped"].as_u64().unwrap();
    assert_eq!(json!(sum), backup["record_count"]);
    assert_eq!(ann.pull(&web, "").await.ok()["digest"], backup["digest"]);
    let new = back_up(&ann, &web).await;
    assert_eq!(new["digest"], backup["digest"]);

    // The rows are what archive and log come to; the archive proves itself.
    let (url, client) =
        (format!("{}/rebuild?dry_run=true", cluster.node.ops_url), reqwest::Client::new());
    let said = client.post(url).send().await.unwrap().text().await.unwrap();
    let done: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&done["done"]["differing"], &done["done"]["scopes"]),
        (&json!(0), &json!(2)),
        "{said}"
    );
    sealed(&archive, cluster.node.log.as_ref()).await;
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(base::owner(&archive, old).await.unwrap(), Owner::GivenUpFor(recovered.log));
}

/// A push of five and one that edits the first and deletes the second, on the lost log; and one on this log.
async fn check_traces(cluster: &Cluster, lost: LogId, [pushed, edited, after]: [&Value; 3]) {
    let trace = async |id: &Value| {
        let traced = ops(cluster, &["trace", id.as_str().unwrap()]).await;
        assert_eq!(traced.status, 0, "{traced:?}");
        let trace = traced.json();
        assert_eq!(trace["is_cut"], false, "{trace}");
        trace
    };
    let old = trace(&pushed["push_id"]).await;
    let step = &old["steps"][0];
    assert_eq!((&step["state"], &step["log_id"]), (&json!("recovered"), &json!(lost.to_string())));
    assert!(step["outcome"].as_str().unwrap().starts_with("pushed: 5 synced"), "{step}");
    assert!(step["archived_hour"].is_string(), "{step}");
    assert_eq!(step["messages"][0]["replaced_at"], edited["results"][0]["cursor"], "{step}");
    assert_ne!(old["backups"], json!([]));
    let message = trace(&pushed["results"][0]["id"]).await;
    let steps = message["steps"].as_array().unwrap();
    let of = |step: &Value| step["messages"][0]["cursor"].clone();
    let cursors = [pushed, edited].map(|push| push["results"][0]["cursor"].clone());
    assert_eq!(steps.iter().map(of).collect::<Vec<_>>(), cursors, "{message}");
    let new = trace(&after["push_id"]).await;
    let step = &new["steps"][0];
    let (state, log) = (json!("projected"), json!(cluster.node.log.log_id().to_string()));
    assert_eq!((&step["state"], &step["log_id"]), (&state, &log));
    assert!(step["outcome"].as_str().unwrap().starts_with("pushed: 1 synced"), "{step}");
}

/// What the log folds to, where the log is all there is.
async fn fold_of(cluster: &Cluster, loss: u32) -> Option<LogFold> {
    match loss {
        0 => Some(cluster.check().await),
        _ => None,
    }
}

pub(crate) async fn recover(settings: &Settings, dir: &Path, old: LogId) -> Recovered {
    let archive = Archive::open(&settings.archive).unwrap();
    let half = match settings.log.log {
        LogAddress::Embedded => Some(abandon(settings, &archive, old).await),
        LogAddress::Kafka { .. } => None, // topics of one name
    };
    let logs = Logs::open(settings, dir).await.unwrap();
    // Stopped in the middle, it goes on.
    recover_into(settings, &logs, old, |said| said.len() == 6).await;
    let recovered = match recover_into(settings, &logs, old, |_| false).await {
        Recovering::Done(recovered) => recovered,
        other => panic!("{other:?}"),
    };
    close(logs).await;
    if let Some(half) = half {
        let mut left = archive.list("").await.unwrap();
        left.retain(|(path, _)| path.contains(&half.to_string()));
        assert_eq!(left, [], "what was given up half way is removed");
    }
    recovered
}

/// A recovery is stopped after a base, and the new log is gone with that: which it was.
async fn abandon(settings: &Settings, archive: &Archive, old: LogId) -> LogId {
    let dir = tempfile::tempdir().unwrap();
    let logs = Logs::open(settings, dir.path()).await.unwrap();
    // It may be one step further by then: two of four partitions are missing, or one.
    let is_based = |said: &[Recovering]| match said.last() {
        Some(Recovering::Based { partition, scopes, .. }) => *scopes > 0 || partition.get() == 1,
        _ => false,
    };
    recover_into(settings, &logs, old, is_based).await;
    let half = logs.events.log_id();
    assert_eq!(base::owner(archive, old).await.unwrap(), Owner::GivenUpFor(half));
    let owner = base::owner(archive, half).await.unwrap();
    assert!(matches!(owner, Owner::Unfinished(_)), "{owner:?}");
    assert_eq!(lost(archive, None).await.unwrap().log, old);
    // The half of it is no log to recover.
    let lost = lost(archive, Some(half)).await.unwrap();
    let (config, clock) = (settings.archiver.clone(), Clock::system());
    let recovery =
        Recovery { config, archive: archive.clone(), lost, clock, quiet: Duration::ZERO };
    let Err(reason) = recovery.judge(NewLog::ToBeMade { partitions: 4 }).await else {
        panic!("it may be recovered")
    };
    assert!(reason.to_string().contains("itself was recovered"), "{reason}");
    let report = verify(archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    read_by_format(Path::new(archive.url("").strip_prefix("file://").unwrap()));
    close(logs).await;
    half
}

async fn close(logs: Logs) {
    logs.events.close().await.unwrap();
    logs.facts.unwrap().close().await.unwrap();
}

/// Recovers what is lost, to the end or until it is stopped; the last that was said.
async fn recover_into(
    settings: &Settings,
    logs: &Logs,
    old: LogId,
    stops: impl Fn(&[Recovering]) -> bool,
) -> Recovering {
    let archive = Archive::open(&settings.archive).unwrap();
    let found = lost(&archive, None).await.unwrap();
    let found = found.into(&archive, logs.events.log_id()).await.unwrap();
    assert_eq!((found.log, found.partitions), (old, Some(4)));
    let recovery = Recovery {
        config: settings.archiver.clone(),
        archive,
        lost: found,
        clock: Clock::system(),
        quiet: Duration::ZERO,
    };
    let judged = recovery.judge(NewLog::There(logs.events.as_ref())).await.unwrap();
    let (say, mut said) = mpsc::channel(1);
    let (log, facts) = (logs.events.clone(), logs.facts.clone().unwrap());
    let running = tokio::spawn(judged.run(log, facts, say, CancellationToken::new()));
    let mut lines = Vec::new();
    while let Some(line) = said.recv().await {
        lines.push(line);
        if stops(&lines) {
            drop(said);
            break;
        }
    }
    running.await.unwrap();
    lines.pop().unwrap()
}

/// Waits until all that the log has now is in sealed hours.
pub(crate) async fn sealed(archive: &Archive, log: &dyn EventLog) {
    until(log, async |partition| {
        let newest = newest_hour(archive, log.log_id(), partition).await.unwrap();
        newest.map_or(Offset::ZERO, |(_, header)| header.next_offset)
    })
    .await;
}

/// Waits until all that the log has now is in sealed hours or segments.
async fn archived(archive: &Archive, log: &dyn EventLog) {
    until(log, async |partition| {
        let newest = newest_hour(archive, log.log_id(), partition).await.unwrap();
        let sealed = newest.map_or(Offset::ZERO, |(_, header)| header.next_offset);
        let names = segment::list(archive, log.log_id(), partition).await.unwrap();
        let Some(last) = names.last() else { return sealed };
        // It may just be deleted: its hour was sealed.
        let Ok(object) = archive.fetch(&last.path).await else { return sealed };
        SegmentReader::new(object, &last.path).unwrap().next_offset.max(sealed)
    })
    .await;
}

async fn until(log: &dyn EventLog, reaches: impl AsyncFn(Partition) -> Offset) {
    for partition in (0..log.partitions()).map(Partition::new) {
        let end = used_until(log, partition).await;
        eventually("it is archived", async || (reaches(partition).await >= end).then_some(()))
            .await;
    }
}

/// The end of a partition, less the ticks that only wait for what comes next.
async fn used_until(log: &dyn EventLog, partition: Partition) -> Offset {
    const LIMIT: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 16 << 20 };
    let end = log.bounds(partition).await.unwrap().end;
    let mut reader = log.reader(&[(partition, Offset::ZERO)]).unwrap();
    let (mut next, mut used) = (Offset::ZERO, Offset::ZERO);
    while next < end {
        for record in reader.next(LIMIT, Duration::from_millis(200)).await.unwrap() {
            next = record.offset.next();
            if !record.key.is_empty() {
                used = next;
            }
        }
    }
    used
}

/// A new log does not write over what another one has left, unless a recovery links them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_log_on_an_old_bucket_is_refused() {
    let bucket = tempfile::tempdir().unwrap();
    let flag = format!("--archive=file://{}", bucket.path().display());
    let cluster = Cluster::start_archiving_to(LogKind::Embedded, &[&flag]).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, cluster.node.log.as_ref()).await;
    let dir = tempfile::tempdir().unwrap();
    let other = eventlog::open(&cluster.settings.log, dir.path()).await.unwrap();
    let fresh = crate::database::Database::migrated().await;
    let readiness = service::ops::Readiness::new();
    let projector = projector::Projector {
        config: cluster.settings.projector.clone(),
        database: fresh.config.clone(),
        log: other.clone(),
        facts: None,
        archive: Some(archive.clone()),
        feed: readmodel::feed::Feed::new(true),
        ready: readiness.component("projector"),
    };
    let error = projector.run(Default::default()).await.unwrap_err().to_string();
    assert!(
        error.contains("ops recover") && error.contains(&cluster.node.log.log_id().to_string()),
        "{error}"
    );
    let error = lost(&archive, Some(other.log_id())).await.unwrap_err().to_string();
    assert!(error.contains("nothing of log"), "{error}");
    // Nor is a log recovered into itself, or into one that has records.
    let found = lost(&archive, None).await.unwrap();
    let into = async |log: std::sync::Arc<dyn EventLog>| {
        let (config, clock) = (cluster.settings.archiver.clone(), Clock::system());
        let (archive, lost) = (archive.clone(), found.clone());
        let quiet = Duration::from_secs(180);
        let recovery = Recovery { config, archive, lost, clock, quiet };
        match recovery.judge(NewLog::There(log.as_ref())).await {
            Err(reason) => reason.to_string(),
            Ok(_) => panic!("it may be recovered"),
        }
    };
    let reason = into(cluster.node.log.clone()).await;
    assert!(reason.contains("it is not lost"), "{reason}");
    // Nor while it is archived.
    let reason = into(other.clone()).await;
    assert!(reason.contains("it lives still"), "{reason}");
    assert_eq!(base::owner(&archive, found.log).await.unwrap(), Owner::Ours);
    other.append("acme/user/ann".into(), "x".into()).await.unwrap();
    let reason = into(other.clone()).await;
    assert!(reason.contains("must be empty"), "{reason}");
    cluster.finish().await;
}
