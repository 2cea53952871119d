//! An event that only the database refuses (a bug) waits for an operator, and its scope's later
//! events behind it, in order; other scopes go on.

use projector::parked::retry;

use crate::{
    bench::{Bench, Running},
    commands::{create, push, say, scope},
    equation,
};

const ANN: &str = "acme/user/ann";
/// On the same partition of four as [`ANN`]: found by the test.
pub(crate) fn neighbour() -> String {
    let partition =
        |key: &str| eventlog::partition_of(key.as_bytes(), eventlog::EMBEDDED_PARTITIONS);
    let names = (0..).map(|n| format!("acme/user/u{n}"));
    names.into_iter().find(|key| partition(key) == partition(ANN)).unwrap()
}

pub(crate) async fn forbid(bench: &Bench, content: &str) {
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
    let counted = "update tenant_usage u
        set live_count = u.live_count - s.live_count, live_bytes = u.live_bytes - s.live_bytes
        from scopes s
        where s.scope = $1 and u.tenant_id = s.tenant_id
            and u.partition = (select min(partition) from tenant_usage o where o.tenant_id = s.tenant_id)";
    sqlx::query(counted).bind(own).execute(&bench.pool).await.unwrap();
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

pub(crate) async fn allow(bench: &Bench) {
    sqlx::query("alter table messages drop constraint bug").execute(&bench.pool).await.unwrap();
}

/// With edits and deletions of each other among them, so that the order matters.
#[tokio::test]
async fn retried_events_are_folded_in_order_and_the_rows_are_the_logs_again() {
    let bench = Bench::new().await;
    forbid(&bench, "unlucky").await;
    let id = uuid::Uuid::new_v4();
    let edit = |content: &str| {
        let at = "2025-12-30T12:00:00Z";
        serde_json::json!({"id": id, "type": "decision", "content": content, "updated_at": at})
    };
    let delete = serde_json::json!({"id": id, "deleted": true, "base_cursor": 2});
    bench.append(&push(ANN, "ann", &[edit("first")])).await;
    let again = push(ANN, "ann", &[edit("second"), say("unlucky"), say("beside")]);
    bench.append(&again).await;
    bench.append(&push(ANN, "ann", &[delete])).await;
    bench.append(&again).await; // repeated
    for n in 0..40 {
        bench.append(&push(ANN, "ann", &[say(&format!("after {n}")), say("beside")])).await;
    }
    bench.append_raw(ANN, b"no event".to_vec()).await;
    let running = bench.start();
    bench.caught_up().await;
    assert_eq!((bench.head(ANN).await, bench.dead_letters().await.len()), (Some(1), 44));

    let scope = scope(ANN).reference();
    let refused = retry(&bench.database.config, None, scope, |_| {}).await.unwrap();
    let (place, why) = refused.still_refused.unwrap();
    assert_eq!((refused.folded, place.offset.get()), (0, 1));
    assert!(why.contains("bug"), "{why}");
    assert_eq!((bench.head(ANN).await, bench.dead_letters().await.len()), (Some(1), 44));

    allow(&bench).await;
    let mut steps = Vec::new();
    let retried = retry(&bench.database.config, None, scope, |n| steps.push(n)).await.unwrap();
    assert_eq!((retried.folded, retried.still_refused), (43, None));
    assert!(steps.len() > 1 && steps.last() == Some(&43), "{steps:?}");
    assert_eq!(bench.dead_letters().await.len(), 1, "what is refused in every copy stays");
    bench.append(&push(ANN, "ann", &[say("and on")])).await;
    bench.check().await;
    running.stop().await;
}

/// What can be folded is, up to the event that cannot.
#[tokio::test]
async fn a_retry_goes_as_far_as_the_database_lets_it() {
    let bench = Bench::new().await;
    forbid(&bench, "unlucky").await;
    bench.append(&push(ANN, "ann", &[say("unlucky")])).await;
    for n in 0..5 {
        bench.append(&push(ANN, "ann", &[say(&format!("fine {n}"))])).await;
    }
    bench.append(&push(ANN, "ann", &[say("worse")])).await;
    bench.append(&push(ANN, "ann", &[say("last")])).await;
    let running = bench.start();
    bench.caught_up().await;
    allow(&bench).await;
    forbid(&bench, "worse").await;
    let scope = scope(ANN).reference();
    let retried = retry(&bench.database.config, None, scope, |_| {}).await.unwrap();
    assert_eq!((retried.folded, retried.still_refused.unwrap().0.offset.get()), (6, 6));
    let dead = bench.dead_letters().await;
    assert_eq!((bench.head(ANN).await, dead.len()), (Some(6), 2));
    assert!(
        dead[0].2.contains("bug"),
        "the reason is that of the event that waits first: {dead:?}"
    );
    allow(&bench).await;
    retry(&bench.database.config, None, scope, |_| {}).await.unwrap();
    bench.check().await;
    running.stop().await;
}

/// A batch that was to park an event behind others must not do so once those are folded: the next batch
/// may have gone on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_come_while_others_are_retried_are_neither_lost_nor_overtaken() {
    let bench = Bench::new().await;
    let running = bench.start_with_small_batches();
    for round in 0..5 {
        let unlucky = format!("unlucky {round}");
        forbid(&bench, &unlucky).await;
        bench.append(&push(ANN, "ann", &[say(&unlucky)])).await;
        bench.caught_up().await;
        allow(&bench).await;
        let coming = async {
            for n in 0..60 {
                bench.append(&push(ANN, "ann", &[say(&format!("{round}.{n}"))])).await;
            }
        };
        let retrying = async {
            let config = &bench.database.config;
            for _ in 0..20 {
                // A projector that holds the position for long is no failure: the operator tries again.
                let _ = retry(config, None, scope(ANN).reference(), |_| {}).await;
            }
        };
        tokio::join!(coming, retrying);
        bench.caught_up().await;
        retry(&bench.database.config, None, scope(ANN).reference(), |_| {}).await.unwrap();
        bench.check().await;
    }
    running.stop().await;
}
