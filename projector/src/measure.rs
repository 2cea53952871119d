//! What the projector measures, beside its [lag](crate::lag).

pub(crate) const COMMIT_SECONDS: &str = "context_sync_commit_seconds";
pub(crate) const OUTCOMES: &str = "context_sync_outcomes_total";
pub(crate) const DEAD_LETTERS: &str = "context_sync_dead_letters_total";
/// Labelled with how: see below.
pub(crate) const BATCHES: &str = "context_sync_batches_total";
/// What the batch touches was loaded.
pub(crate) const LOADED: &str = "loaded";
/// All of it was taken for new, and nothing loaded.
pub(crate) const TAKEN_FOR_NEW: &str = "taken_for_new";
/// It was taken for new, and not written, for something was there.
pub(crate) const NOT_WRITTEN: &str = "not_written";

/// Says what the metrics mean.
pub(crate) fn describe() {
    let seconds = metrics::Unit::Seconds;
    metrics::describe_histogram!(COMMIT_SECONDS, seconds, "Time to commit a batch");
    metrics::describe_counter!(
        BATCHES,
        "Batches by how they were folded: loaded, taken_for_new; and not_written, which are loaded then"
    );
    metrics::describe_counter!(OUTCOMES, "Commands folded for the first time");
    metrics::describe_counter!(DEAD_LETTERS, "Records that became dead letters");
}
