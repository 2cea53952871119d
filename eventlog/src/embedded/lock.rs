//! One process at a time: a locked file that says who holds it.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use model::Timestamp;

use crate::OpenError;

/// The name of the lock file in the log's directory.
const LOCK_FILE: &str = "lock";

/// The lock, held until it is dropped. The system drops it with the process, however that ends.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is not yet another program has it open too.
        let _ = self.file.unlock();
    }
}

impl DirLock {
    pub(super) fn acquire(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_FILE);
        let storage =
            |error: io::Error| OpenError::Storage { path: path.clone(), reason: error.to_string() };
        // Not truncated here: it may be the holder's.
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(storage)?;
        match file.try_lock() {
            Ok(()) => {
                write_holder(&mut file).map_err(storage)?;
                Ok(Self { file })
            }
            Err(TryLockError::WouldBlock) => {
                let (pid, since) = read_holder(&mut file);
                Err(OpenError::Held { pid, since, path: dir.to_owned() })
            }
            Err(TryLockError::Error(error)) => Err(storage(error)),
        }
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{} {}", std::process::id(), now())?;
    file.sync_all()
}

/// The holder may be just about to write itself down.
fn read_holder(file: &mut File) -> (Option<u32>, String) {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(100).read_to_string(&mut text));
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|pid| pid.parse().ok());
    match (read, words.next()) {
        (Ok(_), Some(since)) => (pid, since.to_owned()),
        _ => (pid, "unknown".to_owned()),
    }
}

/// The wall clock.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
