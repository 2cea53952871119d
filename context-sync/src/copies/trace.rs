//! The whole way of a push or a message: request, place on the log, outcome, cursors, and the backups that hold it.
//!
//! Outcomes are kept for a day, the log for longer: so the scope is found first, and then folded anew from its
//! partition, which gives every command's outcome, however old. Where retention has removed the log's beginning, a fold of the
//! rest would say something else, so no outcome is told: the archive's events have it.

use std::{collections::BTreeMap, time::Duration};

use archive::{
    history::Names,
    manifest::{Header, ManifestReader},
};
use eventlog::{EventLog, ReadLimit, Record, partition_of};
use model::{
    Action, Change, Command, CommandId, Cursor, Event, MessageId, Offset, Partition,
    PartitionClock, Place, Scope, ScopeKey, Status, Verdict, log_fold::check_key,
};
use readmodel::traces::{self, BackupOfScope};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{Copies, Unasked};

const READ: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 8 << 20 };
const READ_WAIT: Duration = Duration::from_millis(500);
/// How often the log may have nothing where it said that it has.
const EMPTY_READS_MAX: u32 = 20;

/// What a trace says, as it goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tracing {
    /// Records of a partition read so far.
    Read {
        partition: u32,
        records: u64,
        of: u64,
    },
    Found(Box<Trace>),
    Failed(String),
}

/// The way of a push (or another command), or of a message.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Trace {
    pub id: String,
    /// `command` or `message`.
    pub what: String,
    pub tenant: String,
    /// `tenant/kind/name`.
    pub scope: String,
    /// What was asked for, in the log's order: of a command one, and its repetitions.
    pub steps: Vec<TraceStep>,
    /// The log has lost its beginning: older steps are not shown, and of the others no outcomes, cursors and backups.
    pub is_cut: bool,
    /// Of the versions that it made.
    pub backups: Vec<TraceBackup>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TraceStep {
    /// Partition and offset.
    pub place: String,
    pub appended_at: String,
    pub command_id: String,
    pub kind: String,
    pub actor: String,
    pub device: Option<String>,
    pub org_role: String,
    pub bytes: u64,
    /// `waiting` (not projected), `projected`, `parked` or `refused`; `null` if the database could not be asked.
    pub state: Option<String>,
    pub outcome: Option<String>,
    /// What became of each message of it; of a message's trace, of that one.
    pub messages: Vec<TraceMessage>,
    /// The archive's hour that has the event, verbatim.
    pub archived_hour: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TraceMessage {
    pub message_id: String,
    pub status: String,
    pub cursor: Option<u64>,
    /// The version that came after it.
    pub replaced_at: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TraceBackup {
    pub backup_id: String,
    #[serde(rename = "type")]
    pub backup_type: String,
    pub created_at: String,
    pub path: String,
    /// The cursors of this trace that are in it.
    pub cursors: Vec<u64>,
}

impl TraceStep {
    /// Leaves out what only a fold from the log's beginning can tell.
    fn withhold(&mut self) {
        self.outcome = None;
        self.messages.clear();
    }
}

/// What is looked for.
#[derive(Clone, Copy)]
enum Sought {
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

impl Copies {
    /// Traces an id; the last thing said is `Found` or `Failed`. Changes nothing.
    pub async fn trace(&self, id: Uuid, say: &Sender<Tracing>) {
        let last = match self.find(id, say).await {
            Ok(trace) => Tracing::Found(Box::new(trace)),
            Err(why) => Tracing::Failed(why),
        };
        let _ = say.send(last).await; // nobody listens any more
    }

    async fn find(&self, id: Uuid, say: &Sender<Tracing>) -> Result<Trace, Unasked> {
        let (log, rows) = self.of_each_other().await?;
        let log = log.as_ref();
        let in_database = |error: readmodel::ReadModelError| format!("the database: {error}");
        let found =
            match traces::scope_of_command(rows, CommandId(id)).await.map_err(in_database)? {
                Some(scope) => Some((scope, Sought::Command(CommandId(id)))),
                None => {
                    let of_message = traces::scope_of_message(rows, MessageId(id)).await;
                    of_message
                        .map_err(in_database)?
                        .map(|scope| (scope, Sought::Message(MessageId(id))))
                }
            };
        // The rows know commands of a day, and messages that are there: the log knows all.
        let (scope, sought) = match found {
            Some(found) => found,
            None => search(log, id, say).await?.ok_or_else(|| {
                format!(
                    "{id} is no push, command or message on this log, as far back as it reaches"
                )
            })?,
        };
        let (mut steps, is_cut) = follow(log, &scope, sought, say).await?;
        if is_cut {
            steps.values_mut().for_each(TraceStep::withhold);
        }
        let places: Vec<Place> = steps.keys().copied().collect();
        let states = traces::states(rows, &places).await.map_err(in_database)?;
        for ((place, step), state) in steps.iter_mut().zip(states) {
            step.state = Some(state.as_str().to_owned());
            step.archived_hour = self.hour_of(log, *place).await;
        }
        let steps: Vec<TraceStep> = steps.into_values().collect();
        let backups = traces::backups_of(rows, &scope).await.map_err(in_database)?;
        let backups = backups.iter().filter_map(|backup| held(backup, &steps)).collect();
        Ok(Trace {
            id: id.to_string(),
            what: match sought {
                Sought::Command(_) => "command",
                Sought::Message(_) => "message",
            }
            .to_owned(),
            tenant: scope.tenant.to_string(),
            scope: scope.to_string(),
            steps,
            is_cut,
            backups,
        })
    }

    /// The name of the sealed hour that has a record, if there is one yet.
    async fn hour_of(&self, log: &dyn EventLog, place: Place) -> Option<String> {
        let archive = self.archive.as_ref()?.as_ref().ok()?;
        let names = Names::list(archive, log.log_id(), place.partition).await.ok()?;
        let hours: Vec<String> = names.hours().collect();
        let (mut low, mut high) = (0, hours.len());
        let mut found: Option<Header> = None;
        while low < high {
            let middle = low.midpoint(high);
            let path = hours.get(middle)?;
            let object = archive.fetch(path).await.ok()?;
            let header = ManifestReader::new(object, path).ok()?.header;
            if header.next_offset > place.offset {
                (high, found) = (middle, Some(header));
            } else {
                low = middle + 1;
            }
        }
        found.filter(|hour| hour.first_offset <= place.offset).map(|hour| hour.period)
    }
}

/// Which of the steps' versions a backup shows.
fn held(backup: &BackupOfScope, steps: &[TraceStep]) -> Option<TraceBackup> {
    let is_held = |message: &&TraceMessage| {
        let end = backup.cursor_last;
        message.cursor.is_some_and(|cursor| {
            let covered = (backup.cursor_first..=end).contains(&cursor);
            covered && message.replaced_at.is_none_or(|later| later > end)
        })
    };
    let messages = steps.iter().flat_map(|step| &step.messages);
    let made = messages.filter(|message| is_synced(&message.status)).filter(is_held);
    let cursors: Vec<u64> = made.filter_map(|message| message.cursor).collect();
    (!cursors.is_empty()).then(|| TraceBackup {
        backup_id: backup.id.to_string(),
        backup_type: backup.backup_type.clone(),
        created_at: backup.created_at.to_string(),
        path: backup.path.clone(),
        cursors,
    })
}

fn is_synced(status: &str) -> bool {
    matches!(status, "created" | "updated" | "revived" | "deleted" | "restored")
}

/// Looks through the whole log for an id.
async fn search(
    log: &dyn EventLog,
    id: Uuid,
    say: &Sender<Tracing>,
) -> Result<Option<(ScopeKey, Sought)>, Unasked> {
    for partition in (0..log.partitions()).map(Partition::new) {
        let mut found = None;
        read_all(log, partition, say, |record| {
            if let Ok(Event::Command(command)) = schemas::decode(&record.value) {
                for sought in [Sought::Command(CommandId(id)), Sought::Message(MessageId(id))] {
                    if sought.is_in(&command) {
                        found = Some((command.scope.clone(), sought));
                        return false;
                    }
                }
            }
            true
        })
        .await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Folds the scope, and notes what is sought. True: the log has lost its beginning.
async fn follow(
    log: &dyn EventLog,
    key: &ScopeKey,
    sought: Sought,
    say: &Sender<Tracing>,
) -> Result<(BTreeMap<Place, TraceStep>, bool), Unasked> {
    let text = key.to_string();
    let partition = partition_of(text.as_bytes(), log.partitions());
    let mut scope = Scope::new(key.clone());
    let mut clock = PartitionClock::START;
    let mut steps: BTreeMap<Place, TraceStep> = BTreeMap::new();
    // Where each message that a step is about stands: the place of that step, and of the message in it.
    let mut latest: BTreeMap<MessageId, (Place, usize)> = BTreeMap::new();
    let start = read_all(log, partition, say, |record| {
        clock.time = clock.time.max(record.append_time);
        if record.key.as_ref() != text.as_bytes() {
            return true; // of another scope: not even decoded
        }
        let Ok(Event::Command(command)) = schemas::decode(&record.value) else { return true };
        let wanted = sought.is_in(&command);
        let applied =
            check_key(&record.key, &command).and_then(|()| scope.apply(&command, clock.time));
        if let Ok(applied) = &applied {
            for changed in &applied.changes {
                if let Some((place, at)) = latest.get(&changed.id)
                    && let Some(message) =
                        steps.get_mut(place).and_then(|s| s.messages.get_mut(*at))
                {
                    message.replaced_at.get_or_insert(changed.cursor.get());
                }
            }
        }
        if !wanted {
            return true;
        }
        let mut step = step(&record, &command);
        match &applied {
            Ok(applied) => {
                let said = verdict(&applied.outcome.verdict);
                step.outcome =
                    Some(if applied.repeated { format!("repeated: {said}") } else { said });
                let changes = applied.changes.iter().map(|changed| (changed.id, changed.cursor));
                step.messages = messages(&applied.outcome.verdict, changes.collect(), sought);
            }
            Err(reason) => step.outcome = Some(format!("refused: {reason}")),
        }
        for (at, message) in step.messages.iter().enumerate() {
            if let (true, Ok(id)) = (is_synced(&message.status), message.message_id.parse::<Uuid>())
            {
                latest.insert(MessageId(id), (record.place(), at));
            }
        }
        steps.insert(record.place(), step);
        true
    })
    .await?;
    Ok((steps, start > Offset::ZERO))
}

fn step(record: &Record, command: &Command) -> TraceStep {
    TraceStep {
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

/// Reads a partition as far as it is now, until `take` has enough; where it begins.
async fn read_all(
    log: &dyn EventLog,
    partition: Partition,
    say: &Sender<Tracing>,
    mut take: impl FnMut(Record) -> bool,
) -> Result<Offset, Unasked> {
    let in_log = |error: eventlog::LogError| format!("the log: {error}");
    let bounds = log.bounds(partition).await.map_err(in_log)?;
    let mut reader = log.reader(&[(partition, bounds.start)]).map_err(in_log)?;
    let (mut next, mut empty) = (bounds.start, 0);
    while next < bounds.end {
        let records = reader.next(READ, READ_WAIT).await.map_err(in_log)?;
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
            if next > bounds.end || !take(record) {
                return Ok(bounds.start);
            }
        }
        let (partition, records, of) = (partition.get(), next.get(), bounds.end.get());
        let _ = say.try_send(Tracing::Read { partition, records, of });
    }
    Ok(bounds.start)
}

/// An outcome in a line.
pub(super) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pushed(answer) => format!(
            "pushed: {} synced, {} skipped, {} rejected; cursor {} to {}",
            answer.synced, answer.skipped, answer.rejected, answer.previous_cursor, answer.cursor
        ),
        Verdict::ScopeCreated => "the scope is created".to_owned(),
        Verdict::MemberSet { user, role, .. } => format!("{user} is {role}"),
        Verdict::MemberRemoved { user } => format!("{user} is removed"),
        Verdict::BackupRequested { backup } => format!("backup {backup} is asked for"),
        Verdict::RestoreRequested { restore } => format!("restore {restore} begins"),
        Verdict::RestoreStep => "a step of a restore".to_owned(),
        Verdict::ScopeErased { cursor } => format!("all up to cursor {cursor} is erased"),
        Verdict::RestoreEnded { restore } => format!("restore {restore} has ended"),
        Verdict::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}
