//! Logging and metrics: set up once a process.

use std::io::{IsTerminal, stderr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The buckets of histograms that measure seconds: names ending in `_latency` or `_seconds`. Fine
/// around the alerts' thresholds (1 to 5 s), and up to a long poll's 60 s.
const SECONDS_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0,
    60.0,
];

/// How often measurements are folded into their histograms when nobody scrapes: without, memory
/// grows.
const UPKEEP: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// What is logged and how.
#[derive(Args, Clone, Debug)]
pub struct TelemetryConfig {
    /// How log lines look
    #[arg(long, env = "CONTEXT_SYNC_TELEMETRY_FORMAT", value_enum, default_value_t)]
    pub telemetry_format: LogFormat,

    /// What is logged: a level, or targets with levels (`info,service=debug`)
    #[arg(long, env = "CONTEXT_SYNC_TELEMETRY_FILTER", default_value = DEFAULT_FILTER)]
    pub telemetry_filter: String,
}

const DEFAULT_FILTER: &str = "info";

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { telemetry_format: LogFormat::default(), telemetry_filter: DEFAULT_FILTER.to_owned() }
    }
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(
        "--telemetry-filter {filter:?} is not valid ({source}); write for instance info,service=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Another logger is installed.
    #[error("logging is set up already ({0}); call init once")]
    Logging(#[from] TryInitError),
    /// Another recorder is installed, or the buckets are not valid.
    #[error("metrics cannot be set up ({0}); install no other recorder")]
    Metrics(#[from] BuildError),
    /// No thread could be started.
    #[error("the metrics thread cannot start ({0}); raise the limit of threads")]
    Thread(#[from] std::io::Error),
}

/// Sends log lines to stderr, panics among them, and installs the metrics recorder.
///
/// # Errors
/// If the filter is not valid, or if logging is set up already.
pub fn init(config: &TelemetryConfig) -> Result<Metrics, TelemetryError> {
    let filter = EnvFilter::from_str(&config.telemetry_filter).map_err(|source| {
        TelemetryError::Filter { filter: config.telemetry_filter.clone(), source }
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    match config.telemetry_format {
        LogFormat::Text => {
            let lines = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
            registry.with(lines).try_init()?;
        }
        LogFormat::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(stderr);
            registry.with(lines).try_init()?;
        }
    }
    log_panics();
    metrics()
}

/// A panic is a line like any other, so that collectors see it.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
}

/// The process's metrics: records go through the `metrics` macros, this renders them.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

/// Installs the recorder, or returns the one that is installed: there is one a process.
///
/// # Errors
/// If something else installed another recorder, or no thread can be started.
pub fn metrics() -> Result<Metrics, TelemetryError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(metrics) = &*installed {
        return Ok(metrics.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_latency".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .install_recorder()?;
    let upkeep = handle.clone();
    std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            upkeep.run_upkeep();
        }
    })?;
    describe();
    Ok(installed.insert(Metrics(handle)).clone())
}

fn describe() {
    use metrics::{describe_gauge, describe_histogram};
    describe_histogram!("http_request_seconds", "Time from a request's headers to its answer's");
    describe_gauge!("http_connections", "Open connections");
    describe_gauge!("component_ready", "1 if the component is ready");
    describe_gauge!("process_resident_memory_bytes", "Resident memory");
    describe_gauge!("process_open_fds", "Open file descriptors");
    describe_gauge!("process_threads", "Threads");
}

impl Metrics {
    /// Everything measured so far, in Prometheus's text format.
    pub fn render(&self) -> String {
        measure_process();
        self.0.render()
    }
}

/// Reads the process's own figures where the system has a `/proc`; elsewhere they are absent.
fn measure_process() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = field(&status, "VmRSS:") {
        metrics::gauge!("process_resident_memory_bytes").set(kib * 1024.0);
    }
    if let Some(threads) = field(&status, "Threads:") {
        metrics::gauge!("process_threads").set(threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(open.count() as f64);
    }
}

fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_histograms_with_buckets_and_the_recorder_is_installed_once() {
        let metrics = metrics().unwrap();
        metrics::histogram!("thing_latency").record(0.2);
        let text = super::metrics().unwrap().render();
        assert!(text.contains(r#"thing_latency_bucket{le="0.25"} 1"#), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        assert_eq!(metrics.render().matches("# TYPE thing_latency histogram").count(), 1);
    }

    #[test]
    fn a_bad_filter_is_named() {
        let config =
            TelemetryConfig { telemetry_filter: "x=y=z".to_owned(), ..TelemetryConfig::default() };
        let error = init(&config).unwrap_err().to_string();
        assert!(error.contains("x=y=z"), "{error}");
    }

    #[test]
    fn fields_of_proc_status() {
        let status = "Name:\tx\nVmRSS:\t  12 kB\nThreads:\t3\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "Threads:")), (Some(12.0), Some(3.0)));
        assert_eq!(field(status, "None:"), None);
    }
}
