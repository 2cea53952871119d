//! A recovery that goes on: seal what is left, write what the new log begins with, tell the catalogue.

use std::sync::Arc;

use archive::{
    base::{self, CommandLine},
    erasure::{self, ErasureState},
    history::{Names, newest_hour},
    manifest::{BackupObject, FORMAT, Header, Kind, ManifestReader, TableFile},
    object::LinesWriter,
    path,
    table::{EventFiles, RecordVerdict},
};
use eventlog::EventLog;
use futures_util::{StreamExt, stream};
use model::{
    BackupId, BackupType, Cursor, ErasedFrom, ErasureDone, Event, Fact, LogId, Offset, Partition,
    Timestamp, limits::OUTCOME_KEPT_MICROS,
};
use service::ops::Readiness;
use tokio::sync::watch;

use super::{Recovery, RecoveryError, judging::check_partition, lost_log::LostLog};
use crate::{
    Upkeep,
    bootstrap::next_events,
    cache::Cache,
    error::ArchiverError,
    facts::Facts,
    measure::Progress,
    sealing::{SCOPES_AT_ONCE, Sealer, Wanted},
    session::Session,
    workers::blocking,
};

/// The fold of the lost log, beside the archiver's.
const CACHE: &str = "recovery";

/// A recovery that goes on.
pub(super) struct Work<'a> {
    of: &'a Recovery,
    /// The new log, and its log of facts.
    log: &'a Arc<dyn EventLog>,
    facts: &'a Arc<dyn EventLog>,
    lost: Arc<dyn EventLog>,
    cache: Arc<Cache>,
    upkeep: Upkeep,
    progress: watch::Sender<Progress>,
    readiness: Readiness,
    files: EventFiles,
}

impl<'a> Work<'a> {
    pub(super) async fn new(
        of: &'a Recovery,
        log: &'a Arc<dyn EventLog>,
        facts: &'a Arc<dyn EventLog>,
    ) -> Result<Self, RecoveryError> {
        let lost = LostLog::find(&of.archive, of.lost.log, log.partitions()).await?;
        let (directory, lost_id) = (of.config.cache_directory(), of.lost.log);
        let hours = of.config.archive_hour_seconds;
        let cache = blocking(move || {
            let failed = |error: std::io::Error| {
                ArchiverError::Cache(format!("{}: {error}", directory.display()))
            };
            std::fs::create_dir_all(&directory).map_err(failed)?;
            Ok(Arc::new(Cache::open(&directory, CACHE, lost_id, hours)?))
        })
        .await?;
        let (upkeep, _) = Upkeep::new(of.clock.clone(), None);
        Ok(Self {
            of,
            log,
            facts,
            lost: Arc::new(lost),
            cache,
            upkeep,
            progress: watch::Sender::new(Progress::default()),
            readiness: Readiness::new(),
            files: EventFiles::new(&of.archive),
        })
    }

    /// Seals what the segments have of a partition, as far as it goes: a cut hour is an hour. Where it ends.
    pub(super) async fn seal(&self, partition: Partition) -> Result<Offset, RecoveryError> {
        let ready = self.readiness.component("recovery");
        let session = Session {
            config: &self.of.config,
            log: &self.lost,
            facts: self.facts,
            archive: &self.of.archive,
            database: None,
            progress: &self.progress,
            ready: &ready,
            upkeep: &self.upkeep,
        };
        let next_offset = session.position(&self.cache, partition).await?;
        self.sealer().seal_hour(partition).await?;
        Ok(next_offset)
    }

    fn sealer(&self) -> Sealer<'_> {
        let facts = Facts {
            log: self.facts,
            archive: &self.of.archive,
            retention: &self.of.config.retention,
            clock: &self.upkeep.clock,
        };
        let length = self.of.config.archive_hour_seconds;
        Sealer { log: &self.lost, archive: &self.of.archive, cache: &self.cache, facts, length }
    }

    /// Writes what a partition of the new log begins with. How many scopes that are, and the log's time there.
    pub(super) async fn write_base(
        &mut self,
        partition: Partition,
    ) -> Result<(u64, Option<Timestamp>), RecoveryError> {
        let (length, log) = (self.of.config.archive_hour_seconds, self.log.log_id());
        let state = self.cache.state(partition).map_err(ArchiverError::from)?;
        let newest = newest_hour(&self.of.archive, self.of.lost.log, partition).await?;
        let newest = newest.map(|(_, header)| header);
        let hour = newest.as_ref().and_then(|header| length.hour_named(&header.period));
        let before = base::open(&self.of.archive, self.of.lost.log, partition).await?;
        let before = before.map(|manifest| manifest.header);
        // The new log's time goes on where the lost one's last hour ends, or where the lost one itself began, if nothing
        // came since: no hour is of both.
        let begun = before.as_ref().map_or(Timestamp::EPOCH, |before| before.clock);
        let clock = hour.map_or(begun, |hour| length.end(hour));
        let name = path::base_name(length, length.hour_of(clock), log);
        let last = newest.or(before).map(|header| header.clock);
        let commands = self.write_commands(partition, &name, last).await?;
        let header = Header {
            format: FORMAT,
            kind: Kind::Full,
            log_id: log,
            partition,
            partitions: self.log.partitions(),
            period: name.clone(),
            period_seconds: length,
            first_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            clock,
            rules: state.rules,
            previous: None,
            gaps: Vec::new(),
            events: None,
            messages: None,
            recovered_from: Some(self.of.lost.log),
            commands,
        };
        let sealer = self.sealer();
        let view = Arc::new(self.cache.read(partition).map_err(ArchiverError::from)?);
        let scopes = view.scopes(partition).map_err(ArchiverError::from)?;
        let count = scopes.len() as u64;
        for scope in &scopes {
            let (key, _) = view.existing_scope(partition, *scope).map_err(ArchiverError::from)?;
            check_partition(&key.to_string(), partition, self.log.partitions())?;
        }
        let lines = scopes.into_iter().map(|scope| {
            let (view, name, sealer) = (view.clone(), &name, &sealer);
            async move {
                let (key, _) = view.existing_scope(partition, scope)?;
                let wanted = Wanted {
                    id: BackupId::scheduled(&key, BackupType::Full, name),
                    backup_type: BackupType::Full,
                    path: path::base_full(&key, name),
                    after: Cursor::ZERO,
                };
                sealer.scope_line(&view, partition, scope, Some(wanted)).await
            }
        });
        let lines = stream::iter(lines).buffered(SCOPES_AT_ONCE);
        let path = path::base_manifest(log, partition, &name);
        let manifest = sealer.write_manifest(&path, &header, lines).await?;
        sealer.facts.completed(manifest, &path, clock, |_| true).await?;
        Ok((count, last))
    }

    /// Writes what became of the commands of a day before the lost log's end.
    async fn write_commands(
        &mut self,
        partition: Partition,
        name: &str,
        last: Option<Timestamp>,
    ) -> Result<Option<TableFile>, RecoveryError> {
        let Some(last) = last else { return Ok(None) };
        let known_from = last.as_micros() - OUTCOME_KEPT_MICROS;
        let names = Names::list(&self.of.archive, self.of.lost.log, partition).await?;
        let mut hours = Vec::new();
        for path in names.hours().rev() {
            let hour = ManifestReader::new(self.of.archive.fetch(&path).await?, &path)?.header;
            if hour.clock.as_micros() < known_from {
                break;
            }
            hours.push(hour);
        }
        let mut lines = LinesWriter::new(self.of.archive.scratch());
        let mut rows = 0;
        // What was known when the lost log itself was recovered may be known still.
        if let Some(before) = base::open(&self.of.archive, self.of.lost.log, partition).await? {
            let mut commands = base::CommandReader::open(&self.of.archive, &before.header).await?;
            while let Some(line) = commands.next_command()? {
                if line.outcome.folded_at.as_micros() >= known_from {
                    rows += push(&mut lines, &line)?;
                }
            }
        }
        for hour in hours.iter().rev() {
            let mut events = self.files.open(hour).await?;
            loop {
                let batch;
                (events, batch) = next_events(events).await?;
                if batch.is_empty() {
                    break;
                }
                for event in batch {
                    let repeated = event.verdict == Some(RecordVerdict::Repeated);
                    let Some(outcome) = event.outcome.filter(|_| !repeated) else { continue };
                    if let Ok(Event::Command(command)) = schemas::decode(&event.value) {
                        let (id, scope, offset) = (command.id, command.scope, event.offset);
                        let outcome = Arc::new(outcome);
                        rows += push(&mut lines, &CommandLine { id, scope, offset, outcome })?;
                    }
                }
            }
        }
        let mut object = lines.finish()?;
        let path = path::base_commands(self.log.log_id(), partition, name);
        self.of.archive.create(&path, &mut object).await?;
        let (sha256, size_bytes) = (object.sha256.clone(), object.size_bytes);
        Ok(Some(TableFile { path, sha256, size_bytes, rows }))
    }

    /// Nobody goes on from it.
    pub(super) async fn remove_cache(self) {
        let directory = self.of.config.cache_directory();
        drop(self);
        if let Err(error) = blocking(move || Ok(Cache::remove(&directory, CACHE)?)).await {
            tracing::warn!(%error, "the recovery's cache is left");
        }
    }

    /// Says of every backup of a log that it is there, or has expired, and of every erasure how far it is. How many
    /// backups there are.
    pub(super) async fn catalogue(
        &self,
        log: LogId,
        partition: Partition,
    ) -> Result<u64, RecoveryError> {
        let archive = &self.of.archive;
        let length = self.of.config.archive_hour_seconds;
        let names = Names::list(archive, log, partition).await?;
        let paths = names.hours().chain(names.fulls()).chain(names.on_demand());
        let mut backups = 0;
        for path in paths.collect::<Vec<_>>() {
            let header = ManifestReader::new(archive.fetch(&path).await?, &path)?.header;
            let period = header.period.as_str();
            let shows = match header.kind {
                Kind::Hour => length.hour_named(period).map(|hour| length.end(hour)),
                // It shows the moment of the hour at which the state was taken up, as when it was written.
                Kind::Full if path::is_after_gap(period) => None,
                Kind::Full => path::full_time(length, period),
                Kind::OnDemand | Kind::Compaction => None,
            };
            let own = format!("/{period}");
            let is_full = header.kind == Kind::Full;
            // A full of an earlier day is listed again where nothing has changed.
            let is_new = |backup: &BackupObject| {
                !is_full
                    || backup
                        .path
                        .rsplit_once("/full")
                        .is_some_and(|(_, file)| file.starts_with(&own))
            };
            let facts = self.sealer().facts;
            backups +=
                facts.tell_again(&path, &names, shows.unwrap_or(header.clock), is_new).await?;
        }
        for ErasureState { erasure, done } in erasure::list(archive, log, partition).await? {
            for from in ErasedFrom::ALL.into_iter().filter(|from| done.contains(from.as_str())) {
                let (scope, at) = (erasure.scope.clone(), self.of.clock.now());
                let (erasure, cursor) = (erasure.erasure_id, erasure.cursor);
                let done = ErasureDone { erasure, scope, cursor, from, at };
                self.sealer().facts.say(&Fact::ErasureDone(done)).await?;
            }
        }
        Ok(backups)
    }
}

fn push(lines: &mut LinesWriter, line: &CommandLine) -> Result<u64, RecoveryError> {
    let json = serde_json::to_vec(line).map_err(|error| ArchiverError::Task(error.to_string()))?;
    lines.push(&json)?;
    Ok(1)
}
