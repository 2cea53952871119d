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
    Archive, ArchiveAddress, ArchiveConfig, history, manifest::ManifestReader, object::Sha256Hex,
    period::HourLength,
};
use archiver::{
    Archiver, ArchiverConfig, ArchiverError, Clock, Expiring, Operator, Retention, Upkeep,
};
use eventlog::EventLog;
use model::{
    Fact, LogFold, Message, MessageId, Partition, ScopeKey, Timestamp, log_fold::FoldedScope,
};
use service::ops::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::simulated_log::SimulatedLog;

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    pub(crate) log: Arc<SimulatedLog>,
    pub(crate) facts: Arc<SimulatedLog>,
    pub(crate) archive: Archive,
    pub(crate) folder: PathBuf,
    pub(crate) retention: Retention,
    /// What time it is for archivers, in microseconds; the beginning, until a test says so: nothing is over.
    now: Arc<AtomicI64>,
    dir: tempfile::TempDir,
}

pub(crate) struct Running {
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

    pub(crate) async fn error(self) -> ArchiverError {
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

impl Bench {
    pub(crate) fn new(partitions: usize) -> Self {
        // In memory, where the machine has that: weeks are thousands of objects, each synced.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let folder = dir.path().join("archive");
        let archive = open(&folder);
        let (log, facts) = (SimulatedLog::new(partitions), SimulatedLog::new(1));
        let (retention, now) = (Retention::default(), Arc::default());
        Self { log, facts, archive, folder, retention, now, dir }
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
        let shutdown = CancellationToken::new();
        let log: Arc<dyn EventLog> = self.log.clone();
        let now = self.now.clone();
        let clock = Clock::new(move || Timestamp::from_micros(now.load(Ordering::SeqCst)));
        let (upkeep, operator) = Upkeep::new(clock, None);
        let archiver = Archiver {
            config: ArchiverConfig {
                archive_hour_seconds: HourLength::REAL,
                archive_cache: self.dir.path().join(cache),
                archive_drill_hours: 0,
                retention: self.retention.clone(),
            },
            log,
            facts: self.facts.clone(),
            archive,
            ready: Readiness::new().component("archiver"),
            upkeep,
        };
        let task = tokio::spawn(archiver.run(shutdown.clone()));
        Running { operator, shutdown, task }
    }

    /// Waits until an object is there.
    pub(crate) async fn written(&self, path: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.folder.join(path).exists() {
            assert!(Instant::now() < deadline, "{path} is not there");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Asks until the answer is `Some`; panics at the deadline.
    pub(crate) async fn eventually<T>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What archivers said, in order.
    pub(crate) fn said(&self) -> Vec<Fact> {
        let facts = self.facts.all();
        facts.iter().map(|record| schemas::decode_fact(&record.value).unwrap()).collect()
    }

    /// Waits until the manifests of all hours before the last record of each partition are there.
    pub(crate) async fn sealed(&self) {
        let mut wanted = Vec::new();
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let mut hours: Vec<String> = Vec::new();
            let mut time = Timestamp::EPOCH;
            for record in self.log.all().iter().filter(|record| record.partition == partition) {
                time = time.max(record.append_time);
                let name = HourLength::REAL.hour_name(HourLength::REAL.hour_of(time));
                if hours.last() != Some(&name) {
                    hours.push(name);
                }
            }
            hours.pop(); // it is open
            let path = |name: &String| {
                let log = self.log.log_id();
                self.folder
                    .join(format!("manifests/{log}/partition={partition}/hour/{name}.jsonl.gz"))
            };
            wanted.extend(hours.iter().map(path));
        }
        let deadline = Instant::now() + DEADLINE;
        while let Some(missing) = wanted.iter().find(|path| !path.exists()) {
            assert!(Instant::now() < deadline, "{} is not there", missing.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every object's hash by its path.
    pub(crate) fn objects(&self) -> BTreeMap<String, Sha256Hex> {
        let mut objects = BTreeMap::new();
        walk(&self.folder, &self.folder, &mut |name, path| {
            objects.insert(name, Sha256Hex::of_bytes(&std::fs::read(path).unwrap()));
        });
        objects
    }

    /// The paths below a folder.
    pub(crate) fn paths(&self, folder: &str) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        walk(&self.folder, &self.folder.join(folder), &mut |name, _| {
            paths.insert(name);
        });
        paths
    }

    /// The log folded up to the end of an hour, a partition's records at a time.
    fn fold_up_to(&self, partition: Partition, next: u64) -> LogFold {
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

    /// `fold(read(archive)) == fold(log)`: every backup of every scope shows the fold at its place.
    /// Returns how many backups there are.
    pub(crate) async fn check(&self) -> usize {
        let mut backups = 0;
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let names =
                history::Names::list(&self.archive, self.log.log_id(), partition).await.unwrap();
            for path in names.hours().chain(names.fulls()) {
                let object = self.archive.fetch(&path).await.unwrap();
                let mut manifest = ManifestReader::new(object, &path).unwrap();
                let fold = self.fold_up_to(partition, manifest.header.next_offset.get());
                while let Some(line) = manifest.next_scope().unwrap() {
                    let folded = &fold.scopes[&line.scope];
                    let heading = &folded.scope.heading;
                    assert_eq!((line.head, line.digest), (heading.head, heading.digest), "{path}");
                    assert_eq!((line.count, line.bytes), (heading.count, heading.bytes), "{path}");
                    assert_eq!(line.members.len(), folded.scope.members.len(), "{path}");
                    if let Some(backup) = line.backup {
                        backups += 1;
                        self.check_backup(partition, &line.scope, backup.id, folded).await;
                    }
                }
            }
        }
        backups
    }

    async fn check_backup(
        &self,
        partition: Partition,
        scope: &ScopeKey,
        id: model::BackupId,
        folded: &FoldedScope,
    ) {
        let log = self.log.log_id();
        let found = history::find(&self.archive, log, partition, scope, id).await.unwrap().unwrap();
        let mut state = found.open(&self.archive).await.unwrap();
        let mut messages: BTreeMap<MessageId, Message> = BTreeMap::new();
        while let Some(message) = state.next_message().unwrap() {
            assert_eq!(messages.insert(message.id, message), None, "{scope}");
        }
        let expected = folded.messages.iter().map(|(id, message)| (*id, message.clone()));
        assert_eq!(messages, expected.collect(), "{scope} {}", found.backup.path);
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
