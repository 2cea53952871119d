//! A log that lost its end, and went on: the cache has folded what is no more.

use eventlog::{EventLog, partition_of};
use model::{Partition, Timestamp};

use crate::{
    archiving::at,
    bench::Bench,
    commands::{push, say},
    segments::tick,
};

/// A user whose scope is in this partition.
pub(crate) fn user_of(bench: &Bench, partition: Partition) -> String {
    let is_there = |user: &String| {
        partition_of(format!("acme/user/{user}").as_bytes(), bench.log.partitions()) == partition
    };
    (0..).map(|n| format!("u{n}")).find(is_there).unwrap()
}

fn say_at(bench: &Bench, user: &str, time: Timestamp, content: &str) {
    bench.log.at(time, &push(&format!("acme/user/{user}"), user, &[say(content)]));
}

#[tokio::test]
async fn a_cache_that_is_ahead_of_its_log_is_made_again() {
    for regrown in [1, 3, 5] {
        let bench = Bench::new(2);
        let (cut, whole) = (Partition::new(0), Partition::new(1));
        let (ann, bob) = (user_of(&bench, cut), user_of(&bench, whole));
        let open = at("2025-12-30T10:00:00Z");
        (0..5).for_each(|n| say_at(&bench, &ann, open, &format!("first {n}")));
        say_at(&bench, &bob, open, "whole");
        tick(&bench, whole, "2025-12-30T11:00:00Z");
        let running = bench.start();
        let log = bench.log.log_id();
        bench.written(&format!("manifests/{log}/partition=1/hour/2025-12-30-10.jsonl.gz")).await;
        // All that was read with it is folded first.
        running.stop().await;
        bench.log.lose_end(cut, 2);
        let later = open.plus_micros(1_000_000);
        (0..regrown).for_each(|n| say_at(&bench, &ann, later, &format!("second {n}")));
        tick(&bench, cut, "2025-12-30T11:00:00Z");
        let running = bench.start();
        bench.sealed().await;
        running.stop().await;
        assert!(bench.check().await > 0);
    }
}
