//! A read model that was lost: what devices are told while it is filled, and which cursors they go on from afterwards,
//! whether or not the log lost its end with it.

use std::path::Path;

use context_sync::{device::scope::Scope, serve::Role};
use device::{
    drift::{Mended, Mending},
    replica::Replica,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::{
    client::{Device, Reply, USER, contents, say, team},
    cluster::{ALL, Cluster, LogKind},
    equation::eventually,
    erasing::erase,
    rebuilding::copy,
    reconcile::{assert_in_sync, mend, own_client},
};

both_logs! {
    devices_carry_on_with_a_read_model_that_was_dropped,
}

async fn device_with(device: &Device, scope: &Scope) -> Replica {
    let mut replica = Replica::default();
    mend(device, scope, &mut replica).await;
    replica
}

/// The pull of a device that has this.
async fn pull(device: &Device, replica: &Replica) -> Reply {
    let (cursor, epoch) = (replica.cursor, replica.epoch.unwrap());
    device.pull(USER, &format!("cursor={cursor}&epoch={epoch}")).await
}

/// However often: those of each epoch go on from what they have, and pull nothing again.
async fn devices_carry_on_with_a_read_model_that_was_dropped(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &["one", "two"].map(say)).await.ok();
    let mut replicas = vec![device_with(&ann, &Scope::User).await];
    for round in 0..2 {
        cluster.drop_the_read_model(ALL).await;
        let ann = cluster.device("ann");
        let epoch = ann.pull(USER, "").await.ok()["epoch"].clone();
        for replica in &replicas {
            assert_ne!(epoch, json!(replica.epoch));
            let page = pull(&ann, replica).await.ok();
            assert_eq!(page["epoch"], epoch);
            assert_eq!(contents(&page).len(), round - (replica.cursor.get() as usize - 2));
        }
        ann.push(USER, &[say(&format!("round {round}"))]).await.ok();
        let mut last = replicas[round].clone();
        let mended = mend(&ann, &Scope::User, &mut last).await;
        assert_eq!(mended, Mended { pulled: 1, ..Mended::default() });
        assert_in_sync(&ann, USER, &last).await;
        replicas.push(last);
    }
}

/// The disk of the log is put back to an older copy, and the database is gone. What devices had seen beyond that comes
/// back from them, at cursors that are given out once more, in another epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_its_end_with_the_database() {
    let mut cluster = Cluster::start(LogKind::Embedded).await;
    let ann = cluster.device("ann");
    ann.push(USER, &["one", "two", "three"].map(say)).await.ok();
    let mut within = device_with(&ann, &Scope::User).await;
    let kept = tempfile::tempdir().unwrap();
    cluster.stopped(async |log: &Path| copy(log, kept.path())).await;
    let ann = cluster.device("ann");
    ann.push(USER, &["lost", "lost too"].map(say)).await.ok();
    ann.create_team("late", &[]).await;
    ann.push(&team("late"), &[say("late")]).await.ok();
    let mut beyond = device_with(&ann, &Scope::User).await;
    let late = "team/late".parse::<Scope>().unwrap();
    let mut of_team = device_with(&ann, &late).await;
    let bob = cluster.device("bob");
    bob.push(USER, &[say("bob's")]).await.ok();
    let mut bobs = device_with(&bob, &Scope::User).await;
    let before = beyond.epoch.unwrap();

    cluster
        .lose_the_database_and(ALL, async |log: &Path| {
            std::fs::remove_dir_all(log).unwrap();
            copy(kept.path(), log);
        })
        .await;
    let ann = cluster.device("ann");
    let page = pull(&ann, &within).await.ok();
    assert_eq!((contents(&page), &page["base"], &page["head"]), (vec![], &json!(3), &json!(3)));
    let epoch = page["epoch"].clone();
    let problem = pull(&ann, &beyond).await.problem(409, "SYNC_001");
    assert_eq!((&problem["base"], &problem["epoch"]), (&json!(3), &epoch));
    // The same cursors, for something else.
    ann.push(USER, &["4", "5"].map(say)).await.ok();
    let problem = pull(&ann, &beyond).await.problem(409, "SYNC_001");
    assert_eq!((&problem["base"], &problem["head"]), (&json!(3), &json!(5)));
    ann.create_team("late", &[]).await;
    ann.push(&team("late"), &[say("another")]).await.ok();
    let query = format!("cursor=1&epoch={before}");
    let problem = ann.pull(&team("late"), &query).await.problem(409, "SYNC_001");
    assert_eq!((&problem["base"], &problem["head"]), (&json!(0), &json!(1)));

    // Nothing is lost that a device still has, and all come to the same.
    let mended = mend(&ann, &Scope::User, &mut beyond).await;
    assert_eq!(mended.pushed_again, 2);
    let mended = mend(&ann, &Scope::User, &mut within).await;
    assert_eq!(mended, Mended { pulled: 4, ..Mended::default() });
    assert_eq!((beyond.claim(), within.count()), (within.claim(), 7));
    assert_in_sync(&ann, USER, &within).await;
    assert_eq!(mend(&ann, &late, &mut of_team).await.pushed_again, 1);
    assert_eq!(of_team.count(), 2);

    // What was erased since nobody brings back unasked.
    let bob = cluster.device("bob");
    bob.push(USER, &[say("another")]).await.ok();
    erase(&bob, "bob", "erase").await.ok();
    let client = own_client(&bob);
    let mut mending = Mending::new(client.in_scope(&Scope::User), &mut bobs);
    mending.run().await.unwrap();
    assert_eq!((mending.mended.pushed_again, mending.left.owed.len()), (0, 0));
    let refused = &mending.left.refused;
    assert!(refused.len() == 1 && refused[0].get().contains("bob's"), "{refused:?}");
    assert_eq!(bobs.count(), 0);
    cluster.finish().await;
}

/// A team that is not folded yet is not one that does not exist: whoever asks comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_is_filled_nobody_is_refused() {
    let mut cluster = Cluster::start(LogKind::Kafka).await;
    let ann = cluster.device("ann");
    ann.create_team("web", &[]).await;
    ann.push(&team("web"), &[say("one")]).await.ok();
    let web = device_with(&ann, &"team/web".parse().unwrap()).await;
    cluster.restart(&[Role::Ingest, Role::Api]).await;
    cluster.empty_the_read_model().await;
    let ann = cluster.device("ann");
    let mut owner = cluster.database.owner().await;
    let mut holding = owner.begin().await.unwrap();
    sqlx::query("lock table outcomes in share mode").execute(&mut *holding).await.unwrap();
    let refilling = cluster.node(&[Role::Projector]);
    let asking = async {
        cluster.database.until_waiting(1).await;
        let filling = "select count(*) from filling";
        let count: i64 = sqlx::query_scalar(filling).fetch_one(&cluster.pool).await.unwrap();
        assert_eq!(count, 4, "it is known where the log ends");
        assert_all_come_back(&ann, cluster.ends().await.iter().sum(), &cluster).await;
        holding.rollback().await.unwrap();
    };
    let (projector, ()) = tokio::join!(refilling, asking);
    let epoch = web.epoch.unwrap();
    let page = eventually("it is filled", async || {
        let reply = ann.pull(&team("web"), &format!("cursor=1&epoch={epoch}")).await;
        (reply.status == 200).then_some(reply.body)
    })
    .await;
    assert_eq!((contents(&page), &page["base"], &page["head"]), (vec![], &json!(1), &json!(1)));
    ann.push(&team("web"), &[say("two")]).await.ok();
    cluster.check().await;
    projector.stop().await;
    cluster.node.stop().await;
}

/// Reads and writes, of scopes where a token says it all too.
async fn assert_all_come_back(ann: &Device, records: u64, cluster: &Cluster) {
    let web = team("web");
    let id = uuid::Uuid::new_v4();
    let delete = json!({"id": id, "deleted": true, "base_cursor": 1});
    let post = |path: String, body: Value| Reply::of(ann.request(Method::POST, &path).json(&body));
    let replies = [
        ann.pull(&web, "").await,
        ann.pull(&web, "cursor=1&wait=30").await,
        ann.pull(USER, "").await,
        post(format!("{web}/reconcile"), json!({"cursor": 1})).await,
        post(format!("{web}/messages"), json!({"ids": [id]})).await,
        ann.get(&format!("{web}/messages/{id}/history")).await,
        ann.get(&format!("{web}/backups")).await,
        ann.get("/api/v1/teams/web/members").await,
        ann.push(&web, &[say("x")]).await,
        ann.push(USER, &[say("x")]).await,
        ann.push(USER, &[delete]).await,
        ann.put("/api/v1/teams/new", Value::Null).await,
        ann.put("/api/v1/teams/web/members/bob", json!({"role": "member"})).await,
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        assert!(reply.headers.contains_key("retry-after"), "{number}: {}", reply.body);
        reply.problem(503, "UNAVAILABLE");
    }
    // Nor is anything added to the log before it is known what it had.
    assert_eq!(cluster.ends().await.iter().sum::<u64>(), records);
}
