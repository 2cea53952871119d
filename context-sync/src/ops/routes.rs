//! What operators ask of a running instance, on its ops port.

use archiver::{DRILL_SCOPES, Drilling, Expiring, Operator};
use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Receiver;

/// What the archiver does when it is asked. It does nothing that it would not do by itself.
pub fn archive(operator: Operator) -> Router {
    Router::new()
        .route("/archive/expire", post(expire))
        .route("/archive/drill", post(drill))
        .with_state(operator)
}

#[derive(Deserialize)]
struct ExpireQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn expire(
    State(operator): State<Operator>,
    Query(ExpireQuery { dry_run }): Query<ExpireQuery>,
) -> Response {
    lines::<Expiring>(operator.expire(dry_run).await)
}

#[derive(Deserialize)]
struct DrillQuery {
    scopes: Option<u32>,
}

async fn drill(
    State(operator): State<Operator>,
    Query(DrillQuery { scopes }): Query<DrillQuery>,
) -> Response {
    lines::<Drilling>(operator.drill(scopes.unwrap_or(DRILL_SCOPES)).await)
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
