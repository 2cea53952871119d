//! The operators' port: is it alive, is it ready, what does it measure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::http::header::CONTENT_TYPE;
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::json;

use crate::problem::Problem;
use crate::telemetry::Metrics;

/// What a component is not ready for before it says anything.
const STARTING: &str = "starting";

/// Which parts of the process are ready. Cheap to clone; all clones are the same registry.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<Cow<'static, str>, Option<String>>>>);

impl Readiness {
    /// A registry without components: not ready until the first registers and is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a component, not ready until it says so.
    pub fn component(&self, name: impl Into<Cow<'static, str>>) -> ComponentHandle {
        let handle = ComponentHandle { readiness: self.clone(), name: name.into() };
        handle.set_not_ready(STARTING);
        handle
    }

    /// Whether every registered component is ready, and there is one.
    pub fn is_ready(&self) -> bool {
        let components = self.lock();
        !components.is_empty() && components.values().all(Option::is_none)
    }

    /// Each component by name, with the reason why it is not ready.
    pub fn components(&self) -> Vec<Component> {
        let components = self.lock();
        let each = components.iter().map(|(name, reason)| Component {
            name: name.to_string(),
            ready: reason.is_none(),
            reason: reason.clone(),
        });
        each.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Cow<'static, str>, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One component's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// How a component reports its readiness. What it reported last stays when it is dropped.
#[derive(Clone)]
pub struct ComponentHandle {
    readiness: Readiness,
    name: Cow<'static, str>,
}

impl ComponentHandle {
    /// It is ready.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// It is not, and why: operators read the reason.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let ready = reason.is_none();
        let shown = reason.clone();
        let before = self.readiness.lock().insert(self.name.clone(), reason);
        let gauge = metrics::gauge!("component_ready", "component" => self.name.clone());
        gauge.set(if ready { 1.0 } else { 0.0 });
        if before.as_ref().map(Option::is_none) != Some(ready) {
            let (component, reason) = (&*self.name, shown);
            tracing::info!(component, ready, reason, "readiness changed");
        }
    }
}

/// `/healthz`, `/readyz` and `/metrics`. Merge routes of your own, then wrap it in
/// [`crate::http::envelope`]; bind it to an address that only operators reach.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { axum::Json(json!({"status": "ok"})) }))
        .route("/readyz", get(move || async move { readyz(&readiness) }))
        .route("/metrics", get(move || async move { exposition(&metrics) }))
}

fn readyz(readiness: &Readiness) -> Response {
    let components = json!(readiness.components());
    if readiness.is_ready() {
        return axum::Json(json!({"status": "ready", "components": components})).into_response();
    }
    Problem::unavailable(not_ready(readiness))
        .resolution("Wait, or look at the component named")
        .with("components", components)
        .into_response()
}

fn not_ready(readiness: &Readiness) -> String {
    let waiting = readiness.components().into_iter().filter(|component| !component.ready);
    let waiting: Vec<_> =
        waiting.map(|c| format!("{} ({})", c.name, c.reason.unwrap_or_default())).collect();
    match waiting.is_empty() {
        true => "No component has started yet".to_owned(),
        false => format!("Not ready: {}", waiting.join(", ")),
    }
}

fn exposition(metrics: &Metrics) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_component_is() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready(), "nothing has started");
        let (log, rows) = (readiness.component("log"), readiness.component("rows"));
        log.set_ready();
        assert!(!readiness.is_ready());
        assert_eq!(not_ready(&readiness), "Not ready: rows (starting)");
        rows.set_ready();
        assert!(readiness.is_ready());
        log.set_not_ready("no leader");
        assert_eq!(not_ready(&readiness), "Not ready: log (no leader)");
        assert_eq!(readyz(&readiness).status().as_u16(), 503);
    }
}
