//! How a rebuild comes to where the live rows stand: outside of any lock for as long as there is much to fold.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use model::{Offset, Partition};
use readmodel::{ProjectionSet, projection::Position, rebuild::Extent};
use tokio::time::Instant;

use super::{RebuildError, Rebuilding, work::Work};
use crate::session::{Aim, Session};

/// How long the last pass takes before the live rows are held.
const NEAR: Duration = Duration::from_millis(250);
/// Where more comes all the time than is folded, it is not waited for: the live rows are asked for, and let go of again.
const PASSES_MAX: u32 = 20;
/// How long is folded while whoever commits waits, at most.
const HELD_MAX: Duration = Duration::from_millis(500);
/// How often that is tried before it may take longer: less, still, than a projector waits for a lock.
const HELD_TRIES: u32 = 10;
const HELD_LONGER_MAX: Duration = Duration::from_millis(1_500);
/// How long Postgres or the log may fail, from the first failure on, without a record being folded, and how long apart
/// it is tried.
const FAIL_MAX: Duration = Duration::from_secs(60);
const FAIL_PAUSE: Duration = Duration::from_millis(500);

/// Failures in a row: none of them was followed by a record that was folded.
#[derive(Default)]
struct Failing {
    folded: u64,
    since: Option<Instant>,
}

impl Failing {
    /// It failed again, with so much folded by now. For how long it has been failing.
    fn again(&mut self, folded: u64, now: Instant) -> Duration {
        if folded > self.folded {
            (self.folded, self.since) = (folded, None);
        }
        // Not from the beginning: what a partition begins with may take long, and folds no record.
        now - *self.since.get_or_insert(now)
    }
}

impl Work<'_> {
    /// Where the live rows stand, or as far as the log goes, if it is cut.
    async fn until(&self, live: &[Position]) -> Result<BTreeMap<Partition, Offset>, RebuildError> {
        let own = self.partitions();
        let mut until = BTreeMap::new();
        for position in live.iter().filter(|position| own.contains(&position.partition)) {
            let end = match self.request.cut_log {
                true => self.of.log.bounds(position.partition).await?.end,
                false => position.next_offset,
            };
            until.insert(position.partition, end);
        }
        Ok(until)
    }

    /// Folds until what is left is folded in a moment.
    pub(super) async fn come_near(&mut self) -> Result<(), RebuildError> {
        for _ in 0..PASSES_MAX {
            let live = self.rebuild.positions(ProjectionSet::Live).await?;
            let until = self.until(&live).await?;
            if self.left(&until).await? == 0 {
                return Ok(());
            }
            let began = Instant::now();
            self.fold(until).await?;
            // What came meanwhile takes no longer.
            if began.elapsed() <= NEAR {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Folds the rest while the live rows are held. False if that takes too long, or fails: who waits for them
    /// comes first.
    pub(super) async fn fold_held(
        &mut self,
        live: &[Position],
        tries: u32,
    ) -> Result<bool, RebuildError> {
        let until = self.until(live).await?;
        if self.left(&until).await? == 0 {
            return Ok(true);
        }
        let partitions: Vec<Partition> = until.keys().copied().collect();
        let session = self.session(until, &|_| {});
        let limit = if tries < HELD_TRIES { HELD_MAX } else { HELD_LONGER_MAX };
        let ended = tokio::time::timeout(limit, session.project(&partitions, self.stop)).await;
        if self.stop.is_cancelled() {
            return Err(RebuildError::Stopped);
        }
        match ended {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) if !error.is_retryable() => Err(error.into()),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    /// How many records are left to fold.
    async fn left(&mut self, until: &BTreeMap<Partition, Offset>) -> Result<u64, RebuildError> {
        let rebuilt = self.rebuild.positions(self.extent.set()).await?;
        let place = |partition: &Partition| {
            let position = rebuilt.iter().find(|position| position.partition == *partition);
            position.map(|position| position.next_offset.get())
        };
        // Where nothing is folded yet, what the partition begins with is left too, which may be rows.
        let left = |(own, until): (&Partition, &Offset)| match place(own) {
            Some(place) => until.get().saturating_sub(place),
            None => until.get().max(1),
        };
        Ok(until.iter().map(left).sum())
    }

    /// Folds up to these places, with the projector's own session; again, where Postgres or the log fails.
    async fn fold(&self, until: BTreeMap<Partition, Offset>) -> Result<(), RebuildError> {
        let of: u64 = until.values().map(|until| until.get()).sum();
        let furthest = AtomicU64::new(0);
        let folded = |records: u64| {
            furthest.fetch_max(records, Ordering::Relaxed);
            // Whoever is slow to listen hears the next one.
            let _ = self.say.try_send(Rebuilding::Folded { records, of });
        };
        let partitions: Vec<Partition> = until.keys().copied().collect();
        let mut failing = Failing::default();
        loop {
            let ended = self.session(until.clone(), &folded).project(&partitions, self.stop).await;
            if self.stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
            let Err(error) = ended else { return Ok(()) };
            let for_long = failing.again(furthest.load(Ordering::Relaxed), Instant::now());
            if !error.is_retryable() || for_long >= FAIL_MAX {
                return Err(error.into());
            }
            tracing::warn!(%error, "rebuilding stopped; trying again");
            tokio::time::sleep(FAIL_PAUSE).await;
        }
    }

    /// A session of the projector that folds into the rebuilt set.
    pub(super) fn session<'s>(
        &'s self,
        until: BTreeMap<Partition, Offset>,
        folded: &'s (dyn Fn(u64) + Send + Sync),
    ) -> Session<'s> {
        let scope = match &self.extent {
            Extent::All => None,
            Extent::Scope(scope) => Some(scope),
        };
        Session {
            config: &self.of.config,
            database: &self.of.database,
            log: &self.of.log,
            feed: &self.feed,
            ready: &self.ready,
            archive: self.of.archive.as_ref(),
            aim: Some(Aim { set: self.extent.set(), until, scope, folded }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_are_counted_together() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut failing = Failing::default();
        for (folded, now, for_long) in [
            // Before the first record, after an hour that went well.
            (0, 3_600, 0),
            (0, 3_630, 30),
            // Now and then, with something folded in between.
            (1, 3_700, 0),
            (2, 7_200, 0),
            (2, 7_201, 1),
            (9, 9_000, 0),
            // A retry begins before where an earlier one came to.
            (5, 9_040, 40),
            (9, 9_060, 60),
        ] {
            let found = failing.again(folded, at(now));
            assert_eq!(found, Duration::from_secs(for_long), "at {now} with {folded}");
        }
    }
}
