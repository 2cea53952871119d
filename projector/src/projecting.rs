//! The loop of a session: load, fold, commit. While one batch commits, the next one is loaded, what the
//! first one changes is laid over it, and it is folded.

use std::{collections::BTreeMap, time::Duration};

use eventlog::LogError;
use model::{Offset, Partition};
use readmodel::{
    ReadModelError,
    projection::{EXPIRED_AT_ONCE, Loader, Position, Projection},
    write::Writes,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Batch, Changed, Folded},
    inbox::Inbox,
    session::{ProjectorError, Session},
};

/// How often old outcomes are deleted, and how soon again when there are more.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
const EXPIRE_MORE: Duration = Duration::from_millis(200);

/// A session that has its positions.
pub(crate) struct Projecting<'a> {
    session: &'a Session<'a>,
    projection: Projection,
    loader: Loader,
    positions: BTreeMap<Partition, Position>,
    /// Where the log ended when the session began: ready once the positions are there.
    behind: BTreeMap<Partition, Offset>,
    next_expiry: Instant,
}

/// A batch that can be committed.
struct Ready {
    batch: Batch,
    folded: Folded,
}

/// The next batch, and what loading and folding it came to.
type Ahead = (Batch, Result<Folded, ReadModelError>);

impl<'a> Projecting<'a> {
    pub(crate) fn new(
        session: &'a Session<'a>,
        projection: Projection,
        loader: Loader,
        positions: BTreeMap<Partition, Position>,
        behind: BTreeMap<Partition, Offset>,
    ) -> Self {
        Self { session, projection, loader, positions, behind, next_expiry: Instant::now() }
    }

    /// The offset to fold next, of each partition.
    pub(crate) fn next_offsets(&self) -> Vec<(Partition, Offset)> {
        self.positions.values().map(|p| (p.partition, p.next_offset)).collect()
    }

    pub(crate) async fn run(
        &mut self,
        inbox: &mut Inbox<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), ProjectorError> {
        let mut ahead: Option<Ready> = None;
        while !shutdown.is_cancelled() {
            self.say_if_ready();
            self.expire_outcomes().await?;
            let ready = match ahead.take() {
                Some(ready) => ready,
                None => {
                    let records = tokio::select! {
                        biased; // the reading ends with the shutdown: that is no error
                        () = shutdown.cancelled() => break,
                        read = inbox.next() => read?,
                        () = tokio::time::sleep_until(self.next_expiry) => continue,
                    };
                    let batch = Batch::new(records, &self.positions);
                    let folded = fold(&mut self.loader, &batch, &Changed::default()).await;
                    match self.ready(batch, folded, inbox).await? {
                        Some(ready) => ready,
                        None => continue,
                    }
                }
            };
            ahead = self.commit(ready, inbox).await?;
        }
        Ok(())
    }

    /// A batch that was folded; none, if the database refused even to look for it.
    async fn ready(
        &mut self,
        batch: Batch,
        folded: Result<Folded, ReadModelError>,
        inbox: &mut Inbox<'_>,
    ) -> Result<Option<Ready>, ProjectorError> {
        match folded {
            Ok(folded) => Ok(Some(Ready { batch, folded })),
            Err(ReadModelError::Refused(error)) => {
                self.refused(batch, &error.to_string(), inbox).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Commits a batch. Returns the next one, folded, if there was one by then.
    async fn commit(
        &mut self,
        ready: Ready,
        inbox: &mut Inbox<'_>,
    ) -> Result<Option<Ready>, ProjectorError> {
        let began = Instant::now();
        let Ready { batch, folded } = ready;
        if batch.is_empty() {
            return batch.unknown_rules.map_or(Ok(None), |unknown| Err(unknown.into()));
        }
        let Folded { writes, committed, changed } = folded;
        let before = self.positions.clone();
        self.advance(&batch);
        self.session.feed.committing(&committed);
        let (done, next) = self.commit_and_look_ahead(&batch, &writes, &changed, inbox).await;
        match done {
            Ok(()) => {
                self.session.feed.committed(&committed);
                count(&writes, began.elapsed());
            }
            Err(ReadModelError::Refused(error)) => {
                self.positions = before;
                if let Some((next, _)) = next.transpose()? {
                    inbox.put_back(next.into_records());
                }
                self.refused(batch, &error.to_string(), inbox).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(unknown) = batch.unknown_rules {
            return Err(unknown.into());
        }
        match next.transpose()? {
            Some((batch, folded)) => self.ready(batch, folded, inbox).await,
            None => Ok(None),
        }
    }

    /// Commits, and meanwhile loads and folds the next batch, if there is one.
    async fn commit_and_look_ahead(
        &mut self,
        batch: &Batch,
        writes: &Writes,
        changed: &Changed,
        inbox: &mut Inbox<'_>,
    ) -> (Result<(), ReadModelError>, Option<Result<Ahead, LogError>>) {
        let commit = self.projection.commit(&batch.advances, writes, self.session.tells_others());
        tokio::pin!(commit);
        tokio::select! {
            biased;
            done = &mut commit => (done, None),
            // Nothing is folded beyond rules that this build does not know.
            read = inbox.next(), if batch.unknown_rules.is_none() => match read {
                // The loop sees it too, and whether it is because of a shutdown.
                Err(LogError::Closed) => (commit.await, None),
                Err(error) => (commit.await, Some(Err(error))),
                Ok(records) => {
                    let next = Batch::new(records, &self.positions);
                    let folding = fold(&mut self.loader, &next, changed);
                    let (done, folded) = tokio::join!(commit, folding);
                    (done, Some(Ok((next, folded))))
                }
            },
        }
    }

    /// The database refuses a batch: its halves are tried, and their halves. The one record that it
    /// refuses alone is parked.
    async fn refused(
        &mut self,
        batch: Batch,
        reason: &str,
        inbox: &mut Inbox<'_>,
    ) -> Result<(), ProjectorError> {
        if batch.len() == 1 {
            tracing::error!(place = ?batch.first_place(), reason, "parking an event");
            let Folded { writes, committed, .. } = batch.park(reason);
            let tells_others = self.session.tells_others();
            self.projection.commit(&batch.advances, &writes, tells_others).await?;
            self.advance(&batch);
            self.session.feed.committed(&committed);
            count(&writes, Duration::ZERO);
        }
        let (folded, mut records) = (batch.len(), batch.into_records());
        let back = records.split_off(folded.div_ceil(2));
        if !back.is_empty() {
            inbox.put_back(back);
        }
        if folded > 1 {
            inbox.put_back(records);
        }
        Ok(())
    }

    fn advance(&mut self, batch: &Batch) {
        for advance in &batch.advances {
            self.positions.insert(advance.partition, advance.to);
        }
    }

    fn say_if_ready(&mut self) {
        let positions = &self.positions;
        self.behind.retain(|partition, end| {
            positions.get(partition).is_some_and(|position| position.next_offset < *end)
        });
        match self.behind.keys().next() {
            None => self.session.ready.set_ready(),
            Some(partition) => self
                .session
                .ready
                .set_not_ready(format!("folding the log; partition {partition} is behind")),
        }
    }

    async fn expire_outcomes(&mut self) -> Result<(), ProjectorError> {
        if Instant::now() < self.next_expiry {
            return Ok(());
        }
        let mut more = false;
        for position in self.positions.values() {
            let deleted = self.projection.expire_outcomes(position).await?;
            tracing::debug!(partition = %position.partition, deleted, "old outcomes deleted");
            more |= deleted >= EXPIRED_AT_ONCE as u64;
        }
        // What is left waits for the next batches, not they for it.
        self.next_expiry = Instant::now() + if more { EXPIRE_MORE } else { EXPIRE_EVERY };
        Ok(())
    }
}

/// Loads what a batch touches and folds it; `changed` is what the batch before it changes, whose commit
/// is under way.
async fn fold(
    loader: &mut Loader,
    batch: &Batch,
    changed: &Changed,
) -> Result<Folded, ReadModelError> {
    let mut loaded = loader.load(&batch.wanted()).await?;
    loaded.overlay(changed);
    let besides = batch.wanted_besides(&loaded);
    if !besides.is_empty() {
        loaded.add_messages(loader.load(&besides).await?);
        loaded.overlay(changed);
    }
    Ok(batch.fold(loaded))
}

fn count(writes: &Writes, took: Duration) {
    metrics::histogram!("context_sync_batch_seconds").record(took.as_secs_f64());
    metrics::counter!("context_sync_events_folded_total").increment(writes.outcomes.len() as u64);
    let dead = writes.dead_letters.len() as u64;
    metrics::counter!("context_sync_dead_letters_total").increment(dead);
}
