//! The fold of a whole log in memory: the oracle that every other copy is compared with.

use std::collections::HashMap;

use crate::{
    event::{Action, Change, Command, Event, RulesVersion, Unappliable},
    fold::{Applied, Changed, Scope},
    ids::MessageId,
    message::Message,
    outcome::Verdict,
    place::{Partition, Place},
    restore::Put,
    scope::ScopeKey,
    time::Timestamp,
};

/// Where a partition's fold stands, beside its scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionClock {
    /// The running maximum of append times.
    pub time: Timestamp,
    pub rules: RulesVersion,
}

/// What the fold's code comes to. Rules change at a record of the log; a mistake that is mended changes what records before
/// it come to, and cursors that were given out may then say something else.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct FoldRevision(pub u32);

impl FoldRevision {
    /// Of what more than one has folded, or nobody knows which.
    pub const MIXED: Self = Self(0);
    /// Of what does not say by which it was folded.
    pub const FIRST: Self = Self(1);
    /// This build's. To be raised with each change by which a record that is folded already may come to other rows.
    pub const CURRENT: Self = Self(1);
}

/// The log asks for rules that this build does not know: it must not fold on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log changes to rules version {}, this build knows up to {}: upgrade it",
    .0.0,
    RulesVersion::CURRENT.0
)]
pub struct UnknownRules(pub RulesVersion);

impl PartitionClock {
    /// Of a partition without records.
    pub const START: Self = Self { time: Timestamp::EPOCH, rules: RulesVersion::FIRST };

    /// Advances to a record; its command, if it is one, is to be folded at the resulting time.
    pub fn advance(&mut self, append_time: Timestamp, event: &Event) -> Result<(), UnknownRules> {
        if let Event::RulesChanged { version } = event {
            if *version > RulesVersion::CURRENT {
                return Err(UnknownRules(*version));
            }
            self.rules = self.rules.max(*version);
        }
        self.time = self.time.max(append_time);
        Ok(())
    }
}

/// A scope's state and its messages.
#[derive(Clone, Debug)]
pub struct FoldedScope {
    pub scope: Scope,
    pub messages: HashMap<MessageId, Message>,
}

/// Everything that a log folds to.
#[derive(Clone, Debug, Default)]
pub struct LogFold {
    pub partitions: HashMap<Partition, PartitionClock>,
    pub scopes: HashMap<ScopeKey, FoldedScope>,
    /// Records that do not decode or apply.
    pub dead_letters: Vec<Place>,
}

impl LogFold {
    /// Folds the next record of its partition. `key` is the record's; `event` is `None` where the
    /// value does not decode.
    pub fn apply(
        &mut self,
        place: Place,
        append_time: Timestamp,
        key: &[u8],
        event: Option<&Event>,
    ) -> Result<Option<Applied>, UnknownRules> {
        let clock = self.partitions.entry(place.partition).or_insert(PartitionClock::START);
        let Some(event) = event else {
            clock.time = clock.time.max(append_time);
            self.dead_letters.push(place);
            return Ok(None);
        };
        clock.advance(append_time, event)?;
        let time = clock.time;
        let Event::Command(command) = event else { return Ok(None) };
        let applied = check_key(key, command).and_then(|()| self.apply_command(command, time));
        if applied.is_err() {
            self.dead_letters.push(place);
        }
        Ok(applied.ok())
    }

    /// Folds a command at a time, wherever it stood.
    pub fn apply_command(
        &mut self,
        command: &Command,
        time: Timestamp,
    ) -> Result<Applied, Unappliable> {
        command.check()?;
        let folded = self.scopes.entry(command.scope.clone()).or_insert_with(|| FoldedScope {
            scope: Scope::new(command.scope.clone()),
            messages: HashMap::new(),
        });
        let applied = folded.scope.apply(command, time)?;
        if matches!(applied.outcome.verdict, Verdict::ScopeErased { .. }) && !applied.repeated {
            folded.messages.clear();
        }
        for (changed, message) in images(&folded.scope, command, &applied.changes) {
            folded.messages.insert(changed.id, message);
        }
        if let Some(floor) = applied.floor {
            folded.messages.retain(|_, m| m.entry.is_live() || m.entry.cursor > floor);
        }
        Ok(applied)
    }
}

/// The record's key must be the scope of the command in it, else two scopes' orders would mix.
pub fn check_key(key: &[u8], command: &Command) -> Result<(), Unappliable> {
    if key == command.scope.to_string().as_bytes() { Ok(()) } else { Err(Unappliable::OtherKey) }
}

/// The messages that a command changed, as they stand after it: each once, at its last change.
pub fn images(scope: &Scope, command: &Command, changes: &[Changed]) -> Vec<(Changed, Message)> {
    let image = |changed: &Changed| {
        let entry = scope.messages.get(&changed.id).filter(|e| e.cursor == changed.cursor)?;
        let message = match &command.action {
            Action::MessagesPushed { changes, .. } => {
                let body = match &changes.get(changed.change)?.change {
                    Change::Write(write) => Some(write.body.clone()),
                    Change::Delete { .. } => None,
                };
                message(changed.id, entry, body, command)
            }
            Action::RestoreChunk(chunk) => match changed.change.checked_sub(chunk.deletes.len()) {
                Some(put) => restored(entry, chunk.puts.get(put)?),
                None => message(changed.id, entry, None, command),
            },
            _ => return None,
        };
        Some((*changed, message))
    };
    changes.iter().filter_map(image).collect()
}

/// What comes back is its contributor's, not the restorer's.
fn restored(entry: &crate::Entry, put: &Put) -> Message {
    Message {
        id: put.id,
        entry: entry.clone(),
        body: Some(put.body.clone()),
        contributed_by: put.contributed_by.clone(),
        device: put.device.clone(),
    }
}

fn message(
    id: MessageId,
    entry: &crate::Entry,
    body: Option<crate::Body>,
    command: &Command,
) -> Message {
    Message {
        id,
        entry: entry.clone(),
        body,
        contributed_by: command.actor.clone(),
        device: command.device.clone(),
    }
}
