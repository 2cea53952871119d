//! The keys that each message has: plain bytes, compared as such.

use model::{ContentHash, Cursor, MessageId, ScopeRef};
use uuid::Uuid;

/// A scope and a message's id.
pub(super) type IdKey = [u8; 32];
/// A scope and a content's hash.
pub(super) type ContentKey = [u8; 48];
/// A scope and a cursor, which is in the order of its bytes.
pub(super) type CursorKey = [u8; 24];

pub(super) fn id_key(scope: [u8; 16], id: MessageId) -> IdKey {
    joined(scope, id.0.as_bytes())
}

pub(super) fn content_key(scope: [u8; 16], hash: &ContentHash) -> ContentKey {
    joined(scope, &hash.0)
}

pub(super) fn cursor_key(scope: [u8; 16], cursor: Cursor) -> CursorKey {
    joined(scope, &cursor.get().to_be_bytes())
}

/// `LENGTH` is that of both.
pub(super) fn joined<const REST: usize, const LENGTH: usize>(
    scope: [u8; 16],
    rest: &[u8; REST],
) -> [u8; LENGTH] {
    const { assert!(LENGTH == 16 + REST) };
    let mut key = [0; LENGTH];
    key[..16].copy_from_slice(&scope);
    key[16..].copy_from_slice(rest);
    key
}

pub(super) fn cursor_of(key: &CursorKey) -> Cursor {
    let [.., a, b, c, d, e, f, g, h] = *key;
    Cursor::from_i64(i64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

pub(super) fn bytes(scope: ScopeRef) -> [u8; 16] {
    scope.0.into_bytes()
}

pub(super) fn reference(bytes: [u8; 16]) -> ScopeRef {
    ScopeRef(Uuid::from_bytes(bytes))
}
