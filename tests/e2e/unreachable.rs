//! Operators' commands where a part of it is not there, or says nothing: they say which, in time, and change nothing.

use std::time::Duration;

use eventlog::{LogAddress, LogConfig};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use uuid::Uuid;

use crate::{
    client::{USER, contents, say},
    cluster::{Cluster, LogKind},
    crash::free_port,
    database::Database,
    equation::eventually,
    operators::{append, flags, letters, ops_with, park_unlucky, said, sql},
};

/// A command goes to log and database itself, says what it cannot reach, or that it may not, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_is_said_and_nothing_is_changed() {
    let cluster = Cluster::start(LogKind::Kafka).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    let place = append(&cluster, "acme/user/ann", b"no event".to_vec()).await;
    park_unlucky(&cluster, "ann").await;
    let own = flags(&cluster);
    assert_eq!(ops_with(&["check"], &own).await.status, 1, "parked");
    assert_eq!(ops_with(&["status"], &own).await.json()["dead_letters"]["refused"], 1);
    let with = |place: usize, flag: &str| {
        let mut flags = own.clone();
        flags[place] = flag.to_owned();
        flags
    };
    let no_log = with(0, &format!("--log=kafka://127.0.0.1:{}", free_port()));
    let no_topic = with(1, "--log-topic-prefix=no-such");
    let no_database = with(2, &format!("--database-url=postgres://x@127.0.0.1:{}/x", free_port()));
    let another = Database::migrated().await;
    let empty = with(2, &format!("--database-url={}", another.url()));
    let bare = Database::fresh().await;
    let unmigrated = with(2, &format!("--database-url={}", bare.url()));
    let (_, rest) = cluster.database.url().split_once("://").unwrap();
    let (_, host) = rest.split_once('@').unwrap();
    let login = format!("stranger_{}", Uuid::new_v4().simple());
    sql(&cluster, &format!("create role {login} login password 'x'")).await;
    let no_rights = with(2, &format!("--database-url=postgres://{login}:x@{host}"));

    let before = (cluster.ends().await, letters(&cluster).await);
    for (flags, part, why) in [
        (&no_log, "log", "cannot be reached"),
        (&no_topic, "log", "there is no topic no-such.events.v1"),
        (&no_database, "database", "cannot be used"),
        (&unmigrated, "database", "context-sync migrate"),
        (&no_rights, "database", "may not do this"),
    ] {
        let status = ops_with(&["status"], flags).await;
        let unasked = &status.json()["unasked"];
        assert_eq!((status.status, &unasked[0]["part"]), (3, &json!(part)), "{status:?}");
        assert!(unasked[0]["why"].as_str().unwrap().contains(why), "{why}: {unasked}");
        let check = ops_with(&["check"], flags).await;
        assert!(check.status == 3 && check.error.contains(why), "{why}: {check:?}");
        for what in ["retry", "discard"] {
            let all = ops_with(&["dead-letters", what, &place, "--yes"], flags).await;
            assert!(all.status == 3 && all.error.contains(why), "{why}: {all:?}");
        }
        assert_eq!((cluster.ends().await, letters(&cluster).await), before, "{why}");
    }
    // Another read model than this log's, that could be mended.
    let other = Cluster::start(LogKind::Kafka).await;
    other.device("eve").push(USER, &[say("x")]).await.ok();
    let refused_there = append(&other, "acme/user/fay", b"no event".to_vec()).await;
    park_unlucky(&other, "eve").await;
    sql(&other, "alter table messages drop constraint bug").await;
    let mixed = with(2, &format!("--database-url={}", other.database.url()));
    let status = ops_with(&["status"], &mixed).await;
    assert!(
        status.json()["problems"][0].as_str().unwrap().contains("the database is of log"),
        "{status:?}"
    );
    let before = (cluster.ends().await, other.ends().await, letters(&other).await);
    for args in [
        &["check"][..],
        &["trace", "0199f7c4-0000-7000-8000-000000000001"],
        &["dead-letters", "retry", "--scope=acme/user/eve", "--yes"],
        &["dead-letters", "retry", "--all", "--yes"],
        &["dead-letters", "retry", &refused_there, "--yes"],
        &["dead-letters", "discard", "--all", "--yes"],
        &["dead-letters", "discard", &refused_there, "--yes"],
    ] {
        let refused = ops_with(args, &mixed).await;
        assert!(
            refused.status == 3 && refused.error.contains("belong together"),
            "{args:?}: {refused:?}"
        );
        let after = (cluster.ends().await, other.ends().await, letters(&other).await);
        assert_eq!(after, before, "{args:?}");
    }
    // With its own log both are done.
    for args in [
        ["dead-letters", "retry", "--scope=acme/user/eve", "--yes"],
        ["dead-letters", "discard", &refused_there, "--yes"],
    ] {
        let done = ops_with(&args, &flags(&other)).await;
        assert_eq!(done.status, 0, "{args:?}: {done:?}");
    }
    assert_eq!(ops_with(&["check"], &empty).await.status, 3);
    // Nobody projects anything into it.
    let waits = ops_with(&["status", "--waiting-seconds-max=0"], &empty).await;
    let problem = waits.json()["problems"][0].as_str().unwrap_or_default().to_owned();
    assert!(waits.status == 1 && problem.contains("3 records are not projected"), "{waits:?}");
    // No process: an embedded log is asked through the one that holds it.
    let nobody =
        said(&["ops", "status", &format!("--ops-url=http://127.0.0.1:{}", free_port())]).await;
    assert!(nobody.status == 3 && nobody.error.contains("no instance answers"), "{nobody:?}");
    let none = said(&["ops", "check", "--data-dir=/nonexistent"]).await;
    assert!(none.status == 3 && none.error.contains("no instance was ever started"), "{none:?}");

    sql(&cluster, "alter table messages drop constraint bug").await;
    let retried =
        ops_with(&["dead-letters", "retry", "--scope=acme/user/ann", "--yes"], &own).await;
    assert!(retried.lines.iter().any(|line| line.contains("folded")), "{retried:?}");
    assert_eq!(retried.status, 1, "what is no event is left");
    eventually("the pull shows it", async || {
        let page = ann.pull(USER, "").await;
        (page.status == 200 && contents(&page.body) == ["one", "unlucky"]).then_some(())
    })
    .await;
    other.finish().await;
    cluster.finish().await;
}

/// How long a command may take to say that a part of it is not there: it waits for 10 s for a server that says nothing.
const SAID_WITHIN: Duration = Duration::from_secs(45);

/// What each command says of log, database and archive where one of them is not there, or says nothing: in time, what it
/// was and where to look; and nothing is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_end_where_a_part_is_not_there_and_make_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let archive = |name: &str| format!("--archive=file://{}", path(name));
    std::fs::create_dir_all(path("empty")).unwrap();
    let segment = scratch.path().join(format!("lost/segments/{}/partition=0", Uuid::new_v4()));
    std::fs::create_dir_all(&segment).unwrap();
    std::fs::write(segment.join("0.avro"), b"raw").unwrap();
    let log = LogConfig::new(LogAddress::Embedded);
    let log = eventlog::open(&log, &scratch.path().join("log")).await.unwrap();
    log.close().await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("postgres://x@{}/x", silent.local_addr().unwrap());
    let mute = mute_after_login().await;
    let closed = free_port();
    let (migrated, bare) = (Database::migrated().await, Database::fresh().await);
    let front = dev::gcs::Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap();

    let here = format!("rebuild --here --log-dir={}", path("log"));
    let drill = format!("drill {}", archive("empty"));
    let database = |url: &str| format!("--database-url={url}");
    let (with_rows, no_server) =
        (database(migrated.url()), database(&format!("postgres://x@127.0.0.1:{closed}/x")));
    let nowhere = format!("127.0.0.1:{closed}/x cannot be used");
    let no_database = database(&format!("{}_gone", migrated.url()));
    let kafka = format!("--log=kafka://127.0.0.1:{closed}");
    let lost = format!("recover --yes {} --data-dir={}", archive("lost"), path("data"));
    let into = format!("--log-dir={}", path("new"));
    let no_store = format!("--archive=gs://backups --archive-endpoint=http://127.0.0.1:{closed}");
    let no_bucket = format!("--archive=gs://no-such --archive-endpoint={}", front.url());
    let mut cases: Vec<(String, &str)> = Vec::new();
    for command in [&here, &drill] {
        cases.push((format!("{command} {no_server}"), &nowhere));
        cases.push((format!("{command} {}", database(&silent)), "no answer within"));
        cases.push((format!("{command} {}", database(&mute)), "no answer within"));
        cases.push((format!("{command} {no_database}"), "_gone\" does not exist"));
        cases.push((format!("{command} {}", database(bare.url())), "context-sync migrate"));
    }
    let commands = [
        format!("{here} {with_rows}"),
        format!("drill {with_rows}"),
        format!("recover {into} --yes"),
        "verify".to_owned(),
    ];
    for command in &commands {
        cases.push((format!("{command} {}", archive("gone")), "gone is missing: check --archive"));
        cases.push((format!("{command} {no_store}"), "check gs://backups/ (--archive)"));
        cases.push((format!("{command} {no_bucket}"), "bucket is missing"));
    }
    let no_log = "the log cannot be reached";
    cases.push((format!("rebuild --here {kafka} {with_rows}"), no_log));
    cases.push((format!("{lost} {kafka}"), no_log));
    cases.push((
        format!("rebuild --here --log-dir={} {with_rows}", path("no-log")),
        "name another --log",
    ));
    let listed = || std::fs::read_dir(scratch.path()).unwrap().count();
    let before = listed();
    // One command's cases follow each other: an embedded log is held.
    let ends = ["rebuild", "drill", "recover", "verify"].map(|command| {
        let own = cases.iter().filter(move |(line, _)| line.starts_with(command));
        async move {
            for (line, reason) in own {
                // To recover is to do something, the others find something out.
                let status = if command == "recover" { 1 } else { 3 };
                ends_saying(line, status, reason).await;
            }
        }
    });
    futures_util::future::join_all(ends).await;
    assert_eq!(listed(), before, "nothing is made");
}

/// A Postgres that lets everybody in, and says nothing any more.
async fn mute_after_login() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://x@{}/x?sslmode=disable", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut let_in = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut startup = [0; 4_096];
            let _ = connection.read(&mut startup).await;
            let welcome = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
            let _ = connection.write_all(welcome).await;
            let_in.push(connection);
        }
    });
    url
}

/// Whoever asks in vain is told of which server, whether it lets in or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_says_nothing_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("postgres://x@{}/x", silent.local_addr().unwrap());
    let no_log = format!("--log=kafka://127.0.0.1:{}", free_port());
    let mut cases = Vec::new();
    for url in [silent, mute_after_login().await] {
        let at = url.split(['@', '?']).nth(1).unwrap().to_owned();
        for (command, status) in [
            (format!("ops status {no_log}"), 3),
            ("ops quota show --tenant acme --database-statement-timeout-ms=3000".to_owned(), 1),
            ("migrate --database-statement-timeout-ms=3000".to_owned(), 1),
        ] {
            cases.push((format!("{command} --database-url={url}"), status, at.clone()));
        }
    }
    let ends = cases.iter().map(async |(line, status, at)| {
        let args: Vec<&str> = line.split(' ').collect();
        let ended = tokio::time::timeout(SAID_WITHIN, said(&args)).await;
        let ended = ended.unwrap_or_else(|_| panic!("it goes on: {line}"));
        let text = format!("{}{}", ended.lines.join("\n"), ended.error);
        let expected = format!("Postgres at {at} cannot be used: ");
        assert!(ended.status == *status && text.contains(&expected), "{line}: {ended:?}");
        assert!(text.contains("no answer within"), "{line}: {ended:?}");
    });
    futures_util::future::join_all(ends).await;
}

async fn ends_saying(line: &str, status: i32, reason: &str) {
    let args: Vec<&str> = ["ops"].into_iter().chain(line.split(' ')).collect();
    let ended = tokio::time::timeout(SAID_WITHIN, said(&args)).await;
    let ended = ended.unwrap_or_else(|_| panic!("it goes on: {line}"));
    assert!(ended.status == status && ended.error.contains(reason), "{line}: {ended:?}");
    assert!(!ended.error.contains("panicked") && ended.lines.is_empty(), "{line}: {ended:?}");
}
