//! A process of roles: what they share, and how they start and stop together.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use archive::{Archive, ArchiveAddress, replay::Replay};
use axum::Router;
use clap::{Args, ValueEnum};
use contract::{
    Entrance,
    rates::{self, RateConfig, Rates},
};
use eventlog::EventLog;
use model::Partition;
use readmodel::{DatabaseConfig, DatabaseRole, Pool, ReadModelError, asker::Asker, feed::Feed};
use service::{
    auth::{AuthConfig, Verifier},
    http::HttpLimits,
    ops::Readiness,
    shutdown::Tasks,
    telemetry::Metrics,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Failure, copies::Copies, ops::routes};

/// How long everything has to stop once shutdown begins.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A part of the product that a process can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Ingest,
    Projector,
    Archiver,
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
    pub rates: RateConfig,
    #[command(flatten)]
    pub ingest: ingest::IngestConfig,
    #[command(flatten)]
    pub projector: projector::ProjectorConfig,
    #[command(flatten)]
    pub archive: archive::ArchiveConfig,
    #[command(flatten)]
    pub archiver: archiver::ArchiverConfig,
    #[command(flatten)]
    pub api: api::ApiConfig,
    #[command(flatten)]
    pub telemetry: service::telemetry::TelemetryConfig,
}

/// Where a process listens.
pub struct Listeners {
    pub api: TcpListener,
    pub ops: TcpListener,
}

/// The logs that the roles read and write.
#[derive(Clone)]
pub struct Logs {
    pub events: Arc<dyn EventLog>,
    /// The archiver's facts, where there is an archive.
    pub facts: Option<Arc<dyn EventLog>>,
    /// Of an embedded log.
    pub dir: PathBuf,
}

impl Logs {
    /// Opens them; `dir` is that of an embedded log.
    pub async fn open(settings: &Settings, dir: &Path) -> Result<Self, eventlog::OpenError> {
        let events = eventlog::open(&settings.log, dir).await?;
        let facts = match settings.archive.archive {
            Some(_) => Some(eventlog::open_backups(&settings.log, &dir.join("backups")).await?),
            None => None,
        };
        Ok(Self { events, facts, dir: dir.to_path_buf() })
    }

    async fn close(&self) -> Result<(), eventlog::LogError> {
        let facts = match &self.facts {
            Some(facts) => facts.close().await,
            None => Ok(()),
        };
        self.events.close().await.and(facts)
    }
}

/// Roles that run.
pub struct Running {
    pub tasks: Tasks,
    pub readiness: Readiness,
    /// What the roles read and write; the api alone needs none.
    pub logs: Option<Logs>,
    pub shutdown: CancellationToken,
    pools: Vec<Pool>,
}

/// Runs the roles until a signal.
pub async fn run(roles: Vec<Role>, args: ServeArgs) -> Result<(), Failure> {
    let shutdown = service::shutdown::on_signals()?;
    let metrics = service::telemetry::init(&args.settings.telemetry)?;
    let listeners = Listeners { api: bind(args.listen).await?, ops: bind(args.ops_listen).await? };
    let needs_log = roles.iter().any(|role| *role != Role::Api);
    let logs = match needs_log {
        true => Some(Logs::open(&args.settings, &args.log_dir).await?),
        false => None, // pulls go on, and start, while Kafka is down
    };
    let running = start(&roles, args.settings, listeners, logs, metrics, shutdown)?;
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
    logs: Option<Logs>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<Running, Failure> {
    let readiness = Readiness::new();
    let log = logs.as_ref().map(|logs| &logs.events);
    let facts = logs.as_ref().and_then(|logs| logs.facts.as_ref());
    let exclusive = log.is_some_and(|log| log.is_exclusive());
    let archive = match settings.archive.archive {
        Some(_) => Some(Archive::open(&settings.archive)?),
        None => None,
    };
    let feed = Feed::new(exclusive);
    let mut tasks = Tasks::new(shutdown.clone());
    let mut pools = Vec::new();
    let mut ops = service::ops::router(readiness.clone(), metrics);
    let has = |role| roles.contains(&role);
    if has(Role::Projector)
        && let Some(log) = log
    {
        // What retention removed before it was folded, the archive has.
        let log = &match &archive {
            Some(archive) => Replay::over(log.clone(), archive.clone()),
            None => log.clone(),
        };
        let projector = projector::Projector {
            config: settings.projector.clone(),
            database: settings.database.clone(),
            log: log.clone(),
            facts: facts.cloned(),
            archive: archive.clone(),
            feed: feed.clone(),
            ready: readiness.component("projector"),
        };
        ops = ops.merge(routes::projector(routes::Rebuilds {
            config: settings.projector.clone(),
            database: settings.database.clone(),
            log: log.clone(),
            archive: archive.clone(),
            feed: feed.clone(),
            shutdown: shutdown.clone(),
        }));
        tasks.spawn("projector", projector.run(shutdown.clone()));
        // Elsewhere operators go to log and database themselves, with rights of their own.
        let is_local = listeners.ops.local_addr().is_ok_and(|address| address.ip().is_loopback());
        if exclusive || is_local {
            ops = ops.merge(routes::copies(copies(
                &settings,
                logs.as_ref(),
                &archive,
                &feed,
                &readiness,
            )));
        }
    }
    if has(Role::Archiver)
        && let Some(log) = log
    {
        let (Some(archive), Some(facts)) = (archive.clone(), facts.cloned()) else {
            return Err("the archiver needs an archive: set --archive".into());
        };
        // Beside others it keeps nobody from being served: they go on without the archive.
        let ready = match roles.len() {
            1 => readiness.component("archiver"),
            _ => readiness.optional_component("archiver"),
        };
        let database = match settings.database.database_url {
            Some(_) => Some(readmodel::pool(&settings.database, DatabaseRole::Ingest)?),
            None => None, // it archives without one; only drills need it
        };
        pools.extend(database.clone());
        let (upkeep, operator) = archiver::Upkeep::new(archiver::Clock::system(), database);
        ops = ops.merge(routes::archive(operator, ready.clone()));
        let archiver = archiver::Archiver {
            config: settings.archiver.clone(),
            log: log.clone(),
            facts,
            archive,
            database: Some(settings.database.clone()).filter(|own| own.database_url.is_some()),
            ready,
            upkeep,
        };
        tasks.spawn("archiver", archive_apart(archiver, roles.len() > 1, shutdown.clone()));
    }
    if has(Role::Ingest) || has(Role::Api) {
        let asker = Asker { feed: feed.clone(), config: settings.database.clone(), exclusive };
        tasks.spawn("asker", asker.run(shutdown.clone()));
        let verifier = Arc::new(Verifier::new(&settings.auth)?);
        let entrance = Entrance { verifier, rates: Arc::new(Rates::new(&settings.rates)) };
        tokio::spawn(rates::forget_idle(entrance.rates.clone(), shutdown.clone()));
        let mut router = Router::new();
        if has(Role::Ingest)
            && let Some(log) = log
        {
            let pool = readmodel::pool(&settings.database, DatabaseRole::Ingest)?;
            let ready = readiness.component("ingest");
            tokio::spawn(watch(ready, pool.clone(), Some(log.clone()), shutdown.clone()));
            let ingest = ingest(&settings, &pool, log, &feed, &entrance, archive.clone());
            tokio::spawn(ingest::follow(ingest.clone(), shutdown.clone()));
            router = router.merge(ingest::router(ingest));
            pools.push(pool);
        }
        if has(Role::Api) {
            let pool = readmodel::pool(&settings.database, DatabaseRole::Api)?;
            let watcher = readmodel::pool(&settings.database, DatabaseRole::Watcher)?;
            let ready = readiness.component("api");
            tokio::spawn(watch(ready, pool.clone(), None, shutdown.clone()));
            let own = [&pool, &watcher];
            router =
                router.merge(api(&settings, own, archive.clone(), &feed, &entrance, &shutdown));
            pools.extend([pool, watcher]);
        }
        let router = service::http::envelope(router, &settings.http);
        let served =
            service::http::serve(listeners.api, router, settings.http.clone(), shutdown.clone());
        tasks.spawn("http", served);
    }
    let ops = service::http::envelope(routes::not_for_pages(ops), &settings.http);
    let served = service::http::serve(listeners.ops, ops, settings.http, shutdown.clone());
    tasks.spawn("ops", served);
    Ok(Running { tasks, readiness, logs, shutdown, pools })
}

/// What operators ask of this process.
fn copies(
    settings: &Settings,
    logs: Option<&Logs>,
    archive: &Option<Archive>,
    feed: &Arc<Feed>,
    readiness: &Readiness,
) -> Copies {
    let database = DatabaseConfig { database_connections: 2, ..settings.database.clone() };
    let rows = readmodel::pool_seldom_used(&database, DatabaseRole::Projector);
    let mut disks = Vec::new();
    if let Some(logs) = logs.filter(|logs| logs.events.is_exclusive()) {
        disks.push(("log".to_owned(), logs.dir.clone()));
    }
    if let Some(ArchiveAddress::File(folder)) = &settings.archive.archive {
        disks.push(("archive".to_owned(), folder.clone()));
    }
    if let Some(cache) = &settings.archiver.archive_cache {
        disks.push(("archiver's cache".to_owned(), cache.clone()));
    }
    Copies {
        log: logs.map(|logs| logs.events.clone()).ok_or_else(|| "there is none".to_owned()),
        facts: logs.and_then(|logs| logs.facts.clone()),
        database,
        rows: rows.map_err(|error| error.to_string()),
        archive: archive.clone().map(Ok),
        feed: Some(feed.clone()),
        readiness: Some(readiness.clone()),
        disks,
    }
}

/// Pushes and pulls go on without the archive: what ends the archiver ends a process of its own alone.
async fn archive_apart(
    archiver: archiver::Archiver,
    with_others: bool,
    shutdown: CancellationToken,
) -> Result<(), archiver::ArchiverError> {
    match archiver.run(shutdown.clone()).await {
        Err(error) if with_others => {
            tracing::error!(%error, "nothing is archived any more: an operator must look");
            shutdown.cancelled().await;
            Ok(())
        }
        ended => ended,
    }
}

fn ingest(
    settings: &Settings,
    pool: &Pool,
    log: &Arc<dyn EventLog>,
    feed: &Arc<Feed>,
    entrance: &Entrance,
    archive: Option<Archive>,
) -> Arc<ingest::Ingest> {
    let mut config = settings.ingest.clone();
    config.body_timeout = settings.http.body_timeout();
    let (log, feed, entrance) = (log.clone(), feed.clone(), entrance.clone());
    let pool = pool.clone();
    Arc::new(ingest::Ingest::new(config, log, pool, feed, entrance, archive))
}

fn api(
    settings: &Settings,
    [pool, watcher]: [&Pool; 2],
    archive: Option<Archive>,
    feed: &Arc<Feed>,
    entrance: &Entrance,
    shutdown: &CancellationToken,
) -> Router {
    let mut config = settings.api.clone();
    config.body_timeout = settings.http.body_timeout();
    let (feed, entrance) = (feed.clone(), entrance.clone());
    let (pool, watcher, shutdown) = (pool.clone(), watcher.clone(), shutdown.clone());
    api::router(Arc::new(api::Api::new(config, pool, watcher, feed, entrance, archive, shutdown)))
}

/// A role is ready while its database answers, and knows which log it is the read model of; and while
/// the log answers, if it writes there.
async fn watch(
    ready: service::ops::ComponentHandle,
    pool: Pool,
    log: Option<Arc<dyn EventLog>>,
    shutdown: CancellationToken,
) {
    const WELL: Duration = Duration::from_secs(2);
    const UNWELL: Duration = Duration::from_millis(200);
    while !shutdown.is_cancelled() {
        let pause = match answers(&pool, log.as_deref()).await {
            Ok(()) => {
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

async fn answers(pool: &Pool, log: Option<&dyn EventLog>) -> Result<(), Failure> {
    readmodel::pull::epoch(pool).await?;
    if let Some(log) = log {
        let (stored, found) = (readmodel::drill::source(pool).await?.0, log.log_id());
        if stored != found {
            return Err(ReadModelError::OtherLog { stored, found }.into());
        }
        log.bounds(Partition::new(0)).await?;
    }
    Ok(())
}

impl Running {
    /// Waits until everything has stopped; lets go of the log last.
    pub async fn wait(self) -> Result<(), Failure> {
        let ended = self.tasks.wait(STOP_WITHIN).await;
        for pool in &self.pools {
            pool.close().await;
        }
        let closed = match &self.logs {
            Some(logs) => logs.close().await,
            None => Ok(()),
        };
        ended?;
        closed?;
        Ok(())
    }
}

/// `PATH` as people should see it.
pub fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}
