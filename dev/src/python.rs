//! What analysts read files with: DuckDB and PyArrow, for tests that show that others can read what is written.

mod pip;
mod shared;

use std::path::{Path, PathBuf};

pub(crate) use pip::Pip;
pub use shared::for_tests;

use crate::cache::Cache;
use crate::progress::{Finish, Progress, Step};

/// The version of DuckDB that is fetched.
pub const DUCKDB: &str = "1.4.5";

/// The minor versions of Python 3 that both are published for.
const OLDEST: u32 = 9;
const NEWEST: u32 = 14;

/// Why there is no Python, or a package of it, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    #[error("Python 3 with pip is missing ({why}): install it (Debian: apt install python3-pip)")]
    Missing { why: String },
    #[error(
        "DuckDB and PyArrow need Python 3.{OLDEST} to 3.{NEWEST} and python3 is 3.{minor}: put one of these first in PATH"
    )]
    Version { minor: u32 },
    #[error("{what} could not be fetched by pip: {why}")]
    Fetch { what: String, why: String },
    #[error(
        "no directory to keep DuckDB and PyArrow in can be written: set XDG_CACHE_HOME to one that can"
    )]
    Cache,
    #[error("Python's packages: {0}")]
    Io(#[from] std::io::Error),
}

/// Fetches the readers into the cache where they are not there yet. Returns the directory to name in `PYTHONPATH`.
///
/// # Errors
/// Where Python or the packages cannot be had.
pub async fn fetch(
    cache_dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<PathBuf, PythonError> {
    let _finish = Finish(progress);
    let pip = Pip::find()?;
    let pyarrow = pyarrow(pip.minor())?;
    let name = format!("python-readers-3.{}-duckdb-{DUCKDB}-pyarrow-{pyarrow}", pip.minor());
    let cache = Cache::find(cache_dir).next().ok_or(PythonError::Cache)?;
    if let Some(directory) = cache.entry(&name) {
        return Ok(directory);
    }
    let what = format!("DuckDB {DUCKDB} and PyArrow {pyarrow}");
    progress.step(&Step::Fetching(&format!("{what} (65 MB)")));
    let temporary = cache.temporary()?;
    let made = temporary.path().join("packages");
    let wanted = [format!("duckdb=={DUCKDB}"), format!("pyarrow=={pyarrow}")];
    pip.install(&what, &made, &wanted).await?;
    Ok(cache.publish(&made, &name)?)
}

/// No version of PyArrow is published for all versions of Python.
fn pyarrow(minor: u32) -> Result<&'static str, PythonError> {
    match minor {
        OLDEST..NEWEST => Ok("21.0.0"),
        NEWEST => Ok("22.0.0"),
        minor => Err(PythonError::Version { minor }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_python_is_refused_in_one_line() {
        assert!((OLDEST..=NEWEST).all(|minor| pyarrow(minor).is_ok()));
        let error = pyarrow(8).unwrap_err().to_string();
        assert!(error.contains("3.9 to 3.14 and python3 is 3.8"), "{error}");
        assert!(pyarrow(15).is_err());
    }
}
