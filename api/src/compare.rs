//! `POST {scope}/reconcile/messages`: one frame of a repair, and its answer.

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use contract::{headers, path};
use http::{HeaderValue, header::CONTENT_TYPE};
use model::ScopeKind;
use repair::BadFrame;
use service::{Problem, http::read_body};

use crate::Api;

pub(crate) async fn answer(
    api: &Api,
    kind: ScopeKind,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = api.entrance.admit(&parts.headers).await?;
    headers::device_if_any(&parts.headers)?;
    let scope = path::scope(&mut parts, kind, &caller).await?;
    let bytes_max = api.config.repair_frame_bytes_max;
    let timeout = api.config.body_timeout;
    let frame = read_body(body, "repair_frame_bytes_max", u64::from(bytes_max), timeout).await?;
    repair::frame::check(&frame).map_err(refused)?;
    // Not before the body is here: who sends it slowly must not keep others out.
    let admitted = api.holdings.admit(&caller.tenant)?;
    let current = api.holdings.current(&caller, &scope, admitted).await?;
    let answer = current.work(move |items| items.answer(&frame, bytes_max)).await?;
    let bytes = HeaderValue::from_static("application/octet-stream");
    Ok(([(CONTENT_TYPE, bytes)], answer.map_err(refused)?).into_response())
}

fn refused(error: BadFrame) -> Problem {
    Problem::invalid_request(format!(
        "The body takes a frame of negentropy protocol version 1: {error}"
    ))
}
