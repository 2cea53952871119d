//! The records of a partition once more: out of the log, and what retention removed there, out of the segments.

use std::{ops::Range, sync::Arc, time::Duration};

use archive::{
    Archive,
    manifest::Gap,
    segment::{self, SegmentName, SegmentReader},
};
use eventlog::{EventLog, LogReader, ReadLimit, Record};
use model::{LogId, Offset, Partition};

use crate::{error::ArchiverError, workers::blocking};

const READ: ReadLimit = ReadLimit { records_max: 5_000, bytes_max: 2 << 20 };
const READ_WAIT: Duration = Duration::from_secs(5);

/// Reads a range of a partition's records, but for what is in a gap.
pub(crate) struct Records<'a> {
    log: &'a Arc<dyn EventLog>,
    archive: &'a Archive,
    partition: Partition,
    range: Range<Offset>,
    gaps: &'a [Gap],
    reading: Reading,
}

enum Reading {
    Nothing,
    Log(Box<dyn LogReader>),
    Segment(Box<SegmentReader>),
}

impl<'a> Records<'a> {
    pub(crate) fn new(
        log: &'a Arc<dyn EventLog>,
        archive: &'a Archive,
        partition: Partition,
        range: Range<Offset>,
        gaps: &'a [Gap],
    ) -> Self {
        Self { log, archive, partition, range, gaps, reading: Reading::Nothing }
    }

    /// The next records; none at the end of the range.
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, ArchiverError> {
        while self.range.start < self.range.end {
            if let Some(end) = gap_end(self.gaps, self.range.start) {
                self.range.start = end;
                self.reading = Reading::Nothing;
                continue;
            }
            let mut records = self.read().await?;
            records.retain(|record| self.range.contains(&record.offset));
            if let Some(last) = records.last() {
                self.range.start = last.offset.next();
                return Ok(records);
            }
        }
        Ok(Vec::new())
    }

    /// Some records, which may lie beside the range.
    async fn read(&mut self) -> Result<Vec<Record>, ArchiverError> {
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Nothing => {
                self.reading = self.open().await?;
                Ok(Vec::new())
            }
            Reading::Log(mut reader) => {
                let records = reader.next(READ, READ_WAIT).await?;
                self.reading = Reading::Log(reader);
                Ok(records)
            }
            Reading::Segment(mut segment) => {
                let end = segment.next_offset;
                let (segment, records) = blocking(move || {
                    let records = segment.next_records(READ.records_max, READ.bytes_max)?;
                    Ok((segment, records))
                })
                .await?;
                match records.is_empty() {
                    true => self.range.start = self.range.start.max(end),
                    false => self.reading = Reading::Segment(segment),
                }
                Ok(records)
            }
        }
    }

    async fn open(&mut self) -> Result<Reading, ArchiverError> {
        let (partition, needed) = (self.partition, self.range.start);
        let start = self.log.bounds(partition).await?.start;
        if start <= needed {
            return Ok(Reading::Log(self.log.reader(&[(partition, needed)])?));
        }
        let names = segment::list(self.archive, self.log.log_id(), partition).await?;
        match segment_at(self.archive, &names, needed).await? {
            Some(segment) => Ok(Reading::Segment(Box::new(segment))),
            None => Err(ArchiverError::Overtaken { partition, needed, start }),
        }
    }
}

/// How far a partition's records go without a hole from an offset on, but for gaps, as far as the segments have them.
pub(crate) async fn reach(
    archive: &Archive,
    log: LogId,
    partition: Partition,
    from: Offset,
    gaps: &[Gap],
) -> Result<Offset, ArchiverError> {
    let names = segment::list(archive, log, partition).await?;
    let mut place = from;
    loop {
        if let Some(end) = gap_end(gaps, place) {
            place = end;
        } else if let Some(segment) = segment_at(archive, &names, place).await? {
            place = segment.next_offset;
        } else {
            return Ok(place);
        }
    }
}

fn gap_end(gaps: &[Gap], place: Offset) -> Option<Offset> {
    let has = |gap: &&Gap| gap.first_offset <= place && place < gap.next_offset;
    gaps.iter().find(has).map(|gap| gap.next_offset)
}

/// The segment that has an offset.
async fn segment_at(
    archive: &Archive,
    names: &[SegmentName],
    place: Offset,
) -> Result<Option<SegmentReader>, ArchiverError> {
    let Some(name) = names.iter().rev().find(|name| name.first_offset <= place) else {
        return Ok(None);
    };
    let segment = SegmentReader::new(archive.fetch(&name.path).await?, &name.path)?;
    Ok((place < segment.next_offset).then_some(segment))
}
