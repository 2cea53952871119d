//! The user a server runs as where this process is root, and what that user can reach.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Users to take, in this order. Every Unix has the last one.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The number of the user `nobody` where the list of users cannot be read.
const NOBODY: u32 = 65534;

const SEARCH: u32 = 0o1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user to run as instead of root.
    pub(crate) fn unprivileged() -> Self {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = UNPRIVILEGED.iter().find_map(|name| Self::named(&users, name));
        found.unwrap_or(Self { uid: NOBODY, gid: NOBODY })
    }

    fn named(users: &str, name: &str) -> Option<Self> {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (uid != 0).then_some(Self { uid, gid })
        })
    }

    /// Whether this user may pass through `directory` and everything above it. `directory` has no symbolic links.
    pub(crate) fn reaches(&self, directory: &Path) -> io::Result<bool> {
        for ancestor in directory.ancestors() {
            if !self.may(SEARCH, &ancestor.metadata()?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Judges by the mode bits of the class this user falls in; supplementary groups are dropped when it runs.
    fn may(&self, right: u32, of: &Metadata) -> bool {
        let class = match () {
            () if of.uid() == self.uid => 6,
            () if of.gid() == self.gid => 3,
            () => 0,
        };
        of.mode() & (right << class) != 0
    }

    pub(crate) fn owns(&self, file: &Metadata) -> bool {
        file.uid() == self.uid
    }

    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    pub(crate) fn run(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_user_and_never_root() {
        let users = "root:x:0:0::/:/bin/sh\nbad\npostgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(User::named(users, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(User::named(users, "root"), None);
        assert_eq!(User::named(users, "nobody"), None);
    }

    #[test]
    fn a_closed_directory_is_out_of_reach() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().canonicalize().unwrap().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let stranger = User { uid: 54321, gid: 54321 };
        for (mode, reached) in [(0o700, false), (0o710, false), (0o711, true), (0o755, true)] {
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode))
                .unwrap();
            std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o711)).unwrap();
            assert_eq!(stranger.reaches(&inner).unwrap(), reached, "{mode:o}");
        }
    }
}
