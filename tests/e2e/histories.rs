//! What teams say over weeks: real histories, and ones that are made up so that they are everywhere.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use context_sync::{
    demo::{history, people::Person},
    import::git::History,
};
use device::batches::Outgoing;
use serde_json::Value;

use crate::corpus::{self, Random};

/// Real histories that are told besides, as a search path of git repositories.
const MORE: &str = "CONTEXT_SYNC_TEST_HISTORIES";
/// What their teams' names begin with.
const NAMED: &str = "named-";
/// Messages of one history, at most.
const MESSAGES_MAX: usize = 1_500;

/// Who says what, in order.
pub(crate) type Line = (String, Value);

/// What a team says.
pub(crate) struct Told {
    pub(crate) team: String,
    pub(crate) lines: Vec<Line>,
}

/// Git histories that nobody wrote, in repositories that git makes from a seed. They are other teams' than the corpus,
/// and need no network: a name, commits, authors, and what they work on.
const MADE_UP: [(&str, usize, &[&str], [&str; 5]); 3] = [
    (
        "compiler",
        500,
        &["Ada L", "Zoë Ķ", "大きさ", "J. O'Neil"],
        ["parser", "borrow checker", "linker", "register allocator", "lexer"],
    ),
    (
        "shop",
        400,
        &["Ann", "Bob", "Cy", "Dan", "Eve", "Fay", "Gil"],
        ["basket", "checkout", "invoice", "stock", "discount"],
    ),
    ("weather", 300, &["Max", "Ida"], ["radar", "gauge", "forecast", "archive of storms", "map"]),
];

/// The corpus, this repository's own history (built-in messages where it is none), the made-up ones, and those that
/// the environment names.
pub(crate) async fn histories() -> Vec<Told> {
    let mut told = vec![Told { team: "corpus".to_owned(), lines: corpus::corpus().lines }];
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    told.push(Told { team: "own".to_owned(), lines: lines(&own).await });
    for (name, commits, authors, words) in MADE_UP {
        let folder = tempfile::tempdir().unwrap();
        make_up(folder.path(), commits, authors, words);
        told.push(Told { team: name.to_owned(), lines: lines(folder.path()).await });
    }
    let named = std::env::var_os(MORE).unwrap_or_default();
    for path in std::env::split_paths(&named).filter(|path| *path != PathBuf::new()) {
        if let Err(error) = History::open(&path, Some(1)).await {
            panic!("{MORE} names {}: {error}", path.display());
        }
        let team = format!("{NAMED}{}", told.len());
        told.push(Told { team, lines: lines(&path).await });
    }
    told.iter_mut().for_each(|told| told.lines.truncate(MESSAGES_MAX));
    told
}

/// The newest messages of a repository, author by author.
async fn lines(repository: &Path) -> Vec<Line> {
    let people = history::read(repository, MESSAGES_MAX as u64).await.unwrap().people;
    let said = |person: &Person| {
        let line = |message: &Outgoing| {
            (person.user.clone(), serde_json::from_str(message.json.get()).unwrap())
        };
        person.messages.iter().map(line).collect::<Vec<Line>>()
    };
    people.iter().flat_map(said).collect()
}

/// Makes a git repository in a folder: the same each time. Of forty commits one says nothing.
pub(crate) fn make_up(folder: &Path, commits: usize, authors: &[&str], words: [&str; 5]) {
    git(folder, &["init", "--quiet", "."], "");
    let mut random = Random(commits as u64);
    let mut stream = String::new();
    for number in 0..commits {
        let author = authors[random.below(authors.len())];
        let time = 1_760_000_000 + number * 3_600;
        let text = text(&mut random, number, words);
        let who = format!("{author} <{}@example.org>", author.len());
        let bytes = text.len();
        let commit = format!(
            "commit refs/heads/main\nauthor {who} {time} +0200\ncommitter {who} {time} +0000\n\
             data {bytes}\n{text}\n"
        );
        stream.push_str(&commit);
    }
    git(folder, &["fast-import", "--quiet"], &stream);
    git(folder, &["symbolic-ref", "HEAD", "refs/heads/main"], "");
}

/// Of a commit: mostly new, now and then what was said before, or nothing.
fn text(random: &mut Random, number: usize, words: [&str; 5]) -> String {
    let mut word = || words[random.below(words.len())];
    let (one, other) = (word(), word());
    match number % 40 {
        7 => String::new(),
        13 | 23 => format!("Fix a typo in the {one}"),
        _ => {
            let mut text = format!("Let the {one} know of the {other}, step {number}");
            for line in 0..random.below(6) {
                let detail = random.below(1_000_000);
                let _ = write!(text, "\n\nReason {line}: it took {detail} µs, “too long”.");
            }
            text
        }
    }
}

fn git(folder: &Path, arguments: &[&str], input: &str) {
    let mut git = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env_remove("GIT_DIR")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    git.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(git.wait().unwrap().success(), "git {arguments:?}");
}

/// At least four teams, none of which says much that another does.
pub(crate) fn check(told: &[Told]) {
    let size = |team: &str| told.iter().find(|told| told.team == team).unwrap().lines.len();
    // The generated stand-in of the corpus is longer than it.
    assert_eq!(size("corpus"), MESSAGES_MAX);
    for (name, commits, ..) in MADE_UP {
        let empty = (0..commits).filter(|number| number % 40 == 7).count();
        assert_eq!(size(name), commits - empty, "{name}");
    }
    let mut teams = std::collections::HashMap::new();
    let mut shared = 0;
    for Told { team, lines } in told {
        println!("{team}: {} messages", lines.len());
        if team.starts_with(NAMED) {
            continue; // whoever names them knows
        }
        for (_, message) in lines {
            let content = message["content"].as_str().unwrap();
            shared += usize::from(*teams.entry(content).or_insert(team) != team);
        }
    }
    assert!(
        shared * 100 < teams.len(),
        "{shared} of {} contents are of several teams",
        teams.len()
    );
}
