//! The data directory of a development instance.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use archive::ArchiveAddress;
use serde::{Deserialize, Serialize};
use service::Secret;

use crate::serve::Settings;

/// What the key is made of: two random UUIDs, 244 random bits.
const KEY_UUIDS: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{} cannot be used: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is held by process {holder}, another `context-sync dev`: stop it, or choose another --data-dir",
        path.display()
    )]
    Held { path: PathBuf, holder: String },
    #[error("{} has no development key yet: start `context-sync dev` there first", path.display())]
    NoKey { path: PathBuf },
    #[error(
        "no instance was ever started on {}: start `context-sync dev` there, or name another --data-dir",
        path.display()
    )]
    NoInstance { path: PathBuf },
}

/// `log/`, `archive/`, `archiver/`, `postgres/`, the development key, and where the instance that runs on it listens.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// Where a running instance listens, for other commands to find it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Addresses {
    pub api: String,
    pub ops: String,
    /// Its private Postgres; `None` where it has another one.
    #[serde(default)]
    pub database: Option<String>,
}

/// Held as long as it lives: one instance a directory.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is not yet another program has it open too.
        let _ = self.0.unlock();
    }
}

impl DataDir {
    pub fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The archive lies in the directory, and the archiver's cache, unless the settings name other places.
    pub fn keep_archive_in(&self, settings: &mut Settings) {
        settings.archive.archive.get_or_insert_with(|| self.archive());
        settings.archiver.archive_cache.get_or_insert_with(|| self.0.join("archiver"));
    }

    /// Where backups are, unless the settings name another place.
    pub fn archive(&self) -> ArchiveAddress {
        let path = std::path::absolute(&self.0).unwrap_or_else(|_| self.0.clone());
        ArchiveAddress::File(path.join("archive"))
    }

    pub fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    fn failed(&self, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
        let path = path.to_path_buf();
        move |source| DataDirError::Io { path, source }
    }

    /// Makes the directory, for its owner alone, and takes its lock.
    pub fn lock(&self) -> Result<Lock, DataDirError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.0).map_err(self.failed(&self.0))?;
        let path = self.0.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(self.failed(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(self.failed(&path))?;
                let holder = holder.trim().to_owned();
                return Err(DataDirError::Held { path: self.0.clone(), holder });
            }
            Err(fs::TryLockError::Error(error)) => return Err(self.failed(&path)(error)),
        }
        file.set_len(0).map_err(self.failed(&path))?;
        writeln!(file, "{}", std::process::id()).map_err(self.failed(&path))?;
        Ok(Lock(file))
    }

    fn key_path(&self) -> PathBuf {
        self.0.join("jwt.key")
    }

    /// The development key; made, readable for its owner alone, if there is none.
    pub fn key(&self) -> Result<Secret, DataDirError> {
        match self.read_key() {
            Err(DataDirError::NoKey { .. }) => {}
            found => return found,
        }
        let path = self.key_path();
        let random: [String; KEY_UUIDS] =
            std::array::from_fn(|_| uuid::Uuid::new_v4().simple().to_string());
        let half_written = self.0.join("jwt.key.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&half_written)
            .map_err(self.failed(&half_written))?;
        file.write_all(random.concat().as_bytes()).map_err(self.failed(&half_written))?;
        file.sync_all().map_err(self.failed(&half_written))?;
        fs::rename(&half_written, &path).map_err(self.failed(&path))?;
        Ok(Secret::new(random.concat()))
    }

    pub fn read_key(&self) -> Result<Secret, DataDirError> {
        let path = self.key_path();
        match fs::read_to_string(&path) {
            Ok(key) => Ok(Secret::new(key.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DataDirError::NoKey { path: self.0.clone() })
            }
            Err(error) => Err(self.failed(&path)(error)),
        }
    }

    /// Where the instance that runs there listens, or the last one did.
    pub fn read_addresses(&self) -> Result<Addresses, DataDirError> {
        let path = self.0.join("addresses.json");
        match fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map_err(|error| self.failed(&path)(error.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DataDirError::NoInstance { path: self.0.clone() })
            }
            Err(error) => Err(self.failed(&path)(error)),
        }
    }

    pub fn write_addresses(&self, addresses: &Addresses) -> Result<(), DataDirError> {
        let path = self.0.join("addresses.json");
        let json = serde_json::to_vec(addresses).unwrap_or_default();
        // The database's has a password.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).map_err(self.failed(&path))?;
        file.write_all(&json).map_err(self.failed(&path))
    }
}
