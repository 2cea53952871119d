//! Restores: a backup's messages come back as events, through the same fold as everything else.
//!
//! A restore's work has one order: in *replace*, first the live messages that the backup lacks are deleted, in the
//! order of their cursors; then the backup's messages are put, in its order. A chunk does a part of it, from
//! one place to another, and applies only where the running restore stands: an executor that was
//! thought dead cannot do anything twice, whatever its chunks.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    cursor::Cursor,
    fold::{Changed, Scope},
    hash::{BodyHash, ContentHash, Version},
    ids::{BackupId, DeviceId, MessageId, RestoreId, UserId},
    message::{Body, Entry},
    outcome::{Refusal, Verdict},
    scope::ScopeKey,
    time::Timestamp,
};

/// What a restore does with what the backup lacks, and with what was edited since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestoreMode {
    /// Creates what is missing, brings back what was deleted; a live message changes only to a greater
    /// version.
    Merge,
    /// Sets each message to the backup's version, and deletes the others.
    Replace,
}

impl RestoreMode {
    pub const ALL: [Self; 2] = [Self::Merge, Self::Replace];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Replace => "replace",
        }
    }

    const fn begin(self) -> RestorePlace {
        match self {
            Self::Merge => RestorePlace::Puts(0),
            Self::Replace => RestorePlace::Deletes(Cursor::ZERO),
        }
    }
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestorePlace {
    /// The live messages up to this cursor have been dealt with.
    Deletes(Cursor),
    /// So many of the backup's messages have been put.
    Puts(u64),
}

impl fmt::Display for RestorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deletes(cursor) => write!(f, "deletes up to cursor {cursor}"),
            Self::Puts(lines) => write!(f, "{lines} messages put"),
        }
    }
}

/// A live message of a backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    pub id: MessageId,
    pub body: Body,
    pub content_hash: ContentHash,
    pub body_hash: BodyHash,
    pub updated_at: Timestamp,
    pub created_at: Timestamp,
    pub contributed_by: UserId,
    pub device: Option<DeviceId>,
}

impl Put {
    pub const fn version(&self) -> Version {
        Version { updated_at: self.updated_at, body: self.body_hash }
    }
}

/// Why a restore failed, by the code of the wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreFailure {
    /// No manifest lists the backup.
    #[serde(rename = "SYNC_003")]
    BackupNotFound,
    /// An object is not what its manifest says.
    #[serde(rename = "SYNC_004")]
    ChecksumFailed,
}

impl RestoreFailure {
    pub const ALL: [Self; 2] = [Self::BackupNotFound, Self::ChecksumFailed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackupNotFound => "SYNC_003",
            Self::ChecksumFailed => "SYNC_004",
        }
    }
}

/// What a restore came to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreCounts {
    /// Messages that were put.
    pub restored: u64,
    /// Those that stood as they were.
    pub skipped: u64,
    /// Removed, and not put back.
    pub deleted: u64,
}

/// A restore under way: part of its scope's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningRestore {
    pub id: RestoreId,
    pub mode: RestoreMode,
    pub backup: BackupId,
    /// Whose backup it is, `tenant/kind/name`: mostly the scope's own.
    pub source: String,
    pub actor: UserId,
    /// The head when it was asked for: what came later is left alone.
    pub begin: Cursor,
    pub place: RestorePlace,
    pub counts: RestoreCounts,
    pub started_at: Timestamp,
}

impl RunningRestore {
    /// Whether nothing of it is done yet.
    pub fn is_at_begin(&self) -> bool {
        self.place == self.mode.begin()
    }
}

/// How a restore stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreStatus {
    Running,
    Completed { ended_at: Timestamp },
    Failed { ended_at: Timestamp, code: RestoreFailure, detail: String },
}

/// A restore after a command about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRecord {
    pub restore: RunningRestore,
    pub status: RestoreStatus,
}

/// What a command about a restore did.
pub(crate) type Step = (Verdict, Option<RestoreRecord>);

/// A part of a restore.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreChunk {
    pub restore: RestoreId,
    pub from: RestorePlace,
    pub to: RestorePlace,
    pub deletes: Vec<MessageId>,
    pub puts: Vec<Put>,
}

const NOT_ITS_PLACE: Verdict = Verdict::Refused(Refusal::NotItsPlace);

impl Scope {
    /// A restore was asked for by one who may.
    pub(crate) fn begin_restore(
        &mut self,
        id: RestoreId,
        mode: RestoreMode,
        backup: BackupId,
        source: &ScopeKey,
        actor: &UserId,
    ) -> Step {
        if let Some(running) = &self.heading.restore {
            return (Verdict::Refused(Refusal::RestoreRunning { restore: running.id }), None);
        }
        self.heading.exists = true;
        let restore = RunningRestore {
            id,
            mode,
            backup,
            source: source.to_string(),
            actor: actor.clone(),
            begin: self.heading.head,
            place: mode.begin(),
            counts: RestoreCounts::default(),
            started_at: self.heading.clock,
        };
        self.heading.restore = Some(restore.clone());
        let record = RestoreRecord { restore, status: RestoreStatus::Running };
        (Verdict::RestoreRequested { restore: id }, Some(record))
    }

    fn running(&self, id: RestoreId, from: RestorePlace) -> Option<RunningRestore> {
        let running = self.heading.restore.as_ref()?;
        (running.id == id && running.place == from).then(|| running.clone())
    }

    /// Does a part of a restore, if it stands where the chunk begins.
    pub(crate) fn restore_chunk(
        &mut self,
        chunk: &RestoreChunk,
        changes: &mut Vec<Changed>,
    ) -> Step {
        let Some(mut running) = self.running(chunk.restore, chunk.from) else {
            return (NOT_ITS_PLACE, None);
        };
        if chunk.to <= chunk.from {
            return (NOT_ITS_PLACE, None);
        }
        for (change, id) in chunk.deletes.iter().enumerate() {
            if self.delete_for(&running, *id) {
                running.counts.deleted += 1;
                changes.push(self.changed(*id, change, false));
            }
        }
        for (change, put) in (chunk.deletes.len()..).zip(&chunk.puts) {
            let old = self.messages.get(&put.id).cloned();
            if self.put_back(&running, put, old.as_ref()) {
                running.counts.restored += 1;
                let undone = old.as_ref().is_some_and(|old| old.restore == Some(running.id));
                running.counts.deleted -= u64::from(undone && running.counts.deleted > 0);
                changes.push(self.changed(put.id, change, old.is_none()));
            } else {
                running.counts.skipped += 1;
            }
        }
        running.place = chunk.to;
        self.heading.restore = Some(running.clone());
        let record = RestoreRecord { restore: running, status: RestoreStatus::Running };
        (Verdict::RestoreStep, Some(record))
    }

    fn changed(&self, id: MessageId, change: usize, is_new: bool) -> Changed {
        Changed { id, cursor: self.heading.head, change, is_new }
    }

    /// Deletes a message that the backup lacks, unless it came or changed since the restore began.
    fn delete_for(&mut self, running: &RunningRestore, id: MessageId) -> bool {
        let Some(old) = self.messages.get(&id).filter(|entry| entry.is_live()).cloned() else {
            return false;
        };
        if old.cursor > running.begin {
            return false;
        }
        self.take_away(id, &old);
        self.heading.head = self.heading.head.next();
        let tombstone = Entry {
            cursor: self.heading.head,
            deleted_at: Some(self.heading.clock),
            restore: Some(running.id),
            ..old
        };
        self.messages.insert(id, tombstone);
        true
    }

    /// The table of puts: the first row that fits decides.
    fn put_back(&mut self, running: &RunningRestore, put: &Put, old: Option<&Entry>) -> bool {
        let came_since = old.is_some_and(|old| {
            old.cursor > running.begin && (old.is_live() || old.restore != Some(running.id))
        });
        let lives_elsewhere = self.live.get(&put.content_hash).is_some_and(|id| *id != put.id);
        if came_since || lives_elsewhere {
            return false;
        }
        let version = put.version();
        if let Some(old) = old.filter(|old| old.is_live()) {
            let takes = match running.mode {
                RestoreMode::Merge => version > old.version,
                RestoreMode::Replace => version != old.version,
            };
            if !takes {
                return false;
            }
        }
        self.put_version(put.id, put.content_hash, put.body.bytes(), version, put.created_at);
        true
    }

    /// The restore has come to its end.
    pub(crate) fn end_restore(
        &mut self,
        id: RestoreId,
        from: RestorePlace,
        failure: Option<(RestoreFailure, &str)>,
    ) -> Step {
        let Some(restore) = self.running(id, from) else { return (NOT_ITS_PLACE, None) };
        self.heading.restore = None;
        let ended_at = self.heading.clock;
        let status = match failure {
            None => RestoreStatus::Completed { ended_at },
            Some((code, detail)) => {
                RestoreStatus::Failed { ended_at, code, detail: detail.to_owned() }
            }
        };
        (Verdict::RestoreEnded { restore: id }, Some(RestoreRecord { restore, status }))
    }

    /// The scope was erased: what a running restore would put back is to be gone.
    pub(crate) fn cut_restore(&mut self) -> Option<RestoreRecord> {
        let restore = self.heading.restore.take()?;
        let (ended_at, code) = (self.heading.clock, RestoreFailure::BackupNotFound);
        let detail = "the scope was erased".to_owned();
        Some(RestoreRecord { restore, status: RestoreStatus::Failed { ended_at, code, detail } })
    }
}

/// Reckons what a restore would come to. Nothing is done: the scope is the caller's copy.
pub struct Rehearsal {
    scope: Scope,
    counts: RestoreCounts,
    id: RestoreId,
    place: RestorePlace,
    begin: Cursor,
}

impl Rehearsal {
    /// Of a restore into `scope`, all of whose messages are there, that `actor` would begin now.
    pub fn new(mut scope: Scope, mode: RestoreMode, actor: &UserId) -> Self {
        let (id, begin) = (RestoreId(uuid::Uuid::nil()), scope.heading.head);
        scope.heading.restore = Some(RunningRestore {
            id,
            mode,
            backup: BackupId(uuid::Uuid::nil()),
            source: String::new(),
            actor: actor.clone(),
            begin,
            place: mode.begin(),
            counts: RestoreCounts::default(),
            started_at: scope.heading.clock,
        });
        Self { scope, counts: RestoreCounts::default(), id, place: mode.begin(), begin }
    }

    /// Deletes what the backup lacks: all live messages but those that are `kept`.
    pub fn delete_all_but(&mut self, kept: impl Fn(MessageId, Version) -> bool) {
        let lacks = |(id, entry): &(&MessageId, &Entry)| {
            entry.is_live() && entry.cursor <= self.begin && !kept(**id, entry.version)
        };
        let lacking = self.scope.messages.iter().filter(lacks);
        let mut lacking: Vec<_> = lacking.map(|(id, entry)| (entry.cursor, *id)).collect();
        lacking.sort_unstable();
        let deletes = lacking.into_iter().map(|(_, id)| id).collect();
        self.chunk(RestorePlace::Puts(0), deletes, Vec::new());
    }

    /// Puts the backup's next messages.
    pub fn put(&mut self, puts: Vec<Put>) {
        if let RestorePlace::Puts(done) = self.place {
            self.chunk(RestorePlace::Puts(done + puts.len() as u64), Vec::new(), puts);
        }
    }

    fn chunk(&mut self, to: RestorePlace, deletes: Vec<MessageId>, puts: Vec<Put>) {
        let chunk = RestoreChunk { restore: self.id, from: self.place, to, deletes, puts };
        if let (_, Some(record)) = self.scope.restore_chunk(&chunk, &mut Vec::new()) {
            (self.counts, self.place) = (record.restore.counts, record.restore.place);
        }
    }

    pub const fn counts(&self) -> RestoreCounts {
        self.counts
    }
}
