//! WF-CS-008, and what becomes of what a full covers: the archiver's clock is set on by days.

use std::time::{SystemTime, UNIX_EPOCH};

use archive::{
    Archive,
    verify::{Sample, verify},
};
use archiver::{Archiver, Clock, Expiring, Operator, Summary, Upkeep};
use model::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use service::{auth::OrgRole, ops::Readiness};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    backups::{back_up, completed, time},
    client::{Device, USER, org, project, say, team},
    cluster::{ALL, Cluster, LogKind},
    equation::eventually,
    restores::{counts, restore, sealed, three},
};

const DAY: i64 = 86_400_000_000;

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

/// An archiver beside the cluster's other roles, so many days later.
pub(crate) struct Later {
    operator: Operator,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Later {
    pub(crate) fn start(cluster: &Cluster, days: i64) -> Self {
        let clock = Clock::new(move || now().plus_micros(days * DAY));
        let (upkeep, operator) = Upkeep::new(clock, None);
        let settings = &cluster.settings;
        let archiver = Archiver {
            config: settings.archiver.clone(),
            log: cluster.node.log.clone(),
            facts: cluster.node.facts.clone().unwrap(),
            archive: Archive::open(&settings.archive).unwrap(),
            database: None,
            ready: Readiness::new().component("archiver"),
            upkeep,
        };
        let shutdown = CancellationToken::new();
        let run = archiver.run(shutdown.clone());
        let task = tokio::spawn(async move { run.await.unwrap() });
        Self { operator, shutdown, task }
    }

    /// What is over its time goes; how much that was.
    pub(crate) async fn expire(&self) -> Summary {
        let mut said = self.operator.expire(false).await;
        while let Some(line) = said.recv().await {
            match line {
                Expiring::Overdue(_) | Expiring::Forgotten(_) => {}
                Expiring::Done(summary) => return summary,
                Expiring::Failed(error) => panic!("{error}"),
            }
        }
        panic!("the archiver stopped");
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

async fn listed(device: &Device, scope: &str, backup_type: &str) -> Vec<Value> {
    let listed = device.get(&format!("{scope}/backups?type={backup_type}")).await.ok();
    listed["backups"].as_array().unwrap().clone()
}

/// A scope of a kind, and how many days its fulls are kept.
struct Kept {
    path: String,
    kind: &'static str,
    name: &'static str,
    /// In the archive.
    folder: &'static str,
    days: i64,
}

/// The founding table.
fn each_kind() -> [Kept; 4] {
    let kept = |path, kind, name, folder, days| Kept { path, kind, name, folder, days };
    [
        kept(USER.to_owned(), "user", "ann", "users/ann", 90),
        kept(team("web"), "team", "web", "teams/web", 90),
        kept(project("shop"), "project", "shop", "projects/shop", 90),
        kept(org("acme"), "org", "acme", "org", 365),
    ]
}

impl Kept {
    /// WF-CS-008: its full in the catalogue, with all the founding metadata, and in the archive.
    async fn becomes_a_full(&self, ann: &Device) {
        let Self { path: scope, kind, name, folder, days } = self;
        let full = eventually("a full", async || listed(ann, scope, "full").await.pop()).await;
        let full = completed(ann, scope, full["id"].as_str().unwrap()).await;
        assert_eq!((&full["tenant_id"], &full["scope_type"]), (&json!("acme"), &json!(kind)));
        assert_eq!((&full["scope_id"], &full["backup_type"]), (&json!(name), &json!("full")));
        let digest = ann.pull(scope, "").await.ok()["digest"].clone();
        assert_eq!((&full["record_count"], &full["digest"]), (&json!(3), &digest));
        assert_eq!((&full["cursor_first"], &full["cursor_last"]), (&json!(1), &json!(3)));
        assert_eq!(time(&full["expires_at"]), time(&full["created_at"]).plus_micros(days * DAY));
        let path = full["gcs_path"].as_str().unwrap();
        assert!(path.contains(&format!("/tenants/acme/{folder}/full/2")), "{path}");
        let content = format!("{scope}/backups/{}/content", full["id"].as_str().unwrap());
        let bytes = ann.request(Method::GET, &content).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(json!(bytes.len()), full["size_bytes"]);
        let sha256 = archive::object::Sha256Hex::of_bytes(&bytes).0;
        assert_eq!(full["checksum"], format!("sha256:{sha256}"));
        assert_eq!(std::fs::read(path.strip_prefix("file://").unwrap()).unwrap(), bytes);
    }
}

async fn not_found(device: &Device, target: Value) {
    for (mode, dry_run) in [("merge", false), ("replace", false), ("merge", true)] {
        let mut body = target.clone();
        body["mode"] = json!(mode);
        body["dry_run"] = json!(dry_run);
        restore(device, USER, body).await.problem(404, "SYNC_003");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wf_cs_008_a_day_becomes_fulls_and_what_has_expired_is_not_restored_on_the_embedded_log() {
    wf_cs_008_a_day_becomes_fulls_and_what_has_expired_is_not_restored(LogKind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wf_cs_008_a_day_becomes_fulls_and_what_has_expired_is_not_restored_on_kafka() {
    wf_cs_008_a_day_becomes_fulls_and_what_has_expired_is_not_restored(LogKind::Kafka).await;
}

/// A day is 24 seconds: this waits for its end once, so both are one story.
async fn wf_cs_008_a_day_becomes_fulls_and_what_has_expired_is_not_restored(kind: LogKind) {
    let hours = "--archive-hour-seconds=1";
    let mut cluster = Cluster::start_archiving_with(kind, &[hours]).await;
    let ann = cluster.device_of("acme", "ann", OrgRole::Owner);
    // Not in the last hours of a day: their moments are the full's.
    let is_young = async || (now().as_micros() / 1_000_000 % 24 < 15).then_some(());
    eventually("a young day", is_young).await;
    ann.create_team("web", &[]).await;
    ann.create("/api/v1/projects/shop", &[]).await;
    for scope in each_kind() {
        ann.push(&scope.path, &three()).await.ok();
    }
    let hour = sealed(&ann, USER).await;
    for scope in each_kind() {
        scope.becomes_a_full(&ann).await;
    }
    let full = listed(&ann, USER, "full").await.remove(0);

    ann.push(USER, &[say("four")]).await.ok();
    let on_demand = back_up(&ann, USER).await;
    let by_id = json!({"backup_id": hour["id"]});
    let as_of = json!({"as_of": hour["created_at"]});
    // While the incremental is there, its moment is restored too.
    for target in [&by_id, &as_of] {
        let mut body = target.clone();
        (body["mode"], body["dry_run"]) = (json!("replace"), json!(true));
        assert_eq!(counts(&restore(&ann, USER, body).await.ok()), [0, 3, 1]);
    }

    // Eight days later it has expired: the full of its day covers it.
    cluster.restart(ALL).await;
    let ann = cluster.device("ann");
    let later = Later::start(&cluster, 8);
    eventually("the incremental is expired", async || {
        later.expire().await;
        let ids: Vec<Value> =
            listed(&ann, USER, "incremental").await.iter().map(|b| b["id"].clone()).collect();
        (!ids.contains(&hour["id"])).then_some(())
    })
    .await;
    let shown = format!("{USER}/backups/{}", hour["id"].as_str().unwrap());
    ann.get(&shown).await.problem(404, "SYNC_003");
    ann.get(&format!("{shown}/content")).await.problem(404, "SYNC_003");
    not_found(&ann, by_id).await;
    // A moment whose incrementals have expired is not taken for an earlier one.
    not_found(&ann, as_of).await;
    // What has its time still is restored.
    for (target, count) in [
        (json!({"backup_id": full["id"], "mode": "replace"}), 3),
        (json!({"backup_id": on_demand["id"], "mode": "replace"}), 4),
        (json!({"as_of": full["created_at"], "mode": "replace"}), 3),
    ] {
        restore(&ann, USER, target).await.ok();
        assert_eq!(ann.pull(USER, "").await.ok()["count"], count);
    }
    later.stop().await;
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    assert!(report.expired > 0);
    cluster.finish().await;
}
