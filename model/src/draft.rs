//! Drafts: a pushed message before it is known to be valid.

use std::collections::HashMap;

use serde_json::{Map, Value, value::RawValue};
use uuid::Uuid;

use crate::{
    cursor::{Cursor, InvalidCursor},
    event::{Change, Write},
    hash::{BodyHash, ContentHash},
    ids::MessageId,
    limits::Limits,
    message::{Body, InvalidCode, MessageType, Metadata},
    time::Timestamp,
};

/// What a message may have.
const FIELDS: [&str; 8] =
    ["id", "base_cursor", "deleted", "type", "content", "metadata", "updated_at", "content_hash"];

/// Why a message is invalid, naming the field and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub code: InvalidCode,
    pub detail: String,
}

fn invalid(detail: impl Into<String>) -> Invalid {
    Invalid { code: InvalidCode::InvalidRequest, detail: detail.into() }
}

fn too_large(name: &str, max: usize, sent: usize) -> Invalid {
    let detail = format!("{name} is {max} bytes, {sent} were sent");
    Invalid { code: InvalidCode::PayloadTooLarge, detail }
}

/// Reads one message of a push: the JSON text of one element of `messages`.
pub fn parse_change(json: &str, limits: &Limits) -> Result<Change, Invalid> {
    let value: Value = serde_json::from_str(json).map_err(|e| invalid(json_problem(json, &e)))?;
    let Value::Object(mut fields) = value else {
        return Err(invalid("a message takes a JSON object"));
    };
    let id = match field(&mut fields, "id") {
        None => None,
        Some(Value::String(text)) => Some(parse_id(&text)?),
        Some(_) => return Err(invalid("id takes a UUID")),
    };
    let base_cursor = match field(&mut fields, "base_cursor") {
        None => None,
        Some(value) => Some(
            value
                .as_u64()
                .and_then(|n| Cursor::new(n).ok())
                .ok_or_else(|| invalid(format!("base_cursor {InvalidCursor}")))?,
        ),
    };
    match field(&mut fields, "deleted") {
        None | Some(Value::Bool(false)) => {
            parse_write(fields, id, base_cursor, limits).map(Change::Write)
        }
        Some(Value::Bool(true)) => match (id, base_cursor) {
            (Some(id), Some(base_cursor)) => Ok(Change::Delete { id, base_cursor }),
            (None, _) => Err(invalid("a delete takes an id")),
            (_, None) => Err(invalid("a delete takes a base_cursor: the cursor it has seen")),
        },
        Some(_) => Err(invalid("deleted takes true or false")),
    }
}

/// Takes a field; `null` counts as absent.
fn field(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

fn parse_id(text: &str) -> Result<MessageId, Invalid> {
    // Uuid::try_parse also takes braces and URNs; the contract's ids are the hyphenated form.
    let hyphenated = text.len() == 36;
    Uuid::try_parse(text)
        .ok()
        .filter(|_| hyphenated)
        .map(MessageId)
        .ok_or_else(|| invalid("id takes a UUID"))
}

fn parse_write(
    mut fields: Map<String, Value>,
    id: Option<MessageId>,
    base_cursor: Option<Cursor>,
    limits: &Limits,
) -> Result<Write, Invalid> {
    let message_type = match field(&mut fields, "type") {
        Some(Value::String(text)) => {
            MessageType::new(&text).map_err(|e| invalid(format!("type {e}")))?
        }
        _ => return Err(invalid("type takes a string, such as decision")),
    };
    let content = parse_content(field(&mut fields, "content"), limits)?;
    let value = field(&mut fields, "metadata").unwrap_or_else(|| Value::Object(Map::new()));
    let metadata = Metadata::new(&value).map_err(|e| invalid(e.to_string()))?;
    let bytes = metadata.as_str().len();
    if bytes > limits.metadata_bytes_max {
        return Err(too_large("metadata_bytes_max", limits.metadata_bytes_max, bytes));
    }
    let updated_at = parse_updated_at(field(&mut fields, "updated_at"), id, &value)?;
    let content_hash = ContentHash::of(&content);
    check_hash(field(&mut fields, "content_hash"), content_hash)?;
    let body_hash = BodyHash::of(message_type.as_str(), &content, metadata.as_str());
    let body = Body { message_type, content, metadata };
    Ok(Write { id, body, updated_at, base_cursor, content_hash, body_hash })
}

fn parse_content(content: Option<Value>, limits: &Limits) -> Result<String, Invalid> {
    let Some(Value::String(content)) = content else {
        return Err(invalid("content takes a string"));
    };
    if content.is_empty() {
        return Err(invalid("content takes at least one character"));
    }
    if content.len() > limits.content_bytes_max {
        return Err(too_large("content_bytes_max", limits.content_bytes_max, content.len()));
    }
    if content.contains('\0') {
        return Err(invalid("content takes no NUL characters"));
    }
    Ok(content)
}

/// The writer's time: `updated_at`, which must be a time; or, without an id, a
/// `metadata.timestamp` that happens to be one.
fn parse_updated_at(
    updated_at: Option<Value>,
    id: Option<MessageId>,
    metadata: &Value,
) -> Result<Option<Timestamp>, Invalid> {
    match updated_at {
        Some(Value::String(text)) => Timestamp::parse_rfc3339(&text).map(Some),
        Some(_) => None,
        None if id.is_some() => Some(None),
        None => Some(
            metadata.get("timestamp").and_then(Value::as_str).and_then(Timestamp::parse_rfc3339),
        ),
    }
    .ok_or_else(|| invalid("updated_at takes an RFC 3339 time, such as 2025-12-30T10:00:00Z"))
}

fn check_hash(sent: Option<Value>, computed: ContentHash) -> Result<(), Invalid> {
    let sent = match sent {
        None => return Ok(()),
        Some(Value::String(text)) => ContentHash::parse(&text),
        Some(_) => None,
    }
    .ok_or_else(|| invalid("content_hash takes 64 lower-case hex digits"))?;
    if sent == computed {
        return Ok(());
    }
    let detail = format!("content_hash: the content's SHA-256 is {computed}, {sent} was sent");
    Err(Invalid { code: InvalidCode::HashMismatch, detail })
}

/// The field that is no JSON, and serde_json's reason without its position, which would be the element's and mislead.
fn json_problem(json: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let field = broken_field(json).unwrap_or("a message");
    format!("{field} takes well-formed JSON: {reason}")
}

/// What is inside a string, such as a lone surrogate, shows only when the string is read.
fn broken_field(json: &str) -> Option<&'static str> {
    let fields: HashMap<String, &RawValue> = serde_json::from_str(json).ok()?;
    let is_broken = |name: &&str| {
        fields.get(*name).is_some_and(|raw| serde_json::from_str::<Value>(raw.get()).is_err())
    };
    FIELDS.into_iter().find(is_broken)
}
