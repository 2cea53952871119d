//! The standing drill: backups are read into memory as a restore would read them, and compared with the live rows.
//!
//! Exactly, also where the scope has moved on since: what has not changed since the backup's cursor is in it with the
//! same version, and what is in it either is a row still, or has a row with a later cursor.

use std::{collections::HashMap, time::Duration};

use archive::{
    Archive, ArchiveError,
    history::{self, FoundBackup},
};
use eventlog::partition_of;
use model::{
    BackupId, Cursor, DrillFailure, DrillId, DrillRecord, Message, MessageId, ScopeKey, Timestamp,
    Version,
};
use readmodel::{
    Pool, ReadModelError,
    drill::{LiveRow, LiveScope, live, live_rows, sample, source},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use crate::{error::ArchiverError, expiry::LISTENS_WITHIN, workers::blocking};

/// Scopes that a drill compares, if nobody says otherwise.
pub const DRILL_SCOPES: u32 = 20;
/// Messages that room is made for at once.
const AT_ONCE_MAX: usize = 1 << 20;
/// How long the read model may be behind a backup: it follows the log too.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a drill stopped: what it found wrong is no error.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    ReadModel(#[from] ReadModelError),
    #[error("the drill's work ended: {0}")]
    Task(String),
    #[error("this archiver has no read model to compare with: set --database-url")]
    NoDatabase,
}

/// What a drill says as it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drilling {
    Scope(DrilledScope),
    /// The last: how many were compared, and how many of them did not agree.
    Done {
        scopes: u64,
        failures: u64,
    },
    /// The last: why it stopped.
    Failed(String),
}

/// A scope whose newest backup was compared with its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledScope {
    /// `tenant/kind/name`.
    pub scope: String,
    pub backup_id: BackupId,
    /// What does not agree; `None`: all does.
    pub problem: Option<String>,
}

/// Compares the newest backups of some scopes with the read model (the ingest role).
///
/// # Errors
/// The archive or the read model cannot be used now. What does not agree is in the record.
pub async fn drill(
    archive: &Archive,
    pool: &Pool,
    scopes: u32,
    at: Timestamp,
    mut said: Option<&mpsc::Sender<Drilling>>,
) -> Result<DrillRecord, DrillError> {
    let mut record =
        DrillRecord { id: DrillId(Uuid::now_v7()), at, scopes: 0, failures: Vec::new() };
    for (scope, backup) in sample(pool, Uuid::new_v4(), scopes).await? {
        let problem = compare(archive, pool, &scope, backup).await?.err();
        record.scopes += 1;
        if let Some(to) = said {
            let (scope, problem) = (scope.to_string(), problem.clone());
            let drilled = DrilledScope { scope, backup_id: backup, problem };
            // Who asked may have gone, or have stopped reading.
            if to.send_timeout(Drilling::Scope(drilled), LISTENS_WITHIN).await.is_err() {
                said = None;
            }
        }
        record.failures.extend(problem.map(|problem| DrillFailure { scope, backup, problem }));
    }
    Ok(record)
}

/// Whether a backup is what the rows are, and else why not.
async fn compare(
    archive: &Archive,
    pool: &Pool,
    scope: &ScopeKey,
    id: BackupId,
) -> Result<Result<(), String>, DrillError> {
    let (log, partitions) = source(pool).await?;
    let partition = partition_of(scope.to_string().as_bytes(), partitions);
    let found = match history::find(archive, log, partition, scope, id).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return match history::find_listed(archive, log, partition, scope, id).await {
                Ok(None) => Ok(Err("the catalogue has it, no manifest lists it".to_owned())),
                // It has just expired; the catalogue hears of it.
                Ok(Some(_)) => Ok(Ok(())),
                Err(error) => problem(error).map(Err),
            };
        }
        Err(error) => return problem(error).map(Err),
    };
    let held = match read(archive, &found).await {
        Ok(held) => held,
        Err(DrillError::Archive(error)) => return problem(error).map(Err),
        Err(error) => return Err(error),
    };
    if let Err(behind) = caught_up(pool, scope, found.backup.cursor_last).await? {
        return Ok(Err(behind));
    }
    compare_rows(pool, scope, &found, held).await
}

/// What is wrong with the backup, as opposed to the store.
fn problem(error: ArchiveError) -> Result<String, DrillError> {
    if error.is_retryable() { Err(error.into()) } else { Ok(error.to_string()) }
}

/// A message of a backup, in few bytes: a scope may have a million.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    cursor: Cursor,
    /// A part of the hash that the digest sums; the last bit says whether it is deleted.
    version: u64,
}

impl Held {
    fn new(id: MessageId, cursor: Cursor, version: Version, is_deleted: bool) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = version.item(id).0;
        let version = u64::from_be_bytes([a, b, c, d, e, f, g, h]) & !1 | u64::from(is_deleted);
        Self { cursor, version }
    }

    fn is_deleted(self) -> bool {
        self.version & 1 == 1
    }
}

async fn read(
    archive: &Archive,
    found: &FoundBackup,
) -> Result<HashMap<MessageId, Held>, DrillError> {
    let mut state = found.open(archive).await?;
    // It need not grow, if the manifest is right; if it is not, no harm is done.
    let live = usize::try_from(found.line.count).unwrap_or_default().min(AT_ONCE_MAX);
    let read = blocking(move || {
        let mut held = HashMap::with_capacity(live);
        while let Some(Message { id, entry, .. }) = state.next_message()? {
            held.insert(id, Held::new(id, entry.cursor, entry.version, !entry.is_live()));
        }
        Ok(held)
    });
    read.await.map_err(|error| match error {
        ArchiverError::Archive(error) => error.into(),
        error => DrillError::Task(error.to_string()),
    })
}

/// The read model may be a moment behind the archive.
async fn caught_up(
    pool: &Pool,
    scope: &ScopeKey,
    cursor: Cursor,
) -> Result<Result<(), String>, DrillError> {
    let deadline = Instant::now() + CATCH_UP_WITHIN;
    loop {
        let head = live(pool, scope).await?.map(|live| live.head);
        if head.is_some_and(|head| head >= cursor) {
            return Ok(Ok(()));
        }
        if Instant::now() > deadline {
            let head = head.unwrap_or_default();
            return Ok(Err(format!("the read model is at cursor {head}, the backup at {cursor}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn compare_rows(
    pool: &Pool,
    scope: &ScopeKey,
    found: &FoundBackup,
    mut held: HashMap<MessageId, Held>,
) -> Result<Result<(), String>, DrillError> {
    let end = found.backup.cursor_last;
    let mut differs = None;
    let rows = live_rows(pool, scope, |row| {
        let was = held.remove(&row.id);
        let LiveRow { id, cursor, version, is_deleted } = row;
        let is = Held::new(id, cursor, version, is_deleted);
        if cursor <= end && was != Some(is) {
            differs.get_or_insert_with(|| match was {
                None => format!("message {id}, live at cursor {cursor}, is not in it"),
                Some(_) => {
                    format!("message {id}, live at cursor {cursor}, is another version in it")
                }
            });
        }
    });
    let Some(live) = rows.await? else { return Ok(Err("the scope is not live".to_owned())) };
    // Tombstones go once they are old, and what was erased while the backup was read.
    let is_forgotten =
        |held: &Held| held.is_deleted() && held.cursor <= live.floor || held.cursor <= live.erased;
    let lost = held.iter().find(|(_, held)| !is_forgotten(held));
    let lost = lost.map(|(id, held)| {
        format!(
            "message {id}, in it at cursor {}, is not live, nor a later version of it",
            held.cursor
        )
    });
    let sums = sums(&live, found);
    Ok(differs.or(lost).or(sums).map_or(Ok(()), Err))
}

/// Where nothing came since, count and digest are the same.
fn sums(live: &LiveScope, found: &FoundBackup) -> Option<String> {
    let (line, head) = (&found.line, found.backup.cursor_last);
    if live.head != head || (live.count, live.digest) == (line.count, line.digest) {
        return None;
    }
    Some(format!(
        "live are {} messages with digest {}, in it {} with {}",
        live.count, live.digest, line.count, line.digest
    ))
}
