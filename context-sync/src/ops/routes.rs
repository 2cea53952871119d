//! What operators ask of a running instance, on its ops port.

use std::sync::Arc;

use archive::Archive;
use archiver::{DRILL_SCOPES, Drilling, Expiring, Operator};
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, Request, State},
    http::header::{CONTENT_TYPE, ORIGIN},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use eventlog::EventLog;
use futures_util::stream;
use projector::{ProjectorConfig, RebuildRequest, Rebuilder, Rebuilding};
use readmodel::{DatabaseConfig, feed::Feed};
use serde::{Deserialize, Serialize};
use service::{Problem, ops::ComponentHandle};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::asked::{CheckAsked, LettersAsked, ShowAsked, StatusAsked, TraceAsked};
use crate::copies::{Copies, dead_letters::Chosen};

/// Keeps pages of a browser on this machine from asking: whatever they send elsewhere than where they come from names
/// its origin.
pub fn not_for_pages(routes: Router) -> Router {
    routes.layer(middleware::from_fn(refuse_pages))
}

async fn refuse_pages(request: Request, next: Next) -> Result<Response, Problem> {
    if request.headers().contains_key(ORIGIN) {
        return Err(Problem::invalid_request("The ops port takes no Origin: no page may ask it"));
    }
    Ok(next.run(request).await)
}

/// The archiver, and whether it is at work.
#[derive(Clone)]
struct Archiver {
    operator: Operator,
    ready: ComponentHandle,
}

/// What the archiver does when it is asked. It does nothing that it would not do by itself.
pub fn archive(operator: Operator, ready: ComponentHandle) -> Router {
    Router::new()
        .route("/archive/expire", post(expire))
        .route("/archive/drill", post(drill))
        .with_state(Archiver { operator, ready })
}

impl Archiver {
    /// Who asks one that is not at work would wait without a word.
    fn at_work(&self) -> Result<&Operator, Problem> {
        match self.ready.not_ready() {
            None => Ok(&self.operator),
            Some(reason) => {
                Err(Problem::unavailable(format!("The archiver is not at work: {reason}"))
                    .resolution("Wait until /readyz says that it is, or mend what it names"))
            }
        }
    }
}

#[derive(Deserialize)]
struct ExpireQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn expire(
    State(archiver): State<Archiver>,
    Query(ExpireQuery { dry_run }): Query<ExpireQuery>,
) -> Result<Response, Problem> {
    Ok(lines::<Expiring>(archiver.at_work()?.expire(dry_run).await))
}

#[derive(Deserialize)]
struct DrillQuery {
    scopes: Option<u32>,
}

async fn drill(
    State(archiver): State<Archiver>,
    Query(DrillQuery { scopes }): Query<DrillQuery>,
) -> Result<Response, Problem> {
    Ok(lines::<Drilling>(archiver.at_work()?.drill(scopes.unwrap_or(DRILL_SCOPES)).await))
}

/// What is asked of the copies where the process holds the log, or is a development instance: elsewhere the commands go
/// to log and database themselves, with the rights of their logins.
pub fn copies(copies: Copies) -> Router {
    Router::new()
        .route("/copies/status", post(status))
        .route("/copies/check", post(check))
        .route("/copies/trace", post(trace))
        .route("/dead-letters/list", post(list_letters))
        .route("/dead-letters/show", post(show_letter))
        .route("/dead-letters/retry", post(retry_letters))
        .route("/dead-letters/discard", post(discard_letters))
        .with_state(copies)
}

async fn status(State(copies): State<Copies>, Json(asked): Json<StatusAsked>) -> Response {
    once(copies.status(asked.limits()).await)
}

async fn check(State(copies): State<Copies>, Json(asked): Json<CheckAsked>) -> Response {
    told(async move |say| match asked.query() {
        Ok(query) => copies.check(&query, &say).await,
        Err(why) => drop(say.send(crate::copies::check::Checking::Failed(why)).await),
    })
}

async fn trace(State(copies): State<Copies>, Json(asked): Json<TraceAsked>) -> Response {
    told(async move |say| copies.trace(asked.id, &say).await)
}

async fn list_letters(State(copies): State<Copies>, Json(asked): Json<LettersAsked>) -> Response {
    once(asked.list(&copies).await)
}

async fn show_letter(State(copies): State<Copies>, Json(asked): Json<ShowAsked>) -> Response {
    once(asked.show(&copies).await)
}

async fn retry_letters(State(copies): State<Copies>, Json(chosen): Json<Chosen>) -> Response {
    told(async move |say| copies.retry_letters(&chosen, &say).await)
}

async fn discard_letters(State(copies): State<Copies>, Json(chosen): Json<Chosen>) -> Response {
    told(async move |say| copies.discard_letters(&chosen, &say).await)
}

/// One line.
fn once<T: Serialize + Send + 'static>(answer: T) -> Response {
    told(async move |say| drop(say.send(answer).await))
}

/// Lines, as they are said.
fn told<T, F>(asked: impl FnOnce(Sender<T>) -> F + Send + 'static) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (say, said) = mpsc::channel(16);
    tokio::spawn(asked(say));
    lines(said)
}

/// What a projector's process does when it is asked: the rows once more, from the log.
pub fn projector(rebuilding: Rebuilds) -> Router {
    Router::new().route("/rebuild", post(rebuild)).with_state(Arc::new(rebuilding))
}

/// What rebuilds of this process work with.
pub struct Rebuilds {
    pub config: ProjectorConfig,
    pub database: DatabaseConfig,
    pub log: Arc<dyn EventLog>,
    pub archive: Option<Archive>,
    pub feed: Arc<Feed>,
    pub shutdown: CancellationToken,
}

async fn rebuild(
    State(own): State<Arc<Rebuilds>>,
    Query(request): Query<RebuildRequest>,
) -> Response {
    let (say, said) = mpsc::channel(16);
    let rebuilder = Rebuilder {
        config: own.config.clone(),
        database: own.database.clone(),
        log: own.log.clone(),
        archive: own.archive.clone(),
        feed: own.feed.clone(),
    };
    tokio::spawn(rebuilder.run(request, say, own.shutdown.clone()));
    lines::<Rebuilding>(said)
}

/// A JSON object a line, as they come.
fn lines<T: Serialize + Send + 'static>(said: Receiver<T>) -> Response {
    let lines = stream::unfold(said, async |mut said| {
        let line = said.recv().await?;
        let json = serde_json::to_string(&line).map(|json| json + "\n");
        Some((json, said))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
