//! Measures a log: appends at several numbers in flight, then a read of everything.
//!
//! `cargo run --release -p eventlog --example measure -- --log embedded --dir DIR`, or with
//! `--log kafka://host:port --kafka-property linger.ms=5`

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use eventlog::{EventLog, LogConfig, ReadLimit};

/// The size of a record's value, in bytes: a push of one short message.
const VALUE_BYTES: usize = 700;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    log: LogConfig,
    /// The embedded log's directory.
    #[arg(long, default_value = "measured-log")]
    dir: PathBuf,
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let log = eventlog::open(&arguments.log, &arguments.dir).await?;
    let mut from = Vec::new();
    for number in 0..log.partitions() {
        let partition = model::Partition::new(number);
        from.push((partition, log.bounds(partition).await?.end));
    }
    let mut appended = 0;
    for in_flight in [1, 32, 256] {
        let duration = Duration::from_secs(arguments.seconds);
        appended += measure_appends(&log, in_flight, duration).await?;
    }
    measure_read(&*log, &from, appended).await?;
    measure_wake(&log).await?;
    log.close().await?;
    Ok(())
}

async fn measure_appends(
    log: &Arc<dyn EventLog>,
    in_flight: u64,
    duration: Duration,
) -> Result<u64, Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (log, next) = (Arc::clone(log), Arc::clone(&next));
        tasks.spawn(async move {
            let mut micros = Vec::new();
            while begun.elapsed() < duration {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let key = Bytes::from(format!("scope-{}", number % 1000));
                let called = Instant::now();
                log.append(key, Bytes::from(vec![b'x'; VALUE_BYTES])).await?;
                micros.push(called.elapsed().as_micros());
            }
            Ok::<_, eventlog::AppendError>(micros)
        });
    }
    let mut micros = Vec::new();
    while let Some(task) = tasks.join_next().await {
        micros.extend(task??);
    }
    micros.sort_unstable();
    let at = |share: usize| micros.get(micros.len() * share / 100).copied().unwrap_or_default();
    let rate = micros.len() as f64 / begun.elapsed().as_secs_f64();
    println!("append, {in_flight} in flight: {rate:.0}/s, p50 {} us, p99 {} us", at(50), at(99));
    Ok(micros.len() as u64)
}

async fn measure_read(
    log: &dyn EventLog,
    from: &[(model::Partition, model::Offset)],
    count: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut reader = log.reader(from)?;
    let limit = ReadLimit { records_max: 5000, bytes_max: 4 * 1024 * 1024 };
    let (mut records, mut bytes) = (0, 0);
    while records < count {
        let batch = reader.next(limit, Duration::from_secs(10)).await?;
        records += batch.len() as u64;
        bytes += batch.iter().map(|r| r.key.len() + r.value.len()).sum::<usize>();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "read: {:.0}/s, {:.0} MB/s ({records} records); memory at most {}",
        records as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        memory_max()
    );
    Ok(())
}

/// From the call of an append to its record in a waiting reader's hands.
async fn measure_wake(log: &Arc<dyn EventLog>) -> Result<(), Box<dyn std::error::Error>> {
    let partition = model::Partition::new(0);
    let mut reader = log.reader(&[(partition, log.bounds(partition).await?.end)])?;
    let limit = ReadLimit { records_max: 100, bytes_max: 1024 * 1024 };
    let (mut acknowledged, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let called = Instant::now();
        let appended = log.append_to(partition, Bytes::new(), Bytes::from_static(b"wake"));
        let read = async {
            let records = reader.next(limit, Duration::from_secs(10)).await;
            (records, called.elapsed().as_micros())
        };
        let append = async { (appended.await, called.elapsed().as_micros()) };
        let ((appended, acknowledged_at), (records, woken_at)) = tokio::join!(append, read);
        appended?;
        assert_eq!(records?.len(), 1);
        acknowledged.push(acknowledged_at);
        woken.push(woken_at);
    }
    acknowledged.sort_unstable();
    woken.sort_unstable();
    println!("one append: acknowledged p50 {} us, read p50 {} us", acknowledged[150], woken[150]);
    Ok(())
}

fn memory_max() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap_or("unknown").trim().to_owned()
}
