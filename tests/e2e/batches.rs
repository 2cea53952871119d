//! With one change a batch there are always two batches under way: one commits while the next is folded.

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    client::{USER, say},
    cluster::{Cluster, LogKind},
};

const DEVICES: usize = 8;
const PUSHES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_batch_changes_is_seen_by_the_next_embedded() {
    crowd(LogKind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_batch_changes_is_seen_by_the_next_kafka() {
    crowd(LogKind::Kafka).await;
}

/// Devices that write the same contents, and edit and delete one message, all at once.
async fn crowd(kind: LogKind) {
    let cluster = Cluster::start_with(kind, &["--batch-changes-max=1"]).await;
    let id = uuid::Uuid::new_v4();
    let device = async |number: usize| {
        let device = cluster.device("ann").named(&format!("device-{number}"));
        for push in 0..PUSHES {
            let edit = json!({"id": id, "type": "decision", "content": format!("{number}/{push}"),
                "base_cursor": number * push});
            let delete = json!({"id": id, "deleted": true, "base_cursor": 2 * push});
            let last = if (number + push).is_multiple_of(5) { delete } else { edit };
            device.push(USER, &[say(&format!("said {push}")), last]).await.ok();
        }
    };
    join_all((0..DEVICES).map(device)).await;
    let page = cluster.device("ann").pull(USER, "limit=1000").await.ok();
    let said = page["messages"].as_array().unwrap().iter().filter(|m| m["id"] != json!(id)).count();
    assert_eq!(said, PUSHES, "each content once");
    cluster.finish().await;
}
