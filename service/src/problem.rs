//! Errors as the caller sees them: `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::fmt;

use ::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::request_id::RequestId;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What a caller waits before the next try when nothing better is known, in seconds.
pub const RETRY_AFTER_SECONDS: u64 = 1;

/// The members that a code's own ones cannot replace.
const RESERVED: [&str; 7] =
    ["type", "title", "status", "detail", "code", "resolution", "request_id"];

/// An error answer. Built in a handler, rendered under the request's id by the envelope.
pub struct Problem(Box<Parts>);

struct Parts {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    resolution: Cow<'static, str>,
    extra: Map<String, Value>,
    headers: HeaderMap,
    /// For the log alone: it may name hosts, files or statements.
    cause: Option<String>,
}

#[derive(Serialize)]
struct Rendered<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    resolution: &'a str,
    request_id: Option<&'a str>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

impl Problem {
    /// An error of any code. `title` is the same for every occurrence of the code; `detail` says
    /// what was wrong this time, `resolution` what to do next.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
        resolution: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            title,
            detail: detail.into(),
            resolution: resolution.into(),
            extra: Map::new(),
            headers: HeaderMap::new(),
            cause: None,
        }))
    }

    /// Adds a member that belongs to the code. The members every problem has cannot be replaced.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if !RESERVED.contains(&name) {
            self.0.extra.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Sets a header of the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Sets `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Says something else about what to do next.
    #[must_use]
    pub fn resolution(mut self, resolution: impl Into<Cow<'static, str>>) -> Self {
        self.0.resolution = resolution.into();
        self
    }

    /// Notes what caused it: logged under the request's id when rendered, never sent.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code, for instance `INVALID_REQUEST`.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What was wrong.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// 401: a token was given and is not good. `detail` must not echo the token.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::challenge(detail, r#"Bearer realm="context-sync", error="invalid_token""#)
    }

    /// 401: no token was given (RFC 6750: then the challenge names no error).
    pub fn token_missing(detail: impl Into<String>) -> Self {
        Self::challenge(detail, r#"Bearer realm="context-sync""#)
    }

    fn challenge(detail: impl Into<String>, challenge: &'static str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
            "Unauthenticated",
            detail,
            "Send a valid token as Authorization: Bearer <jwt>",
        )
        .header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// 400: `detail` names the field and what it takes.
    pub fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "Invalid request",
            detail,
            "Correct the request as the detail says",
        )
    }

    /// 413: `limit` is the limit's name, `max` its value, `sent` what was sent (`None`: more than
    /// that, the rest was not read), all in the unit that the name carries.
    pub fn payload_too_large(limit: &str, max: u64, sent: Option<u64>) -> Self {
        let detail = match sent {
            Some(sent) => format!("{limit} is {max}, sent was {sent}"),
            None => format!("{limit} is {max}, sent was more"),
        };
        Self::too_large(detail).with("limit", limit).with("max", max).with("sent", sent)
    }

    fn too_large(detail: String) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            "Payload too large",
            detail,
            "Send less at once",
        )
    }

    /// 431: the request's line and headers are larger than the limit, both in bytes.
    pub(crate) fn headers_too_large(max: usize, sent: usize) -> Self {
        Self::payload_too_large("header_bytes", max as u64, Some(sent as u64))
            .at(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            .resolution("Send fewer or shorter headers")
    }

    /// 404: no such route or thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Not found", detail, "Check the address")
    }

    /// 405. The router adds `Allow`.
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "Method not allowed",
            detail,
            "Use a method that the Allow header lists",
        )
    }

    /// 409: the request is fine, the state of what it names is not.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "CONFLICT",
            "Conflict",
            detail,
            "Look at the current state, then decide again",
        )
    }

    /// 503 with `Retry-After` of [`RETRY_AFTER_SECONDS`]: something this process needs cannot be
    /// reached.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "Unavailable",
            detail,
            "Retry with backoff and the same Idempotency-Key",
        )
        .retry_after(RETRY_AFTER_SECONDS)
    }

    /// 500: a fault of ours. The cause goes to the log alone, under the request's id.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL",
            "Internal error",
            "The request failed for a reason on the server's side",
            "Report it with the request_id",
        )
        .cause(cause)
    }

    /// A problem for an error answer that some layer (the router, an extractor) made without one.
    pub(crate) fn of_status(status: StatusCode, detail: Option<String>) -> Self {
        let or = |text: &str| detail.unwrap_or_else(|| text.to_owned());
        let problem = match status {
            StatusCode::UNAUTHORIZED => Self::unauthenticated(or("The token is not good")),
            StatusCode::NOT_FOUND => Self::not_found(or("There is nothing at this address")),
            StatusCode::METHOD_NOT_ALLOWED => {
                Self::method_not_allowed(or("This address does not take that method"))
            }
            StatusCode::CONFLICT => Self::conflict(or("The request does not fit the state")),
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(or("The body is too large")),
            StatusCode::SERVICE_UNAVAILABLE => Self::unavailable("Try again shortly"),
            // What an extractor could not read: INVALID_REQUEST has one status, 400.
            StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::UNPROCESSABLE_ENTITY => {
                return Self::invalid_request(or("The body could not be read"));
            }
            status if status.is_server_error() => Self::internal(or("answered without a cause")),
            _ => Self::invalid_request(or("The request was refused")),
        };
        problem.at(status)
    }

    fn at(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    fn log(&self, request_id: Option<&str>) {
        let (status, code) = (self.0.status.as_u16(), self.0.code);
        match &self.0.cause {
            Some(cause) if self.0.status.is_server_error() => {
                tracing::error!(request_id, status, code, cause, "request failed");
            }
            Some(cause) => tracing::debug!(request_id, status, code, cause, "request refused"),
            None => {}
        }
    }

    fn render(&self, request_id: Option<&str>) -> Vec<u8> {
        let parts = &*self.0;
        let rendered = Rendered {
            r#type: format!("urn:context-sync:error:{}", parts.code),
            title: parts.title,
            status: parts.status.as_u16(),
            detail: &parts.detail,
            code: parts.code,
            resolution: &parts.resolution,
            request_id,
            extra: &parts.extra,
        };
        // Text keys and values always serialise; an empty body only spares a panic path.
        serde_json::to_vec(&rendered).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let id = RequestId::current();
        let id = id.as_ref().map(RequestId::as_str);
        self.log(id);
        let body = self.render(id);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        *response.headers_mut() = self.0.headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.0.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest is not read, so nothing else can come on this connection: who reuses it would get no answer.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("status", &self.0.status.as_u16())
            .field("code", &self.0.code)
            .field("detail", &self.0.detail)
            .field("extra", &self.0.extra)
            .field("cause", &self.0.cause)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.render(Some("r-1"))).unwrap()
    }

    #[test]
    fn every_member_is_there() {
        let value = json(&Problem::conflict("busy").with("head", 7));
        assert_eq!(
            value,
            serde_json::json!({
                "type": "urn:context-sync:error:CONFLICT", "title": "Conflict", "status": 409,
                "detail": "busy", "code": "CONFLICT", "head": 7, "request_id": "r-1",
                "resolution": "Look at the current state, then decide again",
            })
        );
    }

    #[test]
    fn a_codes_own_member_replaces_none_of_the_common_ones() {
        let value = json(&Problem::not_found("x").with("status", 200).with("code", "OK"));
        assert_eq!((&value["status"], &value["code"]), (&404.into(), &"NOT_FOUND".into()));
    }

    #[test]
    fn too_large_names_the_limit_its_value_and_what_was_sent() {
        let problem = Problem::payload_too_large("push_bytes", 10, Some(11));
        assert_eq!(problem.detail(), "push_bytes is 10, sent was 11");
        let value = json(&problem);
        assert_eq!((&value["limit"], &value["max"]), (&"push_bytes".into(), &10.into()));
        assert_eq!(value["sent"], 11);
    }

    #[test]
    fn the_cause_of_an_internal_error_is_not_sent() {
        let text = json(&Problem::internal("password=hunter2")).to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }
}
