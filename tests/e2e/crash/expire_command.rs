//! `ops expire` where something is over its time: what would go is listed, and then goes, from bucket and catalogue.

use std::{collections::BTreeSet, path::Path, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use service::{
    Secret,
    auth::{OrgRole, sign_hs256},
};

use super::{
    Child,
    chaos::{ann, flags, open},
    clock::Clock,
};
use crate::{
    backups::back_up,
    client::{Device, USER, contents, say},
    cluster::SECRET,
    database::Database,
    equation::{self, eventually},
    operators::{Said, said},
    restores::{restore, sealed, three},
};

const DAY: Duration = Duration::from_secs(24 * 3_600);
const ANN: &str = "acme/user/ann";

/// Incrementals are kept for 7 days, what is asked for for ever; fulls and tombstones for 5 here, so that one of each is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_its_time_is_listed_and_then_goes() {
    let (database, dir) = (Database::migrated().await, tempfile::tempdir().unwrap());
    let (clock, log_dir) = (Clock::build(dir.path()), dir.path().join("log"));
    let own = [
        format!("--log-dir={}", log_dir.display()),
        format!("--archive=file://{}", dir.path().join("archive").display()),
        format!("--archive-cache={}", dir.path().join("archiver").display()),
        "--retention-full-days=5".to_owned(),
        "--tombstone-days=5".to_owned(),
    ];
    let flags = flags(database.url(), &own);
    let mut node = Child::serve("ingest,projector,archiver,api", &flags, dir.path()).await;
    let mut ann = ann(&node);
    ann.token = lasting_token();

    let archived = Archived::begin(&ann, &clock, &mut node).await;
    // By a clock that is this far ahead of the log nothing is over, until the log has another time.
    clock.set_ahead(&mut node, 10).await;
    let nothing =
        "0 backups with 0 bytes and 0 tombstones would go; 0 backups over their time stay";
    assert_eq!(expire(&node, &["--dry-run"]).await.lines, [nothing]);
    assert!(node.said().contains("the log's newest record is more than a day old"));
    ann.push(USER, &[say("four")]).await.ok();

    archived.would_go(&ann, &node).await;
    archived.goes(&ann, &node).await;

    node.signal("TERM");
    assert!(node.exit().await.success(), "{}", node.said());
    let verified = said(&["ops", "verify", &own[1]]).await;
    let line = verified.lines.last().unwrap();
    let expired = format!("({} expired, ", archived.over.len());
    assert!(verified.status == 0 && line.contains(&expired), "{verified:?}");
    let fold = equation::check(open(&flags, &log_dir).await.as_ref(), &database.owner_pool()).await;
    assert_eq!(fold.scopes[&ANN.parse().unwrap()].scope.heading.floor.get(), 4);
}

/// Of one who uses it for days.
fn lasting_token() -> String {
    sign_hs256(&Secret::new(SECRET), "ann", "acme", OrgRole::Member, DAY * 30).unwrap()
}

async fn expire(node: &Child, rest: &[&str]) -> Said {
    let port = ["ops", "expire", "--ops-url", &node.ops_url];
    let expired = said(&[&port, rest].concat()).await;
    assert_eq!(expired.status, 0, "{expired:?}");
    expired
}

/// What the catalogue shows before something expires.
struct Archived {
    /// The incrementals.
    over: Vec<Value>,
    full: Value,
    on_demand: Value,
}

impl Archived {
    /// Three messages, one of them deleted, backed up; a day later its hour and its day are sealed.
    async fn begin(ann: &Device, clock: &Clock, node: &mut Child) -> Self {
        let pushed = ann.push(USER, &three()).await.ok();
        let id = &pushed["results"][0]["id"];
        ann.push(USER, &[json!({"id": id, "deleted": true, "base_cursor": 1})]).await.ok();
        let on_demand = back_up(ann, USER).await;
        clock.set_ahead(node, 1).await;
        sealed(ann, USER).await;
        let full = eventually("a full", async || {
            listed(ann, "full").await.pop().filter(|full| full["verified_at"].is_string())
        })
        .await;
        Self { over: listed(ann, "incremental").await, full, on_demand }
    }

    async fn would_go(&self, ann: &Device, node: &Child) {
        let said = expire(node, &["--dry-run"]).await;
        assert_eq!(rows(&said), self.expected("would go"));
        let sums = format!(
            "{} backups with {} bytes and 1 tombstones would go; 1 backups over their time stay",
            self.over.len(),
            self.bytes()
        );
        assert_eq!(said.lines.last(), Some(&sums));
        // To programs the same.
        let mut objects = expire(node, &["--dry-run", "--json"]).await.objects();
        let done =
            json!({"expired": self.over.len(), "bytes": self.bytes(), "stays": 1, "tombstones": 1});
        assert_eq!(objects.pop().unwrap(), json!({ "done": done }));
        let paths = objects.iter().filter(|line| line["overdue"]["fate"] == "goes");
        let paths: BTreeSet<&str> =
            paths.map(|line| line["overdue"]["path"].as_str().unwrap()).collect();
        assert_eq!(paths, self.over.iter().map(path).collect());
        // And it is only said.
        for backup in self.over.iter().chain([&self.full, &self.on_demand]) {
            assert_eq!(&kept(ann, backup).await, backup);
        }
        assert_eq!(ann.pull(USER, "").await.ok()["floor"], 0);
        assert!(!node.said().contains("expired a backup"), "{}", node.said());
    }

    async fn goes(&self, ann: &Device, node: &Child) {
        let said = expire(node, &[]).await;
        assert_eq!(rows(&said), self.expected("gone"));
        let sums = format!(
            "{} backups with {} bytes and 1 tombstones went; 1 backups over their time stay",
            self.over.len(),
            self.bytes()
        );
        assert_eq!(said.lines.last(), Some(&sums));
        let log = node.said();
        for backup in &self.over {
            assert!(!file(backup).exists(), "{backup}");
            let names_it =
                |line: &&str| line.contains("expired a backup") && line.contains(path(backup));
            assert_eq!(log.lines().filter(names_it).count(), 1, "{log}");
            is_not_shown(ann, backup).await;
        }
        // An hour may have ended since.
        let left = listed(ann, "incremental").await;
        assert!(left.iter().all(|backup| self.over.iter().all(|over| over["id"] != backup["id"])));
        for backup in [&self.full, &self.on_demand] {
            assert_eq!(&kept(ann, backup).await, backup);
        }
        let page = eventually("the tombstone is forgotten", async || {
            let page = ann.pull(USER, "").await.ok();
            (page["floor"] == 4).then_some(page)
        })
        .await;
        assert_eq!(contents(&page), ["two", "three", "four"]);
        // The next one finds what stays.
        let again = expire(node, &[]).await;
        assert_eq!(rows(&again), BTreeSet::from([self.stays()]));
        let sums = "0 backups with 0 bytes and 0 tombstones went; 1 backups over their time stay";
        assert_eq!(again.lines.last().unwrap(), sums);
    }

    /// The rows of the table.
    fn expected(&self, what: &str) -> BTreeSet<Vec<String>> {
        let mut expected: BTreeSet<_> = self.over.iter().map(|over| row(over, what)).collect();
        let tombstones = ["tombstones", ANN, "to cursor 4", "-", &format!("1 {what}")];
        expected.insert(tombstones.map(str::to_owned).into());
        expected.insert(self.stays());
        expected
    }

    fn stays(&self) -> Vec<String> {
        row(&self.full, "stays: the scope's newest full")
    }

    fn bytes(&self) -> u64 {
        self.over.iter().map(|backup| backup["size_bytes"].as_u64().unwrap()).sum()
    }
}

fn row(backup: &Value, what: &str) -> Vec<String> {
    let period = archive::path::name(path(backup)).unwrap();
    let of = backup["backup_type"].as_str().unwrap();
    [of, ANN, period, &backup["size_bytes"].to_string(), what].map(str::to_owned).into()
}

/// The cells of the table, below its head.
fn rows(said: &Said) -> BTreeSet<Vec<String>> {
    let cells = |line: &String| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(cells(&said.lines[0]), ["TYPE", "SCOPE", "PERIOD", "BYTES", "WHAT"]);
    said.lines[2..].iter().map(cells).take_while(|cells| !cells.is_empty()).collect()
}

async fn listed(ann: &Device, backup_type: &str) -> Vec<Value> {
    let listed = ann.get(&format!("{USER}/backups?type={backup_type}")).await.ok();
    listed["backups"].as_array().unwrap().clone()
}

/// A backup that can be had: as the catalogue shows it.
async fn kept(ann: &Device, backup: &Value) -> Value {
    let id = backup["id"].as_str().unwrap();
    let content = ann.request(Method::GET, &format!("{USER}/backups/{id}/content")).send().await;
    assert_eq!(content.unwrap().bytes().await.unwrap(), std::fs::read(file(backup)).unwrap());
    ann.get(&format!("{USER}/backups/{id}")).await.ok()
}

/// One that has expired: the catalogue hears of it, and shows it to nobody.
async fn is_not_shown(ann: &Device, backup: &Value) {
    let shown = format!("{USER}/backups/{}", backup["id"].as_str().unwrap());
    eventually("it is marked in the catalogue", async || {
        (ann.get(&shown).await.status == 404).then_some(())
    })
    .await;
    ann.get(&shown).await.problem(404, "SYNC_003");
    ann.get(&format!("{shown}/content")).await.problem(404, "SYNC_003");
    let body = json!({"backup_id": backup["id"], "mode": "merge"});
    restore(ann, USER, body).await.problem(404, "SYNC_003");
}

/// Where it lies in the archive.
fn path(backup: &Value) -> &str {
    backup["gcs_path"].as_str().unwrap().split_once("/archive/").unwrap().1
}

fn file(backup: &Value) -> &Path {
    Path::new(backup["gcs_path"].as_str().unwrap().strip_prefix("file://").unwrap())
}
