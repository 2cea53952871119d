//! A log, an archive in a folder, and archivers between them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use archive::{Archive, ArchiveAddress, ArchiveConfig, object::Sha256Hex, period::HourLength};
use archiver::{Archiver, ArchiverConfig, ArchiverError, Retention, SegmentConfig};
use eventlog::EventLog;
use model::{LogFold, Partition};
use service::ops::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{shown, simulated_log::SimulatedLog};

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    pub(crate) log: Arc<SimulatedLog>,
    pub(crate) facts: Arc<SimulatedLog>,
    pub(crate) archive: Archive,
    /// Where the archive lies, if it is a folder's.
    pub(crate) folder: PathBuf,
    /// None, but where a test sets it: they depend on the clock.
    pub(crate) segments: SegmentConfig,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) struct Running {
    pub(crate) readiness: Readiness,
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
        Self::made(partitions, |folder| open(folder))
    }

    /// With an archive elsewhere.
    pub(crate) fn on(partitions: usize, archive: Archive) -> Self {
        Self::made(partitions, |_| archive)
    }

    fn made(partitions: usize, archive: impl FnOnce(&Path) -> Archive) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("archive");
        let archive = archive(&folder);
        let (log, facts) = (SimulatedLog::new(partitions), SimulatedLog::new(1));
        let segments = SegmentConfig { archive_segment_seconds: 0, ..SegmentConfig::default() };
        Self { log, facts, archive, folder, segments, dir }
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with("cache", self.archive.clone())
    }

    /// Another one, with a cache of its own.
    pub(crate) fn start_with(&self, cache: &str, archive: Archive) -> Running {
        let shutdown = CancellationToken::new();
        let log: Arc<dyn EventLog> = self.log.clone();
        let readiness = Readiness::new();
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
            ready: readiness.component("archiver"),
        };
        let task = tokio::spawn(archiver.run(shutdown.clone()));
        Running { readiness, shutdown, task }
    }

    /// Asks until the answer is yes; fails at the deadline.
    pub(crate) async fn eventually(&self, what: &str, mut ask: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !ask().await {
            assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the manifests of all hours before the last record of each partition are there.
    pub(crate) async fn sealed(&self) {
        shown::sealed(&self.archive, &self.log).await;
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

    /// Every object's hash by its path.
    pub(crate) fn objects(&self) -> BTreeMap<String, Sha256Hex> {
        let mut objects = BTreeMap::new();
        collect(&self.folder, &self.folder, &mut objects);
        objects
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
