//! Reads a repository's history by running git.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

use super::commit::Commit;

/// A commit is these fields, each ended by NUL, which none of them can contain: the last one's NUL
/// is `-z`'s.
const FIELDS: &str = "tformat:%H%x00%h%x00%aI%x00%aN%x00%aE%x00%B";
/// How much of what git complains about is kept.
const COMPLAINT_BYTES: u64 = 4096;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git is not installed; install it (Debian: apt install git)")]
    Missing,
    #[error("{} is no git repository: {complaint}", path.display())]
    NoRepository { path: PathBuf, complaint: String },
    #[error("the git repository {} has no commits yet", path.display())]
    NoCommits { path: PathBuf },
    #[error("git log of {} failed: {complaint}", path.display())]
    Failed { path: PathBuf, complaint: String },
    #[error("git cannot be run: {0}")]
    Io(io::Error),
}

impl From<io::Error> for GitError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            _ => Self::Io(error),
        }
    }
}

/// The commits reachable from HEAD, the oldest first, read as they are asked for.
pub struct History {
    /// How many will come.
    pub total: u64,
    /// How many there are.
    pub commits: u64,
    path: PathBuf,
    git: Child,
    output: BufReader<ChildStdout>,
    complaints: JoinHandle<String>,
}

impl History {
    /// Opens the repository that the path is in; `newest` leaves older commits out.
    pub async fn open(path: &Path, newest: Option<u64>) -> Result<Self, GitError> {
        let commits = count(path).await?;
        let mut command = git(path);
        command.args(["log", "--reverse", "-z", "--no-patch", "--no-show-signature"]);
        command.args(["--no-color", "--encoding=UTF-8", &format!("--format={FIELDS}")]);
        if let Some(newest) = newest {
            command.arg(format!("--max-count={newest}"));
        }
        command.arg("HEAD").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut git = command.spawn()?;
        let (Some(output), Some(errors)) = (git.stdout.take(), git.stderr.take()) else {
            return Err(GitError::Io(io::Error::other("it has no output")));
        };
        // Read beside the output: git must not wait for either.
        let complaints = tokio::spawn(async move {
            let mut text = Vec::new();
            let mut errors = errors.take(COMPLAINT_BYTES);
            let _ = errors.read_to_end(&mut text).await;
            let _ = tokio::io::copy(&mut errors.into_inner(), &mut tokio::io::sink()).await;
            first_line(&text)
        });
        let total = newest.map_or(commits, |newest| newest.min(commits));
        let output = BufReader::new(output);
        Ok(Self { total, commits, path: path.to_path_buf(), git, output, complaints })
    }

    /// The next commit; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Commit>, GitError> {
        let Some(hash) = self.field().await? else {
            return self.end().await.map(|()| None);
        };
        let mut fields: [String; 5] = Default::default();
        for field in &mut fields {
            match self.field().await? {
                Some(text) => *field = text,
                None => return Err(self.failed("it ended within a commit".to_owned())),
            }
        }
        let [short_hash, authored_at, author, email, text] = fields;
        Ok(Some(Commit { hash, short_hash, authored_at, author, email, text }))
    }

    /// What comes before the next NUL. Bytes that are no UTF-8 are replaced.
    async fn field(&mut self) -> Result<Option<String>, GitError> {
        let mut bytes = Vec::new();
        self.output.read_until(0, &mut bytes).await.map_err(GitError::Io)?;
        Ok((bytes.pop() == Some(0)).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn end(&mut self) -> Result<(), GitError> {
        let status = self.git.wait().await.map_err(GitError::Io)?;
        if status.success() {
            return Ok(());
        }
        let complaint = (&mut self.complaints).await.unwrap_or_default();
        Err(self.failed(format!("{complaint} ({status})")))
    }

    fn failed(&self, complaint: String) -> GitError {
        GitError::Failed { path: self.path.clone(), complaint }
    }
}

/// git at work in a directory, whatever repository the environment names.
fn git(path: &Path) -> Command {
    let mut command = Command::new("git");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"] {
        command.env_remove(variable);
    }
    command.env("LC_ALL", "C").args(["--no-pager", "--no-optional-locks", "-C"]).arg(path);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// How many commits are reachable from HEAD.
async fn count(path: &Path) -> Result<u64, GitError> {
    let asked = |arguments: &[&str]| git(path).args(arguments).output();
    let found = asked(&["rev-parse", "--git-dir"]).await?;
    if !found.status.success() {
        let complaint = complaint(&found);
        return Err(GitError::NoRepository { path: path.to_path_buf(), complaint });
    }
    let counted = asked(&["rev-list", "--count", "HEAD"]).await?;
    let count = String::from_utf8_lossy(&counted.stdout).trim().parse().unwrap_or(0);
    match count {
        0 => Err(GitError::NoCommits { path: path.to_path_buf() }),
        count => Ok(count),
    }
}

fn complaint(output: &Output) -> String {
    first_line(&output.stderr)
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().next().unwrap_or("it says nothing").trim_start_matches("fatal: ").to_owned()
}

#[cfg(test)]
mod tests;
