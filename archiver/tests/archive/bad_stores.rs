//! A store that is down, full, read-only, missing or slow: the archiver goes on by itself, and ends with the same
//! bytes; nothing half-written is ever taken for a backup.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use archive::{
    Archive,
    object::Sha256Hex,
    verify::{Sample, verify},
};
use object_store::memory::InMemory;

use crate::{
    archiving::a_day,
    bench::{Bench, Running},
    unreliable::{Cause, Fails, Operation, Unreliable, archive},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// What a store that never fails ends with.
async fn undisturbed() -> BTreeMap<String, Sha256Hex> {
    let bench = Bench::new(2);
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    bench.stored().await
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Why the archiver says that it is not ready.
fn reason(running: &Running) -> String {
    running.readiness.components().remove(0).reason.unwrap_or_default()
}

async fn assert_well(archive: &Archive) -> u64 {
    let report = verify(archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    report.backups
}

/// The store dies for good before or after each write there is; whoever comes later goes on from there.
#[tokio::test]
async fn a_store_that_dies_at_any_write_holds_whole_backups_only() {
    let expected = undisturbed().await;
    for fails in [Fails::Before(Cause::Down), Fails::After(Cause::Down)] {
        for alive in 0..expected.len() {
            let inner = Arc::new(InMemory::new());
            let (died, has_died) =
                (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let mut writes = 0;
            let says = died.clone();
            let dying = Unreliable::over(&inner, move |operation| {
                writes += usize::from(operation == Operation::Write);
                has_died.fetch_or(writes > alive, Ordering::Relaxed);
                let dead = has_died.load(Ordering::Relaxed);
                says.store(dead, Ordering::Relaxed);
                dead.then_some(fails)
            });
            let bench = Bench::on(2, archive(inner));
            a_day(&bench);
            let running = bench.start_with("cache", dying);
            until("it dies", || died.load(Ordering::Relaxed)).await;
            running.kill().await;
            assert_well(&bench.archive).await;
            let running = bench.start();
            bench.sealed().await;
            running.stop().await;
            assert_eq!(bench.stored().await, expected, "{fails:?} after {alive} writes");
        }
    }
}

/// Some sessions fail, each at another place; then everything is as if nothing had been.
#[tokio::test]
async fn a_store_that_is_down_for_a_while_is_waited_for() {
    let expected = undisturbed().await;
    for cause in [Cause::Down, Cause::Full] {
        let inner = Arc::new(InMemory::new());
        let failures = Arc::new(AtomicU32::new(0));
        let counts = failures.clone();
        let mut operations = 0;
        let unreliable = Unreliable::over(&inner, move |operation| {
            // It begins each session, which would each come a little later.
            if operation == Operation::ListFolders {
                return None;
            }
            operations += 1;
            // Longer than an upload is tried for.
            let is_down = (5..17).contains(&operations) || (40..44).contains(&operations);
            counts.fetch_add(u32::from(is_down), Ordering::Relaxed);
            is_down.then_some(Fails::Before(cause))
        });
        let bench = Bench::on(2, archive(inner));
        a_day(&bench);
        let running = bench.start_with("cache", unreliable);
        until("it is not ready", || reason(&running).contains("cannot be used now")).await;
        bench.sealed().await;
        until("it is ready", || running.readiness.is_ready()).await;
        running.stop().await;
        assert_eq!(bench.stored().await, expected, "{cause:?}");
        assert!(failures.load(Ordering::Relaxed) >= 12);
    }
}

/// Settings that are wrong are named, and whoever mends them need not start anything.
#[tokio::test]
async fn what_an_operator_must_mend_is_named_and_waited_for() {
    let expected = undisturbed().await;
    let cases = [
        (Cause::Forbidden, "refuses these credentials"),
        (Cause::ReadOnly, "refuses these credentials"),
        (Cause::NoBucket, "bucket is missing"),
    ];
    let cases = cases.map(|(cause, said)| {
        let expected = &expected;
        async move {
            let (inner, wrong) = (Arc::new(InMemory::new()), Arc::new(AtomicBool::new(true)));
            let is_wrong = wrong.clone();
            let unreliable = Unreliable::over(&inner, move |_| {
                is_wrong.load(Ordering::Relaxed).then_some(Fails::Before(cause))
            });
            let bench = Bench::on(2, archive(inner));
            a_day(&bench);
            let running = bench.start_with("cache", unreliable);
            until(said, || reason(&running).contains(said)).await;
            wrong.store(false, Ordering::Relaxed);
            bench.sealed().await;
            running.stop().await;
            assert_eq!(bench.stored().await, *expected, "{cause:?}");
        }
    });
    futures_util::future::join_all(cases).await;
}

/// Whoever stops the process does not wait for a store that says nothing.
#[tokio::test]
async fn a_store_that_hangs_keeps_nobody() {
    let inner = Arc::new(InMemory::new());
    let hangs = Arc::new(AtomicBool::new(false));
    let says = hangs.clone();
    let hanging = Unreliable::over(&inner, move |_| {
        says.store(true, Ordering::Relaxed);
        Some(Fails::Hangs)
    });
    let bench = Bench::on(2, archive(inner));
    a_day(&bench);
    let running = bench.start_with("cache", hanging);
    until("it hangs", || hangs.load(Ordering::Relaxed)).await;
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(20));
}
