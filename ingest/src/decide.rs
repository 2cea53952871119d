//! From a command to what became of it: the stored outcome of a retry, or an append to the log and
//! a bounded wait for the fold.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use contract::problems;
use eventlog::{AppendError, RECORD_BYTES_MAX, RejectReason, partition_of};
use model::{
    Action, Command, CommandId, Offset, Outcome, Place, RequestHash, ScopeKey, Timestamp, Verdict,
    limits::COMMAND_KNOWN_MICROS,
};
use readmodel::{
    Pool, ReadModelError,
    feed::Waited,
    outcomes::{Decided, decided},
};
use service::Problem;
use uuid::Uuid;

use readmodel::{access::AccessQuery, gather::Ask};

use crate::Ingest;

/// How much the log's clock and this machine's may differ, in microseconds: an outcome that is
/// about to be forgotten is left to the fold.
const CLOCKS_APART_MICROS: i64 = 5 * 60 * 1_000_000;

/// What became of a command within the wait.
pub(crate) enum Decision {
    Outcome(Arc<Outcome>),
    /// It is on the log, and not folded yet.
    Accepted(Place),
}

/// Asks the read model for the outcomes of many.
pub(crate) struct Outcomes(pub(crate) Pool);

impl Ask for Outcomes {
    type Question = (CommandId, Place);
    type Answer = Decided;

    async fn ask(&self, questions: &[(CommandId, Place)]) -> Result<Vec<Decided>, ReadModelError> {
        decided(&self.0, questions).await
    }
}

impl Ingest {
    /// The id of a command: the same for every retry under one Idempotency-Key.
    pub(crate) fn command_id(
        scope: &model::ScopeKey,
        kind: &str,
        actor: &model::UserId,
        key: Option<&str>,
    ) -> CommandId {
        match key {
            Some(key) => CommandId::of_key(scope, kind, actor, key),
            None => CommandId(Uuid::now_v7()),
        }
    }

    /// Has the fold decide the command. `keyed`: it carries an Idempotency-Key, so it may be a retry.
    ///
    /// # Errors
    /// 409 IDEMPOTENCY_MISMATCH; 413 if the log takes no such record; 503 if the log or the read
    /// model cannot be reached, is not there yet or too far behind, saying whether the command was accepted; 500 for
    /// a dead letter.
    pub(crate) async fn decide(
        &self,
        command: &Command,
        keyed: bool,
        wait: Duration,
    ) -> Result<Decision, Problem> {
        let key = Bytes::from(command.scope.to_string());
        if keyed
            && let Some(outcome) =
                self.known_outcome(command.id, command.request_hash, &command.scope).await?
        {
            return Ok(Decision::Outcome(outcome));
        }
        let value = schemas::encode_command(command).map_err(Problem::internal)?;
        let bytes = key.len() + value.len();
        if bytes > RECORD_BYTES_MAX {
            return Err(too_large(bytes));
        }
        self.gate.begun(access(command)).await?;
        self.lag.check(partition_of(&key, self.log.partitions()))?;
        // Before the append, so that no commit is missed.
        let outcome = self.feed.expect(command.id);
        let appended =
            self.log.append(key, Bytes::from(value)).await.map_err(|e| not_appended(&e))?;
        self.lag.appended(appended.place);
        match outcome.decided(appended.place, wait).await {
            Waited::Outcome(outcome) => {
                let outcome = same_request(outcome, command.request_hash)?;
                if let Verdict::Pushed(answer) = &outcome.verdict {
                    self.pushed.note(answer);
                }
                Ok(Decision::Outcome(outcome))
            }
            Waited::TimedOut => Ok(Decision::Accepted(appended.place)),
            Waited::Nothing => Err(dead_letter(command, appended.place)),
        }
    }

    /// What became of a request that its author may not make any more, if they made it before: the answer may have been
    /// lost, even that to one's own removal.
    ///
    /// # Errors
    /// `refusal`, if they did not.
    pub(crate) async fn known_or(
        &self,
        retry: Retry<'_>,
        refusal: Problem,
    ) -> Result<Arc<Outcome>, Problem> {
        let Retry { id, request_hash, scope, keyed } = retry;
        let known = match keyed {
            true => self.known_outcome(id, request_hash, scope).await,
            false => Ok(None),
        };
        known.ok().flatten().ok_or(refusal)
    }

    /// The outcome of a command that was folded before; `None` if there is none, or if it is so old
    /// that only the fold can tell whether it still counts.
    ///
    /// # Errors
    /// 409 IDEMPOTENCY_MISMATCH if it was another request; 503 if the read model cannot be asked.
    pub(crate) async fn known_outcome(
        &self,
        id: CommandId,
        request: RequestHash,
        scope: &ScopeKey,
    ) -> Result<Option<Arc<Outcome>>, Problem> {
        // If the read model has it, it is past the start of the scope's partition.
        let partition = partition_of(scope.to_string().as_bytes(), self.log.partitions());
        let start = Place { partition, offset: Offset::ZERO };
        let decided = self.outcomes.ask((id, start)).await;
        match decided.map_err(|error| problems::of_read_model(&error))? {
            Decided::Outcome(outcome) if is_remembered(outcome.folded_at, now()) => {
                same_request(outcome, request).map(Some)
            }
            Decided::Outcome(_) | Decided::NotYet | Decided::Nothing => Ok(None),
        }
    }
}

/// What a request may be a retry of.
pub(crate) struct Retry<'a> {
    pub(crate) id: CommandId,
    pub(crate) request_hash: RequestHash,
    pub(crate) scope: &'a ScopeKey,
    /// It carries an Idempotency-Key; else it is none.
    pub(crate) keyed: bool,
}

fn is_remembered(folded_at: Timestamp, now: Timestamp) -> bool {
    now.micros_since(folded_at) < COMMAND_KNOWN_MICROS - CLOCKS_APART_MICROS
}

/// An id of what a command makes: its retries agree on it, and the same Idempotency-Key of another day, which is another
/// command, does not. What the fold accepted first is in its outcome.
pub(crate) fn today(id: CommandId) -> Uuid {
    const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;
    let day = now().as_micros() / DAY_MICROS;
    Uuid::new_v5(&id.0, &day.to_be_bytes())
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn same_request(outcome: Arc<Outcome>, request: RequestHash) -> Result<Arc<Outcome>, Problem> {
    if outcome.request_hash == request {
        Ok(outcome)
    } else {
        Err(problems::idempotency_mismatch())
    }
}

/// Who wants it, and in which scope.
fn access(command: &Command) -> AccessQuery {
    let Command { scope, actor, org_role, .. } = command;
    AccessQuery { scope: scope.clone(), user: actor.clone(), org_role: *org_role }
}

fn too_large(bytes: usize) -> Problem {
    Problem::payload_too_large("record_bytes_max", RECORD_BYTES_MAX as u64, Some(bytes as u64))
}

fn not_appended(error: &AppendError) -> Problem {
    match error {
        AppendError::Rejected(RejectReason::TooLarge { bytes, .. }) => too_large(*bytes),
        AppendError::Rejected(RejectReason::QueueFull { bytes_max }) => {
            problems::overloaded("log_queue_bytes_max", *bytes_max, "and as much waits for the log")
        }
        AppendError::Rejected(_) => {
            problems::not_accepted("The message log cannot be written at the moment").cause(error)
        }
        AppendError::Unknown { .. } => {
            problems::acceptance_unknown("The message log gave no answer").cause(error)
        }
    }
}

fn dead_letter(command: &Command, at: Place) -> Problem {
    let id = command.id;
    let name = match command.action {
        Action::MessagesPushed { .. } => "push_id",
        Action::BackupRequested { .. } => "backup_id",
        Action::RestoreRequested { .. } => "restore_id",
        Action::ScopeErased => "erasure_id",
        _ => "command_id",
    };
    Problem::internal(format!("command {id} at {at} became a dead letter"))
        .resolution(format!("It is kept for an operator: report it with the {name} and request_id"))
        .with(name, id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_near_its_end_is_left_to_the_fold() {
        let day = 24 * 3_600 * 1_000_000;
        let at = Timestamp::from_micros;
        assert!(is_remembered(at(day), at(day)));
        assert!(is_remembered(at(day), at(2 * day - CLOCKS_APART_MICROS - 1)));
        assert!(!is_remembered(at(day), at(2 * day - CLOCKS_APART_MICROS)));
    }
}
