//! The server under load: the release binary, in a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use service::{
    Secret,
    auth::{OrgRole, sign_hs256},
};

use crate::{
    Failure,
    http::{Connection, request},
};

/// The secret of the benchmark's own servers, which listen on loopback for its duration.
const SECRET: &str = "benchmark-benchmark-benchmark-benchmark";
/// Whose load it is, where tenants do not matter.
pub(crate) const TENANT: &str = "bench";
/// The load is what is measured, not what is let in: no rates, and scopes of any size. Quotas are asked for all
/// the same, since the tenant has one.
const UNLIMITED: [(&str, &str); 5] = [
    ("CONTEXT_SYNC_DEVICE_REQUESTS_PER_SECOND", "0"),
    ("CONTEXT_SYNC_USER_REQUESTS_PER_SECOND", "0"),
    ("CONTEXT_SYNC_TENANT_REQUESTS_PER_SECOND", "0"),
    ("CONTEXT_SYNC_SCOPE_MESSAGES_MAX", "0"),
    ("CONTEXT_SYNC_SCOPE_BYTES_MAX", "0"),
];
const START_WITHIN: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(crate) struct Server {
    child: Child,
    pub(crate) api: String,
    ops: String,
}

impl Server {
    /// Starts `context-sync` with these arguments, and waits until it is ready.
    pub(crate) async fn start(
        binary: &Path,
        args: &[&str],
        directory: &Path,
    ) -> Result<Self, Failure> {
        let [api, ops] = [free_address()?, free_address()?];
        let log = std::fs::File::create(directory.join(format!("server-{}.log", &api[10..])))?;
        let child = Command::new(binary)
            .args(args)
            .args(["--listen", &api, "--ops-listen", &ops])
            .env("CONTEXT_SYNC_JWT_SECRET", SECRET)
            .envs(UNLIMITED)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut server = Self { child, api, ops };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let readyz = request("GET", "/readyz", &[], b"");
        let began = Instant::now();
        while began.elapsed() < START_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the server ended at its start ({status})").into());
            }
            if let Ok(mut connection) = Connection::open(&self.ops).await
                && let Ok(answer) = connection.send(&readyz).await
                && answer.status == 200
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("the server was not ready in time".into())
    }

    /// Resident memory now, in MB.
    pub(crate) fn resident_mb(&self) -> Result<f64, Failure> {
        resident_mb(self.child.id())
    }

    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn resident_mb(pid: u32) -> Result<f64, Failure> {
    status_mb(&pid.to_string(), "VmRSS:")
}

/// The most resident memory that this process had, in MB.
pub(crate) fn peak_mb() -> Result<f64, Failure> {
    status_mb("self", "VmHWM:")
}

fn status_mb(process: &str, key: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let missing = || format!("no {key}");
    let line = status.lines().find(|line| line.starts_with(key)).ok_or_else(missing)?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or_else(missing)?.parse()?;
    Ok(kib / 1024.0)
}

pub(crate) fn token(user: &str) -> Result<String, Failure> {
    token_of(TENANT, user)
}

pub(crate) fn token_of(tenant: &str, user: &str) -> Result<String, Failure> {
    Ok(sign_hs256(&Secret::new(SECRET), user, tenant, OrgRole::Member, DAY)?)
}

fn free_address() -> Result<String, Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}

/// The release binary beside this one.
pub(crate) fn binary() -> Result<PathBuf, Failure> {
    let binary = std::env::current_exe()?.with_file_name("context-sync");
    if binary.exists() {
        return Ok(binary);
    }
    Err("build the server first: cargo build --release -p context-sync (make bench does)".into())
}
