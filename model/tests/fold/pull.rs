//! Pulls, and a device that applies them.

use std::collections::HashMap;

use model::{BodyHash, Cursor, Digest, Message, MessageId, Version, log_fold::FoldedScope};

pub(crate) struct Page {
    pub(crate) messages: Vec<Message>,
    pub(crate) cursor: Cursor,
    pub(crate) has_more: bool,
}

/// What a pull answers: what lies beyond the cursor, each message once, in the order of cursors.
pub(crate) fn pull(folded: &FoldedScope, cursor: Cursor, limit: usize) -> Page {
    let beyond = folded.messages.values().filter(|message| message.entry.cursor > cursor);
    let mut messages: Vec<_> = beyond.cloned().collect();
    messages.sort_by_key(|message| message.entry.cursor);
    let has_more = messages.len() > limit;
    messages.truncate(limit);
    let last = messages.last().map(|message| message.entry.cursor).filter(|_| has_more);
    Page { messages, cursor: last.unwrap_or(folded.scope.heading.head), has_more }
}

/// Knows nothing but what its pulls said; and, where it has been away for longer than tombstones are kept, what a
/// repair finds.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) cursor: Cursor,
    pub(crate) live: HashMap<MessageId, Message>,
}

impl Device {
    pub(crate) fn pull(&mut self, folded: &FoldedScope, limit: usize) -> bool {
        let floor = folded.scope.heading.floor;
        if Cursor::ZERO < self.cursor && self.cursor < floor {
            // It drops what the scope has not got, of what was there up to the floor; the rest comes with the pull.
            self.live.retain(|id, message| {
                folded.messages.contains_key(id) || message.entry.cursor > floor
            });
        }
        let page = pull(folded, self.cursor, limit);
        for message in page.messages {
            if message.entry.is_live() {
                self.live.insert(message.id, message);
            } else {
                self.live.remove(&message.id);
            }
        }
        self.cursor = page.cursor;
        page.has_more
    }

    /// From the contents, as a device that keeps no hashes would.
    pub(crate) fn digest(&self) -> Digest {
        let mut digest = Digest::EMPTY;
        for message in self.live.values() {
            let body = message.body.as_ref().unwrap();
            let body_hash =
                BodyHash::of(body.message_type.as_str(), &body.content, body.metadata.as_str());
            let updated_at = message.entry.version.updated_at;
            digest.add(Version { updated_at, body: body_hash }.item(message.id));
        }
        digest
    }
}
