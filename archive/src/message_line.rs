//! A message as a line of a backup. FORMAT.md, "A line".

use model::{
    Body, BodyHash, ContentHash, Cursor, DeviceId, Entry, Message, MessageId, MessageType,
    Metadata, RestoreId, Timestamp, UserId, Version,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a tombstone says beside what a pull gives.
#[derive(Debug, Deserialize, Serialize)]
struct DeletedVersion {
    content_hash: ContentHash,
    body_hash: BodyHash,
    bytes: u64,
    /// The restore that deleted it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restore_id: Option<RestoreId>,
}

/// What a live message says in the place of its content, where that was erased.
#[derive(Debug, Deserialize, Serialize)]
struct ErasedVersion {
    content_hash: ContentHash,
    body_hash: BodyHash,
    content_bytes: u64,
    metadata_bytes: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    id: MessageId,
    r#type: Option<String>,
    content: Option<String>,
    content_hash: Option<ContentHash>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    created_at: Timestamp,
    updated_at: Timestamp,
    contributed_by: UserId,
    device_id: Option<DeviceId>,
    cursor: Cursor,
    deleted: bool,
    deleted_at: Option<Timestamp>,
    deleted_version: Option<DeletedVersion>,
    erased_version: Option<ErasedVersion>,
}

/// The line of a message, without its line feed.
pub fn write(message: &Message) -> String {
    write_pulled(message.to_json(), &message.entry)
}

/// The line of a message that stands as `json`, as a pull gives it.
pub fn write_pulled(json: String, entry: &Entry) -> String {
    let mut line = json;
    let Some(deleted_at) = entry.deleted_at else { return line };
    let version = DeletedVersion {
        content_hash: entry.content_hash,
        body_hash: entry.version.body,
        bytes: entry.bytes,
        restore_id: entry.restore,
    };
    // Strings of hexadecimal digits and a number: that cannot fail.
    let version = serde_json::to_string(&version).unwrap_or_default();
    line.pop();
    line.push_str(&format!(",\"deleted_at\":\"{deleted_at}\",\"deleted_version\":{version}}}"));
    line
}

/// The line of a message without its content: what a fold goes on from, and no more.
pub fn without_content(message: &Message) -> String {
    let Some(body) = &message.body else { return write(message) };
    let version = ErasedVersion {
        content_hash: message.entry.content_hash,
        body_hash: message.entry.version.body,
        content_bytes: body.content.len() as u64,
        metadata_bytes: body.metadata.as_str().len() as u64,
    };
    // Strings of hexadecimal digits and numbers: that cannot fail.
    let version = serde_json::to_string(&version).unwrap_or_default();
    let mut line = Message { body: None, ..message.clone() }.to_json();
    line.pop();
    line.push_str(&format!(",\"erased_version\":{version}}}"));
    line
}

/// Reads a line back; what is wrong with it, if it is none.
pub fn read(line: &[u8]) -> Result<Message, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if line.cursor == Cursor::ZERO {
        return Err("cursor is 0".to_owned());
    }
    match (line.deleted, line.erased_version.is_some()) {
        (true, _) => tombstone(line),
        (false, true) => erased(line),
        (false, false) => live(line),
    }
}

/// The message that a line is of, and where it stands.
pub(crate) fn place(line: &[u8]) -> Result<(MessageId, Cursor), String> {
    #[derive(Deserialize)]
    struct Place {
        id: MessageId,
        cursor: Cursor,
    }
    let place: Place = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    Ok((place.id, place.cursor))
}

fn live(line: Line<'_>) -> Result<Message, String> {
    let (Some(message_type), Some(content), Some(metadata)) =
        (line.r#type, line.content, line.metadata)
    else {
        return Err("type, content or metadata is missing".to_owned());
    };
    let content_hash = ContentHash::of(&content);
    if line.content_hash != Some(content_hash) {
        return Err("content_hash is not the content's".to_owned());
    }
    let body = Body {
        message_type: MessageType::new(&message_type).map_err(|e| format!("type {e}"))?,
        content,
        metadata: Metadata::from_canonical(metadata.get().to_owned()),
    };
    let hash = BodyHash::of(&message_type, &body.content, body.metadata.as_str());
    let entry = Entry {
        cursor: line.cursor,
        version: Version { updated_at: line.updated_at, body: hash },
        content_hash,
        created_at: line.created_at,
        bytes: body.bytes(),
        deleted_at: None,
        restore: None,
    };
    let (contributed_by, device) = (line.contributed_by, line.device_id);
    Ok(Message { id: line.id, entry, body: Some(body), contributed_by, device })
}

fn erased(line: Line<'_>) -> Result<Message, String> {
    let Some(version) = line.erased_version else {
        return Err("erased_version is missing".to_owned());
    };
    let body = Body::blank(version.content_bytes, version.metadata_bytes);
    let entry = Entry {
        cursor: line.cursor,
        version: Version { updated_at: line.updated_at, body: version.body_hash },
        content_hash: version.content_hash,
        created_at: line.created_at,
        bytes: body.bytes(),
        deleted_at: None,
        restore: None,
    };
    let (contributed_by, device) = (line.contributed_by, line.device_id);
    Ok(Message { id: line.id, entry, body: Some(body), contributed_by, device })
}

fn tombstone(line: Line<'_>) -> Result<Message, String> {
    let (Some(deleted_at), Some(version)) = (line.deleted_at, line.deleted_version) else {
        return Err("deleted_at or deleted_version is missing".to_owned());
    };
    let entry = Entry {
        cursor: line.cursor,
        version: Version { updated_at: line.updated_at, body: version.body_hash },
        content_hash: version.content_hash,
        created_at: line.created_at,
        bytes: version.bytes,
        deleted_at: Some(deleted_at),
        restore: version.restore_id,
    };
    let (contributed_by, device) = (line.contributed_by, line.device_id);
    Ok(Message { id: line.id, entry, body: None, contributed_by, device })
}
