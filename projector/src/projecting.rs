//! The loop of a worker of a session: load, fold, commit. While one batch commits, the next one is loaded, what the
//! first one changes is laid over it, and it is folded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eventlog::LogError;
use model::{Offset, Partition};
use readmodel::{
    ReadModelError,
    feed::Committed,
    filling::Ends,
    load::Loader,
    projection::{EXPIRED_AT_ONCE, Position, Projection},
    write::Writes,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    batch::{Batch, Folded, Parts},
    folding::Folding,
    inbox::Inbox,
    measure::{COMMIT_SECONDS, DEAD_LETTERS, OUTCOMES},
    progress::Progress,
    session::{ProjectorError, Session},
};

/// How often old rows are deleted, and how soon again when there are more.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
const EXPIRE_MORE: Duration = Duration::from_millis(200);
/// How often it is asked whether other projectors have filled their partitions.
const FILLED_ELSEWHERE_EVERY: Duration = Duration::from_millis(250);

/// A worker of a session: it has the positions of its own partitions.
pub(crate) struct Projecting<'a> {
    session: &'a Session<'a>,
    progress: Arc<Progress>,
    projection: Projection,
    folding: Folding,
    positions: BTreeMap<Partition, Position>,
    /// Where folding ends, if it does.
    until: Option<Ends>,
    next_expiry: Instant,
}

/// A batch that can be committed.
struct Prepared {
    batch: Batch,
    folded: Folded,
}

/// The next batch, and what loading and folding it came to.
type Ahead = (Batch, Result<Folded, ReadModelError>);

impl<'a> Projecting<'a> {
    pub(crate) fn new(
        session: &'a Session<'a>,
        progress: Arc<Progress>,
        projection: Projection,
        loader: Loader,
        positions: BTreeMap<Partition, Position>,
        until: Option<&Ends>,
    ) -> Self {
        let own = |until: &Ends| {
            let is_own =
                |(partition, _): &(&Partition, &Offset)| positions.contains_key(*partition);
            until.iter().filter(is_own).map(|(partition, until)| (*partition, *until)).collect()
        };
        let until = until.map(own);
        let next_expiry = Instant::now();
        let folding = Folding::new(loader);
        Self { session, progress, projection, folding, positions, until, next_expiry }
    }

    /// Whether a read model that was lost is filled: nobody is answered from it yet.
    pub(crate) fn is_filling(&self) -> bool {
        self.session.is_live() && self.until.is_some()
    }

    /// Waits until whoever folds the other partitions has filled them too, and the read model answers.
    pub(crate) async fn finish_filling(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Result<(), ProjectorError> {
        while !shutdown.is_cancelled() {
            let behind = self.projection.finish_filling().await?;
            let Some(partition) = behind.first() else { break };
            self.session.ready.set_not_ready(format!(
                "the read model is being filled from the log; partition {partition} is another projector's, and behind"
            ));
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(FILLED_ELSEWHERE_EVERY) => {}
            }
        }
        Ok(())
    }

    /// The offset to fold next, of each partition.
    pub(crate) fn next_offsets(&self) -> impl Iterator<Item = (Partition, Offset)> {
        self.positions.values().map(|p| (p.partition, p.next_offset))
    }

    pub(crate) async fn run(
        &mut self,
        inbox: &mut Inbox<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), ProjectorError> {
        let mut ahead: Option<Prepared> = None;
        while !shutdown.is_cancelled() {
            self.say_how_far();
            if ahead.is_none() && self.is_there() {
                break;
            }
            self.expire().await?;
            let prepared = match ahead.take() {
                Some(prepared) => prepared,
                None => {
                    let records = tokio::select! {
                        biased; // the reading ends with the shutdown: that is no error
                        () = shutdown.cancelled() => break,
                        read = inbox.next() => read?,
                        () = tokio::time::sleep_until(self.next_expiry) => continue,
                    };
                    let batch = Batch::new(records, &self.positions);
                    let folded = self.folding.fold(&batch, &Parts::default()).await;
                    match self.prepared(batch, folded, inbox).await? {
                        Some(prepared) => prepared,
                        None => continue,
                    }
                }
            };
            ahead = self.commit(prepared, inbox).await?;
        }
        Ok(())
    }

    /// A batch that was folded; none, if the database refused even to look for it.
    async fn prepared(
        &mut self,
        batch: Batch,
        folded: Result<Folded, ReadModelError>,
        inbox: &mut Inbox<'_>,
    ) -> Result<Option<Prepared>, ProjectorError> {
        match folded {
            Ok(folded) => Ok(Some(Prepared { batch, folded })),
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
        prepared: Prepared,
        inbox: &mut Inbox<'_>,
    ) -> Result<Option<Prepared>, ProjectorError> {
        let Prepared { batch, folded } = prepared;
        if batch.is_empty() {
            return batch.unknown_rules.map_or(Ok(None), |unknown| Err(unknown.into()));
        }
        let committed = &folded.committed;
        let before = self.positions.clone();
        self.advance(&batch);
        self.session.feed.committing(committed);
        let (done, next) = self.commit_and_look_ahead(&batch, &folded, inbox).await;
        match done {
            Ok(()) => self.folding.committed(folded),
            Err(error @ (ReadModelError::Refused(_) | ReadModelError::NotNew)) => {
                self.session.feed.refused(committed);
                self.positions = before;
                if let Some((next, _)) = next.transpose()? {
                    inbox.put_back(next.into_records());
                }
                if folded.writes.taken_for_new {
                    tracing::debug!(%error, "a batch that was taken for new is loaded");
                    self.folding.not_written();
                    inbox.put_back(batch.into_records());
                } else {
                    self.refused(batch, &error.to_string(), inbox).await?;
                }
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(unknown) = batch.unknown_rules {
            return Err(unknown.into());
        }
        match next.transpose()? {
            Some((batch, folded)) => self.prepared(batch, folded, inbox).await,
            None => Ok(None),
        }
    }

    /// Commits, and meanwhile loads and folds the next batch, if there is enough for one.
    async fn commit_and_look_ahead(
        &mut self,
        batch: &Batch,
        folded: &Folded,
        inbox: &mut Inbox<'_>,
    ) -> (Result<(), ReadModelError>, Option<Result<Ahead, LogError>>) {
        let Folded { writes, committed, changed, .. } = folded;
        // Told at once: who waits for this batch does not wait for the next one to be folded.
        let commit = commit(self.session, &mut self.projection, batch, writes, committed);
        tokio::pin!(commit);
        tokio::select! {
            biased;
            done = &mut commit => (done, None),
            // Nothing is folded beyond rules that this build does not know.
            read = inbox.next_ahead(), if batch.unknown_rules.is_none() => match read {
                // The loop sees it too, and whether it is because of a shutdown.
                Err(LogError::Closed) => (commit.await, None),
                Err(error) => (commit.await, Some(Err(error))),
                Ok(records) => {
                    let next = Batch::new(records, &self.positions);
                    let folding = self.folding.fold(&next, changed);
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
            if let [record] = batch.folded() {
                tracing::error!(place = %record.place, reason, "parking an event");
            }
            let parked = batch.park(reason);
            let Folded { writes, committed, .. } = &parked;
            self.session.feed.committing(committed);
            commit(self.session, &mut self.projection, &batch, writes, committed).await?;
            self.folding.committed(parked);
            self.advance(&batch);
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

    /// Whether it is where it was to come.
    fn is_there(&self) -> bool {
        let is_reached = |(partition, until): (&Partition, &Offset)| {
            self.positions.get(partition).is_some_and(|position| position.next_offset >= *until)
        };
        self.until.as_ref().is_some_and(|until| until.iter().all(is_reached))
    }

    fn say_how_far(&self) {
        self.progress.advance(self.next_offsets());
        if let Some(aim) = &self.session.aim {
            (aim.folded)(self.progress.folded());
        }
        let ready = self.session.ready;
        match self.progress.behind() {
            Some(partition) => {
                ready.set_not_ready(format!("folding the log; partition {partition} is behind"));
            }
            None if self.is_filling() => {
                ready.set_not_ready("the read model is being filled from the log".to_owned());
            }
            None => ready.set_ready(),
        }
    }

    /// Deletes what is over its time: outcomes that nobody can ask for any more, and old versions.
    async fn expire(&mut self) -> Result<(), ProjectorError> {
        if Instant::now() < self.next_expiry {
            return Ok(());
        }
        const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;
        let history_kept = i64::from(self.session.config.history_days) * DAY_MICROS;
        let mut more = false;
        for position in self.positions.values() {
            let outcomes = self.projection.expire_outcomes(position).await;
            more |= are_more("outcomes", position.partition, outcomes)?;
            if history_kept > 0 {
                let history = self.projection.expire_history(position, history_kept).await;
                more |= are_more("history", position.partition, history)?;
            }
        }
        // What is left waits for the next batches, not they for it.
        self.next_expiry = Instant::now() + if more { EXPIRE_MORE } else { EXPIRE_EVERY };
        Ok(())
    }
}

/// Whether more is to be deleted at once.
fn are_more(
    what: &str,
    partition: Partition,
    deleted: Result<u64, ReadModelError>,
) -> Result<bool, ProjectorError> {
    match deleted {
        Ok(deleted) => {
            tracing::debug!(%partition, what, deleted, "old rows deleted");
            Ok(deleted >= EXPIRED_AT_ONCE as u64)
        }
        // Too slow, say. Where there was no answer, the connection is not to be used again.
        Err(error) if error.is_of_statement() => {
            tracing::warn!(%error, what, "old rows are not deleted now");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Commits a batch, and tells those who wait for it.
async fn commit(
    session: &Session<'_>,
    projection: &mut Projection,
    batch: &Batch,
    writes: &Writes,
    committed: &Committed,
) -> Result<(), ReadModelError> {
    let began = Instant::now();
    projection.commit(&batch.advances, writes, session.tells_others()).await?;
    if !session.is_live() {
        return Ok(());
    }
    session.feed.committed(committed);
    metrics::histogram!(COMMIT_SECONDS).record(began.elapsed().as_secs_f64());
    metrics::counter!(OUTCOMES).increment(writes.outcomes.len() as u64);
    let dead = writes.dead_letters.len() as u64;
    metrics::counter!(DEAD_LETTERS).increment(dead);
    Ok(())
}
