//! The tables of an hour: its records once more, with what became of each.

use std::{sync::Arc, time::Duration};

use archive::{
    Archive, ArchiveError,
    manifest::TableFile,
    object::Object,
    table::{EventRow, EventsWriter, MessageRow, MessagesWriter},
};
use eventlog::{EventLog, ReadLimit, Record};
use model::{Event, Partition, log_fold::check_key};

use crate::{
    cache::{PartitionState, View},
    error::ArchiverError,
    sealing::blocking,
};

const READ: ReadLimit = ReadLimit { records_max: 5_000, bytes_max: 8 << 20 };
const READ_WAIT: Duration = Duration::from_secs(5);

/// An hour's files, not uploaded yet.
pub(crate) struct Tables {
    pub(crate) events: (Object, u64),
    pub(crate) messages: Option<(Object, u64)>,
}

/// Reads the open hour of a partition from the log, and makes its tables.
pub(crate) async fn tables(
    log: &Arc<dyn EventLog>,
    archive: &Archive,
    view: &Arc<View>,
    partition: Partition,
    state: &PartitionState,
) -> Result<Tables, ArchiverError> {
    let mut events = EventsWriter::new(archive.scratch(), partition)?;
    let mut messages = MessagesWriter::new(archive.scratch(), partition)?;
    let mut reader = log.reader(&[(partition, state.sealed)])?;
    let mut time = state.sealed_time;
    let mut next = state.sealed;
    while next < state.next_offset {
        let mut records = reader.next(READ, READ_WAIT).await?;
        records.retain(|record| record.offset < state.next_offset);
        let Some(last) = records.last() else { continue };
        next = last.offset.next();
        let view = view.clone();
        (events, messages, time) = blocking(move || {
            for record in records {
                time = time.max(record.append_time);
                let row = row(&view, record, time)?;
                messages.push(MessageRow::of(&row))?;
                events.push(row)?;
            }
            Ok((events, messages, time))
        })
        .await?;
    }
    blocking(move || {
        let messages = messages.finish()?;
        let messages = (messages.1 > 0).then_some(messages);
        Ok(Tables { events: events.finish()?, messages })
    })
    .await
}

fn row(view: &View, record: Record, time: model::Timestamp) -> Result<EventRow, ArchiverError> {
    let event = schemas::decode(&record.value).ok();
    let mut row = EventRow {
        record,
        log_time: time,
        event,
        outcome: None,
        repeated: false,
        chunk: Vec::new(),
    };
    if let Some(Event::Command(command)) = &row.event
        && check_key(&row.record.key, command).is_ok()
        && command.check().is_ok()
        && let Some(known) = view.command(command.id)?
    {
        row.repeated = known.offset != row.record.offset;
        row.outcome = Some(known.outcome);
        row.chunk = known.chunk;
    }
    Ok(row)
}

/// Uploads a table.
pub(crate) async fn upload(
    archive: &Archive,
    path: String,
    (mut file, rows): (Object, u64),
) -> Result<TableFile, ArchiveError> {
    archive.create(&path, &mut file).await?;
    Ok(TableFile { path, sha256: file.sha256, size_bytes: file.size_bytes, rows })
}
