//! How far the workers of a session are, together.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use model::{Offset, Partition};

/// Shared by the workers of a session, each of which has partitions of its own.
pub(crate) struct Progress {
    partitions: Mutex<BTreeMap<Partition, PartitionProgress>>,
}

#[derive(Clone, Copy)]
struct PartitionProgress {
    next_offset: Offset,
    /// Where the log ended when the session began.
    end: Offset,
}

impl Progress {
    pub(crate) fn new(partitions: impl IntoIterator<Item = (Partition, Offset, Offset)>) -> Self {
        let own =
            |(partition, next_offset, end)| (partition, PartitionProgress { next_offset, end });
        Self { partitions: Mutex::new(partitions.into_iter().map(own).collect()) }
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeMap<Partition, PartitionProgress>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker is at these offsets.
    pub(crate) fn advance(&self, offsets: impl IntoIterator<Item = (Partition, Offset)>) {
        let mut partitions = self.partitions();
        for (partition, next_offset) in offsets {
            if let Some(own) = partitions.get_mut(&partition) {
                own.next_offset = next_offset;
            }
        }
    }

    /// A partition that is not yet where the log ended when the session began.
    pub(crate) fn behind(&self) -> Option<Partition> {
        let is_behind = |own: &PartitionProgress| own.next_offset < own.end;
        self.partitions().iter().find(|(_, own)| is_behind(own)).map(|(own, _)| *own)
    }

    /// The records before the offsets of all partitions, together.
    pub(crate) fn folded(&self) -> u64 {
        self.partitions().values().map(|own| own.next_offset.get()).sum()
    }
}
