//! A scope folded once more from its partition, and what is sought in it: on this log, and on those that were lost before
//! it, as far as the archive has them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use archive::Archive;
use eventlog::{EventLog, LogError, ReadLimit, Record, partition_of};
use model::{
    Action, Applied, Change, Command, CommandId, Cursor, Event, LogId, MessageId, Offset,
    Partition, PartitionClock, Place, Scope, ScopeKey, Status, Verdict, log_fold::check_key,
};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{
    super::{Unasked, beginning::Beginning},
    TraceMessage, TraceStep, Tracing, is_synced, verdict,
};

const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 8 << 20 };
const READ_WAIT: Duration = Duration::from_millis(500);
/// How often the log may have nothing where it said that it has.
const EMPTY_READS_MAX: u32 = 20;

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) enum Sought {
    Command(CommandId),
    Message(MessageId),
}

impl Sought {
    fn is_in(self, command: &Command) -> bool {
        match self {
            Self::Command(id) => command.id == id,
            Self::Message(id) => names(command, id),
        }
    }
}

/// Whether a command may be about a message.
fn names(command: &Command, id: MessageId) -> bool {
    match &command.action {
        Action::MessagesPushed { changes, .. } => {
            changes.iter().any(|pushed| match &pushed.change {
                Change::Delete { id: own, .. } => *own == id,
                Change::Write(write) => {
                    let hash = &write.content_hash;
                    let derived = || {
                        MessageId::of_content(&command.scope, hash) == id
                            || MessageId::of_content_again(
                                &command.scope,
                                hash,
                                command.id,
                                pushed.index,
                            ) == id
                    };
                    write.id.map_or_else(derived, |own| own == id)
                }
            })
        }
        Action::RestoreChunk(chunk) => {
            chunk.deletes.contains(&id) || chunk.puts.iter().any(|put| put.id == id)
        }
        _ => false,
    }
}

/// A log of those that the events are on.
pub(super) struct Followed {
    /// As far back as the archive reaches.
    pub(super) whole: Arc<dyn EventLog>,
    /// What is left of it without the archive; `None`: it was lost.
    pub(super) left: Option<Arc<dyn EventLog>>,
}

/// What was found, in the order of the logs.
#[derive(Default)]
pub(super) struct Way {
    pub(super) steps: Vec<StepAt>,
    /// Events of some log can be read nowhere. The steps from this one on are of later logs.
    pub(super) cut: Option<usize>,
    /// Where each message that a step is about stands: that step, and the place of the message in it.
    latest: HashMap<MessageId, (usize, usize)>,
}

pub(super) struct StepAt {
    pub(super) log: LogId,
    pub(super) place: Place,
    pub(super) step: TraceStep,
}

/// Looks through the logs for an id, the newest first.
pub(super) async fn search(
    logs: &[Followed],
    id: Uuid,
    say: &Sender<Tracing>,
) -> Result<Option<(ScopeKey, Sought)>, Unasked> {
    for log in logs.iter().rev() {
        for partition in (0..log.whole.partitions()).map(Partition::new) {
            let mut found = None;
            let mut look = |record: &Record| {
                found = named_in(record, id);
                found.is_none()
            };
            let whole = log.whole.as_ref();
            let start = bounds(whole, partition).await?.start;
            let is_whole = read(whole, partition, start, say, &mut look).await?;
            if let (false, Some(left)) = (is_whole, &log.left) {
                let start = bounds(left.as_ref(), partition).await?.start;
                read(left.as_ref(), partition, start, say, &mut look).await?;
            }
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

fn named_in(record: &Record, id: Uuid) -> Option<(ScopeKey, Sought)> {
    let Ok(Event::Command(command)) = schemas::decode(&record.value) else { return None };
    let kinds = [Sought::Command(CommandId(id)), Sought::Message(MessageId(id))];
    let sought = kinds.into_iter().find(|sought| sought.is_in(&command))?;
    Some((command.scope.clone(), sought))
}

/// Folds the scope on all logs, the oldest first, and notes what is sought. `recovered`: the archive that all but the
/// first begin with.
pub(super) async fn follow(
    logs: &[Followed],
    recovered: Option<&Archive>,
    key: &ScopeKey,
    sought: Sought,
    say: &Sender<Tracing>,
) -> Result<Way, Unasked> {
    let mut way = Way::default();
    for log in logs {
        way.follow(log, recovered, key, sought, say).await?;
    }
    Ok(way)
}

/// A scope as it is folded.
struct Folding {
    scope: Scope,
    clock: PartitionClock,
}

impl Folding {
    /// As the scope stood when the log began.
    async fn begin(
        log: LogId,
        recovered: Option<&Archive>,
        partition: Partition,
        key: &ScopeKey,
    ) -> Result<Self, Unasked> {
        let begun = match recovered {
            Some(archive) => {
                Beginning::read(archive, log, partition, |scope| scope == key, |_, _| {})
                    .await
                    .map_err(|error| format!("the archive: {error}"))?
            }
            None => None,
        };
        let Beginning { clock, mut scopes } = begun.unwrap_or_else(Beginning::nothing);
        let scope = scopes.remove(key).unwrap_or_else(|| Scope::new(key.clone()));
        Ok(Self { scope, clock })
    }
}

impl Way {
    async fn follow(
        &mut self,
        log: &Followed,
        recovered: Option<&Archive>,
        key: &ScopeKey,
        sought: Sought,
        say: &Sender<Tracing>,
    ) -> Result<(), Unasked> {
        let (whole, text) = (log.whole.as_ref(), key.to_string());
        let (id, partition) = (whole.log_id(), partition_of(text.as_bytes(), whole.partitions()));
        if bounds(whole, partition).await?.start == Offset::ZERO {
            let before = self.steps.len();
            let mut folding = Folding::begin(id, recovered, partition, key).await?;
            let take = |record: &Record| self.take(id, record, &text, sought, Some(&mut folding));
            if read(whole, partition, Offset::ZERO, say, take).await? {
                return Ok(());
            }
            self.forget_from(before);
        }
        // A fold of the rest would say something else: no outcome is told.
        let rest = log.left.as_ref().map_or(whole, |left| left.as_ref());
        let start = bounds(rest, partition).await?.start;
        let take = |record: &Record| self.take(id, record, &text, sought, None);
        read(rest, partition, start, say, take).await?;
        self.cut = Some(self.steps.len());
        Ok(())
    }

    /// Notes a record if it is sought. Without a fold, no more than that it is there.
    fn take(
        &mut self,
        log: LogId,
        record: &Record,
        key: &str,
        sought: Sought,
        mut folding: Option<&mut Folding>,
    ) -> bool {
        if let Some(own) = &mut folding {
            own.clock.time = own.clock.time.max(record.append_time);
        }
        if record.key.as_ref() != key.as_bytes() {
            return true; // of another scope: not even decoded
        }
        let Ok(Event::Command(command)) = schemas::decode(&record.value) else { return true };
        let applied = folding.map(|own| {
            check_key(&record.key, &command)
                .and_then(|()| own.scope.apply(&command, own.clock.time))
                .map_err(|reason| format!("refused: {reason}"))
        });
        if let Some(Ok(applied)) = &applied {
            self.replace(applied);
        }
        if sought.is_in(&command) {
            let mut step = step(log, record, &command);
            match &applied {
                Some(Ok(applied)) => tell(&mut step, applied, sought),
                Some(Err(refused)) => step.outcome = Some(refused.clone()),
                None => {}
            }
            self.push(log, record.place(), step);
        }
        true
    }

    /// The versions that a command took the place of.
    fn replace(&mut self, applied: &Applied) {
        for changed in &applied.changes {
            let Some((step, place)) = self.latest.get(&changed.id) else { continue };
            let step = self.steps.get_mut(*step);
            if let Some(message) = step.and_then(|at| at.step.messages.get_mut(*place)) {
                message.replaced_at.get_or_insert(changed.cursor.get());
            }
        }
    }

    fn push(&mut self, log: LogId, place: Place, step: TraceStep) {
        for (at, message) in step.messages.iter().enumerate() {
            if let (true, Ok(id)) = (is_synced(&message.status), message.message_id.parse::<Uuid>())
            {
                self.latest.insert(MessageId(id), (self.steps.len(), at));
            }
        }
        self.steps.push(StepAt { log, place, step });
    }

    fn forget_from(&mut self, step: usize) {
        self.steps.truncate(step);
        self.latest.retain(|_, (at, _)| *at < step);
    }
}

/// What became of a step's command.
fn tell(step: &mut TraceStep, applied: &Applied, sought: Sought) {
    let said = verdict(&applied.outcome.verdict);
    step.outcome = Some(if applied.repeated { format!("repeated: {said}") } else { said });
    let changes = applied.changes.iter().map(|changed| (changed.id, changed.cursor));
    step.messages = messages(&applied.outcome.verdict, changes.collect(), sought);
}

fn step(log: LogId, record: &Record, command: &Command) -> TraceStep {
    TraceStep {
        log_id: log.to_string(),
        place: record.place().to_string(),
        appended_at: record.append_time.to_string(),
        command_id: command.id.to_string(),
        kind: command.action.kind().to_owned(),
        actor: command.actor.to_string(),
        device: command.device.as_ref().map(ToString::to_string),
        org_role: command.org_role.as_str().to_owned(),
        bytes: record.value.len() as u64,
        state: None,
        outcome: None,
        messages: Vec::new(),
        archived_hour: None,
    }
}

fn messages(
    verdict: &Verdict,
    changes: Vec<(MessageId, Cursor)>,
    sought: Sought,
) -> Vec<TraceMessage> {
    let is_sought = |id: Option<MessageId>| match sought {
        Sought::Command(_) => true,
        Sought::Message(message) => id == Some(message),
    };
    let Verdict::Pushed(answer) = verdict else {
        let restored = |(id, cursor): (MessageId, Cursor)| TraceMessage {
            message_id: id.to_string(),
            status: "restored".to_owned(),
            cursor: Some(cursor.get()),
            replaced_at: None,
        };
        return changes.into_iter().filter(|(id, _)| is_sought(Some(*id))).map(restored).collect();
    };
    let results = answer.results.iter().filter(|result| is_sought(result.id));
    results
        .filter(|result| result.status != Status::Invalid)
        .map(|result| TraceMessage {
            message_id: result.id.map(|id| id.to_string()).unwrap_or_default(),
            status: result.status.as_str().to_owned(),
            cursor: result.cursor.map(Cursor::get),
            replaced_at: None,
        })
        .collect()
}

async fn bounds(log: &dyn EventLog, partition: Partition) -> Result<eventlog::Bounds, Unasked> {
    log.bounds(partition).await.map_err(|error| format!("the log: {error}"))
}

/// Reads a partition as far as it is now, until `take` has enough. False: records of it can be read nowhere.
async fn read(
    log: &dyn EventLog,
    partition: Partition,
    from: Offset,
    say: &Sender<Tracing>,
    mut take: impl FnMut(&Record) -> bool,
) -> Result<bool, Unasked> {
    let end = bounds(log, partition).await?.end;
    let in_log = |error: LogError| format!("the log: {error}");
    let mut reader = log.reader(&[(partition, from)]).map_err(in_log)?;
    let (mut next, mut empty) = (from, 0);
    while next < end {
        let records = match reader.next(READ, READ_WAIT).await {
            Err(LogError::OutOfRange { .. }) => return Ok(false),
            read => read.map_err(in_log)?,
        };
        if records.is_empty() {
            empty += 1;
            if empty > EMPTY_READS_MAX {
                return Err(format!(
                    "the log gives nothing of partition {partition} from {next} on"
                ));
            }
        }
        for record in records {
            next = record.offset.next();
            if next > end || !take(&record) {
                return Ok(true);
            }
        }
        let (partition, records, of) = (partition.get(), next.get(), end.get());
        let _ = say.try_send(Tracing::Read { partition, records, of });
    }
    Ok(true)
}
