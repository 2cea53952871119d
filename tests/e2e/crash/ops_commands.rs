//! `ops verify`, `expire` and `drill` as an operator runs them: the status, the one line, and what programs read.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Child, dev_command::device, run};
use crate::{
    backups::back_up,
    client::{Device, USER, say},
};

/// What a command came to.
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// The last line: the verdict.
    #[track_caller]
    fn says(&self, status: i32, begins: &str) -> &str {
        let last = self.out.lines().last().unwrap_or_default();
        let is_it = self.status == Some(status) && last.starts_with(begins);
        assert!(is_it, "{:?}: {} {}", self.status, self.out, self.err);
        last
    }

    #[track_caller]
    fn complains(&self, status: i32, of: &str) {
        let is_it = self.status == Some(status) && self.err.contains(of) && self.out.is_empty();
        assert!(is_it, "{:?}: {} {}", self.status, self.out, self.err);
    }

    /// A JSON object a line.
    #[track_caller]
    fn lines(&self, status: i32) -> Vec<Value> {
        assert_eq!(self.status, Some(status), "{} {}", self.out, self.err);
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn json(&self, status: i32) -> Value {
        assert_eq!(self.status, Some(status), "{} {}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

async fn ops(command: &str, rest: &[&str]) -> Ended {
    let ended = run(&[&["ops", command], rest].concat()).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: ended.status.code(), out: text(&ended.stdout), err: text(&ended.stderr) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_commands_say_what_is_well_and_what_is_not() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let data_dir = scratch.path().join("data");
    let (data, output) = (data_dir.to_str().unwrap(), scratch.path().join("dev.log"));
    ops("drill", &["--data-dir", data]).await.complains(3, "no instance was ever started on");
    let mut dev = Child::dev(&data_dir, &output, &[]).await;
    let ann = device(&dev, data).await;
    ops("drill", &["--data-dir", data]).await.says(0, "well: there is no backup to compare yet");
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    let backup = back_up(&ann, USER).await;
    let object = object(&ann, &backup).await;

    running(&dev, data, &backup, &object).await;

    dev.signal("TERM");
    assert!(dev.exit().await.success(), "{}", dev.said());
    ops("expire", &["--data-dir", data]).await.complains(1, "no instance answers on");
    verifying(data, &object).await;
}

/// Where the object of a backup is, without a checksum that says it was read.
async fn object(ann: &Device, backup: &Value) -> std::path::PathBuf {
    let content = format!("{USER}/backups/{}/content", backup["id"].as_str().unwrap());
    assert_eq!(ann.request(Method::GET, &content).send().await.unwrap().status(), 200);
    backup["gcs_path"].as_str().unwrap().strip_prefix("file://").unwrap().into()
}

/// What is done by the instance that runs, found by its directory or by its port.
async fn running(dev: &Child, data: &str, backup: &Value, object: &Path) {
    let here = ["--data-dir", data];
    let there = ["--ops-url", dev.ops_url.as_str()];
    for which in [here, there] {
        let [flag, value] = which;
        let expire = ops("expire", &[flag, value, "--dry-run"]).await;
        assert_eq!(
            expire.says(0, "0 backups"),
            "0 backups with 0 bytes and 0 tombstones would go; 0 backups over their time stay"
        );
        let expire = ops("expire", &which).await;
        assert_eq!(
            expire.says(0, "0 backups"),
            "0 backups with 0 bytes and 0 tombstones went; 0 backups over their time stay"
        );
        let expire = ops("expire", &[flag, value, "--json"]).await;
        let nothing = json!({"expired": 0, "bytes": 0, "stays": 0, "tombstones": 0});
        assert_eq!(expire.lines(0), [json!({ "done": nothing })]);

        let drill = ops("drill", &which).await;
        let well = "well: the newest backups of 1 scopes are what is live";
        assert_eq!(drill.says(0, "well"), well);
        let lines = ops("drill", &[flag, value, "--json", "--scopes", "1"]).await.lines(0);
        let done = json!({"done": {"scopes": 1, "failures": 0}});
        assert_eq!((lines.len(), &lines[1]), (2, &done), "{lines:?}");
        assert_eq!(lines[0]["scope"]["scope"], "acme/user/ann");
        assert_eq!(lines[0]["scope"]["backup_id"], backup["id"]);
        assert_eq!(lines[0]["scope"]["problem"], Value::Null);
    }
    ops("drill", &["--scopes", "0", "--data-dir", data]).await.complains(2, "--scopes");

    // With a damaged object the drill is not passed, and says why.
    let whole = std::fs::read(object).unwrap();
    std::fs::write(object, &whole[1..]).unwrap();
    let wrong = ops("drill", &here).await;
    wrong.says(1, "wrong: the newest backups of 1 of 1 scopes are not what is live");
    let named = format!("acme/user/ann: backup {}: ", backup["id"].as_str().unwrap());
    assert!(wrong.out.starts_with(&named), "{}", wrong.out);
    let lines = ops("drill", &["--data-dir", data, "--json"]).await.lines(1);
    assert!(lines[0]["scope"]["problem"].is_string(), "{lines:?}");
    assert_eq!(lines[1], json!({"done": {"scopes": 1, "failures": 1}}));
    std::fs::write(object, &whole).unwrap();
    ops("drill", &here).await.says(0, "well: ");
}

/// What needs no instance.
async fn verifying(data: &str, object: &Path) {
    let verified = ops("verify", &["--data-dir", data]).await;
    let line = verified.says(0, "well: ");
    assert!(line.contains(" 1 backups (1 states recomputed); no hour is sealed yet"), "{line}");
    let archive = format!("file://{data}/archive");
    let report = ops("verify", &["--archive", &archive, "--json"]).await.json(0);
    assert_eq!((&report["problems"], &report["backups"]), (&json!([]), &json!(1)));
    let read = report["objects_read"].as_u64().unwrap();
    assert!(read > 0, "{report}");
    // Two runs of two read what one reads.
    let mut sum = 0;
    for part in ["1/2", "2/2"] {
        let args = ["--archive", archive.as_str(), "--sample", part, "--json"];
        sum += ops("verify", &args).await.json(0)["objects_read"].as_u64().unwrap();
    }
    assert_eq!(sum, read);
    ops("verify", &["--data-dir", data, "--sample", "3/2"]).await.complains(2, "takes n/t");

    let whole = std::fs::read(object).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let path = object.to_str().unwrap().split_once("/archive/").unwrap().1;
    for (damage, bytes) in [("flipped", Some(&flipped)), ("missing", None)] {
        match bytes {
            Some(bytes) => std::fs::write(object, bytes).unwrap(),
            None => std::fs::remove_file(object).unwrap(),
        }
        let damaged = ops("verify", &["--data-dir", data]).await;
        damaged.says(1, "damaged: ");
        assert!(damaged.out.contains(&format!("{path}: ")), "{damage}: {}", damaged.out);
        let report = ops("verify", &["--data-dir", data, "--json"]).await.json(1);
        assert_eq!(report["problems"][0]["path"], path, "{damage}");
    }
    std::fs::write(object, &whole).unwrap();
    ops("verify", &["--data-dir", data]).await.says(0, "well: ");
}
