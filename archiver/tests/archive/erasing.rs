//! What was erased is gone from the archive, and all else is as it was.

use std::{collections::BTreeSet, fs, sync::Arc};

use archive::{
    Archive, history,
    history::Names,
    manifest::ManifestReader,
    replay::Replay,
    table,
    verify::{Report, Sample, verify},
};
use arrow_array::{Array, BinaryArray, StringArray};
use eventlog::{EventLog, ReadLimit};
use model::{Action, BackupId, ErasedFrom, Fact, LogFold, OrgRole, Partition, ScopeKey};
use object_store::memory::InMemory;
use serde_json::json;
use uuid::Uuid;

use crate::{
    archiving::{at, tick},
    bench::{Bench, open},
    commands::{command, push, say},
    reading::{damaged, proves, remove},
    recovering::archive_all,
    unreliable::{Cause, Fails, Operation, Unreliable},
    verifying::{files, is_well_meanwhile},
};

pub(crate) const ANN: &str = "acme/user/ann";
const BOB: &str = "acme/user/bob";
const SECRET: &str = "hunter2";
pub(crate) const P: Partition = Partition::new(0);

pub(crate) fn secret(number: u32) -> serde_json::Value {
    json!({"type": "decision", "content": format!("{SECRET} {number}"), "metadata": {"note": format!("meta-{SECRET}")}})
}

/// Two days of secrets, backups of all kinds, an erasure on the third, and what comes after. The offset of the erasure.
pub(crate) fn a_story(bench: &Bench) -> u64 {
    secrets(bench);
    an_erasure(bench)
}

pub(crate) fn secrets(bench: &Bench) {
    let log = &bench.log;
    for (number, time) in
        [(0, "2025-12-30T10:00:00Z"), (1, "2025-12-30T11:00:00Z"), (2, "2025-12-31T09:00:00Z")]
    {
        log.at(at(time), &push(ANN, "ann", &[secret(number), secret(number + 10)]));
        log.at(at(time), &push(BOB, "bob", &[say(&format!("bob's {number}"))]));
    }
    let backup = BackupId(Uuid::from_u128(9));
    log.at(at("2025-12-31T09:10:00Z"), &command(ANN, "ann", Action::BackupRequested { backup }));
    log.at(at("2026-01-01T09:00:00Z"), &push(ANN, "ann", &[secret(3)]));
}

pub(crate) fn an_erasure(bench: &Bench) -> u64 {
    let log = &bench.log;
    let day = "2026-01-01T";
    let on = |time: &str| at(&format!("{day}{time}Z"));
    log.at(
        on("10:00:00"),
        &command(BOB, "bob", Action::BackupRequested { backup: BackupId(Uuid::from_u128(10)) }),
    );
    log.at(on("10:10:00"), &push(ANN, "ann", &[secret(4)]));
    let mut erase = command(ANN, "root", Action::ScopeErased);
    erase.org_role = OrgRole::Admin;
    let erased = log.at(on("10:20:00"), &erase).offset.get();
    log.at(on("10:30:00"), &push(ANN, "ann", &[say("after"), say("again")]));
    log.at(on("11:00:00"), &push(BOB, "bob", &[say("bob goes on")]));
    tick(bench, on("12:00:00"));
    erased
}

/// Where it stands that nothing is left in a copy.
pub(crate) fn mark(bench: &Bench, offset: u64, from: ErasedFrom) -> String {
    let log = bench.log.log_id();
    format!("manifests/{log}/partition=0/erasures/{offset}/{}", from.as_str())
}

/// The objects that say the secret, whatever they are packed in.
pub(crate) async fn tellers(archive: &Archive) -> BTreeSet<String> {
    let mut tellers = BTreeSet::new();
    let folders =
        ["_schemas", "events", "manifests", "messages", "redactions", "segments", "tenants"];
    for folder in folders {
        for (path, _) in archive.list(folder).await.unwrap() {
            let Ok(mut object) = archive.fetch(&path).await else { continue };
            let bytes = object.bytes().unwrap();
            let mut content = bytes.clone();
            if path.ends_with(".gz") {
                let mut lines = archive.fetch(&path).await.unwrap().lines(&path).unwrap();
                while let Some(line) = lines.next_line().unwrap() {
                    content.extend(line);
                }
            }
            if path.ends_with(".parquet") {
                for batch in table::rows(bytes.into(), &path).unwrap() {
                    for column in batch.columns() {
                        let any = column.as_any();
                        if let Some(column) = any.downcast_ref::<StringArray>() {
                            column.iter().flatten().for_each(|text| content.extend(text.bytes()));
                        } else if let Some(column) = any.downcast_ref::<BinaryArray>() {
                            column.iter().flatten().for_each(|bytes| content.extend(bytes));
                        }
                    }
                }
            }
            if content.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
                tellers.insert(path);
            }
        }
    }
    tellers
}

pub(crate) async fn is_well(archive: &Archive) -> Report {
    let report = verify(archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.orphans, [""; 0]);
    report
}

pub(crate) async fn done(bench: &Bench, erased: u64) {
    bench
        .eventually("the erasure", async || {
            let log = bench.log.log_id();
            let folder = format!("manifests/{log}/partition=0/erasures");
            let there = bench.archive.list(&folder).await.unwrap_or_default();
            let is_there = |from| there.iter().any(|(path, _)| *path == mark(bench, erased, from));
            is_there(ErasedFrom::Backups) && is_there(ErasedFrom::Tables)
        })
        .await;
}

/// Archives all of the log, until the erasure is done.
pub(crate) async fn until_erased(bench: &Bench, erased: u64) {
    let mut running = bench.start();
    running.during(done(bench, erased)).await;
    running.during(bench.sealed()).await;
    running.stop().await;
}

/// Backups and tables go while they are verified.
#[tokio::test]
async fn what_is_erased_while_it_is_verified_is_no_problem() {
    let bench = Bench::new(1);
    secrets(&bench);
    archive_all(&bench, "cache").await;
    let before = files(&bench);
    let erased = an_erasure(&bench);
    until_erased(&bench, erased).await;
    let report = is_well_meanwhile(&bench, &before).await;
    assert!(report.redacted > 0 && report.expired > 0, "{report:?}");
}

/// What the newest backup of a scope shows, and that it is what the log folds to.
async fn newest(bench: &Bench, archive: &Archive, scope: &str) -> Vec<String> {
    let scope: ScopeKey = scope.parse().unwrap();
    let names = Names::list(archive, bench.log.log_id(), P).await.unwrap();
    let mut newest = None;
    for path in names.hours() {
        let object = archive.fetch(&path).await.unwrap();
        let mut manifest = ManifestReader::new(object, &path).unwrap();
        let next = manifest.header.next_offset.get();
        while let Some(line) = manifest.next_scope().unwrap() {
            if line.scope == scope
                && let Some(backup) = line.backup
            {
                newest = Some((backup.id, next));
            }
        }
    }
    let (id, next) = newest.unwrap();
    let found = history::find(archive, bench.log.log_id(), P, &scope, id).await.unwrap().unwrap();
    let mut state = found.open(archive).await.unwrap();
    let mut contents = Vec::new();
    while let Some(message) = state.next_message().unwrap() {
        contents.extend(message.body.map(|body| body.content));
    }
    let fold = bench.fold_up_to(P, next);
    let mut folded: Vec<String> = fold.scopes[&scope]
        .messages
        .values()
        .filter_map(|message| message.body.as_ref().map(|body| body.content.clone()))
        .collect();
    let mut sorted = contents.clone();
    folded.sort();
    sorted.sort();
    assert_eq!(sorted, folded);
    contents
}

/// What the archive has of the log folds to what the log does.
async fn check_replay(bench: &Bench, archive: &Archive) {
    let until = bench.sealed_until_in(archive, P).await;
    bench.log.cut(P, until);
    let replay = Replay::over(bench.log.clone() as Arc<dyn EventLog>, archive.clone());
    let mut reader = replay.reader(&[(P, model::Offset::ZERO)]).unwrap();
    let mut fold = LogFold::default();
    let mut read = 0;
    while read < until {
        let limit = ReadLimit { records_max: 100, bytes_max: 1 << 20 };
        for record in reader.next(limit, std::time::Duration::ZERO).await.unwrap() {
            if record.offset.get() < until {
                let event = schemas::decode(&record.value).ok();
                fold.apply(record.place(), record.append_time, &record.key, event.as_ref())
                    .unwrap();
                read += 1;
            }
        }
    }
    bench.log.cut(P, 0);
    let whole = bench.fold_up_to(P, until);
    assert_eq!(fold.dead_letters, whole.dead_letters);
    for (key, folded) in &whole.scopes {
        let other = &fold.scopes[key];
        assert_eq!(folded.scope.heading, other.scope.heading);
        assert_eq!(folded.scope.commands, other.scope.commands);
        assert_eq!(folded.messages, other.messages);
    }
}

#[tokio::test]
async fn what_was_erased_is_in_no_object_any_more() {
    let bench = Bench::new(1);
    let erased = a_story(&bench);
    until_erased(&bench, erased).await;

    assert_eq!(tellers(&bench.archive).await, BTreeSet::new());
    let report = is_well(&bench.archive).await;
    assert!(report.redacted > 0 && report.expired > 0, "{report:?}");
    proves(&bench);
    assert_eq!(newest(&bench, &bench.archive, ANN).await, ["after", "again"]);
    assert_eq!(newest(&bench, &bench.archive, BOB).await.len(), 4);
    let ann = bench.paths("tenants/acme/users/ann");
    assert_eq!(
        ann,
        BTreeSet::from(["tenants/acme/users/ann/incremental/2026-01-01-10.jsonl.gz".into()])
    );
    assert_eq!(bench.paths("tenants/acme/users/bob/full").len(), 2);

    // Everybody was told: of each backup from before, and of the erasure.
    let said = bench.said();
    let (mut made, mut expired, mut copies) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for fact in said {
        match fact {
            Fact::BackupCompleted(backup) if backup.scope.to_string() == ANN => {
                made.insert(backup.path);
            }
            Fact::BackupExpired(about) => {
                assert_eq!(about.scope.to_string(), ANN);
                expired.insert(about.id);
            }
            Fact::ErasureDone(done) => {
                assert_eq!((done.scope.to_string(), done.cursor.get()), (ANN.to_owned(), 9));
                copies.push(done.from);
            }
            _ => {}
        }
    }
    assert_eq!(expired.len(), made.len() - 1, "{made:?}");
    assert_eq!(copies, [ErasedFrom::Backups, ErasedFrom::Tables], "the log has all of it");
    check_replay(&bench, &bench.archive).await;
}

/// What an erasure wrote is missed, damaged or gone: what is to be done, what took a table's place, what is left of a full.
#[tokio::test]
async fn what_an_erasure_wrote_is_verified() {
    let bench = Bench::new(1);
    let erased = a_story(&bench);
    until_erased(&bench, erased).await;
    is_well(&bench.archive).await;
    let request = mark(&bench, erased, ErasedFrom::Log).replace("/log", "/request.json");
    let written: Vec<String> =
        bench.paths("redactions").into_iter().chain([request.clone()]).collect();
    let is_full = |name: &&String| name.ends_with(".jsonl.gz");
    assert_eq!(written.iter().filter(is_full).count(), 1, "{written:?}");
    assert!(written.len() > 3, "{written:?}");
    // What was rewritten may have been compacted since: nobody needs to know any more.
    let is_there = |record: &[u8]| {
        let record: serde_json::Value = serde_json::from_slice(record).unwrap();
        bench.folder.join(record["new"]["path"].as_str().unwrap()).exists()
    };
    let mut tables = 0;
    for name in &written {
        let path = bench.folder.join(name);
        let whole = fs::read(&path).unwrap();
        let problems = async || {
            let report = verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap();
            report.problems.into_iter().map(|problem| problem.path).collect::<BTreeSet<_>>()
        };
        for damaged in [&whole[..whole.len() - 1], b""] {
            fs::write(&path, damaged).unwrap();
            assert!(problems().await.contains(name), "{name}");
        }
        fs::remove_file(&path).unwrap();
        let missed = problems().await;
        let is_missed = match is_full(&name) {
            true => missed.contains(name),
            // The hour in which it was asked for.
            false if *name == request => {
                missed.iter().any(|path| path.contains("hour/2026-01-01-10"))
            }
            false if !is_there(&whole) => true,
            false => {
                tables += 1;
                missed.iter().any(|path| path.ends_with(".parquet"))
            }
        };
        assert!(is_missed, "{name}: {missed:?}");
        fs::write(&path, &whole).unwrap();
    }
    assert!(tables >= 4, "{tables}");
    for name in written.iter().filter(|name| is_full(name) || **name == request) {
        damaged(&bench, name, remove);
    }
    is_well(&bench.archive).await;
}

/// Nothing but what the archive has left goes into another cache: it goes on as one that has folded the log does.
#[tokio::test]
async fn a_cache_is_made_again_from_what_is_left() {
    let bench = Bench::new(1);
    let erased = a_story(&bench);
    until_erased(&bench, erased).await;
    let until = bench.sealed_until(P).await;
    bench.log.cut(P, until);
    bench.log.at(at("2026-01-01T13:00:00Z"), &push(ANN, "ann", &[say("later"), say("after")]));
    tick(&bench, at("2026-01-02T01:00:00Z"));
    tick(&bench, at("2026-01-02T02:00:00Z"));
    archive_all(&bench, "another cache").await;
    assert_eq!(newest(&bench, &bench.archive, ANN).await, ["after", "again", "later"]);
    // The log has let go of what came before the erasure.
    let log = mark(&bench, erased, ErasedFrom::Log);
    let mut running = bench.start_with("another cache", open(&bench.folder));
    running.during(bench.written(&log)).await;
    running.stop().await;
    is_well(&bench.archive).await;
    proves(&bench);
}

/// The store fails now and then, and the archiver is killed: in the end it is as if nothing had happened.
#[tokio::test]
async fn an_erasure_that_was_stopped_anywhere_goes_on() {
    for nth in 1..12_u32 {
        let store = Arc::new(InMemory::new());
        let whole = Unreliable::over(&store, |_| None);
        let bench = Bench::on(1, whole.clone());
        let erased = a_story(&bench);
        let (mut deletes, mut is_done) = (0, false);
        let failing = Unreliable::over(&store, move |operation| {
            deletes += u32::from(operation == Operation::Delete);
            // Everything hangs from the n-th deletion on.
            is_done |= deletes >= nth;
            let after = operation == Operation::Delete && deletes == nth && nth % 2 == 0;
            match (is_done, after) {
                (false, _) => None,
                (true, true) => Some(Fails::After(Cause::Down)),
                (true, false) => Some(Fails::Hangs),
            }
        });
        let running = bench.start_with("cache", failing);
        bench
            .eventually("a part of it", async || {
                let folder = format!("manifests/{}/partition=0/erasures", bench.log.log_id());
                !whole.list(&folder).await.unwrap().is_empty()
            })
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        running.kill().await;
        let mut running = bench.start_with("cache", whole.clone());
        running.during(done(&bench, erased)).await;
        running.stop().await;
        assert_eq!(tellers(&whole).await, BTreeSet::new(), "{nth}");
        is_well(&whole).await;
        assert_eq!(newest(&bench, &whole, ANN).await, ["after", "again"], "{nth}");
    }
}

/// Whoever has erased twice has nothing of before the second, also of tables that were written anew for the first.
#[tokio::test]
async fn what_was_erased_twice_is_gone_twice() {
    let bench = Bench::new(1);
    let first = a_story(&bench);
    let mut running = bench.start();
    running.during(done(&bench, first)).await;
    running.stop().await;
    bench.log.at(at("2026-01-01T12:10:00Z"), &push(ANN, "ann", &[secret(5)]));
    let erase = command(ANN, "ann", Action::ScopeErased);
    let second = bench.log.at(at("2026-01-01T12:20:00Z"), &erase).offset.get();
    // Bob's too: his day's tables are replaced once more.
    let bobs = command(BOB, "bob", Action::ScopeErased);
    let third = bench.log.at(at("2026-01-01T12:21:00Z"), &bobs).offset.get();
    tick(&bench, at("2026-01-01T13:00:00Z"));
    let mut running = bench.start();
    running.during(done(&bench, second)).await;
    running.during(done(&bench, third)).await;
    running.stop().await;
    assert_eq!(tellers(&bench.archive).await, BTreeSet::new());
    assert_eq!(newest(&bench, &bench.archive, ANN).await, [""; 0]);
    assert_eq!(newest(&bench, &bench.archive, BOB).await, [""; 0]);
    is_well(&bench.archive).await;
    proves(&bench);
    check_replay(&bench, &bench.archive).await;
}
