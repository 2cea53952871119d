//! A session: from where the cache stands on, until something goes wrong or shutdown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use archive::{Archive, object::Object, path};
use bytes::Bytes;
use eventlog::{EventLog, ReadLimit, Record};
use model::{Event, Offset, Partition, Timestamp};
use readmodel::DatabaseConfig;
use service::ops::ComponentHandle;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    config::ArchiverConfig,
    error::ArchiverError,
    facts::{Facts, now},
    fold::{Stop, fold},
    measure::{Progress, SealedUntil},
    restoring::Restores,
    sealing::{Sealer, blocking},
};

const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 8 << 20 };
/// How long to wait for records before looking whether an idle partition's hour is over.
const READ_WAIT: Duration = Duration::from_millis(500);
/// How long a tick is waited for before another is appended.
const TICK_AGAIN: Duration = Duration::from_secs(10);
/// How long after an hour's end by this clock it is ended by a tick: others' clocks may differ.
const TICK_AFTER_MICROS: i64 = 1_000_000;

/// What a session works with.
pub(crate) struct Session<'a> {
    pub(crate) config: &'a ArchiverConfig,
    pub(crate) log: &'a Arc<dyn EventLog>,
    pub(crate) facts: &'a Arc<dyn EventLog>,
    pub(crate) archive: &'a Archive,
    pub(crate) database: Option<&'a DatabaseConfig>,
    pub(crate) progress: &'a watch::Sender<Progress>,
    pub(crate) ready: &'a ComponentHandle,
}

impl Session<'_> {
    /// Archives until shutdown (`Ok`) or until something goes wrong.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) -> Result<(), ArchiverError> {
        let cache = self.open_cache().await?;
        self.write_schemas().await?;
        let from = self.positions(&cache).await?;
        let mut reader = self.log.reader(&from)?;
        let mut restores = Restores::default();
        let mut ticked: BTreeMap<Partition, Instant> = BTreeMap::new();
        self.ready.set_ready();
        while !shutdown.is_cancelled() {
            let records = tokio::select! {
                () = shutdown.cancelled() => break,
                read = reader.next(READ, READ_WAIT) => read?,
            };
            for (partition, records) in by_partition(records) {
                ticked.remove(&partition);
                self.take(&cache, partition, records).await?;
            }
            self.end_idle_hours(&cache, &mut ticked).await?;
            restores.execute(self.log, self.archive, &cache).await?;
        }
        Ok(())
    }

    async fn open_cache(&self) -> Result<Arc<Cache>, ArchiverError> {
        let (directory, log) = (self.config.archive_cache.clone(), self.log.log_id());
        blocking(move || {
            std::fs::create_dir_all(&directory).map_err(|error| {
                ArchiverError::Cache(format!("{}: {error}", directory.display()))
            })?;
            Ok(Arc::new(Cache::open(&directory.join("fold.redb"), log)?))
        })
        .await
    }

    /// Whoever finds the archive can read the events in it.
    async fn write_schemas(&self) -> Result<(), ArchiverError> {
        for schema in schemas::schemas() {
            let mut object = Object::of_bytes(self.archive.scratch(), schema.json.as_bytes())?;
            self.archive.create(&path::schema(schema.fingerprint), &mut object).await?;
        }
        Ok(())
    }

    /// Where to go on in each partition.
    async fn positions(
        &self,
        cache: &Arc<Cache>,
    ) -> Result<Vec<(Partition, Offset)>, ArchiverError> {
        let mut positions = Vec::new();
        for partition in (0..self.log.partitions()).map(Partition::new) {
            self.tell_sealed(cache, partition)?;
            positions.push((partition, self.catch_up(cache, partition).await?));
        }
        Ok(positions)
    }

    /// Folds records of a partition; what ends on the way is sealed.
    pub(crate) async fn take(
        &self,
        cache: &Arc<Cache>,
        partition: Partition,
        records: Vec<Record>,
    ) -> Result<(), ArchiverError> {
        let sealer = self.sealer(cache);
        let records: Arc<[Record]> = records.into();
        let mut done = 0;
        loop {
            let (own, rest, length) = (cache.clone(), records.clone(), sealer.length);
            let (folded, stop) =
                blocking(move || fold(&own, length, partition, &rest[done..])).await?;
            done += folded;
            match stop {
                Stop::Folded => return Ok(()),
                Stop::HourEnds => {
                    sealer.seal_hour(partition).await?;
                    self.tell_sealed(cache, partition)?;
                }
                Stop::DayEnds => sealer.seal_day(partition).await?,
                Stop::BackupRequested => sealer.back_up(partition).await?,
                Stop::GapPassed => sealer.seal_gap(partition).await?,
            }
        }
    }

    /// Who uploads segments, and who measures, hear how far the hours are sealed.
    fn tell_sealed(&self, cache: &Cache, partition: Partition) -> Result<(), ArchiverError> {
        let state = cache.state(partition)?;
        let until = SealedUntil { next_offset: state.sealed, time: state.sealed_time };
        self.progress.send_modify(|progress| {
            progress.sealed.insert(partition, until);
        });
        Ok(())
    }

    fn sealer<'s>(&'s self, cache: &'s Arc<Cache>) -> Sealer<'s> {
        let retention = &self.config.retention;
        let facts = Facts { log: self.facts, archive: self.archive, retention };
        let length = self.config.archive_hour_seconds;
        Sealer { log: self.log, archive: self.archive, cache, facts, length }
    }

    /// Nothing comes that would end a partition's open hour, or day: a tick does.
    async fn end_idle_hours(
        &self,
        cache: &Cache,
        ticked: &mut BTreeMap<Partition, Instant>,
    ) -> Result<(), ArchiverError> {
        let now = now();
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let state = cache.state(partition)?;
            let length = self.config.archive_hour_seconds;
            let is_over = |end: Timestamp| now > end.plus_micros(TICK_AFTER_MICROS);
            let hour_is_over =
                state.hour_is_used && state.hour.is_some_and(|hour| is_over(length.end(hour)));
            let day_is_over = state.day_is_used
                && state.day.is_some_and(|day| is_over(length.midnight(day.next())));
            let waited_for = ticked.get(&partition).is_some_and(|at| at.elapsed() < TICK_AGAIN);
            if (hour_is_over || day_is_over) && !waited_for {
                ticked.insert(partition, Instant::now());
                let value = schemas::encode(&Event::Tick);
                let value = value.map_err(|error| ArchiverError::Task(error.to_string()))?;
                self.log.append_to(partition, Bytes::new(), Bytes::from(value)).await?;
            }
        }
        Ok(())
    }
}

/// In the order of each partition.
pub(crate) fn by_partition(records: Vec<Record>) -> BTreeMap<Partition, Vec<Record>> {
    let mut parts: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
    for record in records {
        parts.entry(record.partition).or_default().push(record);
    }
    parts
}
