//! `ops rebuild` while devices push and pull; and epochs, where cursors say something else afterwards.

use std::{path::Path, process::Stdio};

use archive::Archive;
use projector::{Projector, ProjectorError, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use readmodel::feed::Feed;
use serde_json::{Value, json};
use service::ops::Readiness;
use sqlx::Connection;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};

use crate::{
    client::{Device, Reply, USER, contents, say, statuses, team},
    cluster::{ARCHIVING, Cluster, LogKind},
    crash::{binary, load::Load},
    database::Database,
    equation::{DEADLINE, eventually},
    operators::{flags, ops_with, said},
    recovering::sealed,
    replica::Replica,
};

both_logs! {
    a_rebuild_goes_on_while_devices_push_and_pull,
    cursors_that_say_something_else_are_of_another_epoch,
}

archiving_on_both_logs! {
    the_catalogue_and_restores_are_as_they_were,
    an_epoch_outlives_the_database,
}

/// Asks on the ops port; what it said before, and what it came to.
async fn rebuild(cluster: &Cluster, query: &str) -> (Vec<Value>, Value) {
    let url = format!("{}/rebuild?{query}", cluster.node.ops_url);
    let answer = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    let mut lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let last = lines.pop().unwrap();
    assert!(last["done"].is_object(), "{last}");
    (lines, last["done"].clone())
}

async fn a_rebuild_goes_on_while_devices_push_and_pull(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let load = Load::start(&ann).await;
    load.goes_on(30).await;
    let mut replica = Replica::default();
    replica.catch_up(&ann, USER, 100).await;
    let epoch = ann.pull(USER, "").await.ok()["epoch"].clone();
    for query in ["dry_run=true", "scope=acme/team/t", ""] {
        let (_, done) = rebuild(cluster, query).await;
        assert_eq!(done["differing"], 0, "{query}");
        assert_eq!(
            (&done["swapped"], &done["epoch"]),
            (&json!(query != "dry_run=true"), &Value::Null)
        );
        load.goes_on(10).await;
        // The device goes on from its cursor.
        replica.catch_up(&ann, USER, 100).await;
    }
    load.stop().await;
    assert_eq!(ann.pull(USER, "").await.ok()["epoch"], epoch);
    let fold = cluster.check().await;
    replica.catch_up(&ann, USER, 100).await;
    replica.assert_is(&fold, &"acme/user/ann".parse().unwrap());
}

async fn cursors_that_say_something_else_are_of_another_epoch(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    for device in [&ann, &bob] {
        device.push(USER, &["one", "two", "three"].map(say)).await.ok();
    }
    let before = ann.pull(USER, "").await.ok()["epoch"].as_str().unwrap().to_owned();
    other_cursors(cluster).await;
    let (lines, done) = rebuild(cluster, "").await;
    assert_eq!((&done["differing"], &done["swapped"]), (&json!(1), &json!(true)));
    assert!(lines.iter().any(|line| line["differs"]["scope"] == "acme/user/ann"), "{lines:?}");
    let after = done["epoch"].as_str().unwrap();
    assert_ne!(after, before);
    let pull = |device: &Device, cursor: u64, epoch: &str| {
        let (device, query) = (device.clone(), format!("cursor={cursor}&epoch={epoch}"));
        async move { device.pull(USER, &query).await }
    };
    let problem = pull(&ann, 2, &before).await.problem(409, "SYNC_001");
    assert_eq!(
        (&problem["base"], &problem["head"], &problem["epoch"]),
        (&json!(0), &json!(3), &json!(after))
    );
    assert_eq!(contents(&pull(&ann, 0, &before).await.ok()), ["one", "two", "three"]);
    assert_eq!(contents(&pull(&ann, 2, after).await.ok()), ["three"]);
    // Bob's were not touched: his devices carry on.
    let page = pull(&bob, 2, &before).await.ok();
    assert_eq!(contents(&page), ["three"]);
    assert_eq!((&page["base"], &page["epoch"]), (&json!(3), &json!(after)));
    // Nothing is kept of an epoch that never was.
    let nil = uuid::Uuid::nil().to_string();
    pull(&bob, 1, &nil).await.problem(409, "SYNC_001");
    let id = page["messages"][0]["id"].clone();
    for (epoch, status) in [(nil.as_str(), "superseded"), (before.as_str(), "deleted")] {
        let delete = json!({"id": id, "deleted": true, "base_cursor": 3});
        let body = json!({"messages": [delete], "epoch": epoch});
        let request = bob.request(reqwest::Method::POST, "/api/v1/context/push").json(&body);
        assert_eq!(statuses(&Reply::of(request).await.ok()), [status]);
    }
}

/// As if other rules had given out Ann's cursors.
async fn other_cursors(cluster: &Cluster) {
    let change =
        "update messages m set cursor = cursor + 10 from scopes s where s.scope = m.scope and s.name = 'ann';
         update scopes set head = head + 10 where name = 'ann'";
    sqlx::raw_sql(change).execute(&cluster.database.owner_pool()).await.unwrap();
}

async fn an_epoch_outlives_the_database(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &["one", "two", "three"].map(say)).await.ok();
    let before = ann.pull(USER, "").await.ok()["epoch"].as_str().unwrap().to_owned();
    other_cursors(cluster).await;
    let (_, done) = rebuild(cluster, "").await;
    assert!(done["epoch"].is_string());
    let after = done["epoch"].as_str().unwrap();
    // A database that is lost begins one too, which keeps all that the log has.
    for _ in 0..2 {
        cluster.lose_the_database().await;
        let ann = cluster.device("ann");
        ann.pull(USER, &format!("cursor=2&epoch={before}")).await.problem(409, "SYNC_001");
        let page = ann.pull(USER, &format!("cursor=2&epoch={after}")).await.ok();
        assert_eq!((contents(&page), &page["base"]), (vec!["three"], &json!(3)));
    }
}

async fn the_catalogue_and_restores_are_as_they_were(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[]).await;
    let web = team("web");
    ann.push(&web, &["one", "two"].map(say)).await.ok();
    let backup = crate::backups::back_up(&ann, &web).await;
    let body = json!({"backup_id": backup["id"], "mode": "replace"});
    let request = ann.request(reqwest::Method::POST, &format!("{web}/restore")).json(&body);
    let restored = Reply::of(request).await.ok();
    let paths = [
        format!("{web}/backups/{}", backup["id"].as_str().unwrap()),
        format!("{web}/restores/{}", restored["restore_id"].as_str().unwrap()),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(ann.get(path).await.ok());
    }
    rebuild(cluster, "").await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(ann.get(path).await.ok(), before);
    }
    crate::backups::back_up(&ann, &web).await;
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => std::fs::copy(entry.path(), target).map(|_| ()).unwrap(),
        }
    }
}

/// What is lost of a log is no reason to lose the rest: devices whose cursors are within it carry on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_cut_is_gone_on_from_in_a_new_epoch() {
    let mut cluster = Cluster::start(LogKind::Embedded).await;
    let ann = cluster.device("ann");
    ann.push(USER, &["one", "two", "three"].map(say)).await.ok();
    let mut old = Replica::default();
    old.catch_up(&ann, USER, 100).await;
    let kept = tempfile::tempdir().unwrap();
    cluster.stopped(async |log: &Path| copy(log, kept.path())).await;
    let ann = cluster.device("ann");
    ann.push(USER, &["lost", "two more"].map(say)).await.ok();
    let epoch = ann.pull(USER, "").await.ok()["epoch"].as_str().unwrap().to_owned();
    let (settings, owner) = (cluster.settings.clone(), cluster.database.config.clone());
    let mut came_to = None;
    cluster
        .stopped(async |dir: &Path| {
            std::fs::remove_dir_all(dir).unwrap();
            copy(kept.path(), dir);
            let log = eventlog::open(&settings.log, dir).await.unwrap();
            let rebuild = async |cut_log: bool| {
                let (say, mut said) = mpsc::channel(64);
                let (config, database) = (settings.projector.clone(), owner.clone());
                let (log, archive, feed) = (log.clone(), None, Feed::new(false));
                let rebuilder = Rebuilder { config, database, log, archive, feed };
                let request = RebuildRequest { cut_log, ..RebuildRequest::default() };
                let running = tokio::spawn(rebuilder.run(request, say, Default::default()));
                let mut last = None;
                while let Some(line) = said.recv().await {
                    last = Some(line);
                }
                running.await.unwrap();
                last.unwrap()
            };
            match rebuild(false).await {
                Rebuilding::Failed(reason) => assert!(reason.contains("--cut-log"), "{reason}"),
                other => panic!("{other:?}"),
            }
            came_to = Some(rebuild(true).await);
            log.close().await.unwrap();
        })
        .await;
    let Some(Rebuilding::Done(Rebuilt { epoch: Some(new), .. })) = came_to else {
        panic!("{came_to:?}")
    };
    let ann = cluster.device("ann");
    let page = ann.pull(USER, &format!("cursor=3&epoch={epoch}")).await.ok();
    assert_eq!((&page["base"], &page["epoch"], &page["head"]), (&json!(3), &json!(new), &json!(3)));
    ann.pull(USER, &format!("cursor=5&epoch={epoch}")).await.problem(409, "SYNC_001");
    ann.push(USER, &["after", "another"].map(say)).await.ok();
    // Never again is a cursor taken for what it was.
    let problem = ann.pull(USER, &format!("cursor=5&epoch={epoch}")).await.problem(409, "SYNC_001");
    assert_eq!(problem["base"], 3);
    old.catch_up(&ann, USER, 100).await;
    let fold = cluster.check().await;
    old.assert_is(&fold, &"acme/user/ann".parse().unwrap());
    cluster.finish().await;
}

/// A database that is lost with the end of the log is not filled again as if nothing was missing: the archive knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_the_archive_knows_to_be_longer_is_refused() {
    let mut cluster = Cluster::start_archiving(LogKind::Embedded).await;
    cluster.device("ann").push(USER, &[say("kept")]).await.ok();
    let kept = tempfile::tempdir().unwrap();
    cluster.stopped(async |log: &Path| copy(log, kept.path())).await;
    cluster.restart(ARCHIVING).await;
    cluster.device("ann").push(USER, &["one", "two"].map(say)).await.ok();
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    sealed(&archive, cluster.node.log.as_ref()).await;
    let fresh = Database::migrated().await;
    let cut = eventlog::open(&cluster.settings.log, kept.path()).await.unwrap();
    let refusal = async || {
        let readiness = Readiness::new();
        let projector = Projector {
            config: cluster.settings.projector.clone(),
            database: fresh.config.clone(),
            log: cut.clone(),
            facts: None,
            archive: Some(archive.clone()),
            feed: Feed::new(true),
            ready: readiness.component("projector"),
        };
        projector.run(Default::default()).await.unwrap_err()
    };
    let error = refusal().await;
    assert!(matches!(error, ProjectorError::ArchiveAhead { .. }), "{error}");
    assert!(error.to_string().contains("ops recover"), "{error}");
    // Nor if it has gone on since: what it has where the archive ends is something else.
    for partition in (0..cut.partitions()).map(model::Partition::new) {
        for _ in 0..=cluster.node.log.bounds(partition).await.unwrap().end.get() {
            let tick = schemas::encode(&model::Event::Tick).unwrap();
            cut.append_to(partition, "".into(), tick.into()).await.unwrap();
        }
    }
    let error = refusal().await;
    assert!(matches!(error, ProjectorError::ArchiveOtherwise(_)), "{error}");
    assert!(error.to_string().contains("ops recover"), "{error}");
    cut.close().await.unwrap();
    cluster.finish().await;
}

/// Whoever asks and goes away stops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_nobody_listens_to_stops() {
    let cluster = Cluster::start(LogKind::Embedded).await;
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    let url = format!("{}/rebuild", cluster.node.ops_url);
    drop(reqwest::Client::new().post(url).send().await.unwrap());
    eventually("another one may begin", async || {
        let url = format!("{}/rebuild?dry_run=true", cluster.node.ops_url);
        let answer = reqwest::Client::new().post(url).send().await.ok()?;
        answer.text().await.ok()?.contains("\"done\"").then_some(())
    })
    .await;
    cluster.finish().await;
}

/// As an operator types it: in a process of its own, beside a cluster that runs, and in one of the cluster's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_is_asked_for_refused_stopped_and_gone_on_with() {
    let cluster = Cluster::start(LogKind::Kafka).await;
    let ann = cluster.device("ann");
    ann.push(USER, &["one", "two", "three"].map(say)).await.ok();
    let own = flags(&cluster);
    let here = async |args: &[&str], flags: &[String]| {
        let said = ops_with(&[&["rebuild", "--here"], args].concat(), flags).await;
        let done = said.objects().pop().map(|last| last["done"].clone()).unwrap_or_default();
        (said, done)
    };
    let (well, done) = here(&["--dry-run"], &own).await;
    assert_eq!((well.status, &done["scopes"], &done["differing"]), (0, &json!(1), &json!(0)));
    // What is mistyped is not made: it is not there the second time either.
    let mut typo = own.clone();
    typo[1] = format!("--log-topic-prefix=no-such-{}", uuid::Uuid::new_v4().simple());
    for _ in 0..2 {
        let (none, _) = here(&["--dry-run"], &typo).await;
        assert!(none.status == 3 && none.error.contains("there is no topic no-such-"), "{none:?}");
    }
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("typo");
    let (log, database) = (format!("--log-dir={}", directory.display()), own[2].clone());
    let (none, _) = here(&["--log=embedded", &log], &[database]).await;
    assert!(none.status == 3 && none.error.contains("there is no embedded log in"), "{none:?}");
    assert!(!directory.exists());
    let (none, _) = here(&["--scope=acme/user/nobody", "--dry-run"], &own).await;
    assert!(none.status == 3 && none.error.contains("no scope acme/user/nobody"), "{none:?}");

    let damage = "update messages set json = replace(json, 'two', 'TWO')";
    sqlx::query(damage).execute(&cluster.pool).await.unwrap();
    let (wrong, done) = here(&["--dry-run"], &own).await;
    assert_eq!((wrong.status, &done["differing"]), (1, &json!(1)), "{wrong:?}");
    // Somebody reads for long: the swap waits, and Ctrl-C ends it.
    let mut owner = cluster.database.owner().await;
    let mut reading = owner.begin().await.unwrap();
    let lock = "lock table messages in access share mode";
    sqlx::query(lock).execute(&mut *reading).await.unwrap();
    let error = stopped_once_compared(&own).await;
    assert!(error.contains("started again, it goes on"), "{error}");
    reading.rollback().await.unwrap();
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "TWO", "three"], "as it was");
    let (mended, done) = here(&[], &own).await;
    assert_eq!(mended.status, 0, "{mended:?}");
    let of = |key: &str| done[key].clone();
    assert_eq!(["resumed", "swapped", "differing"].map(of), [json!(true), json!(true), json!(1)]);
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "two", "three"]);
    let port = format!("--ops-url={}", cluster.node.ops_url);
    let asked = said(&["ops", "rebuild", &port, "--dry-run"]).await;
    let well = "well: the rows of 1 scopes are what the log comes to";
    assert_eq!((asked.status, asked.lines), (0, vec![well.to_owned()]));
    cluster.finish().await;
}

/// Interrupts a rebuild that waits for the tables; what it says.
async fn stopped_once_compared(flags: &[String]) -> String {
    let mut command = tokio::process::Command::new(binary());
    command.args(["ops", "rebuild", "--here"]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut rebuilding = command.spawn().unwrap();
    let mut lines = BufReader::new(rebuilding.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("compared") {}
    let interrupt = ["-INT".to_owned(), rebuilding.id().unwrap().to_string()];
    assert!(std::process::Command::new("kill").args(interrupt).status().unwrap().success());
    let ended = tokio::time::timeout(DEADLINE, rebuilding.wait_with_output()).await;
    let ended = ended.expect("it ends").unwrap();
    assert_eq!(ended.status.code(), Some(3), "it was not done");
    String::from_utf8_lossy(&ended.stderr).into_owned()
}
