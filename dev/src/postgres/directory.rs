//! Where the data of a private PostgreSQL lies, and as whom it runs.
//!
//! PostgreSQL refuses to run as root. Root therefore runs it as an unprivileged user, who cannot reach directories such
//! as root's home. For those the real directory lies in [`SHARED`] and the given path is a symbolic link to it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{PostgresError, orphan};
use crate::lock::Lock;
use crate::sys;
use crate::user::User;

/// Where every user can reach its own directory.
const SHARED: &str = "/var/tmp";
const SHARED_PREFIX: &str = "context-sync-postgres-";

/// Nobody else may read the data: PostgreSQL insists.
const PRIVATE: u32 = 0o700;

const STICKY: u32 = 0o1000;

/// In a directory in [`SHARED`]: the path that should be a link to it.
const ORIGIN: &str = "origin";

/// A directory without its origin is still being made, unless it is older than this.
const UNFINISHED: Duration = Duration::from_hours(1);

const CLUSTER: &str = "cluster";

/// All names this crate makes in a data directory.
const OWN_NAMES: [&str; 6] =
    [CLUSTER, ORIGIN, "password", "initialised", "postgres.log", "postgres.log.1"];

/// The data directory, held by this process alone.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    user: Option<User>,
    _lock: Lock,
}

impl Directory {
    /// Finds or makes the directory and takes hold of it.
    pub(super) fn open(data_dir: &Path) -> Result<Self, PostgresError> {
        let failed = |source| PostgresError::Directory { path: data_dir.to_owned(), source };
        let place = absolute(data_dir).map_err(failed)?;
        if sys::effective_uid() == 0 {
            return Self::open_as_root(&place);
        }
        let path = own_directory(&place).map_err(failed)?;
        let lock = lock(&path)?;
        Ok(Self { path, user: None, _lock: lock })
    }

    fn open_as_root(place: &Path) -> Result<Self, PostgresError> {
        let failed = |source| PostgresError::Directory { path: place.to_owned(), source };
        sweep(Path::new(SHARED));
        let user = owner_of_cluster(place).unwrap_or_else(User::unprivileged);
        let (path, lock) = match reachable_directory(place, user).map_err(failed)? {
            Some(path) => {
                let lock = lock(&path)?;
                (path, lock)
            }
            None => elsewhere(place, user).map_err(failed)?,
        };
        Ok(Self { path, user: Some(user), _lock: lock })
    }

    /// The user to run as, where that is not the user of this process.
    pub(super) fn user(&self) -> Option<User> {
        self.user
    }

    /// PostgreSQL's own data directory.
    pub(super) fn cluster(&self) -> PathBuf {
        self.path.join(CLUSTER)
    }

    /// The file that holds the password.
    pub(super) fn password(&self) -> PathBuf {
        self.path.join("password")
    }

    /// The file that says the cluster is whole.
    pub(super) fn mark(&self) -> PathBuf {
        self.path.join("initialised")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    pub(super) fn previous_log(&self) -> PathBuf {
        self.path.join("postgres.log.1")
    }

    /// Gives `path` to the user that PostgreSQL runs as.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        self.user.map_or(Ok(()), |user| user.take(path))
    }
}

/// Resolves everything but the last name, which may be a link. Makes what is missing above it.
fn absolute(data_dir: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(data_dir)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            fs::create_dir_all(parent)?;
            Ok(parent.canonicalize()?.join(name))
        }
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

/// One process at a time: what runs in a directory that this process holds is an orphan.
fn lock(path: &Path) -> Result<Lock, PostgresError> {
    Lock::take(path)
        .map_err(|source| PostgresError::Directory { path: path.to_owned(), source })?
        .ok_or_else(|| PostgresError::InUse { path: path.to_owned() })
}

/// The directory of an ordinary user.
fn own_directory(place: &Path) -> io::Result<PathBuf> {
    let uid = sys::effective_uid();
    let owned = fs::metadata(place).is_ok_and(|found| found.uid() == uid);
    // A link to nowhere, or to the directory of a user that root ran PostgreSQL as: the data is rebuilt.
    if place.is_symlink() && !owned {
        fs::remove_file(place)?;
    }
    create_private(place)?;
    if fs::metadata(place)?.uid() != uid {
        return Err(not_ours("it belongs to another user: remove it or name another directory"));
    }
    check_content(place)?;
    fs::set_permissions(place, Permissions::from_mode(PRIVATE))?;
    place.canonicalize()
}

fn create_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Keeps this crate from taking over, and later removing, what is not its own.
fn check_content(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !OWN_NAMES.iter().any(|own| OsStr::new(own) == name) {
            return Err(not_ours("it holds other files: name an empty directory"));
        }
    }
    Ok(())
}

fn not_ours(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// Data that a user made stays that user's when root starts PostgreSQL on it.
fn owner_of_cluster(place: &Path) -> Option<User> {
    let real = place.canonicalize().ok()?;
    let owner = fs::symlink_metadata(real.join(CLUSTER)).ok()?;
    // In the shared directory only the user chosen here is trusted.
    let trusted = owner.uid() != 0 && !is_shared(&real);
    trusted.then_some(User { uid: owner.uid(), gid: owner.gid() })
}

fn is_shared(real: &Path) -> bool {
    real.parent() == Some(Path::new(SHARED))
}

/// The directory itself where `user` can reach it, or the one it links to; none where it has to lie elsewhere.
fn reachable_directory(place: &Path, user: User) -> io::Result<Option<PathBuf>> {
    let Ok(real) = place.canonicalize() else { return new_directory(place, user) };
    if is_shared(&real) && place.is_symlink() {
        let found = fs::symlink_metadata(&real)?;
        let kept = user.owns(&found) && found.is_dir() && origin(&real).as_deref() == Some(place);
        return Ok(kept.then_some(real));
    }
    if reaches_parent(&real, user)? {
        return claim(&real, user).map(|()| Some(real));
    }
    // The user cannot reach it. An empty one gives way to a link.
    match place.is_symlink() || fs::remove_dir(place).is_ok() {
        true => Ok(None),
        false => {
            Err(not_ours("the unprivileged user that runs PostgreSQL cannot reach it: remove it"))
        }
    }
}

fn new_directory(place: &Path, user: User) -> io::Result<Option<PathBuf>> {
    if place.is_symlink() {
        fs::remove_file(place)?;
    }
    if !reaches_parent(place, user)? {
        return Ok(None);
    }
    create_private(place)?;
    claim(place, user)?;
    Ok(Some(place.to_owned()))
}

fn reaches_parent(path: &Path, user: User) -> io::Result<bool> {
    path.parent().map_or(Ok(false), |parent| user.reaches(parent))
}

/// Hands a directory of root to `user`.
fn claim(path: &Path, user: User) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !user.owns(&found) && found.uid() != 0 {
        return Err(not_ours("it belongs to another user: remove it or name another directory"));
    }
    check_content(path)?;
    user.take(path)?;
    fs::set_permissions(path, Permissions::from_mode(PRIVATE))
}

/// Makes a directory in [`SHARED`] and `place` a link to it. Its random name is never found again once the link is
/// gone, so that removing the link removes the data.
fn elsewhere(place: &Path, user: User) -> io::Result<(PathBuf, Lock)> {
    let shared = fs::symlink_metadata(SHARED)?;
    if shared.uid() != 0 || !shared.is_dir() || shared.mode() & STICKY == 0 {
        return Err(not_ours(
            "the directory for temporary files is not safe: it should be root's, and sticky",
        ));
    }
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    let prefix = format!("{SHARED_PREFIX}{:016x}-", hasher.finish());
    // Fails where the name exists already, be it another user's trap.
    let path = tempfile::Builder::new().prefix(&prefix).rand_bytes(16).tempdir_in(SHARED)?.keep();
    let lock = Lock::take(&path)?.ok_or(io::ErrorKind::WouldBlock)?;
    fs::write(path.join(ORIGIN), place.as_os_str().as_bytes())?;
    user.take(&path)?;
    if place.is_symlink() {
        fs::remove_file(place)?;
    }
    symlink(&path, place)?;
    Ok((path, lock))
}

fn origin(directory: &Path) -> Option<PathBuf> {
    let bytes = fs::read(directory.join(ORIGIN)).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
}

/// Removes directories in `shared` that no link leads to and no process uses.
fn sweep(shared: &Path) {
    for entry in fs::read_dir(shared).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(SHARED_PREFIX) && is_abandoned(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_abandoned(directory: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(directory) else { return false };
    let ours = found.is_dir() && (found.uid() == 0 || User::unprivileged().owns(&found));
    let linked = match origin(directory) {
        Some(place) => fs::read_link(place).is_ok_and(|target| target == directory),
        None => found
            .modified()
            .ok()
            .and_then(|time| time.elapsed().ok())
            .is_none_or(|age| age < UNFINISHED),
    };
    ours && !linked && is_unused(directory)
}

fn is_unused(directory: &Path) -> bool {
    !Lock::is_held(directory) && orphan::running(&directory.join(CLUSTER)).is_none()
}
