//! Folding records into the cache, up to where an hour or a day ends.

use archive::period::HourLength;
use eventlog::Record;
use model::{
    Action, Cursor, Event, Partition, PartitionClock, Timestamp, UnknownRules, Verdict,
    log_fold::check_key,
};

use crate::{
    cache::{Cache, CacheError, LastRecord, PartitionState, RequestedBackup, Tables},
    error::ArchiverError,
};

/// Why folding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There are no more records.
    Folded,
    /// The next record is of a later hour: the open one is to be sealed first.
    HourEnds,
    /// The next record is of a later day: what the day before came to is to be written first.
    DayEnds,
    /// The last record asked for a backup of its scope as it stands now.
    BackupRequested,
    /// A gap lies behind: a full of every scope is to be written, from which the fold goes on.
    GapPassed,
}

/// Folds records of one partition, in order, in one transaction. Returns how many were folded.
pub(crate) fn fold(
    cache: &Cache,
    length: HourLength,
    partition: Partition,
    records: &[Record],
) -> Result<(usize, Stop), ArchiverError> {
    let mut unknown = None;
    let done = cache.write(partition, false, |tables| {
        let mut state = tables.state(partition)?;
        let mut stop = Stop::Folded;
        let mut folded = 0;
        for record in records {
            if state.requested.is_some() {
                stop = Stop::BackupRequested;
                break;
            }
            if state.after_gap.is_some() && record.offset >= state.taken_up {
                stop = Stop::GapPassed;
                break;
            }
            match next(&state, length, record) {
                Stop::Folded => {}
                ends => {
                    stop = ends;
                    break;
                }
            }
            if let Err(rules) = apply(tables, &mut state, length, record)? {
                unknown = Some(rules);
                break;
            }
            folded += 1;
        }
        if state.requested.is_some() {
            stop = Stop::BackupRequested;
        }
        if state.after_gap.is_some() && state.next_offset >= state.taken_up {
            stop = Stop::GapPassed;
        }
        if let Some(last) = records[..folded].last() {
            state.last = Some(LastRecord::of(last));
        }
        tables.put_state(partition, &state)?;
        Ok((folded, stop))
    })?;
    match unknown {
        Some(rules) => Err(rules.into()),
        None => Ok(done),
    }
}

/// Whether something ends before this record.
fn next(state: &PartitionState, length: HourLength, record: &Record) -> Stop {
    let hour = length.hour_of(state.time.max(record.append_time));
    if state.hour.is_some_and(|open| hour > open) {
        Stop::HourEnds
    } else if state.day.is_some_and(|open| hour.day() > open) {
        Stop::DayEnds
    } else {
        Stop::Folded
    }
}

fn apply(
    tables: &mut Tables<'_>,
    state: &mut PartitionState,
    length: HourLength,
    record: &Record,
) -> Result<Result<(), UnknownRules>, CacheError> {
    let event = schemas::decode(&record.value).ok();
    let mut clock = state.clock();
    match &event {
        Some(event) => {
            if let Err(rules) = clock.advance(record.append_time, event) {
                return Ok(Err(rules));
            }
        }
        None => clock.time = clock.time.max(record.append_time),
    }
    let PartitionClock { time, rules } = clock;
    let hour = length.hour_of(time);
    let used = event != Some(Event::Tick);
    (state.time, state.rules, state.next_offset) = (time, rules, record.offset.next());
    (state.hour, state.day) = (Some(hour), Some(hour.day()));
    state.hour_is_used |= used;
    if record.offset < state.taken_up {
        // The state has it already; but whoever asked for a backup there is owed an answer.
        state.requested = event.as_ref().and_then(|event| asked_for(record, event, time));
        note_erasure(tables, record, event.as_ref(), time)?;
        return Ok(Ok(()));
    }
    state.day_is_used |= used;
    if let Some(Event::Command(command)) = &event
        && check_key(&record.key, command).is_ok()
    {
        // What does not apply changes nothing: a dead letter, here as in every copy.
        let applied = tables.apply(record.partition, record.offset, command, time)?;
        if let Ok(applied) = applied
            && !applied.repeated
            && let Verdict::BackupRequested { backup } = applied.outcome.verdict
        {
            state.requested =
                Some(RequestedBackup { scope: command.scope.to_string(), backup, at: time });
        }
    }
    Ok(Ok(()))
}

/// An erasure that the state has already, if it was accepted: then the scope's says so.
fn note_erasure(
    tables: &mut Tables<'_>,
    record: &Record,
    event: Option<&Event>,
    at: Timestamp,
) -> Result<(), CacheError> {
    let Some(Event::Command(command)) = event else { return Ok(()) };
    if command.action != Action::ScopeErased || check_key(&record.key, command).is_err() {
        return Ok(());
    }
    match tables.erased(record.partition, command.scope.reference())? {
        Cursor::ZERO => Ok(()),
        cursor => tables.note_erasure(record.partition, record.offset, command, cursor, at),
    }
}

/// The backup that an event asks for, be it accepted or not.
fn asked_for(record: &Record, event: &Event, at: Timestamp) -> Option<RequestedBackup> {
    let Event::Command(command) = event else { return None };
    let Action::BackupRequested { backup } = command.action else { return None };
    check_key(&record.key, command).ok()?;
    Some(RequestedBackup { scope: command.scope.to_string(), backup, at })
}
