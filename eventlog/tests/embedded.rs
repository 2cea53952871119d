//! The embedded log across processes: its lock, and a process that is killed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use eventlog::{LogAddress, LogConfig, OpenError};
use support::*;

/// Names the log's directory to the process that is started to be killed.
const CHILD_DIR: &str = "EVENTLOG_TEST_CHILD_DIR";

/// Not a test: what the child process does. Prints each record once it is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let config = LogConfig::new(LogAddress::Embedded);
    let log = eventlog::open(&config, Path::new(&dir)).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let log = std::sync::Arc::clone(&log);
        writers.spawn(async move {
            for number in 0_u64.. {
                let padding = "x".repeat((number * 613 % 5000) as usize);
                let text = format!("{writer}/{number} {padding}");
                let appended = append(&*log, &format!("key-{writer}"), &text).await;
                println!("\nacknowledged {} {writer}/{number}", appended.place);
            }
        });
    }
    writers.join_next().await;
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends_until_it_is_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The places and texts that the child printed as acknowledged, in whole lines.
fn acknowledged(lines: &str) -> Vec<(model::Place, String)> {
    let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let acknowledged = whole.lines().filter_map(|line| line.strip_prefix("acknowledged "));
    acknowledged
        .filter_map(|line| line.split_once(' '))
        .map(|(place, text)| (place.parse().unwrap(), text.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let home = Home::embedded();
    let mut expected = Vec::new();
    for round in 1..=3 {
        let mut child = start_child(home.dir.path());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        for _ in 0..200 * round {
            output.read_line(&mut lines).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_string(&mut lines).unwrap();
        let new = acknowledged(&lines);
        assert!(new.len() > 50, "{} records were acknowledged", new.len());
        expected.extend(new);
    }
    let log = home.open().await;
    for (place, text) in &expected {
        let record = log.read_one(*place).await.unwrap().unwrap();
        let found = String::from_utf8(record.value.to_vec()).unwrap();
        assert_eq!(found.split(' ').next(), Some(text.as_str()), "{place}");
    }
    let mut total = 0;
    for (partition, start) in from_start(&*log).await {
        total += log.bounds(partition).await.unwrap().end.get() - start.get();
    }
    let total = usize::try_from(total).unwrap();
    assert!(total >= expected.len());
    read_exactly(&mut *log.reader(&from_start(&*log).await).unwrap(), total).await;
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_log() {
    let home = Home::embedded();
    let mut child = start_child(home.dir.path());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    while acknowledged(&lines).is_empty() {
        output.read_line(&mut lines).unwrap();
    }
    let refused = home.try_open().await.err().unwrap();
    assert!(refused.to_string().contains(&child.id().to_string()), "{refused}");
    let OpenError::Held { pid, path, since } = refused else { panic!("{refused}") };
    assert_eq!((pid, path.as_path()), (Some(child.id()), home.dir.path()));
    assert!(model::Timestamp::parse_rfc3339(&since).is_some(), "{since}");
    child.kill().unwrap();
    child.wait().unwrap();
    let log = home.open().await;
    assert!(log.is_exclusive());
    let held_by_us = home.try_open().await.err().unwrap();
    assert!(matches!(held_by_us, OpenError::Held { pid, .. } if pid == Some(std::process::id())));
}

#[tokio::test]
async fn what_is_no_log_is_refused() {
    let home = Home::embedded();
    std::fs::write(home.dir.path().join("00000000000000000000.log"), "not a log at all").unwrap();
    let refused = home.try_open().await.err().unwrap();
    assert!(matches!(refused, OpenError::Storage { .. }), "{refused}");
    let mut home = Home::embedded();
    home.config.log_partitions = Some(0);
    let refused = home.try_open().await.err().unwrap();
    assert!(matches!(refused, OpenError::InvalidPartitionCount(0)), "{refused}");
}
