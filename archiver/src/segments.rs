//! The recovery point: raw records go to the archive as they come, until their hour is sealed.
//!
//! A task with a reader of its own: a sealing that is stuck does not stop it, and it keeps nobody waiting. What it shares with
//! sealing is the question whose the archive is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use archive::{
    Archive, ArchiveError, history,
    segment::{self, SegmentName, SegmentReader, SegmentWriter},
};
use eventlog::{EventLog, LogReader, ReadLimit, Record};
use model::{Event, Offset, Partition, Timestamp};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    back_off::BackOff,
    clock::Clock,
    config::SegmentConfig,
    error::ArchiverError,
    measure::{Progress, SEGMENTS},
    session::{by_partition, check_owner},
    workers::blocking,
};

const READ: ReadLimit = ReadLimit { records_max: 5_000, bytes_max: 2 << 20 };
/// How long to wait for records before looking whether a segment is due.
const READ_WAIT: Duration = Duration::from_millis(500);

/// Uploads the segments of all partitions.
pub(crate) struct Segments {
    pub(crate) config: SegmentConfig,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) archive: Archive,
    pub(crate) clock: Clock,
    /// The session says there how far it has sealed, and this how far it has uploaded.
    pub(crate) progress: watch::Sender<Progress>,
}

/// A partition's segment that is being gathered.
struct Open {
    writer: SegmentWriter,
    /// When the first record came that is no tick, by this clock and by the log's.
    used: Option<(Instant, Timestamp)>,
}

type Opened = BTreeMap<Partition, Open>;

impl Segments {
    /// Uploads until shutdown. Whatever fails is tried again, with back-off: what is not uploaded yet is read anew.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut back_off = BackOff::new();
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let Err(error) = self.session(&shutdown).await else { break };
            let pause = back_off.pause(began.elapsed(), error.needs_operator());
            tracing::warn!(%error, ?pause, "segments stopped; trying again");
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn session(&self, shutdown: &CancellationToken) -> Result<(), ArchiverError> {
        check_owner(&self.archive, self.log.as_ref()).await?;
        let mut progress = self.progress.subscribe();
        let mut opened = Opened::new();
        for partition in (0..self.log.partitions()).map(Partition::new) {
            match self.begin(partition).await {
                Ok(from) => {
                    self.tell_uploaded(partition, from);
                    opened.insert(partition, self.open(partition, from));
                }
                Err(error) => alarm(partition, error)?,
            }
        }
        let from: Vec<_> = opened.iter().map(|(own, open)| (*own, open.first())).collect();
        let mut reader = self.log.reader(&from)?;
        while !shutdown.is_cancelled() {
            let records = tokio::select! {
                () = shutdown.cancelled() => break,
                read = reader.next(READ, READ_WAIT) => read?,
            };
            for (partition, records) in by_partition(records) {
                gather(&mut opened, partition, records).await?;
            }
            self.upload_due(&mut opened, reader.as_mut()).await?;
            if progress.has_changed().unwrap_or(false) {
                let sealed = progress.borrow_and_update().sealed.clone();
                for (partition, until) in sealed {
                    self.forget(&mut opened, reader.as_mut(), partition, until.next_offset).await?;
                }
            }
        }
        Ok(())
    }

    fn open(&self, partition: Partition, from: Offset) -> Open {
        let (scratch, log) = (self.archive.scratch(), self.log.log_id());
        Open { writer: SegmentWriter::new(scratch, log, partition, from), used: None }
    }

    /// Where the next segment of a partition begins: where the last one ended, or the last sealed hour.
    async fn begin(&self, partition: Partition) -> Result<Offset, ArchiverError> {
        let log = self.log.log_id();
        let start = self.log.bounds(partition).await?.start;
        let newest = history::newest_hour(&self.archive, log, partition).await?;
        let sealed = newest.map_or(Offset::ZERO, |(_, header)| header.next_offset);
        let mut end = sealed;
        if let Some(last) = segment::list(&self.archive, log, partition).await?.last() {
            match self.adopt(partition, &last.path).await {
                Ok(adopted) => end = end.max(adopted),
                // Sealed hours have what it had, or the log has it still, and it goes up once more.
                Err(error) if self.is_given_up(last, &error, sealed, start).await? => {
                    tracing::warn!(%partition, path = last.path, %error, "a segment is given up");
                }
                Err(error) => return Err(error),
            }
        }
        self.delete_covered(partition, sealed, end).await?;
        if end < start {
            tracing::warn!(%partition, from = %end, to = %start, "no segment has these records: retention was faster");
        }
        Ok(end.max(start))
    }

    /// Whether nothing is lost with a segment that cannot be taken as it is. One that says otherwise than the log may have what
    /// the log has lost: it stays, unless it ends within sealed hours.
    async fn is_given_up(
        &self,
        last: &SegmentName,
        error: &ArchiverError,
        sealed: Offset,
        start: Offset,
    ) -> Result<bool, ArchiverError> {
        if last.first_offset >= sealed {
            return Ok(false);
        }
        match error {
            ArchiverError::Archive(ArchiveError::Damaged { .. }) => Ok(start <= sealed),
            ArchiverError::Archive(ArchiveError::OtherContent { .. }) => {
                let object = self.archive.fetch(&last.path).await?;
                Ok(SegmentReader::new(object, &last.path)?.next_offset <= sealed)
            }
            _ => Ok(false),
        }
    }

    /// Takes a segment as it is, if its records are the log's, as far as the log still has them. Returns its end.
    async fn adopt(&self, partition: Partition, path: &str) -> Result<Offset, ArchiverError> {
        let mut segment = SegmentReader::new(self.archive.fetch(path).await?, path)?;
        let end = segment.next_offset;
        let bounds = self.log.bounds(partition).await?;
        let mut same = end <= bounds.end;
        while same {
            let mut records;
            (segment, records) = blocking(move || {
                let records = segment.next_records(READ.records_max, READ.bytes_max)?;
                Ok((segment, records))
            })
            .await?;
            if records.is_empty() {
                return Ok(end);
            }
            records.retain(|record| record.offset >= bounds.start);
            same = self.log_has(partition, &records).await?;
        }
        Err(ArchiveError::OtherContent { path: path.to_owned() }.into())
    }

    async fn log_has(
        &self,
        partition: Partition,
        records: &[Record],
    ) -> Result<bool, ArchiverError> {
        let Some(first) = records.first() else { return Ok(true) };
        let mut reader = self.log.reader(&[(partition, first.offset)])?;
        let mut rest = records;
        while !rest.is_empty() {
            let read = reader.next(READ, READ_WAIT).await?;
            let count = read.len().min(rest.len());
            if read[..count] != rest[..count] {
                return Ok(false);
            }
            rest = &rest[count..];
        }
        Ok(true)
    }

    /// Uploads the segments that are large or old enough.
    async fn upload_due(
        &self,
        opened: &mut Opened,
        reader: &mut dyn LogReader,
    ) -> Result<(), ArchiverError> {
        let due: Vec<Partition> =
            opened.iter().filter(|(_, open)| self.is_due(open)).map(|(own, _)| *own).collect();
        for partition in due {
            let Some(open) = opened.remove(&partition) else { continue };
            let next = open.writer.next_offset();
            match self.upload(partition, open.writer).await {
                Ok(end) => {
                    opened.insert(partition, self.open(partition, end));
                    if end != next {
                        reader.seek(partition, end)?;
                    }
                    self.tell_uploaded(partition, end);
                }
                Err(error) => alarm(partition, error)?,
            }
        }
        Ok(())
    }

    fn is_due(&self, open: &Open) -> bool {
        let Some((since, append_time)) = open.used else { return false };
        let every = self.config.every();
        open.writer.size_bytes() >= self.config.archive_segment_bytes
            || since.elapsed() >= every
            // It had waited before it was read: for a process to start again, say.
            || self.clock.now().micros_since(append_time) >= every.as_micros() as i64
    }

    /// Creates the segment, or takes the one that is there. Returns where the next one begins.
    async fn upload(
        &self,
        partition: Partition,
        writer: SegmentWriter,
    ) -> Result<Offset, ArchiverError> {
        let next = writer.next_offset();
        let path = archive::path::segment(self.log.log_id(), partition, writer.first_offset());
        let mut object = blocking(move || Ok(writer.finish()?)).await?;
        match self.archive.create(&path, &mut object).await {
            Ok(()) => {}
            // Another archiver has cut it elsewhere.
            Err(ArchiveError::OtherContent { .. }) => return self.adopt(partition, &path).await,
            Err(error) => return Err(error.into()),
        }
        metrics::counter!(SEGMENTS).increment(1);
        tracing::debug!(%partition, path, "uploaded a segment");
        Ok(next)
    }

    /// Hours were sealed: what they have is in no segment any more.
    async fn forget(
        &self,
        opened: &mut Opened,
        reader: &mut dyn LogReader,
        partition: Partition,
        sealed: Offset,
    ) -> Result<(), ArchiverError> {
        let Some(first) = opened.get(&partition).map(Open::first) else { return Ok(()) };
        self.delete_covered(partition, sealed, first).await?;
        if first < sealed {
            opened.insert(partition, self.open(partition, sealed));
            reader.seek(partition, sealed)?;
        }
        Ok(())
    }

    fn tell_uploaded(&self, partition: Partition, end: Offset) {
        // Whoever waits for hours is not woken by it.
        self.progress.send_if_modified(|progress| {
            progress.uploaded.insert(partition, end);
            false
        });
    }

    /// Deletes the segments of a partition that lie before what is sealed. The last one that begins before `end` ends
    /// there; one from `end` on is another archiver's. What cannot be deleted is left over, and does no harm.
    async fn delete_covered(
        &self,
        partition: Partition,
        sealed: Offset,
        end: Offset,
    ) -> Result<(), ArchiveError> {
        let names = segment::list(&self.archive, self.log.log_id(), partition).await?;
        for (number, name) in names.iter().enumerate() {
            let ends_by = names.get(number + 1).map_or(end, |next| next.first_offset);
            if name.first_offset >= end || ends_by > sealed {
                continue;
            }
            match self.archive.delete(&name.path).await {
                // A policy of the bucket may keep what is young: the next hour's end tries again.
                Err(error) if error.needs_operator() => {
                    tracing::warn!(%partition, path = name.path, %error, "a segment cannot be deleted: it is left over");
                    return Ok(());
                }
                deleted => deleted.map(|_| ())?,
            }
        }
        Ok(())
    }
}

impl Open {
    fn first(&self) -> Offset {
        self.writer.first_offset()
    }
}

async fn gather(
    opened: &mut Opened,
    partition: Partition,
    records: Vec<Record>,
) -> Result<(), ArchiverError> {
    let Some(mut open) = opened.remove(&partition) else { return Ok(()) };
    let open = blocking(move || {
        for record in &records {
            open.writer.push(record)?;
            if open.used.is_none() && !is_tick(record) {
                open.used = Some((Instant::now(), record.append_time));
            }
        }
        Ok(open)
    });
    opened.insert(partition, open.await?);
    Ok(())
}

fn is_tick(record: &Record) -> bool {
    record.key.is_empty() && matches!(schemas::decode(&record.value), Ok(Event::Tick))
}

/// A segment that says otherwise than the log, or is damaged, stops its own partition's alone.
fn alarm(partition: Partition, error: ArchiverError) -> Result<(), ArchiverError> {
    // Another archiver may just have deleted it.
    let is_gone = matches!(error, ArchiverError::Archive(ArchiveError::NotFound { .. }));
    if error.is_retryable() || is_gone {
        return Err(error);
    }
    tracing::error!(%partition, %error, "the partition gets no segments any more: an operator must look");
    Ok(())
}
