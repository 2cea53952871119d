//! One batch of records: what it needs, and what it comes to. Pure; [`crate::projecting`] does the I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use model::{
    Action, Applied, Command, CommandId, Cursor, Event, Later, MessageId, Offset, Partition,
    PartitionClock, RestoreId, Scope, ScopeKey, ScopeRef, Timestamp, Touched, UnknownRules, UserId,
    Verdict, history, log_fold::images,
};
use readmodel::{
    dead_letters::{DeadLetter, DeadLetterKind},
    erasures::{ERASED_REASON, ErasedImage},
    feed::Committed,
    history::PastImage,
    load::{Loaded, Wanted},
    projection::{Advance, LastRecord, Position},
    write::{MemberImage, MessageImage, OutcomeImage, RequestedBackup, RestoreImage, Writes},
};
use sha2::{Digest as _, Sha256};

use crate::{recent::Stood, record::Decoded};

/// Records in the order of their partitions, and the positions before and after them.
pub struct Batch {
    /// Those beyond `times` are not folded: see `unknown_rules`.
    records: Vec<Decoded>,
    /// The log's time at each record that is folded.
    times: Vec<Timestamp>,
    pub advances: Vec<Advance>,
    /// A record asks for rules that this build does not know; it and what follows is not folded.
    pub unknown_rules: Option<UnknownRules>,
}

/// Changes that are folded in one go: a fraction of a millisecond.
const CHANGES_AT_ONCE: usize = 128;

/// Scopes that a batch changed: their headings after it, and what it changed in them.
pub type Parts = HashMap<ScopeKey, Later>;

/// What a batch comes to.
pub struct Folded {
    pub writes: Writes,
    pub committed: Committed,
    pub changed: Parts,
    /// How the scopes that had an event stand after it.
    pub stood: HashMap<ScopeKey, Stood>,
}

impl Folded {
    /// Whether events of a scope wait for an operator from here on.
    pub fn parks(&self) -> bool {
        self.writes.dead_letters.iter().any(|letter| letter.kind == DeadLetterKind::Parked)
    }
}

/// SHA-256 of a record's key and value, to recognise the log by.
pub fn record_hash(key: &[u8], value: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().into()
}

impl Batch {
    pub fn new(records: Vec<Decoded>, positions: &BTreeMap<Partition, Position>) -> Self {
        let mut clocks: HashMap<Partition, PartitionClock> = HashMap::new();
        let mut times = Vec::with_capacity(records.len());
        let mut unknown_rules = None;
        for record in &records {
            let partition = record.place.partition;
            let clock = clocks.entry(partition).or_insert_with(|| {
                positions.get(&partition).map_or(PartitionClock::START, |p| p.clock)
            });
            match &record.event {
                Ok(event) => {
                    if let Err(rules) = clock.advance(record.append_time, event) {
                        unknown_rules = Some(rules);
                        break;
                    }
                }
                Err(_) => clock.time = clock.time.max(record.append_time),
            }
            times.push(clock.time);
        }
        let advances = advances(&records[..times.len()], positions, &clocks);
        Self { records, times, advances, unknown_rules }
    }

    /// Records that were parked, each at the log's time there. The positions are past them already.
    pub fn of_parked(records: Vec<Decoded>, times: Vec<Timestamp>) -> Self {
        Self { records, times, advances: Vec::new(), unknown_rules: None }
    }

    /// How many records are folded.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// All records, as they were given.
    pub fn into_records(self) -> Vec<Decoded> {
        self.records
    }

    /// The records that are folded.
    pub fn folded(&self) -> &[Decoded] {
        &self.records[..self.times.len()]
    }

    fn commands(&self) -> impl Iterator<Item = &Command> {
        self.folded().iter().filter_map(|record| match &record.event {
            Ok(Event::Command(command)) => Some(command),
            Ok(Event::Tick | Event::RulesChanged { .. }) | Err(_) => None,
        })
    }

    /// What must be loaded to fold the batch.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for command in self.commands() {
            wanted.add(&command.scope, command.id, Touched::by(command));
        }
        wanted
    }

    /// What would be loaded if there were no message, content and command that the batch names, in scopes that stand as
    /// they `stood`. `None` if one of them or of the users is not known, or if it is about what must be there.
    pub fn nothing_but(&self, stood: impl Fn(&ScopeKey) -> Option<Stood>) -> Option<Loaded> {
        let mut loaded = Loaded::default();
        for command in self.commands() {
            if !may_be_new(&command.action) {
                return None;
            }
            let (key, actor) = (&command.scope, &command.actor);
            let known = stood(key)?;
            let member = known.member(actor)?;
            let scope = loaded.scopes.entry(key.clone()).or_insert_with(|| known.scope(key));
            scope.members.extend(member.map(|member| (actor.clone(), member)));
        }
        Some(loaded)
    }

    /// What must be loaded besides, now that the rest is: mostly nothing.
    pub fn wanted_besides(&self, loaded: &Loaded) -> Wanted {
        let written: HashSet<_> = self.commands().flat_map(Touched::written).collect();
        let mut wanted = Wanted::default();
        for command in self.commands() {
            let Some(scope) = loaded.scopes.get(&command.scope) else { continue };
            let messages = Touched::again(command, scope, &written);
            if !messages.is_empty() {
                let touched = Touched { messages, ..Touched::default() };
                wanted.add(&command.scope, command.id, touched);
            }
        }
        wanted
    }

    /// Folds the batch into what was loaded.
    pub fn fold(&self, loaded: Loaded) -> Folded {
        let mut steps = self.steps(loaded);
        while steps.go_on() {}
        steps.finish()
    }

    /// As [`Self::fold`], some records at a time.
    pub fn steps(&self, loaded: Loaded) -> Steps<'_> {
        Steps { batch: self, next: 0, work: Work { loaded, ..Work::default() } }
    }

    /// The database refuses this one record: it waits for an operator, and its scope with it.
    pub fn park(&self, reason: &str) -> Folded {
        let mut work = Work::default();
        for (record, time) in self.folded().iter().zip(&self.times) {
            work.dead_letter(record, *time, DeadLetterKind::Parked, reason.to_owned());
        }
        work.finish(&self.advances)
    }
}

fn advances(
    records: &[Decoded],
    positions: &BTreeMap<Partition, Position>,
    clocks: &HashMap<Partition, PartitionClock>,
) -> Vec<Advance> {
    let mut last: BTreeMap<Partition, &Decoded> = BTreeMap::new();
    for record in records {
        last.insert(record.place.partition, record);
    }
    let advance = |(partition, record): (Partition, &Decoded)| {
        let hash = record_hash(&record.key, &record.value);
        let to = Position {
            partition,
            next_offset: record.place.offset.next(),
            clock: clocks.get(&partition).copied().unwrap_or(PartitionClock::START),
            last: Some(LastRecord { offset: record.place.offset, hash }),
            rebuilds: positions.get(&partition).map_or(0, |p| p.rebuilds),
        };
        let from = positions.get(&partition).map_or(Offset::ZERO, |p| p.next_offset);
        Advance { partition, from, to }
    };
    last.into_iter().map(advance).collect()
}

/// A batch that is folded some records at a time: meanwhile others have their turn.
pub struct Steps<'b> {
    batch: &'b Batch,
    next: usize,
    work: Work,
}

impl Steps<'_> {
    /// Folds some records. Whether there are more.
    pub fn go_on(&mut self) -> bool {
        let mut changes = 0;
        let rest = self.batch.folded().iter().zip(&self.batch.times).skip(self.next);
        for (record, time) in rest {
            if changes >= CHANGES_AT_ONCE {
                return true;
            }
            self.work.fold(record, *time);
            self.next += 1;
            changes += 1 + record.changes();
        }
        false
    }

    /// Whether every message that was named so far had an id and a content that nothing has, and every command was folded the
    /// first time: then the rows that come of them are of all of them.
    pub fn makes_all(&self) -> bool {
        !self.work.is_known
    }

    /// What it came to.
    pub fn finish(self) -> Folded {
        self.work.finish(&self.batch.advances)
    }
}

/// What a batch changes in one scope.
struct InScope {
    reference: ScopeRef,
    messages: Vec<MessageId>,
    /// Those whose membership it changes.
    users: Vec<UserId>,
    actors: HashSet<UserId>,
    commands: Vec<CommandId>,
}

impl InScope {
    fn new(key: &ScopeKey) -> Self {
        let reference = key.reference();
        let (messages, users, commands) = (Vec::new(), Vec::new(), Vec::new());
        Self { reference, messages, users, actors: HashSet::new(), commands }
    }
}

/// A batch being folded.
#[derive(Default)]
struct Work {
    loaded: Loaded,
    /// Scopes that had an event.
    scopes: HashMap<ScopeKey, InScope>,
    /// The final image of each message that changed.
    messages: HashMap<(ScopeRef, MessageId), MessageImage>,
    /// Messages that had no row before the batch.
    created: HashSet<(ScopeRef, MessageId)>,
    replaced: HashSet<(ScopeRef, MessageId)>,
    /// Tombstones up to these cursors are gone.
    floors: HashMap<ScopeRef, Cursor>,
    history: Vec<PastImage>,
    members: HashMap<(ScopeRef, UserId), MemberImage>,
    outcomes: HashMap<CommandId, OutcomeImage>,
    backups: Vec<RequestedBackup>,
    /// The last state of each.
    restores: HashMap<RestoreId, RestoreImage>,
    dead_letters: Vec<DeadLetter>,
    erased: Vec<ErasedImage>,
    committed: Committed,
    /// Something was there before, or is written nowhere.
    is_known: bool,
}

impl Work {
    fn fold(&mut self, record: &Decoded, time: Timestamp) {
        let command = match &record.event {
            Ok(Event::Command(command)) => command,
            Ok(Event::Tick | Event::RulesChanged { .. }) => return,
            Err(reason) => {
                let reason = reason.to_string();
                return self.dead_letter(record, time, DeadLetterKind::Refused, reason);
            }
        };
        if self.loaded.parked.contains(&command.scope) {
            let reason = "an earlier event of its scope is parked".to_owned();
            return self.dead_letter(record, time, DeadLetterKind::ParkedBehind, reason);
        }
        let scope = self
            .loaded
            .scopes
            .entry(command.scope.clone())
            .or_insert_with(|| Scope::new(command.scope.clone()));
        match scope.apply(command, time) {
            Ok(applied) => self.applied(record, command, &applied),
            Err(reason) => {
                self.dead_letter(record, time, DeadLetterKind::Refused, reason.to_string());
            }
        }
    }

    fn applied(&mut self, record: &Decoded, command: &Command, applied: &Applied) {
        let key = &command.scope;
        let in_scope = self.scopes.entry(key.clone()).or_insert_with(|| InScope::new(key));
        in_scope.messages.extend(applied.changes.iter().map(|changed| changed.id));
        in_scope.users.extend(applied.member.clone());
        in_scope.commands.push(command.id);
        if !in_scope.actors.contains(&command.actor) {
            in_scope.actors.insert(command.actor.clone());
        }
        self.is_known |= !makes_all(command, applied);
        let reference = in_scope.reference;
        if let Verdict::ScopeErased { cursor } = applied.outcome.verdict
            && !applied.repeated
        {
            self.forget(reference);
            self.erased.push(ErasedImage {
                id: command.id,
                scope: reference,
                tenant: key.tenant.clone(),
                place: record.place,
                cursor,
                at: applied.outcome.folded_at,
            });
        }
        let Some(scope) = self.loaded.scopes.get(key) else { return };
        // First: a command may also edit what it creates, and only its last image comes below.
        let new = applied.changes.iter().filter(|changed| changed.is_new);
        self.created.extend(new.map(|changed| (reference, changed.id)));
        // Before the messages that it was are overwritten below.
        for past in history::past(scope, command, applied) {
            let in_batch = || self.messages.get(&(reference, past.id)).map(|now| now.json.clone());
            self.history.push(PastImage {
                scope: reference,
                tenant: key.tenant.clone(),
                id: past.id,
                place: record.place,
                change: past.change,
                result: past.result,
                won_by: past.won_by,
                at: applied.outcome.folded_at,
                json: past.json.or_else(in_batch),
            });
        }
        for (changed, message) in images(scope, command, &applied.changes) {
            let place = (reference, changed.id);
            if !self.created.contains(&place) {
                self.replaced.insert(place);
            }
            let image = MessageImage::new(reference, key.tenant.clone(), message);
            self.messages.insert(place, image);
        }
        if let Some(floor) = applied.floor {
            self.floors.insert(reference, floor);
            self.messages.retain(|(scope, _), image| {
                *scope != reference || image.entry.is_live() || image.entry.cursor > floor
            });
        }
        if let Some(user) = &applied.member
            && let Some(member) = scope.members.get(user)
        {
            let (tenant, user) = (key.tenant.clone(), user.clone());
            self.committed.members.push((reference, user.clone()));
            let image =
                MemberImage { scope: reference, tenant, user: user.clone(), member: *member };
            self.members.insert((reference, user), image);
        }
        if let Some(record) = &applied.restore {
            let (tenant, record) = (key.tenant.clone(), record.clone());
            let image = RestoreImage { scope: reference, tenant, record };
            self.restores.insert(image.record.restore.id, image);
        }
        self.committed.outcomes.push((command.id, applied.outcome.clone()));
        if !applied.repeated {
            if let Verdict::BackupRequested { backup } = applied.outcome.verdict {
                let (scope, at) = (key.clone(), applied.outcome.folded_at);
                self.backups.push(RequestedBackup { id: backup, scope, at });
            }
            let image = OutcomeImage {
                id: command.id,
                scope: reference,
                tenant: key.tenant.clone(),
                partition: record.place.partition,
                offset: record.place.offset,
                outcome: applied.outcome.clone(),
            };
            self.outcomes.insert(command.id, image);
        }
    }

    /// What the batch has made of a scope before its erasure is not to be written.
    fn forget(&mut self, scope: ScopeRef) {
        self.messages.retain(|(of, _), _| *of != scope);
        self.created.retain(|(of, _)| *of != scope);
        self.replaced.retain(|(of, _)| *of != scope);
        self.history.retain(|past| past.scope != scope);
        let own = |letter: &&mut DeadLetter| {
            letter.scope == Some(scope) && letter.kind == DeadLetterKind::Refused
        };
        for letter in self.dead_letters.iter_mut().filter(own) {
            (letter.value, letter.reason) = (Vec::new(), ERASED_REASON.to_owned());
        }
    }

    fn dead_letter(
        &mut self,
        record: &Decoded,
        time: Timestamp,
        kind: DeadLetterKind,
        reason: String,
    ) {
        self.is_known = true;
        let key = std::str::from_utf8(&record.key).ok();
        let scope: Option<ScopeKey> = key.and_then(|key| key.parse().ok());
        self.dead_letters.push(DeadLetter {
            partition: record.place.partition,
            offset: record.place.offset,
            kind,
            scope: scope.map(|scope| scope.reference()),
            append_time: record.append_time,
            time,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
            reason,
        });
    }

    fn finish(self, advances: &[Advance]) -> Folded {
        let Self { loaded, scopes, messages, replaced, floors, members, outcomes, .. } = self;
        let (backups, restores, dead_letters) = (self.backups, self.restores, self.dead_letters);
        let (history, mut erased) = (self.history, self.erased);
        // Of one command that was repeated after a day, the last counts.
        erased.sort_by_key(|image| (image.id, std::cmp::Reverse(image.cursor)));
        erased.dedup_by_key(|image| image.id);
        let mut committed = self.committed;
        let mut headings = Vec::with_capacity(scopes.len());
        let mut changed = HashMap::with_capacity(scopes.len());
        let mut stood = HashMap::with_capacity(scopes.len());
        for (key, in_scope) in scopes {
            let Some(scope) = loaded.scopes.get(&key) else { continue };
            let InScope { reference, messages, users, actors, commands } = in_scope;
            let touched = users.iter().cloned().chain(actors);
            stood.insert(key.clone(), Stood::of(scope, touched));
            changed.insert(key.clone(), scope.later(messages, users, commands));
            // A team that was never created has no row, whoever asked something of it.
            if scope.heading.exists {
                committed.scopes.push((reference, scope.heading.clone()));
                headings.push((key, scope.heading.clone()));
            }
        }
        committed.positions = advances.iter().map(|a| (a.partition, a.to.next_offset)).collect();
        let mut messages: Vec<MessageImage> = messages.into_values().collect();
        // A scope's rows lie in the order they are pulled in.
        messages.sort_unstable_by_key(|image| (image.scope, image.entry.cursor));
        let writes = Writes {
            scopes: headings,
            members: members.into_values().collect(),
            replaced: replaced.into_iter().collect(),
            floors: floors.into_iter().collect(),
            messages,
            history,
            outcomes: outcomes.into_values().collect(),
            backups,
            restores: restores.into_values().collect(),
            dead_letters,
            erased,
            taken_for_new: false,
        };
        Folded { writes, committed, changed, stood }
    }
}

/// Whether nothing says that a message which it names is there.
fn may_be_new(action: &Action) -> bool {
    match action {
        Action::MessagesPushed { changes, .. } => {
            changes.iter().all(|pushed| pushed.change.base_cursor().is_none())
        }
        Action::RestoreChunk(chunk) => chunk.deletes.is_empty(),
        _ => false,
    }
}

/// Whether a command was folded the first time, and has made every message that it names.
fn makes_all(command: &Command, applied: &Applied) -> bool {
    let named = match &command.action {
        Action::MessagesPushed { changes, .. } => changes.len(),
        Action::RestoreChunk(chunk) => chunk.deletes.len() + chunk.puts.len(),
        _ => return false,
    };
    !applied.repeated
        && applied.changes.len() == named
        && applied.changes.iter().all(|changed| changed.is_new)
}
