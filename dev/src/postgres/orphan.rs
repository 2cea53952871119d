//! A PostgreSQL that outlived the process that started it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::POLL;
use crate::sys::{self, Signal};

/// How long an orphan has for each way to end.
const LIMITS: [(Signal, Duration); 3] = [
    (Signal::Interrupt, Duration::from_secs(20)),
    (Signal::Quit, Duration::from_secs(5)),
    (Signal::Kill, Duration::from_secs(5)),
];

/// The lines of `postmaster.pid` that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: u32,
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn read(cluster: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    /// The first line is the process, the eighth its status.
    fn parse(text: &str) -> Option<Self> {
        let pid = text.lines().next()?.trim().parse().ok()?;
        let ready = text.lines().nth(7).is_some_and(|status| status.trim() == "ready");
        Some(Self { pid, ready })
    }
}

/// The process that serves `cluster` now.
pub(super) fn running(cluster: &Path) -> Option<u32> {
    let pid = PidFile::read(cluster)?.pid;
    serves(pid, cluster).then_some(pid)
}

/// Stops the process that serves `cluster`. The caller holds the data directory, so that process is an orphan.
pub(super) async fn stop(cluster: &Path, pid: u32) -> io::Result<()> {
    for (signal, limit) in LIMITS {
        // Gone in the meantime is as good.
        let _ = sys::send(pid, signal);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !serves(pid, cluster) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the PostgreSQL with process id {pid} does not end"),
    ))
}

/// Removes a `postmaster.pid` that nobody serves: its number may by now be another process of the same user, and
/// PostgreSQL would take that for a running server. Its own check of the shared memory still finds live remains.
pub(super) fn forget(cluster: &Path) -> io::Result<()> {
    match fs::remove_file(cluster.join("postmaster.pid")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether `pid` is a PostgreSQL, and that of `cluster`: it runs with its data directory as the working directory.
#[cfg(target_os = "linux")]
fn serves(pid: u32, cluster: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(program) = fs::read_link(process.join("exe")) else { return false };
    let is_postgres =
        program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres"));
    is_postgres && fs::read_link(process.join("cwd")).is_ok_and(|directory| directory == cluster)
}

/// Its command line names the program and the data directory.
#[cfg(not(target_os = "linux"))]
fn serves(pid: u32, cluster: &Path) -> bool {
    let listed = std::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output();
    let command = listed
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    sys::exists(pid)
        && command.contains("postgres")
        && command.contains(&*cluster.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_process_and_its_status() {
        let starting = "42\n/data\n1700000000\n5432\n\n127.0.0.1\n  123 456\nstarting\n";
        assert_eq!(PidFile::parse(starting), Some(PidFile { pid: 42, ready: false }));
        let ready = starting.replace("starting", "ready   ");
        assert_eq!(PidFile::parse(&ready), Some(PidFile { pid: 42, ready: true }));
        assert_eq!(PidFile::parse("42\n"), Some(PidFile { pid: 42, ready: false }));
        assert_eq!(PidFile::parse(""), None);
    }

    #[test]
    fn another_process_is_no_orphan() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("postmaster.pid"), format!("{}\n", std::process::id()))
            .unwrap();
        assert_eq!(running(directory.path()), None);
        forget(directory.path()).unwrap();
        forget(directory.path()).unwrap();
    }
}
