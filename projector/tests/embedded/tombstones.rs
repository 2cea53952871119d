//! Expired tombstones have no rows, the same whatever the batches; finding them reads no live message.

use model::{Action, Cursor};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    bench::{Bench, Running},
    commands::{command, push, say},
    equation::eventually,
    random,
};

const ANN: &str = "acme/user/ann";

async fn expire(bench: &Bench, up_to: i64) {
    let action = Action::TombstonesExpired { up_to: Cursor::from_i64(up_to) };
    bench.append(&command(ANN, "ann", action)).await;
}

fn edit(id: Uuid, content: &str, base: u64) -> Value {
    json!({"id": id, "type": "decision", "content": content, "base_cursor": base})
}

fn delete(id: Uuid, base: u64) -> Value {
    json!({"id": id, "deleted": true, "base_cursor": base})
}

/// Each id by itself goes through what can come to it in one batch, or in two.
async fn append_story(bench: &Bench) {
    let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
    let push = async |messages: &[Value]| {
        bench.append(&push(ANN, "ann", messages)).await;
    };
    push(&[edit(a, "x", 0), edit(b, "y", 0), edit(c, "z", 0)]).await;
    push(&[delete(a, 3)]).await;
    expire(bench, 4).await;
    push(&[edit(a, "stale", 1), edit(a, "anew", 0)]).await;
    push(&[delete(b, 5), delete(c, 5)]).await;
    expire(bench, 6).await;
    push(&[edit(b, "y", 0), delete(c, 7), edit(c, "z", 6)]).await;
    push(&[delete(b, 9), edit(b, "revived", 0)]).await;
    expire(bench, 100).await;
    push(&[delete(a, 11), say("the last")]).await;
}

async fn is_folded(start: fn(&Bench) -> Running) {
    let bench = Bench::new().await;
    append_story(&bench).await;
    let running = start(&bench);
    bench.check().await;
    running.stop().await;
}

#[tokio::test]
async fn an_expiry_in_one_batch() {
    is_folded(Bench::start).await;
}

#[tokio::test]
async fn an_expiry_over_many_batches() {
    is_folded(Bench::start_with_small_batches).await;
}

async fn random_logs_are_folded(start: fn(&Bench) -> Running) {
    let (bench, mut runner) = (Bench::new().await, TestRunner::deterministic());
    for number in 1..=3 {
        let log = random::logs(60).new_tree(&mut runner).unwrap().current();
        for (_, mut command) in log {
            // Those of another log are other commands.
            command.id.0 = Uuid::from_u128(command.id.0.as_u128() + number * 1_000);
            bench.append(&command).await;
        }
    }
    let running = start(&bench);
    bench.check().await;
    running.stop().await;
    let floors: i64 = sqlx::query_scalar("select count(*) from scopes where floor > 0")
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert!(floors > 0, "nothing has expired");
}

#[tokio::test]
async fn random_expiries_in_large_batches() {
    random_logs_are_folded(Bench::start).await;
}

#[tokio::test]
async fn random_expiries_in_small_batches() {
    random_logs_are_folded(Bench::start_with_small_batches).await;
}

/// Index entries that were read, by all sessions that have ended.
async fn entries_read(bench: &Bench, index: &str) -> (i64, i64) {
    let query = "select idx_scan, idx_tup_read from pg_stat_user_indexes where indexrelname = $1";
    sqlx::query_as(query).bind(index).fetch_one(&bench.pool).await.unwrap()
}

#[tokio::test]
async fn live_messages_are_not_read_to_find_tombstones() {
    let bench = Bench::new().await;
    for part in 0..8 {
        let messages: Vec<Value> = (0..500).map(|n| say(&format!("{part}/{n}"))).collect();
        bench.append(&push(ANN, "ann", &messages)).await;
    }
    let gone = Uuid::from_u128(1);
    bench.append(&push(ANN, "ann", &[edit(gone, "gone", 0)])).await;
    let running = bench.start();
    bench.caught_up().await;
    running.stop().await;
    let before = entries_read(&bench, "messages_pkey").await.1;
    bench.append(&push(ANN, "ann", &[delete(gone, 4_001)])).await;
    expire(&bench, 4_002).await;
    let running = bench.start();
    bench.caught_up().await;
    running.stop().await;
    eventually("the index of tombstones is used", async || {
        (entries_read(&bench, "messages_tombstones").await.0 > 0).then_some(())
    })
    .await;
    let read = entries_read(&bench, "messages_pkey").await.1 - before;
    assert!(read < 100, "{read} entries of 4,000 live messages were read");
    bench.check().await;
}
