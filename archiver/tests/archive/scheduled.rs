//! What archivers do day after day, and nobody asks for. A day of their schedule is half a second here.

use std::time::{Duration, Instant};

use archive::period::HourLength;
use archiver::{Archiver, ArchiverConfig, ArchiverError, Clock, Upkeep};
use model::{DrillRecord, Fact, Timestamp};
use projector::Projector;
use readmodel::{DatabaseRole, Pool, drill::sample, feed::Feed};
use service::ops::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    archiving::{a_day, at, tick},
    bench::Bench,
    commands::{push, say},
    expiring::midnight,
    gaps::{Setting, batches},
    recovering::archive_all,
};

/// Of the schedule.
const HOUR: Duration = Duration::from_millis(20);
const DAY: Duration = HOUR.saturating_mul(24);
const DRILL_HOURS: u32 = 12;

/// An archiver with that schedule.
struct Scheduled {
    shutdown: CancellationToken,
    archiving: JoinHandle<Result<(), ArchiverError>>,
}

impl Scheduled {
    /// With a read model it drills.
    fn start(bench: &Bench, database: Option<Pool>) -> Self {
        let now = bench.now.clone();
        let clock = Clock::new(move || {
            Timestamp::from_micros(now.load(std::sync::atomic::Ordering::SeqCst))
        });
        let (upkeep, _) = Upkeep::new(clock, database);
        let archiver = Archiver {
            config: ArchiverConfig {
                archive_hour_seconds: HourLength::REAL,
                archive_cache: Some(bench.dir.path().join("cache")),
                segments: bench.segments.clone(),
                archive_drill_hours: DRILL_HOURS,
                retention: bench.retention.clone(),
            },
            log: bench.log.clone(),
            facts: bench.facts.clone(),
            archive: bench.archive.clone(),
            database: None,
            ready: Readiness::new().component("archiver"),
            upkeep: upkeep.with_hours_of(HOUR),
        };
        let shutdown = CancellationToken::new();
        let archiving = tokio::spawn(archiver.run(shutdown.clone()));
        Self { shutdown, archiving }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.archiving.await.unwrap().unwrap();
    }
}

/// The days whose incrementals are there.
fn incrementals(bench: &Bench) -> Vec<String> {
    let folder = "tenants/acme/users/ann/incremental/";
    let names = bench.paths(folder).into_iter();
    names.map(|name| name[folder.len()..][.."2026-01-01".len()].to_owned()).collect()
}

/// An incremental is kept for 7 days. Each day one more is over, and goes within a day.
#[tokio::test]
async fn what_becomes_over_later_goes_day_after_day() {
    let bench = Bench::new(1);
    for day in 0..3 {
        bench.log.at(midnight(day), &push("acme/user/ann", "ann", &[say(&format!("{day}"))]));
    }
    tick(&bench, midnight(3));
    tick(&bench, midnight(3).plus_micros(3_600_000_000));
    let running = Scheduled::start(&bench, None);
    bench.sealed().await;
    let mut days = ["2026-01-01", "2026-01-02", "2026-01-03"].map(str::to_owned).to_vec();
    assert_eq!(incrementals(&bench), days);
    let mut last = None;
    for day in 0..3 {
        let began = Instant::now();
        bench.set_time(midnight(day + 1 + 7).plus_micros(1));
        days.remove(0);
        bench.eventually("one day's are gone", async || incrementals(&bench) == days).await;
        // The last cleanup ended after its day had begun here, and this one came a day later.
        assert!(last.replace(began).is_none_or(|last: Instant| last.elapsed() >= DAY));
    }
    running.stop().await;
    // No full is over.
    assert_eq!(bench.paths("tenants/acme/users/ann/full").len(), 3);
}

fn drills(bench: &Bench) -> Vec<DrillRecord> {
    let drilled = |fact| match fact {
        Fact::DrillCompleted(record) => Some(record),
        _ => None,
    };
    bench.said().into_iter().filter_map(drilled).collect()
}

#[tokio::test]
async fn backups_are_drilled_at_once_and_whenever_the_hours_between_drills_have_passed() {
    let setting = Setting::new().await;
    let Setting { bench, database } = &setting;
    a_day(bench);
    archive_all(bench, "cache").await;
    let shutdown = CancellationToken::new();
    let projecting = tokio::spawn(projector(&setting).run(shutdown.clone()));
    let pool = database.role(DatabaseRole::Ingest);
    bench
        .eventually("the catalogue has backups of a user and a team", async || {
            sample(&pool, Uuid::nil(), 10).await.is_ok_and(|scopes| scopes.len() == 2)
        })
        .await;

    bench.set_time(at("2025-12-31T02:00:00Z"));
    let began = Instant::now();
    let running = Scheduled::start(bench, Some(pool));
    for times in 1..=3 {
        bench.eventually("a drill", async || drills(bench).len() >= times as usize).await;
        assert!(began.elapsed() >= HOUR * DRILL_HOURS * (times - 1), "{times}");
    }
    running.stop().await;
    for DrillRecord { scopes, failures, .. } in drills(bench) {
        assert_eq!((scopes, failures), (2, vec![]));
    }
    shutdown.cancel();
    projecting.await.unwrap().unwrap();
}

/// Rows and catalogue.
fn projector(setting: &Setting) -> Projector {
    Projector {
        config: batches(),
        database: setting.database.config.clone(),
        log: setting.bench.log.clone(),
        facts: Some(setting.bench.facts.clone()),
        archive: None,
        feed: Feed::new(true),
        ready: Readiness::new().component("projector"),
    }
}
