//! A bad event blocks nothing: neither its partition, nor its scope.

use model::{Action, Event, Partition, Role};

use crate::{
    bench::Bench,
    commands::{command, create, push, say, user},
};

const ANN: &str = "acme/user/ann";

#[tokio::test]
async fn what_is_no_event_becomes_a_dead_letter_and_what_follows_is_folded() {
    let bench = Bench::new().await;
    let good = schemas::encode_command(&push(ANN, "ann", &[say("good")])).unwrap();
    let mut unknown_schema = good.clone();
    unknown_schema[2] ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let bad = [
        (b"no Avro at all".to_vec(), "single object"),
        (Vec::new(), "single object"),
        (unknown_schema, "no known schema has fingerprint"),
        (good[..good.len() / 2].to_vec(), "does not match its schema"),
        (trailing, "left over"),
    ];
    for (n, (value, _)) in bad.iter().enumerate() {
        bench.append(&push(ANN, "ann", &[say(&format!("before {n}"))])).await;
        bench.append_raw(ANN, value.clone()).await;
    }
    bench.append(&push(ANN, "ann", &[say("after")])).await;
    let running = bench.start();
    bench.check().await;
    let dead = bench.dead_letters().await;
    assert_eq!(dead.len(), bad.len());
    for ((kind, key, reason), (_, expected)) in dead.iter().zip(&bad) {
        assert_eq!((kind.as_str(), key.as_str()), ("refused", ANN));
        assert!(reason.contains(expected), "{reason}");
    }
    assert_eq!(bench.head(ANN).await, Some(bad.len() as i64 + 1));
    running.stop().await;
}

#[tokio::test]
async fn an_event_under_another_key_is_of_no_scope() {
    let bench = Bench::new().await;
    let value = schemas::encode_command(&push(ANN, "ann", &[say("x")])).unwrap();
    for key in ["acme/user/bob", "", "no key", "acme/user/ann/", "\u{0}"] {
        bench.append_raw(key, value.clone()).await;
    }
    bench.append(&push(ANN, "ann", &[say("y")])).await;
    let running = bench.start();
    bench.check().await;
    let dead = bench.dead_letters().await;
    assert_eq!(dead.len(), 5);
    assert!(dead.iter().all(|(.., reason)| reason.contains("key is not the event's scope")));
    assert_eq!((bench.head(ANN).await, bench.head("acme/user/bob").await), (Some(1), None));
    running.stop().await;
}

#[tokio::test]
async fn an_event_that_contradicts_itself_is_a_dead_letter() {
    let bench = Bench::new().await;
    let role = Role::Viewer;
    let eve = || user("eve");
    bench.append(&create("acme/team/t", "ann")).await;
    for command in [
        command("acme/team/t", "ann", Action::MemberSet { user: eve(), role }),
        command(ANN, "ann", Action::ScopeCreated),
        command("acme/org/acme", "ann", Action::MemberRemoved { user: eve() }),
        push("acme/org/globex", "ann", &[say("x")]),
    ] {
        bench.append(&command).await;
    }
    let running = bench.start();
    bench.check().await;
    assert_eq!(bench.dead_letters().await.len(), 4);
    running.stop().await;
}

#[tokio::test]
async fn a_dead_letters_id_is_not_kept_and_its_retry_is_a_new_event() {
    let bench = Bench::new().await;
    let command = push(ANN, "ann", &[say("x")]);
    let value = schemas::encode_command(&command).unwrap();
    bench.append_raw("acme/user/bob", value).await;
    bench.append(&command).await;
    let running = bench.start();
    bench.check().await;
    assert_eq!(bench.head(ANN).await, Some(1));
    running.stop().await;
}

#[tokio::test]
async fn time_passing_folds_to_no_row() {
    let bench = Bench::new().await;
    for partition in 0..4 {
        bench.append_event(Partition::new(partition), &Event::Tick).await;
    }
    let running = bench.start();
    bench.check().await;
    assert_eq!(bench.dead_letters().await, []);
    assert_eq!(bench.head(ANN).await, None);
    let times: i64 = sqlx::query_scalar("select min(time_us) from positions")
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert!(times > 0);
    running.stop().await;
}
