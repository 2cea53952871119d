//! The contract's bodies as a client reads and writes them.

use model::{
    BodyHash, Cursor, Digest, Epoch, Item, MessageId, Metadata, Timestamp, Version,
    reconcile::{Drift, Remedy},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The body of a push.
#[derive(Serialize)]
pub struct PushBody<'a> {
    pub messages: Vec<&'a RawValue>,
    /// That the messages' base cursors are of, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The outcome of a push, or that it is not known yet.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum PushStatus {
    Completed(model::PushAnswer),
    Accepted { push_id: model::CommandId },
}

/// Where a pull begins and how much it brings.
#[derive(Clone, Copy, Debug, Default)]
pub struct PullFrom {
    pub cursor: u64,
    pub limit: u32,
    /// Seconds to wait for something newer.
    pub wait: u64,
    /// That the cursor is of, if it is known.
    pub epoch: Option<Epoch>,
}

/// A page of a pull.
#[derive(Deserialize)]
pub struct PullPage {
    /// As they came: programs get them so.
    pub messages: Vec<Box<RawValue>>,
    pub cursor: Cursor,
    pub has_more: bool,
    pub head: Cursor,
    pub floor: Cursor,
    pub count: u64,
    pub digest: Digest,
    pub epoch: Epoch,
    /// What was kept of the epoch that the pull named, where it is another one now.
    pub base: Option<Cursor>,
}

/// What the API says to a device about its drift.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Reconciled {
    pub status: Drift,
    pub action: Remedy,
    /// Where the next pull begins, once `action` is done.
    pub cursor: Cursor,
    pub head: Cursor,
    pub floor: Cursor,
    pub count: u64,
    pub digest: Digest,
    pub epoch: Epoch,
    /// What a recovery kept, where the device's epoch is another.
    pub base: Option<Cursor>,
}

impl Reconciled {
    /// Up to which cursor the scope is what the device knew.
    pub fn kept(&self) -> Cursor {
        self.base.unwrap_or(self.head)
    }
}

/// Messages that were asked for by what a repair names them.
#[derive(Deserialize)]
pub struct Fetched {
    pub messages: Vec<Box<RawValue>>,
    /// The scope does not have them any more.
    pub missing: Vec<Item>,
}

/// A pulled message, or a tombstone.
#[derive(Clone, Debug, Deserialize)]
pub struct Pulled {
    pub id: MessageId,
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    pub content: Option<String>,
    pub metadata: Option<serde_json::Value>,
    pub updated_at: Timestamp,
    pub contributed_by: String,
    pub cursor: Cursor,
    pub deleted: bool,
}

impl Pulled {
    /// Which version of the message it is; `None` for a tombstone, or what is no message.
    pub fn version(&self) -> Option<Version> {
        let message_type = self.message_type.as_ref().filter(|_| !self.deleted)?;
        let metadata = Metadata::new(self.metadata.as_ref()?).ok()?;
        let body = BodyHash::of(message_type, self.content.as_ref()?, metadata.as_str());
        Some(Version { updated_at: self.updated_at, body })
    }

    /// What this message adds to the digest; `None` as for its version.
    pub fn item(&self) -> Option<Item> {
        self.version().map(|version| version.item(self.id))
    }
}

/// The digest of what a device has pulled, each message at its latest version.
pub fn digest<'a>(pulled: impl IntoIterator<Item = &'a Pulled>) -> Digest {
    let mut digest = Digest::EMPTY;
    for item in pulled.into_iter().filter_map(Pulled::item) {
        digest.add(item);
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = r#"{"id": "01940f2e-7c00-7000-8000-000000000001", "type": "decision",
        "content": "x", "content_hash": "…", "metadata": {"b": 1, "a": 2.0},
        "created_at": "2025-12-30T10:00:00Z", "updated_at": "2025-12-30T10:00:00.5Z",
        "contributed_by": "ann", "device_id": null, "cursor": 1, "deleted": false, "new": 1}"#;

    #[test]
    fn the_digest_is_of_live_messages_in_canonical_json() {
        let live: Pulled = serde_json::from_str(LIVE).unwrap();
        let mut expected = Digest::EMPTY;
        let body = BodyHash::of("decision", "x", r#"{"a":2,"b":1}"#);
        let updated_at = Timestamp::parse_rfc3339("2025-12-30T10:00:00.5Z").unwrap();
        expected.add(Version { updated_at, body }.item(live.id));
        let tombstone = Pulled { deleted: true, ..live.clone() };
        assert_eq!(digest([&live, &tombstone]), expected);
        assert_eq!(digest([&tombstone]), Digest::EMPTY);
    }

    #[test]
    fn a_push_s_status_has_its_answer_once_completed() {
        let id = "01940f2e-7c00-7000-8000-000000000001";
        let accepted = format!(r#"{{"status": "accepted", "push_id": "{id}", "at": "3-12"}}"#);
        let status: PushStatus = serde_json::from_str(&accepted).unwrap();
        assert!(matches!(status, PushStatus::Accepted { push_id } if push_id.to_string() == id));
        let completed = format!(
            r#"{{"status": "completed", "push_id": "{id}", "synced": 1, "skipped": 0, "rejected": 0,
                "cursor": 7, "previous_cursor": 6, "timestamp": "2025-12-30T10:00:00Z",
                "results": []}}"#
        );
        let status: PushStatus = serde_json::from_str(&completed).unwrap();
        assert!(matches!(status, PushStatus::Completed(answer) if answer.cursor.get() == 7));
    }
}
