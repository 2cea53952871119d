//! Retrying what is parked: the events of a scope that the database refused, and those behind, are folded in order,
//! each at the log's time at its place. Afterwards the rows are what the log folds to, as in every other copy.
//!
//! The projector goes on meanwhile. Both lock the partition's position; a batch that was to park an event behind
//! others finds them gone, and its session begins anew (`readmodel::dead_letters`).

use eventlog::Record;
use model::{Offset, Partition, Place, ScopeRef};
use readmodel::{
    DatabaseConfig, ReadModelError,
    feed::Feed,
    parked::{Parked, ParkedEvent, Unparking},
};

use crate::{
    batch::{Batch, Folded},
    record::Decoded,
};

/// Events in one transaction, at most: each may have 8 MiB, and the projector's partition waits for it.
const EVENTS_AT_ONCE: u32 = 16;

/// What retrying a scope came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Events folded.
    pub folded: u64,
    /// The event that the database still refuses, and why. It and those behind wait on.
    pub still_refused: Option<(Place, String)>,
}

/// Folds the parked events of a scope, as far as the database takes them. `feed` is that of the projector's process, if
/// it is this one. `step` is told how many are folded so far.
///
/// # Errors
/// The read model cannot be used; what was folded until then stays.
pub async fn retry(
    config: &DatabaseConfig,
    feed: Option<&Feed>,
    scope: ScopeRef,
    mut step: impl FnMut(u64),
) -> Result<Retried, ReadModelError> {
    let mut parked = Parked::connect(config).await?;
    let mut retried = Retried::default();
    let mut at_once = EVENTS_AT_ONCE;
    loop {
        let Some(unparking) = parked.begin(scope, at_once).await? else { return Ok(retried) };
        let (first, count) =
            (unparking.events.first().map(|event| event.place), unparking.events.len());
        match unpark(unparking, feed).await {
            Ok(()) => {
                retried.folded += count as u64;
                step(retried.folded);
            }
            // Which of them is it? Those before it can be folded.
            Err(ReadModelError::Refused(_)) if count > 1 => at_once = (count / 2).max(1) as u32,
            Err(ReadModelError::Refused(error)) => {
                let place =
                    first.unwrap_or(Place { partition: Partition::new(0), offset: Offset::ZERO });
                parked.note(place, &error.to_string()).await?;
                retried.still_refused = Some((place, error.to_string()));
                return Ok(retried);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn unpark(mut unparking: Unparking<'_>, feed: Option<&Feed>) -> Result<(), ReadModelError> {
    let (records, times) = unparking.events.iter().cloned().map(decoded).unzip();
    let batch = Batch::of_parked(records, times);
    let mut loaded = unparking.load(&batch.wanted()).await?;
    let besides = batch.wanted_besides(&loaded);
    if !besides.is_empty() {
        loaded.add_messages(unparking.load(&besides).await?);
    }
    // That they are parked is what ends here.
    loaded.parked.clear();
    let Folded { writes, committed, .. } = batch.fold(loaded);
    let done = unparking.commit(&writes).await;
    if let Some(feed) = feed {
        match &done {
            Ok(()) => feed.unparked(&committed),
            Err(_) => feed.perhaps_unparked(&committed),
        }
    }
    done
}

fn decoded(event: ParkedEvent) -> (Decoded, model::Timestamp) {
    let ParkedEvent { place, append_time, time, key, value } = event;
    let (key, value) = (key.into(), value.into());
    let Place { partition, offset } = place;
    (Decoded::new(Record { partition, offset, append_time, key, value }), time)
}
