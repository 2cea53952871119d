//! `ops verify`: what is wrong is found and named; what is well is proven.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use archive::{
    base::StoredEpoch,
    object::{LinesWriter, Object, Sha256Hex},
    path,
    verify::{Proven, Report, Sample, verify},
};
use archiver::Recovering;
use eventlog::EventLog;
use model::{Action, BackupId, Cursor, Epoch, FoldRevision, LogId};
use serde_json::{Value, json};

use crate::{
    archiving::{a_day, at, tick},
    bench::{Bench, Running},
    commands::{command, push, say},
    other_logs::recover,
    simulated_log::SimulatedLog,
};

async fn archived() -> Bench {
    let bench = Bench::new(2);
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    bench
}

async fn report(bench: &Bench) -> Report {
    verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap()
}

/// The paths with problems.
async fn problems(bench: &Bench) -> Vec<String> {
    let report = report(bench).await;
    assert_eq!(report.is_well(), report.problems.is_empty());
    report.problems.into_iter().map(|problem| problem.path).collect()
}

fn path_with(bench: &Bench, part: &str) -> (String, PathBuf) {
    let name = bench.objects().into_keys().find(|name| name.contains(part)).unwrap();
    let path = bench.folder.join(&name);
    (name, path)
}

#[tokio::test]
async fn a_whole_archive_is_proven() {
    let bench = archived().await;
    let report = report(&bench).await;
    assert_eq!(report.problems, []);
    assert_eq!(report.orphans, [""; 0]);
    assert_eq!((report.backups, report.states_read), (6, 6), "{report:?}");
    assert_eq!(report.objects, report.objects_read);
    assert!(report.until.iter().any(|until| until.hour == "2025-12-31-00"), "{report:?}");
}

#[tokio::test]
async fn runs_of_a_sample_read_all_together() {
    let bench = archived().await;
    let all = report(&bench).await;
    let (mut read, mut states) = (0, 0);
    for sample in ["1/3", "2/3", "3/3"] {
        let report = verify(&bench.archive, sample.parse().unwrap(), |_, _| {}).await.unwrap();
        assert_eq!((report.objects, report.manifests), (all.objects, all.manifests));
        read += report.objects_read;
        states += report.states_read;
    }
    assert_eq!((read, states), (all.objects_read, all.states_read));
    for wrong in ["", "0/3", "4/3", "1", "1/0", "x/y"] {
        assert!(wrong.parse::<Sample>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_in_every_object() {
    let bench = archived().await;
    let objects: Vec<String> =
        bench.objects().into_keys().filter(|name| !name.starts_with("_schemas/")).collect();
    for name in objects {
        let path = bench.folder.join(&name);
        let whole = fs::read(&path).unwrap();
        for place in [11, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[place] ^= 4;
            fs::write(&path, &flipped).unwrap();
            let problems = problems(&bench).await;
            assert!(problems.contains(&name), "{name} flipped at {place}: {problems:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(problems(&bench).await, [""; 0]);
}

#[tokio::test]
async fn what_is_missing_or_cut_is_named() {
    for part in ["teams/web/full", "users/ann/incremental", "events/", "messages/"] {
        let bench = archived().await;
        let (name, path) = path_with(&bench, part);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(problems(&bench).await, [name.as_str()]);
        fs::remove_file(&path).unwrap();
        assert_eq!(problems(&bench).await, [name.as_str()]);
    }
}

#[tokio::test]
async fn a_missing_manifest_breaks_the_chain_where_it_goes_on() {
    let bench = archived().await;
    let (_, path) = path_with(&bench, "hour/2025-12-30-11");
    fs::remove_file(&path).unwrap();
    let problems = problems(&bench).await;
    let goes_on = |path: &&String| path.contains("hour/2025-12-30-12");
    let names_it = |path: &String| path.contains("compaction/2025-12-30");
    assert!(problems.iter().any(|path| goes_on(&path)), "{problems:?}");
    assert!(problems.iter().all(|path| goes_on(&path) || names_it(path)), "{problems:?}");
}

#[tokio::test]
async fn what_no_manifest_lists_is_an_orphan() {
    let bench = archived().await;
    let orphan = "tenants/acme/users/ann/incremental/2030-01-01-00.jsonl.gz";
    fs::write(bench.folder.join(orphan), "x").unwrap();
    let report = report(&bench).await;
    assert_eq!(report.orphans, [orphan]);
    assert!(report.is_well());
}

/// All that an archive can have: three days, a full that is carried on, a backup on demand, what has expired.
async fn everything() -> Bench {
    let (bench, running) = three_days().await;
    expire(&bench, running).await;
    let report = report(&bench).await;
    assert_eq!((report.problems, report.orphans), (vec![], vec![]));
    assert_eq!((report.expired, report.backups), (4, 4 + 3 + 4), "the first day's incrementals");
    bench
}

async fn expire(bench: &Bench, running: Running) {
    bench.set_time(at("2026-01-07T12:00:00Z"));
    running.expire(false).await;
    running.stop().await;
}

/// Archived, before anything has expired.
async fn three_days() -> (Bench, Running) {
    let bench = Bench::new(1);
    a_day(&bench);
    let backup = BackupId(uuid::Uuid::from_u128(9));
    let request = Action::BackupRequested { backup };
    bench.log.at(at("2025-12-31T02:00:00Z"), &push("acme/user/ann", "ann", &[say("later")]));
    bench.log.at(at("2025-12-31T02:30:00Z"), &command("acme/user/ann", "ann", request));
    bench.log.at(at("2026-01-01T03:00:00Z"), &push("acme/team/web", "ann", &[say("new year")]));
    tick(&bench, at("2026-01-02T00:00:00Z"));
    tick(&bench, at("2026-01-02T01:00:00Z"));
    let running = bench.start();
    bench.sealed().await;
    (bench, running)
}

/// Every object of an archive in a folder.
pub(crate) fn files(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(bench.folder.join(name)).unwrap());
    bench.names().into_iter().map(read).collect()
}

/// What came is there before what went is gone.
fn become_these(bench: &Bench, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = bench.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    for name in bench.names().into_iter().filter(|name| !files.contains_key(name)) {
        fs::remove_file(bench.folder.join(name)).unwrap();
    }
}

/// Whichever manifest is being read when an archive becomes what it is now from what it was: no problem. Gives what the
/// verification found where all were still to be read.
pub(crate) async fn is_well_meanwhile(bench: &Bench, before: &BTreeMap<String, Vec<u8>>) -> Report {
    let after = files(bench);
    let (mut first, mut of) = (None, 1);
    for moment in 1.. {
        become_these(bench, before);
        let change = |done, total| {
            of = total;
            if done == moment {
                become_these(bench, &after);
            }
        };
        let report = verify(&bench.archive, Sample::ALL, change).await.unwrap();
        assert_eq!(report.problems, [], "at manifest {moment} of {of}");
        first.get_or_insert(report);
        if moment == of {
            break;
        }
    }
    first.unwrap()
}

/// The archiver's cleanup does not wait for a verification, which takes hours.
#[tokio::test]
async fn what_expires_meanwhile_is_no_problem() {
    let (bench, running) = three_days().await;
    let before = files(&bench);
    expire(&bench, running).await;
    let report = is_well_meanwhile(&bench, &before).await;
    assert_eq!(report.expired, 4);
}

/// What goes meanwhile without a record is missed as ever.
#[tokio::test]
async fn what_goes_missing_meanwhile_is_named() {
    let bench = archived().await;
    let (name, path) = path_with(&bench, "teams/web/incremental");
    let report = verify(&bench.archive, Sample::ALL, |done, _| {
        if done == 1 {
            fs::remove_file(&path).unwrap();
        }
    });
    let problems = report.await.unwrap().problems;
    assert_eq!(problems.iter().map(|p| &p.path).collect::<Vec<_>>(), [&name], "{problems:?}");
}

/// A lost log's last hours hold nothing back for ever; a partition in which nothing came since is counted, and said.
#[tokio::test]
async fn after_a_recovery_the_new_log_says_up_to_where_all_is_proven() {
    let bench = archived().await;
    let proven = async || report(&bench).await.proven().unwrap();
    let found = proven().await;
    assert_eq!((&*found.hour, found.behind), ("2025-12-31-00", 0), "{found:?}");
    let log = SimulatedLog::with_id(LogId(uuid::Uuid::from_u128(8)), 2);
    let into: Arc<dyn EventLog> = log.clone();
    recover(&bench, &into, |line| matches!(line, Recovering::Done(_))).await;
    assert_eq!(proven().await, found);
    let hour = "2099-12-30-10";
    for time in ["2099-12-30T10:00:00Z", "2099-12-30T11:00:00Z"] {
        log.at(at(time), &push("acme/user/ann", "ann", &[say("goes on")]));
    }
    let partition = log.all()[0].partition;
    let running = bench.start_on(log.clone(), "another cache", bench.archive.clone());
    let folder = path::manifests(log.log_id(), partition);
    bench.written(&format!("{folder}/hour/{hour}.jsonl.gz")).await;
    running.stop().await;
    let expected = Proven { hour: hour.to_owned(), behind: 1, first: found.hour };
    assert_eq!(proven().await, expected);
    assert_eq!(problems(&bench).await, [""; 0]);
}

/// What an object is, so that the matrix shows that it has each kind.
fn kind(name: &str) -> &'static str {
    let kinds = [
        "/expired/",
        "/hour/",
        "/compaction/",
        "/incremental/",
        "events/",
        "messages/",
        "_schemas/",
    ];
    for kind in kinds {
        if name.contains(kind) {
            return kind;
        }
    }
    match (name.starts_with("manifests/"), name.contains("/full/")) {
        (true, true) => "manifest of fulls",
        (true, false) => "manifest on demand",
        (false, true) => "/full/",
        (false, false) => "/on-demand/",
    }
}

/// Damage by kind of object: whatever it is, it is found, and the object is named.
#[tokio::test]
async fn every_damage_of_every_object_is_named() {
    let bench = everything().await;
    let mut kinds = BTreeSet::new();
    for name in bench.objects().into_keys().filter(|name| !name.ends_with("/done")) {
        kinds.insert(kind(&name));
        let path = bench.folder.join(&name);
        let whole = fs::read(&path).unwrap();
        let (middle, end) = (whole.len() / 2, whole.len() - 1);
        let flipped = |place: usize| {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            bytes
        };
        for (damage, bytes) in [
            ("a bit flipped near the beginning", flipped(11)),
            ("a bit flipped in the middle", flipped(middle)),
            ("a bit flipped at the end", flipped(end)),
            ("cut in the middle", whole[..middle].to_vec()),
            ("cut before the last byte", whole[..end].to_vec()),
            ("emptied", Vec::new()),
            ("longer", [&whole[..], b"x"].concat()),
        ] {
            fs::write(&path, bytes).unwrap();
            let problems = problems(&bench).await;
            assert!(problems.contains(&name), "{name}: {damage}: {problems:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(kinds.len(), 11, "{kinds:?}");
    assert_eq!(problems(&bench).await, [""; 0]);
}

/// An object that is gone is named, or what it committed is: an orphan, or the manifest that goes on from it.
#[tokio::test]
async fn every_object_that_is_missing_is_missed() {
    let bench = everything().await;
    let used =
        ["messages-pushed.v1", "scope-created.v1", "member-set.v1", "member-removed.v1", "tick.v1"];
    let used = schemas::schemas()
        .iter()
        .filter(|schema| used.contains(&schema.name))
        .map(|schema| archive::path::schema(schema.fingerprint));
    let used: Vec<String> = used.collect();
    assert_eq!(used.len(), 5);
    for name in bench.objects().into_keys().filter(|name| !name.ends_with("/done")) {
        let path = bench.folder.join(&name);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let report = report(&bench).await;
        let named: Vec<&str> = report.problems.iter().map(|p| p.path.as_str()).collect();
        match kind(&name) {
            "_schemas/" => assert!(!used.contains(&name) || named.contains(&&*name), "{name}"),
            "/expired/" => {
                // Of one kind of scope.
                assert!(named.iter().all(|path| path.contains("/incremental/2025-12-30")));
                assert!([1, 3].contains(&named.len()), "{named:?}");
            }
            // The chain is broken where it goes on; the newest one's objects are orphans.
            "/hour/" => assert!(
                named.iter().any(|path| path.contains("/hour/")) || !report.orphans.is_empty(),
                "{name}: {report:?}"
            ),
            // The files of its hours are gone.
            "/compaction/" => {
                assert!(named.iter().any(|path| path.starts_with("events/")), "{named:?}");
            }
            "manifest of fulls" => assert!(named.contains(&&*name), "{name}: {report:?}"),
            "manifest on demand" => {
                assert!(matches!(&report.orphans[..], [path] if path.contains("/on-demand/")));
            }
            _ => assert_eq!(named, [&name], "{name}"),
        }
        fs::write(&path, &whole).unwrap();
    }
}

/// The lines of a manifest, and what another manifest in its place would be.
fn lines_of(bench: &Bench, name: &str) -> Vec<Value> {
    let bytes = fs::read(bench.folder.join(name)).unwrap();
    let object = Object::of_bytes(&Default::default(), &bytes).unwrap();
    let mut lines = object.lines(name).unwrap();
    std::iter::from_fn(|| lines.next_json().unwrap()).collect()
}

fn write_lines(bench: &Bench, name: &str, lines: &[Value]) {
    let mut writer = LinesWriter::new(&Default::default());
    for line in lines {
        writer.push(line.to_string().as_bytes()).unwrap();
    }
    fs::write(bench.folder.join(name), writer.finish().unwrap().bytes().unwrap()).unwrap();
}

/// Writes another manifest in the place of one, and all that name it by its hash anew.
fn rewrite(bench: &Bench, name: &str, lines: &[Value]) {
    let hash = || Sha256Hex::of_bytes(&fs::read(bench.folder.join(name)).unwrap()).0;
    let before = hash();
    write_lines(bench, name, lines);
    let manifests = bench.paths("manifests");
    for other in manifests.iter().filter(|other| other.ends_with(".jsonl.gz")) {
        let text = Value::Array(lines_of(bench, other)).to_string();
        if text.contains(&before) {
            let lines = serde_json::from_str::<Vec<Value>>(&text.replace(&before, &hash()));
            rewrite(bench, other, &lines.unwrap());
        }
    }
}

/// What a restore would come to is recomputed for every hour, not the newest alone: a manifest that was written wrongly,
/// and that all after it go on from.
#[tokio::test]
async fn a_total_that_was_written_wrongly_is_named_whatever_hour_it_is_of() {
    let bench = archived().await;
    for hour in ["2025-12-30-10", "2025-12-30-11", "2025-12-30-12"] {
        let before = files(&bench);
        let (object, _) = path_with(&bench, &format!("teams/web/incremental/{hour}"));
        let is_of = |line: &Value| line["backup"]["path"] == object;
        let hours = bench.paths("manifests").into_iter().filter(|name| name.contains("/hour/"));
        let name = hours.into_iter().find(|name| lines_of(&bench, name).iter().any(is_of)).unwrap();
        for key in ["digest", "count", "bytes"] {
            let mut lines = lines_of(&bench, &name);
            let line = lines.iter_mut().find(|line| is_of(line)).unwrap();
            line[key] = other(&line[key]);
            rewrite(&bench, &name, &lines);
            // The full of the midnight says what the last hour does not.
            let of_full = |path: &String| hour.ends_with("12") && path.contains("/full/");
            let mut named = problems(&bench).await;
            named.retain(|path| !of_full(path));
            assert_eq!(named, [object.as_str()], "{key} of {hour}");
            let mut of_parts = 0;
            for part in ["1/3", "2/3", "3/3"] {
                let sample = part.parse().unwrap();
                let report = verify(&bench.archive, sample, |_, _| {}).await.unwrap();
                of_parts += report.problems.iter().filter(|p| p.path == object).count();
            }
            assert_eq!(of_parts, 1, "{key} of {hour}");
            become_these(&bench, &before);
        }
    }
    assert_eq!(problems(&bench).await, [""; 0]);
}

/// Adds one to a number, or changes a text to another of its length.
fn other(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_u64().unwrap() + 1),
        Value::String(text) if text.starts_with('0') => json!(format!("1{}", &text[1..])),
        Value::String(text) => json!(format!("0{}", &text[1..])),
        Value::Null => json!({"path": "x", "sha256": "y"}),
        _ => Value::Null,
    }
}

/// What no build writes: it is named, and everything else is verified all the same.
#[tokio::test]
async fn a_manifest_that_nobody_could_have_written_is_named() {
    let bench = archived().await;
    let has_backup = |name: &String| lines_of(&bench, name)[1]["backup"].is_object();
    let hours = bench.paths("manifests").into_iter().filter(|name| name.contains("/hour/"));
    let name = hours.into_iter().find(has_backup).unwrap();
    let lines = lines_of(&bench, &name);
    let mut wrong = lines.clone();
    wrong[0]["period_seconds"] = json!(0);
    write_lines(&bench, &name, &wrong);
    assert!(problems(&bench).await.contains(&name));
    let mut wrong = lines.clone();
    wrong[1]["backup"]["path"] = json!("tenants//x");
    write_lines(&bench, &name, &wrong);
    assert!(!problems(&bench).await.is_empty());
}

/// A wrong manifest, well-formed: what it says is found to be wrong, in it or where the chain goes on from it.
#[tokio::test]
async fn a_manifest_that_says_something_else_is_named() {
    let bench = everything().await;
    let mut tried: BTreeMap<&str, u32> = BTreeMap::new();
    let mut missed = Vec::new();
    for name in bench.paths("manifests") {
        if matches!(kind(&name), "/expired/") || name.ends_with("/done") {
            continue;
        }
        let whole = fs::read(bench.folder.join(&name)).unwrap();
        let lines = lines_of(&bench, &name);
        let mut wrongs: Vec<(String, Vec<Value>)> = Vec::new();
        for key in ["partition", "period", "next_offset", "first_offset", "previous", "log_id"] {
            let mut wrong = lines.clone();
            wrong[0][key] = other(&wrong[0][key]);
            wrongs.push((key.to_owned(), wrong));
        }
        let is_compaction = kind(&name) == "/compaction/";
        for place in 1..lines.len() - 1 {
            for key in ["events", "messages", "manifest"] {
                if is_compaction && !lines[place][key].is_null() {
                    let mut wrong = lines.clone();
                    wrong[place][key]["sha256"] = other(&wrong[place][key]["sha256"]);
                    wrongs.push((format!("line {place}: {key}"), wrong));
                }
            }
            for key in ["head", "count", "bytes", "digest"].iter().filter(|_| !is_compaction) {
                let mut wrong = lines.clone();
                wrong[place][key] = other(&wrong[place][key]);
                // Of a scope that only its members changed in, no backup says what it is; the chain does.
                if lines[place]["backup"].is_object() || *key == "head" {
                    wrongs.push((format!("line {place}: {key}"), wrong));
                }
            }
            let backup = lines[place]["backup"].as_object();
            for key in backup.map(|backup| backup.keys().cloned()).into_iter().flatten() {
                let mut wrong = lines.clone();
                wrong[place]["backup"][&key] = other(&lines[place]["backup"][&key]);
                // An expired object cannot be read any more: its hash is in the chain, and in a record.
                let is_gone =
                    !bench.folder.join(lines[place]["backup"]["path"].as_str().unwrap()).exists();
                if !(is_gone && ["lines", "record_count", "content_sha256"].contains(&&*key)) {
                    wrongs.push((format!("line {place}: backup.{key}"), wrong));
                }
            }
            let mut wrong = lines.clone();
            wrong.remove(place);
            let last = wrong.len() - 1;
            let count = if is_compaction { "hours" } else { "scopes" };
            wrong[last][count] = json!(wrong.len() - 2);
            wrongs.push((format!("line {place} left out"), wrong));
        }
        for (what, wrong) in wrongs {
            *tried.entry(kind(&name)).or_default() += 1;
            write_lines(&bench, &name, &wrong);
            let report = report(&bench).await;
            if report.is_well() {
                missed.push(format!("{name}: {what}"));
            }
        }
        fs::write(bench.folder.join(&name), &whole).unwrap();
    }
    assert_eq!(missed, [""; 0]);
    assert!(tried.len() == 4 && tried.values().all(|tried| *tried > 10), "{tried:?}");
    assert_eq!(problems(&bench).await, [""; 0]);
}

/// An epoch has no hash; but it is of the epoch that its name says, or named.
#[tokio::test]
async fn an_epoch_that_cannot_be_read_is_named() {
    let bench = archived().await;
    let epoch = Epoch(uuid::Uuid::from_u128(5));
    let (bases, keeps_unlisted) = (vec![(uuid::Uuid::from_u128(6), Cursor::ZERO)], false);
    let fold_revision = FoldRevision::FIRST;
    let stored = StoredEpoch { epoch, bases, keeps_unlisted, fold_revision };
    stored.keep(&bench.archive, bench.log.log_id(), 2).await.unwrap();
    assert_eq!(problems(&bench).await, [""; 0]);
    let name = path::epoch(bench.log.log_id(), 2, epoch);
    let whole = fs::read_to_string(bench.folder.join(&name)).unwrap();
    let another = whole.replace(&epoch.to_string(), &uuid::Uuid::nil().to_string());
    for damaged in [&whole[..whole.len() - 1], "", &another] {
        fs::write(bench.folder.join(&name), damaged).unwrap();
        assert_eq!(problems(&bench).await, [name.as_str()], "{damaged}");
    }
}

/// The sample's promise: every object is read by one of the runs, so that a flipped bit in any is found by one of them.
#[tokio::test]
async fn a_flipped_bit_is_found_by_one_run_of_a_sample() {
    let bench = everything().await;
    let parts = 4;
    for name in bench.objects().into_keys() {
        if !["tenants/", "events/", "messages/"].iter().any(|folder| name.starts_with(folder)) {
            continue; // manifests, records and schemas are read by every run
        }
        let path = bench.folder.join(&name);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let mut found = 0;
        for part in 1..=parts {
            let sample: Sample = format!("{part}/{parts}").parse().unwrap();
            let report = verify(&bench.archive, sample, |_, _| {}).await.unwrap();
            found += u32::from(report.problems.iter().any(|problem| problem.path == name));
        }
        assert!(found >= 1, "{name}");
        fs::write(&path, &whole).unwrap();
    }
}
