//! The operators' port: is it alive, is it ready, what does it measure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::http::header::CONTENT_TYPE;
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::problem::Problem;
use crate::telemetry::Metrics;

/// What a component is not ready for before it says anything.
const STARTING: &str = "starting";

/// Which parts of the process are ready. Cheap to clone; all clones are the same registry.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<Cow<'static, str>, State>>>);

#[derive(Clone)]
struct State {
    /// Why it is not ready.
    reason: Option<String>,
    /// The process is ready without it.
    is_optional: bool,
}

impl Readiness {
    /// A registry without components: not ready until the first registers and is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a component, not ready until it says so.
    pub fn component(&self, name: impl Into<Cow<'static, str>>) -> ComponentHandle {
        self.register(name.into(), false)
    }

    /// As [`Self::component`], but the process is ready without it: it is shown, and that is all.
    pub fn optional_component(&self, name: impl Into<Cow<'static, str>>) -> ComponentHandle {
        self.register(name.into(), true)
    }

    fn register(&self, name: Cow<'static, str>, is_optional: bool) -> ComponentHandle {
        let handle = ComponentHandle { readiness: self.clone(), name, is_optional };
        handle.set_not_ready(STARTING);
        handle
    }

    /// Whether every registered component that is not optional is ready, and there is one.
    pub fn is_ready(&self) -> bool {
        let components = self.lock();
        let mut needed = components.values().filter(|state| !state.is_optional).peekable();
        needed.peek().is_some() && needed.all(|state| state.reason.is_none())
    }

    /// Each component by name, with the reason why it is not ready.
    pub fn components(&self) -> Vec<Component> {
        let components = self.lock();
        let each = components.iter().map(|(name, state)| Component {
            name: name.to_string(),
            ready: state.reason.is_none(),
            reason: state.reason.clone(),
        });
        each.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Cow<'static, str>, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One component's state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
    is_optional: bool,
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

    /// Why it is not ready; `None`: it is.
    pub fn not_ready(&self) -> Option<String> {
        let components = self.readiness.lock();
        components.get(&self.name).and_then(|state| state.reason.clone())
    }

    fn set(&self, reason: Option<String>) {
        let ready = reason.is_none();
        let shown = reason.clone();
        let state = State { reason, is_optional: self.is_optional };
        let before = self.readiness.lock().insert(self.name.clone(), state);
        let gauge = metrics::gauge!("component_ready", "component" => self.name.clone());
        gauge.set(if ready { 1.0 } else { 0.0 });
        if before.map(|state| state.reason.is_none()) != Some(ready) {
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

    #[test]
    fn ready_without_what_is_optional_but_never_with_it_alone() {
        let readiness = Readiness::new();
        let archive = readiness.optional_component("archive");
        archive.set_ready();
        assert!(!readiness.is_ready());
        readiness.component("rows").set_ready();
        archive.set_not_ready("no bucket");
        assert_eq!(readyz(&readiness).status().as_u16(), 200);
        let shown = readiness.components().into_iter().find(|shown| shown.name == "archive");
        assert_eq!(shown.and_then(|shown| shown.reason).as_deref(), Some("no bucket"));
    }
}
