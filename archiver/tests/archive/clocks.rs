//! Clocks that jump: log time is the running maximum of append times, so no hour ends twice.

use std::time::Instant;

use archive::{
    history::Names,
    path,
    verify::{Sample, verify},
};
use eventlog::EventLog;
use model::{Action, BackupId, Partition, Timestamp};

use crate::{
    archiving::{at, tick},
    bench::Bench,
    commands::{command, push, say},
};

/// Pushes at these times, then archives; the names of the hours.
async fn hours(times: &[Timestamp]) -> Vec<String> {
    let bench = Bench::new(1);
    for (number, time) in times.iter().enumerate() {
        let message = say(&format!("message {number}"));
        bench.log.at(*time, &push("acme/user/ann", "ann", &[message]));
    }
    let last = times.iter().max().copied().unwrap();
    tick(&bench, last.plus_micros(2 * 3_600_000_000));
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    assert!(bench.check().await > 0);
    let report = verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    let names = Names::list(&bench.archive, bench.log.log_id(), Partition::new(0)).await.unwrap();
    let name = |path: String| path.rsplit('/').next().unwrap().replace(".jsonl.gz", "");
    names.hours().map(name).collect()
}

#[tokio::test]
async fn a_clock_that_is_set_back_ends_no_hour_twice() {
    let times = [
        at("2025-12-30T10:00:00Z"),
        at("2025-12-30T11:00:00Z"),
        at("2025-12-30T09:30:00Z"),
        at("2025-12-29T23:59:59Z"),
        Timestamp::EPOCH,
        Timestamp::from_micros(-1),
        at("2025-12-30T11:00:00.000001Z"),
        at("2025-12-30T12:00:00Z"),
    ];
    assert_eq!(hours(&times).await, ["2025-12-30-10", "2025-12-30-11", "2025-12-30-12"]);
}

/// Whatever comes after it is of its hour, until the other clocks are there; nothing is lost.
#[tokio::test]
async fn a_clock_that_jumps_ahead_ends_the_hour_and_begins_a_long_one() {
    let times = [
        at("2025-12-30T10:00:00Z"),
        at("2125-12-30T10:00:00Z"),
        at("2025-12-30T10:00:01Z"),
        at("2025-12-30T23:00:00Z"),
        at("2126-01-05T10:00:00Z"),
    ];
    assert_eq!(hours(&times).await, ["2025-12-30-10", "2125-12-30-10", "2126-01-05-10"]);
}

/// The log's clock is far behind the archiver's: no tick ends the hour, and not many are tried.
#[tokio::test]
async fn a_log_whose_clock_is_behind_is_not_filled_with_ticks() {
    let bench = Bench::new(1);
    let (open, ann) = (at("2025-12-30T10:00:00Z"), "acme/user/ann");
    bench.log.set_time(open);
    bench.set_time(at("2025-12-30T12:00:00Z"));
    let begun = Instant::now();
    let running = bench.start();
    // As many times as this it has read, and looked for what is over.
    for number in 0..20 {
        let backup = BackupId(uuid::Uuid::from_u128(number));
        bench.log.at(open, &command(ann, "ann", Action::BackupRequested { backup }));
        let manifest = path::on_demand_manifest(bench.log.log_id(), Partition::new(0), backup);
        bench.written(&manifest).await;
    }
    running.stop().await;
    let ticks = bench.log.all().iter().filter(|record| record.key.is_empty()).count();
    let most = 1 + begun.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&ticks), "{ticks} ticks");
}
