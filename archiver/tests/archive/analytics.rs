//! The queries of docs/analytics.md, run as they stand there by DuckDB and PyArrow, and compared with the fold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use model::{Action, Change, Event, LogFold, LogId, Offset, Partition, Status, Timestamp, Verdict};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    archiving::{a_day, at, tick},
    bench::Bench,
    commands::{push, say, scope},
    recovering::{archive_all, recover},
    simulated_log::SimulatedLog,
    weeks::{TEAM, three_weeks},
};

const DOCUMENT: &str = include_str!("../../../docs/analytics.md");

/// Runs statements one after another; prints the rows of each query as JSON.
const DUCKDB: &str = r#"
import duckdb, json, sys
connection, results = duckdb.connect(), []
for sql in json.load(sys.stdin):
    if sql.startswith(("SELECT", "WITH")):
        rows = connection.execute(f"SELECT to_json(row)::VARCHAR FROM ({sql.strip().rstrip(';')}) row").fetchall()
        results.append([json.loads(row) for row, in rows])
    else:
        connection.execute(sql)
print(json.dumps(results))
"#;

/// The blocks of a language, by the heading that they stand under.
fn blocks(language: &str) -> Vec<(&'static str, String)> {
    let (mut heading, mut blocks, mut block) = ("", Vec::new(), None);
    for line in DOCUMENT.lines() {
        match &mut block {
            None if line.starts_with('#') => heading = line.trim_start_matches('#').trim(),
            None if line.strip_prefix("```").is_some_and(|l| l == language) => {
                block = Some(String::new());
            }
            Some(text) if line == "```" => {
                blocks.push((heading, std::mem::take(text)));
                block = None;
            }
            Some(text) => text.extend([line, "\n"]),
            None => {}
        }
    }
    blocks
}

/// The blocks of SQL under a heading.
fn sql(heading: &str) -> Vec<String> {
    let found: Vec<String> =
        blocks("sql").into_iter().filter(|(of, _)| *of == heading).map(|(_, sql)| sql).collect();
    assert!(!found.is_empty(), "{heading}");
    found
}

/// Runs Python where the archive's folder is.
fn python(bench: &Bench, packages: &Path, program: &str, input: &Value) -> Value {
    let mut python = Command::new("python3");
    python.arg("-c").arg(program).current_dir(bench.folder.parent().unwrap());
    python.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.stderr(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of each query among the statements.
fn query(bench: &Bench, packages: &Path, statements: Vec<String>) -> Vec<Vec<Value>> {
    let statements = [sql("DuckDB"), sql("What changed"), statements].concat();
    serde_json::from_value(python(bench, packages, DUCKDB, &json!(statements))).unwrap()
}

/// A record as the log's time orders it, over all partitions; blanked where its scope was erased afterwards.
struct Folded {
    log_time: Timestamp,
    event: Option<Event>,
    record: eventlog::Record,
}

/// The offset of the last erasure of each scope.
fn last_erasures(bench: &Bench) -> BTreeMap<Bytes, Offset> {
    let is_erasure = |record: &eventlog::Record| match schemas::decode(&record.value) {
        Ok(Event::Command(command)) => command.action == Action::ScopeErased,
        _ => false,
    };
    let erasures = bench.log.all().into_iter().filter(is_erasure);
    erasures.map(|record| (record.key, record.offset)).collect()
}

fn in_order(bench: &Bench) -> Vec<Folded> {
    let mut times: BTreeMap<Partition, Timestamp> = BTreeMap::new();
    let mut all: Vec<Folded> = Vec::new();
    let erased = last_erasures(bench);
    for record in bench.log.all() {
        let time = times.entry(record.partition).or_insert(Timestamp::EPOCH);
        *time = record.append_time.max(*time);
        let is_erased = erased.get(&record.key).is_some_and(|erasure| record.offset < *erasure);
        let event = schemas::decode(&record.value).ok().map(|event| match event {
            Event::Command(command) if is_erased => Event::Command(command.blanked()),
            event => event,
        });
        all.push(Folded { log_time: *time, event, record });
    }
    all.sort_by_key(|folded| folded.log_time);
    all
}

/// What docs/analytics.md asks for, as the model has it.
#[derive(Default)]
struct Expected {
    contributions: BTreeMap<(String, String, String, String), u64>,
    since: BTreeMap<(String, String), u64>,
    /// Writes and duplicates.
    writes: BTreeMap<String, (u64, u64)>,
    /// Repeated, and all.
    pushes: BTreeMap<String, (u64, u64)>,
    growth: BTreeMap<(String, String), (u64, u64)>,
}

fn expected(bench: &Bench) -> Expected {
    let (mut fold, mut expected) = (LogFold::default(), Expected::default());
    for Folded { log_time, event, record } in in_order(bench) {
        let place = record.place();
        let applied = fold.apply(place, record.append_time, &record.key, event.as_ref()).unwrap();
        let (Some(applied), Some(Event::Command(command))) = (applied, event) else { continue };
        let tenant = command.scope.tenant.to_string();
        let is_erasure = command.action == Action::ScopeErased;
        if is_erasure || !applied.changes.is_empty() {
            let scopes =
                fold.scopes.values().filter(|s| s.scope.key.tenant == command.scope.tenant);
            let sum = |sum: (u64, u64), heading: &model::Heading| {
                (sum.0 + heading.count, sum.1 + heading.bytes)
            };
            let total = scopes.fold((0, 0), |so_far, scope| sum(so_far, &scope.scope.heading));
            expected.growth.insert((tenant.clone(), week(log_time)), total);
        }
        let Action::MessagesPushed { changes, .. } = &command.action else { continue };
        if applied.repeated {
            let pushes = expected.pushes.entry(tenant).or_default();
            *pushes = (pushes.0 + 1, pushes.1 + 1);
            continue;
        }
        let Verdict::Pushed(answer) = &applied.outcome.verdict else { continue };
        expected.pushes.entry(tenant.clone()).or_default().1 += 1;
        let writes = changes.iter().filter(|pushed| matches!(pushed.change, Change::Write(_)));
        let of_tenant = expected.writes.entry(tenant.clone()).or_default();
        of_tenant.0 += writes.count() as u64;
        for result in &answer.results {
            of_tenant.1 += u64::from(result.status == Status::Duplicate);
            let is_contribution =
                matches!(result.status, Status::Created | Status::Updated | Status::Revived);
            if is_contribution && command.scope.kind == model::ScopeKind::Team {
                let team = command.scope.name.to_string();
                let key = (tenant.clone(), team.clone(), week(log_time), command.actor.to_string());
                *expected.contributions.entry(key).or_default() += 1;
                if log_time >= at("2026-01-05T00:00:00Z") {
                    *expected.since.entry((tenant.clone(), team)).or_default() += 1;
                }
            }
        }
    }
    expected
}

/// The Monday that a week begins with.
fn week(time: Timestamp) -> String {
    const DAY_MICROS: i64 = 86_400_000_000;
    let day = time.as_micros().div_euclid(DAY_MICROS);
    // 1970-01-01 was a Thursday.
    let monday = day - (day + 3).rem_euclid(7);
    date(Timestamp::from_micros(monday * DAY_MICROS))
}

fn date(time: Timestamp) -> String {
    time.to_string()[..10].to_owned()
}

/// The log before a moment.
fn fold_before(bench: &Bench, moment: Timestamp) -> LogFold {
    let mut fold = LogFold::default();
    for Folded { event, record, .. } in
        in_order(bench).into_iter().take_while(|folded| folded.log_time < moment)
    {
        fold.apply(record.place(), record.append_time, &record.key, event.as_ref()).unwrap();
    }
    fold
}

/// The live messages of every scope at a moment, as the query gives them.
fn messages_before(bench: &Bench, moment: Timestamp) -> Vec<Value> {
    let mut rows = Vec::new();
    for (key, folded) in fold_before(bench, moment).scopes {
        for message in folded.messages.values().filter(|message| message.entry.is_live()) {
            let body = message.body.as_ref().unwrap();
            rows.push(json!({
                "tenant_id": key.tenant.as_str(),
                "scope_type": key.kind.to_string(),
                "scope_id": key.name.as_str(),
                "message_id": message.id.to_string(),
                "type": body.message_type.as_str(),
                "content": body.content,
                "metadata": body.metadata.as_str(),
                "updated_at": duckdb_time(message.entry.version.updated_at),
                "contributed_by": message.contributed_by.as_str(),
                "device_id": message.device.as_ref().map(|device| device.as_str()),
                "cursor": message.entry.cursor.get(),
            }));
        }
    }
    rows
}

/// As DuckDB writes it.
fn duckdb_time(time: Timestamp) -> String {
    let text = time.to_string().replace('T', " ");
    let text = text.trim_end_matches('Z');
    let text = if text.contains('.') { text.trim_end_matches('0') } else { text };
    format!("{text}+00")
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_key(Value::to_string);
    rows
}

fn check(found: &[Value], expected: Vec<Value>) {
    assert!(!expected.is_empty());
    assert_eq!(sorted(found.to_vec()), sorted(expected));
}

fn check_figures(bench: &Bench, packages: &Path, expected: &Expected) {
    let statements = [
        sql("Contributions per team and week"),
        sql("How much is said twice"),
        sql("Growth per tenant"),
    ];
    let found = query(bench, packages, statements.concat());
    let [contributions, writes, pushes, growth] = &found[..] else { panic!("{found:?}") };
    let rows = expected.contributions.iter().map(|((tenant, team, week, user), count)| {
        json!({"tenant_id": tenant, "team": team, "week": week, "contributed_by": user, "contributions": count})
    });
    check(contributions, rows.collect());
    let rate = |(writes, duplicates): (u64, u64)| {
        (duplicates as f64 / writes as f64 * 10_000.0).round() / 10_000.0
    };
    let rows = expected.writes.iter().filter(|(_, (pushed, _))| *pushed > 0);
    let rows = rows.map(|(tenant, counts)| {
        json!({"tenant_id": tenant, "pushed": counts.0, "duplicates": counts.1, "dedup_rate": rate(*counts)})
    });
    check(writes, rows.collect());
    let rows = expected.pushes.iter().map(
        |(tenant, (repeated, all))| json!({"tenant_id": tenant, "repeated": repeated, "pushes": all}),
    );
    check(pushes, rows.collect());
    let rows = expected.growth.iter().map(|((tenant, week), (messages, bytes))| {
        json!({"tenant_id": tenant, "week": week, "messages": messages, "bytes": bytes})
    });
    check(growth, rows.collect());
    assert!(expected.writes.values().any(|(_, duplicates)| *duplicates > 0));
    assert!(expected.pushes.values().any(|(repeated, _)| *repeated > 0));
}

/// Before, within and after the restore of 2026-01-12, 15:30, and the erasure of 2026-01-15; and as the document has it.
fn check_moments(bench: &Bench, packages: &Path) {
    let document = "2026-01-12T12:00:00Z";
    let moments = [
        document,
        "2025-12-30T10:00:03Z",
        "2026-01-06T00:00:00Z",
        "2026-01-12T15:30:00Z",
        "2026-01-12T16:00:00Z",
        "2026-01-15T15:00:00Z",
        "2026-01-16T00:00:00Z",
        "2026-01-20T00:00:00Z",
    ];
    let blocks = sql("Messages as of a date");
    let [moment, as_of] = &blocks[..] else { panic!("{blocks:?}") };
    assert!(moment.contains(&duckdb_time(at(document))));
    let mut statements = vec![moment.clone(), as_of.clone()];
    for moment in &moments[1..] {
        statements.push(format!("SET VARIABLE as_of = TIMESTAMPTZ '{moment}'"));
        statements.push(as_of.clone());
    }
    let found = query(bench, packages, statements);
    assert_eq!(found.len(), moments.len());
    for (moment, found) in moments.iter().zip(found) {
        check(&found, messages_before(bench, at(moment)));
    }
}

fn check_backups(bench: &Bench, packages: &Path) {
    let found = query(bench, packages, sql("Backups"));
    assert!(found[0].len() >= 5, "{found:?}");
    for row in &found[0] {
        let day = row["full_backup"].as_str().unwrap().trim_end_matches(".jsonl.gz");
        let fold = fold_before(bench, at(&format!("{day}T00:00:00Z")));
        let count = fold.scopes[&scope(TEAM)].scope.heading.count;
        assert_eq!(row["messages"].as_u64(), Some(count), "{day}");
    }
}

/// The files of a day under an hour's name too, as while it is compacted: a row counts once.
fn check_swap(bench: &Bench, packages: &Path) {
    let counts =
        || ["events", "messages"].map(|table| format!("SELECT count(*) AS rows FROM {table}"));
    let before = query(bench, packages, counts().to_vec());
    let hours = ["events", "messages"].map(|table| {
        let day = bench.folder.join(table).join("date=2026-01-05");
        let hour = day.join("hour=10");
        fs::create_dir_all(&hour).unwrap();
        for file in fs::read_dir(day.join("hour=all")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), hour.join(file.file_name())).unwrap();
        }
        hour
    });
    let both = query(bench, packages, counts().to_vec());
    assert!(both.iter().zip(&before).all(|(both, before)| both != before), "{both:?}");
    let once = [sql("While a day is put together"), counts().to_vec()].concat();
    assert_eq!(query(bench, packages, once), before);
    for hour in hours {
        fs::remove_dir_all(hour).unwrap();
    }
}

/// A recovered log begins at offset 0 again, beside the lost one's rows: each still counts, and once.
#[tokio::test]
async fn rows_of_a_recovered_log_are_not_those_of_the_lost_one() {
    let packages = dev::python::for_tests().await.unwrap();
    let bench = Bench::new(2);
    a_day(&bench);
    archive_all(&bench, "cache").await;
    let sealed = |bench: &Bench| {
        let first = |hour: &str| at(&format!("2025-12-31T{hour}:00:00Z"));
        let (log, open) = (bench.log.all(), [first("01"), first("05")]);
        log.into_iter().filter(|record| !open.contains(&record.append_time)).collect::<Vec<_>>()
    };
    let lost = sealed(&bench);
    let log = SimulatedLog::with_id(LogId(Uuid::from_u128(8)), 2);
    recover(&bench, log.clone(), bench.facts.clone()).await;
    let bench = Bench { log, ..bench };
    for message in ["one", "two", "three"] {
        let time = at("2025-12-31T04:00:00Z");
        bench.log.at(time, &push("acme/team/web", "ann", &[say(message)]));
        bench.log.at(time, &push("acme/user/ann", "ann", &[say(message)]));
    }
    tick(&bench, at("2025-12-31T05:00:00Z"));
    archive_all(&bench, "another cache").await;
    let all = [lost, sealed(&bench)].concat();
    let places: BTreeSet<_> = all.iter().map(eventlog::Record::place).collect();
    assert!(places.len() < all.len(), "places that both logs have");
    let count = |table: &str| format!("SELECT count(*) AS rows FROM {table}");
    let counts = vec![count("events"), count("messages")];
    let found = query(&bench, &packages, counts.clone());
    assert_eq!(found[0], [json!({"rows": all.len()})]);
    let once = [sql("While a day is put together"), counts].concat();
    assert_eq!(query(&bench, &packages, once), found);
}

#[tokio::test]
async fn analysts_figures_are_those_of_the_fold() {
    let packages = dev::python::for_tests().await.unwrap();
    let bench = three_weeks().await;
    let expected = expected(&bench);
    check_figures(&bench, &packages, &expected);
    check_moments(&bench, &packages);
    check_backups(&bench, &packages);
    check_swap(&bench, &packages);
    let [(_, program)] = &blocks("python")[..] else { panic!("one program") };
    let found = python(&bench, &packages, program, &Value::Null);
    let rows = expected.since.iter().map(|((tenant, team), count)| {
        json!({"tenant_id": tenant, "scope_id": team, "message_id_count": count})
    });
    check(found.as_array().unwrap(), rows.collect());
}
