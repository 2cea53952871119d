//! The few system calls that the standard library offers no safe form of.
#![allow(
    unsafe_code,
    reason = "signals, the parent death signal and exit handlers have no safe form in std"
)]

use std::io;
use std::process::Command;

/// A signal this crate sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Quit,
    Terminate,
    Kill,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
        }
    }
}

/// Sends `signal` to the one process `pid`.
pub(crate) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    kill(pid, signal.number())
}

/// Whether a process `pid` exists, be it ours or not.
#[cfg(any(test, not(target_os = "linux")))]
pub(crate) fn exists(pid: u32) -> bool {
    match kill(pid, 0) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(libc::EPERM),
    }
}

fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // Zero and negative numbers mean groups of processes: never what is asked here.
    let pid = match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 0 => pid,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    // SAFETY: kill takes two integers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The user this process acts as.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing, cannot fail and touches no memory of ours.
    unsafe { libc::geteuid() }
}

/// Has the kernel send `signal` to the process of `command` when the thread that spawned it ends.
#[cfg(target_os = "linux")]
pub(crate) fn end_with_parent(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let tell = move || {
        let number = libc::c_ulong::try_from(signal.number()).unwrap_or_default();
        // SAFETY: this option of prctl takes an integer. The kernel forgets it when the user changes; the standard
        // library changes the user before it calls this.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, number, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have ended just before.
        if std::os::unix::process::parent_id() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes two system calls and allocates nothing.
    unsafe { command.pre_exec(tell) };
}

/// Only Linux can do this.
#[cfg(not(target_os = "linux"))]
pub(crate) fn end_with_parent(_command: &mut Command, _signal: Signal) {}

/// Has `action` run when this process exits in the ordinary way.
pub(crate) fn at_exit(action: extern "C" fn()) {
    // SAFETY: `action` is a function that lives as long as the program. Where it cannot be registered the files stay
    // until the next sweep.
    let _ = unsafe { libc::atexit(action) };
}
