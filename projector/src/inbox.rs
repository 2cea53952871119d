//! What was read and waits to be folded, cut into batches.

use std::collections::VecDeque;

use eventlog::LogError;
use tokio::sync::mpsc;

use crate::{ProjectorConfig, record::Decoded};

pub(crate) type Read = Result<Vec<Decoded>, LogError>;

/// Records in the order of their partitions.
pub(crate) struct Inbox<'a> {
    config: &'a ProjectorConfig,
    reads: mpsc::Receiver<Read>,
    /// Cut already: they come first.
    parts: VecDeque<Vec<Decoded>>,
}

impl<'a> Inbox<'a> {
    pub(crate) fn new(config: &'a ProjectorConfig, reads: mpsc::Receiver<Read>) -> Self {
        Self { config, reads, parts: VecDeque::new() }
    }

    /// The next records, within the limits of one batch. Waits until there are any; to stop waiting
    /// loses none.
    pub(crate) async fn next(&mut self) -> Read {
        if let Some(part) = self.parts.pop_front() {
            return Ok(part);
        }
        let mut records = self.reads.recv().await.ok_or(LogError::Closed)??;
        self.fill(&mut records)?;
        self.parts = cut(records, self.config);
        Ok(self.parts.pop_front().unwrap_or_default())
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
