//! One Kafka for all tests of a process.

use tokio::sync::OnceCell;

use super::{Kafka, KafkaConfig, KafkaError};
use crate::progress::Quiet;
use crate::scratch::Scratch;

/// Names a broker (`host:port`) to use instead of a private one.
const VARIABLE: &str = "TEST_KAFKA";

/// The address of a broker for tests, `host:port`: the one that `TEST_KAFKA` names, else a private one that the first
/// test of this process starts. Each test makes its own topics. Nothing in it survives the process.
///
/// # Errors
/// Where Kafka does not start.
pub async fn for_tests() -> Result<String, KafkaError> {
    static SHARED: OnceCell<String> = OnceCell::const_new();
    if let Ok(bootstrap) = std::env::var(VARIABLE) {
        return Ok(bootstrap);
    }
    SHARED.get_or_try_init(start).await.cloned()
}

async fn start() -> Result<String, KafkaError> {
    let scratch = Scratch::new()?;
    let kafka = Kafka::start(KafkaConfig::new(scratch.path().join("kafka")), &Quiet).await?;
    let bootstrap = kafka.bootstrap().to_owned();
    crate::process::end_at_exit((kafka, scratch));
    Ok(bootstrap)
}
