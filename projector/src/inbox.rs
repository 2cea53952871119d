//! What was read and waits to be folded, cut into batches.

use std::collections::VecDeque;

use eventlog::LogError;
use tokio::sync::mpsc;

use crate::{ProjectorConfig, record::Decoded};

/// So many records, bytes or changes are worth a batch of their own while another one is committed. Fewer cost the
/// database more than they gain: they wait for that commit, and come with what is read meanwhile.
const AHEAD_MIN: Weight = Weight { records: 64, bytes: 64 << 10, changes: 64 };

pub(crate) type Read = Result<Vec<Decoded>, LogError>;

/// Records in the order of their partitions.
pub(crate) struct Inbox<'a> {
    config: &'a ProjectorConfig,
    reads: mpsc::Receiver<Read>,
    /// Cut already: they come first.
    parts: VecDeque<Vec<Decoded>>,
    /// Read, and too few to be cut off yet.
    few: Vec<Decoded>,
}

impl<'a> Inbox<'a> {
    pub(crate) fn new(config: &'a ProjectorConfig, reads: mpsc::Receiver<Read>) -> Self {
        Self { config, reads, parts: VecDeque::new(), few: Vec::new() }
    }

    /// The next records, within the limits of one batch. Waits until there are any; to stop waiting
    /// loses none.
    pub(crate) async fn next(&mut self) -> Read {
        if let Some(part) = self.parts.pop_front() {
            return Ok(part);
        }
        if self.few.is_empty() {
            self.few = self.read().await?;
        }
        let mut records = std::mem::take(&mut self.few);
        self.fill(&mut records)?;
        self.parts = cut(records, self.config);
        let first = self.parts.pop_front().unwrap_or_default();
        // What is left over is filled up with what is read next.
        self.few = self.parts.pop_back().unwrap_or_default();
        Ok(first)
    }

    /// As [`Inbox::next`], once there is enough to be folded beside a commit.
    pub(crate) async fn next_ahead(&mut self) -> Read {
        while self.parts.is_empty() && !Weight::of_all(&self.few).fills_a_batch(self.config) {
            let more = self.read().await?;
            self.few.extend(more);
        }
        self.next().await
    }

    async fn read(&mut self) -> Read {
        self.reads.recv().await.ok_or(LogError::Closed)?
    }

    /// Puts records back, to come next.
    pub(crate) fn put_back(&mut self, records: Vec<Decoded>) {
        self.parts.push_front(records);
    }

    /// Adds what was read meanwhile.
    fn fill(&mut self, records: &mut Vec<Decoded>) -> Result<(), LogError> {
        let mut weight = Weight::of_all(records);
        while weight.is_within(self.config) {
            let Ok(more) = self.reads.try_recv() else { break };
            let more = more?;
            weight = weight.plus(Weight::of_all(&more));
            records.extend(more);
        }
        Ok(())
    }
}

/// What a batch is limited by.
#[derive(Clone, Copy, Debug, Default)]
struct Weight {
    records: u64,
    bytes: u64,
    changes: u64,
}

impl Weight {
    fn of(record: &Decoded) -> Self {
        Self { records: 1, bytes: record.bytes() as u64, changes: record.changes() as u64 }
    }

    fn of_all(records: &[Decoded]) -> Self {
        records.iter().map(Self::of).fold(Self::default(), Self::plus)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            bytes: self.bytes + other.bytes,
            changes: self.changes + other.changes,
        }
    }

    /// It is enough for a batch beside another one, or for a whole one.
    fn fills_a_batch(self, config: &ProjectorConfig) -> bool {
        self.records >= AHEAD_MIN.records.min(config.batch_records_max.into())
            || self.bytes >= AHEAD_MIN.bytes.min(config.batch_bytes_max)
            || self.changes >= AHEAD_MIN.changes.min(config.batch_changes_max.into())
    }

    fn is_within(self, config: &ProjectorConfig) -> bool {
        self.records <= u64::from(config.batch_records_max)
            && self.bytes <= config.batch_bytes_max
            && self.changes <= u64::from(config.batch_changes_max)
    }
}

/// Cuts what was read into batches within the limits; a record that is too large comes alone.
fn cut(records: Vec<Decoded>, config: &ProjectorConfig) -> VecDeque<Vec<Decoded>> {
    let mut parts = VecDeque::new();
    let (mut part, mut weight) = (Vec::new(), Weight::default());
    for record in records {
        let own = Weight::of(&record);
        weight = weight.plus(own);
        if !weight.is_within(config) && !part.is_empty() {
            parts.push_back(std::mem::take(&mut part));
            weight = own;
        }
        part.push(record);
    }
    parts.push_back(part);
    parts
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
