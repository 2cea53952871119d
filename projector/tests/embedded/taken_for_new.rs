//! What is new in a scope that the projector knows is folded without looking for it first; what is not new is found out by
//! the commit.

use model::Command;
use projector::parked::retry;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    bench::Bench,
    commands::{push, say, scope},
    parked::{allow, forbid, neighbour},
};

const ANN: &str = "acme/user/ann";

/// The statement that loads reads the dead letters, and the one that commits does not.
async fn let_it_load(bench: &Bench, may: bool) {
    let change =
        if may { "grant select on dead_letters to" } else { "revoke select on dead_letters from" };
    let change = AssertSqlSafe(format!("{change} context_sync_projector"));
    sqlx::query(change).execute(&bench.pool).await.unwrap();
}

#[tokio::test]
async fn nothing_is_loaded_for_what_is_new_in_a_known_scope() {
    let bench = Bench::new().await;
    let running = bench.start();
    running.ready().await;
    bench.append(&push(ANN, "ann", &[say("it is loaded: nobody knows the scope yet")])).await;
    bench.caught_up().await;
    let_it_load(&bench, false).await;
    let new = push(
        ANN,
        "ann",
        &[say("new"), json!({"id": Uuid::new_v4(), "type": "insight", "content": "with an id"})],
    );
    bench.append(&new).await;
    bench.append(&push(ANN, "ann", &[say("new too")])).await;
    bench.caught_up().await;
    bench.append(&new).await;
    running.waits("permission denied").await;
    let_it_load(&bench, true).await;
    bench.check().await;
    running.stop().await;
}

/// Each after something new, so that it would be folded as if it were new itself.
#[tokio::test]
async fn what_is_not_new_after_all_comes_to_what_the_log_says() {
    let bench = Bench::new().await;
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let write = |id: Uuid, content: &str| json!({"id": id, "type": "decision", "content": content});
    let say_all = |messages: &[Value]| push(ANN, "ann", messages);
    let first = say_all(&[write(id, "first"), say("of no id")]);
    let deleted = json!({"id": other, "deleted": true, "base_cursor": u32::MAX});
    bench.append(&first).await;
    bench.append(&say_all(&[write(other, "to be deleted")])).await;
    bench.append(&say_all(&[deleted])).await;
    let filling = bench.start();
    bench.caught_up().await;
    filling.ready_then_stop().await;
    let not_new: [Command; 8] = [
        first.clone(),
        say_all(&[say("of no id")]),
        say_all(&[say("first")]),
        say_all(&[write(Uuid::new_v4(), "of no id")]),
        say_all(&[write(id, "edited without saying what was seen")]),
        say_all(&[say("to be deleted"), write(other, "it lives again")]),
        say_all(&[say("new"), say("new"), say("of no id")]),
        say_all(&[say("new beside it"), write(id, "first")]),
    ];
    for (n, command) in not_new.iter().enumerate() {
        let running = bench.start();
        bench.append(&say_all(&[say(&format!("new {n}"))])).await;
        bench.caught_up().await;
        bench.append(command).await;
        bench.append(&say_all(&[say(&format!("new behind {n}"))])).await;
        bench.check().await;
        running.stop().await;
    }
}

/// What is parked is folded by another than the projector, which must not go on from what it knew.
#[tokio::test]
async fn a_scope_of_which_events_are_parked_is_not_known_any_more() {
    let bench = Bench::new().await;
    let running = bench.start();
    running.ready().await;
    bench.append(&push(ANN, "ann", &[say("known")])).await;
    bench.caught_up().await;
    forbid(&bench, "unlucky").await;
    bench.append(&push(ANN, "ann", &[say("unlucky")])).await;
    bench.caught_up().await;
    // Batches that are loaded, because the unlucky one was not what it was taken for.
    let (neighbour, batches) = (neighbour(), 40);
    let owner = neighbour.rsplit('/').next().unwrap();
    for n in 0..batches {
        bench.append(&push(&neighbour, owner, &[say(&n.to_string())])).await;
        bench.caught_up().await;
    }
    bench.append(&push(ANN, "ann", &[say("behind")])).await;
    bench.caught_up().await;
    assert_eq!((bench.head(ANN).await, bench.dead_letters().await.len()), (Some(1), 2));
    allow(&bench).await;
    retry(&bench.database.config, None, scope(ANN).reference(), |_| {}).await.unwrap();
    bench.append(&push(ANN, "ann", &[say("new again")])).await;
    bench.check().await;
    assert_eq!(bench.head(ANN).await, Some(4));
    running.stop().await;
}
