//! Lag: how far the read model is behind the log's true end, asked of both, not of the projector.

use std::{sync::Arc, time::Duration};

use eventlog::EventLog;
use readmodel::{Pool, outcomes::positions};
use tokio_util::sync::CancellationToken;

const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Measures until shutdown. What cannot be asked is not reported: the gauge keeps its last value, and
/// readiness says what is wrong.
pub(crate) async fn measure(log: Arc<dyn EventLog>, pool: Pool, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Ok(positions) = positions(&pool).await {
            for (partition, next) in positions {
                let Ok(bounds) = log.bounds(partition).await else { continue };
                let lag = bounds.end.get().saturating_sub(next.get());
                metrics::gauge!("context_sync_projector_lag_records", "partition" => partition.to_string())
                    .set(lag as f64);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(MEASURE_EVERY) => {}
        }
    }
    pool.close().await;
}
