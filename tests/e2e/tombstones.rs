//! Devices that were away for longer than tombstones are kept.

use archive::{
    Archive,
    verify::{Sample, verify},
};
use context_sync::device::{drift::Mended, replica::Replica, scope::Scope};
use serde_json::{Value, json};

use crate::{
    backups::back_up,
    client::{Device, USER, contents, say, statuses},
    cluster::{ALL, ARCHIVING, Cluster},
    equation::{self, eventually},
    expired::Later,
    reconcile::{assert_in_sync, claim, gist, mend, reconcile},
    restores::{delete_all, restore, sealed, three},
    shown,
};

archiving_on_both_logs! {
    a_device_that_comes_back_from_below_the_floor_drops_what_was_deleted,
}

/// The scope as the rows have it, once they have folded an expiry up to this cursor.
async fn with_floor(device: &Device, floor: u64) -> Value {
    eventually("the floor rises", async || {
        let page = device.pull(USER, "").await.ok();
        (page["floor"] == floor).then_some(page)
    })
    .await
}

async fn pulled(device: &Device) -> Replica {
    let mut replica = Replica::default();
    mend(device, &Scope::User, &mut replica).await;
    replica
}

/// So many days later: the archiver says that tombstones have expired. Until then the device asks, at this cursor.
async fn expire(cluster: &mut Cluster, days: i64, cursor: u64) {
    cluster.restart(ALL).await;
    let page = cluster.device("ann").pull(USER, &format!("cursor={cursor}")).await.ok();
    assert_eq!((&page["head"], &page["floor"]), (&json!(cursor), &json!(0)));
    let later = Later::start(cluster, days);
    // It also does so when it starts.
    eventually("the tombstones expire", async || {
        later.expire().await;
        let fold = equation::fold(cluster.node.log.as_ref()).await;
        fold.scopes.values().any(|folded| folded.scope.heading.floor.get() > 0).then_some(())
    })
    .await;
    later.stop().await;
}

async fn a_device_that_comes_back_from_below_the_floor_drops_what_was_deleted(
    cluster: &mut Cluster,
) {
    let (laptop, phone) = (cluster.device("ann"), cluster.device("ann").named("phone"));
    let pushed = laptop.push(USER, &three()).await.ok();
    let one = pushed["results"][0]["id"].clone();
    let (mut at_home, mut away) = (pulled(&laptop).await, pulled(&phone).await);
    // The phone goes away; what is deleted meanwhile is forgotten before it comes back.
    laptop.push(USER, &[json!({"id": one, "deleted": true, "base_cursor": 1})]).await.ok();
    laptop.push(USER, &[say("four")]).await.ok();
    let before = laptop.pull(USER, "").await.ok();
    sealed(&laptop, USER).await;
    expire(cluster, 91, 5).await;

    let (laptop, phone) = (cluster.device("ann"), cluster.device("ann").named("phone"));
    let page = with_floor(&laptop, 4).await;
    for key in ["head", "count", "digest", "epoch"] {
        assert_eq!(page[key], before[key], "{key}: nothing but the floor moves");
    }
    // Also where nothing is new, and what is answered was remembered.
    assert_eq!(laptop.pull(USER, "cursor=5").await.ok()["floor"], 4);
    // It can tell, by the floor and by what it is told.
    let page = phone.pull(USER, "cursor=3").await.ok();
    assert_eq!((contents(&page), &page["floor"]), (vec!["four"], &json!(4)));
    let answer = reconcile(&phone, USER, claim(&away)).await.ok();
    assert_eq!((gist(&answer), &answer["floor"]), (("behind", "repair", 5), &json!(4)));
    // One that has seen all, and one that has seen nothing, need no repair.
    mend(&laptop, &Scope::User, &mut at_home).await;
    for cursor in [0, 4] {
        let answer = reconcile(&laptop, USER, json!({"cursor": cursor})).await.ok();
        assert_eq!(gist(&answer), ("behind", "pull", cursor));
    }
    // It pushes what it did meanwhile: its own message comes in, an edit of what is gone does not.
    let edit = json!({"id": one, "type": "decision", "content": "one, edited", "base_cursor": 1});
    let pushed = phone.push(USER, &[edit, say("from the train")]).await.ok();
    assert_eq!(statuses(&pushed), ["stale", "created"]);
    assert_eq!(
        (&pushed["results"][0]["id"], &pushed["results"][0]["cursor"]),
        (&one, &Value::Null)
    );

    let mended = mend(&phone, &Scope::User, &mut away).await;
    assert_eq!(mended, Mended { pulled: 2, repairs: 1, dropped: 1, ..Mended::default() });
    assert_in_sync(&phone, USER, &away).await;
    mend(&laptop, &Scope::User, &mut at_home).await;
    assert_eq!(at_home.claim(), away.claim());
    let page = laptop.pull(USER, "").await.ok();
    assert_eq!(contents(&page), ["two", "three", "four", "from the train"]);

    // A backup of after that is restored as any other; the archive proves itself.
    cluster.restart(ARCHIVING).await;
    let laptop = cluster.device("ann");
    let backup = back_up(&laptop, USER).await;
    assert_eq!((&backup["record_count"], &backup["digest"]), (&json!(4), &page["digest"]));
    delete_all(&laptop, USER).await;
    restore(&laptop, USER, json!({"backup_id": backup["id"], "mode": "replace"})).await.ok();
    assert_eq!(laptop.pull(USER, "").await.ok()["digest"], page["digest"]);
    sealed(&laptop, USER).await;
    // The rows once more, from the log: deletion and expiry in one batch.
    cluster.lose_the_database().await;
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
    let log = cluster.node.log.clone();
    let mut records = Vec::new();
    equation::read(log.as_ref(), |record| records.push(record)).await;
    shown::check_records(&archive, log.log_id(), records, 1).await;
}
