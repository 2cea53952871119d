//! What bounds the archiver: writing the same lines as gzip and the same rows as Parquet, and nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration, time::Instant};

use archive::{
    message_line,
    object::{LinesWriter, Scratch},
    table::{EventRow, EventsWriter, MessageRow, MessagesWriter},
};
use eventlog::{EventLog, ReadLimit, Record};
use model::{Event, LogFold, Offset, Partition};

use crate::Failure;

const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 16 << 20 };

pub(super) struct Limit {
    pub(super) seconds: f64,
    pub(super) json_bytes: usize,
}

/// Everything ready to be written.
#[derive(Default)]
struct Ready {
    lines: BTreeMap<String, Vec<String>>,
    events: Vec<EventRow>,
    messages: Vec<Vec<MessageRow>>,
}

/// Reads the log, and then writes what the archiver would write of it, one thread for the lines and one for the
/// tables.
pub(super) async fn measure(log: &Arc<dyn EventLog>) -> Result<Limit, Failure> {
    let ready = read(log).await?;
    log.close().await?;
    let lines = ready.lines.values().flatten();
    let json_bytes = lines.map(|line| line.len() + 1).sum();
    let began = Instant::now();
    std::thread::scope(|threads| {
        let lines = threads.spawn(|| write_lines(ready.lines));
        let tables = threads.spawn(|| write_tables(ready.events, ready.messages));
        for thread in [lines, tables] {
            thread.join().map_err(|_| "a writer panicked")??;
        }
        Ok::<_, Failure>(())
    })?;
    Ok(Limit { seconds: began.elapsed().as_secs_f64(), json_bytes })
}

async fn read(log: &Arc<dyn EventLog>) -> Result<Ready, Failure> {
    let (mut ready, mut fold) = (Ready::default(), LogFold::default());
    for partition in (0..log.partitions()).map(Partition::new) {
        let end = log.bounds(partition).await?.end;
        let mut reader = log.reader(&[(partition, Offset::ZERO)])?;
        let mut next = Offset::ZERO;
        while next < end {
            for record in reader.next(READ, Duration::from_secs(5)).await? {
                next = record.offset.next();
                ready.add(&mut fold, record)?;
            }
        }
    }
    for (key, folded) in &fold.scopes {
        let mut messages: Vec<_> = folded.messages.values().collect();
        messages.sort_by_key(|message| message.entry.cursor);
        let lines = messages.into_iter().map(message_line::write).collect();
        ready.lines.insert(key.to_string(), lines);
    }
    Ok(ready)
}

impl Ready {
    fn add(&mut self, fold: &mut LogFold, record: Record) -> Result<(), Failure> {
        let event = schemas::decode(&record.value).ok();
        fold.apply(record.place(), record.append_time, &record.key, event.as_ref())?;
        let outcome = match &event {
            Some(Event::Command(command)) => {
                let folded = fold.scopes.get(&command.scope);
                let known = folded.and_then(|folded| folded.scope.commands.get(&command.id));
                known.map(|known| known.outcome.clone())
            }
            _ => None,
        };
        let log_time = record.append_time;
        let (repeated, is_unfolded, chunk) = (false, false, Vec::new());
        let row = EventRow { record, log_time, event, outcome, repeated, is_unfolded, chunk };
        self.messages.push(MessageRow::of(&row));
        self.events.push(row);
        Ok(())
    }
}

fn write_lines(lines: BTreeMap<String, Vec<String>>) -> Result<(), Failure> {
    for lines in lines.into_values() {
        let mut writer = LinesWriter::new(&Scratch::default());
        lines.iter().try_for_each(|line| writer.push(line.as_bytes()))?;
        writer.finish()?;
    }
    Ok(())
}

fn write_tables(events: Vec<EventRow>, messages: Vec<Vec<MessageRow>>) -> Result<(), Failure> {
    let mut writer = EventsWriter::new(&Scratch::default(), Partition::new(0))?;
    events.into_iter().try_for_each(|row| writer.push(row))?;
    writer.finish()?;
    let mut writer = MessagesWriter::new(&Scratch::default(), Partition::new(0))?;
    messages.into_iter().try_for_each(|rows| writer.push(rows))?;
    writer.finish()?;
    Ok(())
}
