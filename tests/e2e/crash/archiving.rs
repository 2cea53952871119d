//! The process that archives is killed at random points: under load, while it makes a backup on demand, and while it
//! restores. Afterwards `rows == fold(log) == fold(read(archive))`, and each restore has ended once.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use archive::{Archive, ArchiveAddress, ArchiveConfig};
use eventlog::{EventLog, Record};
use model::{LogFold, RestoreCounts, RestoreId, RestoreStatus, Timestamp};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use service::auth::OrgRole;

use super::{
    Child,
    chaos::{Random, ann, flags, open},
    load::{Load, Told},
    run,
};
use crate::{
    backups::completed,
    client::{Device, Reply, USER, say, team},
    cluster::kafka_flags,
    database::Database,
    equation::{self, eventually},
    replica::Replica,
    restores::sealed,
    shown,
};

/// Messages that are lost and restored: a restore of them takes so many chunks that a kill is in the middle of it, also where the
/// projector, by whose word the test goes, is behind.
const MESSAGES: usize = 6_000;
/// Messages that a replace finds, and deletes.
const NEW: usize = 300;
const PUSHED_AT_ONCE: usize = 500;
/// So many backups, one is read message by message, and the newest of each scope.
const READ_ONE_OF: usize = 5;
/// Kills of the process under load, and while it does one restore.
const KILLS: u32 = 3;

/// An archive whose hours have two seconds.
fn archive_flags(dir: &Path) -> [String; 4] {
    [
        format!("--archive=file://{}", dir.join("archive").display()),
        format!("--archive-cache={}", dir.join("archiver").display()),
        "--archive-hour-seconds=2".to_owned(),
        "--archive-segment-seconds=1".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_is_killed_under_load_and_while_it_restores_on_kafka() {
    let (database, dir) = (Database::migrated().await, tempfile::tempdir().unwrap());
    let kafka = kafka_flags(&dev::kafka::for_tests().await.unwrap());
    let flags = [flags(database.url(), &kafka), archive_flags(dir.path()).into()].concat();
    let mut projector = Child::serve("projector", &flags, dir.path()).await;
    let api = Child::serve("ingest,api", &flags, dir.path()).await;
    let mut archiver = Child::serve("archiver", &flags, dir.path()).await;
    let mut story = Story::begin(&api).await;
    story.kills_under_load(&mut archiver).await;
    projector.kill().await;
    projector.start_again();
    story.kills_while_it_restores(&mut archiver).await;
    let ended = story.end(&api).await;
    archiver.signal("TERM");
    assert!(archiver.exit().await.success(), "{}", archiver.said());
    let log = open(&flags, dir.path()).await;
    ended.check(log.as_ref(), &database, dir.path()).await;
}

/// The embedded log has one process: all roles die with the archiver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_roles_are_killed_under_load_and_while_it_is_restored_on_the_embedded_log() {
    let (database, dir) = (Database::migrated().await, tempfile::tempdir().unwrap());
    let log_dir = dir.path().join("log");
    let embedded = [format!("--log-dir={}", log_dir.display())];
    let flags = [flags(database.url(), &embedded), archive_flags(dir.path()).into()].concat();
    let mut node = Child::serve("ingest,projector,archiver,api", &flags, dir.path()).await;
    let mut story = Story::begin(&node).await;
    story.kills_under_load(&mut node).await;
    story.kills_while_it_restores(&mut node).await;
    let ended = story.end(&node).await;
    node.signal("TERM");
    assert!(node.exit().await.success(), "{}", node.said());
    let log = open(&flags, &log_dir).await;
    ended.check(log.as_ref(), &database, dir.path()).await;
}

struct Story {
    random: Random,
    load: Load,
    /// Nobody but restores and himself changes his scope.
    bob: Device,
    /// What each restore must come to.
    restores: BTreeMap<RestoreId, RestoreCounts>,
    kills: Vec<Timestamp>,
}

impl Story {
    async fn begin(api: &Child) -> Self {
        let random = Random::new();
        let client = reqwest::Client::new();
        let bob = Device::new(&client, &api.url, "acme", "bob", OrgRole::Member);
        push(&bob, (0..MESSAGES).map(|n| say(&format!("message {n}: {}", "x".repeat(200))))).await;
        let load = Load::start(&ann(api)).await;
        load.goes_on(20).await;
        Self { random, load, bob, restores: BTreeMap::new(), kills: Vec::new() }
    }

    async fn kills_under_load(&mut self, archiver: &mut Child) {
        for _ in 0..KILLS {
            self.random.moment().await;
            self.random.moment().await;
            archiver.kill().await;
            self.random.moment().await;
            archiver.start_again();
            self.load.goes_on(5).await;
        }
        archiver.ready().await;
    }

    /// A backup on demand and two restores of it, with kills during each.
    async fn kills_while_it_restores(&mut self, archiver: &mut Child) {
        let backups = format!("{USER}/backups");
        let asked = Reply::of(self.bob.request(Method::POST, &backups)).await.is(202);
        archiver.kill().await;
        archiver.start_again();
        archiver.ready().await;
        let backup = completed(&self.bob, USER, asked["id"].as_str().unwrap()).await;
        assert_eq!(backup["record_count"], MESSAGES);

        self.delete(MESSAGES).await;
        let all = RestoreCounts { restored: MESSAGES as u64, skipped: 0, deleted: 0 };
        self.restore(archiver, &backup, "merge", all).await;

        let half = MESSAGES / 2;
        self.delete(half).await;
        push(&self.bob, (0..NEW).map(|n| say(&format!("new {n}")))).await;
        let (restored, deleted) = (half as u64, NEW as u64);
        let counts = RestoreCounts { restored, skipped: MESSAGES as u64 - restored, deleted };
        self.restore(archiver, &backup, "replace", counts).await;
    }

    /// Deletes the first live messages of the scope.
    async fn delete(&self, messages: usize) {
        let mut replica = Replica::default();
        replica.catch_up(&self.bob, USER, 1_000).await;
        let mut live: Vec<&Value> = replica.messages.values().collect();
        live.sort_by_key(|message| message["cursor"].as_u64());
        let delete =
            |m: &&Value| json!({"id": m["id"], "deleted": true, "base_cursor": m["cursor"]});
        push(&self.bob, live.iter().take(messages).map(delete)).await;
    }

    async fn restore(
        &mut self,
        archiver: &mut Child,
        backup: &Value,
        mode: &str,
        expected: RestoreCounts,
    ) {
        let body = json!({"backup_id": backup["id"], "mode": mode});
        let asking = self.bob.request(Method::POST, &format!("{USER}/restore")).json(&body);
        let asked = Reply::of(asking.header("Prefer", "respond-async")).await.is(202);
        let id = asked["restore_id"].as_str().unwrap();
        let path = format!("{USER}/restores/{id}");
        let steps = expected.restored + expected.skipped + expected.deleted;
        // The first as soon as anything is done.
        let (mut kills, mut kill_after) = (0, 0);
        let done = loop {
            let shown = answered(|| self.bob.request(Method::GET, &path)).await;
            if shown.body["status"] == "completed" {
                break shown.body;
            }
            // Not there before the fold let it begin.
            if shown.status == 200 && kills < KILLS && counted(&shown.body) > kill_after {
                archiver.kill().await;
                self.kills.push(now());
                self.random.moment().await;
                archiver.start_again();
                (kills, kill_after) =
                    (kills + 1, counted(&shown.body) + self.random.below(steps / 4));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        archiver.ready().await;
        assert_eq!(counts(&done), expected, "{mode}");
        let now = self.bob.pull(USER, "limit=1").await.ok();
        assert_eq!(
            (&now["count"], &now["digest"]),
            (&json!(MESSAGES), &backup["digest"]),
            "{mode}"
        );
        self.restores.insert(RestoreId(id.parse().unwrap()), expected);
    }

    /// The load stops; all that came is sealed, and pulled.
    async fn end(self, api: &Child) -> Ended {
        self.load.goes_on(20).await;
        let told = self.load.stop().await;
        let ann = ann(api);
        for (device, scope) in
            [(&ann, team("t")), (&ann, USER.to_owned()), (&self.bob, USER.to_owned())]
        {
            sealed(device, &scope).await;
        }
        let mut replica = Replica::default();
        replica.catch_up(&self.bob, USER, 1_000).await;
        Ended { told, replica, restores: self.restores, kills: self.kills }
    }
}

/// Pushes in parts; each message must change something.
async fn push(device: &Device, messages: impl Iterator<Item = Value>) {
    let messages: Vec<Value> = messages.collect();
    for part in messages.chunks(PUSHED_AT_ONCE) {
        assert_eq!(device.push(USER, part).await.ok()["synced"], part.len());
    }
}

/// Asks until a process that is up answers.
async fn answered(request: impl Fn() -> RequestBuilder) -> Reply {
    eventually("an answer", async || {
        let reply = Reply::try_of(request()).await.ok()?;
        (reply.status < 500).then_some(reply)
    })
    .await
}

fn counts(restore: &Value) -> RestoreCounts {
    let [restored, skipped, deleted] =
        ["restored", "skipped", "deleted"].map(|key| restore[key].as_u64().unwrap());
    RestoreCounts { restored, skipped, deleted }
}

fn counted(restore: &Value) -> u64 {
    let RestoreCounts { restored, skipped, deleted } = counts(restore);
    restored + skipped + deleted
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

/// What must be found in all three copies.
struct Ended {
    told: Told,
    replica: Replica,
    restores: BTreeMap<RestoreId, RestoreCounts>,
    kills: Vec<Timestamp>,
}

impl Ended {
    async fn check(&self, log: &dyn EventLog, database: &Database, dir: &Path) {
        let address = ArchiveAddress::File(dir.join("archive"));
        let url = address.to_string();
        let verified = run(&["ops", "verify", "--archive", &url]).await;
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(
            verified.status.success()
                && said.contains("well: ")
                && said.contains("; proven up to the end of hour "),
            "{said}"
        );

        let fold = equation::check(log, &database.owner_pool()).await;
        self.told.is_in(&fold);
        self.replica.assert_is(&fold, &"acme/user/bob".parse().unwrap());
        assert!(fold.dead_letters.is_empty());

        let mut records = Vec::new();
        equation::read(log, |record| records.push(record)).await;
        self.check_restores(&records);
        let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
        let backups = shown::check_records(&archive, log.log_id(), records, READ_ONE_OF).await;
        println!("{backups} backups, {said}");
        assert!(backups > 10, "{backups} backups");
    }

    /// Each is completed by one record, with the counts that were told; some kill was in the middle of one.
    fn check_restores(&self, records: &[Record]) {
        let mut fold = LogFold::default();
        let mut began: BTreeMap<RestoreId, Timestamp> = BTreeMap::new();
        let mut ended: BTreeMap<RestoreId, Vec<(Timestamp, RestoreCounts)>> = BTreeMap::new();
        for record in records {
            let event = schemas::decode(&record.value).ok();
            let (place, time) = (record.place(), record.append_time);
            let applied = fold.apply(place, time, &record.key, event.as_ref()).unwrap();
            let Some(step) = applied.and_then(|applied| applied.restore) else { continue };
            let (id, counts) = (step.restore.id, step.restore.counts);
            match step.status {
                RestoreStatus::Running if step.restore.is_at_begin() => {}
                RestoreStatus::Running => {
                    began.entry(id).or_insert(time);
                }
                RestoreStatus::Completed { .. } => {
                    ended.entry(id).or_default().push((time, counts))
                }
                failed => panic!("{failed:?}"),
            }
        }
        let all = |ends: &Vec<(Timestamp, RestoreCounts)>| ends.iter().map(|end| end.1).collect();
        let completed: BTreeMap<_, Vec<_>> =
            ended.iter().map(|(id, ends)| (*id, all(ends))).collect();
        let expected = self.restores.iter().map(|(id, counts)| (*id, vec![*counts]));
        assert_eq!(completed, expected.collect());
        let is_midway = |kill: &&Timestamp| {
            ended.iter().any(|(id, ends)| began[id] < **kill && **kill < ends[0].0)
        };
        let midway = self.kills.iter().filter(is_midway).count();
        println!("{midway} of {} kills were in the middle of a restore", self.kills.len());
        assert!(midway > 0, "no kill was in the middle of a restore");
    }
}
