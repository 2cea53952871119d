//! Erasing from the archive, beside everything else: once the hour is sealed in which a scope was erased, what is
//! there of it from before goes. FORMAT.md, "What was erased".
//!
//! What is to be done stands in the archive, and so does what is done: killed anywhere and begun again, or two of
//! them at once, nothing is forgotten. Every step says what it is about to do before it deletes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use archive::{
    Archive, ArchiveError, base, compaction,
    erasure::{self, Erasure, ErasureState},
    expired::{Class, ExpiredBackup, ExpiredWriter, Header as ExpiredHeader},
    history::{Names, newest_hour},
    manifest::{BackupObject, Header, ManifestReader, TableFile},
    message_line, path,
    period::HourLength,
    redaction::{self, Redaction},
    segment::{self, SegmentName, SegmentReader},
    table::Table,
};
use eventlog::EventLog;
use model::{
    AboutBackup, BackupType, ErasedFrom, ErasureDone, Fact, LogId, Offset, Partition, ScopeKey,
};
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    cache::Cache, clock::Clock, config::Retention, error::ArchiverError, facts::Facts,
    session::Session, workers::blocking,
};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How often to look whether the log's retention has removed what came before an erasure.
const LOOK_AT_LOG_EVERY: Duration = Duration::from_secs(3_600);
/// How often to look whether segments that a sealed hour covers are deleted.
const LOOK_AT_SEGMENTS_EVERY: Duration = Duration::from_millis(500);
const SEGMENTS_GONE_WITHIN: Duration = Duration::from_secs(300);

/// One at a time works on the tables: what compacts a day does not read an hour that is just being rewritten.
pub(crate) type TablesTurn = Arc<Mutex<()>>;

/// What this process erases.
pub(crate) struct Erasures {
    turn: TablesTurn,
    erasing: Option<Erasing>,
    next_look: Option<Instant>,
    has_failed: bool,
}

struct Erasing {
    task: JoinHandle<Result<(), ArchiverError>>,
    /// What the cache knew of when it began.
    known: BTreeMap<Partition, Vec<Offset>>,
}

impl Drop for Erasing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Erasures {
    pub(crate) fn new(turn: TablesTurn) -> Self {
        Self { turn, erasing: None, next_look: None, has_failed: false }
    }

    /// Begins with the erasures whose hour is sealed, unless something is under way. After a start, and from time to
    /// time, it looks at all that the archive knows of.
    pub(crate) async fn go_on(
        &mut self,
        session: &Session<'_>,
        cache: &Cache,
    ) -> Result<(), ArchiverError> {
        if let Some(mut erasing) = self.erasing.take_if(|it| it.task.is_finished()) {
            let pause = match (&mut erasing.task).await {
                Ok(Ok(())) => {
                    for (partition, done) in &erasing.known {
                        cache.write(*partition, true, |tables| {
                            tables.forget_erasures(*partition, done)
                        })?;
                    }
                    LOOK_AT_LOG_EVERY
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "erasing from the archive stopped; trying again");
                    AGAIN
                }
                Err(_) => AGAIN,
            };
            self.has_failed = pause == AGAIN;
            self.next_look = Some(Instant::now() + pause);
        }
        if self.erasing.is_some() {
            return Ok(());
        }
        let known = sealed(cache, session.log.partitions())?;
        let is_time = self.next_look.is_none_or(|at| Instant::now() >= at);
        // What failed waits; what was sealed since a success does not.
        if is_time || (!known.is_empty() && !self.has_failed) {
            let eraser = Eraser {
                log: session.log.clone(),
                facts: session.facts.clone(),
                archive: session.archive.clone(),
                retention: session.config.retention.clone(),
                clock: session.upkeep.clock.clone(),
                length: session.config.archive_hour_seconds,
                turn: self.turn.clone(),
            };
            self.erasing = Some(Erasing { task: tokio::spawn(eraser.run()), known });
        }
        Ok(())
    }
}

/// The erasures that the cache knows of, and whose hour is sealed.
fn sealed(
    cache: &Cache,
    partitions: u32,
) -> Result<BTreeMap<Partition, Vec<Offset>>, ArchiverError> {
    let mut sealed = BTreeMap::new();
    for partition in (0..partitions).map(Partition::new) {
        let until = cache.state(partition)?.sealed;
        let erasures = cache.read(partition)?.erasures(partition)?.into_iter();
        let done: Vec<Offset> = erasures.map(|(at, _)| at).filter(|at| *at < until).collect();
        if !done.is_empty() {
            sealed.insert(partition, done);
        }
    }
    Ok(sealed)
}

struct Eraser {
    log: Arc<dyn EventLog>,
    facts: Arc<dyn EventLog>,
    archive: Archive,
    retention: Retention,
    clock: Clock,
    length: HourLength,
    turn: TablesTurn,
}

impl Eraser {
    /// Erases what is to be erased. One that cannot be stops no other.
    async fn run(self) -> Result<(), ArchiverError> {
        let lineage = base::lineage(&self.archive, self.log.log_id()).await?;
        let mut failed = Ok(());
        for log in &lineage {
            for partition in (0..self.log.partitions()).map(Partition::new) {
                for state in erasure::list(&self.archive, *log, partition).await? {
                    if let Err(error) = self.erase(&state, &lineage).await {
                        let scope = &state.erasure.scope;
                        tracing::warn!(%error, %partition, %scope, "a scope cannot be erased from the archive");
                        failed = Err(error);
                    }
                }
            }
        }
        failed
    }

    async fn erase(&self, state: &ErasureState, lineage: &[LogId]) -> Result<(), ArchiverError> {
        let erasure = &state.erasure;
        // What goes on from its log has nothing from before it.
        let newer = lineage.iter().take_while(|log| **log != erasure.log_id).count();
        let (newer, lineage) = lineage.split_at(newer);
        let is_done = |from| state.is_done(from);
        if is_done(ErasedFrom::Backups) && is_done(ErasedFrom::Tables) {
            return self.erase_log(state).await;
        }
        // The request stands there before the hour's own tables do.
        if !self.is_sealed(erasure).await? {
            return Ok(());
        }
        if !is_done(ErasedFrom::Backups) {
            self.erase_backups(erasure, lineage, newer).await?;
            self.done(erasure, ErasedFrom::Backups).await?;
        }
        if !is_done(ErasedFrom::Tables) {
            self.erase_tables(erasure, lineage).await?;
            self.done(erasure, ErasedFrom::Tables).await?;
            // A day that another archiver has put together meanwhile, of what it had read before. One that comes later takes
            // the mark back.
            self.erase_tables(erasure, lineage).await?;
        }
        self.erase_log(state).await
    }

    async fn erase_log(&self, state: &ErasureState) -> Result<(), ArchiverError> {
        let erasure = &state.erasure;
        if !state.is_done(ErasedFrom::Log) && self.is_off_log(erasure).await? {
            self.done(erasure, ErasedFrom::Log).await?;
        }
        Ok(())
    }

    async fn done(&self, erasure: &Erasure, from: ErasedFrom) -> Result<(), ArchiverError> {
        erasure.mark_done(&self.archive, from).await?;
        let scope = erasure.scope.clone();
        tracing::info!(%scope, erasure = %erasure.erasure_id, from = from.as_str(), "erased");
        let (at, cursor) = (self.clock.now(), erasure.cursor);
        let done = ErasureDone { erasure: erasure.erasure_id, scope, cursor, from, at };
        self.say(&Fact::ErasureDone(done)).await
    }

    async fn say(&self, fact: &Fact) -> Result<(), ArchiverError> {
        let Self { facts: log, archive, retention, clock, .. } = self;
        Facts { log, archive, retention, clock }.say(fact).await
    }

    /// Whether the hour in which it was asked for is sealed.
    async fn is_sealed(&self, erasure: &Erasure) -> Result<bool, ArchiverError> {
        let newest = newest_hour(&self.archive, erasure.log_id, erasure.partition).await?;
        Ok(newest.is_some_and(|(_, hour)| hour.next_offset > erasure.offset))
    }

    /// Whether the log has nothing from before. One that was lost has nothing at all.
    async fn is_off_log(&self, erasure: &Erasure) -> Result<bool, ArchiverError> {
        if erasure.log_id != self.log.log_id() {
            return Ok(true);
        }
        Ok(self.log.bounds(erasure.partition).await?.start >= erasure.offset)
    }

    /// Deletes the scope's backups from before, whatever their class and age, and whatever restores from them. Each is
    /// written down as expired first.
    async fn erase_backups(
        &self,
        erasure: &Erasure,
        lineage: &[LogId],
        newer: &[LogId],
    ) -> Result<(), ArchiverError> {
        let mut names = Vec::new();
        for log in lineage {
            names.push((*log, Names::list(&self.archive, *log, erasure.partition).await?));
        }
        let mut others = Vec::new();
        for log in newer {
            others.push((*log, Names::list(&self.archive, *log, erasure.partition).await?));
        }
        let kept = newest_before(&self.archive, erasure, &names).await?;
        let mut groups: BTreeMap<(LogId, String, String), Vec<ExpiredBackup>> = BTreeMap::new();
        for (path, _) in self.archive.list(&path::scope_folder(&erasure.scope)).await? {
            match listed(&self.archive, &erasure.scope, &path, &names).await? {
                Some((log, header, backup)) if backup.cursor_last < erasure.cursor => {
                    // A fold goes on from it; its content is not needed for that.
                    if kept.contains(&backup.path) {
                        self.leave_what_a_fold_needs(&backup).await?;
                    }
                    let (class, period) = self.class(&header, &backup);
                    let backup = ExpiredBackup::new(erasure.scope.clone(), backup);
                    let group = (log, class.to_string(), period);
                    groups.entry(group).or_default().push(backup);
                }
                Some(_) => {}
                None if listed(&self.archive, &erasure.scope, &path, &others).await?.is_some() => {}
                // Left by a crash, say: nobody restores it.
                None if self.is_from_before(erasure, &path).await? => {
                    self.archive.delete(&path).await?;
                }
                None => {}
            }
        }
        for ((log, class, period), backups) in groups {
            let class = Class::try_from(class).map_err(|e| ArchiverError::Task(e.to_string()))?;
            self.expire(erasure, (log, class, period), &backups).await?;
        }
        Ok(())
    }

    fn class(&self, header: &Header, backup: &BackupObject) -> (Class, String) {
        let class = Class::new(backup.backup_type, model::ScopeKind::User);
        let period = match backup.backup_type {
            BackupType::Incremental => {
                let hour = self.length.hour_named(&header.period);
                hour.map(|hour| self.length.day_name(hour.day())).unwrap_or_default()
            }
            BackupType::Full => header.period.clone(),
            BackupType::OnDemand => backup.id.to_string(),
        };
        (class, period)
    }

    async fn expire(
        &self,
        erasure: &Erasure,
        (log, class, period): (LogId, Class, String),
        backups: &[ExpiredBackup],
    ) -> Result<(), ArchiverError> {
        let header = ExpiredHeader::new(log, erasure.partition, class, period.clone());
        let mut record = ExpiredWriter::new(self.archive.scratch(), &header)?;
        backups.iter().try_for_each(|backup| record.push(backup))?;
        let mut record = record.finish()?;
        let folder = path::expired(log, erasure.partition, class, &period);
        let path = format!("{folder}/{}.jsonl.gz", record.sha256);
        self.archive.create(&path, &mut record).await?;
        for backup in backups {
            self.archive.delete(&backup.path).await?;
            let (id, scope, at) = (backup.id, backup.scope.clone(), self.clock.now());
            self.say(&Fact::BackupExpired(AboutBackup { id, scope, at })).await?;
        }
        Ok(())
    }

    async fn leave_what_a_fold_needs(&self, full: &BackupObject) -> Result<(), ArchiverError> {
        let object = self.archive.fetch_checked(&full.path, &full.sha256).await?;
        let (scratch, path) = (self.archive.scratch().clone(), full.path.clone());
        let mut left =
            blocking(move || Ok(redaction::without_content(&scratch, object, &path)?)).await?;
        Ok(self.archive.create(&path::redacted_full(&full.sha256), &mut left).await?)
    }

    /// Whether an object that no manifest lists has lines from before the erasure.
    async fn is_from_before(&self, erasure: &Erasure, path: &str) -> Result<bool, ArchiverError> {
        let mut lines = match self.archive.fetch(path).await {
            Ok(object) => object.lines(path)?,
            Err(ArchiveError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        while let Some(line) = lines.next_line()? {
            match message_line::read(&line) {
                Ok(message) if message.entry.cursor > erasure.cursor => {}
                Ok(_) | Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Writes the tables that have the scope's content from before anew, without it.
    async fn erase_tables(
        &self,
        erasure: &Erasure,
        lineage: &[LogId],
    ) -> Result<(), ArchiverError> {
        self.wait_for_segments(erasure).await?;
        // Once more, until nothing is found: another archiver may have compacted what was being rewritten.
        loop {
            let _turn = self.turn.lock().await;
            let mut rewritten = 0;
            for log in lineage {
                rewritten += self.erase_hours(erasure, *log).await?;
            }
            if rewritten == 0 {
                return Ok(());
            }
        }
    }

    /// The hour is sealed: its segments go by themselves, where segments are written. What is left is deleted here, but
    /// for one with records that are not sealed yet.
    async fn wait_for_segments(&self, erasure: &Erasure) -> Result<(), ArchiverError> {
        let deadline = Instant::now() + SEGMENTS_GONE_WITHIN;
        let Erasure { log_id, partition, offset, .. } = *erasure;
        if log_id != self.log.log_id() {
            return self.delete_lost_segments(log_id, partition).await;
        }
        loop {
            let names = segment::list(&self.archive, log_id, partition).await?;
            let Some(left) = names.iter().find(|name| name.first_offset < offset) else {
                return Ok(());
            };
            if Instant::now() > deadline {
                if self.is_covered(left, &names, partition).await? {
                    self.archive.delete(&left.path).await?;
                    continue;
                }
                let problem = format!("{} is still there: its records are not sealed", left.path);
                return Err(ArchiverError::Task(problem));
            }
            sleep(LOOK_AT_SEGMENTS_EVERY).await;
        }
    }

    /// Whether sealed hours have all that a segment has. Of one that cannot be read nobody can tell, nor read on in it.
    async fn is_covered(
        &self,
        segment: &SegmentName,
        names: &[SegmentName],
        partition: Partition,
    ) -> Result<bool, ArchiverError> {
        let newest = newest_hour(&self.archive, self.log.log_id(), partition).await?;
        let sealed = newest.map_or(Offset::ZERO, |(_, hour)| hour.next_offset);
        let next = names.iter().find(|name| name.first_offset > segment.first_offset);
        if next.is_some_and(|next| next.first_offset <= sealed) {
            return Ok(true);
        }
        let object = match self.archive.fetch(&segment.path).await {
            Err(ArchiveError::NotFound { .. }) => return Ok(true),
            fetched => fetched?,
        };
        match SegmentReader::new(object, &segment.path) {
            Ok(read) => Ok(read.next_offset <= sealed),
            Err(ArchiveError::Damaged { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Of a log that was recovered every record is in a sealed hour.
    async fn delete_lost_segments(
        &self,
        log: LogId,
        partition: Partition,
    ) -> Result<(), ArchiverError> {
        for name in segment::list(&self.archive, log, partition).await? {
            self.archive.delete(&name.path).await?;
        }
        Ok(())
    }

    /// How many tables of a log were rewritten.
    async fn erase_hours(&self, erasure: &Erasure, log: LogId) -> Result<u64, ArchiverError> {
        let before = if log == erasure.log_id { erasure.offset } else { Offset::MAX };
        let names = Names::list(&self.archive, log, erasure.partition).await?;
        let mut days = BTreeSet::new();
        let mut rewritten = 0;
        for path in names.hours() {
            let mut manifest = ManifestReader::new(self.archive.fetch(&path).await?, &path)?;
            let hour = manifest.header.clone();
            if hour.first_offset >= before {
                break;
            }
            if !may_have(&mut manifest, &erasure.scope)? {
                continue;
            }
            for (table, file) in [(Table::Events, &hour.events), (Table::Messages, &hour.messages)]
            {
                let Some(file) = file else { continue };
                let done = self.rewrite(erasure, before, table, file).await?;
                rewritten += u64::from(done == Rewritten::Yes);
            }
            // It may be in its day's by now, be the hour's own gone or not yet.
            let day = self.length.hour_named(&hour.period).map(|hour| hour.day());
            days.extend(
                day.map(|day| path::compaction_manifest(log, erasure.partition, self.length, day)),
            );
        }
        for day in days {
            let Some(compaction) = compaction::find(&self.archive, &day).await? else { continue };
            let Header { events, messages, .. } = &compaction.header;
            for (table, file) in [(Table::Events, events), (Table::Messages, messages)] {
                let Some(file) = file else { continue };
                let done = self.rewrite(erasure, before, table, file).await?;
                rewritten += u64::from(done == Rewritten::Yes);
            }
        }
        Ok(rewritten)
    }

    /// Rewrites a table, if it has content to lose: first the new one, then the record that it took the other's place,
    /// then the old one is deleted.
    async fn rewrite(
        &self,
        erasure: &Erasure,
        before: Offset,
        table: Table,
        file: &TableFile,
    ) -> Result<Rewritten, ArchiverError> {
        let (current, replaced) = redaction::current(&self.archive, file).await?;
        // What a crash has left.
        for old in replaced {
            self.archive.delete(&old.path).await?;
        }
        let object = match self.archive.fetch_checked(&current.path, &current.sha256).await {
            Err(ArchiveError::NotFound { .. }) => return Ok(Rewritten::Gone),
            fetched => fetched?,
        };
        let (scratch, path, scope) =
            (self.archive.scratch().clone(), current.path.clone(), erasure.scope.clone());
        let blanked = blocking(move || {
            Ok(redaction::without_content_of(&scratch, table, object, &path, &scope, before)?)
        });
        let Some((mut blanked, rows)) = blanked.await? else { return Ok(Rewritten::No) };
        let path = redaction::path_of(&current);
        self.archive.create(&path, &mut blanked).await?;
        let (sha256, size_bytes) = (blanked.sha256, blanked.size_bytes);
        let new = TableFile { path, sha256, size_bytes, rows };
        let old = current.path.clone();
        let redaction = Redaction::new(erasure.erasure_id, erasure.scope.clone(), current, new);
        redaction.keep(&self.archive).await?;
        self.archive.delete(&old).await?;
        tracing::info!(old, new = redaction.new.path, "rewrote a table without what was erased");
        Ok(Rewritten::Yes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rewritten {
    Yes,
    /// There was nothing to lose.
    No,
    Gone,
}

/// Whether an hour's tables may have rows of a scope. Behind a gap hours list no scopes.
fn may_have(manifest: &mut ManifestReader, scope: &ScopeKey) -> Result<bool, ArchiveError> {
    let (mut has_lines, mut found) = (false, false);
    while let Some(line) = manifest.next_scope()? {
        has_lines = true;
        found |= line.scope == *scope;
    }
    Ok(found || !has_lines)
}

/// The fulls of a scope that a fold may go on from: the newest from before the erasure, and those behind a gap or at
/// the begin of a log, before which nothing is folded.
async fn newest_before(
    archive: &Archive,
    erasure: &Erasure,
    names: &[(LogId, Names)],
) -> Result<BTreeSet<String>, ArchiverError> {
    let mut kept = BTreeSet::new();
    for (log, names) in names {
        let mut newest = None;
        for path in names.fulls() {
            let mut manifest = ManifestReader::new(archive.fetch(&path).await?, &path)?;
            let is_before = *log != erasure.log_id || manifest.header.next_offset <= erasure.offset;
            if !is_before {
                break;
            }
            let is_taken_up = path::name(&path).is_some_and(path::is_taken_up);
            while let Some(line) = manifest.next_scope()? {
                if line.scope == erasure.scope
                    && let Some(backup) = line.backup
                {
                    newest = Some(backup.path.clone());
                    kept.extend(is_taken_up.then_some(backup.path));
                }
            }
        }
        kept.extend(newest);
    }
    Ok(kept)
}

/// The backup whose object has a path, and the manifest that lists it first.
async fn listed(
    archive: &Archive,
    scope: &ScopeKey,
    path: &str,
    names: &[(LogId, Names)],
) -> Result<Option<(LogId, Header, BackupObject)>, ArchiverError> {
    for (log, names) in names {
        let Some(manifest) = names.manifest_of(path) else { continue };
        let object = match archive.fetch(&manifest).await {
            Err(ArchiveError::NotFound { .. }) => continue,
            fetched => fetched?,
        };
        let mut manifest = ManifestReader::new(object, &manifest)?;
        let mut found = None;
        while let Some(line) = manifest.next_scope()? {
            if line.scope == *scope {
                found = line.backup.filter(|backup| backup.path == path);
            }
        }
        if let Some(backup) = found {
            return Ok(Some((*log, manifest.header.clone(), backup)));
        }
    }
    Ok(None)
}
