//! The threads that fold, pack and make tables: as many as there are cores.
//!
//! The runtime's own would be as many as there are uploads. An allocator keeps for each thread what that thread let go
//! of: with 30 threads that fold in turn, that was most of the archiver's memory.

use std::{io, num::NonZero, sync::LazyLock, thread};

use tokio::runtime::{Builder, Runtime};

use crate::error::ArchiverError;

static WORKERS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_current_thread().max_blocking_threads(threads).thread_name("archiver").build()
});

/// Runs what computes, or waits for the disk, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiverError> + Send + 'static,
) -> Result<T, ArchiverError> {
    let ended = |error: String| Err(ArchiverError::Task(error));
    match &*WORKERS {
        Ok(workers) => workers.spawn_blocking(work).await.unwrap_or_else(|e| ended(e.to_string())),
        Err(error) => ended(error.to_string()),
    }
}
