//! What was read, given out to the workers of a session: each gets what is of its partitions.

use std::ops::ControlFlow;

use model::Partition;
use tokio::sync::mpsc;

use crate::{inbox::Read, record::Decoded};

/// Read and decoded ahead of the batches under way, in reads.
const READ_AHEAD: usize = 2;

pub(crate) struct Outlets(Vec<Outlet>);

struct Outlet {
    partitions: Vec<Partition>,
    send: mpsc::Sender<Read>,
}

/// An outlet for each worker, by its partitions, and what comes out of it.
pub(crate) fn outlets(
    workers: impl Iterator<Item = Vec<Partition>>,
) -> (Outlets, Vec<mpsc::Receiver<Read>>) {
    let outlet = |partitions| {
        let (send, inlet) = mpsc::channel(READ_AHEAD);
        (Outlet { partitions, send }, inlet)
    };
    let (outlets, inlets) = workers.map(outlet).unzip();
    (Outlets(outlets), inlets)
}

impl Outlets {
    /// Gives each worker its own; what failed, to all. Waits for whoever has enough. `Break`: the reading is over.
    pub(crate) async fn give_out(&self, read: Read) -> ControlFlow<()> {
        match read {
            Ok(records) => self.give(records).await,
            Err(error) => {
                for outlet in &self.0 {
                    let _ = outlet.send.send(Err(error.clone())).await; // it may have ended
                }
                ControlFlow::Break(())
            }
        }
    }

    async fn give(&self, mut records: Vec<Decoded>) -> ControlFlow<()> {
        for outlet in &self.0 {
            let is_own = |record: &mut Decoded| outlet.partitions.contains(&record.place.partition);
            let own: Vec<Decoded> = records.extract_if(.., is_own).collect();
            if !own.is_empty() && outlet.send.send(Ok(own)).await.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
#[path = "outlets_tests.rs"]
mod tests;
