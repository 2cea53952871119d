//! The contract's metrics: latencies by scope and status, and gauges over the last five minutes.

use std::time::Duration;

use http::StatusCode;
use model::ScopeKind;

pub use crate::recent::{Recent, WINDOW};

const REFUSED: &str = "context_sync_refused_total";

/// Says what the metrics mean.
pub fn describe() {
    metrics::describe_counter!(
        REFUSED,
        "Requests refused by a rate, a quota or for overload, by the limit's name"
    );
}

/// Counts a request that a limit refused.
pub(crate) fn refused(limit: &'static str) {
    metrics::counter!(REFUSED, "limit" => limit).increment(1);
}

/// Notes how long a request took, in the histogram of this name.
pub fn latency(name: &'static str, kind: ScopeKind, status: StatusCode, took: Duration) {
    let class = match status.as_u16() / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    };
    metrics::histogram!(name, "scope" => kind.as_str(), "status" => class)
        .record(took.as_secs_f64());
}
