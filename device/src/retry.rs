//! When a request is tried again, and how long after: the contract's client retry.

use std::time::Duration;

/// How often and how patiently requests are tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub retries_max: u32,
    /// The delay before the first retry.
    pub base: Duration,
    /// What each delay is to the one before.
    pub factor: u32,
    /// No delay is longer; who is asked to wait longer gives up.
    pub delay_max: Duration,
}

impl RetryPolicy {
    /// The wire contract's values.
    pub const CONTRACT: Self = Self {
        retries_max: 3,
        base: Duration::from_secs(1),
        factor: 2,
        delay_max: Duration::from_secs(60),
    };

    /// How long to wait before retry number `retry` (0 first); `None`: do not retry. `jitter` in
    /// 0 … 1 takes up to half of the delay away, so that clients that failed together come back
    /// apart. A server that says how long to wait is never asked earlier.
    pub fn delay(&self, retry: u32, after: Option<Duration>, jitter: f64) -> Option<Duration> {
        if retry >= self.retries_max || after.is_some_and(|after| after > self.delay_max) {
            return None;
        }
        let factor = self.factor.saturating_pow(retry);
        let full = self.base.saturating_mul(factor).min(self.delay_max);
        let own = full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        Some(after.map_or(own, |after| after.max(own)))
    }
}

/// A random number in 0 … 1.
pub fn jitter() -> f64 {
    uuid::Uuid::new_v4().as_u128() as f64 / u128::MAX as f64
}

/// Whether an answer is worth another try. A 502 that has a code is the service's own word about
/// an object, not a proxy's about the service.
pub fn is_temporary(status: u16, code: &str) -> bool {
    match status {
        429 | 503 | 504 => true,
        502 => !code.starts_with("SYNC_"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy::CONTRACT;

    fn seconds(retry: u32, after: Option<u64>, jitter: f64) -> Option<f64> {
        let delay = POLICY.delay(retry, after.map(Duration::from_secs), jitter);
        delay.map(|delay| delay.as_secs_f64())
    }

    #[test]
    fn three_retries_that_double() {
        let delays: Vec<_> = (0..4).map(|retry| seconds(retry, None, 0.0)).collect();
        assert_eq!(delays, [Some(1.0), Some(2.0), Some(4.0), None]);
    }

    #[test]
    fn jitter_takes_up_to_half() {
        assert_eq!(seconds(1, None, 1.0), Some(1.0));
        assert_eq!(seconds(1, None, 0.5), Some(1.5));
        assert_eq!(seconds(1, None, 7.0), Some(1.0));
    }

    #[test]
    fn the_server_s_word_counts() {
        assert_eq!(seconds(0, Some(5), 1.0), Some(5.0));
        assert_eq!(seconds(2, Some(1), 0.0), Some(4.0));
        assert_eq!(seconds(0, Some(60), 0.0), Some(60.0));
        assert_eq!(seconds(0, Some(61), 0.0), None);
        assert_eq!(seconds(3, Some(5), 0.0), None);
    }

    #[test]
    fn no_delay_is_longer_than_the_longest() {
        let patient = RetryPolicy { retries_max: 100, ..POLICY };
        assert_eq!(patient.delay(50, None, 0.0), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_is_temporary() {
        let temporary = [(429, "SYNC_006"), (503, "UNAVAILABLE"), (504, ""), (502, "")];
        assert!(temporary.iter().all(|(status, code)| is_temporary(*status, code)));
        let lasting = [(400, ""), (401, ""), (403, "SYNC_005"), (409, ""), (500, "INTERNAL")];
        assert!(!lasting.iter().any(|(status, code)| is_temporary(*status, code)));
        assert!(!is_temporary(502, "SYNC_004") && !is_temporary(507, "SYNC_007"));
    }

    #[test]
    fn jitter_is_a_fraction() {
        assert!((0..100).map(|_| jitter()).all(|j| (0.0..=1.0).contains(&j)));
    }
}
