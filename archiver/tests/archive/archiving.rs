//! Hours and days become backups that show what the log folds to.

use archiver::ArchiverError;
use eventlog::EventLog;
use model::{
    Action, BackupId, BackupType, Command, CommandId, Event, Fact, Partition, Role, Timestamp,
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::json;

use crate::{
    bench::{Bench, open},
    commands::{command, create, push, remove_member, say, set_member},
    held::{killed_at_each_change, left},
    random,
};

const HOUR: i64 = 3_600_000_000;

pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

/// A tick in every partition: what is open before it is over.
pub(crate) fn tick(bench: &Bench, time: Timestamp) {
    let value = bytes::Bytes::from(schemas::encode(&Event::Tick).unwrap());
    for partition in (0..bench.log.partitions()).map(Partition::new) {
        bench.log.put(time, partition, bytes::Bytes::new(), value.clone());
    }
}

/// Three hours of one day, then the next day.
pub(crate) fn a_day(bench: &Bench) {
    for (number, (time, mut command)) in a_day_of_commands().into_iter().enumerate() {
        // The same in every log that it is played to.
        command.id = CommandId(uuid::Uuid::from_u128(1_000 + number as u128));
        bench.log.at(time, &command);
    }
    tick(bench, at("2025-12-31T00:00:00Z"));
    tick(bench, at("2025-12-31T01:00:00Z"));
}

fn a_day_of_commands() -> Vec<(Timestamp, Command)> {
    let team = "acme/team/web";
    let id = uuid::Uuid::from_u128(1);
    let edit = |content: &str, base: u64| json!({"id": id, "type": "decision", "content": content, "base_cursor": base});
    let delete = json!({"id": id, "deleted": true, "base_cursor": 4});
    vec![
        (at("2025-12-30T10:00:00Z"), create(team, "ann")),
        (at("2025-12-30T10:10:00Z"), set_member(team, "ann", "bob", Role::Member)),
        (at("2025-12-30T10:15:00Z"), push(team, "bob", &[say("x"), say("y"), edit("z", 0)])),
        (at("2025-12-30T10:20:00Z"), push("acme/user/ann", "ann", &[say("x")])),
        (at("2025-12-30T11:59:59.999999Z"), push(team, "bob", &[edit("z2", 3), say("x")])),
        (at("2025-12-30T12:00:00Z"), push(team, "ann", &[delete])),
        (at("2025-12-30T12:30:00Z"), remove_member(team, "ann", "bob")),
    ]
}

/// WF-CS-007 and WF-CS-008: the founding names, an incremental only for who changed, a full of all.
#[tokio::test]
async fn hours_become_incrementals_and_days_fulls() {
    let bench = Bench::new(2);
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    let names: Vec<String> = bench.objects().into_keys().collect();
    let backups: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| name.starts_with("tenants/")).collect();
    assert_eq!(
        backups,
        [
            "tenants/acme/teams/web/full/2025-12-31.jsonl.gz",
            "tenants/acme/teams/web/incremental/2025-12-30-10.jsonl.gz",
            "tenants/acme/teams/web/incremental/2025-12-30-11.jsonl.gz",
            "tenants/acme/teams/web/incremental/2025-12-30-12.jsonl.gz",
            "tenants/acme/users/ann/full/2025-12-31.jsonl.gz",
            "tenants/acme/users/ann/incremental/2025-12-30-10.jsonl.gz",
        ]
    );
    assert_eq!(bench.check().await, backups.len());
}

#[tokio::test]
async fn an_archiver_killed_anywhere_ends_with_the_same_bytes() {
    let undisturbed = Bench::new(2);
    a_day(&undisturbed);
    let running = undisturbed.start();
    undisturbed.sealed().await;
    running.stop().await;
    let bench = Bench::new(2);
    a_day(&bench);
    let changes = killed_at_each_change(&bench, "cache", async || bench.sealed().await).await;
    // With every number of manifests that there can be.
    let all = undisturbed.paths("manifests").len();
    assert_eq!(left(&changes, |name| name.starts_with("manifests/")), (0..=all).collect());
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    assert_eq!(bench.objects(), undisturbed.objects());
}

#[tokio::test]
async fn two_archivers_at_once_end_with_the_same_bytes() {
    let alone = Bench::new(2);
    a_day(&alone);
    let running = alone.start();
    alone.sealed().await;
    running.stop().await;
    let bench = Bench::new(2);
    a_day(&bench);
    let running = [bench.start(), bench.start_with("other", open(&bench.folder))];
    bench.sealed().await;
    for running in running {
        running.stop().await;
    }
    assert_eq!(bench.objects(), alone.objects());
}

#[tokio::test]
async fn a_cache_that_was_lost_is_made_again_from_the_log() {
    let bench = Bench::new(2);
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    let before = bench.objects();
    bench.log.at(at("2025-12-31T02:00:00Z"), &push("acme/user/ann", "ann", &[say("later")]));
    tick(&bench, at("2025-12-31T03:00:00Z"));
    let running = bench.start_with("another cache", open(&bench.folder));
    bench.sealed().await;
    running.stop().await;
    let after = bench.objects();
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)));
    assert!(after.contains_key("tenants/acme/users/ann/incremental/2025-12-31-02.jsonl.gz"));
    bench.check().await;
}

#[tokio::test]
async fn what_the_archive_has_otherwise_is_never_overwritten() {
    let bench = Bench::new(1);
    a_day(&bench);
    let path = bench.folder.join("tenants/acme/users/ann/incremental/2025-12-30-10.jsonl.gz");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut other = archive::object::LinesWriter::new(&Default::default());
    other.push(b"{}").unwrap();
    let other = other.finish().unwrap().bytes().unwrap();
    std::fs::write(&path, &other).unwrap();
    let error = bench.start().error().await;
    assert!(matches!(error, ArchiverError::Archive(_)), "{error}");
    assert!(error.to_string().contains("users/ann/incremental/2025-12-30-10"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), other);
}

/// WF-CS-009: what can never be made is said to have failed, and what comes after it is archived.
#[tokio::test]
async fn a_backup_on_demand_that_cannot_be_made_fails_and_nothing_waits_for_it() {
    let bench = Bench::new(1);
    let log = bench.log.log_id();
    let other = {
        let mut other = archive::object::LinesWriter::new(&Default::default());
        other.push(b"{}").unwrap();
        other.finish().unwrap().bytes().unwrap()
    };
    let moment = at("2025-12-30T10:00:00Z");
    let mut spoilt = Vec::new();
    for (number, path) in [
        (1, "tenants/acme/users/ann/on-demand/2025-12-30T10-00-00Z-{id}.jsonl.gz".to_owned()),
        (2, format!("manifests/{log}/partition=0/on-demand/{{id}}.jsonl.gz")),
    ] {
        let id = BackupId(uuid::Uuid::from_u128(number));
        let path = bench.folder.join(path.replace("{id}", &id.to_string()));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &other).unwrap();
        spoilt.push((id, path));
    }
    bench.log.at(moment, &push("acme/user/ann", "ann", &[say("x")]));
    let good = BackupId(uuid::Uuid::from_u128(3));
    for id in spoilt.iter().map(|(id, _)| *id).chain([good]) {
        let request = Action::BackupRequested { backup: id };
        bench.log.at(moment, &command("acme/user/ann", "ann", request));
    }
    tick(&bench, at("2025-12-30T11:00:00Z"));
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    let (mut failed, mut completed) = (Vec::new(), Vec::new());
    for fact in bench.said() {
        match fact {
            Fact::BackupFailed { about, backup_type, detail } => {
                assert_eq!(backup_type, BackupType::OnDemand);
                assert!(detail.contains(&about.id.to_string()), "{detail}");
                failed.push(about.id);
            }
            Fact::BackupCompleted(backup) => completed.push(backup.id),
            _ => {}
        }
    }
    assert_eq!(failed, spoilt.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert!(completed.contains(&good) && completed.len() == 2, "{completed:?}");
    for (_, path) in spoilt {
        assert_eq!(std::fs::read(path).unwrap(), other, "left alone");
    }
}

/// `fold(read(archive)) == fold(log)` for whatever happens, over weeks.
#[tokio::test]
async fn the_archive_of_any_log_shows_what_the_log_folds_to() {
    let mut runner = TestRunner::deterministic();
    let mut backups = 0;
    for case in 0..12 {
        let log = random::unerased_logs(60).new_tree(&mut runner).unwrap().current();
        let bench = Bench::new(2);
        let mut last = Timestamp::EPOCH;
        for (number, (time, command)) in log.iter().enumerate() {
            // An hour for each five commands: some hours are touched twice, some days not at all.
            last = time.plus_micros(number as i64 / 5 * HOUR * (1 + case % 3 * 9));
            bench.log.at(last, command);
        }
        tick(&bench, last.plus_micros(48 * HOUR));
        tick(&bench, last.plus_micros(49 * HOUR));
        let running = bench.start();
        bench.sealed().await;
        running.stop().await;
        backups += bench.check().await;
    }
    assert!(backups > 100, "{backups} backups");
}
