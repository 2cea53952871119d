//! The executor of restores: the next chunk of each that runs, by where it stands.

use archive::{
    ArchiveError,
    history::{self, FoundBackup},
    restoration::{Kept, Puts},
};
use model::{
    Action, Command, Cursor, Entry, MessageId, RestoreChunk, RestoreFailure, RestoreMode,
    RestorePlace, RunningRestore, ScopeKey,
};

use crate::{
    Mistake, Violation,
    archiver::{Bucket, Cache, now},
    log::home,
    random::Random,
};

/// Messages of a chunk, at most.
const CHUNK: usize = 4;

/// The restores that run, by the archiver's fold.
pub fn running(cache: &Cache) -> Vec<(ScopeKey, RunningRestore)> {
    let restore = |folded: &model::log_fold::FoldedScope| {
        Some((folded.scope.key.clone(), folded.scope.heading.restore.clone()?))
    };
    let mut running: Vec<_> = cache.fold.scopes.values().filter_map(restore).collect();
    running.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    running
}

/// What is to be appended for a restore.
pub fn next(
    bucket: &Bucket,
    cache: &Cache,
    scope: &ScopeKey,
    running: &RunningRestore,
    random: &mut Random,
) -> Result<Action, Violation> {
    let (restore, from) = (running.id, running.place);
    let Some(found) = find(bucket, cache, running)? else {
        let (code, detail) = (RestoreFailure::BackupNotFound, "no manifest lists it".to_owned());
        return Ok(Action::RestoreFailed { restore, from, code, detail });
    };
    let most = 1 + random.below(CHUNK);
    let chunk = |to, deletes, puts| {
        Action::RestoreChunk(Box::new(RestoreChunk { restore, from, to, deletes, puts }))
    };
    match from {
        RestorePlace::Deletes(after) => {
            let mut lacking = lacking(bucket, cache, scope, &found, after, running.begin)?;
            lacking.truncate(most);
            let Some((last, _)) = lacking.last() else {
                return Ok(chunk(RestorePlace::Puts(0), Vec::new(), Vec::new()));
            };
            let to = RestorePlace::Deletes(*last);
            Ok(chunk(to, lacking.into_iter().map(|(_, id)| id).collect(), Vec::new()))
        }
        RestorePlace::Puts(done) => {
            let too_far = u64::from(bucket.mistake == Some(Mistake::RestoresTooFar));
            let mut puts = Puts::after(now(found.open(&bucket.archive))?, done + too_far);
            let mut next = puts.next_puts().map_err(|e| Violation(e.to_string()))?;
            if next.is_empty() {
                complete(bucket, cache, scope, &found, running)?;
                return Ok(Action::RestoreCompleted { restore, from });
            }
            next.truncate(most);
            Ok(chunk(RestorePlace::Puts(done + next.len() as u64), Vec::new(), next))
        }
    }
}

/// Each message of the backup is there again, at its version, where nothing but the restore has changed the scope since
/// it began.
fn complete(
    bucket: &Bucket,
    cache: &Cache,
    scope: &ScopeKey,
    found: &FoundBackup,
    running: &RunningRestore,
) -> Result<(), Violation> {
    let damaged = |error: ArchiveError| Violation(error.to_string());
    let kept = Kept::of(now(found.open(&bucket.archive))?).map_err(damaged)?;
    let folded = &cache.fold.scopes[scope].scope;
    let is_own = |id: &MessageId, entry: &Entry| {
        entry.restore == Some(running.id) || entry.is_live() && kept.has(*id, entry.version)
    };
    if folded.messages.iter().any(|(id, e)| e.cursor > running.begin && !is_own(id, e)) {
        return Ok(());
    }
    let mut puts = Puts::after(now(found.open(&bucket.archive))?, 0);
    loop {
        let next = puts.next_puts().map_err(damaged)?;
        if next.is_empty() {
            return Ok(());
        }
        for put in next {
            let there = folded.messages.get(&put.id).filter(|entry| entry.is_live());
            let is_there = there.is_some_and(|entry| match running.mode {
                RestoreMode::Merge => entry.version >= put.version(),
                RestoreMode::Replace => entry.version == put.version(),
            });
            let lives_elsewhere = folded.live.contains_key(&put.content_hash);
            if !is_there && !lives_elsewhere {
                return Err(Violation(format!("a restore of {scope} left out {}", put.id)));
            }
        }
    }
}

/// A chunk as if it began where it ended.
pub fn readdress(command: &mut Command) {
    if let Action::RestoreChunk(chunk) = &mut command.action
        && let RestorePlace::Puts(done) = chunk.to
    {
        chunk.from = chunk.to;
        chunk.to = RestorePlace::Puts(done + chunk.puts.len() as u64);
    }
}

fn find(
    bucket: &Bucket,
    cache: &Cache,
    running: &RunningRestore,
) -> Result<Option<FoundBackup>, Violation> {
    let source: ScopeKey = running.source.parse().map_err(|_| Violation("no scope".into()))?;
    let (partition, log) = (home(&source), cache.log());
    let found = now(history::find(&bucket.archive, log, partition, &source, running.backup))?;
    let erased = cache.fold.scopes.get(&source).map_or(Cursor::ZERO, |f| f.scope.heading.erased);
    let looks = bucket.mistake != Some(Mistake::RestoresErased);
    Ok(found.filter(|found| !looks || !found.was_erased(erased)))
}

/// The live messages that the backup lacks.
fn lacking(
    bucket: &Bucket,
    cache: &Cache,
    scope: &ScopeKey,
    found: &FoundBackup,
    after: Cursor,
    begin: Cursor,
) -> Result<Vec<(Cursor, MessageId)>, Violation> {
    let kept = Kept::of(now(found.open(&bucket.archive))?).map_err(|e| Violation(e.to_string()))?;
    let lacks = |message: &&model::Message| {
        let entry = &message.entry;
        let is_old = entry.cursor > after && entry.cursor <= begin;
        entry.is_live() && is_old && !kept.has(message.id, entry.version)
    };
    let messages = cache.fold.scopes[scope].messages.values().filter(lacks);
    let mut lacking: Vec<_> = messages.map(|message| (message.entry.cursor, message.id)).collect();
    lacking.sort_unstable();
    Ok(lacking)
}
