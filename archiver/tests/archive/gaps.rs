//! Gaps: retention was faster than the archiver. Real Postgres, the real projector, a log that is cut.

use std::sync::Arc;

use archive::{
    history,
    manifest::{Gap, ManifestReader},
    verify::{LostRecords, RawUntil, Report},
};
use archiver::ArchiverError;
use eventlog::EventLog;
use model::{Action, BackupId, Fact, Offset, Partition, Timestamp};
use projector::{Projector, ProjectorConfig};
use readmodel::{DatabaseRole, feed::Feed, outcomes::positions};
use service::ops::Readiness;
use tokio_util::sync::CancellationToken;

use crate::{
    archiving::a_day,
    bench::{Bench, open},
    commands::{command, push, say},
    database::Database,
    held::{killed_at_each_change, left},
    reading::proves,
    recovering::{archive_all, end, end_of_commands, partitions, tick},
    segments::report,
};

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

/// In both of two partitions.
const USERS: [&str; 4] = ["ann", "bob", "fay", "gil"];

/// A log, a read model, an archive.
pub(crate) struct Setting {
    pub(crate) bench: Bench,
    pub(crate) database: Database,
}

impl Setting {
    pub(crate) async fn new() -> Self {
        let database = Database::migrated().await;
        let bench = Bench { database: Some(database.config.clone()), ..Bench::new(2) };
        Self { bench, database }
    }

    /// Folds all that the log has into the rows.
    pub(crate) async fn project(&self) {
        self.project_with(self.bench.log.clone()).await;
    }

    /// As [`Self::project`], with the log as something else shows it.
    pub(crate) async fn project_with(&self, log: Arc<dyn EventLog>) {
        let shutdown = CancellationToken::new();
        let readiness = Readiness::new();
        let projector = Projector {
            config: batches(),
            database: self.database.config.clone(),
            log,
            facts: None,
            archive: None,
            feed: Feed::new(true),
            ready: readiness.component("projector"),
        };
        let running = tokio::spawn(projector.run(shutdown.clone()));
        let pool = self.database.role(DatabaseRole::Projector);
        self.bench
            .eventually("the projector catches up", async || {
                let positions = positions(&pool).await.unwrap_or_default();
                let mut behind = 0;
                for (partition, next) in &positions {
                    let end = self.bench.log.bounds(*partition).await.unwrap().end;
                    behind += usize::from(*next < end);
                }
                // The rows answer only once all that fills them has ended, which comes after the last position.
                positions.len() == 2 && behind == 0 && readiness.is_ready()
            })
            .await;
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }

    /// Some pushes to users in both partitions and to a team, one a minute from this time on.
    pub(crate) fn push(&self, from: &str, count: i64) {
        for n in 0..count {
            let time = at(from).plus_micros(n * 60_000_000);
            let say = say(&format!("{from} {n}"));
            for user in USERS {
                let scope = format!("acme/user/{user}");
                self.bench.log.at(time, &push(&scope, user, std::slice::from_ref(&say)));
            }
            self.bench.log.at(time, &push("acme/team/web", "ann", &[say]));
        }
    }

    /// Retention leaves the last so many records of each partition. Returns what nobody has then.
    async fn cut(&self, left: u64) -> Vec<LostRecords> {
        let mut lost = Vec::new();
        for partition in partitions(&self.bench) {
            let from = self.bench.sealed_until(partition).await;
            let to = self.bench.log.bounds(partition).await.unwrap().end.get() - left;
            assert!(from < to, "{from} {to}");
            self.bench.log.cut(partition, to);
            let offset = |offset| Offset::new(offset).unwrap();
            let gap = Gap { first_offset: offset(from), next_offset: offset(to) };
            lost.push(LostRecords { log_id: self.bench.log.log_id(), partition, gap });
        }
        lost
    }

    /// All is well but for the gaps, and every backup shows the fold of the log at its place.
    async fn check(&self, lost: &[LostRecords]) -> Report {
        let report = report(&self.bench).await;
        assert_eq!(report.problems, []);
        assert_eq!(report.gaps, lost);
        assert!(self.bench.check().await > 6);
        proves(&self.bench);
        report
    }

    /// Kills an archiver in the middle of what it reads of the rows.
    async fn killed_while_it_reads(&self, table: &str) {
        let (before, mut owner) = (self.bench.names(), self.database.owner().await);
        let lock = format!("begin; lock table {table} in access exclusive mode");
        sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut owner).await.unwrap();
        let running = self.bench.start();
        self.database.until_waiting(1).await;
        running.kill().await;
        sqlx::raw_sql("rollback").execute(&mut owner).await.unwrap();
        assert_eq!(self.bench.names(), before);
    }

    /// The names of the fulls that follow gaps.
    fn fulls_after_gaps(&self) -> Vec<String> {
        let names = self.bench.names().into_iter();
        names.filter(|name| name.ends_with("-gap.jsonl.gz")).collect()
    }
}

pub(crate) fn batches() -> ProjectorConfig {
    ProjectorConfig {
        batch_records_max: 1_000,
        batch_changes_max: 2_000,
        batch_bytes_max: 8 << 20,
        projector_workers: 2,
        history_days: 90,
        partitions: Vec::new(),
    }
}

/// Archived is the 30th; of the 31st the log has only the end, and the rows have it all.
async fn gap() -> (Setting, Vec<LostRecords>) {
    let setting = Setting::new().await;
    a_day(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.push("2025-12-31T02:00:00Z", 30);
    setting.push("2025-12-31T04:30:00Z", 10);
    setting.push("2025-12-31T05:00:00Z", 10);
    setting.project().await;
    // Somewhere in the hour of four.
    let lost = setting.cut(35).await;
    (setting, lost)
}

#[tokio::test]
async fn after_a_gap_the_archive_goes_on_from_the_read_model() {
    let metrics = service::telemetry::metrics().unwrap();
    let (setting, lost) = gap().await;
    setting.push("2025-12-31T05:30:00Z", 5);
    setting.push("2025-12-31T07:00:00Z", 5);
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    let report = setting.check(&lost).await;
    assert_eq!(report.orphans, [""; 0]);
    let rendered = metrics.render();
    let mut lines = rendered.lines();
    let counted = lines.find_map(|line| line.strip_prefix("context_sync_archive_gaps_total "));
    assert!(counted.unwrap().parse::<u64>().unwrap() >= 2, "{rendered}");
    let fulls = setting.fulls_after_gaps();
    assert_eq!(fulls.len(), 2, "{fulls:?}");
    assert!(
        fulls.iter().all(|name| name.ends_with("full/2025-12-31-05-gap.jsonl.gz")),
        "{fulls:?}"
    );
    // What the log still had before the rows' place is archived too, though nothing folded it.
    for partition in partitions(&setting.bench) {
        let hour = header(&setting, partition, "2025-12-31-04").await;
        assert!(hour.events.unwrap().rows > 0);
        let gap = &lost[partition.get() as usize].gap;
        assert_eq!((hour.gaps, hour.first_offset), (vec![*gap], gap.next_offset));
    }
}

async fn header(setting: &Setting, partition: Partition, hour: &str) -> archive::manifest::Header {
    let log = setting.bench.log.log_id();
    let names = history::Names::list(&setting.bench.archive, log, partition).await.unwrap();
    let path = names.hours().find(|path| path.contains(hour)).unwrap();
    let object = setting.bench.archive.fetch(&path).await.unwrap();
    ManifestReader::new(object, &path).unwrap().header
}

#[tokio::test]
async fn no_state_is_composed_across_a_gap() {
    let (setting, _) = gap().await;
    setting.push("2025-12-31T05:30:00Z", 5);
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    let bench = &setting.bench;
    let mut crossed = 0;
    for partition in partitions(bench) {
        let log = bench.log.log_id();
        let names = history::Names::list(&bench.archive, log, partition).await.unwrap();
        for path in names.hours() {
            let object = bench.archive.fetch(&path).await.unwrap();
            let mut manifest = ManifestReader::new(object, &path).unwrap();
            let is_after = manifest.header.period.as_str() > "2025-12-31-00";
            while let Some(line) = manifest.next_scope().unwrap() {
                let Some(backup) = line.backup else { continue };
                let (archive, scope) = (&bench.archive, &line.scope);
                let found = history::find(archive, log, partition, scope, backup.id).await;
                let objects = found.unwrap().unwrap().objects;
                let first = &objects[0].path;
                assert_eq!(first.contains("-gap-"), is_after, "{path}: {objects:?}");
                crossed += usize::from(is_after);
            }
        }
    }
    assert!(crossed >= 3, "{crossed}");
}

#[tokio::test]
async fn an_archiver_killed_anywhere_after_a_gap_leaves_one_story() {
    let (setting, lost) = gap().await;
    setting.killed_while_it_reads("members").await;
    setting.killed_while_it_reads("messages").await;
    setting.killed_while_it_reads("outcomes").await;
    let is_done = async || {
        setting.bench.sealed().await;
        let fulls = || setting.fulls_after_gaps().len();
        setting.bench.eventually("the fulls", async || fulls() == 2).await;
    };
    let changes = killed_at_each_change(&setting.bench, "cache", is_done).await;
    // With every number of fulls and their manifests that there can be.
    let is_after = |name: &&String| name.contains("-gap");
    let all = setting.bench.names().iter().filter(is_after).count();
    assert!(all > 5, "{all}");
    assert_eq!(left(&changes, is_after), (0..=all).collect());
    setting.push("2025-12-31T05:30:00Z", 5);
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.check(&lost).await;
}

/// Each finds the rows at another place; the first full decides.
#[tokio::test]
async fn two_archivers_take_the_state_up_at_one_place() {
    let (setting, lost) = gap().await;
    let one = setting.bench.start();
    setting.push("2025-12-31T05:30:00Z", 5);
    setting.project().await;
    let other = setting.bench.start_with("other", open(&setting.bench.folder));
    end(&setting.bench);
    setting.bench.sealed().await;
    one.stop().await;
    other.stop().await;
    setting.check(&lost).await;
    assert_eq!(setting.fulls_after_gaps().len(), 2);
}

/// Retention holds for what a gap has left, too.
#[tokio::test]
async fn fulls_after_a_gap_expire_with_their_time() {
    let (setting, lost) = gap().await;
    setting.push("2025-12-31T05:30:00Z", 5);
    setting.push("2026-01-01T05:00:00Z", 5);
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    let bench = &setting.bench;
    let after_gaps = || {
        let names = bench.paths("tenants").into_iter();
        names.filter(|name| name.contains("-gap-")).collect::<Vec<_>>()
    };
    assert!(!after_gaps().is_empty());
    // The newest incrementals that go on from them are of the 31st.
    bench.set_time(at("2026-02-01T00:00:00Z"));
    let running = bench.start();
    running.expire(false).await;
    assert!(!after_gaps().is_empty(), "90 days");
    bench.set_time(at("2026-06-01T00:00:00Z"));
    running.expire(false).await;
    running.stop().await;
    assert_eq!(after_gaps(), [""; 0]);
    let report = report(bench).await;
    assert_eq!((report.problems, report.gaps), (vec![], lost));
    proves(bench);
}

/// What the scope held there nobody knows: who asked is told so, and may ask again.
#[tokio::test]
async fn a_backup_asked_for_inside_a_gap_has_failed() {
    let setting = Setting::new().await;
    a_day(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.push("2025-12-31T02:00:00Z", 30);
    let ids = USERS.map(|user| BackupId(uuid::Uuid::new_v5(&uuid::Uuid::nil(), user.as_bytes())));
    for (user, backup) in USERS.into_iter().zip(ids) {
        let request = Action::BackupRequested { backup };
        let request = command(&format!("acme/user/{user}"), user, request);
        setting.bench.log.at(at("2025-12-31T04:30:00Z"), &request);
    }
    setting.push("2025-12-31T05:00:00Z", 10);
    setting.project().await;
    let lost = setting.cut(35).await;
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.check(&lost).await;
    let failed: Vec<BackupId> = setting
        .bench
        .said()
        .into_iter()
        .filter_map(|fact| match fact {
            Fact::BackupFailed { about, .. } => Some(about.id),
            _ => None,
        })
        .collect();
    assert!(ids.iter().all(|id| failed.contains(id)), "{failed:?}");
}

/// The cache is lost once more: it is made again from the full after the gap, to the same bytes.
#[tokio::test]
async fn a_cache_is_made_again_from_the_full_after_a_gap() {
    let mut objects = Vec::new();
    // With the cache kept; lost when the gap's hour was open still; and when it was sealed.
    for (lose_open, lose_sealed) in [(false, false), (true, false), (false, true), (true, true)] {
        let (setting, lost) = gap().await;
        let running = setting.bench.start();
        let fulls = || setting.fulls_after_gaps().len();
        setting.bench.eventually("the fulls", async || fulls() == 2).await;
        running.stop().await;
        setting.push("2025-12-31T05:30:00Z", 5);
        tick(&setting.bench, at("2025-12-31T06:00:00Z"));
        let cache = if lose_open { "another cache" } else { "cache" };
        archive_all(&setting.bench, cache).await;
        setting.push("2025-12-31T07:00:00Z", 5);
        end(&setting.bench);
        let cache = if lose_sealed { "a third cache" } else { cache };
        if lose_sealed {
            for partition in partitions(&setting.bench) {
                setting.bench.log.cut(partition, setting.bench.sealed_until(partition).await);
            }
        }
        archive_all(&setting.bench, cache).await;
        setting.check(&lost).await;
        objects.push(setting.bench.objects().into_keys().collect::<Vec<_>>());
    }
    // Commands have ids of chance: names are what is the same.
    assert!(objects.iter().all(|names| *names == objects[0]), "{objects:?}");
}

/// The hours after the gap are sealed, but its full was not written: the rows are asked again.
#[tokio::test]
async fn a_crash_before_the_full_is_made_good() {
    let (setting, lost) = gap().await;
    let running = setting.bench.start();
    let fulls = || setting.fulls_after_gaps().len();
    setting.bench.eventually("the fulls", async || fulls() == 2).await;
    running.stop().await;
    for full in setting.fulls_after_gaps() {
        std::fs::remove_file(setting.bench.folder.join(full)).unwrap();
    }
    setting.push("2025-12-31T05:30:00Z", 5);
    setting.project().await;
    end(&setting.bench);
    archive_all(&setting.bench, "another cache").await;
    setting.check(&lost).await;
    assert_eq!(fulls(), 2);
}

/// The archiver had folded what it had not sealed: its own state crosses the gap, and no database is asked.
#[tokio::test]
async fn a_gap_in_what_is_folded_but_not_sealed_needs_no_read_model() {
    let setting = Setting::new().await;
    let bench = Bench { database: None, ..setting.bench };
    let setting = Setting { bench, ..setting };
    a_day(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.push("2025-12-31T02:00:00Z", 30);
    let running = setting.bench.start();
    // A backup on demand, in each partition, shows that all before it is folded.
    for (number, user) in ["ann", "fay"].into_iter().enumerate() {
        let backup = BackupId(uuid::Uuid::from_u128(number as u128));
        let request =
            command(&format!("acme/user/{user}"), user, Action::BackupRequested { backup });
        setting.bench.log.at(at("2025-12-31T02:41:00Z"), &request);
    }
    let made = || {
        let names = setting.bench.names().into_iter();
        names.filter(|name| name.contains("on-demand/2025-12-31T02-41")).count()
    };
    setting.bench.eventually("all is folded", async || made() == 2).await;
    running.stop().await;
    let lost = setting.cut(1).await;
    setting.push("2025-12-31T02:45:00Z", 5);
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.check(&lost).await;
    let fulls = setting.fulls_after_gaps();
    assert!(
        fulls.iter().all(|name| name.ends_with("full/2025-12-31-02-gap.jsonl.gz")),
        "{fulls:?}"
    );
}

/// Segments have the begin of the open hour: it is archived, and the gap is what comes after it.
#[tokio::test]
async fn a_gap_begins_where_the_segments_end() {
    let mut setting = Setting::new().await;
    a_day(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.bench.segments.archive_segment_seconds = 1;
    setting.push("2025-12-31T02:00:00Z", 20);
    let running = setting.bench.start();
    for partition in partitions(&setting.bench) {
        let end = end_of_commands(&setting.bench, partition);
        let is_there = |raw: RawUntil| raw.partition == partition && raw.next_offset.get() >= end;
        let raw = async || report(&setting.bench).await.raw.into_iter().any(is_there);
        setting.bench.eventually("segments", raw).await;
    }
    running.stop().await;
    let in_segments = report(&setting.bench).await.raw;
    setting.bench.segments.archive_segment_seconds = 0;
    setting.push("2025-12-31T02:30:00Z", 20);
    setting.project().await;
    let mut lost = setting.cut(10).await;
    for (lost, raw) in lost.iter_mut().zip(in_segments) {
        lost.gap.first_offset = raw.next_offset;
    }
    let database = setting.bench.database.take();
    let error =
        setting.bench.start_with("another cache", open(&setting.bench.folder)).error().await;
    let ArchiverError::Gap { needed, .. } = &error else { panic!("{error}") };
    assert_eq!(*needed, lost[0].gap.first_offset, "{error}");
    setting.bench.database = database;
    setting.push("2025-12-31T02:50:00Z", 5);
    end(&setting.bench);
    archive_all(&setting.bench, "another cache").await;
    setting.check(&lost).await;
}

/// An archive that is begun when the log has lost its first records.
#[tokio::test]
async fn an_archive_may_begin_with_a_gap() {
    let setting = Setting::new().await;
    a_day(&setting.bench);
    setting.push("2025-12-31T02:00:00Z", 10);
    setting.project().await;
    let lost = setting.cut(8).await;
    setting.push("2025-12-31T03:00:00Z", 10);
    end(&setting.bench);
    archive_all(&setting.bench, "cache").await;
    setting.check(&lost).await;
}
