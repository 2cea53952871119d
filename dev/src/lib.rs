//! Starts the services without Docker: a private PostgreSQL, a private Apache Kafka, a stand-in for Google Cloud Storage.
//!
//! `context-sync dev` keeps its read model in [`postgres::Postgres`]. Tests take [`postgres::for_tests`],
//! [`kafka::for_tests`] and [`gcs::for_tests`]: servers shared by the tests of one process, or those that the
//! environment names. [`python::for_tests`] has what analysts read files with. The binary `dev` starts all for another
//! command (`dev run -- cargo test`).
//!
//! A server started here ends with the process that started it, even where that process is killed with SIGKILL (Linux;
//! elsewhere the next start on the same directory stops the orphaned PostgreSQL).

mod cache;
pub mod command;
pub mod gcs;
pub mod kafka;
mod lock;
pub mod ports;
pub mod postgres;
mod process;
pub mod progress;
pub mod python;
pub mod scratch;
mod sys;
mod user;

/// The address of the machine itself: no server started here listens on any other.
const LOOPBACK: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;

/// Runs `work`, which blocks, where it does not hold up the runtime.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<std::io::Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(E::from(std::io::Error::other(stopped))),
    }
}
