//! What a restore takes from a backup: what is kept, and what is put back, in one order.

use std::collections::HashSet;

use model::{MessageId, Put, RestorePlace, Version};

use crate::{error::ArchiveError, history::StateReader};

/// Messages that are put at once, and their contents' bytes, at most: far below what a record may have.
const PUTS_AT_ONCE: usize = 250;
const PUT_BYTES_AT_ONCE: u64 = 2 << 20;

/// The live messages of a state, each by half of the hash that the digest sums.
pub struct Kept(HashSet<[u8; 16]>);

impl Kept {
    /// Reads a state to its end.
    pub fn of(mut state: StateReader) -> Result<Self, ArchiveError> {
        let mut kept = HashSet::new();
        while let Some(message) = state.next_message()? {
            if message.entry.is_live() {
                kept.insert(short(message.id, message.entry.version));
            }
        }
        Ok(Self(kept))
    }

    /// Whether the state has this version of the message.
    pub fn has(&self, id: MessageId, version: Version) -> bool {
        self.0.contains(&short(id, version))
    }
}

fn short(id: MessageId, version: Version) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&version.item(id).0[..16]);
    short
}

/// The live messages of a state, some at a time.
pub struct Puts {
    state: StateReader,
    /// Put by others, before.
    done: u64,
    seen: u64,
    /// What did not fit any more.
    ahead: Option<Put>,
}

impl Puts {
    /// Those after the first `done`.
    pub fn after(state: StateReader, done: u64) -> Self {
        Self { state, done, seen: 0, ahead: None }
    }

    /// How far it is once all that was given out is put.
    pub fn place(&self) -> RestorePlace {
        let given = self.seen - u64::from(self.ahead.is_some());
        RestorePlace::Puts(given.max(self.done))
    }

    /// The next ones; none at the end.
    pub fn next_puts(&mut self) -> Result<Vec<Put>, ArchiveError> {
        let mut puts: Vec<Put> = Vec::from_iter(self.ahead.take());
        let mut bytes = puts.iter().map(|put| put.body.bytes()).sum::<u64>();
        while puts.len() < PUTS_AT_ONCE {
            let Some(put) = self.next_put()? else { break };
            bytes += put.body.bytes();
            if bytes > PUT_BYTES_AT_ONCE && !puts.is_empty() {
                self.ahead = Some(put);
                break;
            }
            puts.push(put);
        }
        Ok(puts)
    }

    fn next_put(&mut self) -> Result<Option<Put>, ArchiveError> {
        while let Some(message) = self.state.next_message()? {
            let (entry, Some(body)) = (message.entry, message.body) else { continue };
            self.seen += 1;
            if self.seen > self.done {
                return Ok(Some(Put {
                    id: message.id,
                    body,
                    content_hash: entry.content_hash,
                    body_hash: entry.version.body,
                    updated_at: entry.version.updated_at,
                    created_at: entry.created_at,
                    contributed_by: message.contributed_by,
                    device: message.device,
                }));
            }
        }
        Ok(None)
    }
}
