//! `context-sync demo`, the README's first command: every step comes out as it must.

use serde_json::Value;

use super::{binary, run};
use crate::histories::make_up;

/// In the order of the story.
const STEPS: [&str; 14] = [
    "instance",
    "history",
    "second device",
    "deduplication",
    "last write wins",
    "update beats delete",
    "a stranger",
    "a viewer",
    "a former member",
    "backup",
    "restore: replace",
    "restore: merge",
    "ops verify",
    "an analyst",
];

/// How to go on by hand: a token, a push and a pull of an instance that stays.
fn shows_how_to_go_on(out: &str) {
    let (_, then) =
        out.split_once("`make run` keeps an instance running. Then, elsewhere:").unwrap();
    let context = "http://127.0.0.1:8080/api/v1/context";
    let curl = "curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: ";
    let token = format!("TOKEN=$({} token --tenant demo --user ann)", binary().display());
    for line in
        [token, format!("{curl}laptop' {context}/push \\"), format!("{curl}phone' {context}/pull")]
    {
        assert!(then.lines().any(|found| found.trim() == line), "{line}: {then}");
    }
    let body = then.lines().find_map(|line| line.trim().strip_prefix("-d '")?.strip_suffix('\''));
    let body: Value = serde_json::from_str(body.unwrap()).unwrap();
    assert_eq!(body["messages"][0]["type"], "decision");
}

/// Of a small repository. What is told where there is none, `demo/history.rs` tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demonstration_comes_out_as_it_must() {
    let folder = tempfile::tempdir().unwrap();
    make_up(folder.path(), 40, &["Ann", "Bob"], ["basket", "invoice", "stock", "till", "van"]);
    let ended = run(&["demo", "--git", folder.path().to_str().unwrap()]).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&ended.stdout), text(&ended.stderr));
    assert!(ended.status.success(), "{out}{err}");
    let rows: Vec<&str> = out.lines().filter(|line| line.contains('✓')).collect();
    assert_eq!(rows.len(), STEPS.len(), "{out}");
    for (row, step) in rows.iter().zip(STEPS) {
        assert!(row.starts_with(step), "{step}: {row}");
    }
    assert!(!out.contains("FAILED") && out.contains("All in "), "{out}");
    assert!(out.contains("40 commits (1 empty) by 2 people"), "{out}");
    shows_how_to_go_on(&out);
}

#[test]
fn make_demo_names_the_repository_that_it_is_told_or_this_one() {
    let made = |more: &[&str]| {
        let mut make = std::process::Command::new("make");
        make.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        make.args(["--dry-run", "demo"]).args(more).env_remove("MAKEFLAGS").env_remove("GIT");
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap()
    };
    assert!(made(&[]).contains("context-sync -- demo --git '.'"));
    assert!(made(&["GIT=../a repository"]).contains("demo --git '../a repository'"));
}
