//! The tables of an hour: its records once more, with what became of each.

use std::sync::Arc;

use archive::{
    Archive, ArchiveError,
    manifest::TableFile,
    object::Object,
    table::{EventRow, EventsWriter, MessageRow, MessagesWriter},
};
use eventlog::{EventLog, Record};
use model::{Event, Partition, log_fold::check_key};
use tokio::sync::Semaphore;

use crate::{
    cache::{PartitionState, View},
    error::ArchiverError,
    records::Records,
    workers::blocking,
};

/// Tables are made of one partition after another: a row group of each table is in memory.
static MAKING: Semaphore = Semaphore::const_new(1);

/// An hour's files, not uploaded yet.
pub(crate) struct Tables {
    pub(crate) events: (Object, u64),
    pub(crate) messages: Option<(Object, u64)>,
}

/// Reads the open hour of a partition once more, and makes its tables.
pub(crate) async fn tables(
    log: &Arc<dyn EventLog>,
    archive: &Archive,
    view: &Arc<View>,
    partition: Partition,
    state: &PartitionState,
) -> Result<Tables, ArchiverError> {
    // It is never closed: what would be an error is no permit.
    let _permit = MAKING.acquire().await.ok();
    let mut events = EventsWriter::new(archive.scratch(), partition)?;
    let mut messages = MessagesWriter::new(archive.scratch(), partition)?;
    let hour = state.sealed..state.next_offset;
    let mut reading = Records::new(log, archive, partition, hour, &state.gaps);
    let mut time = state.sealed_time;
    loop {
        let records = reading.next().await?;
        if records.is_empty() {
            break;
        }
        let (view, taken_up) = (view.clone(), state.taken_up);
        (events, messages, time) = blocking(move || {
            for record in records {
                time = time.max(record.append_time);
                let mut row = row(&view, record, time)?;
                row.is_unfolded = row.record.offset < taken_up;
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
        is_unfolded: false,
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
