//! HTTP: what wraps every router, and the loop that serves it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::body::read_body;
pub use crate::envelope::envelope;
pub use crate::limits::HttpLimits;

use crate::connection::serve_connection;
use crate::limits::seconds;

/// The wait after a failed accept: out of file descriptors, only time and closing ones help.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `router` until `shutdown`, then lets requests in flight finish for at most
/// `drain_seconds`. Wrap the router in [`envelope`] first.
///
/// # Errors
/// None while it runs: a failed accept is logged and tried again. The `Result` is for callers
/// that supervise it beside tasks that can fail.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let limits = Arc::new(limits);
    let connections = TaskTracker::new();
    let aborted = CancellationToken::new();
    accept_until(&listener, &router, &limits, &connections, &shutdown, &aborted).await;
    // New connections must be refused, not wait in the backlog of a process that is leaving.
    drop(listener);
    connections.close();
    if tokio::time::timeout(seconds(limits.drain_seconds), connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            drain_seconds = limits.drain_seconds,
            "requests were still in flight at the end of the drain; they are cut off"
        );
        aborted.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn accept_until(
    listener: &TcpListener,
    router: &Router,
    limits: &Arc<HttpLimits>,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
    aborted: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = accept(listener, &slots) => accepted,
        };
        let Some((stream, permit)) = accepted else { return };
        let connection = serve_connection(stream, router.clone(), limits.clone(), shutdown.clone());
        let aborted = aborted.clone();
        connections.spawn(async move {
            let gauge = Open::new();
            tokio::select! {
                biased;
                () = connection => {}
                () = aborted.cancelled() => {}
            }
            drop((gauge, permit));
        });
    }
}

/// The next connection, once there is a slot for it. `None` never comes while slots exist.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = slots.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are written whole: waiting to fill a packet only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY could not be set");
                }
                return Some((stream, permit));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "accept failed; tried again shortly (raise the limit of open files if it says so)");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted: no reason to pause.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Counts an open connection for as long as it lives.
struct Open;

impl Open {
    fn new() -> Self {
        metrics::gauge!("http_connections").increment(1.0);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("http_connections").decrement(1.0);
    }
}
