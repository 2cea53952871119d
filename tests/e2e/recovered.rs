//! A recovery does not bring back what was erased, nor forget what a tombstone's end was for.

use std::path::Path;

use archive::{
    Archive, path,
    segment::{self, SegmentReader, SegmentWriter},
    verify::{Sample, verify},
};
use context_sync::{device::scope::Scope, serve::Role};
use device::replica::Replica;
use eventlog::EventLog;
use model::{Offset, Partition};
use serde_json::{Value, json};

use crate::{
    backups::back_up,
    client::{Device, USER, contents, say, statuses},
    cluster::{ALL, ARCHIVING, Cluster, LogKind},
    equation::{self, eventually},
    erasing::{erase, erased_from_archive, tellers},
    expired::Later,
    operators::ops,
    reconcile::{assert_in_sync, claim, gist, mend, reconcile},
    recovering::{recover, sealed},
    restores::three,
};

/// All but the archive is lost, and recovered.
async fn lose_and_recover(cluster: &mut Cluster) {
    let old = cluster.node.log.log_id();
    let recovering = async |settings: &_, dir: &Path| drop(recover(settings, dir, old).await);
    cluster.lose_all_but_the_archive(recovering).await;
}

/// Rows, log and archive are equal, and the archive proves itself.
async fn assert_all_agree(cluster: &Cluster, archive: &Archive) {
    let checked = ops(cluster, &["check"]).await;
    assert_eq!(checked.status, 0, "{checked:?}");
    let report = verify(archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!(report.problems, []);
}

/// Nothing but raw is archived of what came last: an archiver that was lost before the hour's end. None runs.
async fn archive_raw(archive: &Archive, log: &dyn EventLog) {
    let mut records = Vec::new();
    equation::read(log, |record| records.push(record)).await;
    for partition in (0..log.partitions()).map(Partition::new) {
        let newest = archive::history::newest_hour(archive, log.log_id(), partition).await.unwrap();
        let mut next = newest.map_or(Offset::ZERO, |(_, hour)| hour.next_offset);
        for name in segment::list(archive, log.log_id(), partition).await.unwrap() {
            let object = archive.fetch(&name.path).await.unwrap();
            next = next.max(SegmentReader::new(object, &name.path).unwrap().next_offset);
        }
        let mut writer = SegmentWriter::new(archive.scratch(), log.log_id(), partition, next);
        let is_own = |r: &&eventlog::Record| r.partition == partition && r.offset >= next;
        records.iter().filter(is_own).for_each(|record| writer.push(record).unwrap());
        if writer.next_offset() > next {
            let path = path::segment(log.log_id(), partition, next);
            archive.create(&path, &mut writer.finish().unwrap()).await.unwrap();
        }
    }
}

/// It is told by itself, after the archive.
async fn erased_from_log(device: &Device, location: &str) -> Value {
    eventually("the log has none of it", async || {
        let shown = device.get(location).await.ok();
        (shown["log"]["status"] == "erased").then_some(shown)
    })
    .await
}

/// What was erased before the log was lost, what was about to be, and what is erased afterwards: gone from everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_is_not_recovered() {
    let bucket = tempfile::tempdir().unwrap();
    let flag = format!("--archive=file://{}", bucket.path().display());
    let mut cluster = Cluster::start_archiving_to(LogKind::Embedded, &[&flag]).await;
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    let users = ["ann", "bob", "cy", "dora"];
    for user in users {
        let device = cluster.device(user);
        let secret = |n: u32| {
            json!({"type": "decision", "content": format!("{user}'s secret {n}"),
                "metadata": {"of": format!("{user}'s secret")}})
        };
        let pushed = device.push(USER, &[secret(1), secret(2), secret(3)]).await.ok();
        let id = |n: usize| pushed["results"][n]["id"].clone();
        let edit = json!({"id": id(0), "type": "decision", "content": format!("{user}'s secret, edited"), "base_cursor": 3});
        let delete = json!({"id": id(1), "deleted": true, "base_cursor": 3});
        device.push(USER, &[edit, delete]).await.ok();
        back_up(&device, USER).await;
    }
    sealed(&archive, cluster.node.log.as_ref()).await;
    let tell = async |user: &str| tellers(&archive, &format!("{user}'s secret")).await;
    let ann = cluster.device("ann");
    let first = erase(&ann, "ann", "k").await;
    let anns = first.headers["location"].to_str().unwrap().to_owned();
    first.ok();
    erased_from_archive(&ann, &anns).await;
    assert_eq!(tell("ann").await.len(), 0);

    // Bob's is on the log and raw in the archive, and no archiver has seen it.
    cluster.restart(&[Role::Ingest, Role::Projector, Role::Api]).await;
    let bob = cluster.device("bob");
    let asked = erase(&bob, "bob", "k").await;
    let location = asked.headers["location"].to_str().unwrap().to_owned();
    let bobs = asked.ok();
    bob.push(USER, &[say("anew")]).await.ok();
    archive_raw(&archive, cluster.node.log.as_ref()).await;
    assert!(!tell("bob").await.is_empty());
    let mut before = Vec::new();
    for user in users {
        before.push(cluster.device(user).pull(USER, "").await.ok());
    }

    lose_and_recover(&mut cluster).await;
    for (user, before) in users.iter().zip(&before) {
        let device = cluster.device(user);
        let page = device.pull(USER, "").await.ok();
        for key in ["messages", "head", "floor", "count", "digest"] {
            assert_eq!(page[key], before[key], "{user}: {key}");
        }
    }
    let (ann, bob, cy) = (cluster.device("ann"), cluster.device("bob"), cluster.device("cy"));
    assert_eq!(erase(&bob, "bob", "k").await.ok(), bobs, "a retry");
    for (device, count) in [(&ann, 0), (&bob, 1), (&cy, 2)] {
        assert_eq!(device.pull(USER, "").await.ok()["count"], count);
    }
    // Nothing from before is listed, also of what is still to be deleted.
    let on_demand = async |device: &Device| {
        let listed = device.get(&format!("{USER}/backups?type=on_demand")).await.ok();
        listed["backups"].as_array().unwrap().len()
    };
    eventually("the catalogue is told again", async || (on_demand(&cy).await == 1).then_some(()))
        .await;
    assert_eq!((on_demand(&ann).await, on_demand(&bob).await), (0, 0));
    // The recovered cluster ends what the lost one had begun, and erases what only the lost one had.
    erased_from_archive(&bob, &location).await;
    let done = erased_from_log(&bob, &location).await;
    assert_eq!(done["cursor"], bobs["cursor"]);
    assert_eq!(tell("bob").await.len(), 0);
    let done = erased_from_log(&ann, &anns).await;
    assert_eq!(done["backups"]["status"], "erased");
    let last = erase(&cy, "cy", "k").await;
    let location = last.headers["location"].to_str().unwrap().to_owned();
    last.ok();
    erased_from_archive(&cy, &location).await;
    for user in ["ann", "bob", "cy"] {
        assert_eq!(tell(user).await.len(), 0, "{user}");
        assert_eq!(on_the_log(cluster.node.log.as_ref(), user).await, 0, "{user}");
    }
    let dora = cluster.device("dora");
    assert!(!tell("dora").await.is_empty());
    assert_eq!(dora.pull(USER, "").await.ok()["digest"], before[3]["digest"]);
    // Where the rows are lost once more, they are filled from the same.
    cluster.lose_the_database().await;
    for (user, count) in [("ann", 0), ("bob", 1), ("cy", 0), ("dora", 2)] {
        assert_eq!(cluster.device(user).pull(USER, "").await.ok()["count"], count, "{user}");
    }
    assert_all_agree(&cluster, &archive).await;
    cluster.node.stop().await;
}

/// How many records of the log have a user's secret.
async fn on_the_log(log: &dyn EventLog, user: &str) -> usize {
    let secret = format!("{user}'s secret").into_bytes();
    let mut found = 0;
    equation::read(log, |record| {
        found += usize::from(record.value.windows(secret.len()).any(|part| part == secret));
    })
    .await;
    found
}

/// Tombstones expire so many days later; the scope's floor is then at a cursor.
async fn expire(cluster: &mut Cluster, days: i64, floor: u64) {
    cluster.restart(ALL).await;
    let later = Later::start(cluster, days);
    let ann = cluster.device("ann");
    eventually("the tombstones expire", async || {
        later.expire().await;
        (ann.pull(USER, "").await.ok()["floor"] == floor).then_some(())
    })
    .await;
    later.stop().await;
    cluster.restart(ARCHIVING).await;
}

/// Years later, when a newer full has all that is in it.
async fn what_the_log_begins_with_stays(cluster: &mut Cluster, bucket: &Path) {
    let base = format!("-base-{}.jsonl.gz", cluster.node.log.log_id());
    let fulls = || {
        let folder = std::fs::read_dir(bucket.join("tenants/acme/users/ann/full")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.partition::<Vec<_>, _>(|name| name.ends_with(&base))
    };
    let newer = |name: &String| name.split_once(".jsonl").unwrap().0 > &*fulls().0[0];
    eventually("a day ends", async || fulls().1.iter().any(newer).then_some(())).await;
    cluster.restart(ALL).await;
    let later = Later::start(cluster, 1_000);
    assert!(later.expire().await.stays > 0);
    later.stop().await;
    cluster.restart(ARCHIVING).await;
    assert_eq!(fulls().0.len(), 1);
}

async fn delete(device: &Device, id: &Value, cursor: u64) {
    let delete = json!({"id": id, "deleted": true, "base_cursor": cursor});
    device.push(USER, &[delete]).await.ok();
}

/// One tombstone expires before the log is lost, another one on the recovered log, which never saw it made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_expire_on_a_recovered_log_as_on_any() {
    let bucket = tempfile::tempdir().unwrap();
    let flag = format!("--archive=file://{}", bucket.path().display());
    let mut cluster = Cluster::start_archiving_to(LogKind::Embedded, &[&flag]).await;
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    let ann = cluster.device("ann");
    let pushed = ann.push(USER, &three()).await.ok();
    let id = |n: usize| pushed["results"][n]["id"].clone();
    let mut away = [Replica::default(), Replica::default()];
    mend(&ann, &Scope::User, &mut away[0]).await;
    delete(&ann, &id(0), 1).await;
    sealed(&archive, cluster.node.log.as_ref()).await;
    expire(&mut cluster, 91, 4).await;
    let ann = cluster.device("ann");
    mend(&ann, &Scope::User, &mut away[1]).await;
    delete(&ann, &id(1), 2).await;
    sealed(&archive, cluster.node.log.as_ref()).await;
    let before = ann.pull(USER, "").await.ok();
    assert_eq!((&before["floor"], &before["head"]), (&json!(4), &json!(5)));
    assert_eq!(before["messages"].as_array().unwrap().len(), 2, "one is a tombstone");

    lose_and_recover(&mut cluster).await;
    let ann = cluster.device("ann");
    let page = ann.pull(USER, "").await.ok();
    for key in ["messages", "head", "floor", "count", "digest"] {
        assert_eq!(page[key], before[key], "{key}");
    }
    // What is forgotten does not come back by an edit; what is not yet does.
    let edit = json!({"id": id(0), "type": "decision", "content": "one, edited", "base_cursor": 1});
    assert_eq!(statuses(&ann.push(USER, &[edit]).await.ok()), ["stale"]);
    assert_all_agree(&cluster, &archive).await;

    expire(&mut cluster, 200, 5).await;
    let ann = cluster.device("ann");
    let page = ann.pull(USER, "").await.ok();
    for key in ["head", "count", "digest"] {
        assert_eq!(page[key], before[key], "{key}");
    }
    assert_eq!((contents(&page), &page["floor"]), (vec!["three"], &json!(5)));
    let edit = json!({"id": id(1), "type": "decision", "content": "two, edited", "base_cursor": 2});
    assert_eq!(statuses(&ann.push(USER, &[edit]).await.ok()), ["stale"]);
    sealed(&archive, cluster.node.log.as_ref()).await;
    assert_all_agree(&cluster, &archive).await;
    what_the_log_begins_with_stays(&mut cluster, bucket.path()).await;
    assert_all_agree(&cluster, &archive).await;
    cluster.lose_the_database().await;
    assert_eq!(cluster.device("ann").pull(USER, "").await.ok()["digest"], page["digest"]);
    assert_all_agree(&cluster, &archive).await;

    // And what expired there is recovered from it.
    lose_and_recover(&mut cluster).await;
    let ann = cluster.device("ann");
    let again = ann.pull(USER, "").await.ok();
    for key in ["messages", "head", "floor", "count", "digest"] {
        assert_eq!(again[key], page[key], "{key}");
    }
    // Devices that were away all the time drop what was deleted, and bring nothing back.
    for (replica, dropped) in away.iter_mut().zip([2, 1]) {
        let answer = reconcile(&ann, USER, claim(replica)).await.ok();
        assert_eq!((gist(&answer).1, &answer["floor"]), ("repair", &json!(5)), "{answer}");
        let mended = mend(&ann, &Scope::User, replica).await;
        assert_eq!(
            (mended.dropped, mended.repairs, mended.pushed_again),
            (dropped, 1, 0),
            "{mended:?}"
        );
        assert_in_sync(&ann, USER, replica).await;
    }
    assert_eq!(ann.pull(USER, "").await.ok()["count"], 1);
    assert_all_agree(&cluster, &archive).await;
    cluster.node.stop().await;
}
