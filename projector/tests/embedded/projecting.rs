//! What is folded is in the rows, whoever else projects and whatever fails meanwhile.

use std::time::{SystemTime, UNIX_EPOCH};

use eventlog::partition_of;
use model::{Partition, Role};
use serde_json::json;
use uuid::Uuid;

use crate::{
    bench::Bench,
    commands::{create, push, remove_member, say, set_member},
    equation::eventually,
};

const ANN: &str = "acme/user/ann";
const TEAM: &str = "acme/team/t";

/// Creates, edits, deletes, duplicates, members: a bit of everything, in several scopes.
async fn a_bit_of_everything(bench: &Bench, round: u32) {
    let team = format!("acme/team/t{round}");
    bench.append(&create(&team, "ann")).await;
    bench.append(&set_member(&team, "ann", "bob", Role::Member)).await;
    let id = Uuid::new_v4();
    let edit = |content: &str, base: u64| {
        let kind = "decision";
        json!({"id": id, "type": kind, "content": content, "base_cursor": base})
    };
    let hello = format!("hello {round}");
    for key in [ANN, team.as_str()] {
        bench.append(&push(key, "ann", &[say(&hello), say("twice"), say("twice")])).await;
        bench.append(&push(key, "ann", &[edit("one", 0), edit("two", u64::MAX >> 1)])).await;
        let repeated = push(key, "ann", &[say(&format!("repeated {round}"))]);
        bench.append(&repeated).await;
        bench.append(&repeated).await;
    }
    bench.append(&push(&team, "eve", &[say("not mine")])).await;
    let delete = json!({"id": id, "deleted": true, "base_cursor": 3});
    bench.append(&push(&team, "bob", &[delete])).await;
    bench.append(&remove_member(&team, "ann", "bob")).await;
    bench.append(&push(&team, "bob", &[say("no more")])).await;
}

#[tokio::test]
async fn rows_are_the_fold_of_the_log() {
    let bench = Bench::new().await;
    a_bit_of_everything(&bench, 0).await;
    let running = bench.start();
    bench.check().await;
    a_bit_of_everything(&bench, 1).await;
    bench.check().await;
    running.ready().await;
    running.stop().await;
}

#[tokio::test]
async fn rows_are_the_fold_of_the_log_when_every_record_is_a_batch() {
    let bench = Bench::new().await;
    for round in 0..5 {
        a_bit_of_everything(&bench, round).await;
    }
    let running = bench.start_with_small_batches();
    bench.check().await;
    running.stop().await;
}

#[tokio::test]
async fn a_read_model_dropped_and_rebuilt_is_the_same() {
    let bench = Bench::new().await;
    a_bit_of_everything(&bench, 0).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    sqlx::query("drop schema context_sync cascade").execute(&bench.pool).await.unwrap();
    readmodel::migrate(&bench.database.config).await.unwrap();
    let running = bench.start();
    bench.check().await;
    running.stop().await;
}

/// No leases keep these apart (the embedded log has one process): only the compare-and-set does.
#[tokio::test]
async fn two_projectors_at_once_write_no_wrong_row() {
    let bench = Bench::new().await;
    let (one, two) = (bench.start(), bench.start());
    for round in 0..5 {
        a_bit_of_everything(&bench, round).await;
    }
    bench.check().await;
    one.stop().await;
    a_bit_of_everything(&bench, 5).await;
    bench.check().await;
    two.stop().await;
}

#[tokio::test]
async fn a_partition_that_is_named_twice_is_one() {
    let bench = Bench::new().await;
    a_bit_of_everything(&bench, 0).await;
    let twice: Vec<Partition> = [0, 0, 1, 2, 2, 3].map(Partition::new).into();
    let running = bench.start_on(&twice);
    running.ready().await;
    bench.check().await;
    running.stop().await;
}

/// The workers of one session commit beside each other.
#[tokio::test]
async fn a_partition_whose_commit_waits_holds_up_no_other() {
    let bench = Bench::new().await;
    let scopes: Vec<String> = (0..50).map(|n| format!("acme/user/u{n}")).collect();
    let of = |partition: u32| {
        let own =
            |key: &&String| partition_of(key.as_bytes(), bench.log.partitions()).get() == partition;
        scopes.iter().find(own).unwrap()
    };
    let owner = |key: &str| key.rsplit('/').next().unwrap().to_owned();
    let (held, free) = (of(0), of(1));
    let running = bench.start();
    running.ready().await;
    let mut holding = bench.pool.begin().await.unwrap();
    sqlx::query("select from positions where partition = 0 for update")
        .execute(&mut *holding)
        .await
        .unwrap();
    bench.append(&push(held, &owner(held), &[say("it waits")])).await;
    bench.append(&push(free, &owner(free), &[say("it goes on")])).await;
    eventually("the other one's head", async || bench.head(free).await).await;
    assert_eq!(bench.head(held).await, None);
    holding.commit().await.unwrap();
    bench.check().await;
    running.stop().await;
}

#[tokio::test]
async fn a_session_that_the_database_ends_begins_anew() {
    let bench = Bench::new().await;
    let running = bench.start();
    for round in 0..4 {
        a_bit_of_everything(&bench, round).await;
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .execute(&mut bench.database.owner().await)
        .await
        .unwrap();
    }
    eventually("the owner's pool has a good connection", async || {
        sqlx::query("select 1").execute(&bench.pool).await.ok()
    })
    .await;
    bench.check().await;
    running.stop().await;
}

#[tokio::test]
async fn a_projector_that_starts_before_the_migration_waits_for_it() {
    let bench = Bench::new().await;
    sqlx::query("drop schema context_sync cascade").execute(&bench.pool).await.unwrap();
    bench.append(&push(ANN, "ann", &[say("x")])).await;
    let running = bench.start();
    eventually("it says why", async || {
        let reason = running.readiness.components()[0].reason.clone()?;
        reason.contains("context-sync migrate").then_some(())
    })
    .await;
    readmodel::migrate(&bench.database.config).await.unwrap();
    bench.check().await;
    running.stop().await;
}

#[tokio::test]
async fn a_command_is_known_to_the_next_projector() {
    let bench = Bench::new().await;
    let command = push(TEAM, "ann", &[say("x")]);
    bench.append(&create(TEAM, "ann")).await;
    for _ in 0..3 {
        bench.append(&command).await;
        let running = bench.start();
        bench.check().await;
        running.stop().await;
    }
    assert_eq!(bench.head(TEAM).await, Some(1));
}

async fn insert_outcome(bench: &Bench, hours_ago: i64) -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    let id = Uuid::new_v4();
    sqlx::query(
        "insert into outcomes (command_id, scope, tenant_id, actor, partition, record_offset,
             folded_at_us, body)
         select $1, gen_random_uuid(), 'acme', 'ann', partition, 0, $2, '{}' from positions
         where next_offset = (select max(next_offset) from positions) limit 1",
    )
    .bind(id)
    .bind(now - hours_ago * 3_600_000_000)
    .execute(&bench.pool)
    .await
    .unwrap();
    id
}

async fn is_kept(bench: &Bench, id: Uuid) -> bool {
    let exists = "select exists (select from outcomes where command_id = $1)";
    sqlx::query_scalar(exists).bind(id).fetch_one(&bench.pool).await.unwrap()
}

#[tokio::test]
async fn outcomes_expire_when_the_log_is_a_day_past_them() {
    let bench = Bench::new().await;
    bench.start().ready_then_stop().await;
    // The log has no time yet: nothing is old, whatever the clock says.
    let first = insert_outcome(&bench, 1_000).await;
    bench.start().ready_then_stop().await;
    assert!(is_kept(&bench, first).await);
    bench.append(&push(ANN, "ann", &[say("x")])).await;
    let running = bench.start();
    bench.caught_up().await;
    running.stop().await;
    let (old, young) = (insert_outcome(&bench, 27).await, insert_outcome(&bench, 25).await);
    let running = bench.start();
    eventually("it expires", async || (!is_kept(&bench, old).await).then_some(())).await;
    assert!(is_kept(&bench, young).await);
    running.stop().await;
}
