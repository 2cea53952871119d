//! `GET …/members`: who is in a team or project, told to those who may pull there.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{path, problems};
use model::{Role, ScopeKind, Timestamp};
use readmodel::access;
use serde::Serialize;
use service::Problem;

use crate::Api;

#[derive(Serialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    user_id: String,
    role: Role,
    since: Timestamp,
}

pub(crate) async fn list(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let (standing, rows) = access::members(&api.pool, &caller.access(&scope))
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    problems::permit(standing, standing.may_pull())?;
    let member =
        |row: access::MemberRow| Member { user_id: row.user, role: row.role, since: row.since };
    Ok(Json(Members { members: rows.into_iter().map(member).collect() }).into_response())
}
