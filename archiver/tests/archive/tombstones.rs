//! Tombstones expire by an event, once they are over their time; the archive shows what the log then folds to.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use archiver::{Expiring, Forgotten, KeptDays};
use model::{
    Action, BackupId, Command, CommandId, Cursor, Event, MessageId, OrgRole, RestoreId,
    RestoreMode, ScopeKey,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    archiving::tick,
    bench::{Bench, Running},
    commands::{command, create, push, say},
    expiring::{is_well, midnight, summary},
};

const ANN: &str = "acme/user/ann";
const WEB: &str = "acme/team/web";
const HOUR: i64 = 3_600_000_000;

fn id(n: u128) -> MessageId {
    MessageId(Uuid::from_u128(n))
}

fn message(n: u128) -> Value {
    json!({"id": id(n), "type": "decision", "content": format!("message {n}")})
}

fn delete(n: u128, base: u64) -> Value {
    json!({"id": id(n), "deleted": true, "base_cursor": base})
}

/// The expiries on the log: of which scope, and up to where.
fn expiries(bench: &Bench) -> Vec<(CommandId, ScopeKey, Cursor)> {
    let events = bench.log.all().into_iter().filter_map(|r| schemas::decode(&r.value).ok());
    let expiry = |event| match event {
        Event::Command(Command {
            id, scope, action: Action::TombstonesExpired { up_to }, ..
        }) => Some((id, scope, up_to)),
        _ => None,
    };
    events.filter_map(expiry).collect()
}

fn forgotten(said: &[Expiring]) -> Vec<(&str, u64, u64)> {
    let forgotten = said.iter().filter_map(|line| match line {
        Expiring::Forgotten(Forgotten { scope, up_to, tombstones }) => {
            Some((scope.as_str(), up_to.get(), *tombstones))
        }
        _ => None,
    });
    forgotten.collect()
}

/// The day before is over, and sealed.
async fn end_day(bench: &Bench, day: i64) {
    tick(bench, midnight(day));
    tick(bench, midnight(day).plus_micros(HOUR));
    bench.sealed().await;
}

/// What an archiver expires when it begins is done; from then on it is so many days later.
async fn later(bench: &Bench, running: &Running, day: i64) {
    assert_eq!(summary(&running.expire(false).await).tombstones, 0);
    bench.set_time(midnight(day));
}

/// Of ann's, one is deleted last; of the team's, one on the first day and one 60 days later.
async fn deleted(bench: &Bench) {
    let first = midnight(0).plus_micros(HOUR);
    bench.log.at(first, &push(ANN, "ann", &[message(1), message(2), message(3)]));
    bench.log.at(first, &push(ANN, "ann", &[delete(2, 3)]));
    bench.log.at(first, &create(WEB, "ann"));
    bench.log.at(first, &push(WEB, "ann", &[message(1), message(2), message(3)]));
    bench.log.at(first.plus_micros(HOUR), &push(WEB, "ann", &[delete(1, 3)]));
    end_day(bench, 1).await;
    bench.log.at(midnight(60), &push(WEB, "ann", &[delete(2, 3)]));
    end_day(bench, 61).await;
}

/// A new cache, made from what the archive has.
async fn elsewhere(bench: &Bench) -> Running {
    let sealed = bench.sealed_until(model::Partition::new(0)).await;
    bench.log.cut(model::Partition::new(0), sealed);
    bench.start_with("another cache", bench.archive.clone())
}

#[tokio::test]
async fn what_is_over_its_time_is_forgotten_and_the_archive_shows_it() {
    let mut bench = Bench::new(1);
    // No backup expires meanwhile.
    bench.retention.retention_full_days = KeptDays::all(365);
    bench.retention.retention_incremental_days = KeptDays::all(0);
    let running = bench.start();
    deleted(&bench).await;
    bench.set_time(midnight(90).plus_micros(HOUR - 1));
    assert_eq!(summary(&running.expire(false).await).tombstones, 0);
    bench.set_time(midnight(91));
    end_day(&bench, 91).await;
    let before = bench.log.all().len();
    let said = running.expire(true).await;
    let mut expected = [(ANN, 4, 1), (WEB, 4, 1)];
    let sorted = |said: &[Expiring]| {
        let mut forgotten: Vec<_> =
            forgotten(said).into_iter().map(|(scope, ..)| scope.to_owned()).collect();
        forgotten.sort_unstable();
        forgotten
    };
    assert_eq!((sorted(&said), summary(&said).tombstones), (vec![WEB.into(), ANN.into()], 2));
    assert_eq!(bench.log.all().len(), before, "a dry run changes nothing");
    let said = running.expire(false).await;
    let mut found = forgotten(&said);
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let (scopes, ids): (BTreeSet<_>, Vec<_>) = expiries(&bench)
        .into_iter()
        .map(|(id, scope, up_to)| {
            ((scope.to_string(), up_to.get()), id == CommandId::of_expiry(&scope, up_to))
        })
        .unzip();
    assert_eq!((scopes.len(), ids), (2, vec![true, true]));
    // What is forgotten is not over its time any more.
    assert_eq!(summary(&running.expire(false).await).tombstones, 0);
    assert_eq!(expiries(&bench).len(), 2);

    // Nothing changed but the floor: no incremental, and the full of ann's is carried on.
    let backups = bench.paths("tenants");
    end_day(&bench, 92).await;
    assert_eq!(bench.paths("tenants"), backups);
    bench.check().await;
    is_well(&bench).await;
    running.stop().await;

    // Of the carried full a new cache takes what has not expired, and goes on to the same bytes.
    let running = elsewhere(&bench).await;
    bench.log.at(midnight(92).plus_micros(HOUR), &push(ANN, "ann", &[say("later")]));
    bench.log.at(midnight(92).plus_micros(HOUR), &push(WEB, "ann", &[message(1)]));
    end_day(&bench, 93).await;
    assert_eq!(summary(&running.expire(false).await).tombstones, 0);
    bench.sealed().await;
    running.stop().await;
    bench.check().await;
    is_well(&bench).await;
    let mut alone = Bench::with_log_of(&bench);
    alone.retention = bench.retention.clone();
    alone.set_time(midnight(93));
    let running = alone.start();
    alone.sealed().await;
    running.stop().await;
    assert_eq!(alone.differs_from(&bench), [""; 0]);
}

/// An hour is archived with its deletions before they are forgotten.
#[tokio::test]
async fn what_was_deleted_in_the_open_hour_waits_for_its_end() {
    let bench = Bench::new(1);
    let running = bench.start();
    let first = midnight(0).plus_micros(HOUR);
    bench.log.at(first, &push(ANN, "ann", &[message(1), message(2)]));
    bench.log.at(first, &push(ANN, "ann", &[delete(1, 2)]));
    tick(&bench, first.plus_micros(HOUR));
    bench.log.at(first.plus_micros(HOUR), &push(ANN, "ann", &[delete(2, 2)]));
    bench.sealed().await;
    later(&bench, &running, 200).await;
    assert_eq!(forgotten(&running.expire(false).await), [(ANN, 3, 1)]);
    tick(&bench, first.plus_micros(2 * HOUR));
    bench.sealed().await;
    assert_eq!(forgotten(&running.expire(false).await), [(ANN, 4, 1)]);
    tick(&bench, first.plus_micros(3 * HOUR));
    bench.sealed().await;
    running.stop().await;
    bench.check().await;
    is_well(&bench).await;
}

#[tokio::test]
async fn what_a_running_restore_counts_on_waits_and_never_is_never() {
    let mut bench = Bench::new(1);
    deleted_in_an_hour(&bench, 1);
    bench.log.is_closed.store(true, Ordering::SeqCst);
    let request = Action::RestoreRequested {
        restore: RestoreId(Uuid::from_u128(1)),
        mode: RestoreMode::Merge,
        backup: BackupId(Uuid::from_u128(2)),
        source: Box::new(ANN.parse().unwrap()),
    };
    let request = Command { org_role: OrgRole::Owner, ..command(ANN, "ann", request) };
    bench.log.at(midnight(0).plus_micros(3 * HOUR), &request);
    tick(&bench, midnight(0).plus_micros(4 * HOUR));
    let running = bench.start();
    bench.sealed().await;
    later(&bench, &running, 200).await;
    assert_eq!(forgotten(&running.expire(true).await), []);
    running.stop().await;
    // No manifest lists that backup: the restore fails, and then they go; but not where they are kept for ever.
    bench.log.is_closed.store(false, Ordering::SeqCst);
    bench.retention.tombstone_days = 0;
    let running = bench.start();
    let failed = |r: &eventlog::Record| {
        matches!(
            schemas::decode(&r.value),
            Ok(Event::Command(Command { action: Action::RestoreFailed { .. }, .. }))
        )
    };
    bench.eventually("the restore has ended", async || bench.log.all().iter().any(failed)).await;
    assert_eq!(forgotten(&running.expire(true).await), []);
    running.stop().await;
    bench.retention.tombstone_days = 199;
    let running = bench.start();
    // By itself: nobody has to ask.
    bench.eventually("they expire", async || !expiries(&bench).is_empty()).await;
    let (_, scope, up_to) = expiries(&bench).remove(0);
    assert_eq!((scope.to_string().as_str(), up_to.get()), (ANN, 2));
    running.stop().await;
}

/// So many messages, and then their tombstones, in an hour that is over.
fn deleted_in_an_hour(bench: &Bench, count: u128) {
    let ids: Vec<u128> = (1..=count).collect();
    let time = midnight(0).plus_micros(HOUR);
    for part in ids.chunks(500) {
        let messages: Vec<Value> = part.iter().map(|n| message(*n)).collect();
        bench.log.at(time, &push(ANN, "ann", &messages));
    }
    for part in ids.chunks(500) {
        let deletes: Vec<Value> = part.iter().map(|n| delete(*n, count as u64)).collect();
        bench.log.at(time, &push(ANN, "ann", &deletes));
    }
    tick(bench, time.plus_micros(HOUR));
}

/// An event lets go of 10,000 at most: a projector deletes so many rows at once.
#[tokio::test]
async fn many_tombstones_go_by_several_events() {
    let bench = Bench::new(1);
    deleted_in_an_hour(&bench, 10_003);
    let running = bench.start();
    bench.sealed().await;
    later(&bench, &running, 200).await;
    assert_eq!(forgotten(&running.expire(false).await), [(ANN, 20_006, 10_003)]);
    let up_to: Vec<u64> = expiries(&bench).into_iter().map(|(.., up_to)| up_to.get()).collect();
    assert_eq!(up_to, [20_003, 20_006]);
    assert_eq!(summary(&running.expire(false).await).tombstones, 0);
    running.stop().await;
}
