//! What time it is: a parameter, so that a year passes in seconds where a test says so.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::Timestamp;

/// How far a machine's clock is trusted to be ahead of the log's newest record, in microseconds. Where nothing comes to
/// the log, it gets a tick before it is so old.
const AHEAD_OF_LOG_MAX: i64 = 86_400_000_000;
/// How old the newest record is before that, in microseconds.
const OLD: i64 = AHEAD_OF_LOG_MAX / 2;
/// For how long nothing must have come before that, by a clock that does not jump: one that jumped may be set back
/// meanwhile, and where several archivers wait, one of them is enough.
const QUIET: Duration = Duration::from_secs(3_600);

/// Tells the time.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// If it may jump: how long nothing must come to a log before it is asked for its time.
    jumps: Option<Duration>,
}

impl Clock {
    /// One that is right whatever the log says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), jumps: None }
    }

    /// This machine's.
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
        })
        .bounded(QUIET)
    }

    /// One that may jump: what deletes goes by the log's time if this is far ahead of it. A log that is quiet for so long
    /// is asked for its time.
    #[must_use]
    pub fn bounded(self, quiet: Duration) -> Self {
        Self { jumps: Some(quiet), ..self }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// The time to delete by, where the log's newest record is of `log_time`: a clock that has jumped ahead must not
    /// expire what is not over.
    pub(crate) fn now_by_log(&self, log_time: Timestamp) -> Timestamp {
        let now = self.now();
        let latest = log_time.plus_micros(AHEAD_OF_LOG_MAX);
        if self.jumps.is_none() || latest >= now {
            return now;
        }
        // A log that has nothing yet says nothing: of one that it was recovered from, nothing is over before it does.
        if log_time == Timestamp::EPOCH {
            return log_time;
        }
        tracing::warn!(
            %now, %log_time,
            "by this clock the log's newest record is more than a day old: expiring by the log's time until it has another"
        );
        latest
    }

    /// Whether a log that has been quiet for so long may be asked for its time.
    pub(crate) fn may_ask(&self, quiet: Duration) -> bool {
        self.jumps.is_some_and(|enough| quiet >= enough)
    }

    /// Whether its newest record is so old that it is to be asked.
    pub(crate) fn is_old(&self, log_time: Timestamp) -> bool {
        log_time > Timestamp::EPOCH && log_time.plus_micros(OLD) < self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose clock is years ahead may come to a log that has nothing yet: what is archived of the log before is
    /// not over.
    #[test]
    fn a_clock_that_is_ahead_says_nothing_of_a_log_that_says_nothing() {
        let [log, now, day] =
            ["2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
                .map(|text| Timestamp::parse_rfc3339(text).unwrap());
        let clock = Clock::new(move || now).bounded(QUIET);
        assert_eq!(clock.now_by_log(Timestamp::EPOCH), Timestamp::EPOCH);
        assert_eq!(clock.now_by_log(log), day);
        assert_eq!(clock.now_by_log(now), now);
        assert_eq!(Clock::new(move || now).now_by_log(Timestamp::EPOCH), now);
    }
}
