//! Messages: what devices push and pull.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cursor::Cursor,
    hash::{ContentHash, Version},
    ids::{DeviceId, MessageId, RestoreId, UserId},
    limits::{METADATA_INTEGER_MAX, METADATA_LEVELS_MAX},
    time::Timestamp,
};

/// What kind of message it is: `decision`, `pattern`, `insight`, …
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageType(std::sync::Arc<str>);

/// The text is no message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("takes 1 to 64 characters: a-z first, then a-z 0-9 _ -")]
pub struct InvalidMessageType;

impl MessageType {
    pub fn new(text: &str) -> Result<Self, InvalidMessageType> {
        let (first, rest) = text.as_bytes().split_first().ok_or(InvalidMessageType)?;
        let rest_is_fine = rest
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-');
        if text.len() <= 64 && first.is_ascii_lowercase() && rest_is_fine {
            Ok(Self(text.into()))
        } else {
            Err(InvalidMessageType)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of a message whose content was erased.
    pub fn blank() -> Self {
        Self("erased".into())
    }
}

/// A JSON object, kept as RFC 8785 JSON: one text for one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Metadata(String);

/// Why a JSON value is no metadata. The path names the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    #[error("metadata takes a JSON object")]
    NotAnObject,
    #[error("metadata takes at most {METADATA_LEVELS_MAX} levels of objects and arrays")]
    TooDeep,
    #[error(
        "metadata takes whole numbers up to 2^53 (±{METADATA_INTEGER_MAX}); send {0} as a string"
    )]
    IntegerTooLarge(serde_json::Number),
}

impl Metadata {
    pub fn new(value: &Value) -> Result<Self, InvalidMetadata> {
        if !value.is_object() {
            return Err(InvalidMetadata::NotAnObject);
        }
        check_levels_and_numbers(value, 1)?;
        // Canonical JSON of a value that has finite numbers and string keys cannot fail.
        let canonical = serde_json_canonicalizer::to_string(value).unwrap_or_else(|_| "{}".into());
        Ok(Self(canonical))
    }

    pub fn empty() -> Self {
        Self("{}".into())
    }

    /// Takes RFC 8785 JSON as it is: for text out of the log, which ingest made canonical.
    pub fn from_canonical(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_levels_and_numbers(value: &Value, level: usize) -> Result<(), InvalidMetadata> {
    match value {
        Value::Object(_) | Value::Array(_) if level > METADATA_LEVELS_MAX => {
            Err(InvalidMetadata::TooDeep)
        }
        Value::Object(map) => map.values().try_for_each(|v| check_levels_and_numbers(v, level + 1)),
        Value::Array(list) => list.iter().try_for_each(|v| check_levels_and_numbers(v, level + 1)),
        Value::Number(number) if !is_exact(number) => {
            Err(InvalidMetadata::IntegerTooLarge(number.clone()))
        }
        Value::Number(_) | Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

/// Whole numbers beyond 2^53 would come back as their neighbours. That goes for doubles too as far as
/// RFC 8785 writes them without an exponent, below 10^21: a pulled message can be pushed again.
fn is_exact(number: &serde_json::Number) -> bool {
    match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= METADATA_INTEGER_MAX,
        (None, Some(n)) => n.unsigned_abs() <= METADATA_INTEGER_MAX,
        (None, None) => number.as_f64().is_some_and(|n| {
            n.is_finite() && (n.abs() <= METADATA_INTEGER_MAX as f64 || n.abs() >= 1e21)
        }),
    }
}

/// What a version of a message says.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    pub message_type: MessageType,
    pub content: String,
    pub metadata: Metadata,
}

impl Body {
    /// What counts against a quota: content and metadata, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.content.len() + self.metadata.as_str().len()) as u64
    }
}

/// Why a message of a push was refused before the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InvalidCode {
    #[serde(rename = "INVALID_REQUEST")]
    InvalidRequest,
    #[serde(rename = "PAYLOAD_TOO_LARGE")]
    PayloadTooLarge,
    #[serde(rename = "SYNC_002")]
    HashMismatch,
    /// It is a message; there was no room for it.
    #[serde(rename = "SYNC_007")]
    QuotaExceeded,
}

impl InvalidCode {
    pub const ALL: [Self; 4] =
        [Self::InvalidRequest, Self::PayloadTooLarge, Self::HashMismatch, Self::QuotaExceeded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::HashMismatch => "SYNC_002",
            Self::QuotaExceeded => "SYNC_007",
        }
    }
}

impl fmt::Display for InvalidCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the fold remembers of a message: all that decides, and no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the message stands now: the cursor of its last change.
    pub cursor: Cursor,
    /// Of a tombstone: the deleted version.
    pub version: Version,
    pub content_hash: ContentHash,
    /// `updated_at` of the first version.
    pub created_at: Timestamp,
    /// [`Body::bytes`] of the version.
    pub bytes: u64,
    /// When it was deleted, if it was; a tombstone then.
    pub deleted_at: Option<Timestamp>,
    /// Of a tombstone: the restore that deleted it, if one did.
    pub restore: Option<RestoreId>,
}

impl Entry {
    pub fn is_live(&self) -> bool {
        self.deleted_at.is_none()
    }
}

/// A message as a row of the read model and a pull's answer show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub id: MessageId,
    pub entry: Entry,
    /// `None` for a tombstone.
    pub body: Option<Body>,
    pub contributed_by: UserId,
    pub device: Option<DeviceId>,
}

impl Message {
    /// The JSON of the wire contract, keys in its order. Written by hand: the read model keeps it
    /// ready to send, and metadata is JSON already.
    pub fn to_json(&self) -> String {
        self.json_at(Some(self.entry.cursor))
    }

    /// As [`Self::to_json`], of a version that never was the message: its cursor is `null`.
    pub fn to_json_without_cursor(&self) -> String {
        self.json_at(None)
    }

    fn json_at(&self, cursor: Option<Cursor>) -> String {
        let mut json = String::with_capacity(
            400 + self.body.as_ref().map_or(0, |b| b.content.len() + b.metadata.as_str().len()),
        );
        let entry = &self.entry;
        json.push_str("{\"id\":\"");
        json.push_str(&self.id.to_string());
        match &self.body {
            Some(body) => {
                json.push_str("\",\"type\":\"");
                json.push_str(body.message_type.as_str());
                json.push_str("\",\"content\":");
                json.push_str(&serde_json::to_string(&body.content).unwrap_or_default());
                json.push_str(",\"content_hash\":\"");
                json.push_str(&entry.content_hash.to_string());
                json.push_str("\",\"metadata\":");
                json.push_str(body.metadata.as_str());
            }
            None => json.push_str(
                "\",\"type\":null,\"content\":null,\"content_hash\":null,\"metadata\":null",
            ),
        }
        json.push_str(",\"created_at\":\"");
        json.push_str(&entry.created_at.to_string());
        json.push_str("\",\"updated_at\":\"");
        json.push_str(&entry.version.updated_at.to_string());
        // Names have no characters that JSON escapes.
        json.push_str("\",\"contributed_by\":\"");
        json.push_str(self.contributed_by.as_str());
        match &self.device {
            Some(device) => {
                json.push_str("\",\"device_id\":\"");
                json.push_str(device.as_str());
                json.push('"');
            }
            None => json.push_str("\",\"device_id\":null"),
        }
        json.push_str(",\"cursor\":");
        json.push_str(&cursor.map_or_else(|| "null".to_owned(), |cursor| cursor.to_string()));
        json.push_str(if entry.is_live() { ",\"deleted\":false}" } else { ",\"deleted\":true}" });
        json
    }
}
