//! `make bench`: what the product does a second, each figure beside its limit and its peer in the same run.
//!
//! Everything runs on one machine, the load too, on durable settings. Ratios travel from machine to
//! machine; figures do not.

mod archiving;
mod fairness;
mod http;
mod limits;
mod load;
mod main_path;
mod peer;
mod repairing;
mod restoring;
mod scenarios;
mod server;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use dev::{
    kafka::{Kafka, KafkaConfig},
    postgres::{Postgres, PostgresConfig},
};
use eventlog::{EventLog, LogAddress, LogConfig};
use load::Measured;
use main_path::MainPath;
use peer::Peer;
use readmodel::DatabaseConfig;
use server::Server;
use table::Line;
use tikv_jemallocator::Jemalloc;

/// As the product: what is measured of it in this process is measured as it ships, and its limits too.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What a push and a pull go through: the archiver, which goes its own way behind the log, is measured by itself.
const MAIN_PATH: [&str; 3] = ["serve", "--roles", "ingest,projector,api"];
/// Each page is asked of Postgres, however many pull it.
const NO_PAGES_KEPT: [&str; 2] = ["--pull-cache-bytes-max", "0"];

/// Postgres as on a server, not as beside `context-sync dev`: what is pushed here is beyond 64 MB of buffers.
/// The peer has a hundred connections.
const POSTGRES: [(&str, &str); 3] =
    [("shared_buffers", "1GB"), ("max_wal_size", "4GB"), ("max_connections", "200")];

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures Context Sync beside its limits.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,

    /// Measures everything so often, and shows of each figure the round with the median ratio
    #[arg(long, default_value_t = 1)]
    rounds: usize,

    /// The logs to measure
    #[arg(long, value_delimiter = ',', default_value = "embedded,kafka")]
    logs: Vec<String>,

    /// What to measure
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "peer,singles,hundreds,pulls,memory,rebuild,fairness,archiving,restore,repair"
    )]
    only: Vec<Figure>,

    /// Messages in the scope that is repaired
    #[arg(long, default_value_t = 50_000)]
    repair_messages: usize,

    /// A JSON object a line, for programs
    #[arg(long)]
    json: bool,

    /// Archives the log in this directory, of so many scopes, and says what it took
    #[arg(long, hide = true, requires = "archive_scopes")]
    archive: Option<PathBuf>,
    #[arg(long, hide = true)]
    archive_scopes: Option<usize>,
    #[arg(long, hide = true, default_value = "hour")]
    archive_over: archiving::Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Figure {
    /// What atuin-server does, where it is installed
    Peer,
    /// Pushes of one message
    Singles,
    /// Pushes of 100 messages
    Hundreds,
    /// Pulls of 100 messages, and with nothing new
    Pulls,
    /// Memory, and whether it grows with the scopes
    Memory,
    /// Folding the whole log again
    Rebuild,
    /// What one tenant feels of another's storm
    Fairness,
    /// Writing the archive, and the memory of whoever does
    Archiving,
    /// Restoring a scope from its backup
    Restore,
    /// Mending a device that differs in ten messages
    Repair,
}

/// Scopes that are pushed to once, to see whether memory grows with their number.
const MANY_SCOPES: usize = 20_000;
/// Rows that are inserted for the limit of inserts.
const INSERT_ROWS_MAX: i64 = 50_000;

fn main() -> ExitCode {
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(Args::parse())));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    if let (Some(directory), Some(scopes)) = (&args.archive, args.archive_scopes) {
        return archiving::archive(directory, scopes, args.archive_over).await;
    }
    let mut rounds = Vec::new();
    for _ in 0..args.rounds.max(1) {
        rounds.push(round(&args).await?);
    }
    let lines = table::medians(rounds);
    if args.json {
        table::print_json(&lines)
    } else {
        table::print(&lines)
    }
    Ok(())
}

/// Measures everything once, on services of its own.
async fn round(args: &Args) -> Result<Vec<Line>, Failure> {
    let directory = tempfile::tempdir()?;
    let progress = dev::progress::for_stderr();
    let mut config = PostgresConfig::new(directory.path().join("postgres"));
    config.settings = POSTGRES.map(|(name, value)| (name.into(), value.into())).into();
    let postgres = Postgres::start(config, progress.as_ref()).await?;
    let mut bench = Bench {
        time: Duration::from_secs(args.seconds.max(1)),
        only: &args.only,
        repair_messages: args.repair_messages,
        directory: directory.path(),
        postgres: &postgres,
        peer: None,
    };
    bench.peer = bench.start_peer().await?;
    let mut lines = Vec::new();
    let needs_server = args.only.iter().any(|figure| *figure != Figure::Archiving);
    for log in args.logs.iter().filter(|_| needs_server) {
        match log.as_str() {
            "embedded" => bench.embedded(&mut lines).await?,
            "kafka" => {
                let mut config = KafkaConfig::new(directory.path().join("kafka"));
                config.full_jit = true;
                let kafka = Kafka::start(config, progress.as_ref()).await?;
                bench.kafka(&kafka, &mut lines).await?;
                kafka.stop().await?;
            }
            other => return Err(format!("--logs takes embedded and kafka, not {other}").into()),
        }
    }
    if bench.measures(Figure::Archiving) {
        archiving::figures(directory.path(), &mut lines).await?;
    }
    postgres.stop().await?;
    Ok(lines)
}

struct Bench<'a> {
    time: Duration,
    only: &'a [Figure],
    repair_messages: usize,
    directory: &'a Path,
    postgres: &'a Postgres,
    /// Where it is installed, and measured.
    peer: Option<Peer>,
}

impl Bench<'_> {
    fn measures(&self, figure: Figure) -> bool {
        self.only.contains(&figure)
    }

    /// A database of its own on the same server.
    async fn database(&self, name: &str) -> Result<String, Failure> {
        let url = self.postgres.url();
        let mut connection = limits::connect(url).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}")))
            .execute(&mut connection)
            .await?;
        let (base, _) = url.rsplit_once('/').ok_or("the URL names no database")?;
        Ok(format!("{base}/{name}"))
    }

    async fn migrated(&self, name: &str) -> Result<String, Failure> {
        let url = self.database(name).await?;
        readmodel::migrate(&database_config(&url)).await?;
        Ok(url)
    }

    async fn start_peer(&self) -> Result<Option<Peer>, Failure> {
        if !self.measures(Figure::Peer) {
            return Ok(None);
        }
        step("the peer: atuin-server");
        let peer = peer::start(&self.database("atuin").await?, self.directory).await?;
        if peer.is_none() {
            eprintln!(
                "bench: no atuin-server here; install it to measure beside it (cargo install atuin-server --locked)"
            );
        }
        Ok(peer)
    }

    async fn embedded(&self, lines: &mut Vec<Line>) -> Result<(), Failure> {
        let config = LogConfig::new(LogAddress::Embedded);
        let bare = eventlog::open(&config, &self.directory.join("bare-log")).await?;
        let data = self.directory.join("embedded");
        let url = self.migrated("embedded").await?;
        let data_dir = data.display().to_string();
        let log_dir = data.join("log").display().to_string();
        let serve = [&MAIN_PATH[..], &["--log-dir", &log_dir, "--database-url", &url]].concat();
        let server = Server::start(&server::binary()?, &serve, self.directory).await?;
        let path = MainPath { log: "embedded", server: &server, bare: &bare, url: &url };
        self.main_path(&path, 3.0, lines).await?;
        if self.measures(Figure::Memory) {
            let what = "memory of ingest, projector and api";
            lines.push(Line::new("embedded", what, server.resident_mb()?, "MB").below(100.0));
        }
        server.stop()?;
        self.unkept_pulls("embedded", &serve, &url, lines).await?;
        let dev = ["dev", "--data-dir", &data_dir, "--database-url", &url];
        let server = Server::start(&server::binary()?, &dev, self.directory).await?;
        if self.measures(Figure::Singles) {
            self.archived("embedded", &server, lines).await?;
        }
        if self.measures(Figure::Memory) {
            self.memory(&server, lines).await?;
        }
        if self.measures(Figure::Restore) {
            self.restore(&server, &url, lines).await?;
        }
        if self.measures(Figure::Repair) {
            self.repair(&server, lines).await?;
        }
        server.stop()?;
        bare.close().await?;
        let log = eventlog::open(&config, &data.join("log")).await?;
        let ends = ends(&log).await?;
        log.close().await?;
        drop(log);
        self.rebuild("embedded", &["--log-dir", &log_dir], &ends, &url, lines).await?;
        if self.measures(Figure::Fairness) {
            let url = self.migrated("fairness").await?;
            let data = self.directory.join("fairness").display().to_string();
            let dev = ["dev", "--data-dir", &data, "--database-url", &url];
            let args = [&dev[..], &fairness::RATES].concat();
            let server = Server::start(&server::binary()?, &args, self.directory).await?;
            self.fairness("embedded", &server, lines).await?;
            server.stop()?;
        }
        Ok(())
    }

    /// The latency of one tenant with and without another's storm.
    async fn fairness(
        &self,
        log: &'static str,
        server: &Server,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        for kind in [fairness::Kind::Push, fairness::Kind::Pull] {
            let name = kind.name();
            step(&format!("{log}: one tenant beside another's storm, a {name} each"));
            let fairness::Felt { alone, beside_allowed, in_storm, refused } =
                fairness::feel(server, kind, self.time).await?;
            for (which, of) in
                [("p50", (|felt| felt.p50_ms) as fn(&Measured) -> f64), ("p99", |felt| felt.p99_ms)]
            {
                let line = |when: &str, felt: &Measured| {
                    let what = format!("{name} {which} of a tenant {when}");
                    Line::new(log, what, of(felt), "ms")
                };
                let allowed = line("beside what another may", &beside_allowed);
                lines.push(allowed.beside("alone", Some(of(&alone))));
                let storm = line("in another's storm", &in_storm);
                lines
                    .push(storm.beside("beside what it may", Some(of(&beside_allowed))).below(2.0));
            }
            let what = format!("of the storm is refused, a {name} each");
            lines.push(Line::new(log, what, refused * 100.0, "%"));
        }
        Ok(())
    }

    /// A restore, beside pushing the same records and inserting the same rows.
    async fn restore(
        &self,
        server: &Server,
        url: &str,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        step("embedded: a restore");
        let backed_up = restoring::back_up(server).await?;
        let rows = restoring::RECORDS as i64;
        let before = self.inserts("before_restore", url, rows).await?;
        let restoring::Restored { pushed, restored } = backed_up.restore().await?;
        let limit = before.midpoint(self.inserts("after_restore", url, rows).await?);
        let what = format!("restore of {} records", restoring::RECORDS);
        let line = Line::new("embedded", what, restored, "/s");
        lines.push(line.clone().beside("INSERT … SELECT UNNEST", Some(limit)).goal(0.6));
        lines.push(line.beside("pushes of 100 of the same", Some(pushed)));
        Ok(())
    }

    /// A repair, beside pulling everything.
    async fn repair(&self, server: &Server, lines: &mut Vec<Line>) -> Result<(), Failure> {
        let messages = self.repair_messages;
        step(&format!("embedded: a repair of 10 in {messages} messages"));
        let repairing::Repaired { pull, first, next, memory } =
            repairing::repair(server, messages).await?;
        let what = |what: &str| format!("repair of 10 in {messages}, {what}");
        lines.push(Line::new("embedded", what("moved"), first.kb, "KB").below(64.0));
        for (which, figure, unit, pull) in [
            ("moved", first.kb, "KB", pull.kb),
            ("first", first.ms, "ms", pull.ms),
            ("next", next.ms, "ms", pull.ms),
        ] {
            let line = Line::new("embedded", what(which), figure, unit);
            lines.push(line.beside("full pull", Some(pull)));
        }
        lines.push(Line::new("embedded", what("memory"), memory, "MB"));
        Ok(())
    }

    /// The memory of all roles in one process, and whether it grows with the scopes. (The archiver may have 300 MB,
    /// the others 100: they are measured without it.)
    async fn memory(&self, server: &Server, lines: &mut Vec<Line>) -> Result<(), Failure> {
        step("embedded: many scopes");
        let before = server.resident_mb()?;
        let what = "memory of all roles in one process";
        lines.push(Line::new("embedded", what, before, "MB"));
        scenarios::scopes(server, MANY_SCOPES).await?;
        let after = server.resident_mb()?;
        let what = format!("the same after {MANY_SCOPES} more scopes");
        lines.push(
            Line::new("embedded", what, after, "MB").beside("before", Some(before)).below(1.5),
        );
        Ok(())
    }

    async fn kafka(&self, kafka: &Kafka, lines: &mut Vec<Line>) -> Result<(), Failure> {
        let address = format!("kafka://{}", kafka.bootstrap());
        let mut config = LogConfig::new(address.parse()?);
        config.log_topic_prefix = "bare".to_owned();
        let bare = eventlog::open(&config, self.directory).await?;
        let url = self.migrated("kafka").await?;
        let serve = [&MAIN_PATH[..], &["--log", &address, "--database-url", &url]].concat();
        let server = Server::start(&server::binary()?, &serve, self.directory).await?;
        let path = MainPath { log: "kafka", server: &server, bare: &bare, url: &url };
        self.warm_up(&path).await?;
        self.main_path(&path, 1.5, lines).await?;
        server.stop()?;
        self.unkept_pulls("kafka", &serve, &url, lines).await?;
        if self.measures(Figure::Fairness) {
            let args = [&serve[..], &fairness::RATES].concat();
            let server = Server::start(&server::binary()?, &args, self.directory).await?;
            self.fairness("kafka", &server, lines).await?;
            server.stop()?;
        }
        bare.close().await?;
        config.log_topic_prefix = "context".to_owned();
        let log = eventlog::open(&config, self.directory).await?;
        let ends = ends(&log).await?;
        log.close().await?;
        self.rebuild("kafka", &["--log", &address], &ends, &url, lines).await?;
        if self.measures(Figure::Memory) {
            self.roles(&address, lines).await?;
        }
        Ok(())
    }

    /// The limit of what inserts, measured before and after a figure: what else the machine does changes from one
    /// second to the next.
    async fn inserts(&self, into: &str, url: &str, rows_max: i64) -> Result<f64, Failure> {
        let empty = self.migrated(into).await?;
        limits::insert(url, &empty, rows_max).await
    }

    /// Folds the whole log again, into an empty read model.
    async fn rebuild(
        &self,
        log: &'static str,
        args: &[&str],
        ends: &[u64],
        url: &str,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        if !self.measures(Figure::Rebuild) {
            return Ok(());
        }
        step(&format!("{log}: rebuild of the read model"));
        let rows: i64 = sqlx::query_scalar("select count(*) from messages")
            .fetch_one(&mut limits::connect(url).await?)
            .await?;
        let rebuilt = self.migrated(&format!("{log}_rebuilt")).await?;
        let before = self.inserts(&format!("{log}_before_rebuild"), url, INSERT_ROWS_MAX).await?;
        let mut all = vec!["projector", "--database-url", &rebuilt];
        all.extend(args);
        let began = std::time::Instant::now();
        let server = Server::start(&server::binary()?, &all, self.directory).await?;
        let mut connection = limits::connect(&rebuilt).await?;
        loop {
            let next: Vec<i64> =
                sqlx::query_scalar("select next_offset from positions order by partition")
                    .fetch_all(&mut connection)
                    .await?;
            if next.len() == ends.len() && next.iter().zip(ends).all(|(n, end)| *n as u64 >= *end) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = began.elapsed().as_secs_f64();
        let rate = rows as f64 / took;
        let after = self.inserts(&format!("{log}_after_rebuild"), url, INSERT_ROWS_MAX).await?;
        let limit = before.midpoint(after);
        lines.push(
            Line::new(log, format!("rebuild, {rows} messages"), rate, "/s")
                .beside("INSERT … SELECT UNNEST", Some(limit))
                .goal(0.7),
        );
        let memory = server.resident_mb()?;
        lines.push(Line::new(log, "memory of a rebuilding projector", memory, "MB").below(100.0));
        server.stop()
    }

    /// The memory of each role in a process of its own, after some load.
    async fn roles(&self, address: &str, lines: &mut Vec<Line>) -> Result<(), Failure> {
        step("kafka: each role in a process of its own");
        let url = self.migrated("roles").await?;
        let role = |role: &'static str| {
            let args =
                vec![role, "--database-url", &url, "--log", address, "--log-topic-prefix", "roles"];
            args.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut servers = Vec::new();
        for name in ["projector", "ingest", "api"] {
            let args = role(name);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            servers.push((name, Server::start(&server::binary()?, &args, self.directory).await?));
        }
        let pushed = scenarios::push(&servers[1].1, 32, 1, self.time, Duration::ZERO).await?;
        lines.push(
            Line::new("kafka", "single pushes, 32, roles apart", pushed.rate, "/s").latency(pushed),
        );
        scenarios::pull(&servers[2].1, 16, self.time / 2).await?;
        for (name, server) in servers {
            let memory = server.resident_mb()?;
            lines.push(Line::new("kafka", format!("memory of {name}"), memory, "MB").below(100.0));
            server.stop()?;
        }
        Ok(())
    }
}

async fn ends(log: &Arc<dyn EventLog>) -> Result<Vec<u64>, Failure> {
    let mut ends = Vec::new();
    for partition in 0..log.partitions() {
        ends.push(log.bounds(model::Partition::new(partition)).await?.end.get());
    }
    Ok(ends)
}

fn database_config(url: &str) -> DatabaseConfig {
    DatabaseConfig {
        database_url: Some(url.to_owned()),
        database_connections: 4,
        database_acquire_timeout_ms: 5_000,
        database_statement_timeout_ms: 60_000,
    }
}

fn step(text: &str) {
    eprintln!("bench: {text}");
}
