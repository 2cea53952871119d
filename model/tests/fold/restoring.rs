//! An executor of restores, as plain as can be: the oracle of the archiver's.

use model::{Cursor, Message, Put, RestoreChunk, RestoreId, RestorePlace, log_fold::FoldedScope};
use uuid::Uuid;

/// A state's live messages, in the order of their cursors.
pub(crate) fn live(folded: Option<&FoldedScope>) -> Vec<Message> {
    let messages = folded.into_iter().flat_map(|folded| folded.messages.values());
    let mut live: Vec<Message> = messages.filter(|m| m.entry.is_live()).cloned().collect();
    live.sort_by_key(|message| message.entry.cursor);
    live
}

pub(crate) fn put(message: &Message) -> Put {
    Put {
        id: message.id,
        body: message.body.clone().unwrap(),
        content_hash: message.entry.content_hash,
        body_hash: message.entry.version.body,
        updated_at: message.entry.version.updated_at,
        created_at: message.entry.created_at,
        contributed_by: message.contributed_by.clone(),
        device: message.device.clone(),
    }
}

/// The next chunk, of at most so many messages, of the restore that runs in `target`; of none, if none does.
pub(crate) fn next_chunk(
    target: Option<&FoldedScope>,
    backup: Option<&FoldedScope>,
    max: usize,
) -> RestoreChunk {
    let running = target.and_then(|target| target.scope.heading.restore.clone());
    let (restore, from, begin) = match &running {
        Some(running) => (running.id, running.place, running.begin),
        None => (RestoreId(Uuid::nil()), RestorePlace::Puts(0), Cursor::ZERO),
    };
    let saved = live(backup);
    let (mut deletes, mut to) = (Vec::new(), from);
    if let RestorePlace::Deletes(after) = from {
        let has =
            |m: &Message| saved.iter().any(|s| s.id == m.id && s.entry.version == m.entry.version);
        for message in live(target) {
            let cursor = message.entry.cursor;
            if cursor > after && cursor <= begin && !has(&message) {
                if deletes.len() == max {
                    return RestoreChunk { restore, from, to, deletes, puts: Vec::new() };
                }
                deletes.push(message.id);
                to = RestorePlace::Deletes(cursor);
            }
        }
        to = RestorePlace::Puts(0);
    }
    let RestorePlace::Puts(done) = to else { unreachable!() };
    let room = max - deletes.len();
    let puts: Vec<Put> = saved.iter().skip(done as usize).take(room).map(put).collect();
    to = RestorePlace::Puts(done + puts.len() as u64);
    RestoreChunk { restore, from, to, deletes, puts }
}
