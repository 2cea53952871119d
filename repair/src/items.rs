//! The live messages of a scope as one side holds them: what is compared.

use std::collections::{HashMap, HashSet};

use model::{Digest, Item, MessageId, Version};
use negentropy::Negentropy;

use crate::{
    frame::{self, BadFrame},
    set::Set,
};

/// A live message, without what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: MessageId,
    /// What the digest sums, and what the frames name.
    pub item: Item,
    millis: u64,
}

impl Held {
    pub fn new(id: MessageId, version: Version) -> Self {
        // No time is negative.
        let millis = version.updated_at.as_micros().unsigned_abs() / 1_000;
        Self { id, item: version.item(id), millis }
    }

    /// `updated_at` in milliseconds: what items are ordered by first.
    pub(crate) fn millis(&self) -> u64 {
        self.millis
    }

    fn order(&self) -> (u64, Item) {
        (self.millis, self.item)
    }
}

/// Live messages in the order of (`updated_at` in milliseconds, item), and their sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    held: Vec<Held>,
    digest: Digest,
}

impl Items {
    /// One of each message, in any order.
    pub fn new(mut held: Vec<Held>) -> Self {
        held.sort_unstable_by_key(Held::order);
        held.dedup_by_key(|held| held.item);
        held.shrink_to_fit();
        let mut digest = Digest::EMPTY;
        held.iter().for_each(|held| digest.add(held.item));
        Self { held, digest }
    }

    pub fn count(&self) -> u64 {
        self.held.len() as u64
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.held.capacity() * size_of::<Held>()
    }

    /// Brings in what changed: the messages that are live now, and those that are no more.
    pub fn change(&mut self, live: Vec<Held>, deleted: &[MessageId]) {
        let mut changed: HashSet<MessageId> = deleted.iter().copied().collect();
        changed.extend(live.iter().map(|held| held.id));
        self.held.retain(|held| {
            let goes = changed.contains(&held.id);
            if goes {
                self.digest.remove(held.item);
            }
            !goes
        });
        live.iter().for_each(|held| self.digest.add(held.item));
        // Grown by what comes, not to twice of what there is: others weigh it by what it takes.
        self.held.reserve_exact(live.len());
        self.held.extend(live);
        // Stable sorting finds that all but the last ones are in order already.
        self.held.sort_by_key(Held::order);
    }

    /// Answers the other side's frame with one of at most `frame_bytes_max`.
    ///
    /// # Errors
    /// The frame is none.
    pub fn answer(&self, frame: &[u8], frame_bytes_max: u32) -> Result<Vec<u8>, BadFrame> {
        frame::check(frame)?;
        let mut negentropy = Negentropy::owned(Set(&self.held), u64::from(frame_bytes_max))?;
        Ok(negentropy.reconcile(frame)?)
    }

    /// The messages that are held as these items.
    pub fn named(&self, items: &HashSet<Item>) -> HashMap<Item, MessageId> {
        let named = self.held.iter().filter(|held| items.contains(&held.item));
        named.map(|held| (held.item, held.id)).collect()
    }

    pub(crate) fn set(&self) -> Set<'_> {
        Set(&self.held)
    }
}
