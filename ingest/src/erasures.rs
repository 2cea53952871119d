//! `DELETE /api/v1/users/{user_id}/data`: all that a user's scope has ever held is to be gone.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{headers, path, problems};
use http::{HeaderValue, StatusCode, header::LOCATION};
use model::{Action, Command, CommandId, Cursor, Refusal, RequestHash, Timestamp, UserId, Verdict};
use serde::Serialize;
use service::{Problem, http::read_body};

use crate::{Ingest, decide::Decision};

/// Bytes of a body, at most: there is nothing to say.
const ERASURE_BYTES_MAX: u64 = 4096;

/// What a pull shows from now on.
#[derive(Serialize)]
struct Erased<'a> {
    erasure_id: CommandId,
    user_id: &'a UserId,
    status: &'static str,
    cursor: Cursor,
    erased_at: Timestamp,
}

/// 202: the log has the command, the read model not yet.
#[derive(Serialize)]
struct Accepted<'a> {
    erasure_id: CommandId,
    user_id: &'a UserId,
    status: &'static str,
    at: String,
}

pub(crate) async fn request(ingest: &Ingest, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = ingest.entrance.admit(&parts.headers).await?;
    let (user, scope) = path::user(&mut parts, &caller).await?;
    let timeout = ingest.config.body_timeout;
    let body = read_body(body, "erasure_bytes_max", ERASURE_BYTES_MAX, timeout).await?;
    let key = headers::idempotency_key(&parts.headers)?;
    let device = headers::device_if_any(&parts.headers)?;
    let standing = ingest.gate.standing(caller.access(&scope)).await?;
    problems::permit(standing, standing.may_erase(caller.org_role))?;
    let command = Command {
        id: Ingest::command_id(&scope, "scope-erased", &caller.user, key),
        request_hash: RequestHash::of(&[b"scope-erased\n", &body]),
        actor: caller.user.clone(),
        org_role: caller.org_role,
        device,
        action: Action::ScopeErased,
        scope,
    };
    let wait = ingest.wait(&parts.headers);
    let id = command.id;
    let response = match ingest.decide(&command, key.is_some(), wait).await? {
        Decision::Accepted(at) => {
            let (status, at) = ("accepted", at.to_string());
            let accepted = Accepted { erasure_id: id, user_id: &user, status, at };
            (StatusCode::ACCEPTED, Json(accepted)).into_response()
        }
        Decision::Outcome(outcome) => match &outcome.verdict {
            Verdict::ScopeErased { cursor } => {
                let (cursor, erased_at) = (*cursor, outcome.folded_at);
                let status = "running";
                Json(Erased { erasure_id: id, user_id: &user, status, cursor, erased_at })
                    .into_response()
            }
            Verdict::Refused(Refusal::PermissionDenied { purge }) => {
                return Err(problems::permission_denied(*purge));
            }
            other => return Err(Problem::internal(format!("an erasure became {other:?}"))),
        },
    };
    Ok(with_location(response, &parts, id))
}

/// Where to ask how far it is.
fn with_location(mut response: Response, parts: &http::request::Parts, id: CommandId) -> Response {
    let user = parts.uri.path().strip_suffix("/data").unwrap_or_default();
    if let Ok(location) = HeaderValue::try_from(format!("{user}/erasures/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
