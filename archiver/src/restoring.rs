//! Executing restores: a backup is read, verified, and put back as chunks on the log.
//!
//! Nothing is remembered here: the running restore is a part of its scope's state, and says how far it is. An
//! executor that was killed, or two of them, go on from there; a chunk applies only in its place.

use std::{collections::HashMap, sync::Arc, time::Duration};

use archive::{
    Archive, ArchiveError,
    history::{self, FoundBackup},
    message_line,
    restoration::{Kept, Puts},
};
use bytes::Bytes;
use eventlog::{EventLog, partition_of};
use model::{
    Action, Command, CommandId, Cursor, MessageId, OrgRole, Partition, Place, Put, RequestHash,
    RestoreChunk, RestoreFailure, RestoreId, RestorePlace, RunningRestore, ScopeKey,
};
use tokio::{
    task::{JoinError, JoinHandle},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    cache::{Cache, View},
    error::ArchiverError,
    workers::blocking,
};

/// Messages that a chunk deletes, at most.
const DELETES_AT_ONCE: usize = 1_000;
/// How long after a failure a restore is executed anew.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Between two looks at how far another partition is folded.
const FOLD_PAUSE: Duration = Duration::from_millis(50);
/// Restores executed at the same time: each spools its backup, and remembers what it has.
const EXECUTING_MAX: usize = 4;
/// The same of one tenant: others' need not wait for its.
const EXECUTING_PER_TENANT_MAX: usize = 2;

/// The restores that this process executes.
#[derive(Default)]
pub(crate) struct Restores {
    executing: HashMap<RestoreId, Executing>,
}

struct Executing {
    scope: ScopeKey,
    task: JoinHandle<Result<Place, ArchiverError>>,
    ended: Option<Ended>,
}

/// How a task ended.
#[derive(Clone, Copy)]
enum Ended {
    /// It has appended all, the last of it here: until that is folded, nobody knows what it came to.
    Appended(Place),
    Failed(Instant),
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Restores {
    /// Begins what is running and not executed yet, and tries again what failed. `is_current`: whether the fold of
    /// a partition is what the log says now; before that it may be of a restore that ended long ago.
    pub(crate) async fn execute(
        &mut self,
        log: &Arc<dyn EventLog>,
        archive: &Archive,
        cache: &Arc<Cache>,
        is_current: impl Fn(Partition) -> bool,
    ) -> Result<(), ArchiverError> {
        let mut running = cache.running_restores()?;
        running.retain(|(scope, _)| {
            is_current(partition_of(scope.to_string().as_bytes(), log.partitions()))
        });
        self.executing.retain(|id, _| running.iter().any(|(_, restore)| restore.id == *id));
        for (scope, restore) in running {
            if self.is_under_way(restore.id, cache).await? || !self.has_room(&scope) {
                continue;
            }
            let executor = Executor {
                log: log.clone(),
                archive: archive.clone(),
                cache: cache.clone(),
                scope: scope.clone(),
                restore: restore.clone(),
            };
            let task = tokio::spawn(executor.run());
            self.executing.insert(restore.id, Executing { scope, task, ended: None });
        }
        Ok(())
    }

    fn has_room(&self, scope: &ScopeKey) -> bool {
        let busy = self.executing.values().filter(|executing| !executing.task.is_finished());
        let (mut all, mut own) = (0, 0);
        for executing in busy {
            all += 1;
            own += usize::from(executing.scope.tenant == scope.tenant);
        }
        all < EXECUTING_MAX && own < EXECUTING_PER_TENANT_MAX
    }

    async fn is_under_way(&mut self, id: RestoreId, cache: &Cache) -> Result<bool, ArchiverError> {
        let Some(executing) = self.executing.get_mut(&id) else { return Ok(false) };
        if !executing.task.is_finished() {
            return Ok(true);
        }
        let ended = match executing.ended {
            Some(ended) => ended,
            None => {
                let ended = ended((&mut executing.task).await, id);
                *executing.ended.insert(ended)
            }
        };
        Ok(match ended {
            Ended::Appended(last) => cache.state(last.partition)?.next_offset <= last.offset,
            Ended::Failed(at) => at.elapsed() < RETRY_AFTER,
        })
    }
}

fn ended(task: Result<Result<Place, ArchiverError>, JoinError>, id: RestoreId) -> Ended {
    let error = match task {
        Ok(Ok(last)) => return Ended::Appended(last),
        Ok(Err(error)) => error.to_string(),
        Err(panicked) => panicked.to_string(),
    };
    tracing::warn!(error, restore = %id, "a restore stopped; trying again");
    Ended::Failed(Instant::now())
}

/// Executes one restore from where it stands.
struct Executor {
    log: Arc<dyn EventLog>,
    archive: Archive,
    cache: Arc<Cache>,
    scope: ScopeKey,
    restore: RunningRestore,
}

impl Executor {
    /// Returns the place of what it appended last.
    async fn run(self) -> Result<Place, ArchiverError> {
        let found = match self.find().await? {
            Ok(found) => found,
            Err((code, detail)) => return self.fail(code, detail).await,
        };
        let mut place = self.restore.place;
        if let RestorePlace::Deletes(after) = place {
            place = self.delete(&found, after).await?;
        }
        // After the deletes it stands at the first put.
        let done = if let RestorePlace::Puts(done) = place { done } else { 0 };
        let place = self.put(&found, done).await?;
        tracing::info!(restore = %self.restore.id, scope = %self.scope, "restored");
        self.append(Action::RestoreCompleted { restore: self.restore.id, from: place }).await
    }

    /// The backup, every object of it read and found to be what its manifest says.
    async fn find(&self) -> Result<Result<FoundBackup, (RestoreFailure, String)>, ArchiverError> {
        let Ok(source) = self.restore.source.parse::<ScopeKey>() else {
            let detail = format!("{} is no scope", self.restore.source);
            return Ok(Err((RestoreFailure::BackupNotFound, detail)));
        };
        let partition = partition_of(source.to_string().as_bytes(), self.log.partitions());
        let (log, backup) = (self.log.log_id(), self.restore.backup);
        let found = if self.restore.is_at_begin() {
            history::find(&self.archive, log, partition, &source, backup).await
        } else {
            // It was found when the restore began, and stays until it ends.
            history::find_listed(&self.archive, log, partition, &source, backup).await
        };
        self.await_fold(partition).await?;
        let erased = self.cache.read(partition)?.erased(partition, source.reference())?;
        let found = match found {
            // It was asked for when the rows did not show the erasure yet.
            Ok(Some(found)) if found.was_erased(erased) => {
                let detail = "the scope was erased after the backup".to_owned();
                return Ok(Err((RestoreFailure::BackupNotFound, detail)));
            }
            Ok(Some(found)) => found,
            Ok(None) => {
                let detail = "no manifest lists the backup".to_owned();
                return Ok(Err((RestoreFailure::BackupNotFound, detail)));
            }
            Err(error) => return failure(error).map(Err),
        };
        match self.read_all(&found).await {
            Ok(()) => Ok(Ok(found)),
            Err(ArchiverError::Archive(error)) => failure(error).map(Err),
            Err(error) => Err(error),
        }
    }

    /// Until what the source's partition has by now is folded: an erasure of the source may be the last of it.
    async fn await_fold(&self, partition: Partition) -> Result<(), ArchiverError> {
        let end = self.log.bounds(partition).await?.end;
        while partition != self.partition() && self.cache.state(partition)?.folded() < end {
            tokio::time::sleep(FOLD_PAUSE).await;
        }
        Ok(())
    }

    /// The scope's own: it is folded up to the request.
    fn partition(&self) -> Partition {
        partition_of(self.scope.to_string().as_bytes(), self.log.partitions())
    }

    /// Reads it once to its end, which checks everything, before anything is appended.
    async fn read_all(&self, found: &FoundBackup) -> Result<(), ArchiverError> {
        let mut state = found.open(&self.archive).await?;
        blocking(move || {
            while state.next_message()?.is_some() {}
            Ok(())
        })
        .await
    }

    /// Deletes the live messages that the backup lacks.
    async fn delete(
        &self,
        found: &FoundBackup,
        after: Cursor,
    ) -> Result<RestorePlace, ArchiverError> {
        let state = found.open(&self.archive).await?;
        let (view, scope) = (Arc::new(self.cache.read(self.partition())?), self.scope.reference());
        let begin = self.restore.begin;
        let lacking =
            blocking(move || lacking(&view, scope, after, begin, &Kept::of(state)?)).await?;
        let mut from = RestorePlace::Deletes(after);
        for chunk in lacking.chunks(DELETES_AT_ONCE) {
            let to = chunk.last().map_or(from, |(cursor, _)| RestorePlace::Deletes(*cursor));
            let deletes = chunk.iter().map(|(_, id)| *id).collect();
            self.append_chunk(from, to, deletes, Vec::new()).await?;
            from = to;
        }
        self.append_chunk(from, RestorePlace::Puts(0), Vec::new(), Vec::new()).await?;
        Ok(RestorePlace::Puts(0))
    }

    /// Puts the backup's live messages, but for the first ones, which were put before.
    async fn put(&self, found: &FoundBackup, done: u64) -> Result<RestorePlace, ArchiverError> {
        let puts = Puts::after(found.open(&self.archive).await?, done);
        let mut from = RestorePlace::Puts(done);
        let (mut puts, mut next) = read_puts(puts).await?;
        while !next.is_empty() {
            let to = puts.place();
            // While a chunk is appended, the next one is read.
            let appended = self.append_chunk(from, to, Vec::new(), next);
            ((puts, next), _) = tokio::try_join!(read_puts(puts), appended)?;
            from = to;
        }
        Ok(from)
    }

    async fn fail(&self, code: RestoreFailure, detail: String) -> Result<Place, ArchiverError> {
        tracing::error!(restore = %self.restore.id, scope = %self.scope, detail, "a restore failed");
        let (restore, from) = (self.restore.id, self.restore.place);
        self.append(Action::RestoreFailed { restore, from, code, detail }).await
    }

    async fn append_chunk(
        &self,
        from: RestorePlace,
        to: RestorePlace,
        deletes: Vec<MessageId>,
        puts: Vec<Put>,
    ) -> Result<Place, ArchiverError> {
        let chunk = RestoreChunk { restore: self.restore.id, from, to, deletes, puts };
        self.append(Action::RestoreChunk(Box::new(chunk))).await
    }

    async fn append(&self, action: Action) -> Result<Place, ArchiverError> {
        let command = Command {
            // A new one each time: not the id, but the place says whether it was done.
            id: CommandId(Uuid::now_v7()),
            scope: self.scope.clone(),
            actor: self.restore.actor.clone(),
            org_role: OrgRole::Member,
            device: None,
            request_hash: RequestHash::of(&[]),
            action,
        };
        let value = schemas::encode_command(&command)
            .map_err(|error| ArchiverError::Unencodable(error.to_string()))?;
        let key = Bytes::from(self.scope.to_string());
        Ok(self.log.append(key, Bytes::from(value)).await?.place)
    }
}

/// Reads the messages of a chunk.
async fn read_puts(mut puts: Puts) -> Result<(Puts, Vec<Put>), ArchiverError> {
    blocking(move || {
        let next = puts.next_puts()?;
        Ok((puts, next))
    })
    .await
}

/// What is wrong with the backup, as opposed to the store.
fn failure(error: ArchiveError) -> Result<(RestoreFailure, String), ArchiverError> {
    match &error {
        ArchiveError::Damaged { .. } => Ok((RestoreFailure::ChecksumFailed, error.to_string())),
        ArchiveError::NotFound { .. } => Ok((RestoreFailure::BackupNotFound, error.to_string())),
        _ => Err(error.into()),
    }
}

/// The live messages up to where the restore began that are not kept, in the order of their cursors.
fn lacking(
    view: &View,
    scope: model::ScopeRef,
    after: Cursor,
    begin: Cursor,
    kept: &Kept,
) -> Result<Vec<(Cursor, MessageId)>, ArchiverError> {
    let mut lacking = Vec::new();
    view.lines(scope, after, |cursor, line| {
        if cursor > begin {
            return Ok(());
        }
        let message = message_line::read(line).map_err(crate::cache::CacheError::Damaged)?;
        if message.entry.is_live() && !kept.has(message.id, message.entry.version) {
            lacking.push((cursor, message.id));
        }
        Ok(())
    })?;
    Ok(lacking)
}
