//! An orderly end: signals, and tasks that stand or fall together.

use std::error::Error;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The process's status when a second signal ends it at once.
const IMPATIENT_STATUS: i32 = 130;

/// Any error a task may end with.
pub type TaskFailure = Box<dyn Error + Send + Sync>;

/// Signals could not be listened to.
#[derive(Debug, thiserror::Error)]
#[error("signals cannot be received ({0}); start it from an environment that allows handlers")]
pub struct SignalError(#[from] std::io::Error);

/// A token that the first SIGINT or SIGTERM cancels. The second ends the process at once with
/// status 130. Call it once, inside the runtime.
///
/// # Errors
/// If the operating system refuses the handlers.
pub fn on_signals() -> Result<CancellationToken, SignalError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = first(&mut interrupt, &mut terminate).await;
        tracing::info!(signal = name, "shutting down; a second signal ends it at once");
        cancelled.cancel();
        let name = first(&mut interrupt, &mut terminate).await;
        tracing::warn!(signal = name, "ended at once");
        std::process::exit(IMPATIENT_STATUS);
    });
    Ok(token)
}

async fn first(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Why the tasks did not end as they should.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// A task ended with an error; the others were stopped.
    #[error("{task} failed: {source}")]
    Failed {
        /// The task's name.
        task: &'static str,
        /// Its error.
        source: TaskFailure,
    },
    /// A task panicked; the others were stopped.
    #[error("{task} panicked: {message}; this is a bug, the log has its place")]
    Panicked {
        /// The task's name.
        task: &'static str,
        /// What the panic said.
        message: String,
    },
    /// A task ended although nobody had asked for it; the others were stopped.
    #[error("{task} ended by itself; the process cannot go on without it")]
    Ended {
        /// The task's name.
        task: &'static str,
    },
    /// Tasks did not end in time and were cut off.
    #[error("{} did not stop within {grace_seconds} s and were cut off", .tasks.join(", "))]
    Unfinished {
        /// Their names.
        tasks: Vec<&'static str>,
        /// The time they had, in seconds.
        grace_seconds: u64,
    },
}

/// Tasks that run until shutdown. If one ends before, all are told to stop.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<Result<(), TaskFailure>>,
    names: Vec<(Id, &'static str)>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// No tasks yet; `shutdown` is what tells them to stop.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { set: JoinSet::new(), names: Vec::new(), shutdown }
    }

    /// Starts a task. It should end with `Ok` soon after the token is cancelled.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskFailure>,
    {
        let handle = self.set.spawn(async move { task.await.map_err(Into::into) });
        self.names.push((handle.id(), name));
    }

    /// Waits until all tasks have ended: for ever while all is well, and for at most `grace` from
    /// the moment shutdown begins, then those left are cut off.
    ///
    /// # Errors
    /// The first thing that went wrong. Later ones are logged.
    pub async fn wait(mut self, grace: Duration) -> Result<(), TasksError> {
        let mut first = None;
        let shutdown = self.shutdown.clone();
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::pin!(overdue);
        loop {
            let joined = tokio::select! {
                biased;
                joined = self.set.join_next_with_id() => joined,
                () = &mut overdue => {
                    let late = self.cut_off(grace).await;
                    return Err(first.unwrap_or(late));
                }
            };
            let Some(joined) = joined else { break };
            if let Some(error) = self.judge(joined) {
                tracing::error!(%error, "shutting down");
                self.shutdown.cancel();
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn judge(
        &mut self,
        joined: Result<(Id, Result<(), TaskFailure>), JoinError>,
    ) -> Option<TasksError> {
        match joined {
            Ok((id, Ok(()))) => {
                let task = self.forget(id);
                (!self.shutdown.is_cancelled()).then_some(TasksError::Ended { task })
            }
            Ok((id, Err(source))) => Some(TasksError::Failed { task: self.forget(id), source }),
            Err(error) => {
                let task = self.forget(error.id());
                Some(TasksError::Panicked { task, message: panic_message(error) })
            }
        }
    }

    fn forget(&mut self, id: Id) -> &'static str {
        match self.names.iter().position(|(known, _)| *known == id) {
            Some(at) => self.names.swap_remove(at).1,
            None => "a task",
        }
    }

    async fn cut_off(&mut self, grace: Duration) -> TasksError {
        self.set.shutdown().await;
        let tasks = self.names.drain(..).map(|(_, name)| name).collect();
        let error = TasksError::Unfinished { tasks, grace_seconds: grace.as_secs() };
        tracing::error!(%error, "shutdown was not orderly");
        error
    }
}

fn panic_message(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("no message").to_owned(),
        },
        Err(_) => "it was cancelled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const GRACE: Duration = Duration::from_secs(5);

    fn until(token: &CancellationToken) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let token = token.clone();
        async move {
            token.cancelled().await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn all_end_well_after_shutdown() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        tasks.spawn("a", until(&token));
        tasks.spawn("b", until(&token));
        token.cancel();
        tasks.wait(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn one_error_stops_all_and_is_reported() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        tasks.spawn("good", until(&token));
        tasks.spawn("bad", async { Err(io::Error::other("no disk")) });
        let error = tasks.wait(GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "bad failed: no disk");
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_and_an_early_end_count_as_errors() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("bad", async { if true { panic!("oh") } else { io::Result::Ok(()) } });
        let error = tasks.wait(GRACE).await.unwrap_err();
        assert!(matches!(error, TasksError::Panicked { task: "bad", .. }), "{error}");
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("brief", async { io::Result::Ok(()) });
        let error = tasks.wait(GRACE).await.unwrap_err();
        assert!(matches!(error, TasksError::Ended { task: "brief" }), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_cut_off() {
        let token = CancellationToken::new();
        let mut tasks = Tasks::new(token.clone());
        tasks.spawn("stuck", std::future::pending::<io::Result<()>>());
        token.cancel();
        let error = tasks.wait(Duration::from_millis(5)).await.unwrap_err();
        assert!(matches!(error, TasksError::Unfinished { tasks, .. } if tasks == ["stuck"]));
    }
}
