//! A directory held by one process at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::POLL;

/// How long a holder may still be about to let go: a sweep that just looks, or a child process between fork and exec.
const PATIENCE: Duration = Duration::from_secs(1);

/// The kernel lets go of it when this process dies.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes hold of `directory`; none where another holds it and keeps it.
    pub(crate) fn take(directory: &Path) -> io::Result<Option<Self>> {
        let file = File::open(directory)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Whether somebody holds `directory` now. False where it cannot be opened.
    pub(crate) fn is_held(directory: &Path) -> bool {
        let Ok(file) = File::open(directory) else { return false };
        match file.try_lock() {
            Ok(()) => {
                drop(Self(file));
                false
            }
            Err(_) => true,
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is not yet another program has it open too.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn let_go_it_is_free_although_another_has_the_file_open() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap().unwrap();
        assert!(Lock::is_held(directory.path()));
        let inherited = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(!Lock::is_held(directory.path()));
        drop(inherited);
    }

    #[test]
    fn one_that_is_let_go_in_a_moment_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path()).unwrap().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(directory.path()).unwrap());
            std::thread::sleep(POLL * 3);
            drop(first);
            assert!(second.join().unwrap().is_some());
        });
    }
}
