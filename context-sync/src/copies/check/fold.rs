//! The log's side of a check: one partition folded, of the scopes that are asked for. Contents are not kept, only the
//! hash of each message's JSON.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use eventlog::{EventLog, LogError, LogReader, ReadLimit, Record};
use model::{
    Command, Event, MessageId, Offset, Partition, PartitionClock, Scope, ScopeKey, ScopeRef,
    limits::OUTCOME_KEPT_MICROS,
    log_fold::{check_key, images},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Sender;

use super::{super::Unasked, CheckQuery, Checking};

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
    async fn before(&mut self, to: Offset) -> Result<Option<Record>, Unasked> {
        let mut empty = 0;
        while self.next < to && self.ahead.is_empty() {
            match self.reader.next(READ, READ_WAIT).await {
                Ok(records) if records.is_empty() => empty += 1,
                Ok(records) => self.ahead.extend(records),
                Err(error) if error.is_retryable() => {
                    empty += 1;
                    tokio::time::sleep(READ_WAIT).await;
                }
                Err(error) => return Err(format!("the log: {error}")),
            }
            if empty > EMPTY_READS_MAX {
                let Self { partition, next, .. } = self;
                return Err(format!(
                    "the log: it gives nothing of partition {partition} from offset {next} on"
                ));
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
}

/// What a partition folds to.
pub(super) struct PartitionFold {
    clock: PartitionClock,
    pub(super) scopes: HashMap<ScopeKey, ScopeFold>,
    /// The records that are no events; complete only where all scopes are asked for.
    pub(super) refused: Vec<Offset>,
    records: u64,
}

impl Default for PartitionFold {
    fn default() -> Self {
        let clock = PartitionClock::START;
        Self { clock, scopes: HashMap::new(), refused: Vec::new(), records: 0 }
    }
}

impl PartitionFold {
    /// Folds on, up to an offset. What is parked is left out: the rows do not have it.
    pub(super) async fn up_to(
        &mut self,
        read: &mut Read,
        to: Offset,
        parked: &HashMap<ScopeRef, Offset>,
        query: &CheckQuery,
        say: &Sender<Checking>,
    ) -> Result<(), Unasked> {
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
                    self.apply(&command);
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, command: &Command) {
        let folded = self.scopes.entry(command.scope.clone()).or_insert_with(|| ScopeFold {
            scope: Scope::new(command.scope.clone()),
            json: HashMap::new(),
        });
        // What does not apply was refused above.
        let Ok(applied) = folded.scope.apply(command, self.clock.time) else { return };
        if folded.scope.messages.is_empty() {
            folded.json.clear(); // erased, say
        }
        for (changed, message) in images(&folded.scope, command, &applied.changes) {
            folded.json.insert(changed.id, json_hash(&message.to_json()));
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
