//! A page ends at `limit` or 4 MiB, and `has_more` says exactly whether there is more.

use serde_json::{Value, json};

use crate::{
    client::{USER, contents, say},
    cluster::Cluster,
    replica::Replica,
};

both_logs! {
    pages_end_at_their_limit,
    a_default_page_has_a_hundred,
    a_page_has_at_most_4_mib,
    a_device_that_pulls_during_pushes_misses_nothing,
}

async fn pages_end_at_their_limit(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let messages: Vec<Value> = (1..=25).map(|n| say(&format!("m{n}"))).collect();
    ann.push(USER, &messages).await.ok();
    // cursor, limit => messages, cursor, has_more
    for (cursor, limit, count, next, more) in [
        (0, 10, 10, 10, true),
        (10, 10, 10, 20, true),
        (20, 10, 5, 25, false),
        (0, 25, 25, 25, false),
        (0, 24, 24, 24, true),
        (24, 1, 1, 25, false),
        (23, 1, 1, 24, true),
        (25, 1, 0, 25, false),
        (0, 1000, 25, 25, false),
    ] {
        let page = ann.pull(USER, &format!("cursor={cursor}&limit={limit}")).await.ok();
        let row = format!("cursor {cursor} limit {limit}");
        assert_eq!(contents(&page).len(), count, "{row}");
        assert_eq!((&page["cursor"], &page["has_more"]), (&json!(next), &json!(more)), "{row}");
    }
    let default = ann.pull(USER, "").await.ok();
    assert_eq!((contents(&default).len(), &default["has_more"]), (25, &json!(false)));
}

async fn a_default_page_has_a_hundred(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let messages: Vec<Value> = (0..101).map(|n| say(&format!("m{n}"))).collect();
    ann.push(USER, &messages).await.ok();
    let page = ann.pull(USER, "").await.ok();
    assert_eq!((contents(&page).len(), &page["cursor"]), (100, &json!(100)));
    assert_eq!(page["has_more"], true);
}

async fn a_page_has_at_most_4_mib(cluster: &mut Cluster) {
    const PAGE: usize = 4 << 20;
    let ann = cluster.device("ann");
    let large = |n: u32| say(&format!("{n:03}{}", "x".repeat((64 << 10) - 3)));
    for push in 0..3 {
        let messages: Vec<Value> = (0..50).map(|n| large(push * 50 + n)).collect();
        ann.push(USER, &messages).await.ok();
    }
    let mut replica = Replica::default();
    let mut sizes = Vec::new();
    loop {
        let page = ann.pull(USER, &format!("cursor={}&limit=1000", replica.cursor)).await.ok();
        let messages = page["messages"].as_array().unwrap();
        let bytes: usize = messages.iter().map(|message| message.to_string().len()).sum();
        assert!(bytes <= PAGE);
        sizes.push(messages.len());
        replica.apply(&page);
        if page["has_more"] == false {
            break;
        }
        assert!(bytes + 66_000 > PAGE, "a page is as full as it can be");
    }
    assert_eq!((sizes.iter().sum::<usize>(), sizes.len()), (150, 3), "{sizes:?}");
}

async fn a_device_that_pulls_during_pushes_misses_nothing(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let pusher = ann.named("phone");
    let pushing = tokio::spawn(async move {
        for n in 0..40 {
            let id = uuid::Uuid::from_u128(n % 7 + 1);
            let edit = json!({"id": id, "type": "decision", "content": format!("edit {n}"),
                "base_cursor": u64::from(u32::MAX)});
            pusher.push(USER, &[say(&format!("m{n}")), edit]).await.ok();
        }
    });
    let mut replica = Replica::default();
    while !pushing.is_finished() {
        replica.catch_up(&ann, USER, 5).await;
    }
    pushing.await.unwrap();
    replica.catch_up(&ann, USER, 5).await;
    let fold = cluster.check().await;
    replica.assert_is(&fold, &"acme/user/ann".parse().unwrap());
}
