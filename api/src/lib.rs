//! The api: every request that only reads.
//!
//! [`pull`] gives pages of what changed, with long poll; [`reconcile`] tells a device whether it has drifted,
//! [`compare`] and [`fetch`] mend it from what [`holdings`] knows; [`members`] and [`pushes`] tell who is in a
//! scope and what became of a push; [`docs`] describes all routes, ingest's included.

mod asking;
mod backups;
mod compare;
mod config;
pub mod docs;
mod erasures;
mod fetch;
mod history;
mod holdings;
mod idle;
mod measure;
mod members;
mod pages;
mod places;
mod pull;
mod pushes;
mod query;
mod reconcile;
mod restores;
mod workers;

use std::sync::Arc;

use archive::Archive;
use axum::{
    Router,
    extract::{Request, State},
    routing::{get, post},
};
use contract::{Entrance, path};
use model::ScopeKind;
use readmodel::{Pool, feed::Feed};
use tokio_util::sync::CancellationToken;

pub use config::ApiConfig;

use crate::places::Places;

/// What the requests share.
pub struct Api {
    config: ApiConfig,
    pool: Pool,
    feed: Arc<Feed>,
    entrance: Entrance,
    /// Where backups are, if this instance has an archive.
    archive: Option<Archive>,
    shutdown: CancellationToken,
    drift: measure::Drift,
    idle: idle::Idle,
    pages: pages::Pages,
    holdings: holdings::Holdings,
    waiting: Arc<Places>,
}

impl Api {
    /// `pool` has the api role, `watcher` the watcher's. Long polls learn of news from `feed`: a projector of this process or
    /// a `readmodel::asker` must feed it. They are answered at once when `shutdown` begins.
    pub fn new(
        config: ApiConfig,
        pool: Pool,
        watcher: Pool,
        feed: Arc<Feed>,
        entrance: Entrance,
        archive: Option<Archive>,
        shutdown: CancellationToken,
    ) -> Self {
        measure::describe();
        let idle = idle::Idle::new(feed.clone(), watcher);
        let drift = measure::Drift::new();
        let holdings = holdings::Holdings::new(&config, pool.clone());
        let pages = pages::Pages::new(config.pull_cache_bytes_max);
        let waiting = Places::new(config.pulls_waiting_max as usize);
        Self {
            config,
            pool,
            feed,
            entrance,
            archive,
            shutdown,
            drift,
            idle,
            pages,
            holdings,
            waiting,
        }
    }
}

type Shared = State<Arc<Api>>;

/// The routes. Wrap them in `service::http::envelope`.
pub fn router(api: Arc<Api>) -> Router {
    let push_status =
        |State(api): Shared, request: Request| async move { pushes::status(&api, request).await };
    let erasure =
        |State(api): Shared, request: Request| async move { erasures::show(&api, request).await };
    let mut router = Router::new()
        .route("/api/v1/users/{user_id}/erasures/{erasure_id}", get(erasure))
        .route("/api/v1/pushes/{push_id}", get(push_status))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::page));
    for kind in ScopeKind::ALL {
        let pull = move |State(api): Shared, request: Request| async move {
            pull::pull(&api, kind, request).await
        };
        let list = move |State(api): Shared, request: Request| async move {
            backups::list(&api, kind, request).await
        };
        let show = move |State(api): Shared, request: Request| async move {
            backups::show(&api, kind, request).await
        };
        let content = move |State(api): Shared, request: Request| async move {
            backups::content(&api, kind, request).await
        };
        let restore = move |State(api): Shared, request: Request| async move {
            restores::show(&api, kind, request).await
        };
        let reconcile = move |State(api): Shared, request: Request| async move {
            reconcile::answer(&api, kind, request).await
        };
        let compare = move |State(api): Shared, request: Request| async move {
            compare::answer(&api, kind, request).await
        };
        let fetch = move |State(api): Shared, request: Request| async move {
            fetch::answer(&api, kind, request).await
        };
        let history = move |State(api): Shared, request: Request| async move {
            history::show(&api, kind, request).await
        };
        let context = path::context(kind);
        router = router
            .route(&format!("{context}/pull"), get(pull))
            .route(&format!("{context}/reconcile"), post(reconcile))
            .route(&format!("{context}/reconcile/messages"), post(compare))
            .route(&format!("{context}/messages"), post(fetch))
            .route(&format!("{context}/backups"), get(list))
            .route(&format!("{context}/backups/{{backup_id}}"), get(show))
            .route(&format!("{context}/backups/{{backup_id}}/content"), get(content))
            .route(&format!("{context}/restores/{{restore_id}}"), get(restore))
            .route(&format!("{context}/messages/{{message_id}}/history"), get(history));
    }
    for (kind, path) in path::with_members() {
        let list = move |State(api): Shared, request: Request| async move {
            members::list(&api, kind, request).await
        };
        router = router.route(&format!("{path}/members"), get(list));
    }
    router.with_state(api)
}
