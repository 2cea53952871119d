//! An event that only the database refuses (a bug) waits for an operator, and its scope's later
//! events behind it, in order; other scopes go on.

use crate::{
    bench::{Bench, Running},
    commands::{create, push, say, scope},
    equation,
};

const ANN: &str = "acme/user/ann";
/// On the same partition of four as [`ANN`]: found by the test.
fn neighbour() -> String {
    let partition =
        |key: &str| eventlog::partition_of(key.as_bytes(), eventlog::EMBEDDED_PARTITIONS);
    let names = (0..).map(|n| format!("acme/user/u{n}"));
    names.into_iter().find(|key| partition(key) == partition(ANN)).unwrap()
}

async fn forbid(bench: &Bench, content: &str) {
    let constraint = sqlx::AssertSqlSafe(format!(
        "alter table messages add constraint bug check (json not like '%{content}%')"
    ));
    sqlx::query(constraint).execute(&bench.pool).await.unwrap();
}

#[tokio::test]
async fn a_refused_event_parks_its_scope_in_order_and_others_go_on() {
    parks_its_scope(Bench::start).await;
}

/// The batch after the refused one is loaded and folded by then, as if that had been committed.
#[tokio::test]
async fn a_refused_batch_of_one_record_parks_its_scope_in_order_and_others_go_on() {
    parks_its_scope(Bench::start_with_small_batches).await;
}

async fn parks_its_scope(start: fn(&Bench) -> Running) {
    let bench = Bench::new().await;
    forbid(&bench, "unlucky").await;
    let neighbour = neighbour();
    let other = neighbour.rsplit('/').next().unwrap();
    let say_as = |actor: &str, key: &str, content: &str| push(key, actor, &[say(content)]);
    bench.append(&say_as("ann", ANN, "first")).await;
    bench.append(&say_as(other, &neighbour, "one")).await;
    bench.append(&say_as("ann", ANN, "unlucky")).await;
    bench.append(&say_as(other, &neighbour, "two")).await;
    for n in 0..3 {
        bench.append(&say_as("ann", ANN, &format!("after {n}"))).await;
    }
    bench.append(&create("acme/team/t", "ann")).await;
    let running = start(&bench);
    bench.caught_up().await;
    bench.append(&say_as("ann", ANN, "later")).await;
    bench.append(&say_as(other, &neighbour, "three")).await;
    bench.caught_up().await;
    let dead = bench.dead_letters().await;
    assert_eq!(dead.len(), 5, "{dead:?}");
    assert!(dead.iter().all(|(kind, key, _)| (kind.as_str(), key.as_str()) == ("parked", ANN)));
    assert!(dead[0].2.contains("bug"), "{dead:?}");
    assert!(dead[1..].iter().all(|(.., why)| why == "an earlier event of its scope is parked"));
    assert_eq!((bench.head(ANN).await, bench.head(&neighbour).await), (Some(1), Some(3)));
    running.ready().await;

    // All but the parked scope is as if nothing had happened.
    let mut fold = equation::fold(bench.log.as_ref()).await;
    let parked = fold.scopes.remove(&scope(ANN)).unwrap();
    assert_eq!(parked.scope.heading.head.get(), 6);
    let own = scope(ANN).reference().0;
    for table in ["scopes", "messages", "members", "outcomes"] {
        let delete = sqlx::AssertSqlSafe(format!("delete from {table} where scope = $1"));
        sqlx::query(delete).bind(own).execute(&bench.pool).await.unwrap();
    }
    equation::compare(&fold, &bench.pool).await;
    running.stop().await;
}

#[tokio::test]
async fn a_parked_scope_stays_parked_after_a_restart() {
    let bench = Bench::new().await;
    forbid(&bench, "unlucky").await;
    bench.append(&push(ANN, "ann", &[say("unlucky")])).await;
    let running = bench.start();
    bench.caught_up().await;
    running.stop().await;
    sqlx::query("alter table messages drop constraint bug").execute(&bench.pool).await.unwrap();
    bench.append(&push(ANN, "ann", &[say("fine")])).await;
    let running = bench.start();
    bench.caught_up().await;
    assert_eq!(bench.dead_letters().await.len(), 2);
    assert_eq!(bench.head(ANN).await, None);
    running.stop().await;
}
