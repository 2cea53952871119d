//! `context-sync demo`, the README's first command: every step comes out as it must.

use super::run;

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

/// Of a folder without a history: the built-in messages are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demonstration_comes_out_as_it_must() {
    let folder = tempfile::tempdir().unwrap();
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
    assert!(out.contains("12 messages by 3 people"), "{out}");
}
