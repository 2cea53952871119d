//! Compacting days that are over, beside everything else: nothing waits for it. FORMAT.md, "Compaction".
//!
//! Nothing is remembered here: the manifests say which days are compacted, and a listing what is left of their
//! hours. Killed anywhere and begun again, or two of them at once: the same files, and then no hours.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use archive::{
    Archive, ArchiveError, base,
    compaction::{self, CompactedHour, Compaction},
    erasure,
    history::Names,
    manifest::{Header, Kind, ManifestReader, Reference, TableFile},
    object::Object,
    path,
    period::{Day, HourLength},
    redaction,
    table::{Merger, Table},
};
use model::{LogId, Partition};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    cache::Cache, erasing::TablesTurn, error::ArchiverError, session::Session, workers::blocking,
};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// The same where the bucket refuses: a policy may keep what is young, and a day is read back before its hours go.
const AGAIN_IF_REFUSED: Duration = Duration::from_secs(6 * 3_600);

/// What this process has compacted, and what it is compacting.
pub(crate) struct Compactions {
    turn: TablesTurn,
    /// Of each partition, the day before which all are compacted.
    done: BTreeMap<Partition, Day>,
    compacting: Option<Compacting>,
    try_again: Option<Instant>,
}

struct Compacting {
    task: JoinHandle<Result<(), ArchiverError>>,
    /// Of each partition, the day before which all are to be compacted.
    days: BTreeMap<Partition, Day>,
}

impl Drop for Compacting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Compactions {
    pub(crate) fn new(turn: TablesTurn) -> Self {
        Self { turn, done: BTreeMap::new(), compacting: None, try_again: None }
    }

    /// Begins with the days that are over, unless something is under way.
    pub(crate) async fn go_on(
        &mut self,
        session: &Session<'_>,
        cache: &Cache,
    ) -> Result<(), ArchiverError> {
        if !self.is_idle().await {
            return Ok(());
        }
        let length = session.config.archive_hour_seconds;
        let mut days = BTreeMap::new();
        for partition in (0..session.log.partitions()).map(Partition::new) {
            // All hours of the days before the log's time are sealed.
            let today = length.hour_of(cache.state(partition)?.time).day();
            if self.done.get(&partition) != Some(&today) {
                days.insert(partition, today);
            }
        }
        if !days.is_empty() {
            let (archive, log) = (session.archive.clone(), session.log.log_id());
            let compactor = Compactor { archive, log, length, turn: self.turn.clone() };
            let task = tokio::spawn(compactor.run(days.clone()));
            self.compacting = Some(Compacting { task, days });
        }
        Ok(())
    }

    async fn is_idle(&mut self) -> bool {
        let Some(mut compacting) = self.compacting.take_if(|it| it.task.is_finished()) else {
            let is_early = self.try_again.is_some_and(|at| Instant::now() < at);
            return self.compacting.is_none() && !is_early;
        };
        let pause = match (&mut compacting.task).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) if error.needs_operator() => Some(AGAIN_IF_REFUSED),
            Ok(Err(_)) | Err(_) => Some(AGAIN),
        };
        self.try_again = pause.map(|pause| Instant::now() + pause);
        if pause.is_none() {
            self.done.append(&mut compacting.days);
        }
        pause.is_none()
    }
}

/// A day that somebody has put together: of which of the hours' files, with or without what was erased, is not known.
fn of_hours(compaction: Compaction) -> (Compaction, Vec<TableFile>) {
    let files = compaction.files().cloned().collect();
    (compaction, files)
}

/// Whether an hour's file is there, or one that took its place.
fn is_stored(stored: &BTreeSet<String>, file: &str) -> bool {
    let stem = file.strip_suffix(".parquet").unwrap_or(file);
    let replaced = format!("{stem}-");
    stored.contains(file)
        || stored.range(replaced.clone()..).next().is_some_and(|path| path.starts_with(&replaced))
}

struct Compactor {
    archive: Archive,
    log: LogId,
    length: HourLength,
    turn: TablesTurn,
}

impl Compactor {
    /// Compacts all days before the given ones. One that cannot be compacted stops no other.
    async fn run(self, days: BTreeMap<Partition, Day>) -> Result<(), ArchiverError> {
        let stored = self.hours_files().await?;
        let mut failed = Ok(());
        for (partition, before) in days {
            let names = Names::list(&self.archive, self.log, partition).await?;
            for (day, hours) in self.hours_of_days(&names, partition, before, &stored) {
                let _turn = self.turn.lock().await;
                if let Err(error) = self.compact(partition, day, hours).await {
                    let day = self.length.day_name(day);
                    tracing::warn!(%error, %partition, day, "a day cannot be compacted");
                    failed = Err(error);
                }
            }
        }
        failed
    }

    /// The files of hours, of all partitions.
    async fn hours_files(&self) -> Result<BTreeSet<String>, ArchiveError> {
        let mut stored = BTreeSet::new();
        for folder in ["events", "messages"] {
            let files = self.archive.list(folder).await?;
            stored.extend(files.into_iter().map(|(path, _)| path));
        }
        Ok(stored)
    }

    /// The manifests of the hours of each day that has files of hours left.
    fn hours_of_days(
        &self,
        names: &Names,
        partition: Partition,
        before: Day,
        stored: &BTreeSet<String>,
    ) -> BTreeMap<Day, Vec<String>> {
        let mut days: BTreeMap<Day, Vec<String>> = BTreeMap::new();
        let mut left = BTreeSet::new();
        for (name, manifest) in names.hour_names().zip(names.hours()) {
            let Some(hour) = self.length.hour_named(name).filter(|h| h.day() < before) else {
                continue;
            };
            let files = [
                path::events(self.length, hour, partition),
                path::messages(self.length, hour, partition),
            ];
            if files.iter().any(|file| is_stored(stored, file)) {
                left.insert(hour.day());
            }
            days.entry(hour.day()).or_default().push(manifest);
        }
        days.retain(|day, _| left.contains(day));
        days
    }

    async fn compact(
        &self,
        partition: Partition,
        day: Day,
        hours: Vec<String>,
    ) -> Result<(), ArchiverError> {
        let path = path::compaction_manifest(self.log, partition, self.length, day);
        let (compaction, read) = match compaction::find(&self.archive, &path).await? {
            Some(compaction) => of_hours(compaction),
            None => self.put_together(&path, partition, day, hours).await?,
        };
        self.look_again(partition, &compaction, &read).await?;
        // What is to take the hours' place is read back before they go.
        let Header { events, messages, .. } = &compaction.header;
        for file in events.iter().chain(messages) {
            redaction::fetch(&self.archive, file).await?;
        }
        for file in compaction.files() {
            let (current, replaced) = redaction::current(&self.archive, file).await?;
            for file in replaced.iter().chain([&current]) {
                self.archive.delete(&file.path).await?;
            }
        }
        let hours = compaction.hours.len();
        tracing::info!(%partition, day = self.length.day_name(day), hours, "compacted a day");
        Ok(())
    }

    /// Another archiver may have erased meanwhile. Where it has rewritten an hour since that was read, nobody may have looked
    /// at the day: its erasure does. Where it has rewritten the day itself, what was written here came back.
    async fn look_again(
        &self,
        partition: Partition,
        compaction: &Compaction,
        read: &[TableFile],
    ) -> Result<(), ArchiverError> {
        let Header { events, messages, .. } = &compaction.header;
        for file in events.iter().chain(messages) {
            redaction::delete_replaced(&self.archive, file).await?;
        }
        let mut erased = BTreeSet::new();
        for file in read {
            erased.extend(redaction::erasures_of(&self.archive, file).await?);
        }
        if erased.is_empty() {
            return Ok(());
        }
        for log in base::lineage(&self.archive, self.log).await? {
            erasure::reopen_tables(&self.archive, log, partition, &erased).await?;
        }
        Ok(())
    }

    /// The day, and the hours' files that it was read from.
    async fn put_together(
        &self,
        path: &str,
        partition: Partition,
        day: Day,
        hours: Vec<String>,
    ) -> Result<(Compaction, Vec<TableFile>), ArchiverError> {
        match self.write(path, partition, day, hours).await {
            // Another one was faster, and has deleted the hours' files.
            Err(ArchiverError::Archive(missing @ ArchiveError::NotFound { .. })) => {
                Ok(of_hours(compaction::find(&self.archive, path).await?.ok_or(missing)?))
            }
            written => written,
        }
    }

    async fn write(
        &self,
        path: &str,
        partition: Partition,
        day: Day,
        hours: Vec<String>,
    ) -> Result<(Compaction, Vec<TableFile>), ArchiverError> {
        let scratch = self.archive.scratch();
        let mut events = Merger::new(scratch, Table::Events);
        let mut messages = Merger::new(scratch, Table::Messages);
        let (mut compacted, mut header, mut read) = (Vec::new(), None, Vec::new());
        for hour in hours {
            let (manifest, hour) = self.hour(hour).await?;
            events = self.add(events, &hour.events, &mut read).await?;
            messages = self.add(messages, &hour.messages, &mut read).await?;
            let (of_events, of_messages) = (hour.events.clone(), hour.messages.clone());
            compacted.push(CompactedHour {
                manifest: manifest.clone(),
                events: of_events,
                messages: of_messages,
            });
            header = Some(self.header(day, header, hour, manifest));
        }
        let Some(mut header) = header else {
            return Err(ArchiverError::Task("a day without hours is not compacted".to_owned()));
        };
        let to = path::compacted_events(self.length, day, partition);
        header.events = self.finish(events, path, to).await?;
        let to = path::compacted_messages(self.length, day, partition);
        header.messages = self.finish(messages, path, to).await?;
        let compaction = Compaction { header, hours: compacted };
        self.archive.create(path, &mut compaction.write(scratch)?).await?;
        Ok((compaction, read))
    }

    async fn hour(&self, path: String) -> Result<(Reference, Header), ArchiverError> {
        let object = self.archive.fetch(&path).await?;
        let sha256 = object.sha256.clone();
        let header = ManifestReader::new(object, &path)?.header;
        Ok((Reference { path, sha256 }, header))
    }

    /// The header of a day up to an hour: `before` is that of the hours before it.
    fn header(
        &self,
        day: Day,
        before: Option<Header>,
        hour: Header,
        manifest: Reference,
    ) -> Header {
        let first_offset = before.as_ref().map_or(hour.first_offset, |before| before.first_offset);
        let mut gaps = before.map(|before| before.gaps).unwrap_or_default();
        gaps.extend(&hour.gaps);
        Header {
            kind: Kind::Compaction,
            period: self.length.day_name(day),
            first_offset,
            previous: Some(manifest),
            gaps,
            ..hour
        }
    }

    async fn add(
        &self,
        mut merger: Merger,
        file: &Option<TableFile>,
        read: &mut Vec<TableFile>,
    ) -> Result<Merger, ArchiverError> {
        let Some(file) = file else { return Ok(merger) };
        // What was erased is not to come back: where there is a record, the old file is not read any more.
        let (file, _) = redaction::current(&self.archive, file).await?;
        let path = file.path.clone();
        let object: Object = self.archive.fetch_checked(&path, &file.sha256).await?;
        read.push(file);
        blocking(move || {
            merger.push(object, &path)?;
            Ok(merger)
        })
        .await
    }

    async fn finish(
        &self,
        merger: Merger,
        manifest: &str,
        path: String,
    ) -> Result<Option<TableFile>, ArchiverError> {
        let Some((mut file, rows)) = blocking(move || Ok(merger.finish()?)).await? else {
            return Ok(None);
        };
        match self.archive.create(&path, &mut file).await {
            // A crash has left it, and an hour of it was rewritten since: nothing has read it, nor will.
            Err(ArchiveError::OtherContent { .. })
                if compaction::find(&self.archive, manifest).await?.is_none() =>
            {
                tracing::warn!(path, "a day's table that nothing lists is written anew");
                self.archive.delete(&path).await?;
                self.archive.create(&path, &mut file).await?;
            }
            created => created?,
        }
        Ok(Some(TableFile { path, sha256: file.sha256, size_bytes: file.size_bytes, rows }))
    }
}
