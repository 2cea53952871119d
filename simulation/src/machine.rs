//! A device: what it holds, and what waits to be pushed.

use std::collections::{BTreeMap, VecDeque};

use device::{
    Requests,
    batches::Outgoing,
    drift::{DriftError, Mended, Mending},
    problem::{ClientError, Problem},
    replica::Replica,
    upload::Upload,
};
use model::{Cursor, Epoch, ScopeRef, Timestamp};
use serde_json::{Value, json, value::RawValue};

use crate::{
    cast::Seat,
    plan::{Deed, Harm},
    world::minutes,
};

/// What the Idempotency-Keys of machines begin with.
pub const KEY: &str = "machine ";

pub struct Machine {
    pub seat: Seat,
    pub replica: Replica,
    /// Not sent yet.
    outbox: Vec<Box<RawValue>>,
    /// Pushes that are not acknowledged yet, the oldest first, each under its Idempotency-Key.
    sending: VecDeque<Sending>,
    pushes: u32,
}

/// A push on its way.
struct Sending {
    key: String,
    /// That the base cursors are of.
    epoch: Option<Epoch>,
    messages: Vec<Outgoing>,
}

/// Why a sync came to no end.
#[derive(Debug)]
pub enum Unsynced {
    Push(ClientError),
    Drift(DriftError),
}

impl Unsynced {
    fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Push(error) | Self::Drift(DriftError::Client(error)) => error.problem(),
            Self::Drift(_) => None,
        }
    }

    /// The user was removed from the scope.
    pub fn is_purge(&self) -> bool {
        self.problem().is_some_and(|problem| problem.purge)
    }
}

impl Machine {
    pub fn new(seat: Seat) -> Self {
        Self {
            seat,
            replica: Replica::default(),
            outbox: Vec::new(),
            sending: VecDeque::new(),
            pushes: 0,
        }
    }

    /// Whether it holds what came after these cursors.
    pub fn holds_beyond(&self, cursors: &BTreeMap<ScopeRef, Cursor>) -> bool {
        let cursor = cursors.get(&self.seat.scope.reference()).copied().unwrap_or_default();
        self.replica.messages().iter().any(|message| message.cursor > cursor)
    }

    /// Whether all that it has to say was acknowledged.
    pub fn has_said_all(&self) -> bool {
        self.outbox.is_empty() && self.sending.is_empty()
    }

    /// Puts into the outbox what a deed comes to.
    pub fn act(&mut self, deed: &Deed, now: Timestamp) {
        if !self.seat.may_push {
            return;
        }
        if let Some(message) = self.message(deed, now) {
            self.outbox.push(serde_json::value::to_raw_value(&message).unwrap());
        }
    }

    fn message(&self, deed: &Deed, now: Timestamp) -> Option<Value> {
        let held = self.replica.messages();
        let pick = |pick: u8| held.get(usize::from(pick) % held.len().max(1));
        let scope = self.seat.scope.to_string();
        let at = |given: &Option<i8>| given.map(|given| minutes(now, given).to_string());
        Some(match deed {
            Deed::Say { what, minutes } => {
                let metadata = match at(minutes) {
                    Some(time) => json!({ "scope": scope, "timestamp": time }),
                    None => json!({ "scope": scope }),
                };
                json!({ "type": "decision", "content": format!("say {what}"), "metadata": metadata })
            }
            Deed::Edit { pick: place, what, seen, minutes } => {
                let message = pick(*place)?;
                let base = seen.then_some(message.cursor);
                json!({
                    "id": message.held.id, "type": "insight", "content": format!("edit {what}"),
                    "metadata": { "scope": scope, "n": place % 3 }, "base_cursor": base, "updated_at": at(minutes),
                })
            }
            Deed::Delete { pick: place } => {
                let message = pick(*place)?;
                json!({ "id": message.held.id, "deleted": true, "base_cursor": message.cursor })
            }
            Deed::Babble => json!({ "type": "decision" }),
        })
    }

    /// Something happens to what it holds.
    pub fn suffer(&mut self, harm: &Harm) {
        let held = self.replica.messages();
        let pick = |pick: u8| held.get(usize::from(pick) % held.len().max(1)).map(|m| (*m).clone());
        match harm {
            Harm::Forget { pick: place } => {
                if let Some(message) = pick(*place) {
                    self.replica.remove(|held| held.held.item == message.held.item);
                }
            }
            Harm::Garble { pick: place } => {
                if let Some(message) = pick(*place) {
                    let mut json: Value = serde_json::from_str(message.json().get()).unwrap();
                    json["content"] = "garbled".into();
                    self.replica.apply(serde_json::value::to_raw_value(&json).unwrap()).unwrap();
                }
            }
            Harm::Jump { by } => {
                let cursor = self.replica.cursor.as_i64() + i64::from(*by);
                self.replica.cursor = Cursor::from_i64(cursor);
            }
        }
    }

    /// As `context-sync sync`: pushes what waits, then becomes what the scope is.
    ///
    /// # Errors
    /// Why it could not; what was reached stays, but for one whose user was removed from the scope: it keeps nothing.
    pub async fn sync(&mut self, requests: impl Requests) -> Result<Mended, Unsynced> {
        let synced = self.push_and_mend(requests).await;
        if synced.as_ref().is_err_and(Unsynced::is_purge) {
            // What they wanted to say goes too: its keys are those of pushes that were refused for good.
            self.replica = Replica::default();
            self.outbox.clear();
            self.sending.clear();
        }
        synced
    }

    async fn push_and_mend(&mut self, requests: impl Requests) -> Result<Mended, Unsynced> {
        if !self.outbox.is_empty() {
            self.pushes += 1;
            let key = format!("{KEY}{}, push {}", self.seat.number, self.pushes);
            let outgoing = |json| Outgoing { origin: String::new(), json };
            let messages = self.outbox.drain(..).map(outgoing).collect();
            self.sending.push_back(Sending { key, epoch: self.replica.epoch, messages });
        }
        let mut upload = Upload::new(&requests);
        while let Some(Sending { key, epoch, messages }) = self.sending.front() {
            match upload.deliver(key.clone(), *epoch, messages).await {
                // One who may only pull any more lets go of what they wanted to say.
                Err(error) if is_denied(&error) => {}
                delivered => drop(delivered.map_err(Unsynced::Push)?),
            }
            self.sending.pop_front();
        }
        let mut mending = Mending::new(requests, &mut self.replica);
        let ended = mending.run().await;
        // What is owed waits, however it ended.
        self.outbox.append(&mut mending.left.owed);
        ended.map_err(Unsynced::Drift)?;
        Ok(mending.mended)
    }
}

fn is_denied(error: &ClientError) -> bool {
    error.problem().is_some_and(|problem| problem.code == "SYNC_005" && !problem.purge)
}
