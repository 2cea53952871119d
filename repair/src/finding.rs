//! The side that asks.

use std::collections::BTreeSet;

use model::Item;
use negentropy::{Id, Negentropy};

use crate::{
    frame::{self, BadFrame},
    items::Items,
    set::Set,
};

/// Finds out, frame by frame, what the other side has and this one has not, and the reverse.
pub struct Finding<'a> {
    negentropy: Negentropy<'a, Set<'a>>,
    here: Vec<Id>,
    there: Vec<Id>,
}

/// Items that one side alone has. A message of two versions is among both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub here_alone: BTreeSet<Item>,
    pub there_alone: BTreeSet<Item>,
}

impl<'a> Finding<'a> {
    /// Begins with the frame to send first. No frame is larger than `frame_bytes_max`.
    ///
    /// # Errors
    /// `frame_bytes_max` is below [`crate::FRAME_BYTES_MIN`].
    pub fn begin(items: &'a Items, frame_bytes_max: u32) -> Result<(Self, Vec<u8>), BadFrame> {
        let mut negentropy = Negentropy::owned(items.set(), u64::from(frame_bytes_max))?;
        let first = negentropy.initiate()?;
        Ok((Self { negentropy, here: Vec::new(), there: Vec::new() }, first))
    }

    /// Takes the answer to the last frame; the next one to send, or `None` at the end.
    ///
    /// # Errors
    /// The answer is no frame.
    pub fn next(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, BadFrame> {
        frame::check(answer)?;
        Ok(self.negentropy.reconcile_with_ids(answer, &mut self.here, &mut self.there)?)
    }

    /// What was found.
    pub fn end(self) -> Differences {
        let items = |ids: Vec<Id>| ids.into_iter().map(|id| Item(id.to_bytes())).collect();
        Differences { here_alone: items(self.here), there_alone: items(self.there) }
    }
}
