//! Retention of backups: what is over its time is written down, then deleted, then said to have expired.
//!
//! The bucket's manifests say what there is: they are the truth, and outlive the catalogue. Backups are over in groups:
//! the incrementals of a day, the fulls that a manifest is the last to list, each backup on demand. A group is a
//! merge of sorted manifests, so memory does not grow with the number of scopes. A crash anywhere is repeated
//! harmlessly; a mark says that a group is done.

mod told;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use archive::{
    Archive, ArchiveError, base,
    expired::{Class, DONE, ExpiredBackup, ExpiredReader, ExpiredWriter, Header, paths},
    history::{self, Names},
    manifest::{BackupObject, ManifestReader, ScopeLine},
    object::Object,
    path,
    period::{Day, HourLength},
};
use eventlog::{EventLog, partition_of};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{
    AboutBackup, BackupType, Fact, LogId, Partition, ScopeKey, ScopeKind, ScopeRef, Timestamp,
};

pub use told::{Fate, Forgotten, Overdue, Stays, Summary};
pub(crate) use told::{LISTENS_WITHIN, Told};

use crate::{
    cache::Cache, clock::Clock, config::Retention, error::ArchiverError, facts::Facts,
    measure::EXPIRED,
};

/// Scopes whose newest full is read, or objects that are deleted, at the same time.
const AT_ONCE: usize = 16;
/// How long the fold may take to be where the log ended.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(300);
/// How often to look whether the fold is where the log ends.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Expires backups, and tombstones.
pub(crate) struct Expiry {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) facts: Arc<dyn EventLog>,
    pub(crate) archive: Archive,
    pub(crate) cache: Arc<Cache>,
    pub(crate) retention: Retention,
    pub(crate) length: HourLength,
    pub(crate) clock: Clock,
}

/// Backups that are over together.
#[derive(Debug)]
struct Group {
    log: LogId,
    partition: Partition,
    class: Class,
    period: String,
    /// The manifests that list them.
    manifests: Vec<String>,
    /// Of fulls: the manifest of the next ones.
    next: Option<String>,
    /// The manifest of the newest fulls.
    newest: Option<String>,
}

/// The manifests of fulls that come after those of a log: its own, and those of logs that go on from it.
#[derive(Default)]
struct Later {
    newest: Option<String>,
    /// The next log's first.
    next: Option<String>,
}

/// A partition of a log.
struct Of<'a> {
    log: LogId,
    partition: Partition,
    names: &'a Names,
    later: &'a Later,
    now: Timestamp,
}

impl Of<'_> {
    fn group(&self, class: Class, period: String, manifests: Vec<String>) -> Group {
        let (log, partition, newest) = (self.log, self.partition, self.later.newest.clone());
        Group { log, partition, class, period, manifests, next: None, newest }
    }
}

impl Expiry {
    /// Expires all that is due, or says what would expire.
    pub(crate) async fn run(
        &self,
        dry_run: bool,
        told: &mut Told,
    ) -> Result<Summary, ArchiverError> {
        let needed = self.needed().await?;
        let now = self.clock.now_by_log(self.cache.newest(self.log.partitions())?.0);
        self.expire_tombstones(now, dry_run, told).await?;
        // What a lost log has left is over in its time too.
        let lineage = base::lineage(&self.archive, self.log.log_id()).await?;
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let mut later = Later::default();
            for log in &lineage {
                let names = Names::list(&self.archive, *log, partition).await?;
                later.newest = later.newest.or_else(|| names.fulls().next_back());
                let of = Of { log: *log, partition, names: &names, later: &later, now };
                for group in self.groups(&of).await? {
                    match self.expire(&group, &names, &needed, dry_run, told).await {
                        Err(error) if !error.is_retryable() => {
                            let Group { class, period, .. } = group;
                            tracing::error!(%error, %partition, %class, period, "backups cannot expire");
                        }
                        done => done?,
                    }
                }
                later.next = names.fulls().next();
            }
        }
        Ok(told.summary)
    }

    /// What is over its time and not done yet, the oldest first.
    async fn groups(&self, of: &Of<'_>) -> Result<Vec<Group>, ArchiverError> {
        let mut groups = self.incrementals(of);
        groups.extend(self.fulls(of));
        groups.extend(self.on_demand(of).await?);
        Ok(groups)
    }

    fn incrementals(&self, of: &Of<'_>) -> Vec<Group> {
        let mut groups = Vec::new();
        for (day, manifests) in self.days(of.names) {
            let (period, end) = (self.length.day_name(day), self.length.midnight(day.next()));
            for kind in ScopeKind::ALL {
                let class = Class::new(BackupType::Incremental, kind);
                if self.is_over(class, end, of.now) && !of.names.is_expired(class, &period) {
                    groups.push(of.group(class, period.clone(), manifests.clone()));
                }
            }
        }
        groups
    }

    fn fulls(&self, of: &Of<'_>) -> Vec<Group> {
        let fulls: Vec<String> = of.names.fulls().collect();
        let mut groups = Vec::new();
        for (place, path) in fulls.iter().enumerate() {
            let period = name(path);
            let next = fulls.get(place + 1).or(of.later.next.as_ref());
            let Some(time) = path::full_time(self.length, period) else { continue };
            for kind in ScopeKind::ALL {
                let class = Class::new(BackupType::Full, kind);
                if self.is_over(class, time, of.now)
                    && next.is_none_or(|next| self.is_free(kind, next, of.now))
                    && !of.names.is_expired(class, period)
                {
                    let group = of.group(class, period.to_owned(), vec![path.clone()]);
                    groups.push(Group { next: next.cloned(), ..group });
                }
            }
        }
        groups
    }

    async fn on_demand(&self, of: &Of<'_>) -> Result<Vec<Group>, ArchiverError> {
        let Of { partition, names, now, .. } = *of;
        let mut groups = Vec::new();
        for path in names.on_demand() {
            let period = name(&path).to_owned();
            let class = |kind| Class::new(BackupType::OnDemand, kind);
            // Where they are kept for ever, or it is done, nothing is read.
            let may_go = |kind| self.is_over(class(kind), Timestamp::EPOCH, now);
            if !ScopeKind::ALL.into_iter().any(may_go)
                || ScopeKind::ALL.into_iter().any(|kind| names.is_expired(class(kind), &period))
            {
                continue;
            }
            let (requested, kind) = match self.requested(&path).await {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                // Whoever verifies finds it too.
                Err(error) if !error.is_retryable() => {
                    tracing::error!(%error, %partition, path, "a backup on demand cannot expire");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.is_over(class(kind), requested, now) {
                groups.push(of.group(class(kind), period, vec![path]));
            }
        }
        Ok(groups)
    }

    /// The manifests of hours by their day.
    fn days(&self, names: &Names) -> BTreeMap<Day, Vec<String>> {
        let mut days: BTreeMap<Day, Vec<String>> = BTreeMap::new();
        for path in names.hours() {
            if let Some(hour) = self.length.hour_named(name(&path)) {
                days.entry(hour.day()).or_default().push(path);
            }
        }
        days
    }

    fn is_over(&self, class: Class, created_at: Timestamp, now: Timestamp) -> bool {
        let expires_at = self.retention.expires_at(class.backup_type, class.kind, created_at);
        expires_at.is_some_and(|at| at < now)
    }

    /// The incrementals between a full and the next one go on from it: it stays as long as they do.
    fn is_free(&self, kind: ScopeKind, next: &str, now: Timestamp) -> bool {
        let end = path::incrementals_end(self.length, name(next));
        let incrementals = Class::new(BackupType::Incremental, kind);
        end.is_some_and(|end| self.is_over(incrementals, end, now))
    }

    /// When a backup on demand was asked for, and of what kind of scope.
    async fn requested(&self, path: &str) -> Result<Option<(Timestamp, ScopeKind)>, ArchiverError> {
        let mut manifest = ManifestReader::new(self.archive.fetch(path).await?, path)?;
        let line = manifest.next_scope()?;
        Ok(line.map(|line| (manifest.header.clock, line.scope.kind)))
    }

    async fn expire(
        &self,
        group: &Group,
        names: &Names,
        needed: &HashSet<String>,
        dry_run: bool,
        told: &mut Told,
    ) -> Result<(), ArchiverError> {
        let Group { log, partition, class, ref period, .. } = *group;
        let mut records: Vec<String> = names.expired_of(class, period).collect();
        let recorded = self.recorded(&records).await?;
        let header = Header::new(log, partition, class, period.clone());
        let mut record = ExpiredWriter::new(self.archive.scratch(), &header)?;
        let mut rows = Rows::open(&self.archive, group).await?;
        let rows = std::iter::from_fn(|| rows.next_row().transpose());
        let judged = stream::iter(rows)
            .map(|row| async { self.judge(group, row?, needed).await })
            .buffered(AT_ONCE);
        let mut judged = std::pin::pin!(judged);
        let mut is_done = true;
        let mut stay = HashSet::new();
        while let Some(overdue) = judged.try_next().await? {
            for (backup, fate) in overdue {
                match fate {
                    Fate::Goes if dry_run => told.tell(backup, fate).await,
                    Fate::Goes if recorded.contains(&backup.path) => {}
                    Fate::Goes => record.push(&backup)?,
                    Fate::Stays { ref why } => {
                        is_done &= *why == Stays::CarriedOn;
                        stay.insert(backup.path.clone());
                        told.tell(backup, fate).await;
                    }
                }
            }
        }
        if dry_run {
            return Ok(());
        }
        let folder = path::expired(log, partition, class, period);
        if !record.is_empty() {
            let mut record = record.finish()?;
            let path = format!("{folder}/{}.jsonl.gz", record.sha256);
            self.archive.create(&path, &mut record).await?;
            records.push(path);
        }
        is_done &= self.delete(&records, &stay, told).await?;
        if is_done {
            let mut mark = Object::of_bytes(self.archive.scratch(), b"")?;
            self.archive.create(&format!("{folder}/{DONE}"), &mut mark).await?;
        }
        Ok(())
    }

    /// What was written down before a crash.
    async fn recorded(&self, records: &[String]) -> Result<HashSet<String>, ArchiverError> {
        let mut recorded = HashSet::new();
        for record in records {
            recorded.extend(paths(&self.archive, record).await?);
        }
        Ok(recorded)
    }

    /// What becomes of a scope's backups.
    async fn judge(
        &self,
        group: &Group,
        row: Row,
        needed: &HashSet<String>,
    ) -> Result<Vec<(ExpiredBackup, Fate)>, ArchiverError> {
        let is_of_class =
            |backup: &BackupObject| Class::new(backup.backup_type, row.scope.kind) == group.class;
        let backups: Vec<&BackupObject> =
            row.backups.iter().filter(|backup| is_of_class(backup)).collect();
        let Some(last) = backups.last() else { return Ok(Vec::new()) };
        let stays = match group.class.backup_type {
            BackupType::OnDemand => None,
            BackupType::Incremental => self.uncovered(&row, last).await?,
            BackupType::Full => match &row.next {
                None => Some(Stays::NewestFull),
                Some(next) if next.path == last.path => Some(Stays::CarriedOn),
                Some(_) if path::is_base_of(&last.path, self.log.log_id()) => {
                    Some(Stays::LogBegins)
                }
                Some(_) => self.uncovered(&row, last).await?,
            },
        };
        let fate = |backup: &BackupObject| match &stays {
            Some(why) => Fate::Stays { why: why.clone() },
            None if needed.contains(&backup.path) => Fate::Stays { why: Stays::Restoring },
            None => Fate::Goes,
        };
        let judged = |backup: &&BackupObject| {
            let fate = fate(backup);
            (ExpiredBackup::new(row.scope.clone(), (*backup).clone()), fate)
        };
        Ok(backups.iter().map(judged).collect())
    }

    /// Why a backup is not safe to delete: the scope's newest full has what is in it, and is read to prove that it is
    /// there.
    async fn uncovered(
        &self,
        row: &Row,
        last: &BackupObject,
    ) -> Result<Option<Stays>, ArchiverError> {
        let Some(newest) = &row.newest else { return Ok(Some(Stays::NotCovered)) };
        if newest.path == last.path {
            return Ok(Some(Stays::NewestFull));
        }
        if newest.cursor_last < last.cursor_last {
            return Ok(Some(Stays::NotCovered));
        }
        match self.archive.fetch_checked(&newest.path, &newest.sha256).await {
            Ok(_) => Ok(None),
            Err(error @ (ArchiveError::Damaged { .. } | ArchiveError::NotFound { .. })) => {
                tracing::error!(%error, scope = %row.scope, "nothing of the scope expires");
                Ok(Some(Stays::NewestFullDamaged(error.to_string())))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes what the records name, and says so. Returns whether all of it went. `stay`: what a record of before
    /// names, and is judged otherwise now; of those it was said.
    async fn delete(
        &self,
        records: &[String],
        stay: &HashSet<String>,
        told: &mut Told,
    ) -> Result<bool, ArchiverError> {
        if records.is_empty() {
            return Ok(true);
        }
        // Who finds a backup looks for a record first: a restore that did not see one is on the log by now.
        let needed = self.needed().await?;
        let mut all = true;
        for record in records {
            let mut reader = ExpiredReader::fetch(&self.archive, record).await?;
            let backups = std::iter::from_fn(|| reader.next_backup().transpose())
                .filter(|read| !read.as_ref().is_ok_and(|backup| stay.contains(&backup.path)));
            let deleted = stream::iter(backups)
                .map(|backup| async { self.delete_one(backup?, &needed).await })
                .buffered(AT_ONCE);
            let mut deleted = std::pin::pin!(deleted);
            while let Some((backup, fate)) = deleted.try_next().await? {
                all &= fate == Fate::Goes;
                told.tell(backup, fate).await;
            }
        }
        Ok(all)
    }

    async fn delete_one(
        &self,
        backup: ExpiredBackup,
        needed: &HashSet<String>,
    ) -> Result<(ExpiredBackup, Fate), ArchiverError> {
        if needed.contains(&backup.path) {
            return Ok((backup, Fate::Stays { why: Stays::Restoring }));
        }
        let was_there = match self.archive.delete(&backup.path).await {
            // One hold must not keep everything else from expiring.
            Err(error) if error.needs_operator() => {
                let why = Stays::Refused(error.to_string());
                tracing::warn!(%error, path = backup.path, "a backup that is over cannot be deleted");
                return Ok((backup, Fate::Stays { why }));
            }
            deleted => deleted?,
        };
        if was_there {
            let (path, scope) = (&backup.path, &backup.scope);
            tracing::info!(path, %scope, backup = %backup.id, "expired a backup");
            let backup_type = backup.backup_type.as_str();
            metrics::counter!(EXPIRED, "type" => backup_type).increment(1);
        }
        let (id, scope, at) = (backup.id, backup.scope.clone(), self.clock.now());
        self.facts().say(&Fact::BackupExpired(AboutBackup { id, scope, at })).await?;
        Ok((backup, Fate::Goes))
    }

    pub(crate) fn facts(&self) -> Facts<'_> {
        let Self { facts: log, archive, retention, clock, .. } = self;
        Facts { log, archive, retention, clock }
    }

    /// The objects that running restores read, of all restores that are on the log now.
    async fn needed(&self) -> Result<HashSet<String>, ArchiverError> {
        self.catch_up().await?;
        let mut needed = HashSet::new();
        for (_, restore) in self.cache.running_restores()? {
            // What is no scope has no backup: the restore fails by itself.
            let Ok(source) = restore.source.parse::<ScopeKey>() else { continue };
            let partition = partition_of(source.to_string().as_bytes(), self.log.partitions());
            let (log, id) = (self.log.log_id(), restore.backup);
            let found = history::find_listed(&self.archive, log, partition, &source, id).await?;
            needed.extend(found.into_iter().flat_map(|found| found.objects).map(|o| o.path));
        }
        Ok(needed)
    }

    /// Waits until the fold is where the log ends now.
    async fn catch_up(&self) -> Result<(), ArchiverError> {
        let deadline = Instant::now() + CATCH_UP_WITHIN;
        for partition in (0..self.log.partitions()).map(Partition::new) {
            let end = self.log.bounds(partition).await?.end;
            loop {
                let found = self.cache.state(partition)?.next_offset;
                if found >= end {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(ArchiverError::Behind { partition, found, end });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}

/// The period in a manifest's path.
fn name(path: &str) -> &str {
    path::name(path).unwrap_or_default()
}

/// A scope in the manifests of a group.
struct Row {
    scope: ScopeKey,
    /// The group's, the oldest first.
    backups: Vec<BackupObject>,
    next: Option<BackupObject>,
    newest: Option<BackupObject>,
}

/// The lines of a group's manifests, scope by scope: each manifest has its scopes in the order of their references.
struct Rows {
    manifests: Vec<Ahead>,
    next: Option<Ahead>,
    newest: Option<Ahead>,
}

/// A manifest whose next line is read.
struct Ahead {
    reader: ManifestReader,
    line: Option<(ScopeRef, ScopeLine)>,
}

impl Ahead {
    async fn open(archive: &Archive, path: &str) -> Result<Self, ArchiveError> {
        let reader = ManifestReader::new(archive.fetch(path).await?, path)?;
        let mut ahead = Self { reader, line: None };
        ahead.advance()?;
        Ok(ahead)
    }

    async fn open_if(archive: &Archive, path: Option<&str>) -> Result<Option<Self>, ArchiveError> {
        match path {
            Some(path) => Self::open(archive, path).await.map(Some),
            None => Ok(None),
        }
    }

    fn advance(&mut self) -> Result<(), ArchiveError> {
        let line = self.reader.next_scope()?;
        self.line = line.map(|line| (line.scope.reference(), line));
        Ok(())
    }

    /// The line of a scope, if it is the next.
    fn take(&mut self, scope: ScopeRef) -> Result<Option<ScopeLine>, ArchiveError> {
        let Some((_, line)) = self.line.take_if(|(next, _)| *next == scope) else {
            return Ok(None);
        };
        self.advance()?;
        Ok(Some(line))
    }
}

impl Rows {
    async fn open(archive: &Archive, group: &Group) -> Result<Self, ArchiveError> {
        let mut manifests = Vec::with_capacity(group.manifests.len());
        for path in &group.manifests {
            manifests.push(Ahead::open(archive, path).await?);
        }
        let next = Ahead::open_if(archive, group.next.as_deref()).await?;
        let newest = Ahead::open_if(archive, group.newest.as_deref()).await?;
        Ok(Self { manifests, next, newest })
    }

    /// The next scope that one of the group's manifests has.
    fn next_row(&mut self) -> Result<Option<Row>, ArchiveError> {
        let heads = self.manifests.iter().filter_map(|ahead| ahead.line.as_ref());
        let Some((reference, scope)) =
            heads.map(|(reference, line)| (*reference, line.scope.clone())).min_by_key(|(r, _)| *r)
        else {
            return Ok(None);
        };
        let mut backups = Vec::new();
        for ahead in &mut self.manifests {
            backups.extend(ahead.take(reference)?.and_then(|line| line.backup));
        }
        let next = skip_to(self.next.as_mut(), reference)?;
        let newest = skip_to(self.newest.as_mut(), reference)?;
        Ok(Some(Row { scope, backups, next, newest }))
    }
}

/// The backup of a scope in a manifest that has others too.
fn skip_to(
    ahead: Option<&mut Ahead>,
    scope: ScopeRef,
) -> Result<Option<BackupObject>, ArchiveError> {
    let Some(ahead) = ahead else { return Ok(None) };
    while ahead.line.as_ref().is_some_and(|(next, _)| *next < scope) {
        ahead.advance()?;
    }
    Ok(ahead.take(scope)?.and_then(|line| line.backup))
}
