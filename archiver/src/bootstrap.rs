//! Where a partition goes on when its log no longer reaches back to what was sealed last: the segments have it,
//! or the cache is made again from the archive, or there is a [gap](crate::gap).

use std::sync::Arc;

use archive::{
    ArchiveError,
    base::{CommandLine, CommandReader},
    history::{Names, newest_hour},
    manifest::{BackupObject, Header, ManifestReader, MemberLine, Reference, ScopeLine},
    message_line, path, redaction,
    table::{EventFiles, StoredEvent, StoredEvents},
};
use eventlog::Record;
use model::{
    Cursor, Event, Member, Offset, Partition, ScopeKey, UserId, limits::OUTCOME_KEPT_MICROS,
};

use crate::{
    cache::{Cache, CacheError, PartitionState, Tables},
    error::ArchiverError,
    fold::{Stop, fold},
    records::{Records, reach},
    sealing::fulls,
    session::Session,
    workers::blocking,
};

/// Lines and events that are taken into the cache in one transaction, at most.
const LOADED_AT_ONCE: usize = 1_000;
const LOADED_BYTES_AT_ONCE: usize = 8 << 20;

impl Session<'_> {
    /// Brings a partition of the cache to where its log can take over; where that is.
    pub(crate) async fn catch_up(
        &self,
        cache: &Arc<Cache>,
        partition: Partition,
    ) -> Result<Offset, ArchiverError> {
        let start = self.log.bounds(partition).await?.start;
        self.begin(cache, partition).await?;
        let state = cache.state(partition)?;
        if start > state.sealed {
            if self.reach(partition, &state).await? < start {
                self.recover(cache, partition, state, start).await?;
            }
            self.fold_removed(cache, partition, start).await?;
        }
        // The state may have been taken up right here, behind a gap.
        self.take(cache, partition, Vec::new()).await?;
        Ok(cache.state(partition)?.next_offset)
    }

    /// Where nothing is folded yet, a recovered log begins with what the lost one came to.
    async fn begin(&self, cache: &Arc<Cache>, partition: Partition) -> Result<(), ArchiverError> {
        if cache.state(partition)? != PartitionState::START {
            return Ok(());
        }
        let names = Names::list(self.archive, self.log.log_id(), partition).await?;
        let Some(base) = names.base() else { return Ok(()) };
        tracing::info!(%partition, path = base, "beginning with what the lost log came to");
        let mut loading =
            Loading { session: self, cache, partition, files: EventFiles::new(self.archive) };
        loading.write(true, |tables, partition| tables.clear(partition))?;
        let state = loading.load_full(&base, &names).await?;
        loading.put_state(&state)
    }

    /// How far the records from the open hour's first one go without a hole that is not known yet.
    pub(crate) async fn reach(
        &self,
        partition: Partition,
        state: &PartitionState,
    ) -> Result<Offset, ArchiverError> {
        reach(self.archive, self.log.log_id(), partition, state.sealed, &state.gaps).await
    }

    async fn recover(
        &self,
        cache: &Arc<Cache>,
        partition: Partition,
        state: PartitionState,
        start: Offset,
    ) -> Result<(), ArchiverError> {
        let newest = newest_hour(self.archive, self.log.log_id(), partition).await?;
        let Some(newest) = newest.filter(|(_, hour)| hour.next_offset > state.sealed) else {
            return self.cross_gap(cache, partition, state, start).await;
        };
        tracing::info!(%partition, "making the cache again from the archive");
        let loading =
            Loading { session: self, cache, partition, files: EventFiles::new(self.archive) };
        let Some(state) = loading.load().await? else {
            // Its last gap is followed by no full: only the read model has a state.
            let state = chain_alone(newest);
            return self.cross_gap(cache, partition, state, start).await;
        };
        match self.reach(partition, &state).await? < start {
            true => self.cross_gap(cache, partition, state, start).await,
            false => Ok(()),
        }
    }

    /// Folds what the log no longer has out of the segments. What no segment has is in a gap.
    async fn fold_removed(
        &self,
        cache: &Arc<Cache>,
        partition: Partition,
        start: Offset,
    ) -> Result<(), ArchiverError> {
        let PartitionState { next_offset, gaps, .. } = cache.state(partition)?;
        let range = next_offset..start;
        let mut removed = Records::new(self.log, self.archive, partition, range, &gaps);
        loop {
            let records = removed.next().await?;
            if records.is_empty() {
                break;
            }
            self.take(cache, partition, records).await?;
        }
        cache.write(partition, true, |tables| {
            let mut state = tables.state(partition)?;
            state.next_offset = state.next_offset.max(start);
            tables.put_state(partition, &state)
        })?;
        Ok(())
    }
}

/// What is known of a partition of which nothing is folded.
fn chain_alone((reference, hour): (Reference, Header)) -> PartitionState {
    let mut state = PartitionState::START;
    go_on_after(&mut state, reference, &hour);
    state.next_offset = Offset::ZERO;
    state
}

/// The open hour begins where this one ended.
fn go_on_after(state: &mut PartitionState, reference: Reference, hour: &Header) {
    (state.sealed, state.sealed_time) = (hour.next_offset, hour.clock);
    (state.next_offset, state.time, state.rules) = (hour.next_offset, hour.clock, hour.rules);
    (state.hour, state.hour_is_used) = (None, false);
    state.previous = Some(reference);
    state.gaps = Vec::new();
}

/// Makes a partition of the cache again from the newest full and the hours after it.
struct Loading<'a> {
    session: &'a Session<'a>,
    cache: &'a Arc<Cache>,
    partition: Partition,
    files: EventFiles,
}

impl Loading<'_> {
    /// The state at the end of the last hour, which is the cache's then; `None` if the archive has none, because of a gap.
    async fn load(mut self) -> Result<Option<PartitionState>, ArchiverError> {
        let log = self.session.log.log_id();
        let names = Names::list(self.session.archive, log, self.partition).await?;
        let (full, mut state) = self.newest_full(&names).await?;
        for path in names.hours_after(&full) {
            let Some(next) = self.fold_hour(&path, state).await? else {
                self.write(true, |tables, partition| tables.clear(partition))?;
                return Ok(None);
            };
            state = next;
        }
        self.put_state(&state)?;
        Ok(Some(state))
    }

    /// Loads the newest full that is whole; returns its name, or an empty one if the hours begin with the log. Hours hold
    /// every event, so an older full comes to the same.
    async fn newest_full(
        &mut self,
        names: &Names,
    ) -> Result<(String, PartitionState), ArchiverError> {
        for path in names.fulls().rev() {
            self.write(true, |tables, partition| tables.clear(partition))?;
            match self.load_full(&path, names).await {
                Ok(state) => return Ok((name(&path).to_owned(), state)),
                // Whoever verifies finds it too.
                Err(ArchiverError::Archive(
                    error @ (ArchiveError::Damaged { .. } | ArchiveError::NotFound { .. }),
                )) => {
                    let partition = self.partition;
                    tracing::error!(%error, %partition, path, "going on from an older full");
                }
                Err(error) => return Err(error),
            }
        }
        self.write(true, |tables, partition| tables.clear(partition))?;
        Ok((String::new(), PartitionState::START))
    }

    fn write<T>(
        &self,
        durable: bool,
        work: impl FnOnce(&mut Tables<'_>, Partition) -> Result<T, CacheError>,
    ) -> Result<T, ArchiverError> {
        Ok(self.cache.write(self.partition, durable, |tables| work(tables, self.partition))?)
    }

    fn put_state(&self, state: &PartitionState) -> Result<(), ArchiverError> {
        self.write(true, |tables, partition| tables.put_state(partition, state))
    }

    /// The scopes of a full, and the commands that were known there.
    async fn load_full(
        &mut self,
        path: &str,
        names: &Names,
    ) -> Result<PartitionState, ArchiverError> {
        let mut manifest = ManifestReader::new(self.session.archive.fetch(path).await?, path)?;
        let full = manifest.header.clone();
        while let Some(line) = manifest.next_scope()? {
            self.load_scope(line).await?;
        }
        self.load_commands(&full, names).await?;
        let mut state = PartitionState::START;
        if full.recovered_from.is_some() {
            (state.time, state.sealed_time) = (full.clock, full.clock);
        }
        if let Some(previous) = full.previous {
            let hour = self.header(&previous.path).await?;
            go_on_after(&mut state, previous, &hour);
        }
        state.rules = full.rules;
        if full.next_offset > state.next_offset {
            // It was written after a gap, and the open hour goes on from there.
            (state.taken_up, state.after_gap) = (full.next_offset, Some(full.clock));
            state.gaps = full.gaps;
            if let Some(gap) = state.gaps.iter().find(|gap| gap.first_offset == state.sealed) {
                state.sealed = gap.next_offset;
                state.next_offset = gap.next_offset;
            }
        }
        Ok(state)
    }

    async fn load_scope(&self, line: ScopeLine) -> Result<(), ArchiverError> {
        let heading = line.heading();
        let members: Vec<(UserId, Member)> = line.members.into_iter().map(member).collect();
        self.write(false, |tables, partition| {
            tables.load_scope(partition, &line.scope, &heading, &members)
        })?;
        match line.backup {
            Some(backup) => self.load_lines(&line.scope, line.floor, backup).await,
            None => Ok(()),
        }
    }

    async fn load_lines(
        &self,
        scope: &ScopeKey,
        floor: Cursor,
        backup: BackupObject,
    ) -> Result<(), ArchiverError> {
        let (scope, cache, partition) = (scope.clone(), self.cache.clone(), self.partition);
        let object = redaction::fetch_full(self.session.archive, &backup).await?;
        blocking(move || {
            let mut lines = object.lines(&backup.path)?;
            let mut rest = true;
            while rest {
                let (mut batch, mut bytes) = (Vec::new(), 0);
                while batch.len() < LOADED_AT_ONCE && bytes < LOADED_BYTES_AT_ONCE && rest {
                    match lines.next_line()? {
                        Some(line) => {
                            bytes += line.len();
                            batch.push(line);
                        }
                        None => rest = false,
                    }
                }
                cache.write(partition, false, |tables| {
                    for line in &batch {
                        let message = message_line::read(line).map_err(CacheError::unloadable)?;
                        // A full that was carried on may have tombstones that have expired since.
                        if !message.entry.is_live() && message.entry.cursor <= floor {
                            continue;
                        }
                        tables.load_message(&scope, message.id, &message.entry, line)?;
                    }
                    Ok(())
                })?;
            }
            Ok(cache
                .write(partition, false, |tables| tables.put_full(scope.reference(), &backup))?)
        })
        .await
    }

    /// What became of the commands that could still be repeated when the full was written.
    async fn load_commands(&mut self, full: &Header, names: &Names) -> Result<(), ArchiverError> {
        let known_from = full.clock.as_micros() - OUTCOME_KEPT_MICROS;
        if let Some(base) = names.base() {
            let base = self.header(&base).await?;
            if base.clock.as_micros() >= known_from {
                self.load_base_commands(&base).await?;
            }
        }
        let mut hours = Vec::new();
        for path in names.hours_before(&full.period) {
            let hour = self.header(&path).await?;
            if hour.clock.as_micros() < known_from {
                break;
            }
            hours.push(hour);
        }
        // The oldest first: what comes later is a repetition.
        for hour in hours.iter().rev() {
            let mut events = self.files.open(hour).await?;
            loop {
                let batch;
                (events, batch) = next_events(events).await?;
                if batch.is_empty() {
                    break;
                }
                self.load_outcomes(&batch)?;
            }
        }
        Ok(())
    }

    /// What became of commands before a recovered log began.
    async fn load_base_commands(&self, base: &Header) -> Result<(), ArchiverError> {
        let mut commands = CommandReader::open(self.session.archive, base).await?;
        let mut rest = true;
        while rest {
            let mut batch = Vec::new();
            while batch.len() < LOADED_AT_ONCE && rest {
                match commands.next_command()? {
                    Some(command) => batch.push(command),
                    None => rest = false,
                }
            }
            self.write(false, |tables, partition| {
                for CommandLine { id, offset, outcome, .. } in &batch {
                    tables.load_command(partition, *offset, *id, outcome)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn load_outcomes(&self, events: &[StoredEvent]) -> Result<(), ArchiverError> {
        self.write(false, |tables, partition| {
            for event in events {
                let Some(outcome) = event.outcome.clone() else { continue };
                if let Ok(Event::Command(command)) = schemas::decode(&event.value) {
                    tables.load_command(partition, event.offset, command.id, &Arc::new(outcome))?;
                }
            }
            Ok(())
        })
    }

    async fn header(&self, path: &str) -> Result<Header, ArchiveError> {
        Ok(ManifestReader::new(self.session.archive.fetch(path).await?, path)?.header)
    }

    /// Folds the events of an hour; `None` if a gap is before the end of it, which no full has crossed.
    async fn fold_hour(
        &mut self,
        path: &str,
        mut state: PartitionState,
    ) -> Result<Option<PartitionState>, ArchiverError> {
        let object = self.session.archive.fetch(path).await?;
        let reference = Reference { path: path.to_owned(), sha256: object.sha256.clone() };
        let mut manifest = ManifestReader::new(object, path)?;
        let hour = manifest.header.clone();
        if hour.gaps.iter().any(|gap| gap.next_offset > state.taken_up) {
            return Ok(None);
        }
        state.sealed = hour.first_offset;
        self.put_state(&state)?;
        let mut events = self.files.open(&hour).await?;
        loop {
            let batch;
            (events, batch) = next_events(events).await?;
            if batch.is_empty() {
                break;
            }
            let unfolded = batch.partition_point(|event| event.offset < state.taken_up);
            self.load_outcomes(&batch[..unfolded])?;
            self.fold(path, batch).await?;
        }
        while let Some(line) = manifest.next_scope()? {
            self.check(path, &line)?;
        }
        state = self.cache.state(self.partition)?;
        state.after_gap = state.after_gap.filter(|_| hour.next_offset < state.taken_up);
        go_on_after(&mut state, reference, &hour);
        self.write(false, |tables, partition| {
            tables.close_hour(partition)?;
            tables.forget_commands(partition, hour.clock)
        })?;
        Ok(Some(state))
    }

    /// As the session does, but that everything which ends on the way is in the archive.
    async fn fold(&self, path: &str, events: Vec<StoredEvent>) -> Result<(), ArchiverError> {
        let length = self.session.config.archive_hour_seconds;
        let records: Arc<[Record]> = events.into_iter().map(record).collect();
        let mut done = 0;
        loop {
            let (cache, rest, partition) = (self.cache.clone(), records.clone(), self.partition);
            let (folded, stop) =
                blocking(move || fold(&cache, length, partition, &rest[done..])).await?;
            done += folded;
            let mut state = self.cache.state(self.partition)?;
            match stop {
                Stop::Folded => return Ok(()),
                Stop::BackupRequested => state.requested = None,
                Stop::GapPassed => {
                    state.time =
                        state.after_gap.take().map_or(state.time, |time| state.time.max(time));
                }
                Stop::DayEnds if !state.day_is_used => state.day = None,
                Stop::DayEnds if self.load_fulls(&state).await? => {
                    (state.day, state.day_is_used) = (None, false);
                }
                Stop::DayEnds | Stop::HourEnds => {
                    let problem = format!("{stop:?} within it, by its events");
                    return Err(ArchiverError::OtherManifest { path: path.to_owned(), problem });
                }
            }
            self.put_state(&state)?;
        }
    }

    /// Takes the fulls of a day that ends within what is folded again; whether there are any.
    async fn load_fulls(&self, state: &PartitionState) -> Result<bool, ArchiverError> {
        let Some(day) = state.day else { return Ok(false) };
        let (log, length) = (self.session.log.log_id(), self.session.config.archive_hour_seconds);
        let path = path::full_manifest(log, self.partition, length, day.next());
        let object = match self.session.archive.fetch(&path).await {
            Err(ArchiveError::NotFound { .. }) => return Ok(false),
            fetched => fetched?,
        };
        let fulls = fulls(object, &path)?;
        self.write(false, |tables, _| {
            fulls.iter().try_for_each(|(scope, full)| tables.put_full(*scope, full))
        })?;
        Ok(true)
    }

    /// The events fold to what the manifest says.
    fn check(&self, path: &str, line: &ScopeLine) -> Result<(), ArchiverError> {
        let view = self.cache.read(self.partition)?;
        let found = view.existing_scope(self.partition, line.scope.reference())?.1;
        if (found.head, found.floor, found.count, found.digest)
            == (line.head, line.floor, line.count, line.digest)
        {
            return Ok(());
        }
        let problem = format!("{} is something else by the events", line.scope);
        Err(ArchiverError::OtherManifest { path: path.to_owned(), problem })
    }
}

pub(crate) async fn next_events(
    mut events: StoredEvents,
) -> Result<(StoredEvents, Vec<StoredEvent>), ArchiverError> {
    blocking(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < LOADED_AT_ONCE && bytes < LOADED_BYTES_AT_ONCE {
            let Some(event) = events.next().transpose()? else { break };
            bytes += event.value.len();
            batch.push(event);
        }
        Ok((events, batch))
    })
    .await
}

fn record(event: StoredEvent) -> Record {
    let StoredEvent { partition, offset, append_time, key, value, .. } = event;
    Record { partition, offset, append_time, key, value }
}

fn member(line: MemberLine) -> (UserId, Member) {
    (line.user, Member { role: line.role, since: line.since })
}

/// The name of a manifest, without its folder.
fn name(path: &str) -> &str {
    path::name(path).unwrap_or_default()
}
