//! Ingest: every request that changes something.
//!
//! Authenticate, validate, ask the [`gate`], append the command to the log, wait (bounded) for what the
//! fold decides ([`decide`]), answer. Nothing here decides: what is checked before the append only
//! spares the log.

mod backups;
mod config;
mod decide;
mod epoch;
mod erasures;
mod gate;
mod in_flight;
mod lag;
mod measure;
mod members;
mod push;
mod push_body;
mod restore_body;
mod restores;

use std::{sync::Arc, time::Duration};

use archive::Archive;
use axum::{
    Router,
    extract::{Request, State},
    routing::{delete, post, put},
};
use contract::{Entrance, headers, path};
use eventlog::EventLog;
use http::HeaderMap;
use model::{Limits, ScopeKind};
use readmodel::{Pool, feed::Feed};
use tokio::sync::Semaphore;

pub use config::{IngestConfig, WhoMayCreate};
pub use lag::follow;

/// What the requests share.
pub struct Ingest {
    config: IngestConfig,
    limits: Limits,
    log: Arc<dyn EventLog>,
    feed: Arc<Feed>,
    entrance: Entrance,
    gate: gate::Gate,
    outcomes: readmodel::gather::Gather<decide::Outcomes>,
    pool: Pool,
    /// Where backups are, if this instance has an archive.
    archive: Option<Archive>,
    dry_runs: Arc<Semaphore>,
    backups: backups::Requested,
    in_flight: in_flight::InFlight,
    lag: lag::Lag,
    pushed: measure::Pushed,
}

impl Ingest {
    /// `pool` has the ingest role. Waiters learn of outcomes from `feed`: a projector of this process
    /// or a `readmodel::asker` must feed it. Run [`follow`] beside it.
    pub fn new(
        config: IngestConfig,
        log: Arc<dyn EventLog>,
        pool: Pool,
        feed: Arc<Feed>,
        entrance: Entrance,
        archive: Option<Archive>,
    ) -> Self {
        measure::describe();
        let quotas = config.quotas();
        let accounts = gate::Accounts { pool: pool.clone(), log: log.log_id() };
        Self {
            limits: config.limits(),
            in_flight: in_flight::InFlight::new(
                config.pushes_in_flight_max,
                config.push_bytes_in_flight_max,
            ),
            lag: lag::Lag::new(config.projector_lag_records_max, log.partitions()),
            config,
            log,
            feed,
            entrance,
            gate: gate::Gate::new(accounts, quotas),
            outcomes: readmodel::gather::Gather::new(decide::Outcomes(pool.clone())),
            pool,
            archive,
            dry_runs: Arc::new(Semaphore::new(restores::DRY_RUNS_MAX)),
            backups: backups::Requested::default(),
            pushed: measure::Pushed::new(),
        }
    }

    /// How long the caller waits for the outcome.
    fn wait(&self, headers: &HeaderMap) -> Duration {
        if headers::prefers_async(headers) { Duration::ZERO } else { self.config.push_wait() }
    }
}

type Shared = State<Arc<Ingest>>;

/// The routes. Wrap them in `service::http::envelope`.
pub fn router(ingest: Arc<Ingest>) -> Router {
    let erase = |State(ingest): Shared, request: Request| async move {
        erasures::request(&ingest, request).await
    };
    let mut router = Router::new().route("/api/v1/users/{user_id}/data", delete(erase));
    for kind in ScopeKind::ALL {
        let push = move |State(ingest): Shared, request: Request| async move {
            push::push(&ingest, kind, request).await
        };
        let back_up = move |State(ingest): Shared, request: Request| async move {
            backups::request(&ingest, kind, request).await
        };
        let restore = move |State(ingest): Shared, request: Request| async move {
            restores::request(&ingest, kind, request).await
        };
        let context = path::context(kind);
        router = router
            .route(&format!("{context}/push"), post(push))
            .route(&format!("{context}/backups"), post(back_up))
            .route(&format!("{context}/restore"), post(restore));
    }
    for (kind, path) in path::with_members() {
        let create = move |State(ingest): Shared, request: Request| async move {
            members::create(&ingest, kind, request).await
        };
        let set = move |State(ingest): Shared, request: Request| async move {
            members::set(&ingest, kind, request).await
        };
        let remove = move |State(ingest): Shared, request: Request| async move {
            members::remove(&ingest, kind, request).await
        };
        let member = format!("{path}/members/{{user_id}}");
        router = router.route(path, put(create)).route(&member, put(set).delete(remove));
    }
    router.with_state(ingest)
}
