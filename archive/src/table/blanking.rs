//! Rows without the content of a scope that was erased: ids, hashes, cursors and times stay.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use model::{Body, Event, MessageType, Metadata, Offset, ScopeKey};

use super::{Table, TableWriter, read::column};
use crate::{
    error::ArchiveError,
    object::{Object, Scratch},
};

/// Whose rows are blanked.
pub(crate) struct Blanking<'a> {
    pub(crate) scope: &'a ScopeKey,
    /// The erasure's: what came after it stays.
    pub(crate) before: Offset,
}

impl Blanking<'_> {
    /// The batch without content; `None` if it has none to lose.
    pub(crate) fn blanked(
        &self,
        table: Table,
        batch: &RecordBatch,
    ) -> Result<Option<RecordBatch>, String> {
        match table {
            Table::Events => self.blanked_events(batch),
            Table::Messages => self.blanked_messages(batch),
        }
    }

    fn blanked_events(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>, String> {
        let offset: &Int64Array = column(batch, "offset")?;
        let key: &BinaryArray = column(batch, "key")?;
        let value: &BinaryArray = column(batch, "value")?;
        let own = self.scope.to_string();
        let is_own = |row: usize| {
            offset.value(row) < self.before.as_i64() && key.value(row) == own.as_bytes()
        };
        let mut has_content = false;
        let mut values: Vec<Vec<u8>> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let old = value.value(row);
            let new = if is_own(row) { blanked_value(old) } else { old.to_vec() };
            has_content |= new != old;
            values.push(new);
        }
        if !has_content {
            return Ok(None);
        }
        let values: ArrayRef = Arc::new(BinaryArray::from_iter_values(values));
        replaced(batch, [("value", values)]).map(Some)
    }

    fn blanked_messages(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>, String> {
        let offset: &Int64Array = column(batch, "offset")?;
        let text = |name: &str| column::<StringArray>(batch, name);
        let (tenant, kind, name) = (text("tenant_id")?, text("scope_type")?, text("scope_id")?);
        let (types, contents, metadata) = (text("type")?, text("content")?, text("metadata")?);
        let is_own = |row: usize| {
            offset.value(row) < self.before.as_i64()
                && tenant.value(row) == self.scope.tenant.as_str()
                && kind.value(row) == self.scope.kind.as_str()
                && name.value(row) == self.scope.name.as_str()
        };
        let mut has_content = false;
        let mut rows: Vec<Option<Body>> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let is_there = types.is_valid(row) && contents.is_valid(row) && metadata.is_valid(row);
            if !is_there {
                rows.push(None);
                continue;
            }
            let old = Body {
                message_type: MessageType::new(types.value(row)).map_err(|e| e.to_string())?,
                content: contents.value(row).to_owned(),
                metadata: Metadata::from_canonical(metadata.value(row).to_owned()),
            };
            let new = if is_own(row) { old.blanked() } else { old.clone() };
            has_content |= new != old;
            rows.push(Some(new));
        }
        if !has_content {
            return Ok(None);
        }
        let texts = |part: fn(&Body) -> &str| -> ArrayRef {
            Arc::new(rows.iter().map(|body| body.as_ref().map(part)).collect::<StringArray>())
        };
        let columns = [
            ("type", texts(|body| body.message_type.as_str())),
            ("content", texts(|body| &body.content)),
            ("metadata", texts(|body| body.metadata.as_str())),
        ];
        replaced(batch, columns).map(Some)
    }
}

/// A record's value without content. What is no event here is none without its bytes either.
fn blanked_value(value: &[u8]) -> Vec<u8> {
    match schemas::decode(value) {
        Ok(Event::Command(command)) => {
            schemas::encode_command(&command.blanked()).unwrap_or_default()
        }
        Ok(Event::Tick | Event::RulesChanged { .. }) => value.to_vec(),
        Err(_) => Vec::new(),
    }
}

fn replaced<const N: usize>(
    batch: &RecordBatch,
    columns: [(&str, ArrayRef); N],
) -> Result<RecordBatch, String> {
    let mut all = batch.columns().to_vec();
    for (name, column) in columns {
        let place = batch.schema().index_of(name).map_err(|error| error.to_string())?;
        all[place] = column;
    }
    RecordBatch::try_new(batch.schema(), all).map_err(|error| error.to_string())
}

/// Writes a table's batches once more, some of them otherwise.
pub(crate) struct TableRewriter(TableWriter);

impl TableRewriter {
    pub(crate) fn new(
        scratch: &Scratch,
        table: Table,
        schema: SchemaRef,
    ) -> Result<Self, ArchiveError> {
        TableWriter::with_schema(scratch, table.layout(), schema).map(Self)
    }

    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), ArchiveError> {
        self.0.write(batch)
    }

    /// The file, and its number of rows.
    pub(crate) fn finish(self) -> Result<(Object, u64), ArchiveError> {
        self.0.finish()
    }
}
