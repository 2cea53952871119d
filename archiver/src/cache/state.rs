//! How far the cache is, and what it knows of commands.

use std::sync::Arc;

use archive::{
    manifest::{Gap, Reference},
    period::{Day, Hour},
};
use eventlog::Record;
use model::{
    BackupId, CommandId, Cursor, Offset, Outcome, PartitionClock, RulesVersion, Timestamp,
};
use serde::{Deserialize, Serialize};

/// How far a partition is folded and archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionState {
    pub(crate) next_offset: Offset,
    /// Where the state was taken up behind the last gap: the records before it are archived, not folded.
    pub(crate) taken_up: Offset,
    /// A full of every scope is to be written there; the log's time there.
    pub(crate) after_gap: Option<Timestamp>,
    pub(crate) time: Timestamp,
    pub(crate) rules: RulesVersion,
    /// Where the open hour begins: after the last one that was sealed.
    pub(crate) sealed: Offset,
    /// The log time there.
    pub(crate) sealed_time: Timestamp,
    /// The hour that is open; none before its first record.
    pub(crate) hour: Option<Hour>,
    /// It has a record that is no tick.
    pub(crate) hour_is_used: bool,
    /// The last hour's manifest.
    pub(crate) previous: Option<Reference>,
    /// The day that is open; none before the first record.
    pub(crate) day: Option<Day>,
    /// It has a record that is no tick.
    pub(crate) day_is_used: bool,
    /// In the open hour.
    pub(crate) gaps: Vec<Gap>,
    /// The record folded last asked for a backup, which is not made yet.
    pub(crate) requested: Option<RequestedBackup>,
    /// The record folded last, to recognise the log by.
    pub(crate) last: Option<LastRecord>,
}

/// A record, but for its value: the archive's copy of that may have been erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRecord {
    pub(crate) offset: Offset,
    append_time: Timestamp,
    key: Vec<u8>,
}

impl LastRecord {
    pub(crate) fn of(record: &Record) -> Self {
        let Record { offset, append_time, .. } = *record;
        Self { offset, append_time, key: record.key.to_vec() }
    }
}

/// A backup that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestedBackup {
    pub(crate) scope: String,
    pub(crate) backup: BackupId,
    pub(crate) at: Timestamp,
}

impl PartitionState {
    pub(crate) const START: Self = Self {
        next_offset: Offset::ZERO,
        taken_up: Offset::ZERO,
        after_gap: None,
        time: PartitionClock::START.time,
        rules: PartitionClock::START.rules,
        sealed: Offset::ZERO,
        sealed_time: PartitionClock::START.time,
        hour: None,
        hour_is_used: false,
        previous: None,
        day: None,
        day_is_used: false,
        gaps: Vec::new(),
        requested: None,
        last: None,
    };

    /// Where the fold's state stands.
    pub(crate) fn folded(&self) -> Offset {
        self.next_offset.max(self.taken_up)
    }

    pub(crate) fn clock(&self) -> PartitionClock {
        PartitionClock { time: self.time, rules: self.rules }
    }
}

/// A scope was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredErasure {
    pub(crate) id: CommandId,
    pub(crate) scope: String,
    pub(crate) cursor: Cursor,
    pub(crate) at: Timestamp,
}

/// What a command came to, and where it stood.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredCommand {
    pub(crate) offset: Offset,
    pub(crate) outcome: Arc<Outcome>,
    /// Of a restore's chunk: which of its messages changed, counted through, and their cursors after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) chunk: Vec<(usize, Cursor)>,
}
