//! One process, on its directory.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::GcsError;
use crate::LOOPBACK;
use crate::lock::Lock;
use crate::ports::free_port;
use crate::process::{POLL, Service};
use crate::sys::Signal;

/// It ends at once, unless requests are under way.
pub(super) const STOP: [(Signal, Duration); 1] = [(Signal::Terminate, Duration::from_secs(5))];

const START_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How often to start again because another process took the port in the meantime.
const ATTEMPTS: u32 = 5;

/// What it logs when it has its port.
const STARTED: &str = "server started at";

/// Everything a start needs again and again.
#[derive(Debug)]
pub(super) struct Emulator {
    dir: PathBuf,
    program: PathBuf,
    /// Let go of when this process dies; the emulator dies with it.
    _lock: Lock,
}

impl Emulator {
    pub(super) fn open(dir: &Path, program: PathBuf) -> Result<Self, GcsError> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        match Lock::take(&dir)? {
            Some(lock) => Ok(Self { dir, program, _lock: lock }),
            None => Err(GcsError::InUse { path: dir }),
        }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("gcs.log")
    }

    /// Starts it on `port` or, without one, on a free port, and waits until it takes requests.
    pub(super) async fn launch(&self, port: Option<u16>) -> Result<(Service, u16), GcsError> {
        let mut attempt = 1;
        loop {
            let tried = port.map_or_else(free_port, Ok)?;
            let service = self.spawn(tried)?;
            match self.ready(&service, tried).await {
                Ok(()) => return Ok((service, tried)),
                Err(_) if self.port_was_taken() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(&self, port: u16) -> Result<Service, GcsError> {
        let mut command = Command::new(&self.program);
        command.args(["-scheme", "http", "-host", &LOOPBACK.to_string()]);
        command.args(["-port", &port.to_string(), "-external-url", &url(port)]);
        // Downloads that name the bucket in the path are for this host too.
        command.args(["-public-host", &format!("{LOOPBACK}:{port}")]);
        command.args(["-backend", "filesystem", "-filesystem-root"]).arg(self.dir.join("objects"));
        let output = File::create(self.log())?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A Ctrl-C at the terminal is for this process, which stops it when it no longer needs it.
        command.current_dir(&self.dir).process_group(0);
        Ok(Service::spawn(command, Signal::Kill, Signal::Terminate)?)
    }

    async fn ready(&self, service: &Service, port: u16) -> Result<(), GcsError> {
        let deadline = Instant::now() + START_LIMIT;
        let why = loop {
            if let Some(status) = service.exited()? {
                break format!("{status}: {}", self.complaint());
            }
            if self.started(port) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let limit = START_LIMIT.as_secs();
                break format!("it is not ready after {limit} s: {}", self.complaint());
            }
            tokio::time::sleep(POLL).await;
        };
        Err(GcsError::Start { why })
    }

    fn started(&self, port: u16) -> bool {
        let said = self.said().contains(STARTED);
        said && TcpStream::connect_timeout(&(LOOPBACK, port).into(), CONNECT_LIMIT).is_ok()
    }

    fn port_was_taken(&self) -> bool {
        self.said().contains("address already in use")
    }

    fn complaint(&self) -> String {
        let said = self.said();
        let line = said.lines().last().unwrap_or("it said nothing").trim();
        format!("{line} (log: {})", self.log().display())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// Told to the program too: it begins the addresses of resumable uploads with it.
pub(super) fn url(port: u16) -> String {
    format!("http://{LOOPBACK}:{port}")
}
