//! Retention, as the founding table has it; time is what the test says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use archive::{
    history,
    verify::{Sample, verify},
};
use archiver::{Expiring, Fate, KeptDays, Overdue, Stays, Summary};
use eventlog::{EventLog, partition_of};
use model::{
    Action, BackupId, BackupType, Fact, LogId, Partition, RestoreId, RestoreMode, ScopeKey,
    Timestamp,
};
use object_store::memory::InMemory;
use uuid::Uuid;

use crate::{
    archiving::{a_day, at, tick},
    bench::{Bench, open},
    commands::{command, create, push, say},
    heard::{Counters, Warnings},
    held::{killed_at_each_change, left},
    reading::proves,
    unreliable::{Cause, Fails, Operation, Unreliable},
};

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;
/// In the tree of the archive.
const ANN: &str = "tenants/acme/users/ann";
const WEB: &str = "tenants/acme/teams/web";
const SHOP: &str = "tenants/acme/projects/shop";
const ORG: &str = "tenants/acme/org";

/// Midnight, so many days after New Year 2026.
pub(crate) fn midnight(day: i64) -> Timestamp {
    at("2026-01-01T00:00:00Z").plus_micros(day * DAY)
}

/// `2026-01-01`.
fn date(day: i64) -> String {
    midnight(day).to_string()[..10].to_owned()
}

/// The backups that are there.
fn backups(bench: &Bench) -> BTreeSet<String> {
    bench.paths("tenants")
}

fn overdue(said: &[Expiring]) -> Vec<&Overdue> {
    let overdue = said.iter().filter_map(|line| match line {
        Expiring::Overdue(overdue) => Some(overdue),
        Expiring::Forgotten(_) | Expiring::Done(_) | Expiring::Failed(_) => None,
    });
    overdue.collect()
}

fn gone(said: &[Expiring]) -> BTreeSet<String> {
    let gone = overdue(said).into_iter().filter(|overdue| overdue.fate == Fate::Goes);
    gone.map(|overdue| overdue.path.clone()).collect()
}

pub(crate) fn summary(said: &[Expiring]) -> Summary {
    match said.last() {
        Some(Expiring::Done(summary)) => *summary,
        other => panic!("{other:?}"),
    }
}

/// That an archive is well which no archiver was stopped at while it compacted a day ([`Bench::sealed`]): what it has written by
/// then, nothing lists yet.
pub(crate) async fn is_well(bench: &Bench) {
    let report = verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.orphans, [""; 0]);
    proves(bench);
}

/// What should be there of a scope, day by day.
struct Expected {
    folder: &'static str,
    /// Days between changes; 0: it changes on the first day alone.
    every: i64,
    /// How long its fulls are kept.
    days: i64,
    /// Hours of a day in which it changes.
    hours: &'static [i64],
    /// The days of its fulls, and the day of the last manifest that lists each.
    fulls: BTreeMap<i64, i64>,
}

impl Expected {
    fn changes(&self, day: i64) -> bool {
        if self.every == 0 { day == 0 } else { day % self.every == 0 }
    }

    /// The manifest of a day lists the last full, or a new one.
    fn end_day(&mut self, day: i64) {
        let (end, changes) = (day + 1, self.changes(day));
        match self.fulls.last_entry() {
            Some(mut last) if !changes && last.key() + self.days > end + 1 => {
                last.insert(end);
            }
            _ => {
                self.fulls.insert(end, end);
            }
        }
    }

    /// What is there once a day's cleanup is done.
    fn after(&self, day: i64) -> BTreeSet<String> {
        let now = day + 1;
        let newest = self.fulls.keys().next_back();
        let fulls = self
            .fulls
            .iter()
            .filter(|(made, listed)| Some(*made) == newest || **listed + self.days >= now);
        let fulls = fulls.map(|(made, _)| format!("{}/full/{}.jsonl.gz", self.folder, date(*made)));
        let days = (0..=day).filter(|changed| self.changes(*changed) && changed + 1 + 7 >= now);
        let incrementals = days.flat_map(|day| {
            let of = |hour: &i64| {
                format!("{}/incremental/{}-{hour:02}.jsonl.gz", self.folder, date(day))
            };
            self.hours.iter().map(of).collect::<Vec<_>>()
        });
        fulls.chain(incrementals).collect()
    }
}

/// The founding table, row by row: incremental 7 days; full 90, of an org 365; on demand for ever. More than a year
/// passes, with a full a day; after each day's cleanup exactly what the table says is there.
#[tokio::test]
async fn a_year_is_kept_as_the_founding_table_has_it() {
    let bench = Bench::new(1);
    let mut expected =
        [(ANN, 1, 90, &[12][..]), (WEB, 7, 90, &[12]), (SHOP, 0, 90, &[12]), (ORG, 1, 365, &[12])]
            .map(|(folder, every, days, hours)| Expected {
                folder,
                every,
                days,
                hours,
                fulls: BTreeMap::new(),
            });
    let running = bench.start();
    let on_demand = BackupId(Uuid::from_u128(9));
    let mut peak = 0;
    for day in 0..380 {
        a_day_of_changes(&bench, &expected, day, on_demand);
        // The first record of the next day ends this one.
        bench.log.at(midnight(day + 1), &command("acme/user/clock", "clock", Action::ScopeCreated));
        let log = bench.log.log_id();
        bench
            .written(&format!("manifests/{log}/partition=0/full/{}.jsonl.gz", date(day + 1)))
            .await;
        bench.set_time(midnight(day + 1));
        running.expire(false).await;
        expected.iter_mut().for_each(|scope| scope.end_day(day));
        let mut there: BTreeSet<String> = expected.iter().flat_map(|s| s.after(day)).collect();
        there.insert(format!("{ANN}/on-demand/2026-01-01T20-00-00Z-{on_demand}.jsonl.gz"));
        peak = peak.max(there.len());
        assert_eq!(backups(&bench), there, "on {}", date(day + 1));
    }
    running.stop().await;
    // Of incrementals 7 of ann's and of the org's; of fulls 90 of ann's, 13 of web's, 365 of the org's.
    assert!(peak > 480, "{peak}");
    is_well(&bench).await;
}

fn a_day_of_changes(bench: &Bench, expected: &[Expected], day: i64, on_demand: BackupId) {
    if day == 0 {
        bench.log.at(midnight(0), &create("acme/team/web", "ann"));
        bench.log.at(midnight(0), &create("acme/project/shop", "ann"));
    }
    let mut pushes = BTreeMap::new();
    for scope in expected.iter().filter(|scope| scope.changes(day)) {
        let key = match scope.folder {
            ANN => "acme/user/ann",
            WEB => "acme/team/web",
            SHOP => "acme/project/shop",
            _ => "acme/org/acme",
        };
        for hour in scope.hours {
            pushes.insert((*hour, key), say(&format!("{key} {day} {hour}")));
        }
    }
    for ((hour, key), message) in pushes {
        let mut push = push(key, "ann", &[message]);
        push.org_role = model::OrgRole::Owner;
        bench.log.at(midnight(day).plus_micros(hour * 60 * MINUTE), &push);
    }
    if day == 0 {
        let request = Action::BackupRequested { backup: on_demand };
        bench.log.at(
            midnight(0).plus_micros(20 * 60 * MINUTE),
            &command("acme/user/ann", "ann", request),
        );
    }
}

/// A day and the next one's beginning, archived; the incrementals of the first one are over, its fulls are the newest.
async fn a_day_that_is_over() -> Bench {
    let bench = Bench::new(2);
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    bench.set_time(at("2026-06-01T00:00:00Z"));
    bench
}

fn incrementals(bench: &Bench) -> BTreeSet<String> {
    backups(bench).into_iter().filter(|path| path.contains("/incremental/")).collect()
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_why_the_rest_stays_and_changes_nothing() {
    let bench = a_day_that_is_over().await;
    bench.set_time(Timestamp::EPOCH);
    let running = bench.start();
    running.expire(true).await; // once it has caught up, and found nothing due
    let (objects, facts) = (bench.objects(), bench.facts.all().len());
    bench.set_time(at("2026-06-01T00:00:00Z"));
    let said = running.expire(true).await;
    assert_eq!(gone(&said), incrementals(&bench));
    let stays: Vec<&Overdue> =
        overdue(&said).into_iter().filter(|overdue| overdue.fate != Fate::Goes).collect();
    assert_eq!(stays.len(), 2, "{stays:?}");
    for stays in stays {
        assert_eq!(stays.backup_type, BackupType::Full);
        assert_eq!(stays.fate, Fate::Stays { why: Stays::NewestFull });
    }
    assert_eq!((summary(&said).expired, summary(&said).stays), (4, 2));
    assert_eq!((bench.objects(), bench.facts.all().len()), (objects, facts));
    running.stop().await;
}

/// WF-CS-007 and 008: what is over goes, the newest full never; it is said and counted once it is gone, and found no more.
#[tokio::test]
async fn what_is_over_goes_and_is_said_and_is_not_found() {
    let counters = Counters::default();
    let _counting = metrics::set_default_local_recorder(&counters);
    let bench = a_day_that_is_over().await;
    let over = incrementals(&bench);
    let running = bench.start();
    running.expire(false).await;
    // The second one has nothing left to do.
    let again = running.expire(false).await;
    running.stop().await;
    assert_eq!(gone(&again), BTreeSet::new());
    let left = backups(&bench);
    assert!(left.iter().all(|path| path.contains("/full/2025-12-31")), "{left:?}");
    assert_eq!(left.len(), 2);
    let expired: BTreeSet<BackupId> = bench
        .said()
        .into_iter()
        .filter_map(|fact| match fact {
            Fact::BackupExpired(about) => Some(about.id),
            _ => None,
        })
        .collect();
    assert_eq!(expired.len(), over.len());
    let counted = counters.by_label("context_sync_backups_expired_total");
    let expected = [("full", 0), ("incremental", over.len() as u64), ("on_demand", 0)];
    assert_eq!(counted, expected.map(|(label, count)| (label.to_owned(), count)).into());
    is_well(&bench).await;
    assert!(
        find(&bench, "acme/user/ann", BackupType::Incremental, "2025-12-30-10").await.is_none()
    );
    assert!(find(&bench, "acme/user/ann", BackupType::Full, "2025-12-31").await.is_some());
}

async fn find(
    bench: &Bench,
    scope: &str,
    of: BackupType,
    period: &str,
) -> Option<history::FoundBackup> {
    let scope: ScopeKey = scope.parse().unwrap();
    let partition = partition_of(scope.to_string().as_bytes(), bench.log.partitions());
    let (log, id): (LogId, _) = (bench.log.log_id(), BackupId::scheduled(&scope, of, period));
    history::find(&bench.archive, log, partition, &scope, id).await.unwrap()
}

#[tokio::test]
async fn an_expiry_killed_anywhere_ends_as_any_other() {
    let undisturbed = a_day_that_is_over().await;
    let running = undisturbed.start();
    running.expire(false).await;
    running.stop().await;
    let (bench, expected) = (a_day_that_is_over().await, undisturbed.names());
    let (all, stay) = (backups(&bench).len(), backups(&undisturbed).len());
    let is_done = async || bench.eventually("it is done", async || bench.names() == expected).await;
    // Whoever starts begins to expire.
    let changes = killed_at_each_change(&bench, "cache", is_done).await;
    // With every number of backups that there can be.
    assert_eq!(left(&changes, |name| name.starts_with("tenants/")), (stay..=all).collect());
    let running = bench.start();
    running.expire(false).await;
    running.stop().await;
    // Schemas, hours, backups, tables, records and marks.
    assert_eq!(bench.objects(), undisturbed.objects());
}

#[tokio::test]
async fn nothing_goes_that_no_good_full_covers() {
    let bench = a_day_that_is_over().await;
    let (before, full) = (backups(&bench), bench.folder.join(ANN).join("full/2025-12-31.jsonl.gz"));
    let whole = std::fs::read(&full).unwrap();
    std::fs::write(&full, &whole[1..]).unwrap();
    let running = bench.start();
    running.expire(false).await;
    let said = running.expire(false).await;
    assert!(backups(&bench).iter().any(|path| path.starts_with(&format!("{ANN}/incremental"))));
    assert!(!backups(&bench).iter().any(|path| path.starts_with(&format!("{WEB}/incremental"))));
    let ann =
        overdue(&said).into_iter().find(|o| o.path.starts_with(&format!("{ANN}/inc"))).unwrap();
    let why = format!("{:?}", ann.fate);
    assert!(why.contains("NewestFullDamaged") && why.contains("sha256"), "{why}");
    // Once it is whole again, the rest goes.
    std::fs::write(&full, &whole).unwrap();
    let said = running.expire(false).await;
    assert_eq!(gone(&said).len(), 1, "{said:?}");
    bench.sealed().await;
    running.stop().await;
    assert_eq!(before.len() - backups(&bench).len(), 4);
    is_well(&bench).await;
}

#[tokio::test]
async fn before_the_first_full_nothing_goes() {
    let bench = Bench::new(1);
    bench.log.at(midnight(0), &push("acme/user/ann", "ann", &[say("x")]));
    tick(&bench, midnight(0).plus_micros(60 * MINUTE));
    let running = bench.start();
    bench.sealed().await;
    bench.set_time(midnight(90));
    let said = running.expire(false).await;
    running.stop().await;
    assert_eq!(overdue(&said)[0].fate, Fate::Stays { why: Stays::NotCovered });
    assert_eq!(backups(&bench).len(), 1);
}

/// The log takes no chunk, so the restore runs on.
#[tokio::test]
async fn what_a_running_restore_needs_stays_until_it_has_ended() {
    let bench = a_day_that_is_over().await;
    bench.set_time(Timestamp::EPOCH);
    bench.log.is_closed.store(true, Ordering::SeqCst);
    let scope: ScopeKey = "acme/team/web".parse().unwrap();
    let backup = BackupId::scheduled(&scope, BackupType::Incremental, "2025-12-30-11");
    let request = Action::RestoreRequested {
        restore: RestoreId(Uuid::from_u128(3)),
        mode: RestoreMode::Merge,
        backup,
        source: Box::new(scope.clone()),
    };
    bench.log.at(at("2025-12-31T01:30:00Z"), &command("acme/team/web", "ann", request));
    bench.set_time(at("2026-06-01T00:00:00Z"));
    let running = bench.start();
    let said = running.expire(false).await;
    let needed = [10, 11].map(|hour| format!("{WEB}/incremental/2025-12-30-{hour}.jsonl.gz"));
    let stays = overdue(&said)
        .into_iter()
        .filter(|overdue| overdue.fate == Fate::Stays { why: Stays::Restoring })
        .map(|overdue| overdue.path.clone());
    assert_eq!(stays.collect::<Vec<_>>(), needed);
    let left = backups(&bench);
    assert!(needed.iter().all(|path| left.contains(path)), "{left:?}");
    // It may go on, and ends; then they go.
    bench.log.is_closed.store(false, Ordering::SeqCst);
    bench
        .answer("the rest goes", async || {
            running.expire(false).await;
            incrementals(&bench).is_empty().then_some(())
        })
        .await;
    bench.sealed().await;
    running.stop().await;
    is_well(&bench).await;
}

/// With another cache everything is folded and read again: what has expired is gone past, kept longer since or not.
#[tokio::test]
async fn a_log_that_is_folded_anew_goes_past_what_has_expired() {
    for days in [7, 3_650] {
        let mut bench = a_day_that_is_over().await;
        let running = bench.start();
        running.expire(false).await;
        running.stop().await;
        let before = bench.objects();
        bench.retention.retention_incremental_days = KeptDays::all(days);
        let running = bench.start_with("another cache", open(&bench.folder));
        running.expire(false).await; // once it has caught up
        running.stop().await;
        assert_eq!(bench.objects(), before);
    }
}

/// WF-CS-007: kept for a time by the kind of scope.
#[tokio::test]
async fn a_kind_of_scope_may_be_kept_for_longer_than_others() {
    let mut bench = a_day_that_is_over().await;
    bench.retention.retention_incremental_days = "7,team=0".parse().unwrap();
    let of_teams = |bench: &Bench| {
        incrementals(bench).into_iter().filter(|path| path.contains("/teams/")).collect()
    };
    let (all, kept): (_, BTreeSet<String>) = (incrementals(&bench), of_teams(&bench));
    assert!(!kept.is_empty() && kept.len() < all.len(), "{all:?}");
    let running = bench.start();
    running.expire(false).await;
    bench.sealed().await;
    running.stop().await;
    assert_eq!(incrementals(&bench), kept);
    is_well(&bench).await;
}

/// A hold on an object, say: it stays, everything else goes, and it goes once the bucket lets it.
#[tokio::test]
async fn what_the_bucket_refuses_to_delete_keeps_nothing_else_from_expiring() {
    let inner = Arc::new(InMemory::new());
    let refuses = Arc::new(AtomicBool::new(false));
    let flag = refuses.clone();
    let rule = move |operation| {
        let is_refused = operation == Operation::Delete && flag.swap(false, Ordering::SeqCst);
        is_refused.then_some(Fails::Before(Cause::Forbidden))
    };
    let bench = Bench::on(2, Unreliable::over(&inner, rule));
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.expire(false).await; // nothing is over yet
    bench.set_time(at("2026-06-01T00:00:00Z"));
    refuses.store(true, Ordering::SeqCst);
    let said = running.expire(false).await;
    let stays = |said: &[Expiring]| {
        let is_refused =
            |overdue: &&&Overdue| matches!(overdue.fate, Fate::Stays { why: Stays::Refused(_) });
        overdue(said).iter().filter(is_refused).map(|overdue| overdue.path.clone()).collect()
    };
    let stayed: Vec<String> = stays(&said);
    assert_eq!((stayed.len(), gone(&said).len()), (1, 3), "{said:?}");
    let said = running.expire(false).await;
    assert_eq!(gone(&said), stayed.into_iter().collect());
    running.stop().await;
}

/// A machine's clock that jumps ahead deletes nothing: the log's time says what is over.
#[tokio::test]
async fn a_clock_that_jumps_ahead_of_the_log_expires_nothing() {
    let mut bench = a_day_that_is_over().await;
    bench.may_jump = true;
    let (before, records) = (bench.objects(), bench.log.all().len());
    let running = bench.start();
    assert_eq!(summary(&running.expire(false).await), Summary::default());
    // Asked for its time, the log has its own.
    bench.eventually("the log is asked", async || bench.log.all().len() > records).await;
    assert_eq!(summary(&running.expire(false).await), Summary::default());
    assert_eq!(bench.objects(), before);
    // Once the log has come there too, it is over.
    for partition in [0, 1].map(Partition::new) {
        tick(&bench, at("2026-05-31T12:00:00Z"));
        let value = schemas::encode(&model::Event::Tick).unwrap();
        let time = at("2026-05-31T12:00:00Z");
        bench.log.put(time, partition, bytes::Bytes::new(), value.into());
    }
    let over = incrementals(&bench);
    let said = running.expire(false).await;
    assert!(!over.is_empty() && over.is_subset(&gone(&said)), "{said:?}");
    bench.sealed().await;
    running.stop().await;
    is_well(&bench).await;
}

/// Nobody pushes any more: the log's time goes on all the same, by a tick now and then, and nobody doubts the clock.
#[tokio::test]
async fn on_an_idle_log_what_is_over_goes_at_its_time() {
    let warnings = Warnings::default();
    let _heard = tracing::subscriber::set_default(warnings.clone());
    let mut bench = Bench::new(2);
    bench.may_jump = true;
    a_day(&bench);
    let set_time = |now| {
        bench.log.set_time(now);
        bench.set_time(now);
    };
    let (mut now, over) = (at("2025-12-31T01:00:00Z"), at("2026-01-07T00:00:00Z"));
    set_time(now);
    let running = bench.start();
    let other = bench.start_with("other", open(&bench.folder));
    bench.sealed().await;
    let (all, records) = (incrementals(&bench), bench.log.all().len());
    assert!(!all.is_empty());
    let newest = || bench.log.all().iter().map(|record| record.append_time).max().unwrap();
    let mut steps = 0;
    while now < over {
        now = now.plus_micros(20 * 60 * MINUTE).min(over);
        set_time(now);
        steps += 1;
        let fresh = now.plus_micros(-12 * 60 * MINUTE);
        bench.eventually("the log's time goes on", async || newest() >= fresh).await;
        running.expire(false).await;
        assert_eq!(incrementals(&bench), all, "{now}");
    }
    set_time(over.plus_micros(1));
    assert_eq!(gone(&running.expire(false).await), all);
    running.stop().await;
    other.stop().await;
    // Both may ask at the same moment.
    let ticks = bench.log.all().len() - records;
    assert!(ticks <= 2 * steps, "{ticks} ticks in {steps} steps");
    let warnings = warnings.all();
    assert!(!warnings.iter().any(|warning| warning.contains("clock")), "{warnings:?}");
    is_well(&bench).await;
}

#[tokio::test]
async fn backups_on_demand_go_only_if_they_are_kept_for_a_time() {
    let mut bench = Bench::new(1);
    let request = Action::BackupRequested { backup: BackupId(Uuid::from_u128(9)) };
    bench.log.at(midnight(0), &command("acme/user/ann", "ann", request));
    tick(&bench, midnight(0).plus_micros(60 * MINUTE));
    let running = bench.start();
    bench.sealed().await;
    bench.set_time(midnight(3_650));
    assert_eq!(summary(&running.expire(false).await).expired, 0);
    running.stop().await;
    bench.retention.retention_on_demand_days = KeptDays::all(30);
    bench.set_time(midnight(30));
    let running = bench.start();
    assert_eq!(summary(&running.expire(false).await).expired, 0);
    bench.set_time(midnight(30).plus_micros(1));
    assert_eq!(summary(&running.expire(false).await).expired, 1);
    bench.sealed().await;
    running.stop().await;
    assert_eq!(backups(&bench), BTreeSet::new());
    is_well(&bench).await;
    let (log, scope) = (bench.log.log_id(), "acme/user/ann".parse().unwrap());
    let id = BackupId(Uuid::from_u128(9));
    let found = history::find(&bench.archive, log, Partition::new(0), &scope, id).await.unwrap();
    assert!(found.is_none());
}

/// A record is the only thing that excuses a missing object, and it excuses no other.
#[tokio::test]
async fn a_missing_object_is_excused_by_a_record_alone() {
    let bench = a_day_that_is_over().await;
    let running = bench.start();
    running.expire(false).await;
    running.stop().await;
    let problems = async || {
        let report = verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap();
        report.problems.into_iter().map(|problem| problem.path).collect::<BTreeSet<_>>()
    };
    let is_record = |name: &String| name.contains("/expired/") && name.ends_with(".gz");
    let record = bench.paths("manifests").into_iter().find(is_record).unwrap();
    let path = bench.folder.join(&record);
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let missing = problems().await;
    assert!(!missing.is_empty() && missing.iter().all(|path| path.contains("/incremental/")));
    for (damaged, what) in [(&whole[..whole.len() / 2], "cut"), (&[][..], "empty")] {
        std::fs::write(&path, damaged).unwrap();
        assert!(problems().await.contains(&record), "{what}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(problems().await, BTreeSet::new());
    let full = format!("{ANN}/full/2025-12-31.jsonl.gz");
    std::fs::remove_file(bench.folder.join(&full)).unwrap();
    assert_eq!(problems().await, BTreeSet::from([full]));
}
