//! A device: what it holds, and what waits to be pushed.

use std::collections::VecDeque;

use device::{
    Requests,
    batches::Outgoing,
    drift::{DriftError, Mending},
    problem::ClientError,
    replica::Replica,
    upload::Upload,
};
use model::{Cursor, Epoch, Timestamp};
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
                    self.replica.remove(|item| *item == message.held.item);
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
    /// Why it could not; what was reached stays.
    pub async fn sync(&mut self, requests: impl Requests) -> Result<(), Unsynced> {
        if !self.outbox.is_empty() {
            self.pushes += 1;
            let key = format!("{KEY}{}, push {}", self.seat.number, self.pushes);
            let outgoing = |json| Outgoing { origin: String::new(), json };
            let messages = self.outbox.drain(..).map(outgoing).collect();
            self.sending.push_back(Sending { key, epoch: self.replica.epoch, messages });
        }
        let mut upload = Upload::new(&requests);
        while let Some(Sending { key, epoch, messages }) = self.sending.front() {
            upload.deliver(key.clone(), *epoch, messages).await.map_err(Unsynced::Push)?;
            self.sending.pop_front();
        }
        let mut mending = Mending::new(requests, &mut self.replica);
        let ended = mending.run().await;
        // What is owed waits, however it ended.
        self.outbox.append(&mut mending.left.owed);
        ended.map_err(Unsynced::Drift)
    }
}
