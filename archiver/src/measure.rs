//! What the archiver measures: how far the archive is behind the log's true end, asked of the log.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eventlog::EventLog;
use model::{BackupType, Offset, Partition, Timestamp};
use tokio::sync::watch;

use crate::clock::Clock;

pub(crate) const GAPS: &str = "context_sync_archive_gaps_total";
pub(crate) const SEGMENTS: &str = "context_sync_archive_segments_total";
pub(crate) const DAMAGED: &str = "context_sync_backups_damaged_total";
pub(crate) const EXPIRED: &str = "context_sync_backups_expired_total";
pub(crate) const TOMBSTONES: &str = "context_sync_tombstones_expired_total";
pub(crate) const DRILL_AGE: &str = "context_sync_drill_age_seconds";
pub(crate) const DRILL_OK: &str = "context_sync_drill_ok";
const LAG: &str = "context_sync_archive_lag_records";
const SEALED_AGE: &str = "context_sync_archive_sealed_age_seconds";
const SEGMENT_LAG: &str = "context_sync_archive_segment_lag_records";

const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Where the sealed hours of a partition end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealedUntil {
    pub(crate) next_offset: Offset,
    /// The log's time there.
    pub(crate) time: Timestamp,
}

/// How far the archive is, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) sealed: BTreeMap<Partition, SealedUntil>,
    /// Where the last segment ends, where segments are uploaded.
    pub(crate) uploaded: BTreeMap<Partition, Offset>,
}

/// Says what the metrics mean.
pub(crate) fn describe() {
    let seconds = metrics::Unit::Seconds;
    metrics::describe_counter!(GAPS, "Holes in the log: events that were never archived");
    metrics::describe_counter!(SEGMENTS, "Segments of raw records uploaded");
    metrics::describe_counter!(DAMAGED, "Backups that were read back and are not what was written");
    metrics::describe_counter!(EXPIRED, "Backups that were over their time and are deleted");
    metrics::describe_counter!(
        TOMBSTONES,
        "Tombstones that were over their time and are forgotten"
    );
    metrics::describe_gauge!(DRILL_AGE, seconds, "Since backups were last compared with the rows");
    metrics::describe_gauge!(DRILL_OK, "1 if all backups of the last drill agreed");
    // There from the start: the first time that one of them moves must be seen as a move.
    metrics::counter!(GAPS).absolute(0);
    metrics::counter!(DAMAGED).absolute(0);
    metrics::counter!(TOMBSTONES).absolute(0);
    for backup_type in BackupType::ALL {
        metrics::counter!(EXPIRED, "type" => backup_type.as_str()).absolute(0);
    }
    metrics::describe_gauge!(LAG, "Records of the log that are in no sealed hour");
    metrics::describe_gauge!(SEALED_AGE, seconds, "Since the last record of the last sealed hour");
    metrics::describe_gauge!(
        SEGMENT_LAG,
        "Records of the log that are in no sealed hour and in no segment"
    );
}

/// Measures for ever. What cannot be asked is not reported: the gauge keeps its last value.
pub(crate) async fn measure(
    log: Arc<dyn EventLog>,
    progress: watch::Receiver<Progress>,
    clock: Clock,
) {
    loop {
        let Progress { sealed, uploaded } = progress.borrow().clone();
        for (partition, sealed) in sealed {
            let Ok(bounds) = log.bounds(partition).await else { continue };
            let behind = |next: Offset| bounds.end.get().saturating_sub(next.get()) as f64;
            let label = partition.to_string();
            metrics::gauge!(LAG, "partition" => label.clone()).set(behind(sealed.next_offset));
            let age = clock.now().micros_since(sealed.time) as f64 / 1e6;
            metrics::gauge!(SEALED_AGE, "partition" => label.clone()).set(age);
            if let Some(uploaded) = uploaded.get(&partition) {
                let lag = behind(sealed.next_offset.max(*uploaded));
                metrics::gauge!(SEGMENT_LAG, "partition" => label).set(lag);
            }
        }
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}
