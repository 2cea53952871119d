//! Closed-loop load: so many workers, each with one operation under way, for so long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::Failure;

/// What a run measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Operations a second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Something that is done again and again.
pub(crate) trait Work: Send + 'static {
    /// Once. An error ends the run: a benchmark of failures measures nothing.
    fn once(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Runs the workers; the first part of the time warms up and does not count. `pace` is the time that
/// each worker leaves between two beginnings; zero is as fast as it goes.
pub(crate) async fn run<W: Work>(
    workers: Vec<W>,
    time: Duration,
    pace: Duration,
) -> Result<Measured, Failure> {
    let warm_up = time / 5;
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for mut worker in workers {
        let stop = stop.clone();
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 12);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                worker.once().await?;
                let took = start.elapsed();
                if start.duration_since(began) >= warm_up {
                    latencies.push(took);
                }
                if took < pace {
                    tokio::time::sleep(pace - took).await;
                }
            }
            Ok::<_, Failure>(latencies)
        }));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let counted = began.elapsed() - warm_up;
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort_unstable();
    let at = |part: f64| {
        let place =
            ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(place).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    };
    Ok(Measured {
        rate: latencies.len() as f64 / counted.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    })
}
