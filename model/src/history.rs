//! Versions that are not the message: those that another one took the place of, and those that had to give
//! way when they came. What a command makes of both, from its outcome.

use std::collections::HashMap;

use crate::{
    cursor::Cursor,
    event::{Action, Change, Command, PushedChange},
    fold::{Applied, Changed, Scope},
    hash::Version,
    ids::MessageId,
    message::{Body, Entry, Message},
    outcome::{PushResult, Status, Verdict},
};

/// How a version came to be past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PastResult {
    /// It was the message, until another version came.
    Replaced,
    /// It came when a later version was there.
    Stale,
    /// A deletion of a message that had been updated since.
    Superseded,
}

impl PastResult {
    pub const ALL: [Self; 3] = [Self::Replaced, Self::Stale, Self::Superseded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Stale => "stale",
            Self::Superseded => "superseded",
        }
    }
}

/// A version that a command made past.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    pub id: MessageId,
    /// Which of the command's changes decided so: as [`Changed::change`].
    pub change: usize,
    pub result: PastResult,
    /// The cursor of the version that it gave way to.
    pub won_by: Cursor,
    /// The version as a pull gives it; `None`: the message as it stood before the command.
    pub json: Option<String>,
}

/// What a command made past. `scope` is the state right after it.
pub fn past(scope: &Scope, command: &Command, applied: &Applied) -> Vec<Past> {
    if applied.repeated {
        return Vec::new();
    }
    let results = match &applied.outcome.verdict {
        Verdict::Pushed(answer) => answer.results.as_slice(),
        _ => &[],
    };
    let mut past = replaced(scope, command, applied, results);
    past.extend(given_way(scope, command, results));
    past
}

fn replaced(
    scope: &Scope,
    command: &Command,
    applied: &Applied,
    results: &[PushResult],
) -> Vec<Past> {
    let mut before: HashMap<MessageId, &Changed> = HashMap::new();
    let mut past = Vec::new();
    for changed in &applied.changes {
        let Changed { id, change, cursor: won_by, is_new } = *changed;
        let json = match before.insert(id, changed) {
            // Also what a push itself outlives was there, and may be asked for.
            Some(own) => match outlived(scope, command, own, results) {
                Some(message) => Some(message.to_json()),
                None => continue,
            },
            None if is_new => continue,
            None => None,
        };
        past.push(Past { id, change, result: PastResult::Replaced, won_by, json });
    }
    past
}

/// A version that the same push took the place of.
fn outlived(
    scope: &Scope,
    command: &Command,
    changed: &Changed,
    results: &[PushResult],
) -> Option<Message> {
    let Action::MessagesPushed { changes, .. } = &command.action else { return None };
    let own =
        |result: &&PushResult| result.status.is_synced() && result.cursor == Some(changed.cursor);
    let updated_at = results.iter().find(own)?.updated_at?;
    let change = &changes.get(changed.change)?.change;
    let mut message = of_change(scope, command, changed.id, change)?;
    message.entry.cursor = changed.cursor;
    message.entry.version.updated_at = updated_at;
    Some(message)
}

fn given_way<'a>(
    scope: &'a Scope,
    command: &'a Command,
    results: &'a [PushResult],
) -> impl Iterator<Item = Past> + 'a {
    let changes: &[PushedChange] = match &command.action {
        Action::MessagesPushed { changes, .. } => changes,
        _ => &[],
    };
    changes.iter().enumerate().filter_map(move |(place, PushedChange { index, change })| {
        let own = results.binary_search_by_key(index, |result| result.index).ok()?;
        let result = results.get(own)?;
        let past = match result.status {
            Status::Stale => PastResult::Stale,
            Status::Superseded => PastResult::Superseded,
            _ => return None,
        };
        let (id, won_by) = (result.id?, result.cursor?);
        let json = of_change(scope, command, id, change)?.to_json_without_cursor();
        Some(Past { id, change: place, result: past, won_by, json: Some(json) })
    })
}

/// The version that a change asks for.
fn of_change(scope: &Scope, command: &Command, id: MessageId, change: &Change) -> Option<Message> {
    let now = scope.messages.get(&id)?;
    let body: Option<Body> = match change {
        Change::Write(write) => Some(write.body.clone()),
        Change::Delete { .. } => None,
    };
    let mut entry = Entry { deleted_at: None, restore: None, ..now.clone() };
    match change {
        Change::Write(write) => {
            let version: Version = scope.version_of(write);
            (entry.version, entry.content_hash) = (version, write.content_hash);
            entry.bytes = write.body.bytes();
        }
        Change::Delete { .. } => entry.deleted_at = Some(scope.heading.clock),
    }
    let (contributed_by, device) = (command.actor.clone(), command.device.clone());
    Some(Message { id, entry, body, contributed_by, device })
}
