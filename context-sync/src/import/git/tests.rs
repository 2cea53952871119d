//! Histories of small repositories that the tests make.

use std::process::Command;

use super::*;

struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        repository.git(&["init", "--quiet", "."], "");
        repository
    }

    fn git(&self, arguments: &[&str], author: &str) {
        let (name, email) = author.split_once(' ').unwrap_or(("Nobody", "nobody@example.org"));
        let status = Command::new("git")
            .arg("-C")
            .arg(self.0.path())
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env_remove("GIT_DIR")
            .envs([("GIT_AUTHOR_NAME", name), ("GIT_AUTHOR_EMAIL", email)])
            .envs([("GIT_COMMITTER_NAME", "C"), ("GIT_COMMITTER_EMAIL", "c@example.org")])
            .env("GIT_AUTHOR_DATE", "2025-12-30T10:00:00+01:00")
            .env("GIT_COMMITTER_DATE", "2025-12-30T11:00:00+01:00")
            .status();
        assert!(status.unwrap().success(), "git {arguments:?}");
    }

    fn commit(&self, text: &str, author: &str) {
        let arguments =
            ["commit", "--quiet", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim"];
        self.git(&[&arguments[..], &["-m", text]].concat(), author);
    }

    async fn read(&self, newest: Option<u64>) -> Vec<Commit> {
        let mut history = History::open(self.0.path(), newest).await.unwrap();
        let mut commits = Vec::new();
        while let Some(commit) = history.next().await.unwrap() {
            commits.push(commit);
        }
        assert_eq!(commits.len() as u64, history.total);
        commits
    }
}

#[tokio::test]
async fn commits_come_in_order_with_all_their_lines() {
    let repository = Repository::new();
    repository.commit("First\n\nWith a body.\n\nAnd more.", "Ann ann@example.org");
    repository.commit("", "Bob bob@example.org");
    repository.commit("Größe: 大きさ", "Zoë zoe@example.org");
    let commits = repository.read(None).await;
    let texts: Vec<_> = commits.iter().map(|c| (c.author.as_str(), c.text.trim_end())).collect();
    assert_eq!(
        texts,
        [("Ann", "First\n\nWith a body.\n\nAnd more."), ("Bob", ""), ("Zoë", "Größe: 大きさ")]
    );
    let first = &commits[0];
    assert_eq!(first.authored_at, "2025-12-30T10:00:00+01:00");
    assert_eq!((first.email.as_str(), first.hash.len()), ("ann@example.org", 40));
    assert!(first.hash.starts_with(&first.short_hash));
}

#[tokio::test]
async fn the_newest_alone() {
    let repository = Repository::new();
    for text in ["one", "two", "three"] {
        repository.commit(text, "Ann ann@example.org");
    }
    let commits = repository.read(Some(2)).await;
    assert_eq!(commits.iter().map(|c| c.text.trim_end()).collect::<Vec<_>>(), ["two", "three"]);
}

#[tokio::test]
async fn what_is_no_history_is_said_in_a_line() {
    let opened = |path: &Path| {
        let path = path.to_path_buf();
        async move { History::open(&path, None).await.err().unwrap().to_string() }
    };
    let empty = Repository::new();
    assert!(opened(empty.0.path()).await.ends_with("has no commits yet"));
    let folder = tempfile::tempdir().unwrap();
    let error = opened(folder.path()).await;
    assert!(error.contains("is no git repository: not a git repository"), "{error}");
    let error = opened(&folder.path().join("missing")).await;
    assert!(error.contains("No such file or directory") && error.lines().count() == 1, "{error}");
}
