//! Versions that are past are kept, the same whatever the batches.

use model::{Event, LogFold, PastResult, Timestamp, history::past};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    bench::{Bench, Running},
    commands::{push, say, scope},
};

const ANN: &str = "acme/user/ann";

/// Offset, change, how, the cursor it gave way to, and the version.
type Row = (i64, i32, String, i64, Value);

async fn rows(bench: &Bench) -> Vec<Row> {
    let query = "select record_offset, change, result, won_by, json from message_history
        order by record_offset, change";
    let rows: Vec<(i64, i32, String, i64, String)> =
        sqlx::query_as(query).fetch_all(&bench.pool).await.unwrap();
    rows.into_iter()
        .map(|(offset, change, result, by, json)| {
            (offset, change, result, by, serde_json::from_str(&json).unwrap())
        })
        .collect()
}

async fn append_story(bench: &Bench) -> Vec<Row> {
    let id = Uuid::new_v4();
    let edit = |content: &str, base: u64, second: u32| {
        json!({"id": id, "type": "decision", "content": content, "base_cursor": base,
            "updated_at": format!("2025-12-30T12:00:{second:02}Z")})
    };
    let delete = |base: u64| json!({"id": id, "deleted": true, "base_cursor": base});
    let pushes = [
        vec![edit("one", 0, 10)],                            // created, 1
        vec![edit("two", 1, 11), say("another")],            // updated, 2; created, 3
        vec![edit("late", 0, 5)],                            // stale
        vec![delete(1)],                                     // superseded
        vec![edit("three", 2, 12), edit("four", 4, 13)],     // updated, 4 and 5
        vec![delete(5)],                                     // deleted, 6
        vec![edit("five", 0, 20), say("another"), say("x")], // revived, 7; duplicate; created, 8
    ];
    let mut fold = LogFold::default();
    let mut expected = Vec::new();
    for messages in pushes {
        let command = push(ANN, "ann", &messages);
        let place = bench.append(&command).await;
        let record = bench.log.read_one(place).await.unwrap().unwrap();
        let Event::Command(command) = schemas::decode(&record.value).unwrap() else { panic!() };
        let before = fold.scopes.get(&scope(ANN)).map(|f| f.messages.clone()).unwrap_or_default();
        let applied = fold.apply_command(&command, record.append_time).unwrap();
        let mut pasts = past(&fold.scopes[&scope(ANN)].scope, &command, &applied);
        pasts.sort_by_key(|past| past.change);
        for past in pasts {
            let json = past.json.unwrap_or_else(|| before[&past.id].to_json());
            let (offset, change) = (place.offset.as_i64(), past.change as i32);
            let (result, by) = (past.result.as_str().to_owned(), past.won_by.as_i64());
            expected.push((offset, change, result, by, serde_json::from_str(&json).unwrap()));
        }
    }
    expected
}

async fn is_kept(start: fn(&Bench) -> Running) {
    let bench = Bench::new().await;
    let expected = append_story(&bench).await;
    let running = start(&bench);
    bench.check().await;
    let found = rows(&bench).await;
    assert_eq!(found, expected);
    let shown: Vec<_> = found
        .iter()
        .map(|(_, _, result, by, json)| (result.as_str(), *by, json["content"].as_str()))
        .collect();
    let replaced = PastResult::Replaced.as_str();
    assert_eq!(
        shown,
        [
            (replaced, 2, Some("one")),
            ("stale", 2, Some("late")),
            ("superseded", 2, None),
            (replaced, 4, Some("two")),
            (replaced, 5, Some("three")),
            (replaced, 6, Some("four")),
            (replaced, 7, None),
        ]
    );
    running.stop().await;
}

#[tokio::test]
async fn past_versions_are_kept_in_one_batch() {
    is_kept(Bench::start).await;
}

#[tokio::test]
async fn past_versions_are_kept_over_many_batches() {
    is_kept(Bench::start_with_small_batches).await;
}

#[tokio::test]
async fn what_has_been_past_for_long_is_deleted_by_the_logs_time() {
    let bench = Bench::new().await;
    append_story(&bench).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    let partition = eventlog::partition_of(ANN.as_bytes(), eventlog::EMBEDDED_PARTITIONS);
    let day = 24 * 3_600 * 1_000_000_i64;
    for (age, left) in [(90 * day - 60_000_000, 7), (90 * day + 60_000_000, 0)] {
        let now: i64 = sqlx::query_scalar("select time_us from positions where partition = $1")
            .bind(partition.get() as i32)
            .fetch_one(&bench.pool)
            .await
            .unwrap();
        let old = Timestamp::from_micros(now - age).as_micros();
        let age = "update message_history set decided_at_us = $1";
        sqlx::query(age).bind(old).execute(&bench.pool).await.unwrap();
        bench.start().ready_then_stop().await;
        assert_eq!(rows(&bench).await.len(), left);
    }
}
