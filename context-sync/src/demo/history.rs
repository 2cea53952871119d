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
    /// How many of them say nothing, and are left out.
    pub empty: u64,
    /// They are of one author, and dealt out.
    pub dealt: bool,
}

impl Told {
    /// What is told, in few words.
    pub fn describe(&self) -> String {
        let people = match self.people.len() {
            1 => "1 author".to_owned(),
            people if self.dealt => format!("1 author, dealt out to {people} people"),
            people => format!("{people} people"),
        };
        match self.empty {
            0 => format!("{} by {people}", self.source),
            empty => format!("{} ({empty} empty) by {people}", self.source),
        }
    }
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
    let (mut people, mut empty) = (People::default(), 0);
    while let Some(commit) = history.next().await? {
        match commit.message()? {
            Some(message) => people.add(&commit.author, &commit.email, message),
            None => empty += 1,
        }
    }
    if people.all.is_empty() {
        return built_in("no commit says anything");
    }
    let source = match history.total {
        total if total < history.commits => format!("{total} of {} commits", history.commits),
        1 => "1 commit".to_owned(),
        total => format!("{total} commits"),
    };
    let dealt = people.all.len() == 1;
    Ok(Told { people: several(people.all), source, empty, dealt })
}

/// A team of one shows little: one author's messages are dealt out to them and two colleagues.
fn several(mut people: Vec<Person>) -> Vec<Person> {
    const COLLEAGUES: [&str; 2] = ["bob", "eve"];
    let [author] = people.as_mut_slice() else { return people };
    let mut dealt: Vec<Person> = std::iter::once(author.user.as_str())
        .chain(COLLEAGUES)
        .map(|user| Person { user: user.to_owned(), messages: Vec::new() })
        .collect();
    let count = dealt.len();
    for (place, message) in std::mem::take(&mut author.messages).into_iter().enumerate() {
        if let Some(person) = dealt.get_mut(place % count) {
            person.messages.push(message);
        }
    }
    dealt.retain(|person| !person.messages.is_empty());
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_repository_there_is_something_to_tell() {
        let folder = tempfile::tempdir().unwrap();
        let told = read(folder.path(), 10).await.unwrap();
        assert_eq!(told.describe(), "12 messages by 3 people");
        assert_eq!(told.people.iter().map(|person| person.messages.len()).sum::<usize>(), 12);
    }

    #[test]
    fn what_one_author_said_is_said_to_be_dealt_out() {
        let mut people = sample::told().unwrap().people;
        people.truncate(1);
        let source = "5 commits".to_owned();
        let told = Told { people: several(people), source, empty: 1, dealt: true };
        assert_eq!(told.describe(), "5 commits (1 empty) by 1 author, dealt out to 3 people");
    }
}
