//! What time it is: a parameter, so that a year passes in seconds where a test says so.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use model::Timestamp;

/// How far a machine's clock is trusted to be ahead of the log's newest record, in microseconds: an idle partition
/// gets a record every hour.
const AHEAD_OF_LOG_MAX: i64 = 86_400_000_000;

/// Tells the time.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// What deletes goes by the log's time if this clock is ahead of it by more.
    ahead_of_log_max: Option<i64>,
}

impl Clock {
    /// One that is right whatever the log says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), ahead_of_log_max: None }
    }

    /// This machine's.
    pub fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
        })
        .bounded()
    }

    /// One that may jump.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { ahead_of_log_max: Some(AHEAD_OF_LOG_MAX), ..self }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// The time to delete by, where the log's newest record is of `log_time`: a clock that has jumped ahead must not
    /// expire what is not over.
    pub(crate) fn now_by_log(&self, log_time: Timestamp) -> Timestamp {
        let now = self.now();
        match self.ahead_of_log_max.map(|ahead| log_time.plus_micros(ahead)) {
            // A log that has nothing yet says nothing, and nothing of it can be over.
            Some(latest) if latest < now && log_time > Timestamp::EPOCH => {
                tracing::warn!(%now, %log_time, "this clock is more than a day ahead of the log: expiring by the log's");
                latest
            }
            _ => now,
        }
    }
}
