//! What is kept on this machine's disk, and how much room is left.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// A folder of this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Disk {
    /// What is kept there.
    pub what: String,
    pub path: String,
    /// Of the files in it; `None` if it cannot be read.
    pub bytes: Option<u64>,
    /// Left for more, on its file system.
    pub free_bytes: Option<u64>,
}

/// Reads a folder. Blocks.
pub(crate) fn measure(what: &str, path: &Path) -> Disk {
    let free = rustix::fs::statvfs(path).ok().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    Disk {
        what: what.to_owned(),
        path: crate::serve::shown(path),
        bytes: bytes(path).ok(),
        free_bytes: free,
    }
}

fn bytes(path: &Path) -> std::io::Result<u64> {
    let meta = std::fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut sum = 0_u64;
    for entry in std::fs::read_dir(path)? {
        // What goes away meanwhile has no bytes.
        sum += entry.and_then(|entry| bytes(&entry.path())).unwrap_or(0);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_and_what_is_none_is_said_to_be_unknown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), [0; 70]).unwrap();
        std::fs::write(dir.path().join("c"), [0; 7]).unwrap();
        let disk = measure("log", dir.path());
        assert_eq!(disk.bytes, Some(77));
        assert!(disk.free_bytes.is_some_and(|free| free > 0));
        let none = measure("log", &dir.path().join("none"));
        assert_eq!((none.bytes, none.free_bytes), (None, None));
    }
}
