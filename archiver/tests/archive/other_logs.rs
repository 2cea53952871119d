//! An archive is one log's. Archivers and projectors refuse another log's, and a log that was given up or whose recovery
//! is not done: nothing is written, however little it would take.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use archiver::{ArchiverError, NewLog, Recovering};
use bytes::Bytes;
use eventlog::{EventLog, LogAddress, LogConfig};
use model::{Event, Partition, RulesVersion, UnknownRules};
use projector::{Projector, ProjectorError};
use readmodel::feed::Feed;
use service::ops::Readiness;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    archiving::{a_day, at, tick},
    bench::{Bench, open},
    commands::{push, say},
    cut_logs::user_of,
    database::Database,
    gaps::{Setting, batches},
    recovering::{archive_all, recovery},
    segments::SOON,
};

/// What a log is refused for is written at once where it is not refused: a minute is over for every record.
const LATER: &str = "2100-01-01T00:00:00Z";
/// Whoever comes first once may come second the next time.
const STARTS: usize = 10;

/// A log that was archived, and what it was folded to.
async fn archived() -> Setting {
    let mut setting = Setting::new().await;
    a_day(&setting.bench);
    setting.project().await;
    archive_all(&setting.bench, "cache").await;
    setting.bench.segments = SOON;
    setting.bench.set_time(at(LATER));
    setting
}

/// A new log of as many partitions, as a machine has it.
async fn embedded(dir: &Path) -> Arc<dyn EventLog> {
    let config = LogConfig { log_partitions: Some(2), ..LogConfig::new(LogAddress::Embedded) };
    eventlog::open(&config, dir).await.unwrap()
}

/// Somebody pushes to it.
async fn used(log: &Arc<dyn EventLog>) {
    for user in ["ann", "bob"] {
        let key = format!("acme/user/{user}");
        let value = schemas::encode_command(&push(&key, user, &[say("new")])).unwrap();
        log.append(key.into(), value.into()).await.unwrap();
    }
}

/// Recovers the archived log into another one, until it has said enough.
pub(crate) async fn recover(
    bench: &Bench,
    into: &Arc<dyn EventLog>,
    enough: impl Fn(&Recovering) -> bool,
) {
    let recovery = recovery(bench).await;
    let judged = recovery.judge(NewLog::There(into.as_ref())).await.unwrap();
    let (say, mut said) = mpsc::channel(1);
    let running =
        tokio::spawn(judged.run(into.clone(), bench.facts.clone(), say, CancellationToken::new()));
    loop {
        let line = said.recv().await.unwrap();
        if enough(&line) {
            break;
        }
        assert!(!matches!(line, Recovering::Failed(_)), "{line:?}");
    }
    drop(said);
    running.await.unwrap();
}

/// How archivers refuse a log, whose records are all that there is to write.
async fn archiver(bench: &Bench, log: &Arc<dyn EventLog>) -> ArchiverError {
    let before = (bench.objects(), bench.said());
    let mut errors = Vec::new();
    for _ in 0..STARTS {
        let running = bench.start_on(log.clone(), "another cache", open(&bench.folder));
        let readiness = running.readiness.clone();
        let error = running.error().await;
        assert_eq!(readiness.components()[0].reason, Some(error.to_string()));
        assert_eq!((bench.objects(), bench.said()), before, "{error}");
        errors.push(error);
    }
    errors.pop().unwrap()
}

/// How a projector refuses a log, for an empty read model or one that it has folded before.
async fn projector(bench: &Bench, log: &Arc<dyn EventLog>, database: &Database) -> ProjectorError {
    let before = rows(database).await;
    let readiness = Readiness::new();
    let projector = Projector {
        config: batches(),
        database: database.config.clone(),
        log: log.clone(),
        facts: None,
        archive: Some(bench.archive.clone()),
        feed: Feed::new(true),
        ready: readiness.component("projector"),
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), projector.run(Default::default()));
    let error = ended.await.unwrap().unwrap_err();
    assert_eq!(readiness.components()[0].reason, Some(error.to_string()));
    assert_eq!(rows(database).await, before);
    error
}

/// Whose the rows are, and how far they go.
async fn rows(database: &Database) -> (bool, Option<i64>) {
    let query =
        "select exists (select from source), (select sum(next_offset)::bigint from positions)";
    sqlx::query_as(query).fetch_one(&mut database.owner().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_log_on_the_archive_of_another() {
    let (setting, dir) = (archived().await, tempfile::tempdir().unwrap());
    let (bench, old) = (&setting.bench, setting.bench.log.log_id());
    let log = embedded(dir.path()).await;
    used(&log).await;
    let error = archiver(bench, &log).await;
    assert!(
        matches!(&error, ArchiverError::OtherLogs { log: own, logs } if *own == log.log_id() && *logs == [old]),
        "{error}"
    );
    let error = projector(bench, &log, &Database::migrated().await).await;
    assert!(
        matches!(&error, ProjectorError::OtherArchive { log: own, logs } if *own == log.log_id() && *logs == [old]),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_given_up_and_one_whose_recovery_was_stopped() {
    let (setting, dir) = (archived().await, tempfile::tempdir().unwrap());
    let bench = &setting.bench;
    let given_up: Arc<dyn EventLog> = bench.log.clone();
    let log = embedded(dir.path()).await;
    // It comes to the first base, and to say so, but not to what it would have to say before it writes the second.
    recover(bench, &log, |line| matches!(line, Recovering::Sealed { .. })).await;
    for is_done in [false, true] {
        if is_done {
            recover(bench, &log, |line| matches!(line, Recovering::Done(_))).await;
        }
        // Whoever did not hear of it goes on pushing.
        used(&given_up).await;
        let error = archiver(bench, &given_up).await;
        assert!(
            matches!(error, ArchiverError::GivenUp { log: own, into } if own == given_up.log_id() && into == log.log_id()),
            "{error}"
        );
        for database in [&setting.database, &Database::migrated().await] {
            let error = projector(bench, &given_up, database).await;
            assert!(
                matches!(error, ProjectorError::GivenUp { log: own, into } if own == given_up.log_id() && into == log.log_id()),
                "{error}"
            );
        }
        if !is_done {
            let (own, second) = (log.log_id(), Partition::new(1));
            let error = archiver(bench, &log).await;
            assert!(
                matches!(error, ArchiverError::Unrecovered { log, partition } if (log, partition) == (own, second)),
                "{error}"
            );
            let error = projector(bench, &log, &Database::migrated().await).await;
            assert!(
                matches!(error, ProjectorError::Unrecovered { log, partition } if (log, partition) == (own, second)),
                "{error}"
            );
        }
    }
}

/// Whoever knows them goes on from there: what this build made of the rest would not be what the log says.
#[tokio::test]
async fn rules_that_this_build_does_not_know_stop_it_there() {
    let bench = Bench::new(2);
    a_day(&bench);
    let known = Bench::with_log_of(&bench);
    archive_all(&known, "cache").await;
    let first = Partition::new(0);
    let unknown = schemas::encode(&Event::RulesChanged { version: RulesVersion(99) }).unwrap();
    bench.log.put(at("2025-12-31T01:30:00Z"), first, Bytes::new(), unknown.into());
    let user = user_of(&bench, first);
    let after = push(&format!("acme/user/{user}"), &user, &[say("after")]);
    bench.log.at(at("2025-12-31T02:30:00Z"), &after);
    tick(&bench, at("2026-01-02T00:00:00Z"));
    for cache in ["cache", "cache", "another cache"] {
        let running = bench.start_with(cache, open(&bench.folder));
        let readiness = running.readiness.clone();
        let error = running.error().await;
        let ArchiverError::UnknownRules(UnknownRules(RulesVersion(99))) = error else {
            panic!("{error}")
        };
        let reason = readiness.components()[0].reason.clone().unwrap();
        assert!(reason.contains("upgrade"), "{reason}");
        let of_first = |names: BTreeSet<String>| -> Vec<String> {
            names.into_iter().filter(|name| !name.contains("partition=1")).collect()
        };
        assert_eq!(of_first(bench.names()), of_first(known.names()));
    }
}
