//! Many messages on their way to one scope.

use model::{Epoch, InvalidCode, PushAnswer, PushResult, Status, UserId};
use serde_json::{json, value::RawValue};

use crate::{
    Requests,
    batches::{Batches, Outgoing},
    problem::ClientError,
    replica::acknowledged,
};

/// What became of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub pushes: u64,
    pub synced: u64,
    pub skipped: u64,
    pub rejected: u64,
    /// There was no room for them.
    pub over_quota: u64,
    /// The scope's head after the last push; `None` before the first.
    pub cursor: Option<u64>,
}

/// Sends messages to a scope in pushes, in the order they come in.
pub struct Upload<'a, R> {
    requests: &'a R,
    batches: Batches,
    /// What became of the messages so far.
    pub tally: Tally,
}

/// One push that is done.
#[derive(Debug, Default)]
pub struct Delivered {
    pub messages: u64,
    /// `None`: all of its messages were rejected.
    pub answer: Option<PushAnswer>,
    /// Why messages were rejected, each with where it came from.
    pub rejections: Vec<String>,
    /// Their places in the push.
    pub rejected: Vec<usize>,
    /// The places of those for which there was no room, while deletes passed. They are to be pushed again, under another
    /// key.
    pub over_quota: Vec<usize>,
    /// Which quota that was.
    pub no_room: Option<String>,
}

impl<'a, R: Requests> Upload<'a, R> {
    pub fn new(requests: &'a R) -> Self {
        Self { requests, batches: Batches::default(), tally: Tally::default() }
    }

    /// Takes a message, and pushes those before it if they are enough.
    pub async fn add(&mut self, message: Outgoing) -> Result<Option<Delivered>, ClientError> {
        match self.batches.add(message) {
            Some(batch) => self.deliver(new_key(), None, &batch).await.map(Some),
            None => Ok(None),
        }
    }

    /// Pushes what is left; `None` if nothing is.
    pub async fn finish(&mut self) -> Result<Option<Delivered>, ClientError> {
        let batch = self.batches.rest();
        if batch.is_empty() {
            return Ok(None);
        }
        self.deliver(new_key(), None, &batch).await.map(Some)
    }

    /// One push, under an Idempotency-Key; `epoch` is that of its base cursors. One of which every message is invalid is an error to the API; to an upload it
    /// is as good as any other: the next messages may be fine.
    ///
    /// # Errors
    /// There is no answer; or nothing of the push was taken, for another reason than its messages.
    pub async fn deliver(
        &mut self,
        key: String,
        epoch: Option<Epoch>,
        batch: &[Outgoing],
    ) -> Result<Delivered, ClientError> {
        let messages = batch.len() as u64;
        let json = batch.iter().map(|message| &*message.json).collect();
        let pushed = self.requests.push(key, epoch, json).await;
        self.tally.pushes += 1;
        match pushed {
            Ok(answer) => {
                self.tally.count(&answer);
                Ok(Delivered::of(batch, answer))
            }
            Err(ClientError::Problem(problem)) if problem.is_about_messages() => {
                self.tally.rejected += messages;
                let origin = batch.first().map_or("", |m| m.origin.as_str());
                let others = match messages {
                    1 => String::new(),
                    _ => format!(" (and {} more in this push)", messages - 1),
                };
                let rejections = vec![format!("{origin}{others}: {problem}")];
                let rejected = (0..batch.len()).collect();
                Ok(Delivered { messages, rejections, rejected, ..Delivered::default() })
            }
            Err(error) => Err(error),
        }
    }
}

/// An Idempotency-Key that nobody has used.
pub fn new_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Delivered {
    fn of(batch: &[Outgoing], answer: PushAnswer) -> Self {
        let mut delivered = Self { messages: batch.len() as u64, ..Self::default() };
        for result in &answer.results {
            let place = result.index as usize;
            let origin = batch.get(place).map_or("?", |m| m.origin.as_str());
            if is_of_forgotten(result) {
                delivered.rejected.push(place);
                delivered.rejections.push(format!(
                    "{origin}: what it edits was deleted, so long ago that nothing keeps the edit either"
                ));
            }
            let Some(code) = result.code else { continue };
            let why = format!("{origin}: {code}: {}", result.detail.as_deref().unwrap_or_default());
            if code == InvalidCode::QuotaExceeded {
                delivered.over_quota.push(place);
                delivered.no_room.get_or_insert(why);
            } else {
                delivered.rejected.push(place);
                delivered.rejections.push(why);
            }
        }
        Self { answer: Some(answer), ..delivered }
    }

    /// What it has made of the scope, as pulls will give it ([`acknowledged`]); `batch`: what was pushed.
    pub fn acknowledged(&self, batch: &[Outgoing], user: &UserId) -> Vec<Box<RawValue>> {
        let results = self.answer.iter().flat_map(|answer| &answer.results);
        let message = |result: &PushResult| {
            acknowledged(&batch.get(result.index as usize)?.json, result, user)
        };
        results.filter_map(message).collect()
    }

    /// How many messages it deleted.
    pub fn deleted(&self) -> u64 {
        let results = self.answer.iter().flat_map(|answer| &answer.results);
        results.filter(|result| result.status == Status::Deleted).count() as u64
    }
}

/// An edit that lost to a deletion that is forgotten: it is in no history, so that only its writer has it.
fn is_of_forgotten(result: &PushResult) -> bool {
    result.status == Status::Stale && result.cursor.is_none()
}

impl Tally {
    /// Adds what one push came to.
    pub fn count(&mut self, answer: &PushAnswer) {
        self.synced += u64::from(answer.synced);
        let forgotten =
            answer.results.iter().filter(|result| is_of_forgotten(result)).count() as u64;
        self.skipped += u64::from(answer.skipped).saturating_sub(forgotten);
        let is_over_quota = |result: &&PushResult| result.code == Some(InvalidCode::QuotaExceeded);
        let over_quota = answer.results.iter().filter(is_over_quota).count() as u64;
        self.over_quota += over_quota;
        self.rejected += u64::from(answer.rejected).saturating_sub(over_quota) + forgotten;
        self.cursor = Some(answer.cursor.get());
    }

    /// All messages that were counted.
    pub fn messages(&self) -> u64 {
        self.synced + self.skipped + self.not_taken()
    }

    /// Those that the scope has not got.
    pub fn not_taken(&self) -> u64 {
        self.rejected + self.over_quota
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let Self { pushes, synced, skipped, rejected, over_quota, cursor } = self;
        json!({ "pushes": pushes, "synced": synced, "skipped": skipped, "rejected": rejected,
                "over_quota": over_quota, "cursor": cursor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is in no history: it must not be passed over like an edit that a later version beat.
    #[test]
    fn an_edit_of_what_was_deleted_and_forgotten_is_given_back() {
        let batch = ["first", "second"]
            .map(|origin| Outgoing { origin: origin.to_owned(), json: RawValue::NULL.to_owned() });
        let stale = |index: u32, cursor: Option<u64>| json!({"index": index, "status": "stale", "cursor": cursor});
        let answer = json!({"synced": 0, "skipped": 2, "rejected": 0, "cursor": 9, "timestamp": "2025-12-30T10:00:00Z",
            "previous_cursor": 9, "push_id": uuid::Uuid::nil(), "results": [stale(0, Some(4)), stale(1, None)]});
        let answer: PushAnswer = serde_json::from_value(answer).unwrap();
        let mut tally = Tally::default();
        tally.count(&answer);
        assert_eq!((tally.skipped, tally.rejected), (1, 1));
        let delivered = Delivered::of(&batch, answer);
        assert_eq!(delivered.rejected, [1]);
        assert!(delivered.rejections[0].starts_with("second: what it edits was deleted"));
    }
}
