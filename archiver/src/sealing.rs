//! Sealing: an hour or a day that is over becomes objects, and then a manifest.

use std::sync::Arc;

use archive::{
    Archive, ArchiveError,
    erasure::Erasure,
    manifest::{
        BackupObject, FORMAT, Header, Kind, ManifestReader, ManifestWriter, Reference, ScopeLine,
    },
    object::{LinesWriter, Object, Scratch},
    path,
    period::{Day, Hour, HourLength},
    redaction,
};
use eventlog::EventLog;
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{AboutBackup, BackupId, BackupType, Cursor, Fact, Partition, ScopeKey, ScopeRef};

use crate::{
    cache::{Cache, PartitionState, RequestedBackup, StoredErasure, View},
    error::ArchiverError,
    events,
    facts::Facts,
    measure,
    workers::blocking,
};

/// Scopes whose objects are made and uploaded at the same time: most of it is waiting for the disk or the network.
pub(crate) const SCOPES_AT_ONCE: usize = 16;
/// What the line of a live message ends with, whatever its content: JSON escapes quotes.
const LIVE: &[u8] = b",\"deleted\":false}";

/// Writes what is over.
pub(crate) struct Sealer<'a> {
    pub(crate) log: &'a Arc<dyn EventLog>,
    pub(crate) archive: &'a Archive,
    pub(crate) cache: &'a Arc<Cache>,
    pub(crate) facts: Facts<'a>,
    pub(crate) length: HourLength,
}

/// Which backup of a scope is to be made.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) id: BackupId,
    pub(crate) backup_type: BackupType,
    pub(crate) path: String,
    /// The state before: what is after this cursor is in the backup.
    pub(crate) after: Cursor,
}

impl Sealer<'_> {
    /// Seals the open hour of a partition, if there is one.
    pub(crate) async fn seal_hour(&self, partition: Partition) -> Result<(), ArchiverError> {
        let mut state = self.cache.state(partition)?;
        let Some(hour) = state.hour else { return Ok(()) };
        self.keep_erasures(partition).await?;
        let path = path::hour_manifest(self.log.log_id(), partition, self.length, hour);
        let header = Header {
            first_offset: state.sealed,
            gaps: state.gaps.clone(),
            ..self.header(Kind::Hour, partition, self.length.hour_name(hour), &state)
        };
        let manifest = match self.existing(&path).await? {
            Some(manifest) => match check(manifest, &path, &header) {
                // Two archivers may have found the log beginning at different places.
                Err(_) if state.taken_up > state.sealed => {
                    return self.take_up_elsewhere(partition, path);
                }
                checked => checked?,
            },
            None => self.write_hour(&path, header, hour, &state).await?,
        };
        state.previous = Some(Reference { path: path.clone(), sha256: manifest.sha256.clone() });
        self.facts.completed(manifest, &path, self.length.end(hour), |_| true).await?;
        tracing::info!(%partition, hour = self.length.hour_name(hour), "sealed an hour");
        (state.sealed, state.sealed_time) = (state.next_offset, state.time);
        (state.hour, state.hour_is_used, state.gaps) = (None, false, Vec::new());
        self.cache.write(partition, true, |tables| {
            tables.close_hour(partition)?;
            tables.forget_commands(partition, state.time)?;
            tables.put_state(partition, &state)
        })?;
        Ok(())
    }

    /// What was erased in the hour is written down before it is sealed: whoever finds the hour finds that too.
    async fn keep_erasures(&self, partition: Partition) -> Result<(), ArchiverError> {
        let erasures = self.cache.read(partition)?.erasures(partition)?;
        for (offset, StoredErasure { id, scope, cursor, at }) in erasures {
            let scope: ScopeKey =
                scope.parse().map_err(|_| ArchiverError::Cache(format!("{scope} is no scope")))?;
            let place = (self.log.log_id(), partition, offset);
            Erasure::new(place, id, scope, cursor, at).keep(self.archive).await?;
        }
        Ok(())
    }

    async fn existing(&self, path: &str) -> Result<Option<Object>, ArchiveError> {
        match self.archive.fetch(path).await {
            Ok(object) => Ok(Some(object)),
            Err(ArchiveError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write_hour(
        &self,
        path: &str,
        header: Header,
        hour: Hour,
        state: &PartitionState,
    ) -> Result<Object, ArchiverError> {
        let partition = header.partition;
        let view = Arc::new(self.cache.read(partition)?);
        let tables = events::tables(self.log, self.archive, &view, partition, state).await?;
        let events_path = path::events(self.length, hour, partition);
        let events = events::upload(self.archive, events_path, tables.events).await?;
        let messages_path = path::messages(self.length, hour, partition);
        let messages = match tables.messages {
            Some(file) => Some(events::upload(self.archive, messages_path, file).await?),
            None => None,
        };
        let header = Header { events: Some(events), messages, ..header };
        let name = header.period.clone();
        let scopes = view.open_hour(partition)?.into_iter().map(|(scope, before)| {
            let (view, name) = (view.clone(), name.clone());
            async move {
                let (key, heading) = view.existing_scope(partition, scope)?;
                let wanted = (heading.head > before).then(|| Wanted {
                    id: BackupId::scheduled(&key, BackupType::Incremental, &name),
                    backup_type: BackupType::Incremental,
                    path: path::incremental(&key, self.length, hour),
                    after: before,
                });
                self.scope_line(&view, partition, scope, wanted).await
            }
        });
        let lines = stream::iter(scopes).buffered(SCOPES_AT_ONCE);
        let manifest = self.write_manifest(path, &header, lines).await?;
        // Another archiver may have sealed the hour long ago, and erased something in it.
        for file in [&header.events, &header.messages].into_iter().flatten() {
            redaction::delete_replaced(self.archive, file).await?;
        }
        Ok(manifest)
    }

    /// Writes the full backups of a partition as of the end of its open day, if anything happened in it.
    pub(crate) async fn seal_day(&self, partition: Partition) -> Result<(), ArchiverError> {
        let mut state = self.cache.state(partition)?;
        let Some(day) = state.day.filter(|_| state.day_is_used).map(Day::next) else {
            state.day = None;
            self.cache.write(partition, false, |tables| tables.put_state(partition, &state))?;
            return Ok(());
        };
        let path = path::full_manifest(self.log.log_id(), partition, self.length, day);
        let header = self.header(Kind::Full, partition, self.length.day_name(day), &state);
        let mut manifest = match self.existing(&path).await? {
            Some(manifest) => check(manifest, &path, &header)?,
            None => self.write_day(&path, &header, day).await?,
        };
        let fulls = fulls(copy(&mut manifest)?, &path)?;
        let name = self.length.day_name(day);
        let is_new = |backup: &BackupObject| backup.path.ends_with(&format!("/{name}.jsonl.gz"));
        self.facts.completed(manifest, &path, self.length.midnight(day), is_new).await?;
        tracing::info!(%partition, day = self.length.day_name(day), "wrote full backups");
        (state.day, state.day_is_used) = (None, false);
        self.cache.write(partition, true, |tables| {
            for (scope, full) in &fulls {
                tables.put_full(*scope, full)?;
            }
            tables.put_state(partition, &state)
        })?;
        Ok(())
    }

    async fn write_day(
        &self,
        path: &str,
        header: &Header,
        day: Day,
    ) -> Result<Object, ArchiverError> {
        let (partition, name) = (header.partition, header.period.clone());
        let view = Arc::new(self.cache.read(partition)?);
        let scopes = view.scopes(partition)?.into_iter().map(|scope| {
            let (view, name) = (view.clone(), name.clone());
            async move {
                let (key, heading) = view.existing_scope(partition, scope)?;
                if let Some(last) = view.last_full(scope)?
                    && last.cursor_last == heading.head
                    && self.outlives(&key, &last, day.next())
                {
                    return Ok(view.scope_line(partition, scope, Some(last))?);
                }
                let wanted = Wanted {
                    id: BackupId::scheduled(&key, BackupType::Full, &name),
                    backup_type: BackupType::Full,
                    path: path::full(&key, self.length, day),
                    after: Cursor::ZERO,
                };
                self.scope_line(&view, partition, scope, Some(wanted)).await
            }
        });
        let lines = stream::iter(scopes).buffered(SCOPES_AT_ONCE);
        self.write_manifest(path, header, lines).await
    }

    /// Whether a scope's full is kept past a day's begin: else another one takes its place before it expires.
    fn outlives(&self, key: &ScopeKey, full: &BackupObject, day: Day) -> bool {
        let Some(made) = path::name(&full.path).and_then(|name| self.length.day_named(name)) else {
            return false;
        };
        let created_at = self.length.midnight(made);
        let expires_at = self.facts.retention.expires_at(BackupType::Full, key.kind, created_at);
        expires_at.is_none_or(|at| at > self.length.midnight(day))
    }

    /// Writes full backups of a partition as its state was taken up behind a gap.
    pub(crate) async fn seal_gap(&self, partition: Partition) -> Result<(), ArchiverError> {
        let mut state = self.cache.state(partition)?;
        let Some(time) = state.after_gap.take() else { return Ok(()) };
        state.time = state.time.max(time);
        let name = path::gap_name(self.length, self.length.hour_of(state.time));
        let path = path::gap_manifest(self.log.log_id(), partition, &name);
        let mut manifest = match self.existing(&path).await? {
            Some(manifest) => manifest,
            None => self.write_gap(&path, partition, &name, &state).await?,
        };
        let found = ManifestReader::new(copy(&mut manifest)?, &path)?.header;
        if found.next_offset != state.taken_up {
            return self.take_up_elsewhere(partition, path);
        }
        let fulls = fulls(copy(&mut manifest)?, &path)?;
        self.facts.completed(manifest, &path, state.time, |_| true).await?;
        tracing::warn!(%partition, name, "wrote full backups of every scope after a gap");
        self.cache.write(partition, true, |tables| {
            for (scope, full) in &fulls {
                tables.put_full(*scope, full)?;
            }
            tables.put_state(partition, &state)
        })?;
        Ok(())
    }

    /// The next session goes on from what another archiver has written.
    fn take_up_elsewhere(&self, partition: Partition, path: String) -> Result<(), ArchiverError> {
        self.cache.write(partition, true, |tables| tables.clear(partition))?;
        Err(ArchiverError::TakenUpElsewhere { path })
    }

    async fn write_gap(
        &self,
        path: &str,
        partition: Partition,
        name: &str,
        state: &PartitionState,
    ) -> Result<Object, ArchiverError> {
        let view = Arc::new(self.cache.read(partition)?);
        let header = Header {
            gaps: state.gaps.clone(),
            first_offset: state.taken_up,
            next_offset: state.taken_up,
            ..self.header(Kind::Full, partition, name.to_owned(), state)
        };
        let scopes = view.scopes(partition)?.into_iter().map(|scope| {
            let view = view.clone();
            async move {
                let (key, _) = view.existing_scope(partition, scope)?;
                let wanted = Wanted {
                    id: BackupId::scheduled(&key, BackupType::Full, name),
                    backup_type: BackupType::Full,
                    path: path::gap_full(&key, name, state.taken_up),
                    after: Cursor::ZERO,
                };
                self.scope_line(&view, partition, scope, Some(wanted)).await
            }
        });
        let lines = stream::iter(scopes).buffered(SCOPES_AT_ONCE);
        match self.write_manifest(path, &header, lines).await {
            // Another archiver was quicker, from another place.
            Err(ArchiverError::Archive(ArchiveError::OtherContent { path: other }))
                if other == path =>
            {
                Ok(self.archive.fetch(path).await?)
            }
            written => written,
        }
    }

    /// Makes the backup that the record folded last asked for.
    pub(crate) async fn back_up(&self, partition: Partition) -> Result<(), ArchiverError> {
        let mut state = self.cache.state(partition)?;
        let Some(requested) = state.requested.take() else { return Ok(()) };
        let id = requested.backup;
        let key: ScopeKey = requested
            .scope
            .parse()
            .map_err(|_| ArchiverError::Cache(format!("{} is no scope", requested.scope)))?;
        let backed_up = if state.next_offset <= state.taken_up {
            // The state was taken up behind it: what the scope held there is not known any more.
            Err(ArchiveError::Gone { offset: state.next_offset.get() - 1 }.into())
        } else {
            self.back_up_scope(partition, &state, &key, &requested).await
        };
        match backed_up {
            // Trying again cannot mend it, and what comes after it on the log must not wait for ever.
            Err(ArchiverError::Archive(error)) if !error.is_retryable() => {
                tracing::error!(%error, backup = %id, scope = %key, "a backup on demand failed");
                measure::backup_ended(false);
                let about = AboutBackup { id, scope: key, at: requested.at };
                let (backup_type, detail) = (BackupType::OnDemand, error.to_string());
                self.facts.say(&Fact::BackupFailed { about, backup_type, detail }).await?;
            }
            made => {
                made?;
                tracing::info!(%partition, backup = %id, scope = %key, "made a backup on demand");
            }
        }
        self.cache.write(partition, true, |tables| tables.put_state(partition, &state))?;
        Ok(())
    }

    async fn back_up_scope(
        &self,
        partition: Partition,
        state: &PartitionState,
        scope: &ScopeKey,
        requested: &RequestedBackup,
    ) -> Result<(), ArchiverError> {
        let id = requested.backup;
        let path = path::on_demand_manifest(self.log.log_id(), partition, id);
        let header = self.header(Kind::OnDemand, partition, id.to_string(), state);
        let manifest = match self.existing(&path).await? {
            // The first request of an id decides: another one on the log must not end all archiving.
            Some(manifest) => manifest,
            None => {
                let view = Arc::new(self.cache.read(partition)?);
                let wanted = Wanted {
                    id,
                    backup_type: BackupType::OnDemand,
                    path: path::on_demand(scope, requested.at, id),
                    after: Cursor::ZERO,
                };
                let line = self.scope_line(&view, partition, scope.reference(), Some(wanted));
                self.write_manifest(&path, &header, stream::once(line)).await?
            }
        };
        self.facts.completed(manifest, &path, requested.at, |_| true).await
    }

    fn header(
        &self,
        kind: Kind,
        partition: Partition,
        period: String,
        state: &PartitionState,
    ) -> Header {
        Header {
            format: FORMAT,
            kind,
            log_id: self.log.log_id(),
            partition,
            partitions: self.log.partitions(),
            period,
            period_seconds: self.length,
            first_offset: state.next_offset,
            next_offset: state.next_offset,
            clock: state.time,
            rules: state.rules,
            previous: state.previous.clone(),
            gaps: Vec::new(),
            events: None,
            messages: None,
            recovered_from: None,
            commands: None,
        }
    }

    /// A scope's line, once its backup, if one is wanted, is in the archive.
    pub(crate) async fn scope_line(
        &self,
        view: &Arc<View>,
        partition: Partition,
        scope: ScopeRef,
        wanted: Option<Wanted>,
    ) -> Result<ScopeLine, ArchiverError> {
        let mut line = view.scope_line(partition, scope, None)?;
        if let Some(wanted) = wanted {
            line.backup = Some(self.backup(view, scope, wanted, line.head).await?);
        }
        Ok(line)
    }

    async fn backup(
        &self,
        view: &Arc<View>,
        scope: ScopeRef,
        wanted: Wanted,
        head: Cursor,
    ) -> Result<BackupObject, ArchiverError> {
        let Wanted { id, backup_type, path, after } = wanted;
        let (view, scratch) = (view.clone(), self.archive.scratch().clone());
        let mut made = blocking(move || Made::new(&view, &scratch, scope, after)).await?;
        self.archive.create(&path, &mut made.object).await?;
        let Made { object, lines, record_count } = made;
        Ok(BackupObject {
            id,
            backup_type,
            path,
            sha256: object.sha256,
            content_sha256: object.content_sha256,
            size_bytes: object.size_bytes,
            lines,
            record_count,
            cursor_first: after.next(),
            // Its line may be of a tombstone that has expired; of an erasure no line has it.
            cursor_last: head,
        })
    }

    pub(crate) async fn write_manifest(
        &self,
        path: &str,
        header: &Header,
        lines: impl stream::Stream<Item = Result<ScopeLine, ArchiverError>>,
    ) -> Result<Object, ArchiverError> {
        let mut writer = ManifestWriter::new(self.archive.scratch(), header)?;
        let mut lines = std::pin::pin!(lines);
        while let Some(line) = lines.try_next().await? {
            writer.push(&line)?;
        }
        let mut manifest = writer.finish()?;
        self.archive.create(path, &mut manifest).await?;
        Ok(manifest)
    }
}

/// A backup that was made, not uploaded yet.
struct Made {
    object: Object,
    lines: u64,
    record_count: u64,
}

impl Made {
    fn new(
        view: &View,
        scratch: &Scratch,
        scope: ScopeRef,
        after: Cursor,
    ) -> Result<Self, ArchiverError> {
        let mut writer = LinesWriter::new(scratch);
        let (mut live, mut failed) = (0, None);
        view.lines(scope, after, |_, line| {
            live += u64::from(line.ends_with(LIVE));
            if let Err(error) = writer.push(line) {
                failed.get_or_insert(error);
            }
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let lines = writer.lines;
        Ok(Self { object: writer.finish()?, lines, record_count: live })
    }
}

/// The manifest was there: written before a crash, or by another archiver. It must say the same.
fn check(mut manifest: Object, path: &str, expected: &Header) -> Result<Object, ArchiverError> {
    let found = ManifestReader::new(copy(&mut manifest)?, path)?.header;
    let problem = if found.period_seconds != expected.period_seconds {
        format!("its hours have {}, these {}", found.period_seconds, expected.period_seconds)
    } else if (found.first_offset, found.next_offset)
        != (expected.first_offset, expected.next_offset)
    {
        format!(
            "it has the records [{}, {}), the log gives [{}, {})",
            found.first_offset, found.next_offset, expected.first_offset, expected.next_offset
        )
    } else if found.previous != expected.previous {
        "the hour before it is another one".to_owned()
    } else if (found.kind, &found.period) != (expected.kind, &expected.period) {
        format!("it is of {}", found.period)
    } else {
        return Ok(manifest);
    };
    Err(ArchiverError::OtherManifest { path: path.to_owned(), problem })
}

/// A manifest is read once by each who needs it.
fn copy(manifest: &mut Object) -> Result<Object, ArchiverError> {
    Ok(Object::of_bytes(&Scratch::default(), &manifest.bytes()?)?)
}

/// The scopes of a full's manifest and their objects.
pub(crate) fn fulls(
    manifest: Object,
    path: &str,
) -> Result<Vec<(ScopeRef, BackupObject)>, ArchiverError> {
    let mut reader = ManifestReader::new(manifest, path)?;
    let mut fulls = Vec::new();
    while let Some(line) = reader.next_scope()? {
        if let Some(backup) = line.backup {
            fulls.push((line.scope.reference(), backup));
        }
    }
    Ok(fulls)
}
