//! What the live messages of a scope come to: recomputed from lines, held against what a manifest says.

use model::{Digest, Item, Message};

use crate::manifest::ScopeLine;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    count: u64,
    /// Of their contents and metadata.
    bytes: u64,
    digest: Digest,
}

/// What one live message adds to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    item: Item,
    bytes: u64,
}

impl Part {
    /// `None`: it is deleted.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let entry = &message.entry;
        let part = || Self { item: entry.version.item(message.id), bytes: entry.bytes };
        entry.is_live().then(part)
    }
}

impl Total {
    /// What a manifest says.
    pub(crate) fn said(line: &ScopeLine) -> Self {
        Self { count: line.count, bytes: line.bytes, digest: line.digest }
    }

    pub(crate) fn add(&mut self, part: Part) {
        self.count += 1;
        self.bytes += part.bytes;
        self.digest.add(part.item);
    }

    /// What was added before.
    pub(crate) fn remove(&mut self, part: Part) {
        self.count -= 1;
        self.bytes -= part.bytes;
        self.digest.remove(part.item);
    }

    /// What is wrong, if a manifest says something else.
    pub(crate) fn contradiction(self, said: Self) -> Option<String> {
        (self != said).then(|| format!("it comes to {self}, its manifest says {said}"))
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, bytes, digest } = self;
        write!(f, "{count} messages of {bytes} bytes with digest {digest}")
    }
}
