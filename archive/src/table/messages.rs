//! `messages/`: a row for every message of every push and of every part of a restore.

use std::{collections::HashMap, sync::Arc};

use arrow_array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, SchemaRef};
use model::{
    Action, Body, Change, Command, Cursor, DeviceId, MessageId, Offset, Partition, PushResult,
    PushedChange, Put, RestoreChunk, Status, Timestamp, UserId, Verdict, Write,
};
use uuid::Uuid;

use super::{EventRow, Layout, TableWriter, is_batch, schema_of, text, timestamp};
use crate::{
    error::ArchiveError,
    object::{Object, Scratch},
};

/// One message of a push or of a restore, and what became of it.
#[derive(Clone, Debug)]
pub struct MessageRow {
    command: Arc<Command>,
    offset: Offset,
    log_time: Timestamp,
    index: u32,
    /// Of the push, or of the restore.
    request: Uuid,
    message_id: Option<MessageId>,
    status: RowStatus,
    cursor: Option<Cursor>,
    body: Option<Body>,
    updated_at: Option<Timestamp>,
    contributed_by: Option<UserId>,
    device: Option<DeviceId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowStatus {
    Pushed(Status),
    /// By a restore, which put it back.
    Restored,
    /// By a restore, whose backup lacks it.
    Deleted,
    /// A restore left it as it stood.
    Skipped,
}

impl RowStatus {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pushed(status) => status.as_str(),
            Self::Restored => "restored",
            Self::Deleted => Status::Deleted.as_str(),
            Self::Skipped => "skipped",
        }
    }
}

pub(crate) const LAYOUT: Layout = Layout {
    schema,
    dictionary: &[
        "kind",
        "tenant_id",
        "scope_type",
        "scope_id",
        "actor",
        "device_id",
        "request_id",
        "status",
        "type",
        "contributed_by",
    ],
    bloom: &["scope_id", "message_id"],
};

pub fn schema() -> SchemaRef {
    schema_of(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("index", DataType::Int32, false),
        timestamp("log_time", false),
        text("kind", false),
        text("tenant_id", false),
        text("scope_type", false),
        text("scope_id", false),
        text("actor", false),
        text("device_id", true),
        text("request_id", false),
        text("message_id", true),
        text("status", false),
        Field::new("cursor", DataType::Int64, true),
        text("type", true),
        text("content", true),
        text("metadata", true),
        timestamp("updated_at", true),
        text("contributed_by", true),
    ])
}

impl MessageRow {
    /// The messages of a record, if it is a push that was accepted for the first time, or a part of a restore
    /// that was done.
    pub fn of(event: &EventRow) -> Vec<Self> {
        let (Some(command), Some(outcome), false) =
            (event.command(), &event.outcome, event.repeated)
        else {
            return Vec::new();
        };
        match (&command.action, &outcome.verdict) {
            (Action::MessagesPushed { changes, .. }, Verdict::Pushed(answer)) => {
                pushed(event, command, changes, &answer.results)
            }
            (Action::RestoreChunk(chunk), Verdict::RestoreStep) => restored(event, command, chunk),
            _ => Vec::new(),
        }
    }
}

fn pushed(
    event: &EventRow,
    command: &Command,
    changes: &[PushedChange],
    results: &[PushResult],
) -> Vec<MessageRow> {
    let writes: HashMap<u32, &Write> = changes
        .iter()
        .filter_map(|pushed| match &pushed.change {
            Change::Write(write) => Some((pushed.index, write)),
            Change::Delete { .. } => None,
        })
        .collect();
    let command = Arc::new(command.clone());
    let row = |result: &PushResult| MessageRow {
        command: command.clone(),
        offset: event.record.offset,
        log_time: event.log_time,
        index: result.index,
        request: command.id.0,
        message_id: result.id,
        status: RowStatus::Pushed(result.status),
        cursor: result.cursor,
        body: writes.get(&result.index).map(|write| write.body.clone()),
        updated_at: result.updated_at,
        contributed_by: result.status.is_synced().then(|| command.actor.clone()),
        device: command.device.clone(),
    };
    results.iter().map(row).collect()
}

/// First what it was to delete, then what it was to put.
fn restored(event: &EventRow, command: &Command, chunk: &RestoreChunk) -> Vec<MessageRow> {
    let command = Arc::new(command.clone());
    let changed: HashMap<usize, Cursor> = event.chunk.iter().copied().collect();
    let row = |index: usize, message_id, done| {
        let cursor = changed.get(&index).copied();
        MessageRow {
            command: command.clone(),
            offset: event.record.offset,
            log_time: event.log_time,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            request: chunk.restore.0,
            message_id: Some(message_id),
            status: if cursor.is_some() { done } else { RowStatus::Skipped },
            cursor,
            body: None,
            updated_at: None,
            contributed_by: cursor.map(|_| command.actor.clone()),
            device: command.device.clone(),
        }
    };
    let delete = |(index, id): (usize, &MessageId)| row(index, *id, RowStatus::Deleted);
    let put = |(index, put): (usize, &Put)| {
        let row = row(index, put.id, RowStatus::Restored);
        MessageRow {
            body: Some(put.body.clone()),
            updated_at: row.cursor.map(|_| put.updated_at),
            contributed_by: row.cursor.map(|_| put.contributed_by.clone()),
            device: put.device.clone(),
            ..row
        }
    };
    let deletes = chunk.deletes.iter().enumerate().map(delete);
    deletes.chain((chunk.deletes.len()..).zip(&chunk.puts).map(put)).collect()
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
            self.bytes += row.body.as_ref().map_or(0, |body| body.bytes() as usize);
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
            texts(&|row| Some(row.command.action.kind().to_owned())),
            texts(&|row| Some(row.command.scope.tenant.to_string())),
            texts(&|row| Some(row.command.scope.kind.to_string())),
            texts(&|row| Some(row.command.scope.name.to_string())),
            texts(&|row| Some(row.command.actor.to_string())),
            texts(&|row| row.device.as_ref().map(ToString::to_string)),
            texts(&|row| Some(row.request.to_string())),
            texts(&|row| row.message_id.map(|id| id.to_string())),
            texts(&|row| Some(row.status.as_str().to_owned())),
            Arc::new(cursors.collect::<Int64Array>()),
            texts(&|row| row.body.as_ref().map(|body| body.message_type.as_str().to_owned())),
            texts(&|row| row.body.as_ref().map(|body| body.content.clone())),
            texts(&|row| row.body.as_ref().map(|body| body.metadata.as_str().to_owned())),
            times(|row| row.updated_at),
            texts(&|row| row.contributed_by.as_ref().map(ToString::to_string)),
        ];
        self.table.write_columns(columns)
    }
}
