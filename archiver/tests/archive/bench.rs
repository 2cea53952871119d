//! A log, an archive in a folder, and archivers between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use archive::{
    Archive, ArchiveAddress, ArchiveConfig, history, object::Sha256Hex, period::HourLength,
};
use archiver::{
    Archiver, ArchiverConfig, ArchiverError, Clock, Expiring, Operator, Retention, SegmentConfig,
    Upkeep,
};
use eventlog::EventLog;
use model::{Fact, LogFold, Partition, Timestamp};
use readmodel::DatabaseConfig;
use service::ops::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{shown, simulated_log::SimulatedLog};

const DEADLINE: Duration = Duration::from_secs(60);
/// How long nothing comes before an archiver whose clock may jump asks the log for its time.
const QUIET: Duration = Duration::from_millis(20);

pub(crate) struct Bench {
    pub(crate) log: Arc<SimulatedLog>,
    pub(crate) facts: Arc<SimulatedLog>,
    pub(crate) archive: Archive,
    /// Where the archive lies, if it is a folder's.
    pub(crate) folder: PathBuf,
    /// None, but where a test sets it: they depend on the clock.
    pub(crate) segments: SegmentConfig,
    pub(crate) retention: Retention,
    /// What time it is for archivers, in microseconds; the beginning, until a test says so: nothing is over.
    pub(crate) now: Arc<AtomicI64>,
    /// Whether that clock is a machine's, which may jump.
    pub(crate) may_jump: bool,
    /// The read model's; none, but where a test sets it.
    pub(crate) database: Option<DatabaseConfig>,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) struct Running {
    pub(crate) readiness: Readiness,
    operator: Operator,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ArchiverError>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Expires what is over its time, and gives all that was said.
    pub(crate) async fn expire(&self, dry_run: bool) -> Vec<Expiring> {
        let mut saying = self.operator.expire(dry_run).await;
        let mut said = Vec::new();
        while let Some(line) = saying.recv().await {
            said.push(line);
        }
        said
    }

    /// As a crash ends it.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits for something, while it runs.
    pub(crate) async fn during(&mut self, done: impl Future<Output = ()>) {
        tokio::select! {
            () = done => {}
            ended = &mut self.task => panic!("it ended: {ended:?}"),
        }
    }

    pub(crate) async fn error(self) -> ArchiverError {
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

impl Bench {
    pub(crate) fn new(partitions: usize) -> Self {
        Self::made(partitions, open)
    }

    /// With an archive elsewhere.
    pub(crate) fn on(partitions: usize, archive: Archive) -> Self {
        Self::made(partitions, |_| archive)
    }

    fn made(partitions: usize, archive: impl FnOnce(&Path) -> Archive) -> Self {
        // In memory, where the machine has that: weeks are thousands of objects, each synced.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let folder = dir.path().join("archive");
        let archive = archive(&folder);
        let (log, facts) = (SimulatedLog::new(partitions), SimulatedLog::new(1));
        let segments = SegmentConfig { archive_segment_seconds: 0, ..SegmentConfig::default() };
        let (retention, now) = (Retention::default(), Arc::default());
        let (may_jump, database) = (false, None);
        Self { log, facts, archive, folder, segments, retention, now, may_jump, database, dir }
    }

    /// What time it is from now on.
    pub(crate) fn set_time(&self, now: Timestamp) {
        self.now.store(now.as_micros(), Ordering::SeqCst);
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with("cache", self.archive.clone())
    }

    /// Another one, with a cache of its own.
    pub(crate) fn start_with(&self, cache: &str, archive: Archive) -> Running {
        self.start_on(self.log.clone(), cache, archive)
    }

    /// On another log.
    pub(crate) fn start_on(
        &self,
        log: Arc<dyn EventLog>,
        cache: &str,
        archive: Archive,
    ) -> Running {
        let shutdown = CancellationToken::new();
        let readiness = Readiness::new();
        let now = self.now.clone();
        let clock = Clock::new(move || Timestamp::from_micros(now.load(Ordering::SeqCst)));
        let clock = if self.may_jump { clock.bounded(QUIET) } else { clock };
        let (upkeep, operator) = Upkeep::new(clock, None);
        let archiver = Archiver {
            config: ArchiverConfig {
                archive_hour_seconds: HourLength::REAL,
                archive_cache: Some(self.dir.path().join(cache)),
                segments: self.segments.clone(),
                archive_drill_hours: 0,
                retention: self.retention.clone(),
            },
            log,
            facts: self.facts.clone(),
            archive,
            database: self.database.clone(),
            ready: readiness.component("archiver"),
            upkeep,
        };
        let task = tokio::spawn(archiver.run(shutdown.clone()));
        Running { readiness, operator, shutdown, task }
    }

    /// Asks until the answer is yes; fails at the deadline.
    pub(crate) async fn eventually(&self, what: &str, mut ask: impl AsyncFnMut() -> bool) {
        self.answer(what, async || ask().await.then_some(())).await;
    }

    /// Asks until the answer is `Some`; fails at the deadline.
    pub(crate) async fn answer<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until an object is there.
    pub(crate) async fn written(&self, path: &str) {
        self.eventually(path, async || self.folder.join(path).exists()).await;
    }

    /// What archivers said, in order.
    pub(crate) fn said(&self) -> Vec<Fact> {
        let facts = self.facts.all();
        facts.iter().map(|record| schemas::decode_fact(&record.value).unwrap()).collect()
    }

    /// Waits until the manifests of all hours before the last record of each partition are there, and the days
    /// before it are compacted.
    pub(crate) async fn sealed(&self) {
        shown::sealed(&self.archive, &self.log).await;
    }

    /// Waits until some objects are there, and others are not.
    pub(crate) async fn settled(&self, wanted: Vec<String>, unwanted: Vec<String>) {
        shown::settled(&self.archive, &wanted, &unwanted).await;
    }

    /// As [`Self::objects`], wherever the archive lies.
    pub(crate) async fn stored(&self) -> BTreeMap<String, Sha256Hex> {
        let mut objects = BTreeMap::new();
        for folder in ["_schemas", "_uploads", "events", "manifests", "messages", "tenants"] {
            for (path, _) in self.archive.list(folder).await.unwrap() {
                let object = self.archive.fetch(&path).await.unwrap();
                objects.insert(path, object.sha256);
            }
        }
        objects
    }

    /// Another one, with the same log.
    pub(crate) fn with_log_of(other: &Self) -> Self {
        let bench = Self::new(other.log.partitions() as usize);
        for record in other.log.all() {
            bench.log.put(record.append_time, record.partition, record.key, record.value);
        }
        bench
    }

    /// The paths at which another bucket has something else.
    pub(crate) fn differs_from(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (self.objects(), other.objects());
        let is_other = |path: &&String| ours.get(*path) != theirs.get(*path);
        let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).filter(is_other).collect();
        paths.into_iter().filter(|path| !path.starts_with("segments/")).cloned().collect()
    }

    /// Where a partition's sealed hours end.
    pub(crate) async fn sealed_until(&self, partition: Partition) -> u64 {
        self.sealed_until_in(&self.archive, partition).await
    }

    /// The same of another view of the archive.
    pub(crate) async fn sealed_until_in(&self, archive: &Archive, partition: Partition) -> u64 {
        let newest = history::newest_hour(archive, self.log.log_id(), partition).await;
        newest.unwrap().map_or(0, |(_, hour)| hour.next_offset.get())
    }

    /// Every object's hash by its path.
    pub(crate) fn objects(&self) -> BTreeMap<String, Sha256Hex> {
        let mut objects = BTreeMap::new();
        walk(&self.folder, &self.folder, &mut |name, path| {
            objects.insert(name, Sha256Hex::of_bytes(&std::fs::read(path).unwrap()));
        });
        objects
    }

    /// The paths of all objects, and of what is being written.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.paths("")
    }

    /// The paths below a folder.
    pub(crate) fn paths(&self, folder: &str) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        walk(&self.folder, &self.folder.join(folder), &mut |name, _| {
            paths.insert(name);
        });
        paths
    }

    /// The first records of a partition, folded.
    pub(crate) fn fold_up_to(&self, partition: Partition, next: u64) -> LogFold {
        let mut fold = LogFold::default();
        for record in self.log.all() {
            if record.partition == partition && record.offset.get() < next {
                let event = schemas::decode(&record.value).ok();
                let (place, time) = (record.place(), record.append_time);
                fold.apply(place, time, &record.key, event.as_ref()).unwrap();
            }
        }
        fold
    }

    /// `fold(read(archive)) == fold(log)`. Returns how many backups there are.
    pub(crate) async fn check(&self) -> usize {
        shown::check(&self.archive, &self.log, 1).await
    }
}

pub(crate) fn open(folder: &Path) -> Archive {
    let address = ArchiveAddress::File(folder.to_owned());
    Archive::open(&ArchiveConfig::new(address)).unwrap()
}

/// Calls back with the name and the path of each file.
fn walk(root: &Path, folder: &Path, found: &mut impl FnMut(String, &Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found(name, &path);
        }
    }
}
