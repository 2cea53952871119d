//! Restores are executed once, whoever executes them and however often they are killed; and the archive of a log
//! with restores shows what that log folds to.

use std::time::{Duration, Instant};

use eventlog::partition_of;
use model::{
    Action, BackupId, BackupType, Command, Event, LogFold, OrgRole, Partition, RestoreCounts,
    RestoreId, RestoreMode, ScopeKey, Timestamp, Verdict, log_fold::FoldedScope,
};
use serde_json::{Value, json};

use crate::{
    archiving::{at, tick},
    bench::{Bench, open},
    commands::{command, push, say},
};

const DEADLINE: Duration = Duration::from_secs(60);
const ANN: &str = "acme/user/ann";
/// More than a few chunks.
const MESSAGES: usize = 700;

fn scope() -> ScopeKey {
    ANN.parse().unwrap()
}

fn full_of(day: &str) -> BackupId {
    BackupId::scheduled(&scope(), BackupType::Full, day)
}

fn request(mode: RestoreMode, backup: BackupId) -> (RestoreId, Command) {
    let restore = RestoreId(uuid::Uuid::new_v4());
    let source = Box::new(scope());
    let action = Action::RestoreRequested { restore, mode, backup, source };
    (restore, Command { org_role: OrgRole::Owner, ..command(ANN, "ann", action) })
}

/// The fold of all there is.
fn folded(bench: &Bench) -> LogFold {
    let mut fold = LogFold::default();
    for record in bench.log.all() {
        let event = schemas::decode(&record.value).ok();
        fold.apply(record.place(), record.append_time, &record.key, event.as_ref()).unwrap();
    }
    fold
}

fn ann(fold: &LogFold) -> &FoldedScope {
    &fold.scopes[&scope()]
}

fn is_over(bench: &Bench, id: RestoreId) -> bool {
    // An end that is not in its place is none.
    let claimed = bench.log.all().iter().any(|record| ends(record, id));
    if !claimed {
        return false;
    }
    let fold = folded(bench);
    let ended = |v: &Verdict| matches!(v, Verdict::RestoreEnded { restore } if *restore == id);
    ann(&fold).scope.commands.values().any(|known| ended(&known.outcome.verdict))
}

fn ends(record: &eventlog::Record, id: RestoreId) -> bool {
    // Chunks and pushes are long: not all of the log is decoded again and again.
    let is_short = record.value.len() < 1_000;
    let event = is_short.then(|| schemas::decode(&record.value).ok()).flatten();
    matches!(event, Some(Event::Command(Command {
        action: Action::RestoreCompleted { restore, .. } | Action::RestoreFailed { restore, .. }, ..
    })) if restore == id)
}

async fn over(bench: &Bench, id: RestoreId) {
    let deadline = Instant::now() + DEADLINE;
    while !is_over(bench, id) {
        assert!(Instant::now() < deadline, "the restore has not ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the restores of the log came to, each where it ended.
fn counts(bench: &Bench) -> Vec<RestoreCounts> {
    let (mut fold, mut counts) = (LogFold::default(), Vec::new());
    for record in bench.log.all() {
        let event = schemas::decode(&record.value).ok();
        let applied =
            fold.apply(record.place(), record.append_time, &record.key, event.as_ref()).unwrap();
        if let Some(applied) = applied
            && matches!(applied.outcome.verdict, Verdict::RestoreEnded { .. })
        {
            counts.extend(applied.restore.map(|record| record.restore.counts));
        }
    }
    counts
}

/// A day's messages, its full, and the next day, on which all of them are gone and others are there.
async fn lost() -> Bench {
    let bench = Bench::new(1);
    let messages: Vec<Value> = (0..MESSAGES).map(|n| say(&format!("message {n}"))).collect();
    for part in messages.chunks(100) {
        bench.log.at(at("2025-12-30T10:00:00Z"), &push(ANN, "ann", part));
    }
    tick(&bench, at("2025-12-31T00:00:00Z"));
    let fold = folded(&bench);
    let delete =
        |id: &model::MessageId| json!({"id": id, "deleted": true, "base_cursor": MESSAGES});
    let deletes: Vec<Value> = ann(&fold).messages.keys().map(delete).collect();
    for part in deletes.chunks(400) {
        bench.log.at(at("2025-12-31T08:00:00Z"), &push(ANN, "ann", part));
    }
    bench.log.at(at("2025-12-31T09:00:00Z"), &push(ANN, "ann", &[say("other"), say("message 7")]));
    assert_eq!(ann(&folded(&bench)).scope.heading.count, 2);
    bench
}

const DAY: &str = "2025-12-31";

/// The replace is done: what the full shows, and it was done once.
fn assert_replaced(bench: &Bench) {
    let fold = folded(bench);
    let heading = &ann(&fold).scope.heading;
    assert_eq!(heading.count, MESSAGES as u64);
    assert_eq!(heading.restore, None);
    // The derived id of "message 7" was revived: it is the backup's message already.
    let [counts] = counts(bench)[..] else { panic!("one restore") };
    assert_eq!((counts.restored + counts.skipped, counts.deleted), (MESSAGES as u64, 1));
    let digest = bench.fold_up_to(model::Partition::new(0), MESSAGES as u64 / 100);
    assert_eq!(heading.digest, ann(&digest).scope.heading.digest, "as before the loss");
}

#[tokio::test]
async fn an_executor_killed_anywhere_ends_it_once() {
    let bench = lost().await;
    let (id, request) = request(RestoreMode::Replace, full_of(DAY));
    bench.log.at(at("2025-12-31T10:00:00Z"), &request);
    let mut kills = 0;
    for millis in (20..).step_by(20) {
        let running = bench.start();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        running.kill().await;
        if is_over(&bench, id) {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "it was over before the first kill");
    assert_replaced(&bench);
}

#[tokio::test]
async fn two_executors_at_once_end_it_once() {
    let bench = lost().await;
    let (id, request) = request(RestoreMode::Replace, full_of(DAY));
    let running = [bench.start(), bench.start_with("other", open(&bench.folder))];
    bench.log.at(at("2025-12-31T10:00:00Z"), &request);
    over(&bench, id).await;
    for running in running {
        running.stop().await;
    }
    assert_replaced(&bench);
}

/// An hour with a restore in it is archived like any other, and its incremental can be restored.
#[tokio::test]
async fn the_archive_of_a_log_with_restores_shows_what_it_folds_to() {
    let bench = lost().await;
    let running = bench.start();
    let (merge, request_of_merge) = request(RestoreMode::Merge, full_of(DAY));
    bench.log.at(at("2025-12-31T10:00:00Z"), &request_of_merge);
    over(&bench, merge).await;
    let merged = ann(&folded(&bench)).scope.heading.clone();
    assert_eq!(merged.count, MESSAGES as u64 + 1);
    bench.log.at(at("2025-12-31T11:00:00Z"), &push(ANN, "ann", &[say("later")]));
    tick(&bench, at("2025-12-31T12:00:00Z"));
    bench.sealed().await;

    let hour = BackupId::scheduled(&scope(), BackupType::Incremental, "2025-12-31-10");
    let (replace, request_of_replace) = request(RestoreMode::Replace, hour);
    bench.log.at(at("2025-12-31T12:30:00Z"), &request_of_replace);
    over(&bench, replace).await;
    let heading = ann(&folded(&bench)).scope.heading.clone();
    assert_eq!((heading.count, heading.digest), (merged.count, merged.digest));
    assert!(heading.head > merged.head);
    tick(&bench, at("2026-01-01T00:00:00Z"));
    tick(&bench, at("2026-01-01T01:00:00Z"));
    bench.sealed().await;
    running.stop().await;
    assert!(bench.check().await > 5);
}

#[tokio::test]
async fn what_is_not_there_or_damaged_fails_and_changes_nothing() {
    let bench = lost().await;
    let running = bench.start();
    let before = ann(&folded(&bench)).scope.heading.clone();
    let (missing, request_of_missing) = request(RestoreMode::Merge, full_of("2025-12-29"));
    bench.log.at(at("2025-12-31T10:00:00Z"), &request_of_missing);
    over(&bench, missing).await;
    let path = bench.folder.join("tenants/acme/users/ann/full/2025-12-31.jsonl.gz");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (damaged, request_of_damaged) = request(RestoreMode::Replace, full_of(DAY));
    bench.log.at(at("2025-12-31T10:00:00Z"), &request_of_damaged);
    over(&bench, damaged).await;
    running.stop().await;
    let after = ann(&folded(&bench)).scope.heading.clone();
    assert_eq!((after.head, after.digest), (before.head, before.digest));
    let codes: Vec<String> = bench.log.all().iter().filter_map(failure).collect();
    assert_eq!(codes, ["SYNC_003", "SYNC_004"]);
    let nothing = RestoreCounts::default();
    assert_eq!(counts(&bench), [nothing, nothing]);
}

/// Somebody asks for it while others cannot know yet that all was erased: the backup is there until the hour is sealed.
#[tokio::test]
async fn what_was_erased_is_not_restored_from_what_is_not_deleted_yet() {
    let bench = lost().await;
    bench.log.at(at("2025-12-31T10:00:00Z"), &command(ANN, "ann", Action::ScopeErased));
    let (id, request) = request(RestoreMode::Merge, full_of(DAY));
    bench.log.at(at("2025-12-31T10:00:00Z"), &request);
    let running = bench.start();
    over(&bench, id).await;
    running.stop().await;
    let fold = folded(&bench);
    let heading = &ann(&fold).scope.heading;
    assert_eq!((heading.count, heading.head), (0, heading.erased));
    let codes: Vec<String> = bench.log.all().iter().filter_map(failure).collect();
    assert_eq!(codes, ["SYNC_003"]);
}

/// The source's erasure is on another partition, and folded later than the request.
#[tokio::test]
async fn what_was_erased_is_not_copied_before_its_own_partition_is_folded() {
    let bench = Bench::new(2);
    let named = |partition: u32| {
        let scopes = (0..).map(|n| format!("acme/user/u{n}"));
        let is_there = |key: &String| partition_of(key.as_bytes(), 2).get() == partition;
        scopes.clone().find(is_there).unwrap()
    };
    let (target, source) = (named(0), named(1));
    let user = |key: &str| key.rsplit('/').next().unwrap().to_owned();
    for key in [&target, &source] {
        bench.log.at(at("2025-12-30T10:00:00Z"), &push(key, &user(key), &[say("secret")]));
    }
    tick(&bench, at("2025-12-31T00:00:00Z"));
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;

    // What is read at once of the target's partition has the request, and nothing of the source's.
    let now = at("2025-12-31T00:00:01Z");
    (0..999).for_each(|_| idle(&bench, now, Partition::new(0)));
    (0..5_000).for_each(|_| idle(&bench, now, Partition::new(1)));
    let restore = RestoreId(uuid::Uuid::new_v4());
    let from: ScopeKey = source.parse().unwrap();
    let backup = BackupId::scheduled(&from, BackupType::Full, DAY);
    let (mode, source_key) = (RestoreMode::Merge, Box::new(from));
    let action = Action::RestoreRequested { restore, mode, backup, source: source_key };
    bench.log.at(now, &command(&target, &user(&target), action));
    bench.log.at(now, &command(&source, &user(&source), Action::ScopeErased));
    let running = bench.start();
    bench
        .eventually("it has ended", async || {
            bench.log.all().iter().any(|record| ends(record, restore))
        })
        .await;
    running.stop().await;
    let codes: Vec<String> = bench.log.all().iter().filter_map(failure).collect();
    assert_eq!(codes, ["SYNC_003"]);
}

fn idle(bench: &Bench, time: Timestamp, partition: Partition) {
    let value = bytes::Bytes::from(schemas::encode(&Event::Tick).unwrap());
    bench.log.put(time, partition, bytes::Bytes::new(), value);
}

fn failure(record: &eventlog::Record) -> Option<String> {
    match schemas::decode(&record.value).ok()? {
        Event::Command(Command { action: Action::RestoreFailed { code, .. }, .. }) => {
            Some(code.as_str().to_owned())
        }
        _ => None,
    }
}
