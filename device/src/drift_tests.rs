use std::cell::{Cell, RefCell};

use futures_util::FutureExt;
use model::{PushAnswer, reconcile::Claim};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::wire::Fetched;

const LOST: Uuid = Uuid::from_u128(9);

fn message(id: Uuid, cursor: u64) -> Box<RawValue> {
    let message = json!({"id": id, "type": "decision", "content": id, "metadata": {}, "deleted": false,
        "updated_at": "2025-12-30T10:00:00Z", "contributed_by": "ann", "cursor": cursor});
    serde_json::value::to_raw_value(&message).unwrap()
}

/// A scope that was recovered up to cursor 3; others have pushed since.
struct Recovered {
    epoch: Epoch,
    held: RefCell<Replica>,
    floor: u64,
    /// So many pulls are answered.
    pulls: Cell<u32>,
}

impl Requests for Recovered {
    async fn push(
        &self,
        _: String,
        _: Option<Epoch>,
        messages: Vec<&RawValue>,
    ) -> Result<PushAnswer, ClientError> {
        let mut held = self.held.borrow_mut();
        for pushed in &messages {
            let pushed: Value = serde_json::from_str(pushed.get()).unwrap();
            let id = serde_json::from_value(pushed["id"].clone()).unwrap();
            held.cursor = Cursor::from_i64(held.cursor.as_i64() + 1);
            let cursor = held.cursor.get();
            held.apply(message(id, cursor)).unwrap();
        }
        let answer = json!({"synced": messages.len(), "skipped": 0, "rejected": 0, "cursor": held.cursor,
            "timestamp": "2025-12-30T10:00:00Z", "previous_cursor": 0, "push_id": Uuid::nil(), "results": []});
        Ok(serde_json::from_value(answer).unwrap())
    }

    async fn pull(&self, from: PullFrom) -> Result<PullPage, ClientError> {
        let Some(left) = self.pulls.get().checked_sub(1) else {
            let (url, cause) = (String::new(), "no answer".to_owned());
            return Err(ClientError::Unreachable { url, cause });
        };
        self.pulls.set(left);
        let held = self.held.borrow();
        let is_new = |message: &&Message| message.cursor.get() > from.cursor;
        let messages = held.messages().into_iter().filter(is_new);
        Ok(PullPage {
            messages: messages.map(|message| message.json().to_owned()).collect(),
            cursor: held.cursor,
            has_more: false,
            head: held.cursor,
            floor: Cursor::new(self.floor).unwrap(),
            count: held.count(),
            digest: held.digest(),
            epoch: self.epoch,
            base: (from.epoch != Some(self.epoch)).then(|| Cursor::new(3).unwrap()),
        })
    }

    async fn reconcile(&self, _: &Claim, _: Option<Epoch>) -> Result<Reconciled, ClientError> {
        panic!("nothing differs")
    }

    async fn compare(&self, _: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        panic!("nothing differs")
    }

    async fn fetch(&self, _: &[Item]) -> Result<Fetched, ClientError> {
        panic!("nothing differs")
    }
}

/// A replica that a repair filled beyond its cursor, of an epoch of which the scope kept less, and the scope.
fn torn(floor: u64) -> (Replica, Recovered) {
    let mut held = Replica::default();
    held.cursor = Cursor::new(12).unwrap();
    (1..=12).for_each(|n| _ = held.apply(message(Uuid::from_u128(100 + n), n as u64)).unwrap());
    let mut replica = Replica::default();
    replica.cursor = Cursor::new(2).unwrap();
    replica.epoch = Some(Epoch(Uuid::from_u128(1)));
    for (id, cursor) in [(Uuid::from_u128(101), 1), (Uuid::from_u128(102), 2), (LOST, 9)] {
        replica.apply(message(id, cursor)).unwrap();
    }
    let epoch = Epoch(Uuid::from_u128(2));
    (replica, Recovered { epoch, held: RefCell::new(held), floor, pulls: Cell::new(u32::MAX) })
}

#[test]
fn what_a_repair_fetched_beyond_its_cursor_and_a_recovery_lost_is_pushed_again() {
    let (mut replica, scope) = torn(0);
    let mut mending = Mending::new(scope, &mut replica);
    mending.run().now_or_never().unwrap().unwrap();
    assert_eq!((mending.mended.pushed_again, mending.mended.dropped), (1, 0));
    assert!(mending.left.owed.is_empty() && mending.left.refused.is_empty());
    let held = mending.requests.held.borrow();
    assert!(held.messages().iter().any(|message| message.held.id.0 == LOST));
    assert_eq!((replica.count(), replica.digest()), (13, held.digest()));
}

#[test]
fn where_deletions_were_forgotten_since_somebody_looks_at_it() {
    let (mut replica, scope) = torn(5);
    let mut mending = Mending::new(scope, &mut replica);
    mending.run().now_or_never().unwrap().unwrap();
    assert_eq!((mending.mended.pushed_again, mending.left.refused.len()), (0, 1));
}

/// The recovery came before the push: its cursor is beyond what was kept, and yet it is there.
#[test]
fn what_was_pushed_after_the_recovery_is_not_pushed_again() {
    for floor in [0, 5] {
        let (mut replica, scope) = torn(floor);
        replica.remove(|message| message.held.id.0 == LOST);
        replica.acknowledge(message(Uuid::from_u128(108), 8)).unwrap();
        let mut mending = Mending::new(scope, &mut replica);
        mending.run().now_or_never().unwrap().unwrap();
        assert_eq!((mending.mended.pushed_again, mending.left.refused.len()), (0, 0));
        assert_eq!(replica.count(), 12);
    }
}

#[test]
fn what_was_pushed_again_is_owed_until_a_pull_has_brought_it() {
    let (mut replica, scope) = torn(0);
    scope.pulls.set(1);
    let mut mending = Mending::new(scope, &mut replica);
    mending.run().now_or_never().unwrap().unwrap_err();
    assert_eq!((mending.mended.pushed_again, mending.left.owed.len()), (1, 1));
}
