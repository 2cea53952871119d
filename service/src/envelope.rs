//! What every request passes through, in one layer: its id, its time limit, its log line, its
//! measurement; and every error, a panic included, leaves as a problem.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Method, Request};
use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tower::{Layer, Service};

use crate::limits::HttpLimits;
use crate::problem::{PROBLEM_JSON, Problem};
use crate::request_id::{RequestId, X_REQUEST_ID};

/// The most of another layer's plain error text that becomes a problem's detail, in bytes.
const DETAIL_BYTES: usize = 1024;

/// The label of requests that no route takes: their paths must not become labels.
const UNMATCHED: &str = "unmatched";

/// Wraps a finished router; routes added afterwards are outside. Unknown routes become 404,
/// wrong methods 405 with `Allow`, panics 500, answers that take longer than
/// `limits.request_seconds` 503, headers larger than `limits.header_bytes` 431.
pub fn envelope(router: Router, limits: &HttpLimits) -> Router {
    router.layer(EnvelopeLayer {
        time: limits.request_timeout(),
        header_bytes: limits.header_bytes as usize,
    })
}

#[derive(Clone, Copy)]
struct EnvelopeLayer {
    time: Duration,
    header_bytes: usize,
}

impl<S> Layer<S> for EnvelopeLayer {
    type Service = Envelope<S>;

    fn layer(&self, inner: S) -> Envelope<S> {
        Envelope { inner, limits: *self }
    }
}

#[derive(Clone)]
struct Envelope<S> {
    inner: S,
    limits: EnvelopeLayer,
}

impl<S> Service<Request<Body>> for Envelope<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let seen = Seen::of(&request);
        let id = RequestId::of(request.headers());
        let limits = self.limits;
        let size = header_bytes(&request);
        // The header's size is judged here for small excesses; hyper cuts off the large ones.
        let answer = (size <= limits.header_bytes).then(|| self.inner.call(request));
        Box::pin(id.clone().scope(async move {
            let response = match answer {
                Some(answer) => respond(answer, &seen, limits.time).await,
                None => Problem::headers_too_large(limits.header_bytes, size).into_response(),
            };
            Ok(seen.finish(response, &id))
        }))
    }
}

/// Runs the handler under its time limit, and makes a problem of whatever goes wrong.
async fn respond<F>(answer: F, seen: &Seen, time: Duration) -> Response
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let caught = AssertUnwindSafe(answer).catch_unwind();
    match tokio::time::timeout(time, caught).await {
        Ok(Ok(Ok(response))) => as_problem(response).await,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(panic)) => {
            Problem::internal(format!("panic: {}", message(panic.as_ref()))).into_response()
        }
        Err(_) => timed_out(&seen.method, time).into_response(),
    }
}

/// An error answer that is no problem yet (the router's own, an extractor's) becomes one.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type == Some(PROBLEM_JSON.as_bytes()) {
        return response;
    }
    let is_text = content_type.is_some_and(|value| value.starts_with(b"text/plain"));
    let (mut parts, body) = response.into_parts();
    let detail = if is_text { short_text(body).await } else { None };
    parts.headers.remove(CONTENT_LENGTH);
    let mut problem = Problem::of_status(status, detail).into_response();
    parts.status = problem.status();
    for (name, value) in problem.headers_mut().drain() {
        if let Some(name) = name {
            parts.headers.insert(name, value);
        }
    }
    Response::from_parts(parts, problem.into_body())
}

async fn short_text(body: Body) -> Option<String> {
    let bytes = axum::body::to_bytes(body, DETAIL_BYTES).await.ok()?;
    String::from_utf8(bytes.into()).ok().filter(|text| !text.is_empty())
}

/// What is known of a panic: only a text is worth a line.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

fn timed_out(method: &Method, time: Duration) -> Problem {
    let problem = Problem::unavailable(format!("There was no answer within {} s", time.as_secs()));
    // A read changed nothing; of anything else nobody knows.
    if method.is_safe() {
        problem.with("accepted", false)
    } else {
        problem.with("accepted", "unknown")
    }
}

/// The bytes of a request's line and headers as they were sent, near enough.
fn header_bytes(request: &Request<Body>) -> usize {
    const LINE: usize = " HTTP/1.1\r\n".len() + 1;
    const FIELD: usize = ": \r\n".len();
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter();
    let fields: usize = fields.map(|(n, v)| n.as_str().len() + v.len() + FIELD).sum();
    request.method().as_str().len() + target + LINE + fields
}

/// What the log and the measurement name of a request: never its headers, query or body.
struct Seen {
    started: Instant,
    method: Method,
    path: Option<MatchedPath>,
}

impl Seen {
    fn of(request: &Request<Body>) -> Self {
        Self {
            started: Instant::now(),
            method: request.method().clone(),
            path: request.extensions().get::<MatchedPath>().cloned(),
        }
    }

    fn finish(&self, mut response: Response, id: &RequestId) -> Response {
        let elapsed = self.started.elapsed();
        let status = response.status();
        let path = self.path.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
        let method = method_label(&self.method);
        metrics::histogram!(
            "http_request_seconds",
            "method" => method,
            "path" => path.to_owned(),
            "status" => status.as_str().to_owned(),
        )
        .record(elapsed.as_secs_f64());
        let (code, ms) = (status.as_u16(), elapsed.as_secs_f64() * 1e3);
        let request_id = id.as_str();
        if status.is_server_error() {
            tracing::info!(method, path, status = code, ms, request_id, "request");
        } else {
            tracing::debug!(method, path, status = code, ms, request_id, "request");
        }
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(X_REQUEST_ID, id.header());
        response
    }
}

/// The known methods; anyone may make up others, and each would be a time series for ever.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
