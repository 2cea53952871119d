//! A log as far back as the archive reaches: what retention removed from it is read out of the hours' events, and out
//! of the segments where their hour is not sealed.

mod end;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use eventlog::{AppendFuture, Bounds, EventLog, LogError, LogReader, ReadLimit, Record};
use futures_util::{FutureExt, future::BoxFuture};
use model::{LogId, Offset, Partition, Place};

use crate::{
    error::ArchiveError,
    history::Names,
    manifest::{Header, ManifestReader},
    segment::{self, SegmentReader},
    store::Archive,
    table::{EventFiles, StoredEvent, StoredEvents},
};

pub use end::ArchivedEnd;

/// A log and the archive of its events.
pub struct Replay {
    log: Arc<dyn EventLog>,
    archive: Archive,
    /// Where the archive of a partition begins: that does not change.
    starts: Mutex<BTreeMap<Partition, Offset>>,
}

impl Replay {
    pub fn over(log: Arc<dyn EventLog>, archive: Archive) -> Arc<dyn EventLog> {
        Arc::new(Self { log, archive, starts: Mutex::default() })
    }

    /// Where a partition begins whose log begins at `start`: there, if the archive has nothing before it, or cannot be
    /// asked. Nobody who does not need it waits for it.
    async fn start(&self, partition: Partition, start: Offset) -> Offset {
        if let Some(known) = self.known().get(&partition) {
            return start.min(*known);
        }
        match self.first(partition).await {
            Ok(Some(first)) => {
                self.known().insert(partition, first);
                start.min(first)
            }
            Ok(None) => start,
            Err(error) => {
                tracing::warn!(%error, %partition, "what the log does not have any more cannot be read");
                start
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Partition, Offset>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn first(&self, partition: Partition) -> Result<Option<Offset>, ArchiveError> {
        let hours = Hours::list(&self.archive, self.log.log_id(), partition).await?;
        match hours.paths.first() {
            Some(path) => Ok(Some(hours.header(path).await?.first_offset)),
            None => Ok(None),
        }
    }
}

impl EventLog for Replay {
    fn log_id(&self) -> LogId {
        self.log.log_id()
    }

    fn recovered_from(&self) -> Option<LogId> {
        self.log.recovered_from()
    }

    fn recover_from(&self, lost: LogId) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.recover_from(lost)
    }

    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn is_exclusive(&self) -> bool {
        self.log.is_exclusive()
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        self.log.append_to(partition, key, value)
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        async move {
            let Bounds { start, end } = self.log.bounds(partition).await?;
            match start > Offset::ZERO {
                true => Ok(Bounds { start: self.start(partition, start).await, end }),
                false => Ok(Bounds { start, end }),
            }
        }
        .boxed()
    }

    fn own_start(&self, partition: Partition) -> BoxFuture<'_, Result<Offset, LogError>> {
        self.log.own_start(partition)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(Reader {
            log: self.log.clone(),
            archive: self.archive.clone(),
            next: from.iter().copied().collect(),
            archived: None,
            of_log: None,
        }))
    }

    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        async move {
            if let Some(record) = self.log.read_one(place).await? {
                return Ok(Some(record));
            }
            if place.offset >= self.log.bounds(place.partition).await?.start {
                return Ok(None);
            }
            let mut archived =
                Archived::new(&self.archive, self.log.log_id(), place.partition, place.offset);
            let limit = ReadLimit { records_max: 1, bytes_max: 1 };
            let records = archived.next(limit).await.map_err(of_archive)?;
            Ok(records.into_iter().find(|record| record.offset == place.offset))
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.log.close()
    }
}

fn of_archive(error: ArchiveError) -> LogError {
    LogError::Unavailable(format!("what the log does not have any more: {error}"))
}

/// Reads what the log has not first, a partition after another; then the log.
struct Reader {
    log: Arc<dyn EventLog>,
    archive: Archive,
    next: BTreeMap<Partition, Offset>,
    archived: Option<Archived>,
    /// Where all partitions are: none lies before its log any more.
    of_log: Option<Box<dyn LogReader>>,
}

impl LogReader for Reader {
    fn next(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        async move {
            let records = match &mut self.of_log {
                Some(reader) => reader.next(limit, wait).await?,
                None => self.before_log(limit, wait).await?,
            };
            for record in &records {
                self.next.insert(record.partition, record.offset.next());
            }
            Ok(records)
        }
        .boxed()
    }

    fn seek(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        let Some(next) = self.next.get_mut(&partition) else {
            return Err(LogError::NotAssigned { partition });
        };
        *next = offset;
        (self.archived, self.of_log) = (None, None);
        Ok(())
    }
}

impl Reader {
    async fn before_log(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError> {
        for (partition, next) in self.next.clone() {
            let bounds = self.log.bounds(partition).await?;
            if next >= bounds.start {
                continue;
            }
            let place = self.archived.as_ref().map(|archived| (archived.partition, archived.next));
            let mut archived = match self.archived.take() {
                Some(archived) if place == Some((partition, next)) => archived,
                _ => Archived::new(&self.archive, self.log.log_id(), partition, next),
            };
            let records = archived.next(limit).await.map_err(of_archive)?;
            if records.is_empty() {
                // A gap, or what was never archived.
                return Err(LogError::OutOfRange { partition, asked: next, bounds });
            }
            self.archived = Some(archived);
            return Ok(records);
        }
        self.archived = None;
        let from: Vec<_> = self.next.iter().map(|(partition, next)| (*partition, *next)).collect();
        self.of_log.insert(self.log.reader(&from)?).next(limit, wait).await
    }
}

/// The hours of a partition, by the paths of their manifests.
struct Hours {
    archive: Archive,
    paths: Vec<String>,
}

impl Hours {
    async fn list(
        archive: &Archive,
        log: LogId,
        partition: Partition,
    ) -> Result<Self, ArchiveError> {
        let names = Names::list(archive, log, partition).await?;
        Ok(Self { archive: archive.clone(), paths: names.hours().collect() })
    }

    async fn header(&self, path: &str) -> Result<Header, ArchiveError> {
        Ok(ManifestReader::new(self.archive.fetch(path).await?, path)?.header)
    }

    /// The number of the hour that has an offset, or of the first after it, and its header.
    async fn at(&self, offset: Offset) -> Result<Option<(usize, Header)>, ArchiveError> {
        let (mut low, mut high) = (0, self.paths.len());
        let mut found = None;
        while low < high {
            let middle = low.midpoint(high);
            let header = self.header(&self.paths[middle]).await?;
            if header.next_offset > offset {
                (high, found) = (middle, Some((middle, header)));
            } else {
                low = middle + 1;
            }
        }
        Ok(found)
    }
}

/// The archived records of a partition from an offset on, without a hole.
struct Archived {
    archive: Archive,
    log: LogId,
    partition: Partition,
    next: Offset,
    files: EventFiles,
    hours: Option<Hours>,
    /// The hour that comes after the one being read.
    hour: usize,
    reading: Reading,
}

enum Reading {
    Nothing,
    Hour(Box<StoredEvents>, Offset),
    Segment(Box<SegmentReader>),
}

impl Archived {
    fn new(archive: &Archive, log: LogId, partition: Partition, next: Offset) -> Self {
        Self {
            archive: archive.clone(),
            log,
            partition,
            next,
            files: EventFiles::new(archive),
            hours: None,
            hour: 0,
            reading: Reading::Nothing,
        }
    }

    /// The next records, one at least; none where there is a hole.
    async fn next(&mut self, limit: ReadLimit) -> Result<Vec<Record>, ArchiveError> {
        loop {
            let records = match std::mem::replace(&mut self.reading, Reading::Nothing) {
                Reading::Nothing => {
                    if !self.open().await? {
                        return Ok(Vec::new());
                    }
                    continue;
                }
                Reading::Hour(events, end) => {
                    let (events, read) = read_events(events, self.next, limit).await?;
                    match read.is_empty() {
                        // Offsets may skip values.
                        true => self.next = self.next.max(end),
                        false => self.reading = Reading::Hour(events, end),
                    }
                    read
                }
                Reading::Segment(segment) => {
                    let end = segment.next_offset;
                    let (segment, mut read) = read_segment(segment, limit).await?;
                    match read.is_empty() {
                        true => self.next = self.next.max(end),
                        false => self.reading = Reading::Segment(segment),
                    }
                    read.retain(|record| record.offset >= self.next);
                    read
                }
            };
            if let Some(last) = records.last() {
                self.next = last.offset.next();
                return Ok(records);
            }
        }
    }

    /// The hour after the one that was read, if it is known.
    async fn next_hour(&mut self) -> Result<Option<(usize, Header)>, ArchiveError> {
        let Some(hours) = &self.hours else { return Ok(None) };
        let Some(path) = hours.paths.get(self.hour) else { return Ok(None) };
        Ok(Some((self.hour, hours.header(path).await?)))
    }

    /// Opens what has the next offset; whether there is anything.
    async fn open(&mut self) -> Result<bool, ArchiveError> {
        let found = match self.next_hour().await? {
            Some(found) => Some(found),
            // Hours may have been sealed since they were listed, and their segments deleted.
            None => {
                let hours = Hours::list(&self.archive, self.log, self.partition).await?;
                self.hours.insert(hours).at(self.next).await?
            }
        };
        if let Some((number, header)) = found {
            let in_gap = header.gaps.iter().any(|gap| gap.next_offset > self.next);
            if header.first_offset > self.next || in_gap {
                return Ok(false);
            }
            self.hour = number + 1;
            let events = self.files.open(&header).await?;
            self.reading = Reading::Hour(Box::new(events), header.next_offset);
            return Ok(true);
        }
        let names = segment::list(&self.archive, self.log, self.partition).await?;
        let Some(name) = names.iter().rev().find(|name| name.first_offset <= self.next) else {
            return Ok(false);
        };
        let segment = SegmentReader::new(self.archive.fetch(&name.path).await?, &name.path)?;
        let has_it = self.next < segment.next_offset;
        self.reading = Reading::Segment(Box::new(segment));
        Ok(has_it)
    }
}

async fn read_events(
    mut events: Box<StoredEvents>,
    from: Offset,
    limit: ReadLimit,
) -> Result<(Box<StoredEvents>, Vec<Record>), ArchiveError> {
    blocking(move || {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < limit.records_max && bytes < limit.bytes_max {
            let Some(event) = events.next().transpose()? else { break };
            if event.offset >= from {
                bytes += event.key.len() + event.value.len();
                records.push(record(event));
            }
        }
        Ok((events, records))
    })
    .await
}

async fn read_segment(
    mut segment: Box<SegmentReader>,
    limit: ReadLimit,
) -> Result<(Box<SegmentReader>, Vec<Record>), ArchiveError> {
    blocking(move || {
        let records = segment.next_records(limit.records_max, limit.bytes_max)?;
        Ok((segment, records))
    })
    .await
}

/// Unpacking computes.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

fn record(event: StoredEvent) -> Record {
    let StoredEvent { partition, offset, append_time, key, value, .. } = event;
    Record { partition, offset, append_time, key, value }
}
