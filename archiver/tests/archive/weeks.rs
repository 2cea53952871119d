//! Weeks of log: a team at work, a real history where it is there, whatever else happens, a restore and an erasure.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use model::{
    Action, BackupId, BackupType, Command, Event, RestoreId, RestoreMode, Role, ScopeKey, Timestamp,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    archiving::{at, tick},
    bench::Bench,
    commands::{command, create, push, say, scope, set_member},
    random,
};

pub(crate) const TEAM: &str = "acme/team/web";
const HISTORY: &str = "oss/team/axum";
const EVE: &str = "acme/user/eve";
/// Its names have what is escaped in paths.
const ODD: &str = "a:b/user/ann@x|y+z";
/// When something happens: hours of three weeks.
const DAYS: [&str; 9] = [
    "2025-12-30",
    "2026-01-01",
    "2026-01-02",
    "2026-01-05",
    "2026-01-08",
    "2026-01-09",
    "2026-01-12",
    "2026-01-15",
    "2026-01-19",
];
const HOURS: [&str; 2] = ["10", "15"];
const DEADLINE: Duration = Duration::from_secs(120);

/// An archive of three weeks, from Tuesday, 2025-12-30, to Monday, 2026-01-19; on 2026-01-12 a team is restored as it
/// was on 2026-01-06, on 2026-01-15 a user has all erased.
pub(crate) async fn three_weeks() -> Bench {
    let bench = Bench::new(2);
    let streams = [a_team_at_work(), a_history(), whatever(), odd_names(), a_user_who_leaves()];
    let mut log: Vec<(Timestamp, Command)> = streams.into_iter().flat_map(spread).collect();
    log.sort_by_key(|(time, _)| *time);
    let restore = at("2026-01-12T15:30:00Z");
    let (before, after): (Vec<_>, Vec<_>) = log.into_iter().partition(|(time, _)| *time < restore);
    put(&bench, &before);
    bench.log.at(restore, &request());
    let mut running = bench.start();
    running.during(restored(&bench)).await;
    put(&bench, &after);
    tick(&bench, at("2026-01-20T00:00:00Z"));
    tick(&bench, at("2026-01-20T01:00:00Z"));
    running.during(bench.sealed()).await;
    running.during(erased(&bench)).await;
    running.stop().await;
    bench
}

fn put(bench: &Bench, log: &[(Timestamp, Command)]) {
    for (time, command) in log {
        bench.log.at(*time, command);
    }
}

/// Over all hours, evenly.
fn spread(commands: Vec<Command>) -> Vec<(Timestamp, Command)> {
    let hours = DAYS.len() * HOURS.len();
    let count = commands.len();
    let place = |(n, command): (usize, Command)| {
        let hour = n * hours / count;
        let (day, hour_of_day) = (DAYS[hour / HOURS.len()], HOURS[hour % HOURS.len()]);
        let begin = at(&format!("{day}T{hour_of_day}:00:00Z"));
        (begin.plus_micros(n as i64 * 1_000_000), command)
    };
    commands.into_iter().enumerate().map(place).collect()
}

fn request() -> Command {
    let team: ScopeKey = scope(TEAM);
    let request = Action::RestoreRequested {
        restore: RestoreId(Uuid::from_u128(5)),
        mode: RestoreMode::Replace,
        backup: BackupId::scheduled(&team, BackupType::Full, "2026-01-06"),
        source: Box::new(team),
    };
    command(TEAM, "ann", request)
}

/// Waits until the restore has come to its end.
async fn restored(bench: &Bench) {
    let deadline = Instant::now() + DEADLINE;
    while !bench.log.all().iter().any(|record| is_restored(&record.value)) {
        assert!(Instant::now() < deadline, "the restore has not come to its end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until no table has what was erased.
async fn erased(bench: &Bench) {
    let is_done = |path: &String| path.contains("/erasures/") && path.ends_with("/tables");
    bench.eventually("the erasure", async || bench.paths("manifests").iter().any(is_done)).await;
}

fn is_restored(value: &[u8]) -> bool {
    let Ok(Event::Command(command)) = schemas::decode(value) else { return false };
    assert!(!matches!(command.action, Action::RestoreFailed { .. }), "{command:?}");
    matches!(command.action, Action::RestoreCompleted { .. })
}

/// Ann says something again and again; some of it she says twice, edits, or deletes.
fn a_team_at_work() -> Vec<Command> {
    let mut log = vec![create(TEAM, "ann")];
    for n in 1..70_u64 {
        let id = |n: u64| Uuid::from_u128(u128::from(n));
        let edit = json!({"id": id(n / 3), "type": "decision", "content": format!("edit {n} é"),
            "metadata": {"n": n, "a": {"metadata": ",\"created_at\":\""}}, "base_cursor": 3 * n});
        let again = n % 4 == 0;
        let line = if again { "again".to_owned() } else { format!("line {n}\n\"metadata\":") };
        let mut messages = vec![edit, say(&line)];
        if n % 6 == 5 {
            messages.push(json!({"id": id(n / 7), "deleted": true, "base_cursor": 3 * n}));
        }
        log.push(push(TEAM, "ann", &messages));
    }
    log
}

/// The commits of axum by their authors; where the corpus is absent, made up.
fn a_history() -> Vec<Command> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/axum.jsonl");
    let lines: Vec<(String, Value)> = match std::fs::read_to_string(path) {
        Ok(text) => text.lines().take(300).map(line).collect(),
        Err(_) => (0..300).map(|n| (format!("u{}", n % 9), say(&format!("{}", n / 2)))).collect(),
    };
    let authors: BTreeSet<&str> = lines.iter().map(|(author, _)| author.as_str()).collect();
    let join = |author: &&str| set_member(HISTORY, "ann", author, Role::Member);
    let mut log = vec![create(HISTORY, "ann")];
    log.extend(authors.iter().map(join));
    log.extend(
        lines.iter().map(|(author, message)| push(HISTORY, author, std::slice::from_ref(message))),
    );
    log
}

fn line(line: &str) -> (String, Value) {
    let mut message: Value = serde_json::from_str(line).unwrap();
    let author = message.as_object_mut().unwrap().remove("author").unwrap();
    (author.as_str().unwrap().to_owned(), message)
}

/// Everything collides: repeated, refused and invalid, backups on demand.
fn whatever() -> Vec<Command> {
    let mut runner = TestRunner::deterministic();
    let logs = random::unerased_logs(150).prop_filter("a long one", |log| log.len() > 100);
    let log = logs.new_tree(&mut runner).unwrap().current();
    log.into_iter().map(|(_, command)| command).collect()
}

/// Eve says a lot, edits some, deletes some, has all erased in the last but one of the days, and comes back.
fn a_user_who_leaves() -> Vec<Command> {
    let mut log = Vec::new();
    for n in 0..36_u64 {
        let id = |n: u64| Uuid::from_u128(u128::from(n));
        let messages = match n % 6 {
            5 => vec![json!({"id": id(n / 6), "deleted": true, "base_cursor": 3 * n})],
            _ => vec![
                json!({"id": id(n / 4), "type": "decision", "content": format!("a secret {n} é"), "base_cursor": 3 * n}),
                say(&format!("another {}", n / 2)),
            ],
        };
        log.push(push(EVE, "eve", &messages));
    }
    log[31] = command(EVE, "eve", Action::ScopeErased);
    log
}

fn odd_names() -> Vec<Command> {
    (0..4).map(|n| push(ODD, "ann@x|y+z", &[say(&format!("odd {n}"))])).collect()
}
