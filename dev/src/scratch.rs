//! Temporary directories that a later process removes where this one could not.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::TempDir;

use crate::lock::Lock;
use crate::sys;

const PREFIX: &str = "context-sync-scratch-";

/// A temporary directory, removed when dropped or, where its process was killed, when the next one is made.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    /// Held as long as the directory is in use; the kernel lets go of it when the process dies.
    _lock: Lock,
}

impl Scratch {
    /// Makes an empty directory that only its owner writes and that a server's own user can pass through.
    ///
    /// # Errors
    /// Where the directory for temporary files cannot be written.
    pub fn new() -> io::Result<Self> {
        sweep(&std::env::temp_dir());
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = Lock::take(directory.path())?.ok_or(io::ErrorKind::WouldBlock)?;
        // Last: a sweep leaves closed directories alone, so that one just made is not taken for an abandoned one.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        Ok(Self { directory, _lock: lock })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes what killed processes of this user left in `parent`.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(directory: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(directory) else { return false };
    let ours =
        found.is_dir() && found.uid() == sys::effective_uid() && found.mode() & 0o777 == 0o755;
    ours && !Lock::is_held(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_only_what_nobody_holds() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["held", "abandoned"] {
            let path = parent.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        let held = parent.path().join(format!("{PREFIX}held"));
        let _lock = Lock::take(&held).unwrap().unwrap();
        sweep(parent.path());
        assert!(held.exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
