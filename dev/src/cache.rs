//! The per-user cache of downloaded programs. An entry is made under a temporary name and renamed when it is whole, so
//! that a half-written one is never used and two processes may make the same one at once.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::sys;

/// Everybody may read: root's cache is read by the unprivileged user that runs PostgreSQL.
const READABLE: u32 = 0o755;

const WRITABLE_BY_OTHERS: u32 = 0o022;

const TEMPORARY: &str = ".tmp-";

/// A temporary directory this old belongs to no running process.
const ABANDONED: Duration = Duration::from_hours(24);

/// A directory of the cache.
#[derive(Clone, Debug)]
pub(crate) struct Cache(PathBuf);

impl Cache {
    /// The caches of this user that can be used, the best first, each opened when it is its turn; only `explicit` where
    /// it is given.
    pub(crate) fn find(explicit: Option<&Path>) -> impl Iterator<Item = Self> {
        let candidates = match explicit {
            Some(directory) => vec![directory.to_owned()],
            None => default_directories(),
        };
        candidates.into_iter().filter_map(|directory| Self::open(&directory).ok())
    }

    /// Refuses a directory that others could have put programs into.
    fn open(directory: &Path) -> io::Result<Self> {
        match directory.parent() {
            Some(parent) => fs::create_dir_all(parent)?,
            None => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
        match DirBuilder::new().mode(READABLE).create(directory) {
            // The umask may have taken rights away.
            Ok(()) => fs::set_permissions(directory, Permissions::from_mode(READABLE))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let found = fs::symlink_metadata(directory)?;
        let safe = found.is_dir()
            && found.uid() == sys::effective_uid()
            && found.mode() & WRITABLE_BY_OTHERS == 0;
        match safe {
            true => Ok(Self(directory.canonicalize()?)),
            false => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        }
    }

    /// The entry `name`, if it was ever made.
    pub(crate) fn entry(&self, name: &str) -> Option<PathBuf> {
        let path = self.0.join(name);
        path.is_dir().then_some(path)
    }

    /// Where to make an entry, removed again unless it is published.
    pub(crate) fn temporary(&self) -> io::Result<TempDir> {
        self.remove_abandoned();
        tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.0)
    }

    /// Makes `made`, a directory within a temporary one, the entry `name`. Where another process was first, its entry
    /// stays.
    pub(crate) fn publish(&self, made: &Path, name: &str) -> io::Result<PathBuf> {
        make_readable(made)?;
        let path = self.0.join(name);
        match fs::rename(made, &path) {
            Ok(()) => Ok(path),
            Err(_) if path.is_dir() => Ok(path),
            Err(error) => Err(error),
        }
    }

    /// A process killed while it filled a temporary directory left it behind.
    fn remove_abandoned(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
            let modified = entry.metadata().and_then(|found| found.modified());
            let age = modified.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            if temporary && age > ABANDONED {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Root's home is closed to the user that runs PostgreSQL, so root's cache lies elsewhere.
fn default_directories() -> Vec<PathBuf> {
    if sys::effective_uid() == 0 {
        return vec!["/var/cache/context-sync".into(), "/var/tmp/context-sync-cache".into()];
    }
    let named =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home =
        std::env::home_dir().filter(|path| path.is_absolute()).map(|home| home.join(".cache"));
    let fallback =
        std::env::temp_dir().join(format!("context-sync-cache-{}", sys::effective_uid()));
    named
        .or(home)
        .map(|directory| directory.join("context-sync"))
        .into_iter()
        .chain([fallback])
        .collect()
}

/// Opens the directories below `directory` to readers; the files keep the mode they were packed with.
fn make_readable(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(READABLE))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_readable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_publish_wins_and_both_succeed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        assert!(cache.entry("thing-1").is_none());
        let mut published = Vec::new();
        for content in ["first", "second"] {
            let temporary = cache.temporary().unwrap();
            let made = temporary.path().join("made");
            fs::create_dir(&made).unwrap();
            fs::write(made.join("file"), content).unwrap();
            published.push(cache.publish(&made, "thing-1").unwrap());
        }
        assert_eq!(published[0], published[1]);
        assert_eq!(fs::read_to_string(published[0].join("file")).unwrap(), "first");
        assert_eq!(fs::read_dir(&cache.0).unwrap().count(), 1);
    }

    #[test]
    fn a_cache_that_others_may_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("cache");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(&open).is_err());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(Cache::open(&link).is_err());
    }
}
