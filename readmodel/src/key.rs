//! Row keys: one column to look a message up by.

use model::{ContentHash, MessageId, ScopeRef};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

fn key(scope: ScopeRef, part: &[u8]) -> Uuid {
    let mut hasher = Sha256::new();
    hasher.update(scope.0.as_bytes());
    hasher.update(part);
    let hash: [u8; 32] = hasher.finalize().into();
    let (first, _) = hash.split_at(16);
    Uuid::from_slice(first).unwrap_or_default()
}

/// Of the message with this id in the scope: 16 bytes of SHA-256, which nobody can make meet another's.
pub(crate) fn id_key(scope: ScopeRef, id: &MessageId) -> Uuid {
    key(scope, id.0.as_bytes())
}

/// Of the live message with this content in the scope. A hash is longer than an id: the two never meet.
pub(crate) fn content_key(scope: ScopeRef, hash: &ContentHash) -> Uuid {
    key(scope, &hash.0)
}
