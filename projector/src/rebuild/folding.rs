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
/// How long Postgres or the log may fail, from the first failure on, without a record being folded, and how often at the
/// least: between two failures may lie what a partition begins with. And how long apart it is tried.
const FAIL_MAX: Duration = Duration::from_secs(60);
const FAILURES_MIN: u32 = 5;
const FAIL_PAUSE: Duration = Duration::from_millis(500);

/// Failures in a row: none of them was followed by a record that was folded.
#[derive(Default)]
struct Failing {
    folded: u64,
    since: Option<Instant>,
    failures: u32,
}

impl Failing {
    /// It failed again, with so much folded by now. Whether it has been failing for too long.
    fn again(&mut self, folded: u64, now: Instant) -> bool {
        if folded > self.folded {
            *self = Self { folded, ..Self::default() };
        }
        self.failures += 1;
        // Not from the beginning: what a partition begins with may take long, and folds no record.
        let since = *self.since.get_or_insert(now);
        now - since >= FAIL_MAX && self.failures >= FAILURES_MIN
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
            let is_over = failing.again(furthest.load(Ordering::Relaxed), Instant::now());
            if !error.is_retryable() || is_over {
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

    /// Which of the failures, told by what was folded and when, it is given up at.
    fn given_up_at(failures: impl IntoIterator<Item = (u64, u64)>) -> Option<(u64, u64)> {
        let began = Instant::now();
        let mut failing = Failing::default();
        let mut failures = failures.into_iter();
        failures.find(|(folded, now)| failing.again(*folded, began + Duration::from_secs(*now)))
    }

    #[test]
    fn only_failures_in_a_row_are_counted_together() {
        // Every ten seconds, from an hour that went well on.
        assert_eq!(given_up_at((0..10).map(|n| (0, 3_600 + 10 * n))), Some((0, 3_660)));
        // Every second: the time counts.
        assert_eq!(given_up_at((0..100).map(|n| (0, n))), Some((0, 60)));
        // Now and then, with something folded in between.
        assert_eq!(given_up_at((0..100).map(|n| (n, 30 * n))), None);
        let (none, some) = ((0..6).map(|n| (0, 10 * n)), (1..8).map(|n| (1, 50 + 10 * n)));
        assert_eq!(given_up_at(none.chain(some)), Some((1, 120)));
        // A retry begins before where an earlier one came to.
        let after = [(9, 0), (5, 15), (9, 30), (5, 45), (9, 59), (9, 60)];
        assert_eq!(given_up_at(after), Some((9, 60)));
    }

    #[test]
    fn what_takes_long_between_two_failures_is_no_failure() {
        // What a partition begins with took ten minutes each time, and folds no record.
        assert_eq!(given_up_at([(0, 0), (0, 600), (0, 601), (0, 1_200)]), None);
        assert_eq!(given_up_at((0..9).map(|n| (0, 600 * n))), Some((0, 2_400)));
    }
}
