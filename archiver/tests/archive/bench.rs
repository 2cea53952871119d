//! A log, an archive in a folder, and archivers between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use archive::{
    Archive, ArchiveAddress, ArchiveConfig, history, manifest::ManifestReader, object::Sha256Hex,
    period::HourLength,
};
use archiver::{Archiver, ArchiverConfig, ArchiverError, Retention, SegmentConfig};
use eventlog::EventLog;
use model::{LogFold, Message, MessageId, Partition, ScopeKey, Timestamp, log_fold::FoldedScope};
use readmodel::DatabaseConfig;
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
    /// None, but where a test sets it: they depend on the clock.
    pub(crate) segments: SegmentConfig,
    /// The read model's; none, but where a test sets it.
    pub(crate) database: Option<DatabaseConfig>,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ArchiverError>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
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
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("archive");
        let archive = open(&folder);
        let (log, facts) = (SimulatedLog::new(partitions), SimulatedLog::new(1));
        let segments = SegmentConfig { archive_segment_seconds: 0, ..SegmentConfig::default() };
        Self { log, facts, archive, folder, segments, database: None, dir }
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with("cache", self.archive.clone())
    }

    /// Another one, with a cache of its own.
    pub(crate) fn start_with(&self, cache: &str, archive: Archive) -> Running {
        let shutdown = CancellationToken::new();
        let log: Arc<dyn EventLog> = self.log.clone();
        let archiver = Archiver {
            config: ArchiverConfig {
                archive_hour_seconds: HourLength::REAL,
                archive_cache: self.dir.path().join(cache),
                segments: self.segments.clone(),
                retention: Retention::default(),
            },
            log,
            facts: self.facts.clone(),
            archive,
            database: self.database.clone(),
            ready: Readiness::new().component("archiver"),
        };
        let task = tokio::spawn(archiver.run(shutdown.clone()));
        Running { shutdown, task }
    }

    /// Asks until the answer is yes; fails at the deadline.
    pub(crate) async fn eventually(&self, what: &str, mut ask: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !ask().await {
            assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all hours before the last record of each partition are sealed.
    pub(crate) async fn sealed(&self) {
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let (mut time, mut open) = (Timestamp::EPOCH, None);
            for record in self.log.all().iter().filter(|record| record.partition == partition) {
                time = time.max(record.append_time);
                let hour = HourLength::REAL.hour_of(time);
                if open.is_none_or(|(open, _)| hour > open) {
                    open = Some((hour, record.offset.get()));
                }
            }
            let Some((_, open_from)) = open else { continue };
            self.eventually("the last hour is sealed", async || {
                self.sealed_until(partition).await >= open_from
            })
            .await;
        }
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
        let newest = history::newest_hour(&self.archive, self.log.log_id(), partition).await;
        newest.unwrap().map_or(0, |(_, hour)| hour.next_offset.get())
    }

    /// Every object's hash by its path.
    pub(crate) fn objects(&self) -> BTreeMap<String, Sha256Hex> {
        let hash =
            |name: &String| Sha256Hex::of_bytes(&std::fs::read(self.folder.join(name)).unwrap());
        self.names().into_iter().map(|name| (name.clone(), hash(&name))).collect()
    }

    /// The paths of all objects, and of what is being written.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        collect(&self.folder, &self.folder, &mut names);
        names
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

fn collect(root: &Path, folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, names);
        } else {
            names.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
        }
    }
}
