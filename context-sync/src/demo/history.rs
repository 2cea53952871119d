//! What the demonstration's people say: a repository's history, or the built-in messages.

use std::path::Path;

use super::{
    people::{People, Person},
    sample,
};
use crate::{
    Failure,
    device::output,
    import::git::{GitError, History},
};

/// People, and what they are taken from.
pub struct Told {
    /// At least one, and none without messages.
    pub people: Vec<Person>,
    /// For people: `23 commits`.
    pub source: String,
}

/// Reads the newest commits of a repository; where there are none, takes the built-in messages.
pub async fn read(path: &Path, newest: u64) -> Result<Told, Failure> {
    let built_in = |why: &str| {
        output::note(format!("{why}; {} built-in messages instead", sample::MESSAGES.len()));
        sample::told()
    };
    let mut history = match History::open(path, Some(newest)).await {
        Ok(history) => history,
        Err(
            error
            @ (GitError::Missing | GitError::NoRepository { .. } | GitError::NoCommits { .. }),
        ) => return built_in(&error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let mut people = People::default();
    while let Some(commit) = history.next().await? {
        if let Some(message) = commit.message()? {
            people.add(&commit.author, &commit.email, message);
        }
    }
    if people.all.is_empty() {
        return built_in("no commit says anything");
    }
    let source = match history.total {
        total if total < history.commits => {
            format!("the newest {total} of {} commits", history.commits)
        }
        total => format!("{total} commits"),
    };
    Ok(Told { people: people.all, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_repository_there_is_something_to_tell() {
        let folder = tempfile::tempdir().unwrap();
        let told = read(folder.path(), 10).await.unwrap();
        assert_eq!(told.source, "12 messages");
        assert_eq!(told.people.iter().map(|person| person.messages.len()).sum::<usize>(), 12);
        assert_eq!(told.people.len(), 3);
    }
}
