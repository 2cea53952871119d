//! All roles in this process, each node with listeners, pools and a feed of its own, around one log
//! and one database.

use std::sync::Arc;

use clap::Parser;
use context_sync::{
    cli::{Cli, Command},
    serve::{self, Listeners, Logs, Role, Settings},
};
use eventlog::EventLog;
use model::LogFold;
use readmodel::Pool;
use service::auth::OrgRole;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    client::Device,
    database::Database,
    equation::{self, eventually},
    replica::Replica,
};

pub(crate) const SECRET: &str = "a secret of the tests, long enough for HS256";
pub(crate) const ALL: &[Role] = &[Role::Ingest, Role::Projector, Role::Api];
/// With an archive.
pub(crate) const ARCHIVING: &[Role] = &[Role::Ingest, Role::Projector, Role::Archiver, Role::Api];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    Embedded,
    Kafka,
}

/// Runs each story, an `async fn(&mut Cluster)`, on both logs; each run ends with the equation.
macro_rules! both_logs {
    ($($story:ident,)*) => {$(
        mod $story {
            use $crate::cluster::{Cluster, LogKind};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                let mut cluster = Cluster::start(LogKind::Embedded).await;
                super::$story(&mut cluster).await;
                cluster.finish().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn kafka() {
                let mut cluster = Cluster::start(LogKind::Kafka).await;
                super::$story(&mut cluster).await;
                cluster.finish().await;
            }
        }
    )*};
}

/// As [`both_logs`], with an archive.
macro_rules! archiving_on_both_logs {
    ($($story:ident,)*) => {$(
        mod $story {
            use $crate::cluster::{Cluster, LogKind};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                let mut cluster = Cluster::start_archiving(LogKind::Embedded).await;
                super::$story(&mut cluster).await;
                cluster.finish().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn kafka() {
                let mut cluster = Cluster::start_archiving(LogKind::Kafka).await;
                super::$story(&mut cluster).await;
                cluster.finish().await;
            }
        }
    )*};
}

pub(crate) struct Cluster {
    pub(crate) kind: LogKind,
    pub(crate) pool: Pool,
    pub(crate) settings: Settings,
    /// Runs all roles, until a story restarts it with others.
    pub(crate) node: Node,
    pub(crate) database: Database,
    /// What the settings were read from.
    flags: Vec<String>,
    client: reqwest::Client,
    dir: tempfile::TempDir,
}

/// What would be one process in production.
pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) ops_url: String,
    pub(crate) log: Arc<dyn EventLog>,
    /// The archiver's facts, where there is an archive.
    pub(crate) facts: Option<Arc<dyn EventLog>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// The flags of a process on this database and log.
pub(crate) async fn flags(kind: LogKind, database_url: &str) -> Vec<String> {
    let mut flags = vec![
        format!("--database-url={database_url}"),
        format!("--jwt-secret={SECRET}"),
        "--database-connections=4".to_owned(),
    ];
    flags.extend(no_rates());
    if kind == LogKind::Kafka {
        flags.extend(kafka_flags(&dev::kafka::for_tests().await.unwrap()));
    }
    flags
}

/// Tests send as fast as they can: those that are about rates set their own.
pub(crate) fn no_rates() -> [String; 3] {
    ["device", "user", "tenant"].map(|of| format!("--{of}-requests-per-second=0"))
}

/// Topics that no other test uses.
pub(crate) fn kafka_flags(bootstrap: &str) -> [String; 3] {
    [
        format!("--log=kafka://{bootstrap}"),
        format!("--log-topic-prefix=test-{}", uuid::Uuid::new_v4().simple()),
        "--log-partitions=4".to_owned(),
    ]
}

pub(crate) fn settings(flags: &[String]) -> Settings {
    let command = ["context-sync", "serve", "--roles=api"].map(str::to_owned);
    match Cli::parse_from(command.iter().chain(flags)).command {
        Command::Serve(serve) => serve.serve.settings,
        other => panic!("{other:?}"),
    }
}

impl Cluster {
    pub(crate) async fn start(kind: LogKind) -> Self {
        Self::start_with(kind, &[]).await
    }

    /// With an archive in a folder; an hour is two seconds.
    pub(crate) async fn start_archiving(kind: LogKind) -> Self {
        Self::start_archiving_with(kind, &[]).await
    }

    /// As [`Self::start_archiving`], with further flags.
    pub(crate) async fn start_archiving_with(kind: LogKind, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let archive = format!("--archive=file://{}", dir.path().join("archive").display());
        Self::start_archiving_in(dir, kind, &[&[archive.as_str()], more].concat()).await
    }

    /// With an archive that the flags name; an hour is two seconds.
    pub(crate) async fn start_archiving_to(kind: LogKind, archive: &[&str]) -> Self {
        Self::start_archiving_in(tempfile::tempdir().unwrap(), kind, archive).await
    }

    async fn start_archiving_in(dir: tempfile::TempDir, kind: LogKind, archive: &[&str]) -> Self {
        let cache = format!("--archive-cache={}", dir.path().join("archiver").display());
        let hours = "--archive-hour-seconds=2";
        let has_hours = archive.iter().any(|flag| flag.starts_with("--archive-hour-seconds="));
        let own: &[&str] = if has_hours { &[&cache] } else { &[&cache, hours] };
        let more = [archive, own].concat();
        Self::start_in(dir, kind, ARCHIVING, &more).await
    }

    /// With further flags.
    pub(crate) async fn start_with(kind: LogKind, more: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), kind, ALL, more).await
    }

    async fn start_in(
        dir: tempfile::TempDir,
        kind: LogKind,
        roles: &[Role],
        more: &[&str],
    ) -> Self {
        let database = Database::migrated().await;
        let mut flags = flags(kind, database.url()).await;
        flags.extend(more.iter().map(|&flag| flag.to_owned()));
        let settings = settings(&flags);
        let node = Node::start(roles, &settings, dir.path()).await;
        let pool = database.owner_pool();
        Self { kind, pool, settings, node, database, flags, client: reqwest::Client::new(), dir }
    }

    /// Another process on the same log; only Kafka has several. Ready when this returns.
    pub(crate) async fn node(&self, roles: &[Role]) -> Node {
        assert_eq!(self.kind, LogKind::Kafka);
        Node::start(roles, &self.settings, self.dir.path()).await
    }

    /// Stops the node, and starts it anew with these roles and settings.
    pub(crate) async fn restart(&mut self, roles: &[Role]) {
        self.node.stop_in_place().await;
        self.node = Node::start(roles, &self.settings, self.dir.path()).await;
    }

    /// Stops the node; a process of its own goes on with what it had: its flags, and the directory for what it says.
    /// [`Self::restart`] takes it back.
    pub(crate) async fn leave(&mut self) -> (Vec<String>, &std::path::Path) {
        self.node.stop_in_place().await;
        let url = self.database.url();
        let prefix = &self.settings.log.log_topic_prefix;
        let now = [("--database-url=", url), ("--log-topic-prefix=", prefix.as_str())];
        let of_now = |flag: &String| {
            let changed = now.iter().find(|(name, _)| flag.starts_with(name));
            changed.map_or_else(|| flag.clone(), |(name, value)| format!("{name}{value}"))
        };
        let mut flags: Vec<String> = self.flags.iter().map(of_now).collect();
        if self.kind == LogKind::Embedded {
            flags.push(format!("--log-dir={}", self.dir.path().join("log").display()));
        }
        (flags, self.dir.path())
    }

    /// Stops the node, does something with the log's directory, and starts all roles anew.
    pub(crate) async fn stopped(&mut self, work: impl AsyncFnOnce(&std::path::Path)) {
        self.node.stop_in_place().await;
        work(&self.dir.path().join("log")).await;
        self.node = Node::start(ALL, &self.settings, self.dir.path()).await;
    }

    /// Loses the database; the rows are folded again.
    pub(crate) async fn lose_the_database(&mut self) {
        self.lose_the_database_and(ARCHIVING, async |_| {}).await;
    }

    /// Loses the database, and what else the work does with the log's directory; these roles start anew.
    pub(crate) async fn lose_the_database_and(
        &mut self,
        roles: &[Role],
        work: impl AsyncFnOnce(&std::path::Path),
    ) {
        self.node.stop_in_place().await;
        work(&self.dir.path().join("log")).await;
        self.empty_database().await;
        self.node = Node::start(roles, &self.settings, self.dir.path()).await;
    }

    /// Drops the read model, as operators do; these roles start anew.
    pub(crate) async fn drop_the_read_model(&mut self, roles: &[Role]) {
        self.node.stop_in_place().await;
        self.empty_the_read_model().await;
        self.node = Node::start(roles, &self.settings, self.dir.path()).await;
    }

    /// As if it had never been filled. Whoever runs is not told.
    pub(crate) async fn empty_the_read_model(&self) {
        sqlx::query("drop schema context_sync cascade").execute(&self.pool).await.unwrap();
        readmodel::migrate(&self.database.config).await.unwrap();
    }

    async fn empty_database(&mut self) {
        self.database = Database::migrated().await;
        self.pool = self.database.owner_pool();
        self.settings.database.database_url = Some(self.database.url().to_owned());
    }

    /// Loses log, database and cache; the archive is left. `recover` is given the settings of what comes after, and
    /// the directory of an embedded log.
    pub(crate) async fn lose_all_but_the_archive(
        &mut self,
        recover: impl AsyncFnOnce(&Settings, &std::path::Path),
    ) {
        self.node.stop_in_place().await;
        for part in ["log", "archiver"] {
            let _ = std::fs::remove_dir_all(self.dir.path().join(part));
        }
        self.empty_database().await;
        self.settings.log.log_topic_prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        recover(&self.settings, &self.dir.path().join("log")).await;
        self.node = Node::start(ARCHIVING, &self.settings, self.dir.path()).await;
    }

    /// A device of a user of acme.
    pub(crate) fn device(&self, user: &str) -> Device {
        self.device_of("acme", user, OrgRole::Member)
    }

    pub(crate) fn device_of(&self, tenant: &str, user: &str, org_role: OrgRole) -> Device {
        Device::new(&self.client, &self.node.url, tenant, user, org_role)
    }

    /// `rows == fold(log) == replica`, then the end.
    pub(crate) async fn finish(self) {
        self.check().await;
        self.node.stop().await;
    }

    /// Compares rows, log and replicas: of every scope, by whoever may pull it.
    pub(crate) async fn check(&self) -> LogFold {
        let fold = equation::check(self.node.log.as_ref(), &self.pool).await;
        for (key, folded) in fold.scopes.iter().filter(|(_, f)| f.scope.heading.exists) {
            let (tenant, name) = (key.tenant.as_str(), key.name.as_str());
            let user = if key.kind == model::ScopeKind::User { name } else { "auditor" };
            let device = self.device_of(tenant, user, OrgRole::Owner);
            let mut replica = Replica::default();
            // Some pages, whatever the scope's size.
            let limit = (folded.messages.len() as u32 / 5).clamp(7, 500);
            replica.catch_up(&device, &crate::client::prefix(key), limit).await;
            replica.assert_is(&fold, key);
            assert_eq!(replica.cursor, folded.scope.heading.head.get());
        }
        fold
    }

    /// The log's end offsets: they do not move where nothing was appended.
    pub(crate) async fn ends(&self) -> Vec<u64> {
        equation::ends(self.node.log.as_ref()).await.values().map(|end| end.get()).collect()
    }
}

impl Node {
    async fn start(roles: &[Role], settings: &Settings, dir: &std::path::Path) -> Self {
        let any = || serve::bind("127.0.0.1:0".parse().unwrap());
        let listeners = Listeners { api: any().await.unwrap(), ops: any().await.unwrap() };
        let url = format!("http://{}", listeners.api.local_addr().unwrap());
        let ops_url = format!("http://{}", listeners.ops.local_addr().unwrap());
        let logs = Logs::open(settings, &dir.join("log")).await.unwrap();
        let (log, facts) = (logs.events.clone(), logs.facts.clone());
        let (shutdown, metrics) =
            (CancellationToken::new(), service::telemetry::metrics().unwrap());
        let (settings, token) = (settings.clone(), shutdown.clone());
        let running = serve::start(roles, settings, listeners, Some(logs), metrics, token).unwrap();
        let ready = running.readiness.clone();
        let task = tokio::spawn(async move { running.wait().await.unwrap() });
        if !roles.is_empty() {
            eventually("ready", async || ready.is_ready().then_some(())).await;
        }
        Self { url, ops_url, log, facts, shutdown, task }
    }

    /// As SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.stop_in_place().await;
    }

    /// Does nothing where it is stopped already.
    async fn stop_in_place(&mut self) {
        if self.shutdown.is_cancelled() {
            return;
        }
        self.shutdown.cancel();
        let ended = tokio::time::timeout(equation::DEADLINE, &mut self.task).await;
        ended.expect("stops in time").unwrap();
    }
}
