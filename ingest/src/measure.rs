//! What ingest measures.

use std::time::Duration;

use contract::measure::{Recent, latency};
use http::StatusCode;
use model::{PushAnswer, ScopeKind, Status};

const PUSH_LATENCY: &str = "context_sync_push_latency";
const MESSAGES_PUSHED: &str = "context_sync_messages_pushed_total";
const DEDUP_RATE: &str = "context_dedup_rate";

/// Every status a message of a push can have, with its label.
const STATUSES: [(Status, &str); 9] = [
    (Status::Created, "created"),
    (Status::Updated, "updated"),
    (Status::Revived, "revived"),
    (Status::Deleted, "deleted"),
    (Status::Duplicate, "duplicate"),
    (Status::Stale, "stale"),
    (Status::Superseded, "superseded"),
    (Status::Absent, "absent"),
    (Status::Invalid, "invalid"),
];

/// Says what the metrics mean, and shows those that nothing has been noted for.
pub(crate) fn describe() {
    contract::measure::describe();
    metrics::describe_histogram!(PUSH_LATENCY, metrics::Unit::Seconds, "Time to answer a push");
    metrics::describe_counter!(
        MESSAGES_PUSHED,
        "Messages of answered pushes, by what became of them"
    );
    metrics::describe_gauge!(DEDUP_RATE, "Duplicates per message pushed in five minutes, 0 to 1");
    metrics::gauge!(DEDUP_RATE).set(0.0);
}

/// Notes how long a push took, refused ones included.
pub(crate) fn push_latency(kind: ScopeKind, status: StatusCode, took: Duration) {
    latency(PUSH_LATENCY, kind, status, took);
}

/// The messages of the last minutes' pushes.
pub(crate) struct Pushed(Recent<Counts>);

#[derive(Clone, Copy, Default)]
struct Counts {
    messages: u64,
    duplicates: u64,
}

impl Pushed {
    pub(crate) fn new() -> Self {
        Self(Recent::new(|slots| metrics::gauge!(DEDUP_RATE).set(rate(slots))))
    }

    /// Notes what became of a push's messages.
    pub(crate) fn note(&self, answer: &PushAnswer) {
        let count = |status: Status| {
            answer.results.iter().filter(|result| result.status == status).count() as u64
        };
        let mut duplicates = 0;
        for (status, label) in STATUSES {
            let count = count(status);
            if count > 0 {
                metrics::counter!(MESSAGES_PUSHED, "status" => label).increment(count);
            }
            if status == Status::Duplicate {
                duplicates = count;
            }
        }
        self.0.note(|counts| {
            counts.messages += answer.results.len() as u64;
            counts.duplicates += duplicates;
        });
    }
}

fn rate(slots: &[Counts]) -> f64 {
    let messages: u64 = slots.iter().map(|counts| counts.messages).sum();
    let duplicates: u64 = slots.iter().map(|counts| counts.duplicates).sum();
    if messages == 0 { 0.0 } else { duplicates as f64 / messages as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_all_slots_together() {
        let counts = |messages, duplicates| Counts { messages, duplicates };
        assert_eq!(rate(&[counts(0, 0)]), 0.0);
        assert_eq!(rate(&[counts(1, 1), counts(3, 0)]), 0.25);
    }

    #[test]
    fn every_status_has_the_label_of_the_contract() {
        for (status, label) in STATUSES {
            assert_eq!(serde_json::to_value(status).unwrap(), label);
        }
    }
}
