//! Runs another program as `env` or `nice` would: its terminal, its signals and its status are the caller's.

use std::io::{self, IsTerminal};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::process::Service;
use crate::sys::Signal;

/// How long the program has to end once it was told to.
const GRACE: Duration = Duration::from_secs(10);

/// Longer than any program runs.
const FOREVER: Duration = Duration::from_hours(24 * 365);

/// Runs `command` to its end, passing SIGINT and SIGTERM on to it.
///
/// # Errors
/// Where it cannot be started.
pub async fn run(command: Command) -> io::Result<ExitStatus> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let service = Service::spawn(command, Signal::Terminate, Signal::Terminate)?;
    let received = tokio::select! {
        status = service.ended_within(FOREVER) => return status?.ok_or_else(|| io::ErrorKind::TimedOut.into()),
        _ = interrupts.recv() => Signal::Interrupt,
        _ = terminations.recv() => Signal::Terminate,
    };
    // A Ctrl-C at the terminal reached the program too; a second one would hurry it.
    if received == Signal::Terminate || !io::stdin().is_terminal() {
        service.signal(received)?;
    }
    let grace = tokio::select! {
        status = service.ended_within(GRACE) => status?,
        // Asked twice: no more waiting.
        _ = interrupts.recv() => None,
        _ = terminations.recv() => None,
    };
    match grace {
        Some(status) => Ok(status),
        None => {
            service.end(&[]).await?;
            service.exited()?.ok_or_else(|| io::ErrorKind::TimedOut.into())
        }
    }
}

/// Waits for SIGINT or SIGTERM.
///
/// # Errors
/// Where signals cannot be received.
pub async fn interrupted() -> io::Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
    Ok(())
}
