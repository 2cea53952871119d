//! What the projector measures, beside its [lag](crate::lag).

pub(crate) const COMMIT_SECONDS: &str = "context_sync_commit_seconds";
pub(crate) const OUTCOMES: &str = "context_sync_outcomes_total";
pub(crate) const DEAD_LETTERS: &str = "context_sync_dead_letters_total";

/// Says what the metrics mean.
pub(crate) fn describe() {
    let seconds = metrics::Unit::Seconds;
    metrics::describe_histogram!(COMMIT_SECONDS, seconds, "Time to commit a batch");
    metrics::describe_counter!(OUTCOMES, "Commands folded for the first time");
    metrics::describe_counter!(DEAD_LETTERS, "Records that became dead letters");
}
