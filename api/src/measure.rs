//! What the api measures.

use std::time::Duration;

use contract::measure::{Recent, latency};
use http::StatusCode;
use model::{Cursor, ScopeKind};

const PULL_LATENCY: &str = "context_sync_pull_latency";
const PAGES_SHARED: &str = "context_sync_pages_shared_total";
const PULLS_WAITING: &str = "context_sync_pulls_waiting";
const CURSOR_DRIFT: &str = "context_cursor_drift";

/// Says what the metrics mean, and shows those that nothing has been noted for.
pub(crate) fn describe() {
    contract::measure::describe();
    metrics::describe_histogram!(
        PULL_LATENCY,
        metrics::Unit::Seconds,
        "Time to answer a pull, without waiting for news"
    );
    metrics::describe_counter!(PAGES_SHARED, "Pages that were answered as another pull got them");
    metrics::counter!(PAGES_SHARED).increment(0);
    metrics::describe_gauge!(PULLS_WAITING, "Pulls that wait for news");
    metrics::gauge!(PULLS_WAITING).increment(0.0);
    metrics::describe_gauge!(
        CURSOR_DRIFT,
        "The greatest head less device cursor seen in five minutes, first pulls from 0 left out"
    );
    metrics::gauge!(CURSOR_DRIFT).set(0.0);
}

/// Notes how long a pull took, refused ones included.
pub(crate) fn pull_latency(kind: ScopeKind, status: StatusCode, took: Duration) {
    latency(PULL_LATENCY, kind, status, took);
}

/// Counts a page that nobody asked Postgres for.
pub(crate) fn page_shared() {
    metrics::counter!(PAGES_SHARED).increment(1);
}

/// Counts a pull that waits for news, for as long as it does.
pub(crate) struct Waiting;

impl Waiting {
    pub(crate) fn new() -> Self {
        metrics::gauge!(PULLS_WAITING).increment(1.0);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::gauge!(PULLS_WAITING).decrement(1.0);
    }
}

/// How far the devices of the last minutes' pulls were behind.
pub(crate) struct Drift(Recent<u64>);

impl Drift {
    pub(crate) fn new() -> Self {
        Self(Recent::new(|slots| {
            let greatest = slots.iter().copied().max().unwrap_or(0);
            metrics::gauge!(CURSOR_DRIFT).set(greatest as f64);
        }))
    }

    pub(crate) fn note(&self, head: Cursor, cursor: Cursor) {
        let behind = head.get().saturating_sub(cursor.get());
        self.0.note(|greatest| *greatest = behind.max(*greatest));
    }
}
