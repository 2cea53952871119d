//! How far the read model is behind what this process appended. Where it is too far, no more is appended to
//! that partition: what was accepted is folded first, and devices hear of it before the log holds hours of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::problems;
use model::{Offset, Partition, Place};
use service::Problem;
use tokio_util::sync::CancellationToken;

use crate::Ingest;

/// How often the read model is asked how far it is, while it is behind.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How soon to come back: such a queue does not go away at once.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Until it was asked, the read model counts as having all.
const UNKNOWN: u64 = u64::MAX;

/// By partition: the offset after this process' last append, and the one that is folded next.
pub(crate) struct Lag {
    /// Records; 0 sets no limit.
    max: u64,
    partitions: Vec<Ends>,
}

struct Ends {
    appended: AtomicU64,
    folded: AtomicU64,
}

impl Lag {
    pub(crate) fn new(max: u64, partitions: u32) -> Self {
        let ends = || Ends { appended: AtomicU64::new(0), folded: AtomicU64::new(UNKNOWN) };
        Self { max, partitions: (0..partitions).map(|_| ends()).collect() }
    }

    fn ends(&self, partition: Partition) -> Option<&Ends> {
        self.partitions.get(partition.get() as usize)
    }

    /// Whether more may be appended to the partition.
    ///
    /// # Errors
    /// 503 if the read model is too far behind.
    pub(crate) fn check(&self, partition: Partition) -> Result<(), Problem> {
        let lag = self.ends(partition).map_or(0, Ends::lag);
        if self.max == 0 || lag <= self.max {
            return Ok(());
        }
        let detail = format!("and the read model is {lag} records behind");
        Err(problems::overloaded("projector_lag_records_max", self.max, &detail)
            .retry_after(RETRY_AFTER_SECONDS))
    }

    /// The log has a record at `place`.
    pub(crate) fn appended(&self, place: Place) {
        if let Some(ends) = self.ends(place.partition) {
            ends.appended.fetch_max(place.offset.next().get(), Ordering::Relaxed);
        }
    }

    /// The read model folds `next` next. One that was dropped and is folded again has been further: only what
    /// is appended since counts.
    pub(crate) fn folded(&self, partition: Partition, next: Offset) {
        let Some(ends) = self.ends(partition) else { return };
        let known = ends.folded.load(Ordering::Relaxed);
        let furthest = if known == UNKNOWN { next.get() } else { known.max(next.get()) };
        ends.folded.store(furthest, Ordering::Relaxed);
    }

    /// Whether something was appended that is not known to be folded.
    fn is_behind(&self) -> bool {
        self.partitions.iter().any(Ends::is_behind)
    }
}

impl Ends {
    fn lag(&self) -> u64 {
        let folded = self.folded.load(Ordering::Relaxed);
        self.appended.load(Ordering::Relaxed).saturating_sub(folded)
    }

    fn is_behind(&self) -> bool {
        let appended = self.appended.load(Ordering::Relaxed);
        let folded = self.folded.load(Ordering::Relaxed);
        appended > 0 && (folded == UNKNOWN || folded < appended)
    }
}

/// Keeps an eye on how far the read model is, until shutdown. While it cannot be asked it counts as standing
/// still: what is appended meanwhile is what it is behind.
pub async fn follow(ingest: Arc<Ingest>, shutdown: CancellationToken) {
    loop {
        if ingest.lag.is_behind()
            && let Ok(positions) = readmodel::outcomes::positions(&ingest.pool).await
        {
            for (partition, next) in positions {
                ingest.lag.folded(partition, next);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: u32, offset: u64) -> Place {
        Place { partition: Partition::new(partition), offset: Offset::new(offset).unwrap() }
    }

    #[test]
    fn overload_a_partition_that_is_too_far_behind_takes_no_more() {
        let lag = Lag::new(10, 2);
        let (first, second) = (Partition::new(0), Partition::new(1));
        lag.appended(place(0, 1_000));
        assert!(lag.is_behind() && lag.check(first).is_ok(), "nobody has asked yet");
        lag.folded(first, Offset::new(991).unwrap());
        assert!(lag.check(first).is_ok(), "ten are in order");
        lag.appended(place(0, 1_001));
        lag.appended(place(0, 998));
        let problem = lag.check(first).unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (503, "UNAVAILABLE"));
        let expected = "projector_lag_records_max is 10, and the read model is 11 records behind";
        assert_eq!(problem.detail(), expected);
        assert!(lag.check(second).is_ok(), "the others go on");
        lag.folded(first, Offset::new(1_002).unwrap());
        assert!(lag.check(first).is_ok() && !lag.is_behind());
        lag.folded(first, Offset::ZERO);
        assert!(lag.check(first).is_ok(), "it was dropped, and is folded again");
        lag.appended(place(0, 1_012));
        assert!(lag.check(first).is_err(), "what comes meanwhile counts");
    }

    #[test]
    fn overload_zero_turns_the_limit_off() {
        let lag = Lag::new(0, 1);
        lag.folded(Partition::new(0), Offset::ZERO);
        lag.appended(place(0, 1_000_000));
        assert!(lag.check(Partition::new(0)).is_ok());
    }
}
