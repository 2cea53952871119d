//! The threads that fold, pack and make tables: as many as there are cores.
//!
//! The runtime's own would be as many as there are uploads. An allocator keeps for each thread what that thread let go
//! of: with 30 threads that fold in turn, that was most of the archiver's memory.

use std::{io, num::NonZero, sync::LazyLock, thread};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinError,
};

use crate::error::ArchiverError;

/// How far they give way where cores are scarce (`nice`): a tenth of a core beside one that answers requests. Nobody
/// waits for the archive, and it makes up for it.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

static WORKERS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_current_thread()
        .max_blocking_threads(threads)
        .thread_name("archiver")
        .on_thread_start(give_way)
        .build()
});

/// Elsewhere than on Linux this would be the whole process.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the archiver's threads have the priority of all others");
    }
}

/// Runs what computes, or waits for the disk, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiverError> + Send + 'static,
) -> Result<T, ArchiverError> {
    match &*WORKERS {
        Ok(workers) => ended(workers.spawn_blocking(work).await),
        Err(error) => Err(ArchiverError::Task(error.to_string())),
    }
}

/// The same for what somebody waits for: it gives way to nothing.
pub(crate) async fn blocking_in_front<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiverError> + Send + 'static,
) -> Result<T, ArchiverError> {
    ended(tokio::task::spawn_blocking(work).await)
}

fn ended<T>(task: Result<Result<T, ArchiverError>, JoinError>) -> Result<T, ArchiverError> {
    task.unwrap_or_else(|error| Err(ArchiverError::Task(error.to_string())))
}
