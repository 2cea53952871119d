//! Where each object lies. FORMAT.md, "What is where".

use std::fmt::Write as _;

use model::{BackupId, Epoch, LogId, Offset, Partition, ScopeKey, ScopeKind, Timestamp};

use crate::{
    expired::Class,
    object::Sha256Hex,
    period::{Day, Hour, HourLength, moment_name},
};

/// No file system takes longer names, in bytes.
const SEGMENT_BYTES_MAX: usize = 255;

/// What the names of fulls after a gap end with.
const AFTER_GAP: &str = "-gap";
/// What the names of fulls that a recovered log begins with have after their hour, before the log's id.
const BASE: &str = "-base-";
/// Unfinished uploads.
pub const UPLOADS: &str = "_uploads";

/// The folder of a scope's backups.
pub fn scope_folder(scope: &ScopeKey) -> String {
    let (tenant, name) = (encoded(scope.tenant.as_str()), encoded(scope.name.as_str()));
    match scope.kind {
        ScopeKind::User => format!("tenants/{tenant}/users/{name}"),
        ScopeKind::Team => format!("tenants/{tenant}/teams/{name}"),
        ScopeKind::Project => format!("tenants/{tenant}/projects/{name}"),
        ScopeKind::Org => format!("tenants/{tenant}/org"),
    }
}

/// A name as a segment of a path: all but `A-Z a-z 0-9 . _ -` percent-encoded, in upper case; a hash of it where
/// that is too long, after a character that no other name has there.
fn encoded(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            let _ = write!(segment, "%{byte:02X}"); // into a string: it cannot fail
        }
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        return format!("~{}", Sha256Hex::of_bytes(name.as_bytes()));
    }
    segment
}

pub fn incremental(scope: &ScopeKey, length: HourLength, hour: Hour) -> String {
    format!("{}/incremental/{}.jsonl.gz", scope_folder(scope), length.hour_name(hour))
}

pub fn full(scope: &ScopeKey, length: HourLength, day: Day) -> String {
    format!("{}/full/{}.jsonl.gz", scope_folder(scope), length.day_name(day))
}

/// The name of the full after a gap: of the hour in which the state was taken up again.
pub fn gap_name(length: HourLength, hour: Hour) -> String {
    format!("{}{AFTER_GAP}", length.hour_name(hour))
}

/// Whether a full of this name was written after a gap.
pub fn is_after_gap(full: &str) -> bool {
    full.ends_with(AFTER_GAP)
}

/// The name of the fulls that a recovered log begins with: of the hour in which its time begins.
pub fn base_name(length: HourLength, hour: Hour, log: LogId) -> String {
    format!("{}{BASE}{log}", length.hour_name(hour))
}

/// Whether a full of this name is what a recovered log begins with.
pub(crate) fn is_base(full: &str) -> bool {
    full.contains(BASE)
}

/// Whether an object is a full that this log begins with.
pub fn is_base_of(object: &str, log: LogId) -> bool {
    let log = log.to_string();
    name(object).and_then(|name| name.strip_suffix(&log)).is_some_and(|name| name.ends_with(BASE))
}

/// Whether the state of a full was not folded from the hours before it.
pub fn is_taken_up(full: &str) -> bool {
    is_after_gap(full) || is_base(full)
}

/// The hour or day that goes on from a full, by the full's name.
pub(crate) fn goes_on_in(full: &str) -> &str {
    match full.split_once(BASE) {
        Some((hour, _)) => hour,
        None => full.strip_suffix(AFTER_GAP).unwrap_or(full),
    }
}

/// A full that a recovered log begins with, by its manifest's name.
pub fn base_full(scope: &ScopeKey, name: &str) -> String {
    format!("{}/full/{name}.jsonl.gz", scope_folder(scope))
}

/// When what a full shows was, by the name of its manifest: after a gap the end of the hour, which is not before it.
pub fn full_time(length: HourLength, full: &str) -> Option<Timestamp> {
    if let Some((hour, _)) = full.split_once(BASE) {
        return length.hour_named(hour).map(|hour| length.begin(hour));
    }
    match full.strip_suffix(AFTER_GAP) {
        Some(hour) => length.hour_named(hour).map(|hour| length.end(hour)),
        None => length.day_named(full).map(|day| length.midnight(day)),
    }
}

/// The midnight that is the first behind the incrementals before a full, by the name of its manifest.
pub fn incrementals_end(length: HourLength, full: &str) -> Option<Timestamp> {
    if let Some((hour, _)) = full.split_once(BASE) {
        // The hour before it is the last one of the lost log.
        let last = length.hour_of(length.begin(length.hour_named(hour)?).plus_micros(-1));
        return Some(length.midnight(last.day().next()));
    }
    match full.strip_suffix(AFTER_GAP) {
        Some(hour) => length.hour_named(hour).map(|hour| length.midnight(hour.day().next())),
        None => length.day_named(full).map(|day| length.midnight(day)),
    }
}

/// The name of the manifest that lists a full, by the name of its object.
pub(crate) fn full_of_object(name: &str) -> &str {
    match name.find(AFTER_GAP) {
        Some(at) => &name[..at + AFTER_GAP.len()],
        None => name,
    }
}

/// The name in a path, of a manifest or of lines: `2025-12-30-10` of `…/2025-12-30-10.jsonl.gz`.
pub fn name(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".jsonl.gz")
}

/// A full after a gap, by its manifest's name. Where the state was taken up makes it another object.
pub fn gap_full(scope: &ScopeKey, name: &str, next_offset: Offset) -> String {
    format!("{}/full/{name}-{next_offset}.jsonl.gz", scope_folder(scope))
}

/// `requested`: the log's time of the request.
pub fn on_demand(scope: &ScopeKey, requested: Timestamp, backup: BackupId) -> String {
    let folder = scope_folder(scope);
    format!("{folder}/on-demand/{}-{backup}.jsonl.gz", moment_name(requested))
}

/// Every record of an hour.
pub fn events(length: HourLength, hour: Hour, partition: Partition) -> String {
    format!("events/{}/partition={partition}.parquet", length.hour_folder(hour))
}

/// Every pushed message of an hour.
pub fn messages(length: HourLength, hour: Hour, partition: Partition) -> String {
    format!("messages/{}/partition={partition}.parquet", length.hour_folder(hour))
}

/// Every record of a compacted day.
pub fn compacted_events(length: HourLength, day: Day, partition: Partition) -> String {
    format!("events/{}/partition={partition}.parquet", length.day_folder(day))
}

/// Every pushed message of a compacted day.
pub fn compacted_messages(length: HourLength, day: Day, partition: Partition) -> String {
    format!("messages/{}/partition={partition}.parquet", length.day_folder(day))
}

/// The manifests of a partition.
pub fn manifests(log: LogId, partition: Partition) -> String {
    format!("manifests/{log}/partition={partition}")
}

pub fn hour_manifest(log: LogId, partition: Partition, length: HourLength, hour: Hour) -> String {
    format!("{}/hour/{}.jsonl.gz", manifests(log, partition), length.hour_name(hour))
}

pub fn full_manifest(log: LogId, partition: Partition, length: HourLength, day: Day) -> String {
    format!("{}/full/{}.jsonl.gz", manifests(log, partition), length.day_name(day))
}

/// `name`: [`base_name`].
pub fn base_manifest(log: LogId, partition: Partition, name: &str) -> String {
    format!("{}/full/{name}.jsonl.gz", manifests(log, partition))
}

/// What became of the commands before a recovered log begins.
pub fn base_commands(log: LogId, partition: Partition, name: &str) -> String {
    format!("{}/commands/{name}.jsonl.gz", manifests(log, partition))
}

/// `name`: [`gap_name`].
pub fn gap_manifest(log: LogId, partition: Partition, name: &str) -> String {
    format!("{}/full/{name}.jsonl.gz", manifests(log, partition))
}

pub fn on_demand_manifest(log: LogId, partition: Partition, backup: BackupId) -> String {
    format!("{}/on-demand/{backup}.jsonl.gz", manifests(log, partition))
}

pub fn compaction_manifest(
    log: LogId,
    partition: Partition,
    length: HourLength,
    day: Day,
) -> String {
    format!("{}/compaction/{}.jsonl.gz", manifests(log, partition), length.day_name(day))
}

/// The segments of a partition.
pub fn segments(log: LogId, partition: Partition) -> String {
    format!("segments/{log}/partition={partition}")
}

/// Raw records from this offset on.
pub fn segment(log: LogId, partition: Partition, first_offset: Offset) -> String {
    format!("{}/{first_offset}.avro", segments(log, partition))
}

/// What has expired of a class and period: records, and once all of it is deleted a mark. See [`crate::expired`].
pub fn expired(log: LogId, partition: Partition, class: Class, period: &str) -> String {
    format!("{}/expired/{class}/{period}", manifests(log, partition))
}

/// The erasures of a partition's scopes. See [`crate::erasure`].
pub fn erasures(log: LogId, partition: Partition) -> String {
    format!("{}/erasures", manifests(log, partition))
}

/// What is known of the erasure at an offset.
pub fn erasure(log: LogId, partition: Partition, offset: Offset) -> String {
    format!("{}/{offset}", erasures(log, partition))
}

/// Where it is said what took the place of what. See [`crate::redaction`].
pub const REDACTIONS: &str = "redactions";

/// What took the place of the table with this hash.
pub fn redaction(old: &Sha256Hex) -> String {
    format!("{REDACTIONS}/{old}.json")
}

/// What is left of the full with this hash.
pub fn redacted_full(old: &Sha256Hex) -> String {
    format!("{REDACTIONS}/{old}.jsonl.gz")
}

/// The epochs that began on a log.
pub fn epochs(log: LogId) -> String {
    format!("manifests/{log}/epochs")
}

pub fn epoch(log: LogId, number: u32, epoch: Epoch) -> String {
    format!("{}/{number:06}-{epoch}.json", epochs(log))
}

/// The schema of events' values.
pub fn schema(fingerprint: u64) -> String {
    format!("_schemas/{fingerprint:016x}.avsc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(key: &str) -> ScopeKey {
        key.parse().unwrap()
    }

    /// WF-CS-007: the founding tree, to the letter.
    #[test]
    fn backups_lie_in_the_founding_tree() {
        let time = Timestamp::parse_rfc3339("2025-12-30T10:15:00Z").unwrap();
        let length = HourLength::REAL;
        let hour = length.hour_of(time);
        for (key, folder) in [
            ("acme/user/ann", "tenants/acme/users/ann"),
            ("acme/team/web", "tenants/acme/teams/web"),
            ("acme/project/shop", "tenants/acme/projects/shop"),
            ("acme/org/acme", "tenants/acme/org"),
            ("a:b/user/ann@x|y+z", "tenants/a%3Ab/users/ann%40x%7Cy%2Bz"),
        ] {
            let scope = scope(key);
            let expect = |rest: &str| format!("{folder}/{rest}");
            let incremental = incremental(&scope, length, hour);
            assert_eq!(incremental, expect("incremental/2025-12-30-10.jsonl.gz"));
            let full = full(&scope, length, hour.day());
            assert_eq!(full, expect("full/2025-12-30.jsonl.gz"));
            let id = BackupId(uuid::Uuid::nil());
            let name = "2025-12-30T10-15-00Z-00000000-0000-0000-0000-000000000000.jsonl.gz";
            assert_eq!(on_demand(&scope, time, id), expect(&format!("on-demand/{name}")));
        }
    }

    #[test]
    fn a_full_is_of_its_midnight_and_one_after_a_gap_of_the_end_of_its_hour() {
        let length = HourLength::REAL;
        let at = |text: &str| Timestamp::parse_rfc3339(text);
        assert_eq!(full_time(length, "2025-12-30"), at("2025-12-30T00:00:00Z"));
        assert_eq!(incrementals_end(length, "2025-12-30"), at("2025-12-30T00:00:00Z"));
        assert_eq!(full_time(length, "2025-12-30-10-gap"), at("2025-12-30T11:00:00Z"));
        assert_eq!(incrementals_end(length, "2025-12-30-10-gap"), at("2025-12-31T00:00:00Z"));
        let base = |hour: &str| {
            let hour = length.hour_named(hour).unwrap();
            base_name(length, hour, LogId(uuid::Uuid::nil()))
        };
        for (hour, time, end) in [
            ("2025-12-30-11", "2025-12-30T11:00:00Z", "2025-12-31T00:00:00Z"),
            ("2025-12-31-00", "2025-12-31T00:00:00Z", "2025-12-31T00:00:00Z"),
        ] {
            assert_eq!(full_time(length, &base(hour)), at(time));
            assert_eq!(incrementals_end(length, &base(hour)), at(end));
            assert_eq!(full_of_object(&base(hour)), base(hour));
        }
        assert_eq!(full_time(length, "2025-12-30-10"), None);
        assert_eq!(full_of_object("2025-12-30-10-gap-1200"), "2025-12-30-10-gap");
        assert_eq!(full_of_object("2025-12-30"), "2025-12-30");
        assert_eq!(name("a/b/2025-12-30.jsonl.gz"), Some("2025-12-30"));
        assert_eq!(name("a/b/2025-12-30.parquet"), None);
    }

    /// Whoever names a team must not be able to name a folder that cannot be made.
    #[test]
    fn the_longest_names_are_names_of_folders() {
        let name = format!("{}{}", "a".repeat(64), ":".repeat(64));
        let folder = scope_folder(&scope(&format!("acme/team/{name}")));
        let hash = Sha256Hex::of_bytes(name.as_bytes());
        assert_eq!(folder, format!("tenants/acme/teams/~{hash}"));
        let just_short_enough = format!("{}{}", "a".repeat(63), ":".repeat(64));
        let folder = scope_folder(&scope(&format!("acme/team/{just_short_enough}")));
        assert_eq!(folder, format!("tenants/acme/teams/{}{}", "a".repeat(63), "%3A".repeat(64)));
    }
}
