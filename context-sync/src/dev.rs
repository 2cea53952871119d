//! `context-sync dev`: all roles in one process, with nothing to install.

pub mod data_dir;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use dev::postgres::{Postgres, PostgresConfig};
use service::{
    Secret,
    auth::{OrgRole, sign_hs256},
    telemetry::Metrics,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Failure,
    serve::{self, Listeners, Logs, Role, Running, Settings, bind, shown},
};
use data_dir::{Addresses, DataDir, Lock};

/// How long a start may take after Postgres runs: folding a log that is long takes its time, and
/// says so; it is not cut off.
const READY_ASK_EVERY: Duration = Duration::from_millis(50);

#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where everything is kept
    #[arg(long, env = "CONTEXT_SYNC_DATA_DIR", default_value = ".context-sync")]
    pub data_dir: PathBuf,

    /// Where devices connect
    #[arg(long, env = "CONTEXT_SYNC_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Where operators connect: /healthz, /readyz, /metrics
    #[arg(long, env = "CONTEXT_SYNC_OPS_LISTEN", default_value = "127.0.0.1:9090")]
    pub ops_listen: SocketAddr,

    /// Directory of Postgres' programs (initdb, postgres); fetched once if none is named
    #[arg(long, env = "CONTEXT_SYNC_POSTGRES_BIN")]
    pub postgres_bin: Option<PathBuf>,

    #[command(flatten)]
    pub settings: Settings,
}

/// A development instance that answers.
pub struct Instance {
    pub url: String,
    pub ops_url: String,
    pub key: Secret,
    running: Running,
    postgres: Option<Postgres>,
    _lock: Lock,
}

/// Runs an instance until a signal, and says how to use it.
pub async fn run(args: DevArgs) -> Result<(), Failure> {
    let shutdown = service::shutdown::on_signals()?;
    let metrics = service::telemetry::init(&args.settings.telemetry)?;
    let instance = tokio::select! {
        instance = start(&args, metrics, shutdown.clone()) => instance?,
        () = shutdown.cancelled() => return Ok(()),
    };
    instance.greet(&args)?;
    instance.wait().await
}

/// Starts an instance, and waits until it is ready.
pub async fn start(
    args: &DevArgs,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<Instance, Failure> {
    let dir = DataDir::new(&args.data_dir);
    let lock = dir.lock()?;
    let listeners = Listeners { api: bind(args.listen).await?, ops: bind(args.ops_listen).await? };
    let url = format!("http://{}", listeners.api.local_addr()?);
    let ops_url = format!("http://{}", listeners.ops.local_addr()?);
    let mut settings = args.settings.clone();
    let key = development_key(&mut settings, &dir)?;
    dir.keep_archive_in(&mut settings);
    let logs = Logs::open(&settings, &dir.log()).await?;
    let postgres = private_postgres(args, &mut settings, &dir).await?;
    readmodel::migrate(&settings.database).await?;
    let roles = [Role::Ingest, Role::Projector, Role::Archiver, Role::Api];
    let running = serve::start(&roles, settings, listeners, Some(logs), metrics, shutdown)?;
    let database = postgres.as_ref().map(|postgres| postgres.url().to_owned());
    dir.write_addresses(&Addresses { api: url.clone(), ops: ops_url.clone(), database })?;
    let instance = Instance { url, ops_url, key, running, postgres, _lock: lock };
    instance.ready().await
}

/// The key of the data directory, unless the settings name a key source of their own.
fn development_key(settings: &mut Settings, dir: &DataDir) -> Result<Secret, Failure> {
    let auth = &mut settings.auth;
    if let Some(secret) = &auth.jwt_secret {
        return Ok(secret.clone());
    }
    let key = dir.key()?;
    let other = auth.jwt_secret_file.is_some()
        || auth.jwt_public_key_file.is_some()
        || auth.jwt_jwks_url.is_some();
    if !other {
        auth.jwt_secret = Some(key.clone());
    }
    Ok(key)
}

/// A Postgres of the instance's own, unless the settings name one.
async fn private_postgres(
    args: &DevArgs,
    settings: &mut Settings,
    dir: &DataDir,
) -> Result<Option<Postgres>, Failure> {
    if settings.database.database_url.is_some() {
        return Ok(None);
    }
    let mut config = PostgresConfig::new(dir.postgres());
    config.bin_dir = args.postgres_bin.clone();
    let progress = dev::progress::for_stderr();
    let postgres = Postgres::start(config, progress.as_ref()).await?;
    settings.database.database_url = Some(postgres.url().to_owned());
    Ok(Some(postgres))
}

impl Instance {
    /// Waits until it is ready, or until a role gave up.
    async fn ready(self) -> Result<Self, Failure> {
        while !self.running.readiness.is_ready() {
            if self.running.shutdown.is_cancelled() {
                // A signal, or a role that failed: waiting tells which.
                self.wait().await?;
                return Err("stopped before it was ready".into());
            }
            tokio::time::sleep(READY_ASK_EVERY).await;
        }
        Ok(self)
    }

    /// A token of the development key, good for a day.
    pub fn token(&self, tenant: &str, user: &str, org_role: OrgRole) -> Result<String, Failure> {
        const TTL: Duration = Duration::from_secs(24 * 3_600);
        Ok(sign_hs256(&self.key, user, tenant, org_role, TTL)?)
    }

    fn greet(&self, args: &DevArgs) -> Result<(), Failure> {
        let token = self.token("acme", "ann", OrgRole::Member)?;
        println!(
            "Context Sync is ready.\n\n  \
             API        {url}    (reference: {url}/docs)\n  \
             operators  {ops}    (/readyz, /metrics)\n  \
             data       {data}\n\n\
             Push a message, and pull it:\n\n  \
             TOKEN={token}\n  \
             curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: laptop' {url}/api/v1/context/push \\\n    \
             -d '{{\"messages\": [{{\"type\": \"decision\", \"content\": \"Use PostgreSQL RLS for tenant isolation\"}}]}}'\n  \
             curl -H \"Authorization: Bearer $TOKEN\" -H 'X-Device-ID: phone' {url}/api/v1/context/pull\n\n\
             Ctrl-C stops it.",
            url = self.url,
            ops = self.ops_url,
            data = shown(&args.data_dir),
        );
        Ok(())
    }

    /// Waits until it has stopped, Postgres last.
    pub async fn wait(self) -> Result<(), Failure> {
        let ended = self.running.wait().await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        ended
    }
}
