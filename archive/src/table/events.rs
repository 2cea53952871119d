//! `events/`: every record of an hour.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, SchemaRef};
use model::{Cursor, Event, Outcome, Partition, ScopeKey, Timestamp, Verdict};

use super::{Layout, TableWriter, is_batch, schema_of, text, timestamp};
use crate::{
    error::ArchiveError,
    object::{Object, Scratch},
};

/// A record with what became of it.
#[derive(Clone, Debug)]
pub struct EventRow {
    pub record: eventlog::Record,
    pub log_time: Timestamp,
    /// `None`: the value does not decode.
    pub event: Option<Event>,
    /// `None`: nothing to decide, a dead letter, or unknown.
    pub outcome: Option<Arc<Outcome>>,
    /// It lies between a gap and where the state was taken up after it: it was not folded here.
    pub is_unfolded: bool,
    /// The command had been folded before: `outcome` is of then.
    pub repeated: bool,
    /// Of a restore's chunk: which of its deletes and puts, counted through, changed a message, and the
    /// message's cursor after it.
    pub chunk: Vec<(usize, Cursor)>,
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
        "verdict",
        "key",
    ],
    bloom: &["scope_id"],
};

/// What became of a record, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordVerdict {
    Accepted,
    Refused,
    /// The command had been folded before.
    Repeated,
    DeadLetter,
    /// It lies between a gap and where the state was taken up after it.
    Unknown,
}

impl RecordVerdict {
    pub(super) const ALL: [Self; 5] =
        [Self::Accepted, Self::Refused, Self::Repeated, Self::DeadLetter, Self::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Repeated => "repeated",
            Self::DeadLetter => "dead_letter",
            Self::Unknown => "unknown",
        }
    }
}

pub fn schema() -> SchemaRef {
    schema_of(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        timestamp("append_time", false),
        timestamp("log_time", false),
        text("kind", true),
        text("tenant_id", true),
        text("scope_type", true),
        text("scope_id", true),
        text("command_id", true),
        text("actor", true),
        text("device_id", true),
        text("verdict", true),
        text("outcome", true),
        Field::new("key", DataType::Binary, false),
        Field::new("value", DataType::Binary, false),
    ])
}

/// Writes the records of one hour of one partition, in the order of their offsets.
pub struct EventsWriter {
    table: TableWriter,
    partition: Partition,
    rows: Vec<EventRow>,
    /// Of the rows' records.
    bytes: usize,
}

impl EventsWriter {
    pub fn new(scratch: &Scratch, partition: Partition) -> Result<Self, ArchiveError> {
        let table = TableWriter::new(scratch, &LAYOUT)?;
        Ok(Self { table, partition, rows: Vec::new(), bytes: 0 })
    }

    pub fn push(&mut self, row: EventRow) -> Result<(), ArchiveError> {
        self.bytes += row.record.value.len();
        self.rows.push(row);
        if is_batch(self.rows.len(), self.bytes) { self.flush() } else { Ok(()) }
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
        let times = |time: fn(&EventRow) -> Timestamp| -> ArrayRef {
            let times = rows.iter().map(|row| time(row).as_micros());
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        };
        let texts = |part: &dyn Fn(&EventRow) -> Option<String>| -> ArrayRef {
            Arc::new(rows.iter().map(part).collect::<StringArray>())
        };
        let bytes = |part: fn(&EventRow) -> &[u8]| -> ArrayRef {
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(part)))
        };
        let partition = self.partition.get() as i32;
        let offsets = rows.iter().map(|row| row.record.offset.as_i64());
        let columns = vec![
            Arc::new(Int32Array::from(vec![partition; rows.len()])) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(offsets)),
            times(|row| row.record.append_time),
            times(|row| row.log_time),
            texts(&|row| row.event.as_ref().map(|event| event.kind().to_owned())),
            texts(&|row| row.scope().map(|scope| scope.tenant.to_string())),
            texts(&|row| row.scope().map(|scope| scope.kind.to_string())),
            texts(&|row| row.scope().map(|scope| scope.name.to_string())),
            texts(&|row| row.command().map(|command| command.id.to_string())),
            texts(&|row| row.command().map(|command| command.actor.to_string())),
            texts(&|row| row.command()?.device.as_ref().map(ToString::to_string)),
            texts(&|row| row.verdict().map(|verdict| verdict.as_str().to_owned())),
            texts(&|row| serde_json::to_string(row.outcome.as_deref()?).ok()),
            bytes(|row| &row.record.key),
            bytes(|row| &row.record.value),
        ];
        self.table.write_columns(columns)
    }
}

impl EventRow {
    pub(super) fn command(&self) -> Option<&model::Command> {
        match &self.event {
            Some(Event::Command(command)) => Some(command),
            Some(Event::Tick | Event::RulesChanged { .. }) | None => None,
        }
    }

    fn scope(&self) -> Option<&ScopeKey> {
        self.command().map(|command| &command.scope)
    }

    fn verdict(&self) -> Option<RecordVerdict> {
        match (&self.event, &self.outcome) {
            (Some(Event::Tick | Event::RulesChanged { .. }), _) => None,
            (_, None) if self.is_unfolded => Some(RecordVerdict::Unknown),
            (_, None) => Some(RecordVerdict::DeadLetter),
            (_, Some(_)) if self.repeated => Some(RecordVerdict::Repeated),
            (_, Some(outcome)) => match outcome.verdict {
                Verdict::Refused(_) => Some(RecordVerdict::Refused),
                _ => Some(RecordVerdict::Accepted),
            },
        }
    }
}
