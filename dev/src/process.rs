//! Child processes that end with this process.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::{self, Signal};

/// How often a condition is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// How long a dropped process has to end by itself.
const DROP_LIMIT: Duration = Duration::from_secs(3);

/// A running child process. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Service {
    pid: u32,
    child: Mutex<Child>,
    on_drop: Signal,
}

impl Service {
    /// Starts `command`. `on_death` is what it gets when this process dies, `on_drop` when the value is dropped.
    pub(crate) fn spawn(command: Command, on_death: Signal, on_drop: Signal) -> io::Result<Self> {
        let child = spawn(command, on_death)?;
        Ok(Self { pid: child.id(), child: Mutex::new(child), on_drop })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its exit status, once it ended.
    pub(crate) fn exited(&self) -> io::Result<Option<ExitStatus>> {
        self.child().try_wait()
    }

    /// Sends `signal` unless it ended: then its number may already be another's.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let mut child = self.child();
        match child.try_wait()? {
            Some(_) => Ok(()),
            None => sys::send(self.pid, signal),
        }
    }

    /// Waits up to `limit` for it to end.
    pub(crate) async fn ended_within(&self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.exited()? {
                None if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                status => return Ok(status),
            }
        }
    }

    /// Sends the signals one after the other, giving each its time, then SIGKILL.
    pub(crate) async fn end(&self, steps: &[(Signal, Duration)]) -> io::Result<()> {
        for (signal, limit) in steps {
            self.signal(*signal)?;
            if self.ended_within(*limit).await?.is_some() {
                return Ok(());
            }
        }
        self.signal(Signal::Kill)?;
        match self.ended_within(DROP_LIMIT).await? {
            Some(_) => Ok(()),
            None => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {} does not end", self.pid),
            )),
        }
    }

    /// The same for where nothing can be awaited.
    pub(crate) fn end_blocking(&self) {
        let _ = self.signal(self.on_drop);
        let deadline = Instant::now() + DROP_LIMIT;
        while Instant::now() < deadline {
            match self.exited() {
                Ok(None) => std::thread::sleep(POLL),
                _ => return,
            }
        }
        let _ = self.signal(Signal::Kill);
        let _ = self.child().wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.exited(), Ok(None)) {
            self.end_blocking();
        }
    }
}

/// Runs `command` to its end, at most `limit` long.
pub(crate) async fn run(command: Command, limit: Duration) -> io::Result<ExitStatus> {
    let service = Service::spawn(command, Signal::Kill, Signal::Kill)?;
    match service.ended_within(limit).await? {
        Some(status) => Ok(status),
        None => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it took more than {} s", limit.as_secs()),
        )),
    }
}

/// Keeps `held` until this process exits in the ordinary way, and drops it then. Statics are never dropped.
pub(crate) fn end_at_exit(held: impl Send + 'static) {
    let mut all = AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner);
    if all.is_empty() {
        sys::at_exit(drop_held);
    }
    all.push(Box::new(held));
}

static AT_EXIT: Mutex<Vec<Box<dyn Send>>> = Mutex::new(Vec::new());

extern "C" fn drop_held() {
    // A lock that is taken belongs to a thread that no longer runs.
    if let Ok(mut all) = AT_EXIT.try_lock() {
        all.clear();
    }
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// Starts `command` from a thread that lives as long as this process: the kernel sends the parent death signal when the
/// *thread* that started the child ends, and a runtime's threads end before the process does.
fn spawn(mut command: Command, on_death: Signal) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Option<Sender<Order>>>> = OnceLock::new();
    sys::end_with_parent(&mut command, on_death);
    let (answer, answered) = sync_channel(1);
    let orders = SPAWNER.get_or_init(Mutex::default);
    {
        let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match orders.take() {
            Some(sender) => sender,
            None => start_spawner()?,
        };
        sender.send((command, answer)).map_err(|_| spawner_gone())?;
        *orders = Some(sender);
    }
    answered.recv().map_err(|_| spawner_gone())?
}

fn start_spawner() -> io::Result<Sender<Order>> {
    let (sender, orders) = channel::<Order>();
    std::thread::Builder::new().name("dev-spawner".into()).spawn(move || {
        for (mut command, answer) in orders {
            let _ = answer.send(command.spawn());
        }
    })?;
    Ok(sender)
}

fn spawner_gone() -> io::Error {
    io::Error::other("the thread that starts processes is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    }

    #[tokio::test]
    async fn outlives_the_thread_that_asked_for_it_and_ends_when_dropped() {
        let started =
            std::thread::spawn(|| Service::spawn(sleeper(), Signal::Kill, Signal::Terminate));
        let service = started.join().unwrap().unwrap();
        assert!(service.ended_within(Duration::from_millis(100)).await.unwrap().is_none());
        let pid = service.pid();
        drop(service);
        assert!(!sys::exists(pid));
    }

    #[tokio::test]
    async fn a_command_over_its_time_is_ended() {
        let error = run(sleeper(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
