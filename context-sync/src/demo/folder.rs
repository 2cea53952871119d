//! Where the demonstration's instance keeps everything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dev::scratch::Scratch;

use crate::dev::data_dir::DataDir;

/// A temporary folder.
pub enum Folder {
    /// It stays.
    Kept(PathBuf),
    /// It goes: at the end or, where the process is killed, when the next demonstration begins.
    Scratch(Scratch),
}

impl Folder {
    /// Makes an empty one.
    pub fn new(keep: bool) -> io::Result<Self> {
        if keep {
            let folder = tempfile::Builder::new().prefix("context-sync-demo-").tempdir()?;
            return Ok(Self::Kept(folder.keep()));
        }
        Scratch::new().map(Self::Scratch)
    }

    /// The instance's data directory in it.
    pub fn data_dir(&self) -> PathBuf {
        match self {
            Self::Kept(path) => path.join("data"),
            Self::Scratch(scratch) => scratch.path().join("data"),
        }
    }

    /// Removes it, unless it is to be kept. The instance must have stopped.
    pub fn remove(self) {
        if let Self::Scratch(_) = &self {
            remove_linked(&DataDir::new(&self.data_dir()).postgres());
        }
    }
}

/// Started by root, Postgres keeps its data where its own user reaches it, behind a link. A later
/// start would remove what no link leads to; there may be none.
fn remove_linked(link: &Path) {
    if let Ok(target) = fs::read_link(link) {
        let _ = fs::remove_dir_all(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_but_what_is_kept() {
        let elsewhere = tempfile::tempdir().unwrap();
        let linked = elsewhere.path().join("postgres");
        for keep in [false, true] {
            fs::create_dir(&linked).unwrap();
            let folder = Folder::new(keep).unwrap();
            let data_dir = folder.data_dir();
            fs::create_dir(&data_dir).unwrap();
            std::os::unix::fs::symlink(&linked, data_dir.join("postgres")).unwrap();
            folder.remove();
            assert_eq!((data_dir.exists(), linked.exists()), (keep, keep));
            if keep {
                fs::remove_dir_all(data_dir.parent().unwrap()).unwrap();
            }
        }
    }
}
