//! `GET …/backups`, one of them, and its content: for those who may back up.

use axum::{
    Json,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{Caller, backup::Backup, path, problems};
use http::{HeaderValue, header::CONTENT_TYPE, request::Parts};
use model::{BackupId, BackupType, ScopeKey, ScopeKind};
use readmodel::catalogue::{self, BackupRow, Page, StoredObject};
use serde::Serialize;
use service::Problem;

use crate::{Api, query::Query};

const LIMIT_MAX: u64 = 1_000;
const LIMIT_DEFAULT: u64 = 100;

#[derive(Serialize)]
struct Backups<'a> {
    backups: Vec<Backup<'a>>,
    has_more: bool,
}

/// `GET …/backups?type=&limit=&before=`, the newest first.
pub(crate) async fn list(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = Caller::of(&parts.headers, &api.verifier).await?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let page = page(Query::of(&parts.uri))?;
    let (standing, rows) = catalogue::list(&api.pool, &caller.access(&scope), page)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    problems::permit(standing, standing.may_back_up())?;
    let mut rows = rows.ok_or_else(|| {
        Problem::invalid_request(
            "before takes the id of a backup of this scope, such as the last one listed",
        )
    })?;
    let has_more = rows.len() > page.limit as usize;
    rows.truncate(page.limit as usize);
    let backups = rows.iter().map(|row| Backup::new(&scope, row)).collect();
    Ok(Json(Backups { backups, has_more }).into_response())
}

fn page(query: Query<'_>) -> Result<Page, Problem> {
    let backup_type = match query.one("type")? {
        None => None,
        Some(text) => {
            Some(BackupType::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(
                || Problem::invalid_request("type takes one of incremental, full, on_demand"),
            )?)
        }
    };
    let before =
        match query.one("before")? {
            None => None,
            Some(text) => Some(path::parse_uuid(&text).map(BackupId).ok_or_else(|| {
                Problem::invalid_request("before takes the id of a backup, a UUID")
            })?),
        };
    let limit = query.number("limit", "", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    Ok(Page { backup_type, before, limit: limit as u32 })
}

/// `GET …/backups/{backup_id}`.
pub(crate) async fn show(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (scope, row) = one(api, kind, &mut request.into_parts().0).await?;
    Ok(Json(Backup::new(&scope, &row)).into_response())
}

/// `GET …/backups/{backup_id}/content`: the object itself.
pub(crate) async fn content(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (_, row) = one(api, kind, &mut request.into_parts().0).await?;
    let Some(object) = row.object else {
        return Err(problems::backup_not_found("The backup is not completed"));
    };
    let body = Body::from_stream(stream(api, &object).await?);
    let gzip = HeaderValue::from_static("application/gzip");
    Ok(([(CONTENT_TYPE, gzip)], body).into_response())
}

async fn stream(api: &Api, object: &StoredObject) -> Result<archive::ObjectStream, Problem> {
    let archive = api.archive.as_ref().ok_or_else(|| {
        Problem::unavailable("This instance has no archive: --archive is not set")
    })?;
    let elsewhere = || Problem::internal(format!("{} is not in this archive", object.gcs_path));
    let path = archive.path_of(&object.gcs_path).ok_or_else(elsewhere)?;
    archive.stream(path).await.map_err(|error| match error {
        archive::ArchiveError::NotFound { .. } => {
            problems::backup_not_found("The backup's object is not in the archive").cause(error)
        }
        error => Problem::unavailable("The archive cannot be used at the moment").cause(error),
    })
}

async fn one(
    api: &Api,
    kind: ScopeKind,
    parts: &mut Parts,
) -> Result<(ScopeKey, BackupRow), Problem> {
    let caller = Caller::of(&parts.headers, &api.verifier).await?;
    let scope = path::scope(parts, kind, &caller).await?;
    let id = BackupId(path::uuid(parts, "backup_id").await?);
    let (standing, row) = catalogue::get(&api.pool, &caller.access(&scope), id)
        .await
        .map_err(|error| problems::of_read_model(&error))?;
    problems::permit(standing, standing.may_back_up())?;
    let row = row.ok_or_else(|| problems::backup_not_found("This scope has no such backup"))?;
    Ok((scope, row))
}
