//! A process of roles: what they share, and how they start and stop together.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use clap::{Args, ValueEnum};
use eventlog::EventLog;
use readmodel::{DatabaseConfig, DatabaseRole, PgPool, asker::Asker, feed::Feed};
use service::{
    auth::{AuthConfig, Verifier},
    http::HttpLimits,
    ops::Readiness,
    shutdown::Tasks,
    telemetry::Metrics,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// How long everything has to stop once shutdown begins.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A part of the product that a process can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Ingest,
    Projector,
    Api,
}

/// Settings of a process of roles.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where devices connect (ingest, api)
    #[arg(long, env = "CONTEXT_SYNC_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Where operators connect: /healthz, /readyz, /metrics
    #[arg(long, env = "CONTEXT_SYNC_OPS_LISTEN", default_value = "0.0.0.0:9090")]
    pub ops_listen: SocketAddr,

    /// Directory of an embedded log
    #[arg(long, env = "CONTEXT_SYNC_LOG_DIR", default_value = ".context-sync/log")]
    pub log_dir: PathBuf,

    #[command(flatten)]
    pub settings: Settings,
}

/// What the roles are set to, wherever they listen.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    pub database: DatabaseConfig,
    #[command(flatten)]
    pub log: eventlog::LogConfig,
    #[command(flatten)]
    pub auth: AuthConfig,
    #[command(flatten)]
    pub http: HttpLimits,
    #[command(flatten)]
    pub ingest: ingest::IngestConfig,
    #[command(flatten)]
    pub projector: projector::ProjectorConfig,
    #[command(flatten)]
    pub api: api::ApiConfig,
    #[command(flatten)]
    pub telemetry: service::telemetry::LogConfig,
}

/// Where a process listens.
pub struct Listeners {
    pub api: TcpListener,
    pub ops: TcpListener,
}

/// Roles that run.
pub struct Running {
    pub tasks: Tasks,
    pub readiness: Readiness,
    pub log: Arc<dyn EventLog>,
    pub shutdown: CancellationToken,
    pools: Vec<PgPool>,
}

/// Runs the roles until a signal.
pub async fn run(roles: Vec<Role>, args: ServeArgs) -> Result<(), Failure> {
    let shutdown = service::shutdown::on_signals()?;
    let metrics = service::telemetry::init(&args.settings.telemetry)?;
    let listeners = Listeners { api: bind(args.listen).await?, ops: bind(args.ops_listen).await? };
    let log = eventlog::open(&args.settings.log, &args.log_dir).await?;
    let running = start(&roles, args.settings, listeners, log, metrics, shutdown)?;
    running.wait().await
}

/// Binds an address, or says which one could not be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| {
        format!("cannot listen on {address}: {e}; choose another with --listen or --ops-listen")
            .into()
    })
}

/// Starts the roles. They stop together: when one fails, all do.
pub fn start(
    roles: &[Role],
    settings: Settings,
    listeners: Listeners,
    log: Arc<dyn EventLog>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<Running, Failure> {
    let readiness = Readiness::new();
    let feed = Feed::new(log.is_exclusive());
    let mut tasks = Tasks::new(shutdown.clone());
    let mut pools = Vec::new();
    let has = |role| roles.contains(&role);
    if has(Role::Projector) {
        let projector = projector::Projector {
            config: settings.projector.clone(),
            database: settings.database.clone(),
            log: log.clone(),
            feed: feed.clone(),
            ready: readiness.component("projector"),
        };
        tasks.spawn("projector", projector.run(shutdown.clone()));
    }
    if has(Role::Ingest) || has(Role::Api) {
        let asker = Asker {
            feed: feed.clone(),
            config: settings.database.clone(),
            exclusive: log.is_exclusive(),
        };
        tasks.spawn("asker", asker.run(shutdown.clone()));
        let verifier = Arc::new(Verifier::new(&settings.auth)?);
        let mut router = Router::new();
        if has(Role::Ingest) {
            let pool = pool(&settings, DatabaseRole::Ingest, "ingest", &readiness, &shutdown)?;
            router = router.merge(ingest(&settings, &pool, &log, &feed, &verifier));
            pools.push(pool);
        }
        if has(Role::Api) {
            let pool = pool(&settings, DatabaseRole::Api, "api", &readiness, &shutdown)?;
            router = router.merge(api(&settings, &pool, &feed, &verifier, &shutdown));
            pools.push(pool);
        }
        let router = service::http::envelope(router, &settings.http);
        let served =
            service::http::serve(listeners.api, router, settings.http.clone(), shutdown.clone());
        tasks.spawn("http", served);
    }
    let ops =
        service::http::envelope(service::ops::router(readiness.clone(), metrics), &settings.http);
    let served = service::http::serve(listeners.ops, ops, settings.http, shutdown.clone());
    tasks.spawn("ops", served);
    Ok(Running { tasks, readiness, log, shutdown, pools })
}

/// A role's connections; it is ready while they work.
fn pool(
    settings: &Settings,
    role: DatabaseRole,
    name: &'static str,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> Result<PgPool, Failure> {
    let pool = readmodel::pool(&settings.database, role)?;
    tokio::spawn(watch_database(readiness.component(name), pool.clone(), shutdown.clone()));
    Ok(pool)
}

fn ingest(
    settings: &Settings,
    pool: &PgPool,
    log: &Arc<dyn EventLog>,
    feed: &Arc<Feed>,
    verifier: &Arc<Verifier>,
) -> Router {
    let mut config = settings.ingest.clone();
    config.body_timeout = settings.http.body_timeout();
    let (log, feed, verifier) = (log.clone(), feed.clone(), verifier.clone());
    ingest::router(Arc::new(ingest::Ingest::new(config, log, pool.clone(), feed, verifier)))
}

fn api(
    settings: &Settings,
    pool: &PgPool,
    feed: &Arc<Feed>,
    verifier: &Arc<Verifier>,
    shutdown: &CancellationToken,
) -> Router {
    let (config, feed, verifier) = (settings.api.clone(), feed.clone(), verifier.clone());
    api::router(Arc::new(api::Api::new(config, pool.clone(), feed, verifier, shutdown.clone())))
}

/// A role is ready while its database answers, and knows which log it is the read model of.
async fn watch_database(
    ready: service::ops::ComponentHandle,
    pool: PgPool,
    shutdown: CancellationToken,
) {
    const WELL: Duration = Duration::from_secs(2);
    const UNWELL: Duration = Duration::from_millis(200);
    while !shutdown.is_cancelled() {
        let pause = match readmodel::pull::epoch(&pool).await {
            Ok(_) => {
                ready.set_ready();
                WELL
            }
            Err(error) => {
                ready.set_not_ready(error.to_string());
                UNWELL
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Running {
    /// Waits until everything has stopped; lets go of the log last.
    pub async fn wait(self) -> Result<(), Failure> {
        let ended = self.tasks.wait(STOP_WITHIN).await;
        for pool in &self.pools {
            pool.close().await;
        }
        let closed = self.log.close().await;
        ended?;
        closed?;
        Ok(())
    }
}

/// `PATH` as people should see it.
pub fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}
