//! The contract for machines and for people: an OpenAPI document, and a page that shows it.

use axum::response::{Html, IntoResponse, Response};
use http::{
    HeaderValue,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
};

/// The routes of ingest and api, their shapes, errors and limits.
pub const OPENAPI: &str = include_str!("../openapi.json");

const PAGE: &str = include_str!("../docs.html");

/// The page brings all it needs; nothing may be fetched from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'";

pub(crate) async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}

pub(crate) async fn page() -> Response {
    ([(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))], Html(PAGE)).into_response()
}
