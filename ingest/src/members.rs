//! Teams and projects, and who is in them: `PUT` creates one, `PUT` and `DELETE` of a member.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use contract::{Caller, headers, path, problems};
use http::{StatusCode, request::Parts};
use model::{
    Action, Command, CommandId, Outcome, Place, Refusal, RequestHash, Role, ScopeKey, ScopeKind,
    ScopeName, Standing, Timestamp, UserId, Verdict,
};
use readmodel::access::other_members;
use serde::Serialize;
use serde_json::Value;
use service::{Problem, http::read_body};

use crate::{
    Ingest,
    config::WhoMayCreate,
    decide::{Decision, Retry},
};

/// Bytes of the body of a request about members, at most.
const MEMBER_BYTES_MAX: u64 = 4096;

/// A team or project, and what the caller is in it.
#[derive(Serialize)]
struct Created<'a> {
    id: &'a ScopeName,
    role: Role,
}

#[derive(Serialize)]
struct MemberSet<'a> {
    user_id: &'a UserId,
    role: Role,
    since: Timestamp,
}

#[derive(Serialize)]
struct MemberRemoved<'a> {
    user_id: &'a UserId,
    removed: bool,
}

/// 202: the log has the command, the read model not yet.
#[derive(Serialize)]
struct Accepted {
    status: &'static str,
    command_id: CommandId,
    at: String,
}

/// A request about a team or project, as far as all of them are alike.
struct Asked {
    parts: Parts,
    body: Bytes,
    caller: Caller,
    scope: ScopeKey,
}

/// `PUT /api/v1/teams/{team_id}`, `PUT /api/v1/projects/{project_id}`: the caller becomes owner.
pub(crate) async fn create(
    ingest: &Ingest,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::read(ingest, kind, request).await?;
    if !may_create(ingest, &asked.caller) {
        let standing = ingest.gate.standing(asked.caller.access(&asked.scope)).await?;
        let role = standing.role().ok_or_else(|| problems::denied_to(standing))?;
        return Ok(created(StatusCode::OK, &asked.scope, role));
    }
    let command = asked.command("scope-created", Action::ScopeCreated)?;
    let outcome = match asked.decide(ingest, &command).await? {
        Decided::Outcome(outcome) => outcome,
        Decided::Accepted(response) => return Ok(response),
    };
    match &outcome.verdict {
        Verdict::ScopeCreated => Ok(created(StatusCode::CREATED, &asked.scope, Role::Owner)),
        Verdict::Refused(Refusal::Exists { role: Some(role) }) => {
            Ok(created(StatusCode::OK, &asked.scope, *role))
        }
        other => Err(refused(other)),
    }
}

/// `PUT …/members/{user_id}` with `{"role"}`.
pub(crate) async fn set(
    ingest: &Ingest,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let mut asked = Asked::read(ingest, kind, request).await?;
    let user = path::member(&mut asked.parts).await?;
    let role = parse_role(&asked.body, kind)?;
    let access = asked.caller.access(&asked.scope);
    let command = asked.command("member-set", Action::MemberSet { user: user.clone(), role })?;
    let allowed = async {
        ingest.gate.pass(access, |standing| standing.role() >= Some(Role::Admin)).await?;
        check_number(ingest, &asked.scope, &user).await
    };
    let decided = match allowed.await {
        Ok(()) => asked.decide(ingest, &command).await?,
        Err(refusal) => asked.decided_before(ingest, &command, refusal).await?,
    };
    let outcome = match decided {
        Decided::Outcome(outcome) => outcome,
        Decided::Accepted(response) => return Ok(response),
    };
    match &outcome.verdict {
        Verdict::MemberSet { user, role, since } => {
            Ok(Json(MemberSet { user_id: user, role: *role, since: *since }).into_response())
        }
        other => Err(refused(other)),
    }
}

/// Every manifest of the archive has a scope's members in one line.
async fn check_number(ingest: &Ingest, scope: &ScopeKey, user: &UserId) -> Result<(), Problem> {
    let max = u64::from(ingest.config.members_max);
    if max == 0 {
        return Ok(());
    }
    let others = other_members(&ingest.pool, scope, user)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    if others < max {
        return Ok(());
    }
    let detail =
        format!("members_max is {max}, and there are {others} others, former ones included");
    Err(Problem::conflict(detail)
        .resolution("Use several teams or projects")
        .with("limit", "members_max")
        .with("max", max))
}

/// `DELETE …/members/{user_id}`.
pub(crate) async fn remove(
    ingest: &Ingest,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let mut asked = Asked::read(ingest, kind, request).await?;
    let user = path::member(&mut asked.parts).await?;
    let access = asked.caller.access(&asked.scope);
    let allows: fn(Standing) -> bool = if user == asked.caller.user {
        |standing| standing.role().is_some()
    } else {
        |standing| standing.role() >= Some(Role::Admin)
    };
    let command = asked.command("member-removed", Action::MemberRemoved { user })?;
    let decided = match ingest.gate.pass(access, allows).await {
        Ok(_) => asked.decide(ingest, &command).await?,
        Err(refusal) => asked.decided_before(ingest, &command, refusal).await?,
    };
    let outcome = match decided {
        Decided::Outcome(outcome) => outcome,
        Decided::Accepted(response) => return Ok(response),
    };
    match &outcome.verdict {
        Verdict::MemberRemoved { user } => {
            Ok(Json(MemberRemoved { user_id: user, removed: true }).into_response())
        }
        other => Err(refused(other)),
    }
}

fn may_create(ingest: &Ingest, caller: &Caller) -> bool {
    match ingest.config.who_may_create {
        WhoMayCreate::Any => true,
        WhoMayCreate::Admins => caller.org_role >= model::OrgRole::Admin,
    }
}

fn created(status: StatusCode, scope: &ScopeKey, role: Role) -> Response {
    (status, Json(Created { id: &scope.name, role })).into_response()
}

/// What the fold refused, as a problem.
fn refused(verdict: &Verdict) -> Problem {
    match verdict {
        Verdict::Refused(Refusal::PermissionDenied { purge }) => {
            problems::permission_denied(*purge)
        }
        Verdict::Refused(Refusal::Exists { .. }) => problems::permission_denied(false),
        Verdict::Refused(Refusal::NoSuchMember) => {
            Problem::not_found("user_id is no member").resolution("Check user_id")
        }
        Verdict::Refused(Refusal::LastOwner) => {
            Problem::conflict("The last owner stays").resolution("Make someone else owner first")
        }
        other => Problem::internal(format!("a request about members became {other:?}")),
    }
}

fn parse_role(body: &[u8], kind: ScopeKind) -> Result<Role, Problem> {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    let role = body.as_ref().and_then(|body| body.get("role")?.as_str());
    role.and_then(Role::parse).filter(|role| role.exists_in(kind)).ok_or_else(|| {
        let roles = Role::ALL.into_iter().filter(|role| role.exists_in(kind));
        let roles: Vec<_> = roles.map(Role::as_str).collect();
        Problem::invalid_request(format!(
            "role takes one of {} in a JSON object such as {{\"role\": \"member\"}}",
            roles.join(", ")
        ))
    })
}

enum Decided {
    Outcome(Arc<Outcome>),
    /// The wait ended first.
    Accepted(Response),
}

impl Asked {
    async fn read(ingest: &Ingest, kind: ScopeKind, request: Request) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let caller = ingest.entrance.admit(&parts.headers).await?;
        let scope = path::scope(&mut parts, kind, &caller).await?;
        let timeout = ingest.config.body_timeout;
        let body = read_body(body, "member_bytes_max", MEMBER_BYTES_MAX, timeout).await?;
        headers::idempotency_key(&parts.headers)?;
        headers::device_if_any(&parts.headers)?;
        Ok(Self { parts, body, caller, scope })
    }

    fn command(&self, kind: &str, action: Action) -> Result<Command, Problem> {
        let user = match &action {
            Action::MemberSet { user, .. } | Action::MemberRemoved { user } => user.as_str(),
            _ => "",
        };
        let hashed = [kind.as_bytes(), b"\n", user.as_bytes(), b"\n", &*self.body];
        let key = headers::idempotency_key(&self.parts.headers)?;
        Ok(Command {
            id: Ingest::command_id(&self.scope, kind, &self.caller.user, key),
            request_hash: RequestHash::of(&hashed),
            scope: self.scope.clone(),
            actor: self.caller.user.clone(),
            org_role: self.caller.org_role,
            device: headers::device_if_any(&self.parts.headers)?,
            action,
        })
    }

    async fn decide(&self, ingest: &Ingest, command: &Command) -> Result<Decided, Problem> {
        let wait = ingest.wait(&self.parts.headers);
        Ok(match ingest.decide(command, self.is_keyed()?, wait).await? {
            Decision::Outcome(outcome) => Decided::Outcome(outcome),
            Decision::Accepted(at) => Decided::Accepted(accepted(command.id, at)),
        })
    }

    /// Of a retry, what became of it the first time; else the refusal.
    async fn decided_before(
        &self,
        ingest: &Ingest,
        command: &Command,
        refusal: Problem,
    ) -> Result<Decided, Problem> {
        let retry = Retry {
            id: command.id,
            request_hash: command.request_hash,
            scope: &command.scope,
            keyed: self.is_keyed()?,
        };
        Ok(Decided::Outcome(ingest.known_or(retry, refusal).await?))
    }

    fn is_keyed(&self) -> Result<bool, Problem> {
        Ok(headers::idempotency_key(&self.parts.headers)?.is_some())
    }
}

fn accepted(command_id: CommandId, at: Place) -> Response {
    let body = Accepted { status: "accepted", command_id, at: at.to_string() };
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_one_of_the_scopes_own() {
        assert_eq!(parse_role(br#"{"role":"viewer"}"#, ScopeKind::Project).unwrap(), Role::Viewer);
        assert_eq!(parse_role(br#"{"role":"owner","x":1}"#, ScopeKind::Team).unwrap(), Role::Owner);
        for bad in
            [&b""[..], b"x", b"[]", b"{}", br#"{"role":1}"#, br#"{"role":"viewer"}"#, b"\xff"]
        {
            let problem = parse_role(bad, ScopeKind::Team).unwrap_err();
            assert_eq!(problem.code(), "INVALID_REQUEST");
            let starts = "role takes one of member, admin, owner in";
            assert!(problem.detail().starts_with(starts), "{}", problem.detail());
        }
    }

    #[test]
    fn refusals_have_their_codes() {
        let table = [
            (Refusal::PermissionDenied { purge: true }, "SYNC_005", 403),
            (Refusal::Exists { role: None }, "SYNC_005", 403),
            (Refusal::NoSuchMember, "NOT_FOUND", 404),
            (Refusal::LastOwner, "CONFLICT", 409),
        ];
        for (refusal, code, status) in table {
            let problem = refused(&Verdict::Refused(refusal));
            assert_eq!((problem.code(), problem.status().as_u16()), (code, status));
        }
    }
}
