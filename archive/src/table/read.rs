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
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
    },
    errors::ParquetError,
    file::{metadata::RowGroupMetaData, statistics::Statistics},
    schema::types::SchemaDescriptor,
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

/// Rows read at once, and their bytes, but for one row: fewer than are written, for they are held several times over.
const READ_ROWS: usize = 1_024;
const READ_BYTES: usize = 8 << 20;
/// What is read of `events/`.
const EVENT_COLUMNS: [&str; 8] =
    ["partition", "offset", "append_time", "log_time", "verdict", "outcome", "key", "value"];

/// A file's rows, some at a time. Each row group has a reader of its own: one of all goes on from group to group until it
/// has its rows, however large they are.
pub(crate) struct Batches {
    file: Contents,
    metadata: ArrowReaderMetadata,
    columns: ProjectionMask,
    groups: std::vec::IntoIter<usize>,
    reader: Option<ParquetRecordBatchReader>,
    path: String,
}

impl Batches {
    pub(crate) fn schema(&self) -> SchemaRef {
        self.metadata.schema().clone()
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ParquetError> {
        loop {
            if let Some(batch) = self.reader.as_mut().and_then(Iterator::next) {
                return Ok(Some(batch?));
            }
            let Some(group) = self.groups.next() else { return Ok(None) };
            let rows = rows_at_once(self.metadata.metadata().row_group(group));
            let (file, metadata) = (self.file.clone(), self.metadata.clone());
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
                .with_projection(self.columns.clone())
                .with_row_groups(vec![group])
                .with_batch_size(rows);
            self.reader = Some(reader.build()?);
        }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch().transpose()?;
        Some(batch.map_err(|error| ArchiveError::content(&self.path, error.to_string())))
    }
}

/// How many rows of a group come to some megabytes: they are of much the same size.
fn rows_at_once(group: &RowGroupMetaData) -> usize {
    let rows = usize::try_from(group.num_rows()).unwrap_or_default().max(1);
    let bytes = usize::try_from(group.total_byte_size()).unwrap_or(usize::MAX) / rows;
    (READ_BYTES / bytes.max(1)).clamp(1, READ_ROWS)
}

/// All rows of a file. `path` is for errors.
pub(crate) fn opened(file: Contents, path: &str) -> Result<Batches, ArchiveError> {
    open_with(file, path, |_| ProjectionMask::all(), |_| true)
}

fn open_with(
    file: Contents,
    path: &str,
    columns: impl FnOnce(&SchemaDescriptor) -> ProjectionMask,
    wants: impl Fn(&RowGroupMetaData) -> bool,
) -> Result<Batches, ArchiveError> {
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())
        .map_err(|error| ArchiveError::content(path, error.to_string()))?;
    let groups = metadata.metadata().row_groups().iter().enumerate();
    let groups: Vec<usize> =
        groups.filter(|(_, group)| wants(group)).map(|(number, _)| number).collect();
    let (columns, groups) = (columns(metadata.parquet_schema()), groups.into_iter());
    Ok(Batches { file, metadata, columns, groups, reader: None, path: path.to_owned() })
}

/// Whether two files have the same rows in the same order, whatever their row groups.
pub(crate) fn same_rows(one: Contents, other: Contents, path: &str) -> Result<bool, ArchiveError> {
    let (mut one, mut other) = (opened(one, path)?, opened(other, path)?);
    let [mut left, mut right] = [one.schema(), other.schema()].map(RecordBatch::new_empty);
    loop {
        let more = [more_of(&mut left, &mut one)?, more_of(&mut right, &mut other)?];
        let rows = left.num_rows().min(right.num_rows());
        if more != [true, true] || left.slice(0, rows) != right.slice(0, rows) {
            return Ok(more == [false, false] && left.schema() == right.schema());
        }
        left = left.slice(rows, left.num_rows() - rows);
        right = right.slice(rows, right.num_rows() - rows);
    }
}

/// Reads on where nothing is left; whether there is something now.
fn more_of(left: &mut RecordBatch, batches: &mut Batches) -> Result<bool, ArchiveError> {
    while left.num_rows() == 0 {
        match batches.next().transpose()? {
            Some(batch) => *left = batch,
            None => return Ok(false),
        }
    }
    Ok(true)
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
        let columns = |schema: &SchemaDescriptor| ProjectionMask::columns(schema, EVENT_COLUMNS);
        let batches = open_with(file, path, columns, |group| may_have(group, &offsets))?;
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

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
