//! `events/` read back.

use arrow_array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use bytes::Bytes;
use model::{Offset, Outcome, Partition, Timestamp};
use parquet::{
    arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
};

use crate::{error::ArchiveError, manifest::Header, store::Archive};

/// Rows read at once: fewer than are written, for a row may be large.
const READ_ROWS: usize = 1_024;

/// A record as the archive has it, with what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    pub partition: Partition,
    pub offset: Offset,
    pub append_time: Timestamp,
    pub key: Bytes,
    pub value: Bytes,
    pub outcome: Option<Outcome>,
}

/// Opens the events of hours.
pub struct EventFiles {
    archive: Archive,
}

impl EventFiles {
    pub fn new(archive: &Archive) -> Self {
        Self { archive: archive.clone() }
    }

    /// The records of an hour, by the header of its manifest.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] if a file is not what its manifest says, [`ArchiveError::NotFound`] if there
    /// is none.
    pub async fn open(&mut self, hour: &Header) -> Result<StoredEvents, ArchiveError> {
        let Some(file) = &hour.events else { return Ok(StoredEvents::none()) };
        let object = self.archive.fetch_checked(&file.path, &file.sha256).await?.bytes()?;
        let damaged = |error: ParquetError| ArchiveError::content(&file.path, error.to_string());
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(Bytes::from(object)).map_err(damaged)?;
        let batches = builder.with_batch_size(READ_ROWS).build().map_err(damaged)?;
        let (batches, path) = (Some(batches), file.path.clone());
        Ok(StoredEvents { batches, path, rows: Vec::new().into_iter() })
    }
}

/// Records in the order of their offsets, read as they are asked for.
pub struct StoredEvents {
    batches: Option<ParquetRecordBatchReader>,
    path: String,
    rows: std::vec::IntoIter<StoredEvent>,
}

impl StoredEvents {
    fn none() -> Self {
        Self { batches: None, path: String::new(), rows: Vec::new().into_iter() }
    }

    fn next_batch(&mut self) -> Option<Result<Vec<StoredEvent>, ArchiveError>> {
        let batch = self.batches.as_mut()?.next()?;
        let rows = batch.map_err(|error| error.to_string()).and_then(|batch| events(&batch));
        Some(rows.map_err(|problem| ArchiveError::content(&self.path, problem)))
    }
}

impl Iterator for StoredEvents {
    type Item = Result<StoredEvent, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.rows.next() {
                return Some(Ok(event));
            }
            match self.next_batch()? {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => {
                    self.batches = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The rows of `events/`; what is wrong with them, if they are none.
fn events(batch: &RecordBatch) -> Result<Vec<StoredEvent>, String> {
    let partition: &Int32Array = column(batch, "partition")?;
    let offset: &Int64Array = column(batch, "offset")?;
    let append_time: &TimestampMicrosecondArray = column(batch, "append_time")?;
    let outcome: &StringArray = column(batch, "outcome")?;
    let key: &BinaryArray = column(batch, "key")?;
    let value: &BinaryArray = column(batch, "value")?;
    let event = |row: usize| {
        let number = offset.value(row);
        let outcome = outcome.is_valid(row).then(|| outcome.value(row));
        Ok(StoredEvent {
            partition: Partition::new(partition.value(row).unsigned_abs()),
            offset: Offset::from_i64(number).ok_or(format!("it has offset {number}"))?,
            append_time: Timestamp::from_micros(append_time.value(row)),
            key: Bytes::copy_from_slice(key.value(row)),
            value: Bytes::copy_from_slice(value.value(row)),
            outcome: outcome.map(parse_outcome).transpose()?,
        })
    };
    (0..batch.num_rows()).map(event).collect()
}

fn column<'b, A: Array + 'static>(batch: &'b RecordBatch, name: &str) -> Result<&'b A, String> {
    let found: Option<&ArrayRef> = batch.column_by_name(name);
    let found = found.ok_or_else(|| format!("it has no column {name}"))?;
    found.as_any().downcast_ref().ok_or_else(|| format!("its column {name} is of another type"))
}

fn parse_outcome(json: &str) -> Result<Outcome, String> {
    serde_json::from_str(json).map_err(|error| format!("an outcome is none: {error}"))
}
