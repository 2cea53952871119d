//! The readers for the tests of a process.

use std::path::PathBuf;

use tokio::sync::OnceCell;

use super::PythonError;
use crate::progress::Quiet;

/// Names a directory of packages to use instead of the one in the cache.
const VARIABLE: &str = "TEST_PYTHONPATH";

/// The directory to name in `PYTHONPATH` for a test that runs `python3`: the one that `TEST_PYTHONPATH` names, else the
/// one in the user's cache, which the first test fills.
///
/// # Errors
/// Where Python or the packages cannot be had.
pub async fn for_tests() -> Result<PathBuf, PythonError> {
    static SHARED: OnceCell<PathBuf> = OnceCell::const_new();
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return Ok(directory.into());
    }
    SHARED.get_or_try_init(|| super::fetch(None, &Quiet)).await.cloned()
}
