//! `ops check` with an archive: rows, log and what is read back from the bucket, the three of them.

use archive::{
    Archive,
    manifest::{BackupObject, ManifestReader, ManifestWriter, ScopeLine},
    object::{LinesWriter, Object},
};
use eventlog::partition_of;
use serde_json::{Value, json};

use crate::{
    client::{Device, USER, say, team},
    cluster::{ALL, Cluster, LogKind},
    operators::{Said, flags, ops, ops_with, said},
    recovering::sealed,
};

archiving_on_both_logs! {
    a_check_compares_what_the_archive_comes_to,
}

/// As typed; the sums, and what was said of each scope.
async fn check(cluster: &Cluster, args: &[&str]) -> (Said, Value, Vec<Value>) {
    let said = match cluster.kind {
        LogKind::Embedded => ops(cluster, &[&["check"], args].concat()).await,
        LogKind::Kafka => {
            let Some(address) = &cluster.settings.archive.archive else { panic!("an archive") };
            let mut flags = flags(cluster);
            flags.push(format!("--archive={address}"));
            ops_with(&[&["check"], args].concat(), &flags).await
        }
    };
    let mut lines = said.objects();
    let sums = lines.pop().unwrap_or_default();
    lines.retain(|line| line["scope"].is_string());
    (said, sums, lines)
}

/// Two scopes, edited and deleted in; all of it is sealed.
async fn story(cluster: &Cluster) -> (Device, Archive) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    let pushed = ann.push(&team("web"), &[say("one"), say("two"), say("three")]).await.ok();
    let id = |n: usize| pushed["results"][n]["id"].clone();
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, cluster.node.log.as_ref()).await;
    let edit = json!({"id": id(0), "type": "decision", "content": "uno", "base_cursor": 1});
    let delete = json!({"id": id(1), "deleted": true, "base_cursor": 2});
    ann.push(&team("web"), &[edit, delete]).await.ok();
    ann.push(USER, &[say("mine")]).await.ok();
    sealed(&archive, cluster.node.log.as_ref()).await;
    (ann, archive)
}

async fn a_check_compares_what_the_archive_comes_to(cluster: &mut Cluster) {
    let (ann, archive) = story(cluster).await;
    // Nothing comes in between: what is sealed stays the newest of the scope.
    cluster.restart(ALL).await;
    let (well, sums, scopes) = check(cluster, &["--each"]).await;
    assert_eq!((well.status, &sums["archive"]), (0, &json!("asked")), "{well:?}");
    let counts = ["scopes", "archived_scopes", "archived_messages"].map(|key| sums[key].clone());
    assert_eq!(counts, [2, 2, 4].map(Value::from), "{sums}");
    assert_eq!(scopes.len(), 2);
    for scope in &scopes {
        assert_eq!((&scope["rows"], &scope["archive"]), (&json!("agrees"), &json!("agrees")));
    }
    let (quiet, _, scopes) = check(cluster, &[]).await;
    assert_eq!((quiet.lines.len(), scopes.len()), (1, 0), "{quiet:?}");
    // What is not sealed yet is not held against it.
    drop(ann);
    let ann = cluster.device("ann");
    ann.push(USER, &[say("another")]).await.ok();
    cluster.device("cy").push(USER, &[say("cy's")]).await.ok();
    let (well, _, scopes) = check(cluster, &["--each"]).await;
    assert_eq!(well.status, 0, "{well:?}");
    let of = |scope: &str| scopes.iter().find(|line| line["scope"] == scope).unwrap().clone();
    assert_eq!(of("acme/user/ann")["archive"], "agrees");
    assert_eq!(of("acme/user/cy")["archive"], "not_yet");

    // An object that says otherwise, and a manifest that says that it should.
    let key = "acme/team/web";
    let before = alter(&archive, cluster, key, |line| {
        let mut message: Value = serde_json::from_str(line).unwrap();
        message["device_id"] = json!("another");
        message.to_string()
    })
    .await;
    let (wrong, sums, scopes) = check(cluster, &[]).await;
    let text = wrong.lines.join("\n");
    assert_eq!((wrong.status, &sums["differ"]), (1, &json!(1)), "{wrong:?}");
    assert!(text.contains("in the archive is another by the log"), "{text}");
    let expected = json!({"scope": key, "rows": "agrees", "archive": "differs"});
    assert_eq!(scopes, std::slice::from_ref(&expected));
    let (own, _, scopes) = check(cluster, &["--scope", key]).await;
    assert_eq!((own.status, scopes), (1, vec![expected]));
    let (other, _, scopes) = check(cluster, &["--scope", "acme/user/ann"]).await;
    assert_eq!((other.status, scopes.len()), (0, 1), "{other:?}");
    // One that is damaged, and one that is missing.
    std::fs::write(&before.0, b"damaged").unwrap();
    for problem in ["is damaged", "is not in the archive"] {
        let (wrong, _, scopes) = check(cluster, &[]).await;
        assert!(wrong.status == 1 && wrong.lines[0].contains(problem), "{wrong:?}");
        assert_eq!(scopes[0]["archive"], "differs");
        let _ = std::fs::remove_file(&before.0);
    }
    std::fs::write(&before.0, &before.1).unwrap();
    std::fs::write(&before.2, &before.3).unwrap();
    assert_eq!(check(cluster, &[]).await.0.status, 0);

    // One that cannot be asked is named, and the rest is compared.
    if cluster.kind == LogKind::Kafka {
        let missing = format!("--archive=file://{}/missing", before.0);
        // As a bucket that was emptied, or another one.
        let empty = tempfile::tempdir().unwrap();
        let empty = Some(format!("--archive=file://{}", empty.path().display()));
        let nothing = "the archive has nothing, and the catalogue has";
        for (more, why) in
            [(Some(missing), "is missing"), (None, "none is named"), (empty, nothing)]
        {
            let flags = [flags(cluster), Vec::from_iter(more)].concat();
            let unasked = ops_with(&["check"], &flags).await;
            let sums = unasked.json();
            assert_eq!((unasked.status, &sums["differ"]), (3, &json!(0)), "{unasked:?}");
            assert!(sums["archive"]["unasked"].as_str().unwrap().contains(why), "{sums}");
        }
    }
}

/// Re-makes the object of a scope's newest hour with other lines, and its manifest, so that the two agree. Returns
/// where both were, and what they were.
async fn alter(
    archive: &Archive,
    cluster: &Cluster,
    scope: &str,
    other: impl Fn(&str) -> String,
) -> (String, Vec<u8>, String, Vec<u8>) {
    let log = cluster.node.log.as_ref();
    let partition = partition_of(scope.as_bytes(), log.partitions());
    let names = archive::history::Names::list(archive, log.log_id(), partition).await.unwrap();
    for path in names.hours().rev() {
        let mut manifest = ManifestReader::new(archive.fetch(&path).await.unwrap(), &path).unwrap();
        let header = manifest.header.clone();
        let mut lines: Vec<ScopeLine> = Vec::new();
        while let Some(line) = manifest.next_scope().unwrap() {
            lines.push(line);
        }
        let found = lines.iter_mut().find(|line| line.scope.to_string() == scope);
        let Some(backup) = found.and_then(|line| line.backup.as_mut()) else { continue };
        let of = backup.path.clone();
        let was = (bytes(archive, &of).await, bytes(archive, &path).await);
        remake(archive, backup, other).await;
        let mut writer = ManifestWriter::new(archive.scratch(), &header).unwrap();
        lines.iter().for_each(|line| writer.push(line).unwrap());
        replace(archive, &path, writer.finish().unwrap()).await;
        let file = |path: &str| archive.url(path).strip_prefix("file://").unwrap().to_owned();
        return (file(&of), was.0, file(&path), was.1);
    }
    panic!("no hour has a backup of {scope}");
}

async fn remake(archive: &Archive, backup: &mut BackupObject, other: impl Fn(&str) -> String) {
    let mut lines = archive.fetch(&backup.path).await.unwrap().lines(&backup.path).unwrap();
    let mut writer = LinesWriter::new(archive.scratch());
    while let Some(line) = lines.next_line().unwrap() {
        writer.push(other(std::str::from_utf8(&line).unwrap()).as_bytes()).unwrap();
    }
    let object = writer.finish().unwrap();
    backup.sha256 = object.sha256.clone();
    backup.content_sha256 = object.content_sha256.clone();
    backup.size_bytes = object.size_bytes;
    replace(archive, &backup.path, object).await;
}

async fn bytes(archive: &Archive, path: &str) -> Vec<u8> {
    archive.fetch(path).await.unwrap().bytes().unwrap()
}

async fn replace(archive: &Archive, path: &str, mut object: Object) {
    assert!(archive.delete(path).await.unwrap());
    archive.create(path, &mut object).await.unwrap();
}

/// Without an archive rows and log are compared, and it is said that no more was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_archive_a_check_says_so() {
    let cluster = Cluster::start(LogKind::Embedded).await;
    cluster.device("ann").push(USER, &[say("one")]).await.ok();
    let checked = ops(&cluster, &["check", "--each"]).await;
    let lines = checked.objects();
    assert_eq!((checked.status, lines.len()), (0, 2), "{checked:?}");
    let expected = json!({"scope": "acme/user/ann", "rows": "agrees", "archive": "not_asked"});
    assert_eq!((&lines[0], &lines[1]["archive"]), (&expected, &json!("none")));
    let port = format!("--ops-url={}", cluster.node.ops_url);
    let text = said(&["ops", "check", "--each", &port]).await.lines;
    assert_eq!(text[0], "acme/user/ann: rows: as the log; archive: not asked");
    assert_eq!(text[1], "archive: not asked: none is named");
    assert!(text[2].starts_with("well: the rows of 1 scopes"), "{text:?}");
    cluster.finish().await;
}
