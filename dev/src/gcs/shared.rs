//! One stand-in for Cloud Storage for all tests of a process.

use tokio::sync::OnceCell;

use super::{FakeGcs, GcsConfig, GcsError};
use crate::progress::Quiet;
use crate::scratch::Scratch;

/// Names one (`http://host:port`) to use instead of a private one.
const VARIABLE: &str = "TEST_GCS";

/// The address of a stand-in for tests, `http://host:port`: the one that `TEST_GCS` names, else a private one that the
/// first test of this process starts. Each test makes its own bucket. Nothing in it survives the process.
///
/// # Errors
/// Where it does not start.
pub async fn for_tests() -> Result<String, GcsError> {
    static SHARED: OnceCell<String> = OnceCell::const_new();
    if let Ok(url) = std::env::var(VARIABLE) {
        return Ok(url);
    }
    SHARED.get_or_try_init(start).await.cloned()
}

async fn start() -> Result<String, GcsError> {
    let scratch = Scratch::new()?;
    let gcs = FakeGcs::start(GcsConfig::new(scratch.path().join("gcs")), &Quiet).await?;
    let url = gcs.url().to_owned();
    crate::process::end_at_exit((gcs, scratch));
    Ok(url)
}
