//! Tables read back, wherever they lie: in their hour's file, or in their day's.

use std::ops::Range;

use arrow_array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use model::{Offset, Outcome, Partition, Timestamp};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    errors::ParquetError,
    file::{metadata::RowGroupMetaData, statistics::Statistics},
};

use super::RecordVerdict;
use crate::{
    compaction::{self, Compaction},
    error::ArchiveError,
    manifest::{Header, TableFile},
    object::Contents,
    redaction,
    store::Archive,
};

/// Rows read at once: fewer than are written, for a row may be large.
const READ_ROWS: usize = 1_024;
/// What is read of `events/`.
const EVENT_COLUMNS: [&str; 8] =
    ["partition", "offset", "append_time", "log_time", "verdict", "outcome", "key", "value"];

/// A file's rows, some at a time.
pub(crate) struct Batches {
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    path: String,
}

impl Batches {
    pub(crate) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next()?;
        Some(batch.map_err(|error| ArchiveError::content(&self.path, error.to_string())))
    }
}

/// All rows of a file. `path` is for errors.
pub(crate) fn opened(file: Contents, path: &str) -> Result<Batches, ArchiveError> {
    open_with(file, path, |builder| builder)
}

type Builder = ParquetRecordBatchReaderBuilder<Contents>;

fn open_with(
    file: Contents,
    path: &str,
    select: impl FnOnce(Builder) -> Builder,
) -> Result<Batches, ArchiveError> {
    let damaged = |error: ParquetError| ArchiveError::content(path, error.to_string());
    let builder = Builder::try_new(file).map_err(damaged)?;
    let schema = builder.schema().clone();
    let reader = select(builder).with_batch_size(READ_ROWS).build().map_err(damaged)?;
    Ok(Batches { reader, schema, path: path.to_owned() })
}

/// A record as the archive has it, with what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    pub partition: Partition,
    pub offset: Offset,
    pub append_time: Timestamp,
    pub log_time: Timestamp,
    pub key: Bytes,
    pub value: Bytes,
    /// `None`: there was nothing to decide.
    pub verdict: Option<RecordVerdict>,
    pub outcome: Option<Outcome>,
}

/// Opens the events of hours. An hour of a day that is compacted is a part of the day's file, which is fetched
/// once for all hours that are opened one after another.
pub struct EventFiles {
    archive: Archive,
    day: Option<(Compaction, Contents)>,
}

impl EventFiles {
    pub fn new(archive: &Archive) -> Self {
        Self { archive: archive.clone(), day: None }
    }

    /// The records of an hour, by the header of its manifest.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] if a file is not what its manifest says, [`ArchiveError::NotFound`] if there
    /// is none.
    pub async fn open(&mut self, hour: &Header) -> Result<StoredEvents, ArchiveError> {
        let Some(file) = &hour.events else { return Ok(StoredEvents::none()) };
        let offsets = hour.first_offset..hour.next_offset;
        if let Some((path, day)) = self.opened_day(file) {
            return StoredEvents::new(day, &path, offsets);
        }
        match redaction::fetch(&self.archive, file).await {
            Ok(object) => StoredEvents::new(object.contents(), &file.path, offsets),
            Err(missing @ ArchiveError::NotFound { .. }) => {
                self.fetch_day(hour).await?;
                let (path, day) = self.opened_day(file).ok_or(missing)?;
                StoredEvents::new(day, &path, offsets)
            }
            Err(error) => Err(error),
        }
    }

    fn opened_day(&self, hour: &TableFile) -> Option<(String, Contents)> {
        let (compaction, contents) = self.day.as_ref().filter(|(day, _)| day.has(hour))?;
        let path = compaction.header.events.as_ref().map(|file| file.path.clone())?;
        Some((path, contents.clone()))
    }

    async fn fetch_day(&mut self, hour: &Header) -> Result<(), ArchiveError> {
        self.day = None;
        if let Some(day) = compaction::of_hour(&self.archive, hour).await?
            && let Some(file) = &day.header.events
        {
            let object = redaction::fetch(&self.archive, file).await?;
            self.day = Some((day, object.contents()));
        }
        Ok(())
    }
}

/// Records in the order of their offsets, read as they are asked for.
pub struct StoredEvents {
    batches: Option<Batches>,
    rows: std::vec::IntoIter<StoredEvent>,
    offsets: Range<Offset>,
}

impl StoredEvents {
    fn none() -> Self {
        let offsets = Offset::ZERO..Offset::ZERO;
        Self { batches: None, rows: Vec::new().into_iter(), offsets }
    }

    fn new(file: Contents, path: &str, offsets: Range<Offset>) -> Result<Self, ArchiveError> {
        let batches = open_with(file, path, |builder| {
            let groups = builder.metadata().row_groups().iter().enumerate();
            let groups = groups.filter(|(_, group)| may_have(group, &offsets));
            let groups = groups.map(|(number, _)| number).collect();
            let columns = ProjectionMask::columns(builder.parquet_schema(), EVENT_COLUMNS);
            builder.with_row_groups(groups).with_projection(columns)
        })?;
        Ok(Self { batches: Some(batches), rows: Vec::new().into_iter(), offsets })
    }

    fn next_batch(&mut self) -> Result<Option<Vec<StoredEvent>>, ArchiveError> {
        let Some(batches) = &mut self.batches else { return Ok(None) };
        let Some(batch) = batches.next().transpose()? else { return Ok(None) };
        let events = events(&batch).map_err(|p| ArchiveError::content(&batches.path, p))?;
        Ok(Some(events.into_iter().filter(|e| self.offsets.contains(&e.offset)).collect()))
    }
}

impl Iterator for StoredEvents {
    type Item = Result<StoredEvent, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.rows.next() {
                return Some(Ok(event));
            }
            match self.next_batch().transpose()? {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => {
                    self.batches = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Checks that a file's rows are in order, how many have an offset in each of the ranges, which are in order, and that
/// the events end where the last range does.
pub(crate) fn check_rows(
    file: Contents,
    path: &str,
    hours: &[(Range<Offset>, u64)],
    mut each: impl FnMut(&RecordBatch),
) -> Result<(), ArchiveError> {
    let mut rows = vec![0; hours.len()];
    let mut last = (-1, -1);
    let mut is_events = false;
    for batch in opened(file, path)? {
        let batch = batch?;
        each(&batch);
        is_events = batch.column_by_name("value").is_some();
        count_rows(&batch, hours, &mut rows, &mut last)
            .map_err(|problem| ArchiveError::content(path, problem))?;
    }
    let end = hours.last().map_or(0, |(offsets, _)| offsets.end.as_i64());
    if is_events && last.0 + 1 != end {
        let problem = format!("it does not end at offset {end}, as its manifest does");
        return Err(ArchiveError::content(path, problem));
    }
    let wrong = hours.iter().zip(rows).find(|((_, expected), found)| expected != found);
    let Some(((offsets, expected), found)) = wrong else { return Ok(()) };
    let (from, to) = (offsets.start, offsets.end);
    let problem =
        format!("it has {found} rows of offsets [{from}, {to}), its manifest says {expected}");
    Err(ArchiveError::content(path, problem))
}

fn count_rows(
    batch: &RecordBatch,
    hours: &[(Range<Offset>, u64)],
    rows: &mut [u64],
    last: &mut (i64, i32),
) -> Result<(), String> {
    let offsets: &Int64Array = column(batch, "offset")?;
    let indexes: Option<&Int32Array> = column(batch, "index").ok();
    for row in 0..batch.num_rows() {
        let place = (offsets.value(row), indexes.map_or(0, |indexes| indexes.value(row)));
        if place <= *last {
            return Err(format!("its rows are not in order: {place:?} follows {last:?}"));
        }
        *last = place;
        let hour = hours.partition_point(|(hour, _)| hour.end.as_i64() <= place.0);
        match (hours.get(hour), rows.get_mut(hour)) {
            (Some((hour, _)), Some(rows)) if hour.start.as_i64() <= place.0 => *rows += 1,
            _ => return Err(format!("it has offset {}, which is of no hour of it", place.0)),
        }
    }
    Ok(())
}

/// Whether a row group's offsets and these overlap; without statistics they may.
fn may_have(group: &RowGroupMetaData, offsets: &Range<Offset>) -> bool {
    let is_offset = |name: &str| name == "offset";
    let column = group.columns().iter().find(|c| is_offset(c.column_path().string().as_str()));
    let Some(Statistics::Int64(found)) = column.and_then(|column| column.statistics()) else {
        return true;
    };
    let (Some(min), Some(max)) = (found.min_opt(), found.max_opt()) else { return true };
    *min < offsets.end.as_i64() && *max >= offsets.start.as_i64()
}

/// The rows of `events/`; what is wrong with them, if they are none.
fn events(batch: &RecordBatch) -> Result<Vec<StoredEvent>, String> {
    let partition: &Int32Array = column(batch, "partition")?;
    let offset: &Int64Array = column(batch, "offset")?;
    let append_time: &TimestampMicrosecondArray = column(batch, "append_time")?;
    let log_time: &TimestampMicrosecondArray = column(batch, "log_time")?;
    let verdict: &StringArray = column(batch, "verdict")?;
    let outcome: &StringArray = column(batch, "outcome")?;
    let key: &BinaryArray = column(batch, "key")?;
    let value: &BinaryArray = column(batch, "value")?;
    let event = |row: usize| {
        let number = offset.value(row);
        Ok(StoredEvent {
            partition: Partition::new(partition.value(row).unsigned_abs()),
            offset: Offset::from_i64(number).ok_or(format!("it has offset {number}"))?,
            append_time: Timestamp::from_micros(append_time.value(row)),
            log_time: Timestamp::from_micros(log_time.value(row)),
            key: Bytes::copy_from_slice(key.value(row)),
            value: Bytes::copy_from_slice(value.value(row)),
            verdict: present(verdict, row).map(parse_verdict).transpose()?,
            outcome: present(outcome, row).map(parse_outcome).transpose()?,
        })
    };
    (0..batch.num_rows()).map(event).collect()
}

pub(super) fn column<'b, A: Array + 'static>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b A, String> {
    let found: Option<&ArrayRef> = batch.column_by_name(name);
    let found = found.ok_or_else(|| format!("it has no column {name}"))?;
    found.as_any().downcast_ref().ok_or_else(|| format!("its column {name} is of another type"))
}

fn present(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn parse_verdict(text: &str) -> Result<RecordVerdict, String> {
    let found = RecordVerdict::ALL.into_iter().find(|verdict| verdict.as_str() == text);
    found.ok_or_else(|| format!("{text} is no verdict"))
}

fn parse_outcome(json: &str) -> Result<Outcome, String> {
    serde_json::from_str(json).map_err(|error| format!("an outcome is none: {error}"))
}
