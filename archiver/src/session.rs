//! A session: from where the cache stands on, until something goes wrong or shutdown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use archive::{
    Archive,
    base::{self, Owner},
    history::newest_hour,
    manifest::Reference,
    object::Object,
    path,
    period::Hour,
};
use bytes::Bytes;
use eventlog::{EventLog, ReadLimit, Record};
use futures_util::{StreamExt, stream};
use model::{Event, Offset, Partition, Place, Timestamp};
use readmodel::DatabaseConfig;
use service::ops::ComponentHandle;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::{Cache, LastRecord},
    compaction::Compactions,
    config::ArchiverConfig,
    erasing::{Erasures, TablesTurn},
    error::ArchiverError,
    facts::Facts,
    fold::{Stop, fold},
    measure::{Progress, SealedUntil},
    restoring::Restores,
    sealing::Sealer,
    upkeep::Upkeep,
    workers::blocking,
};

/// The name of the cache's files.
const CACHE: &str = "fold";
const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 2 << 20 };
/// Partitions whose records are taken at the same time.
const PARTITIONS_AT_ONCE: usize = 2;
/// How long to wait for records before looking whether an idle partition's hour is over.
const READ_WAIT: Duration = Duration::from_millis(500);
/// How long an hour is left to a tick to end it, before another is appended: the log's clock may be behind.
const TICK_AGAIN: Duration = Duration::from_secs(10);
/// How long after an hour's end by this clock it is ended by a tick: others' clocks may differ.
const TICK_AFTER_MICROS: i64 = 1_000_000;

/// The hour that was open in a partition when the last tick was appended to it, and when that was.
type Ticked = BTreeMap<Partition, (Option<Hour>, Instant)>;

/// What a session works with.
pub(crate) struct Session<'a> {
    pub(crate) config: &'a ArchiverConfig,
    pub(crate) log: &'a Arc<dyn EventLog>,
    pub(crate) facts: &'a Arc<dyn EventLog>,
    pub(crate) archive: &'a Archive,
    pub(crate) database: Option<&'a DatabaseConfig>,
    pub(crate) progress: &'a watch::Sender<Progress>,
    pub(crate) ready: &'a ComponentHandle,
    pub(crate) upkeep: &'a Upkeep,
}

impl Session<'_> {
    /// Archives until shutdown (`Ok`) or until something goes wrong.
    pub(crate) async fn run(&self, shutdown: &CancellationToken) -> Result<(), ArchiverError> {
        check_owner(self.archive, self.log.as_ref()).await?;
        let cache = self.open_cache().await?;
        self.write_schemas().await?;
        let mut upkeep = self.upkeep.spawn(self, &cache);
        let ended = tokio::select! {
            ended = self.archive_on(&cache, shutdown) => ended,
            // It ends only by a panic: without it nothing would expire, and operators would wait.
            Some(upkeep) = upkeep.join_next() => {
                Err(ArchiverError::Task(format!("upkeep: {upkeep:?}")))
            }
        };
        upkeep.shutdown().await; // it lets go of the cache
        if let Err(ArchiverError::CacheDamaged(_)) = &ended {
            self.remove_cache().await;
        }
        ended
    }

    /// The next session makes it again: from the log, or the archive.
    async fn remove_cache(&self) {
        let directory = self.config.cache_directory();
        let named = directory.display().to_string();
        tracing::warn!(directory = named, "removing the damaged cache");
        if let Err(error) = blocking(move || Ok(Cache::remove(&directory, CACHE)?)).await {
            tracing::error!(%error, directory = named, "the damaged cache cannot be removed: remove it");
        }
    }

    async fn archive_on(
        &self,
        cache: &Arc<Cache>,
        shutdown: &CancellationToken,
    ) -> Result<(), ArchiverError> {
        let from = self.positions(cache).await?;
        let mut behind = self.ends().await?;
        let mut reader = self.log.reader(&from)?;
        let mut restores = Restores::default();
        let turn = TablesTurn::default();
        let mut compactions = Compactions::new(turn.clone());
        let mut erasures = Erasures::new(turn);
        let mut ticked = Ticked::new();
        let mut quiet_since = Instant::now();
        self.ready.set_ready();
        while !shutdown.is_cancelled() {
            let records = tokio::select! {
                () = shutdown.cancelled() => break,
                read = reader.next(READ, READ_WAIT) => read?,
            };
            if !records.is_empty() {
                quiet_since = Instant::now();
            }
            self.take_all(cache, records).await?;
            forget_reached(&mut behind, cache)?;
            let is_current = |partition| !behind.contains_key(&partition);
            self.end_idle_hours(cache, &mut ticked, is_current).await?;
            self.ask_for_time(cache, &mut quiet_since).await?;
            restores.execute(self.log, self.archive, cache, is_current).await?;
            compactions.go_on(self, cache).await?;
            erasures.go_on(self, cache).await?;
        }
        Ok(())
    }

    async fn open_cache(&self) -> Result<Arc<Cache>, ArchiverError> {
        let directory = self.config.cache_directory();
        let log = self.log.log_id();
        let hours = self.config.archive_hour_seconds;
        blocking(move || {
            std::fs::create_dir_all(&directory).map_err(|error| {
                ArchiverError::Cache(format!("{}: {error}", directory.display()))
            })?;
            Ok(Arc::new(Cache::open(&directory, CACHE, log, hours)?))
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

    /// The bucket and the log decide, not the cache: where the archive has not what the cache goes on from, or the log
    /// not what it has folded last, a partition is folded anew.
    async fn compare(&self, cache: &Arc<Cache>, partition: Partition) -> Result<(), ArchiverError> {
        let newest = newest_hour(self.archive, self.log.log_id(), partition).await?;
        let length = self.config.archive_hour_seconds;
        if let Some((Reference { path, .. }, hour)) = &newest
            && hour.period_seconds != length
        {
            let problem = format!("its hours have {}, not {length}", hour.period_seconds);
            return Err(ArchiverError::OtherManifest { path: path.clone(), problem });
        }
        let state = cache.state(partition)?;
        let is_in_archive = state.previous.as_ref().is_none_or(|previous| {
            newest.as_ref().is_some_and(|(reference, hour)| {
                hour.next_offset > state.sealed || reference == previous
            })
        });
        if !is_in_archive {
            tracing::warn!(%partition, "what the cache goes on from is not in the archive: folding anew");
            cache.write(partition, true, |tables| tables.clear(partition))?;
        } else if !self.is_of_log(partition, state.last.as_ref()).await? {
            tracing::warn!(%partition, "the log was cut behind what the cache has: folding anew");
            cache.write(partition, true, |tables| tables.clear(partition))?;
        }
        Ok(())
    }

    /// Whether the log has the record folded last, or had it: retention may have removed it.
    async fn is_of_log(
        &self,
        partition: Partition,
        last: Option<&LastRecord>,
    ) -> Result<bool, ArchiverError> {
        let Some(last) = last else { return Ok(true) };
        if last.offset < self.log.bounds(partition).await?.start {
            return Ok(true);
        }
        let record = self.log.read_one(Place { partition, offset: last.offset }).await?;
        Ok(record.is_some_and(|record| LastRecord::of(&record) == *last))
    }

    /// Where to go on in each partition.
    async fn positions(
        &self,
        cache: &Arc<Cache>,
    ) -> Result<Vec<(Partition, Offset)>, ArchiverError> {
        let mut positions = Vec::new();
        for partition in (0..self.log.partitions()).map(Partition::new) {
            positions.push((partition, self.position(cache, partition).await?));
        }
        Ok(positions)
    }

    /// Where to go on in a partition.
    pub(crate) async fn position(
        &self,
        cache: &Arc<Cache>,
        partition: Partition,
    ) -> Result<Offset, ArchiverError> {
        self.compare(cache, partition).await?;
        self.tell_sealed(cache, partition)?;
        self.catch_up(cache, partition).await
    }

    /// Where the log ends now: what is folded before that is of the past.
    async fn ends(&self) -> Result<BTreeMap<Partition, Offset>, ArchiverError> {
        let mut ends = BTreeMap::new();
        for partition in (0..self.log.partitions()).map(Partition::new) {
            ends.insert(partition, self.log.bounds(partition).await?.end);
        }
        Ok(ends)
    }

    /// Takes the records of some partitions at a time: while one is sealed, another is folded. Each is taken to
    /// its end, whatever becomes of the others: nothing goes on behind the back of the next session.
    async fn take_all(
        &self,
        cache: &Arc<Cache>,
        records: Vec<Record>,
    ) -> Result<(), ArchiverError> {
        let parts = by_partition(records);
        let taken =
            parts.into_iter().map(|(partition, records)| self.take(cache, partition, records));
        let taken: Vec<_> =
            stream::iter(taken).buffer_unordered(PARTITIONS_AT_ONCE).collect().await;
        taken.into_iter().collect()
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
        let clock = &self.upkeep.clock;
        let facts = Facts { log: self.facts, archive: self.archive, retention, clock };
        let length = self.config.archive_hour_seconds;
        Sealer { log: self.log, archive: self.archive, cache, facts, length }
    }

    /// Nothing comes that would end a partition's open hour, or day: a tick does.
    async fn end_idle_hours(
        &self,
        cache: &Cache,
        ticked: &mut Ticked,
        is_current: impl Fn(Partition) -> bool,
    ) -> Result<(), ArchiverError> {
        let now = self.upkeep.clock.now();
        for partition in
            (0..self.log.partitions()).map(Partition::new).filter(|own| is_current(*own))
        {
            let state = cache.state(partition)?;
            let length = self.config.archive_hour_seconds;
            let is_over = |end: Timestamp| now > end.plus_micros(TICK_AFTER_MICROS);
            let hour_is_over =
                state.hour_is_used && state.hour.is_some_and(|hour| is_over(length.end(hour)));
            let day_is_over = state.day_is_used
                && state.day.is_some_and(|day| is_over(length.midnight(day.next())));
            let waited_for = ticked
                .get(&partition)
                .is_some_and(|(hour, at)| *hour == state.hour && at.elapsed() < TICK_AGAIN);
            if (hour_is_over || day_is_over) && !waited_for {
                ticked.insert(partition, (state.hour, Instant::now()));
                self.tick(partition).await?;
            }
        }
        Ok(())
    }

    /// Nothing comes to any partition, and no hour waits for its end: a tick tells what time it is by the log's clock, which
    /// is what expires goes by.
    async fn ask_for_time(
        &self,
        cache: &Cache,
        quiet_since: &mut Instant,
    ) -> Result<(), ArchiverError> {
        let clock = &self.upkeep.clock;
        if !clock.may_ask(quiet_since.elapsed()) {
            return Ok(());
        }
        let (time, partition) = cache.newest(self.log.partitions())?;
        if clock.is_old(time) {
            // Where the log's own clock stands still, or is behind, it is not asked again at once.
            *quiet_since = Instant::now();
            self.tick(partition).await?;
        }
        Ok(())
    }

    async fn tick(&self, partition: Partition) -> Result<(), ArchiverError> {
        let value = schemas::encode(&Event::Tick);
        let value = value.map_err(|error| ArchiverError::Unencodable(error.to_string()))?;
        self.log.append_to(partition, Bytes::new(), Bytes::from(value)).await?;
        Ok(())
    }
}

/// The archive is the log's, or nobody's yet. Nothing is written before: a log that has something in an archive counts as
/// the archive's own.
pub(crate) async fn check_owner(archive: &Archive, of: &dyn EventLog) -> Result<(), ArchiverError> {
    let log = of.log_id();
    match base::owner(archive, log).await? {
        Owner::Nobody | Owner::Ours => match of.recovered_from() {
            Some(lost) if base::recovered_from(archive, log).await?.is_none() => {
                Err(ArchiverError::NoBase { log, lost })
            }
            _ => Ok(()),
        },
        Owner::Others(logs) => Err(ArchiverError::OtherLogs { log, logs }),
        Owner::GivenUpFor(into) => Err(ArchiverError::GivenUp { log, into }),
        Owner::Unfinished(partition) => Err(ArchiverError::Unrecovered { log, partition }),
    }
}

/// Partitions whose fold has come to where the log ended are behind no more.
fn forget_reached(
    behind: &mut BTreeMap<Partition, Offset>,
    cache: &Cache,
) -> Result<(), ArchiverError> {
    for (partition, end) in std::mem::take(behind) {
        if cache.state(partition)?.next_offset < end {
            behind.insert(partition, end);
        }
    }
    Ok(())
}

/// In the order of each partition.
pub(crate) fn by_partition(records: Vec<Record>) -> BTreeMap<Partition, Vec<Record>> {
    let mut parts: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
    for record in records {
        parts.entry(record.partition).or_default().push(record);
    }
    parts
}
