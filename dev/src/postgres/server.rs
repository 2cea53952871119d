//! Starting PostgreSQL on its data.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::binaries::{Binaries, command};
use super::cluster::{new_log, reason};
use super::directory::Directory;
use super::orphan::PidFile;
use super::{ON_DEATH, ON_DROP, PostgresConfig, PostgresError};
use crate::LOOPBACK;
use crate::ports::free_port;
use crate::process::{self, POLL, Service};
use crate::sys::Signal;

/// How long a start may take: after a crash PostgreSQL first recovers.
const START_LIMIT: Duration = Duration::from_mins(3);

/// How long to start again because of what may pass by itself: a taken port, remains of a killed server.
const RETRY_LIMIT: Duration = Duration::from_secs(20);

const RETRY_PAUSE: Duration = Duration::from_millis(100);

const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A fast shutdown, then an immediate one.
pub(super) const STOP: [(Signal, Duration); 2] =
    [(Signal::Interrupt, Duration::from_secs(15)), (Signal::Quit, Duration::from_secs(5))];

/// A small instance, for one process on one machine. Statements stay out of the log: they hold users' words.
const SETTINGS: [(&str, &str); 15] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "60"),
    ("shared_buffers", "64MB"),
    ("max_wal_size", "512MB"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("autovacuum", "on"),
    ("jit", "off"),
    ("logging_collector", "off"),
    ("log_min_messages", "warning"),
    ("log_min_error_statement", "panic"),
    ("log_checkpoints", "off"),
];

/// For tests: a crash of the machine may lose everything.
const NOT_DURABLE: [(&str, &str); 3] =
    [("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")];

/// Quicker than the default, where it is built in.
const COMPRESSION: &str = "default_toast_compression=lz4";

/// Everything a start needs again and again.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) directory: Directory,
    binaries: Binaries,
    settings: Vec<String>,
}

impl Server {
    pub(super) async fn new(
        directory: Directory,
        binaries: &Binaries,
        config: &PostgresConfig,
    ) -> Result<Self, PostgresError> {
        let less_durable = NOT_DURABLE.iter().filter(|_| !config.durable);
        let mut settings: Vec<_> = SETTINGS
            .iter()
            .chain(less_durable)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if has_compression(&directory, binaries).await {
            settings.push(COMPRESSION.into());
        }
        settings.extend(config.settings.iter().map(|(name, value)| format!("{name}={value}")));
        Ok(Self { directory, binaries: binaries.clone(), settings })
    }

    /// Starts it on `port` or, without one, on a free port, and waits until it accepts connections.
    pub(super) async fn launch(&self, port: Option<u16>) -> Result<(Service, u16), PostgresError> {
        match fs::rename(self.directory.log(), self.directory.previous_log()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let deadline = Instant::now() + RETRY_LIMIT;
        loop {
            let tried = port.map_or_else(free_port, Ok)?;
            let service = self.spawn(tried)?;
            match self.ready(&service, tried).await {
                Ok(()) => return Ok((service, tried)),
                Err(_) if self.may_pass() && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(&self, port: u16) -> Result<Service, PostgresError> {
        let log = new_log(&self.directory)?;
        let mut command = self.command();
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("port={port}")]);
        command.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        // A Ctrl-C at the terminal is for this process, which stops PostgreSQL when it no longer needs it.
        command.process_group(0);
        Ok(Service::spawn(command, ON_DEATH, ON_DROP)?)
    }

    fn command(&self) -> Command {
        postgres(&self.directory, &self.binaries)
    }

    async fn ready(&self, service: &Service, port: u16) -> Result<(), PostgresError> {
        let deadline = Instant::now() + START_LIMIT;
        let why = loop {
            if let Some(status) = service.exited()? {
                break format!("{status}: {}", reason(&self.directory.log()));
            }
            if self.accepts(service, port) {
                return Ok(());
            }
            if Instant::now() > deadline {
                break format!(
                    "it is not ready after {} s (log: {})",
                    START_LIMIT.as_secs(),
                    self.directory.log().display()
                );
            }
            tokio::time::sleep(POLL).await;
        };
        Err(PostgresError::Start { why })
    }

    fn accepts(&self, service: &Service, port: u16) -> bool {
        let ours = PidFile::read(&self.directory.cluster())
            .is_some_and(|file| file.ready && file.pid == service.pid());
        ours && TcpStream::connect_timeout(&(LOOPBACK, port).into(), CONNECT_LIMIT).is_ok()
    }

    /// Another process took the port, or the children of a killed server have not all ended.
    fn may_pass(&self) -> bool {
        let log = fs::read(self.directory.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.contains("could not create any TCP/IP sockets") || log.contains("is still in use")
    }
}

fn postgres(directory: &Directory, binaries: &Binaries) -> Command {
    let mut command = command(&binaries.program("postgres"), directory.user());
    command.arg("-D").arg(directory.cluster());
    command
}

/// PostgreSQL refuses a setting it was not built for; asked to print it, it only checks.
async fn has_compression(directory: &Directory, binaries: &Binaries) -> bool {
    let mut command = postgres(directory, binaries);
    command.args(["-C", "default_toast_compression", "-c", COMPRESSION]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    process::run(command, CONNECT_LIMIT * 10).await.is_ok_and(|status| status.success())
}
