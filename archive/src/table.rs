//! Tables for analysts: Parquet. FORMAT.md, "Parquet".

mod blanking;
mod events;
mod messages;
mod read;

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
pub(crate) use blanking::{Blanking, TableRewriter};
use bytes::Bytes;
pub use events::{EventRow, EventsWriter, RecordVerdict, schema as events_schema};
pub use messages::{MessageRow, MessagesWriter, schema as messages_schema};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
pub use read::{EventFiles, StoredEvent, StoredEvents};
pub(crate) use read::{check_rows, opened, same_rows};

use crate::{
    error::ArchiveError,
    object::{Object, Scratch, Summing},
};

/// Rows of a row group, at most.
pub const ROW_GROUP_ROWS: usize = 65_536;
/// Bytes of a row group before compression, at most, but for one batch: what writers and readers hold in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Rows turned into columns at once, and the bytes in them.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 8 << 20;
/// How often a bloom filter says that a value may be there which is not.
const FALSE_POSITIVES: f64 = 0.01;
/// Who wrote the file: without a version of the library, so that another one writes the same bytes.
const CREATED_BY: &str = "context-sync archive 1";

/// A table's columns, and how they are written.
pub(crate) struct Layout {
    schema: fn() -> SchemaRef,
    /// Columns of few values.
    dictionary: &'static [&'static str],
    /// Columns that are looked up by value.
    bloom: &'static [&'static str],
}

/// The tables of an hour, or a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Events,
    Messages,
}

impl Table {
    const fn layout(self) -> &'static Layout {
        match self {
            Self::Events => &events::LAYOUT,
            Self::Messages => &messages::LAYOUT,
        }
    }
}

/// Writes one table: rows are gathered, and go out as columns.
struct TableWriter {
    writer: ArrowWriter<Summing>,
    schema: SchemaRef,
    rows: u64,
    /// Of the row group that is being written.
    group_bytes: usize,
}

impl TableWriter {
    fn new(scratch: &Scratch, layout: &Layout) -> Result<Self, ArchiveError> {
        Self::with_schema(scratch, layout, (layout.schema)())
    }

    /// Of columns that an earlier version of the format may have written.
    fn with_schema(
        scratch: &Scratch,
        layout: &Layout,
        schema: SchemaRef,
    ) -> Result<Self, ArchiveError> {
        let summing = Summing::new(scratch);
        let writer = ArrowWriter::try_new(summing, schema.clone(), Some(properties(layout)?));
        Ok(Self { writer: writer.map_err(scratch_error)?, schema, rows: 0, group_bytes: 0 })
    }

    fn write_columns(&mut self, columns: Vec<ArrayRef>) -> Result<(), ArchiveError> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        self.write(&batch.map_err(|error| scratch_error(error.into()))?)
    }

    /// Row groups end where the batch would make them too large: the same batches make the same file.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArchiveError> {
        let bytes = bytes_of(batch);
        let rows = self.writer.in_progress_rows();
        let is_full =
            rows + batch.num_rows() > ROW_GROUP_ROWS || self.group_bytes + bytes > ROW_GROUP_BYTES;
        if rows > 0 && is_full {
            self.writer.flush().map_err(scratch_error)?;
            self.group_bytes = 0;
        }
        self.group_bytes += bytes;
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).map_err(scratch_error)
    }

    fn finish(self) -> Result<(Object, u64), ArchiveError> {
        let summing = self.writer.into_inner().map_err(scratch_error)?;
        Ok((summing.into_object(None)?, self.rows))
    }
}

fn properties(layout: &Layout) -> Result<WriterProperties, ArchiveError> {
    let mut properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).map_err(scratch_error)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_dictionary_enabled(false);
    for column in layout.dictionary {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(*column), true);
    }
    for column in layout.bloom {
        let column = ColumnPath::from(*column);
        properties = properties
            .set_column_bloom_filter_fpp(column.clone(), FALSE_POSITIVES)
            .set_column_bloom_filter_max_ndv(column, ROW_GROUP_ROWS as u64);
    }
    Ok(properties.build())
}

/// Puts files of one table together, one after another, a batch at a time.
pub struct Merger {
    scratch: Scratch,
    table: Table,
    writer: Option<TableWriter>,
}

impl Merger {
    pub fn new(scratch: &Scratch, table: Table) -> Self {
        Self { scratch: scratch.clone(), table, writer: None }
    }

    /// Adds all rows of a file.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] if it is no Parquet, or has other columns than the files before it.
    pub fn push(&mut self, file: Object, path: &str) -> Result<(), ArchiveError> {
        let batches = opened(file.contents(), path)?;
        let schema = batches.schema();
        if self.writer.is_none() {
            let (scratch, layout) = (&self.scratch, self.table.layout());
            self.writer = Some(TableWriter::with_schema(scratch, layout, schema.clone())?);
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if schema != writer.schema {
            return Err(ArchiveError::content(
                path,
                "it has other columns than the files before it",
            ));
        }
        for batch in batches {
            writer.write(&batch?)?;
        }
        Ok(())
    }

    /// The file, and its number of rows; `None` if there was none.
    pub fn finish(self) -> Result<Option<(Object, u64)>, ArchiveError> {
        self.writer.map(TableWriter::finish).transpose()
    }
}

/// Whether so many rows, with so many bytes in them, are to be turned into columns.
fn is_batch(rows: usize, bytes: usize) -> bool {
    rows >= BATCH_ROWS || bytes >= BATCH_BYTES
}

fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    batch.columns().iter().map(bytes).sum()
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

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn schema_of(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}
