//! Tables for analysts: Parquet. FORMAT.md, "Parquet".

mod events;
mod messages;
mod read;

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
pub use events::{EventRow, EventsWriter, schema as events_schema};
pub use messages::{MessageRow, MessagesWriter, schema as messages_schema};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
pub use read::{EventFiles, StoredEvent, StoredEvents};

use crate::{
    error::ArchiveError,
    object::{Object, Scratch, Summing},
};

/// Rows of a row group, at most.
const ROW_GROUP_ROWS: usize = 65_536;
/// Rows turned into columns at once.
const BATCH_ROWS: usize = 8_192;
/// Who wrote the file: without a version of the library, so that another one writes the same bytes.
const CREATED_BY: &str = "context-sync archive 1";

/// Writes one table: rows are gathered, and go out as columns.
struct TableWriter {
    writer: ArrowWriter<Summing>,
    schema: SchemaRef,
    rows: u64,
}

impl TableWriter {
    /// `bloom`: the column that is looked up by value.
    fn new(
        scratch: &Scratch,
        schema: SchemaRef,
        bloom: Option<&str>,
    ) -> Result<Self, ArchiveError> {
        let mut properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).map_err(scratch_error)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Page);
        if let Some(column) = bloom {
            properties = properties.set_column_bloom_filter_enabled(ColumnPath::from(column), true);
        }
        let summing = Summing::new(scratch);
        let writer = ArrowWriter::try_new(summing, schema.clone(), Some(properties.build()));
        let writer = writer.map_err(scratch_error)?;
        Ok(Self { writer, schema, rows: 0 })
    }

    fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), ArchiveError> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| scratch_error(error.into()))?;
        self.rows += batch.num_rows() as u64;
        self.writer.write(&batch).map_err(scratch_error)
    }

    fn finish(self) -> Result<(Object, u64), ArchiveError> {
        let summing = self.writer.into_inner().map_err(scratch_error)?;
        Ok((summing.into_object(None)?, self.rows))
    }
}

/// The columns are of the program's own making: what fails is the disk.
fn scratch_error(error: ParquetError) -> ArchiveError {
    ArchiveError::Scratch(Arc::new(std::io::Error::other(error)))
}

/// All rows of a file.
pub fn rows(file: Bytes, path: &str) -> Result<Vec<RecordBatch>, ArchiveError> {
    let damaged = |error: ParquetError| ArchiveError::content(path, error.to_string());
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(damaged)?;
    let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(damaged)?;
    reader.map(|batch| batch.map_err(|error| damaged(error.into()))).collect()
}

fn timestamp(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), nullable)
}

/// Parquet's writer makes a dictionary of it.
fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn schema_of(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}
