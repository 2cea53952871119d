//! Records as the projector works on them: decoded off its loop.

use bytes::Bytes;
use eventlog::Record;
use model::{Action, Event, Place, Timestamp, event::Unappliable, log_fold::check_key};
use schemas::Undecodable;

/// An expiry of tombstones deletes rows by one range, 10,000 at most: it counts as so many changes, so that a batch
/// has a few of them, not thousands.
const EXPIRY_CHANGES: usize = 100;
/// An erasure deletes whatever its scope has ever had: it is a batch of its own, before which all that came earlier is
/// committed.
const ERASURE_CHANGES: usize = u32::MAX as usize;

/// Why a record is no event. It becomes a dead letter, the same in every copy.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("the record does not decode: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("the event does not apply: {0}")]
    Unappliable(#[from] Unappliable),
}

/// A record and the event in it.
#[derive(Debug)]
pub struct Decoded {
    pub place: Place,
    pub append_time: Timestamp,
    pub key: Bytes,
    pub value: Bytes,
    pub event: Result<Event, Unusable>,
}

impl Decoded {
    pub fn new(record: Record) -> Self {
        let place = record.place();
        let event = decode(&record.key, &record.value);
        let Record { append_time, key, value, .. } = record;
        Self { place, append_time, key, value, event }
    }

    /// Of a scope that is not folded: its time passes, and rules change.
    pub fn elsewhere(record: Record) -> Self {
        let event = match schemas::decode(&record.value) {
            Ok(event @ Event::RulesChanged { .. }) => event,
            _ => Event::Tick,
        };
        let place = record.place();
        let Record { append_time, key, value, .. } = record;
        Self { place, append_time, key, value, event: Ok(event) }
    }

    /// How many messages it may change.
    pub fn changes(&self) -> usize {
        match &self.event {
            Ok(Event::Command(command)) => match &command.action {
                Action::MessagesPushed { changes, rejected } => changes.len() + rejected.len(),
                Action::ScopeCreated
                | Action::MemberSet { .. }
                | Action::MemberRemoved { .. }
                | Action::BackupRequested { .. }
                | Action::RestoreRequested { .. }
                | Action::RestoreCompleted { .. }
                | Action::RestoreFailed { .. } => 1,
                Action::ScopeErased => ERASURE_CHANGES,
                Action::TombstonesExpired { .. } => EXPIRY_CHANGES,
                Action::RestoreChunk(chunk) => chunk.deletes.len() + chunk.puts.len(),
            },
            Ok(Event::Tick | Event::RulesChanged { .. }) | Err(_) => 0,
        }
    }

    /// Of key and value.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

fn decode(key: &[u8], value: &[u8]) -> Result<Event, Unusable> {
    let event = schemas::decode(value)?;
    if let Event::Command(command) = &event {
        check_key(key, command)?;
        command.check()?;
    }
    Ok(event)
}
