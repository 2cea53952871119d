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

    /// The next records, within the limits of one transaction. Waits until there are any; to stop
    /// waiting loses none.
    pub(crate) async fn next(&mut self) -> Read {
        if let Some(part) = self.parts.pop_front() {
            return Ok(part);
        }
        let mut records = self.reads.recv().await.ok_or(LogError::Closed)??;
        self.fill(&mut records)?;
        self.parts = cut(records, self.config.batch_changes_max as usize);
        Ok(self.parts.pop_front().unwrap_or_default())
    }

    /// Puts records back, to come next.
    pub(crate) fn put_back(&mut self, records: Vec<Decoded>) {
        self.parts.push_front(records);
    }

    /// Adds what was read meanwhile.
    fn fill(&mut self, records: &mut Vec<Decoded>) -> Result<(), LogError> {
        let config = self.config;
        let (mut bytes, mut changes) = weigh(records);
        while records.len() < config.batch_records_max as usize
            && bytes < config.batch_bytes_max
            && changes < config.batch_changes_max as usize
        {
            let Ok(more) = self.reads.try_recv() else { break };
            let more = more?;
            let (more_bytes, more_changes) = weigh(&more);
            (bytes, changes) = (bytes + more_bytes, changes + more_changes);
            records.extend(more);
        }
        Ok(())
    }
}

fn weigh(records: &[Decoded]) -> (u64, usize) {
    let bytes = records.iter().map(Decoded::bytes).sum::<usize>() as u64;
    (bytes, records.iter().map(Decoded::changes).sum())
}

/// Cuts what was read into transactions of not too many changes: bytes bound them badly, since a delete
/// has few.
fn cut(records: Vec<Decoded>, changes_max: usize) -> VecDeque<Vec<Decoded>> {
    let mut parts = VecDeque::new();
    let (mut part, mut changes) = (Vec::new(), 0);
    for record in records {
        if changes + record.changes() > changes_max && !part.is_empty() {
            parts.push_back(std::mem::take(&mut part));
            changes = 0;
        }
        changes += record.changes();
        part.push(record);
    }
    parts.push_back(part);
    parts
}
