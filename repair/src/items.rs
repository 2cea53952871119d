//! The live messages of a scope as one side holds them: what is compared.

use std::collections::{HashMap, HashSet};

use model::{Digest, Item, MessageId, Version};
use negentropy::{Negentropy, NegentropyStorageBase};

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
        answer(self.set(), frame, frame_bytes_max)
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

fn answer(
    set: impl NegentropyStorageBase,
    frame: &[u8],
    frame_bytes_max: u32,
) -> Result<Vec<u8>, BadFrame> {
    frame::check(frame)?;
    Ok(Negentropy::owned(set, u64::from(frame_bytes_max))?.reconcile(frame)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use model::{BodyHash, Timestamp};
    use negentropy::{Bound, Error};
    use uuid::Uuid;

    use super::*;

    /// Counts the items that it is asked for.
    struct Counting<'a>(Set<'a>, &'a Cell<usize>);

    impl NegentropyStorageBase for Counting<'_> {
        fn size(&self) -> Result<usize, Error> {
            self.0.size()
        }

        fn get_item(&self, place: usize) -> Result<Option<negentropy::Item>, Error> {
            self.1.set(self.1.get() + 1);
            self.0.get_item(place)
        }

        fn iterate(
            &self,
            begin: usize,
            end: usize,
            each: &mut dyn FnMut(negentropy::Item, usize) -> Result<bool, Error>,
        ) -> Result<(), Error> {
            self.0.iterate(begin, end, &mut |item, place| {
                self.1.set(self.1.get() + 1);
                each(item, place)
            })
        }

        fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
            self.0.find_lower_bound(first, last, bound)
        }
    }

    /// Each message a millisecond after the one before.
    fn items(count: u128) -> Items {
        let held = |n: u128| {
            let updated_at = Timestamp::from_millis(n as i64);
            Held::new(
                MessageId(Uuid::from_u128(n)),
                Version { updated_at, body: BodyHash([7; 32]) },
            )
        };
        Items::new((0..count).map(held).collect())
    }

    /// Whatever a frame asks for: its ranges do not overlap, so that each item is looked at a few times, not once a range.
    #[test]
    fn no_frame_makes_more_work_than_a_few_looks_at_each_item() {
        const FRAME_BYTES: u32 = 256 << 10;
        const COUNT: u128 = 20_000;
        let items = items(COUNT);
        let fingerprint = |millis: u8| [&[millis, 0, 1][..], &[7; 16]].concat();
        let all = [&[0, 0, 1][..], &[7; 16]].concat();
        for range in [
            fingerprint(2),  // one item each
            fingerprint(33), // as many as are told by their names
            fingerprint(60), // more: each is split
            all.clone(),
            [&all[..], &[0, 0, 0]].concat(),
            vec![0, 0, 2, 0],
            vec![2, 0, 2, 0],
            vec![101, 0, 2, 0],
            vec![1, 0, 0],
        ] {
            let frame =
                [&[0x61][..], &range.repeat((FRAME_BYTES as usize - 1) / range.len())].concat();
            let seen = Cell::new(0);
            let answer = answer(Counting(items.set(), &seen), &frame, FRAME_BYTES).unwrap();
            assert!(answer.len() <= FRAME_BYTES as usize, "{range:?}: {} bytes", answer.len());
            assert!(seen.get() <= 4 * COUNT as usize, "{range:?}: {} looks", seen.get());
        }
    }
}
