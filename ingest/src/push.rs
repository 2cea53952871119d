//! `POST {scope}/push`.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    body::HttpBody as _,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{Caller, headers, path, problems};
use http::{StatusCode, header::LOCATION};
use model::{
    Action, Change, Command, CommandId, InvalidCode, Outcome, Place, PushedChange, Refusal,
    Rejected, RequestHash, ScopeKey, ScopeKind, Standing, Verdict,
};
use serde::Serialize;
use service::{Problem, http::read_body};

use crate::{
    Ingest,
    decide::{Decision, Retry},
    epoch, measure,
    push_body::PushBody,
};

/// What a push is called in the id of its command.
const KIND: &str = "push";

/// 202: the log has the push, the read model not yet.
#[derive(Serialize)]
struct Accepted {
    status: &'static str,
    push_id: CommandId,
    at: String,
}

/// Answers a push, and measures it.
pub(crate) async fn push(ingest: &Ingest, kind: ScopeKind, request: Request) -> Response {
    let begun = Instant::now();
    let response = problems::answer(pushed(ingest, kind, request).await);
    measure::push_latency(kind, response.status(), begun.elapsed());
    response
}

async fn pushed(ingest: &Ingest, kind: ScopeKind, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = ingest.entrance.admit(&parts.headers).await?;
    let device = headers::device(&parts.headers)?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let key = headers::idempotency_key(&parts.headers)?;
    let (bytes_max, timeout) =
        (u64::from(ingest.config.push_bytes_max), ingest.config.body_timeout);
    let announced = body.size_hint().exact().unwrap_or(bytes_max).min(bytes_max);
    let mut under_way = ingest.in_flight.enter(&caller.tenant, announced)?;
    let body = read_body(body, "push_bytes_max", bytes_max, timeout).await?;
    under_way.has(body.len() as u64);
    let mut push = match PushBody::parse(&body, &ingest.limits) {
        Ok(push) => push,
        Err(problem) => return Err(refuse(ingest, &caller, &scope, problem).await),
    };
    if let Some(problem) = push.refusal() {
        return Err(refuse(ingest, &caller, &scope, problem).await);
    }
    let id = Ingest::command_id(&scope, KIND, &caller.user, key);
    let request_hash = RequestHash::of(&[KIND.as_bytes(), b"\n", &body]);
    let access = caller.access(&scope);
    let usage = match ingest.gate.pass(access.clone(), Standing::may_push).await {
        Ok(usage) => usage,
        Err(refusal) => {
            let before = Retry { id, request_hash, scope: &scope, keyed: key.is_some() };
            let outcome = ingest.known_or(before, refusal).await?;
            return answer(&outcome);
        }
    };
    if let Some(epoch) = push.epoch
        && push.names_bases()
    {
        push.forget_bases(epoch::kept(&ingest.pool, &scope, epoch).await?);
    }
    let added = push.added();
    let mut command = Command {
        id,
        request_hash,
        scope,
        actor: caller.user,
        org_role: caller.org_role,
        device: Some(device),
        action: Action::MessagesPushed { changes: push.changes, rejected: push.rejected },
    };
    drop(body); // the wait may be long, and the body large
    let known = known(ingest, &command, key.is_some());
    let (known, room) = tokio::join!(known, ingest.gate.room(access, added, usage));
    // A retry gets its answer, whatever came in since.
    if let Some(outcome) = known? {
        return answer(&outcome);
    }
    if let Err(problem) = room {
        keep_deletes(&mut command.action, problem)?;
    }
    match ingest.decide(&command, false, ingest.wait(&parts.headers)).await? {
        Decision::Outcome(outcome) => answer(&outcome),
        Decision::Accepted(at) => Ok(accepted(command.id, at)),
    }
}

/// What became of it, if it is a retry of what was folded before.
async fn known(
    ingest: &Ingest,
    command: &Command,
    keyed: bool,
) -> Result<Option<Arc<Outcome>>, Problem> {
    if !keyed {
        return Ok(None);
    }
    ingest.known_outcome(command.id, command.request_hash, &command.scope).await
}

/// What is over its quota keeps no delete from the log: the writes are refused, each with why.
///
/// # Errors
/// That there is no room, if nothing is left; and whatever else is in the way.
fn keep_deletes(action: &mut Action, no_room: Problem) -> Result<(), Problem> {
    if no_room.status() != StatusCode::INSUFFICIENT_STORAGE {
        return Err(no_room);
    }
    let Action::MessagesPushed { changes, rejected } = action else { return Err(no_room) };
    let is_delete = |pushed: &PushedChange| matches!(pushed.change, Change::Delete { .. });
    if !changes.iter().any(is_delete) {
        return Err(no_room);
    }
    changes.retain(|pushed| {
        let stays = is_delete(pushed);
        if !stays {
            let (index, code) = (pushed.index, InvalidCode::QuotaExceeded);
            let detail = format!("messages[{index}]: {}", no_room.detail());
            rejected.push(Rejected { index, code, detail });
        }
        stays
    });
    Ok(())
}

/// A bad request is told to anyone, everything else (too large, a wrong hash) to those who may push.
async fn refuse(ingest: &Ingest, caller: &Caller, scope: &ScopeKey, problem: Problem) -> Problem {
    if problem.status() == StatusCode::BAD_REQUEST {
        return problem;
    }
    let passed = ingest.gate.pass(caller.access(scope), Standing::may_push).await;
    passed.err().unwrap_or(problem)
}

fn answer(outcome: &Outcome) -> Result<Response, Problem> {
    match &outcome.verdict {
        Verdict::Pushed(answer) => Ok(Json(answer).into_response()),
        Verdict::Refused(Refusal::PermissionDenied { purge }) => {
            Err(problems::permission_denied(*purge))
        }
        other => Err(Problem::internal(format!("a push became {other:?}"))),
    }
}

fn accepted(push_id: CommandId, at: Place) -> Response {
    let location = format!("/api/v1/pushes/{push_id}?at={at}");
    let body = Accepted { status: "accepted", push_id, at: at.to_string() };
    (StatusCode::ACCEPTED, [(LOCATION, location)], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use model::Limits;

    use super::*;

    fn a_write_and_a_delete() -> Action {
        let body = br#"{"messages": [{"type": "decision", "content": "a"},
            {"id": "0f8fad5b-d9cb-469f-a165-70867728950e", "deleted": true, "base_cursor": 1}]}"#;
        let PushBody { changes, rejected, .. } = PushBody::parse(body, &Limits::CONTRACT).unwrap();
        assert_eq!((changes.len(), rejected.len()), (2, 0));
        Action::MessagesPushed { changes, rejected }
    }

    #[test]
    fn sync_007_refuses_the_writes_alone_and_nothing_else_refuses_a_part() {
        let mut action = a_write_and_a_delete();
        keep_deletes(&mut action, problems::quota_exceeded("scope_bytes_max", 5, 5, 1)).unwrap();
        let Action::MessagesPushed { changes, rejected } = action else { panic!() };
        assert_eq!((changes.len(), rejected.len()), (1, 1));
        assert_eq!(rejected[0].code, InvalidCode::QuotaExceeded);
        // Nobody could say whether there is room: the push is to come again, whole.
        let mut action = a_write_and_a_delete();
        let refused =
            keep_deletes(&mut action, problems::not_accepted("it is filled")).unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(action, a_write_and_a_delete());
    }
}
