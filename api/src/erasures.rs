//! `GET /api/v1/users/{user_id}/erasures/{erasure_id}`: how far an erasure is, for those who may ask for one.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{erasure::Erasure, path, problems};
use model::CommandId;
use readmodel::erasures;
use service::Problem;

use crate::Api;

pub(crate) async fn show(api: &Api, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    let (user, scope) = path::user(&mut parts, &caller).await?;
    let id = CommandId(path::uuid(&mut parts, "erasure_id").await?);
    let (standing, row) = erasures::get(&api.pool, &caller.access(&scope), id)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    problems::permit(standing, standing.may_erase(caller.org_role))?;
    let row = row.ok_or_else(|| {
        Problem::not_found("This user has no such erasure, or it is not folded yet")
            .resolution("Check erasure_id")
    })?;
    Ok(Json(Erasure::new(user.as_str(), &row)).into_response())
}
