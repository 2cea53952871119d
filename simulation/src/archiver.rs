//! The archiver, step by step: it folds the log, writes segments, hours, days and backups on demand. What it writes are
//! the archive's own bytes, in an archive in memory.

use std::{collections::BTreeMap, future::Future, rc::Rc};

use archive::{
    Archive, ArchiveError,
    manifest::{BackupObject, FORMAT, Header, Kind, ManifestWriter, Reference, ScopeLine},
    message_line,
    object::LinesWriter,
    path,
    period::{Day, Hour, HourLength},
    segment::SegmentWriter,
};
use eventlog::Record;
use model::{
    Action, BackupId, BackupType, Cursor, Event, LogFold, LogId, Offset, Partition, PartitionClock,
    ScopeKey, Timestamp, Verdict, log_fold::FoldedScope,
};

use crate::{
    Mistake, Violation,
    log::{Log, PARTITIONS, home, partitions},
    recovery::Base,
};

pub const LENGTH: HourLength = HourLength::REAL;

/// What the bucket has, and what of it is known.
pub struct Bucket {
    pub archive: Archive,
    /// What can be restored.
    pub backups: Vec<Made>,
    /// The newest hour's or day's of each scope.
    pub newest: BTreeMap<ScopeKey, BackupId>,
    /// How far the present log is in segments.
    pub archived: BTreeMap<Partition, Offset>,
    /// What was written, by its path. A fold made again takes it as it is, but where `proves`: then it writes it once more,
    /// and the archive refuses what is not the same.
    backed_up: BTreeMap<String, BackupObject>,
    manifests: BTreeMap<String, Reference>,
    pub proves: bool,
    /// What logs began with, as far as it was read.
    pub bases: BTreeMap<LogId, Rc<Vec<Base>>>,
    pub mistake: Option<Mistake>,
}

/// A backup that was made.
pub struct Made {
    pub scope: ScopeKey,
    pub id: BackupId,
    pub cursor_last: Cursor,
}

/// The archiver's fold: lost with its process, and made again.
#[derive(Default)]
pub struct Cache {
    log: Option<LogId>,
    pub fold: LogFold,
    states: BTreeMap<Partition, State>,
    pub fulls: BTreeMap<ScopeKey, BackupObject>,
}

/// How far a partition is folded and sealed; nothing is, at first.
#[derive(Clone)]
pub struct State {
    next: Offset,
    sealed: Offset,
    hour: Option<Hour>,
    day: Option<Day>,
    previous: Option<Reference>,
    /// Scopes that had an event in the open hour, and their heads before it.
    touched: BTreeMap<ScopeKey, Cursor>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            next: Offset::ZERO,
            sealed: Offset::ZERO,
            hour: None,
            day: None,
            previous: None,
            touched: BTreeMap::new(),
        }
    }
}

/// Waits for what never has to.
pub fn now<T>(ready: impl Future<Output = Result<T, ArchiveError>>) -> Result<T, Violation> {
    let mut ready = std::pin::pin!(ready);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match ready.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => {
            done.map_err(|error| Violation(format!("archive: {error}")))
        }
        std::task::Poll::Pending => {
            Err(Violation("an archive in memory has to be waited for".into()))
        }
    }
}

impl Bucket {
    pub fn new(mistake: Option<Mistake>) -> Self {
        Self {
            archive: Archive::in_memory(),
            backups: Vec::new(),
            newest: BTreeMap::new(),
            archived: BTreeMap::new(),
            backed_up: BTreeMap::new(),
            manifests: BTreeMap::new(),
            proves: false,
            bases: BTreeMap::new(),
            mistake,
        }
    }

    /// Uploads what the log has beyond the last segment.
    pub fn upload(&mut self, log: &Log, partition: Partition) -> Result<(), Violation> {
        let first = self.archived.get(&partition).copied().unwrap_or(Offset::ZERO);
        let records = log.from(partition, first);
        if records.is_empty() {
            return Ok(());
        }
        let mut writer = SegmentWriter::new(self.archive.scratch(), log.id, partition, first);
        let written = records.iter().try_for_each(|record| writer.push(record));
        let next = writer.next_offset();
        let segment = written.and_then(|()| writer.finish());
        let mut segment = segment.map_err(|error| Violation(error.to_string()))?;
        now(self.archive.create(&path::segment(log.id, partition, first), &mut segment))?;
        self.archived.insert(partition, next);
        Ok(())
    }

    fn lines(
        &mut self,
        folded: &FoldedScope,
        after: Cursor,
        backup: (BackupId, BackupType, String),
    ) -> Result<BackupObject, Violation> {
        let (id, backup_type, path) = backup;
        if let Some(made) = self.backed_up.get(&path).filter(|_| !self.proves) {
            return Ok(made.clone());
        }
        let forgets = self.mistake == Some(Mistake::ForgetsDeletes);
        let is_wanted = |m: &&model::Message| {
            m.entry.cursor > after && (m.entry.is_live() || after == Cursor::ZERO || !forgets)
        };
        let mut messages: Vec<_> = folded.messages.values().filter(is_wanted).collect();
        messages.sort_unstable_by_key(|message| message.entry.cursor);
        let mut writer = LinesWriter::new(self.archive.scratch());
        let mut record_count = 0;
        for message in &messages {
            record_count += u64::from(message.entry.is_live());
            let pushed = writer.push(message_line::write(message).as_bytes());
            pushed.map_err(|error| Violation(error.to_string()))?;
        }
        let lines = writer.lines;
        let mut object = writer.finish().map_err(|error| Violation(error.to_string()))?;
        now(self.archive.create(&path, &mut object))?;
        let made = BackupObject {
            id,
            backup_type,
            path: path.clone(),
            sha256: object.sha256,
            content_sha256: object.content_sha256,
            size_bytes: object.size_bytes,
            lines,
            record_count,
            cursor_first: after.next(),
            // Its line may be of a tombstone that has expired; of an erasure no line has it.
            cursor_last: folded.scope.heading.head,
        };
        self.backed_up.insert(path, made.clone());
        Ok(made)
    }

    pub fn manifest(
        &mut self,
        path: &str,
        header: &Header,
        scopes: &[ScopeLine],
    ) -> Result<Reference, Violation> {
        if let Some(made) = self.manifests.get(path).filter(|_| !self.proves) {
            return Ok(made.clone());
        }
        let written = ManifestWriter::new(self.archive.scratch(), header).and_then(|mut writer| {
            scopes.iter().try_for_each(|line| writer.push(line))?;
            writer.finish()
        });
        let mut manifest = written.map_err(|error| Violation(error.to_string()))?;
        now(self.archive.create(path, &mut manifest))?;
        let made = Reference { path: path.to_owned(), sha256: manifest.sha256 };
        self.manifests.insert(path.to_owned(), made.clone());
        Ok(made)
    }

    /// A full of a scope as it is folded.
    pub fn full(
        &mut self,
        folded: &FoldedScope,
        name: &str,
        path: String,
    ) -> Result<BackupObject, Violation> {
        let key = &folded.scope.key;
        let id = BackupId::scheduled(key, BackupType::Full, name);
        self.newest.insert(key.clone(), id);
        let made = self.lines(folded, Cursor::ZERO, (id, BackupType::Full, path))?;
        self.add(key, &made);
        Ok(made)
    }

    fn add(&mut self, scope: &ScopeKey, made: &BackupObject) {
        let (id, cursor_last) = (made.id, made.cursor_last);
        if !self.backups.iter().any(|known| known.id == id) {
            self.backups.push(Made { scope: scope.clone(), id, cursor_last });
        }
    }
}

pub fn line(
    folded: &FoldedScope,
    backup: Option<BackupObject>,
    mistake: Option<Mistake>,
) -> ScopeLine {
    let mut members: Vec<_> = folded.scope.members.clone().into_iter().collect();
    members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut heading = folded.scope.heading.clone();
    if mistake == Some(Mistake::BacksUpErased) {
        heading.erased = Cursor::ZERO;
    }
    ScopeLine::new(folded.scope.key.clone(), &heading, members, backup)
}

impl Cache {
    /// Of a log of which nothing is folded.
    pub fn new(log: LogId) -> Self {
        Self { log: Some(log), ..Self::default() }
    }

    pub fn log(&self) -> LogId {
        self.log.unwrap()
    }

    /// The scopes of a partition, in the order of manifests.
    pub fn scopes(&self, partition: Partition) -> Vec<&FoldedScope> {
        let own = |folded: &&FoldedScope| {
            folded.scope.heading.exists && home(&folded.scope.key) == partition
        };
        let mut scopes: Vec<_> = self.fold.scopes.values().filter(own).collect();
        scopes.sort_unstable_by_key(|folded| folded.scope.key.reference());
        scopes
    }

    pub fn clock(&self, partition: Partition) -> PartitionClock {
        self.fold.partitions.get(&partition).copied().unwrap_or(PartitionClock::START)
    }

    /// The offset to fold next.
    pub fn next(&self, partition: Partition) -> Offset {
        self.states.get(&partition).map_or(Offset::ZERO, |state| state.next)
    }

    /// Folds the next record; what ends before it is sealed first.
    pub fn take(
        &mut self,
        bucket: &mut Bucket,
        log: &Log,
        record: &Record,
    ) -> Result<(), Violation> {
        let partition = record.partition;
        let hour = LENGTH.hour_of(self.clock(partition).time.max(record.append_time));
        let state = self.states.entry(partition).or_default().clone();
        if state.hour.is_some_and(|open| hour > open) {
            bucket.upload(log, partition)?;
            self.seal_hour(bucket, partition)?;
        }
        if state.day.is_some_and(|open| hour.day() > open) {
            self.seal_day(bucket, partition)?;
        }
        let event = schemas::decode(&record.value).map_err(|e| Violation(e.to_string()))?;
        if let Event::Command(command) = &event {
            let heading = self.fold.scopes.get(&command.scope).map(|f| f.scope.heading.head);
            let state = self.states.entry(partition).or_default();
            state.touched.entry(command.scope.clone()).or_insert(heading.unwrap_or_default());
        }
        self.apply(bucket, record, &event)?;
        let state = self.states.entry(partition).or_default();
        (state.hour, state.day) = (Some(hour), Some(hour.day()));
        state.next = record.offset.next();
        Ok(())
    }

    fn apply(
        &mut self,
        bucket: &mut Bucket,
        record: &Record,
        event: &Event,
    ) -> Result<(), Violation> {
        let head = match event {
            Event::Command(command) => {
                self.fold.scopes.get(&command.scope).map_or(Cursor::ZERO, |f| f.scope.heading.head)
            }
            Event::Tick | Event::RulesChanged { .. } => Cursor::ZERO,
        };
        let (place, time) = (record.place(), record.append_time);
        let applied = self.fold.apply(place, time, &record.key, Some(event));
        let Some(applied) = applied.map_err(|e| Violation(e.to_string()))? else {
            return match self.fold.dead_letters.is_empty() {
                true => Ok(()),
                false => Err(Violation(format!("a dead letter: {event:?}"))),
            };
        };
        let mut expected = head;
        for changed in &applied.changes {
            expected = expected.next();
            if changed.cursor != expected {
                return Err(Violation(format!(
                    "cursor {} where {expected} is next",
                    changed.cursor
                )));
            }
        }
        if let Event::Command(command) = event
            && let Action::BackupRequested { backup } = command.action
            && !applied.repeated
            && matches!(applied.outcome.verdict, Verdict::BackupRequested { .. })
        {
            self.back_up(bucket, &command.scope, backup)?;
        }
        Ok(())
    }

    fn back_up(
        &self,
        bucket: &mut Bucket,
        scope: &ScopeKey,
        id: BackupId,
    ) -> Result<(), Violation> {
        let partition = home(scope);
        let folded = &self.fold.scopes[scope];
        let path = path::on_demand(scope, folded.scope.heading.clock, id);
        let backup = bucket.lines(folded, Cursor::ZERO, (id, BackupType::OnDemand, path))?;
        let header = self.header(Kind::OnDemand, partition, id.to_string());
        let path = path::on_demand_manifest(header.log_id, partition, id);
        bucket.add(scope, &backup);
        bucket.manifest(&path, &header, &[line(folded, Some(backup), bucket.mistake)])?;
        Ok(())
    }

    pub fn header(&self, kind: Kind, partition: Partition, period: String) -> Header {
        let state = self.states.get(&partition).cloned().unwrap_or_default();
        let PartitionClock { time, rules } = self.clock(partition);
        Header {
            format: FORMAT,
            kind,
            log_id: self.log(),
            partition,
            partitions: PARTITIONS,
            period,
            period_seconds: LENGTH,
            first_offset: if kind == Kind::Hour { state.sealed } else { state.next },
            next_offset: state.next,
            clock: time,
            rules,
            previous: state.previous,
            gaps: Vec::new(),
            events: None,
            messages: None,
            recovered_from: None,
            commands: None,
        }
    }

    /// Seals the open hour, if there is one.
    pub fn seal_hour(
        &mut self,
        bucket: &mut Bucket,
        partition: Partition,
    ) -> Result<(), Violation> {
        let state = self.states.get(&partition).cloned().unwrap_or_default();
        let Some(hour) = state.hour else { return Ok(()) };
        let name = LENGTH.hour_name(hour);
        let mut lines = Vec::new();
        for folded in self.scopes(partition) {
            let key = &folded.scope.key;
            let Some(before) = state.touched.get(key).copied() else { continue };
            let backup = if folded.scope.heading.head > before {
                let id = BackupId::scheduled(key, BackupType::Incremental, &name);
                let path = path::incremental(key, LENGTH, hour);
                let made = bucket.lines(folded, before, (id, BackupType::Incremental, path))?;
                bucket.newest.insert(key.clone(), id);
                bucket.add(key, &made);
                Some(made)
            } else {
                None
            };
            lines.push(line(folded, backup, bucket.mistake));
        }
        let header = self.header(Kind::Hour, partition, name);
        let path = path::hour_manifest(header.log_id, partition, LENGTH, hour);
        let manifest = bucket.manifest(&path, &header, &lines)?;
        let state = self.states.entry(partition).or_default();
        (state.hour, state.sealed, state.previous) = (None, state.next, Some(manifest));
        state.touched.clear();
        Ok(())
    }

    fn seal_day(&mut self, bucket: &mut Bucket, partition: Partition) -> Result<(), Violation> {
        let state = self.states.get(&partition).cloned().unwrap_or_default();
        let Some(day) = state.day.map(Day::next) else { return Ok(()) };
        let name = LENGTH.day_name(day);
        let (mut lines, mut fulls) = (Vec::new(), Vec::new());
        for folded in self.scopes(partition) {
            let (key, head) = (&folded.scope.key, folded.scope.heading.head);
            let last = self.fulls.get(key).filter(|last| last.cursor_last == head).cloned();
            let full = match last {
                Some(last) => last,
                None => bucket.full(folded, &name, path::full(key, LENGTH, day))?,
            };
            fulls.push((key.clone(), full.clone()));
            lines.push(line(folded, Some(full), bucket.mistake));
        }
        let header = self.header(Kind::Full, partition, name);
        let path = path::full_manifest(header.log_id, partition, LENGTH, day);
        bucket.manifest(&path, &header, &lines)?;
        self.fulls.extend(fulls);
        self.states.entry(partition).or_default().day = None;
        Ok(())
    }

    /// Partitions whose open hour is over by a clock.
    pub fn idle(&self, now: Timestamp) -> Vec<Partition> {
        let is_over = |partition: &Partition| {
            let hour = self.states.get(partition).and_then(|state| state.hour);
            hour.is_some_and(|hour| now > LENGTH.end(hour))
        };
        partitions().filter(is_over).collect()
    }
}
