//! The log's side of a check: one partition folded, of the scopes that are asked for. Contents are not kept, only the
//! hash of each message's JSON.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use archive::{Archive, ArchiveError};
use eventlog::{EventLog, LogError, LogReader, ReadLimit, Record};
use model::{
    Command, Cursor, Event, LogId, MessageId, Offset, Partition, PartitionClock, Past, PastResult,
    Scope, ScopeKey, ScopeRef, Timestamp, Verdict, history,
    limits::OUTCOME_KEPT_MICROS,
    log_fold::{check_key, images},
};
use readmodel::history::PastPlace;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Sender;

use super::{
    super::{Unasked, beginning::Beginning},
    Agreement, CheckQuery, Checking,
};

const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 8 << 20 };
const READ_WAIT: Duration = Duration::from_millis(500);
/// How often the log may have nothing where it said that it has.
const EMPTY_READS_MAX: u32 = 20;
/// Records between two looks for commands that are too old to be repeated.
const FORGET_EVERY: u64 = 20_000;

pub(super) type JsonHash = [u8; 32];

pub(super) fn json_hash(json: &str) -> JsonHash {
    Sha256::digest(json.as_bytes()).into()
}

/// Why a fold does not go on.
pub(super) enum Unfolded {
    /// Retention removed what comes next, and the archive does not have it.
    Hole,
    Failed(Unasked),
}

impl From<Unasked> for Unfolded {
    fn from(why: Unasked) -> Self {
        Self::Failed(why)
    }
}

/// A partition being read.
pub(super) struct Read {
    reader: Box<dyn LogReader>,
    pub(super) partition: Partition,
    pub(super) next: Offset,
    /// Read, and not folded yet.
    ahead: VecDeque<Record>,
}

impl Read {
    pub(super) fn begin(log: &dyn EventLog, partition: Partition) -> Result<Self, LogError> {
        let reader = log.reader(&[(partition, Offset::ZERO)])?;
        Ok(Self { reader, partition, next: Offset::ZERO, ahead: VecDeque::new() })
    }

    /// The next record before an offset; `None` once it is reached.
    async fn before(&mut self, to: Offset) -> Result<Option<Record>, Unfolded> {
        let mut empty = 0;
        while self.next < to && self.ahead.is_empty() {
            match self.reader.next(READ, READ_WAIT).await {
                Ok(records) if records.is_empty() => empty += 1,
                Ok(records) => self.ahead.extend(records),
                Err(error) if error.is_retryable() => {
                    empty += 1;
                    tokio::time::sleep(READ_WAIT).await;
                }
                Err(LogError::OutOfRange { .. }) => return Err(Unfolded::Hole),
                Err(error) => return Err(format!("the log: {error}").into()),
            }
            if empty > EMPTY_READS_MAX {
                let Self { partition, next, .. } = self;
                let why = format!(
                    "the log: it gives nothing of partition {partition} from offset {next} on"
                );
                return Err(why.into());
            }
        }
        if self.ahead.front().is_none_or(|record| record.offset >= to) {
            self.next = self.next.max(to);
            return Ok(None);
        }
        let record = self.ahead.pop_front();
        if let Some(record) = &record {
            self.next = record.offset.next();
        }
        Ok(record)
    }
}

/// A scope, and the JSON of its messages by hash.
pub(super) struct ScopeFold {
    pub(super) scope: Scope,
    pub(super) json: HashMap<MessageId, JsonHash>,
    /// By message, record, and which of its changes.
    pub(super) past: HashMap<(MessageId, PastPlace), PastFold>,
    /// Whether the archive said the same, where it stood.
    pub(super) archive: Agreement,
}

/// A version that is past.
pub(super) struct PastFold {
    pub(super) result: PastResult,
    pub(super) won_by: Cursor,
    pub(super) at: Timestamp,
    pub(super) json: Option<JsonHash>,
}

/// What a partition folds to.
pub(super) struct PartitionFold {
    clock: PartitionClock,
    pub(super) scopes: HashMap<ScopeKey, ScopeFold>,
    /// The records that are no events; complete only where all scopes are asked for.
    pub(super) refused: Vec<Offset>,
    records: u64,
    /// What the archive says of a scope that begins.
    archive: Agreement,
}

impl PartitionFold {
    /// Of a log that begins with its first record.
    pub(super) fn of_nothing() -> Self {
        Self::begin(Beginning::nothing(), HashMap::new())
    }

    /// Of a recovered log, which begins with what the archive has; `None` if that has nothing of it.
    pub(super) async fn of_recovered(
        archive: &Archive,
        log: LogId,
        partition: Partition,
        query: &CheckQuery,
    ) -> Result<Option<Self>, ArchiveError> {
        let mut json: HashMap<ScopeKey, HashMap<MessageId, JsonHash>> = HashMap::new();
        let wanted = |key: &ScopeKey| query.has(key);
        let begun = Beginning::read(archive, log, partition, wanted, |key, message| {
            let hash = json_hash(&message.to_json());
            match json.get_mut(key) {
                Some(own) => drop(own.insert(message.id, hash)),
                None => drop(json.insert(key.clone(), HashMap::from([(message.id, hash)]))),
            }
        });
        let begun = begun.await?;
        Ok(begun.map(|begun| Self::begin(begun, json)))
    }

    fn begin(
        Beginning { clock, scopes }: Beginning,
        mut json: HashMap<ScopeKey, HashMap<MessageId, JsonHash>>,
    ) -> Self {
        let of = |(key, scope): (ScopeKey, Scope)| {
            let json = json.remove(&key).unwrap_or_default();
            (key, ScopeFold { scope, json, past: HashMap::new(), archive: Agreement::default() })
        };
        let scopes = scopes.into_iter().map(of).collect();
        let archive = Agreement::default();
        Self { clock, scopes, refused: Vec::new(), records: 0, archive }
    }

    /// The archive was asked: what it has not been found to have, it does not have yet.
    pub(super) fn archive_is_asked(&mut self) {
        self.archive = Agreement::NotYet;
        self.scopes.values_mut().for_each(|folded| folded.archive = Agreement::NotYet);
    }

    /// Folds on, up to an offset. What is parked is left out: the rows do not have it.
    pub(super) async fn up_to(
        &mut self,
        read: &mut Read,
        to: Offset,
        parked: &HashMap<ScopeRef, Offset>,
        query: &CheckQuery,
        say: &Sender<Checking>,
    ) -> Result<(), Unfolded> {
        while let Some(record) = read.before(to).await? {
            self.fold(&record, parked, query)?;
            self.records += 1;
            if self.records.is_multiple_of(1_000) {
                let (partition, records) = (read.partition.get(), read.next.get());
                let _ = say.try_send(Checking::Folded { partition, records, of: to.get() });
            }
            if self.records.is_multiple_of(FORGET_EVERY) {
                self.forget_old_commands();
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn fold(
        &mut self,
        record: &Record,
        parked: &HashMap<ScopeRef, Offset>,
        query: &CheckQuery,
    ) -> Result<(), Unasked> {
        let key = std::str::from_utf8(&record.key).ok();
        let scope: Option<ScopeKey> = key.and_then(|key| key.parse().ok());
        let time = self.clock.time.max(record.append_time);
        if scope.as_ref().is_some_and(|scope| !query.has(scope)) {
            self.clock.time = time; // of the others, only that time passes
            return Ok(());
        }
        let event = schemas::decode(&record.value).ok();
        if let Some(event) = &event {
            self.clock.advance(record.append_time, event).map_err(|error| error.to_string())?;
        }
        self.clock.time = time;
        match event {
            None => self.refused.push(record.offset),
            Some(Event::Tick | Event::RulesChanged { .. }) => {}
            Some(Event::Command(command)) => {
                let fits = check_key(&record.key, &command).and_then(|()| command.check());
                let waits = parked.get(&command.scope.reference());
                if fits.is_err() {
                    self.refused.push(record.offset);
                } else if waits.is_none_or(|first| record.offset < *first) {
                    self.apply(&command, record.offset);
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, command: &Command, offset: Offset) {
        let folded = self.scopes.entry(command.scope.clone()).or_insert_with(|| ScopeFold {
            scope: Scope::new(command.scope.clone()),
            json: HashMap::new(),
            past: HashMap::new(),
            archive: self.archive,
        });
        // What does not apply was refused above.
        let Ok(applied) = folded.scope.apply(command, self.clock.time) else { return };
        for past in history::past(&folded.scope, command, &applied) {
            let Past { id, change, result, won_by, json } = past;
            // What is replaced is the message as it stood before.
            let json = match json {
                Some(json) => Some(json_hash(&json)),
                None => folded.json.get(&id).copied(),
            };
            let place = PastPlace { offset, change: change as u32 };
            let past = PastFold { result, won_by, at: applied.outcome.folded_at, json };
            folded.past.insert((id, place), past);
        }
        if matches!(applied.outcome.verdict, Verdict::ScopeErased { .. }) && !applied.repeated {
            folded.json.clear();
            folded.past.clear();
        }
        for (changed, message) in images(&folded.scope, command, &applied.changes) {
            folded.json.insert(changed.id, json_hash(&message.to_json()));
        }
        if applied.floor.is_some() {
            let ScopeFold { scope, json, .. } = folded;
            json.retain(|id, _| scope.messages.contains_key(id));
        }
    }

    fn forget_old_commands(&mut self) {
        let time = self.clock.time;
        for folded in self.scopes.values_mut() {
            let commands = &mut folded.scope.commands;
            commands.retain(|_, known| time.micros_since(known.folded_at) < OUTCOME_KEPT_MICROS);
        }
    }
}
