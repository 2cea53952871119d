//! `GET …/restores/{restore_id}`: how a restore stands, for those who may restore.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{path, problems, restore::Restore};
use model::{RestoreId, ScopeKind};
use readmodel::restores;
use service::Problem;

use crate::Api;

pub(crate) async fn show(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let id = RestoreId(path::uuid(&mut parts, "restore_id").await?);
    let (standing, row) = restores::get_for(&api.pool, &caller.access(&scope), id)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    problems::permit(standing, standing.may_restore())?;
    let row = row.ok_or_else(|| {
        Problem::not_found("This scope has no such restore").resolution("Check restore_id")
    })?;
    Ok(Json(Restore::new(&row)).into_response())
}
