//! What the archiver measures: how far the archive is behind the log's true end, asked of the log, and how backups end.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

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
const SUCCESS_RATE: &str = "context_backup_success_rate";

/// Over how long the success rate is: an hour, in which each scope that changed has a backup; in parts that are forgotten
/// together.
const RATE_OVER: Duration = Duration::from_secs(3_600);
const RATE_PART: Duration = Duration::from_secs(300);

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

/// How backups ended of late.
#[derive(Debug)]
struct Ends(VecDeque<Part>);

#[derive(Debug)]
struct Part {
    began: Instant,
    well: u64,
    failed: u64,
}

impl Ends {
    const fn new() -> Self {
        Self(VecDeque::new())
    }

    fn note(&mut self, now: Instant, is_well: bool) {
        if self.0.back().is_none_or(|part| now.duration_since(part.began) >= RATE_PART) {
            self.0.push_back(Part { began: now, well: 0, failed: 0 });
        }
        if let Some(part) = self.0.back_mut() {
            *(if is_well { &mut part.well } else { &mut part.failed }) += 1;
        }
    }

    /// Which part of them is well, 0 to 1. Where none was tried, none failed.
    fn success_rate(&mut self, now: Instant) -> f64 {
        self.0.retain(|part| now.duration_since(part.began) < RATE_OVER);
        let [well, failed] = self
            .0
            .iter()
            .fold([0, 0], |[well, failed], part| [well + part.well, failed + part.failed]);
        if failed == 0 { 1.0 } else { well as f64 / (well + failed) as f64 }
    }
}

/// A process has one gauge, whichever archiver ends a backup.
static ENDS: Mutex<Ends> = Mutex::new(Ends::new());

/// Notes that a backup was completed and read back, or that it failed; so does whatever keeps all from being made.
pub(crate) fn backup_ended(is_well: bool) {
    ENDS.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now(), is_well);
    show_success_rate();
}

/// Nothing is archived any more by this process.
pub(crate) fn ended_for_good() {
    metrics::gauge!(SUCCESS_RATE).set(0.0);
}

fn show_success_rate() {
    let rate = ENDS.lock().unwrap_or_else(PoisonError::into_inner).success_rate(Instant::now());
    metrics::gauge!(SUCCESS_RATE).set(rate);
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
    metrics::describe_gauge!(
        SUCCESS_RATE,
        "Part of the backups of the last hour that are well, 0 to 1; what keeps all from being made counts as one that failed"
    );
    show_success_rate();
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
        show_success_rate();
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_backup_success_rate_is_of_the_last_hour() {
        let mut ends = Ends::new();
        let began = Instant::now();
        let at = |minutes: u64| began + Duration::from_secs(60 * minutes);
        assert_eq!(ends.success_rate(at(0)), 1.0, "none was tried");
        (0..3).for_each(|_| ends.note(at(0), true));
        ends.note(at(1), false);
        assert_eq!(ends.success_rate(at(1)), 0.75);
        ends.note(at(30), false);
        assert_eq!(ends.success_rate(at(31)), 0.6);
        assert_eq!(ends.success_rate(at(61)), 0.0, "what was well is long ago");
        assert_eq!(ends.success_rate(at(95)), 1.0);
        assert!(ends.0.is_empty());
    }
}
