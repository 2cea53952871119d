//! How long to wait before another session, after one that failed.

use std::time::Duration;

const MIN: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(30);
/// Nobody mends settings within a moment.
const OPERATOR_MIN: Duration = Duration::from_secs(5);

/// Doubles from failure to failure.
pub(crate) struct BackOff {
    next: Duration,
}

impl BackOff {
    pub(crate) const fn new() -> Self {
        Self { next: MIN }
    }

    /// `worked_for`: how long the session went well.
    pub(crate) fn pause(&mut self, worked_for: Duration, needs_operator: bool) -> Duration {
        if worked_for > MAX {
            self.next = MIN; // this is a new failure
        }
        let pause = match needs_operator {
            true => self.next.max(OPERATOR_MIN),
            false => self.next,
        };
        self.next = (pause * 2).min(MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that is down for ten minutes is asked often at first, then seldom, and soon enough when it is back.
    #[test]
    fn ten_minutes_of_failures_are_few_sessions() {
        let (mut back_off, mut waited, mut sessions) = (BackOff::new(), Duration::ZERO, 0);
        while waited < Duration::from_secs(600) {
            let pause = back_off.pause(Duration::from_secs(3), false);
            assert!((MIN..=MAX).contains(&pause));
            waited += pause;
            sessions += 1;
        }
        assert!((20..40).contains(&sessions), "{sessions} sessions");
        assert_eq!(back_off.pause(MAX + MIN, false), MIN);
        assert_eq!(back_off.pause(MIN, true), OPERATOR_MIN);
    }
}
