//! `messages/`: a row for every message of every push of an hour.

use std::{collections::HashMap, sync::Arc};

use arrow_array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, SchemaRef};
use model::{
    Action, Change, Command, Cursor, MessageId, Offset, Partition, PushResult, Status, Timestamp,
    Verdict, Write,
};

use super::{EventRow, Layout, TableWriter, is_batch, schema_of, text, timestamp};
use crate::{
    error::ArchiveError,
    object::{Object, Scratch},
};

/// One message of a push, and what became of it.
#[derive(Clone, Debug)]
pub struct MessageRow {
    command: Arc<Command>,
    offset: Offset,
    log_time: Timestamp,
    index: u32,
    message_id: Option<MessageId>,
    status: Status,
    cursor: Option<Cursor>,
    updated_at: Option<Timestamp>,
    write: Option<Write>,
}

pub(crate) const LAYOUT: Layout = Layout {
    schema,
    dictionary: &["tenant_id", "scope_type", "scope_id", "actor", "device_id", "status", "type"],
    bloom: &["scope_id", "message_id"],
};

pub fn schema() -> SchemaRef {
    schema_of(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("index", DataType::Int32, false),
        timestamp("log_time", false),
        text("tenant_id", false),
        text("scope_type", false),
        text("scope_id", false),
        text("actor", false),
        text("device_id", true),
        text("push_id", false),
        text("message_id", true),
        text("status", false),
        Field::new("cursor", DataType::Int64, true),
        text("type", true),
        text("content", true),
        text("metadata", true),
        timestamp("updated_at", true),
    ])
}

impl MessageRow {
    /// The messages of a record, if it is a push that was accepted for the first time.
    pub fn of(event: &EventRow) -> Vec<Self> {
        let (Some(command), Some(outcome), false) =
            (event.command(), &event.outcome, event.repeated)
        else {
            return Vec::new();
        };
        let (Action::MessagesPushed { changes, .. }, Verdict::Pushed(answer)) =
            (&command.action, &outcome.verdict)
        else {
            return Vec::new();
        };
        let writes: HashMap<u32, &Write> = changes
            .iter()
            .filter_map(|pushed| match &pushed.change {
                Change::Write(write) => Some((pushed.index, write)),
                Change::Delete { .. } => None,
            })
            .collect();
        let command = Arc::new(command.clone());
        let row = |result: &PushResult| Self {
            command: command.clone(),
            offset: event.record.offset,
            log_time: event.log_time,
            index: result.index,
            message_id: result.id,
            status: result.status,
            cursor: result.cursor,
            updated_at: result.updated_at,
            write: writes.get(&result.index).map(|write| (*write).clone()),
        };
        answer.results.iter().map(row).collect()
    }
}

/// Writes the messages of one hour of one partition.
pub struct MessagesWriter {
    table: TableWriter,
    partition: Partition,
    rows: Vec<MessageRow>,
    /// Of the rows' contents.
    bytes: usize,
}

impl MessagesWriter {
    pub fn new(scratch: &Scratch, partition: Partition) -> Result<Self, ArchiveError> {
        let table = TableWriter::new(scratch, &LAYOUT)?;
        Ok(Self { table, partition, rows: Vec::new(), bytes: 0 })
    }

    pub fn push(&mut self, rows: Vec<MessageRow>) -> Result<(), ArchiveError> {
        for row in rows {
            self.bytes += row.write.as_ref().map_or(0, |write| write.body.bytes() as usize);
            self.rows.push(row);
            if is_batch(self.rows.len(), self.bytes) {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The file, and its number of rows.
    pub fn finish(mut self) -> Result<(Object, u64), ArchiveError> {
        self.flush()?;
        self.table.finish()
    }

    fn flush(&mut self) -> Result<(), ArchiveError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let texts = |part: &dyn Fn(&MessageRow) -> Option<String>| -> ArrayRef {
            Arc::new(rows.iter().map(part).collect::<StringArray>())
        };
        let times = |part: fn(&MessageRow) -> Option<Timestamp>| -> ArrayRef {
            let times = rows.iter().map(|row| part(row).map(Timestamp::as_micros));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let partition = self.partition.get() as i32;
        let cursors = rows.iter().map(|row| row.cursor.map(Cursor::as_i64));
        let columns = vec![
            Arc::new(Int32Array::from(vec![partition; rows.len()])) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset.as_i64()))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.index as i32))),
            times(|row| Some(row.log_time)),
            texts(&|row| Some(row.command.scope.tenant.to_string())),
            texts(&|row| Some(row.command.scope.kind.to_string())),
            texts(&|row| Some(row.command.scope.name.to_string())),
            texts(&|row| Some(row.command.actor.to_string())),
            texts(&|row| row.command.device.as_ref().map(ToString::to_string)),
            texts(&|row| Some(row.command.id.to_string())),
            texts(&|row| row.message_id.map(|id| id.to_string())),
            texts(&|row| Some(row.status.as_str().to_owned())),
            Arc::new(cursors.collect::<Int64Array>()),
            texts(&|row| row.write.as_ref().map(|w| w.body.message_type.as_str().to_owned())),
            texts(&|row| row.write.as_ref().map(|w| w.body.content.clone())),
            texts(&|row| row.write.as_ref().map(|w| w.body.metadata.as_str().to_owned())),
            times(|row| row.updated_at),
        ];
        self.table.write_columns(columns)
    }
}
