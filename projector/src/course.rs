//! How far the workers of a session are, together.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use model::{Offset, Partition};

/// Shared by the workers of a session, each of which has partitions of its own.
pub(crate) struct Course {
    partitions: Mutex<BTreeMap<Partition, Stretch>>,
}

#[derive(Clone, Copy)]
struct Stretch {
    next_offset: Offset,
    /// Where the log ended when the session began.
    end: Offset,
}

impl Course {
    pub(crate) fn new(partitions: impl IntoIterator<Item = (Partition, Offset, Offset)>) -> Self {
        let stretch = |(partition, next_offset, end)| (partition, Stretch { next_offset, end });
        Self { partitions: Mutex::new(partitions.into_iter().map(stretch).collect()) }
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeMap<Partition, Stretch>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker is at these offsets.
    pub(crate) fn advance(&self, offsets: impl IntoIterator<Item = (Partition, Offset)>) {
        let mut partitions = self.partitions();
        for (partition, next_offset) in offsets {
            if let Some(stretch) = partitions.get_mut(&partition) {
                stretch.next_offset = next_offset;
            }
        }
    }

    /// A partition that is not yet where the log ended when the session began.
    pub(crate) fn behind(&self) -> Option<Partition> {
        let is_behind = |stretch: &Stretch| stretch.next_offset < stretch.end;
        self.partitions().iter().find(|(_, stretch)| is_behind(stretch)).map(|(own, _)| *own)
    }

    /// The records before the offsets of all partitions, together.
    pub(crate) fn folded(&self) -> u64 {
        self.partitions().values().map(|stretch| stretch.next_offset.get()).sum()
    }
}
