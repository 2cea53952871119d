//! SYNC_001: a cursor that says nothing in the scope as it is now.

use serde_json::json;
use uuid::Uuid;

use crate::{
    client::{Reply, USER, say, statuses},
    cluster::Cluster,
};

both_logs! {
    sync_001_a_cursor_ahead_of_the_head_is_invalid,
    sync_001_cursors_of_another_epoch_are_not_good,
    a_base_cursor_of_another_epoch_counts_as_0,
}

async fn sync_001_a_cursor_ahead_of_the_head_is_invalid(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let answer = |head: u64| json!({"head": head, "floor": 0});
    for head in [0_u64, 1] {
        for cursor in [head + 1, i64::MAX as u64] {
            for wait in ["", "&wait=30"] {
                let pulled = ann.pull(USER, &format!("cursor={cursor}{wait}")).await;
                let problem = pulled.problem(409, "SYNC_001");
                assert_eq!(problem["resolution"], "Reconcile cursor");
                assert_eq!(
                    json!({"head": problem["head"], "floor": problem["floor"]}),
                    answer(head)
                );
                assert!(problem["epoch"].as_str().unwrap().parse::<Uuid>().is_ok());
            }
        }
        ann.push(USER, &[say("x")]).await.ok();
    }
}

async fn sync_001_cursors_of_another_epoch_are_not_good(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("x")]).await.ok();
    let epoch = ann.pull(USER, "").await.ok()["epoch"].as_str().unwrap().to_owned();
    let other = Uuid::new_v4();
    ann.pull(USER, &format!("cursor=1&epoch={epoch}")).await.ok();
    let problem = ann.pull(USER, &format!("cursor=1&epoch={other}")).await.problem(409, "SYNC_001");
    assert_eq!((&problem["epoch"], &problem["base"]), (&json!(epoch), &json!(0)));
    // From 0 it is good, and the answer says what was kept.
    let page = ann.pull(USER, &format!("cursor=0&epoch={other}")).await.ok();
    assert_eq!((&page["epoch"], &page["base"]), (&json!(epoch), &json!(0)));
    assert!(ann.pull(USER, "cursor=0").await.ok().get("base").is_none());
}

async fn a_base_cursor_of_another_epoch_counts_as_0(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let answer = ann.push(USER, &[say("x")]).await.ok();
    let delete = json!({"id": answer["results"][0]["id"], "deleted": true, "base_cursor": 1});
    let epoch = ann.pull(USER, "").await.ok()["epoch"].clone();
    for (epoch, status) in [(json!(Uuid::new_v4()), "superseded"), (epoch, "deleted")] {
        let body = json!({"messages": [delete], "epoch": epoch});
        let request = ann.request(reqwest::Method::POST, "/api/v1/context/push").json(&body);
        assert_eq!(statuses(&Reply::of(request).await.ok()), [status]);
    }
}
