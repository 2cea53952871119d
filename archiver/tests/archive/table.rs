//! What [`crate::random`] needs.

use model::{Body, BodyHash, ContentHash, Cursor, MessageId, Timestamp, Write};

pub(crate) fn write(
    body: Body,
    id: Option<MessageId>,
    updated_at: Option<Timestamp>,
    base_cursor: Option<Cursor>,
) -> Write {
    let content_hash = ContentHash::of(&body.content);
    let body_hash = BodyHash::of(body.message_type.as_str(), &body.content, body.metadata.as_str());
    Write { id, body, updated_at, base_cursor, content_hash, body_hash }
}
