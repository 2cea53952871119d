//! The whole way of a push or a message: request, place on the log, outcome, cursors, and the backups that hold it.
//!
//! Outcomes are kept for a day, the log for longer: so the scope is found first, and then folded anew from its
//! partition, which gives every command's outcome, however old. What retention removed from the log, and the logs that were
//! lost before it, are read out of the archive. Where that has a hole, a fold of the rest would say something else, so no
//! outcome is told.

mod follow;

use std::sync::Arc;

use archive::{
    base,
    history::Names,
    manifest::{Header, ManifestReader},
};
use eventlog::EventLog;
use model::{CommandId, LogId, MessageId, Place, Verdict};
use readmodel::{
    Pool,
    traces::{self, BackupOfScope},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{Copies, Unasked};
use follow::{Followed, Sought, StepAt, Way, follow, search};

/// The state of an event of a log that was lost: this one begins with what became of it.
pub const RECOVERED: &str = "recovered";

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
    /// A log has lost records that the archive does not have: some steps are not shown, and of that log's others no
    /// outcomes, cursors and backups.
    pub is_cut: bool,
    /// Of the versions that it made.
    pub backups: Vec<TraceBackup>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TraceStep {
    /// Which log: this one, or one that was lost before it.
    pub log_id: String,
    /// Partition and offset.
    pub place: String,
    pub appended_at: String,
    pub command_id: String,
    pub kind: String,
    pub actor: String,
    pub device: Option<String>,
    pub org_role: String,
    pub bytes: u64,
    /// `waiting` (not projected), `projected`, `parked` or `refused`; `recovered`: of a log that was lost.
    pub state: Option<String>,
    pub outcome: Option<String>,
    /// What became of each message of it; of a message's trace, of that one.
    pub messages: Vec<TraceMessage>,
    /// The archive's hour that has the event, verbatim.
    pub archived_hour: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
        // The rows know commands of a day, and messages that are there: the logs know all.
        let recovered = self.of_recovered(rows).await?;
        let logs = self.followed(log, recovered).await?;
        let (scope, sought) = match found {
            Some(found) => found,
            None => search(&logs, id, say).await?.ok_or_else(|| {
                format!(
                    "{id} is no push, command or message on this log, as far back as it reaches"
                )
            })?,
        };
        let Way { steps, cut, .. } = follow(&logs, recovered, &scope, sought, say).await?;
        if steps.is_empty() {
            return Err(format!(
                "{id} is in scope {scope}, but no event of it can be read any more: the log has lost it, and the \
                 archive does not have it, or none is named"
            ));
        }
        let steps = self.completed(log.log_id(), steps, rows).await?;
        let certain = steps.get(cut.unwrap_or(0)..).unwrap_or_default();
        let backups = traces::backups_of(rows, &scope).await.map_err(in_database)?;
        let backups = backups.iter().filter_map(|backup| held(backup, certain)).collect();
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
            is_cut: cut.is_some(),
            backups,
        })
    }

    /// The logs that events may be on, the oldest first: those that were lost, and this one.
    async fn followed(
        &self,
        log: &Arc<dyn EventLog>,
        recovered: Option<&archive::Archive>,
    ) -> Result<Vec<Followed>, Unasked> {
        let mut logs = Vec::new();
        if let Some(archive) = recovered {
            let in_archive = |error: &dyn std::fmt::Display| format!("the archive: {error}");
            let lineage = base::lineage(archive, log.log_id()).await;
            for lost in lineage.map_err(|error| in_archive(&error))?.into_iter().skip(1) {
                let whole = archiver::lost_log(archive, lost, log.partitions()).await;
                let whole = whole.map_err(|error| in_archive(&error))?;
                logs.push(Followed { whole, left: None });
            }
            logs.reverse();
        }
        logs.push(Followed { whole: self.reaching_back(log), left: Some(log.clone()) });
        Ok(logs)
    }

    /// Says of each step how far the rows and the archive are with it.
    async fn completed(
        &self,
        log: LogId,
        steps: Vec<StepAt>,
        rows: &Pool,
    ) -> Result<Vec<TraceStep>, Unasked> {
        let own = steps.iter().filter(|at| at.log == log);
        let places: Vec<Place> = own.map(|at| at.place).collect();
        let states = traces::states(rows, &places).await;
        let mut states = states.map_err(|error| format!("the database: {error}"))?.into_iter();
        let mut completed = Vec::with_capacity(steps.len());
        for StepAt { log: of, place, mut step } in steps {
            step.state = match of == log {
                true => states.next().map(|state| state.as_str().to_owned()),
                false => Some(RECOVERED.to_owned()),
            };
            step.archived_hour = self.hour_of(of, place).await;
            completed.push(step);
        }
        Ok(completed)
    }

    /// The name of the sealed hour that has a record, if there is one yet.
    async fn hour_of(&self, log: LogId, place: Place) -> Option<String> {
        let archive = self.archive.as_ref()?.as_ref().ok()?;
        let names = Names::list(archive, log, place.partition).await.ok()?;
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
        Verdict::TombstonesExpired { floor } => {
            format!("tombstones up to cursor {floor} have expired")
        }
        Verdict::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}
