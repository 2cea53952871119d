//! What a verification found.

use std::collections::BTreeMap;

use model::{LogId, Offset, Partition, Timestamp};

use crate::manifest::Gap;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub path: String,
    pub problem: String,
}

/// How far a partition is archived.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Until {
    pub log_id: LogId,
    pub partition: Partition,
    /// The name of the last hour.
    pub hour: String,
    pub next_offset: Offset,
}

/// Up to where all that was archived is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The last hour of the partition that is the furthest.
    pub hour: String,
    /// Partitions whose last hour is an earlier one.
    pub behind: usize,
    /// The earliest of these; else the same.
    pub first: String,
}

/// How far a partition's raw records go beyond the last hour that is sealed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RawUntil {
    pub log_id: LogId,
    pub partition: Partition,
    pub next_offset: Offset,
    /// When the log took the last of them.
    pub append_time: Timestamp,
}

/// Records that the archive never had.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LostRecords {
    pub log_id: LogId,
    pub partition: Partition,
    #[serde(flatten)]
    pub gap: Gap,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    pub manifests: u64,
    /// Listed by manifests.
    pub objects: u64,
    /// Of those, the ones that retention or an erasure has deleted.
    pub expired: u64,
    /// Tables in whose place stands another one, without what was erased.
    pub redacted: u64,
    pub backups: u64,
    /// Read whole and compared with their hashes, byte by byte.
    pub objects_read: u64,
    /// States read and compared with their count and digest.
    pub states_read: u64,
    pub until: Vec<Until>,
    /// Of each partition that has segments beyond its last hour.
    pub raw: Vec<RawUntil>,
    pub gaps: Vec<LostRecords>,
    pub problems: Vec<Problem>,
    /// Objects that no manifest lists: of the hour that is being sealed, or left by a crash.
    pub orphans: Vec<String>,
    /// Segments whose records are all in sealed hours: to be deleted, and no loss.
    pub leftovers: Vec<String>,
}

impl Report {
    pub fn is_well(&self) -> bool {
        self.problems.is_empty()
    }

    /// `None`: no hour is sealed. A log that was lost ends where the one that goes on from it begins, so of each partition the
    /// last hour counts, whichever log's it is. An idle partition has no hours: what is not there cannot be told from what
    /// was not sealed yet.
    pub fn proven(&self) -> Option<Proven> {
        let mut last: BTreeMap<Partition, &str> = BTreeMap::new();
        for Until { partition, hour, .. } in &self.until {
            let last = last.entry(*partition).or_default();
            *last = (*last).max(hour);
        }
        let (first, hour) = (*last.values().min()?, *last.values().max()?);
        let behind = last.values().filter(|own| **own < hour).count();
        Some(Proven { hour: hour.to_owned(), behind, first: first.to_owned() })
    }

    /// Whether there is nothing to verify: nothing was archived yet, or it is elsewhere.
    pub fn is_empty(&self) -> bool {
        self.manifests == 0 && self.raw.is_empty()
    }
}
