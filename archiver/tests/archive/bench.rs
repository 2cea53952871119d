//! A log, an archive in a folder, and archivers between them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use archive::{
    Archive, ArchiveAddress, ArchiveConfig, history,
    manifest::ManifestReader,
    object::Sha256Hex,
    path,
    period::{Hour, HourLength},
};
use archiver::{Archiver, ArchiverConfig, ArchiverError, Retention};
use eventlog::EventLog;
use model::{LogFold, Message, MessageId, Partition, ScopeKey, Timestamp, log_fold::FoldedScope};
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
    dir: tempfile::TempDir,
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
        Self { log, facts, archive, folder, dir }
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
                retention: Retention::default(),
            },
            log,
            facts: self.facts.clone(),
            archive,
            ready: Readiness::new().component("archiver"),
        };
        let task = tokio::spawn(archiver.run(shutdown.clone()));
        Running { shutdown, task }
    }

    /// Waits until the manifests of all hours before the last record of each partition are there, and the days
    /// before it are compacted.
    pub(crate) async fn sealed(&self) {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        let length = HourLength::REAL;
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let mut hours: Vec<Hour> = Vec::new();
            let mut time = Timestamp::EPOCH;
            for record in self.log.all().iter().filter(|record| record.partition == partition) {
                time = time.max(record.append_time);
                let hour = length.hour_of(time);
                if hours.last() != Some(&hour) {
                    hours.push(hour);
                }
            }
            let Some(open) = hours.pop() else { continue };
            for hour in hours {
                wanted.push(path::hour_manifest(self.log.log_id(), partition, length, hour));
                if hour.day() < open.day() {
                    let (log, day) = (self.log.log_id(), hour.day());
                    wanted.push(path::compaction_manifest(log, partition, length, day));
                    unwanted.push(path::events(length, hour, partition));
                    unwanted.push(path::messages(length, hour, partition));
                }
            }
        }
        self.eventually(wanted, unwanted).await;
    }

    /// Waits until some objects are there, and others are not.
    pub(crate) async fn eventually(&self, wanted: Vec<String>, unwanted: Vec<String>) {
        let deadline = Instant::now() + DEADLINE;
        let is_there = |path: &&String| self.folder.join(path).exists();
        loop {
            let missing = wanted.iter().find(|path| !is_there(path));
            let Some(wrong) = missing.or_else(|| unwanted.iter().find(is_there)) else { return };
            assert!(Instant::now() < deadline, "{wrong} is not as it should be");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every object's hash by its path.
    pub(crate) fn objects(&self) -> BTreeMap<String, Sha256Hex> {
        let mut objects = BTreeMap::new();
        collect(&self.folder, &self.folder, &mut objects);
        objects
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

fn collect(root: &Path, folder: &Path, objects: &mut BTreeMap<String, Sha256Hex>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, objects);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            objects.insert(name, Sha256Hex::of_bytes(&std::fs::read(&path).unwrap()));
        }
    }
}
