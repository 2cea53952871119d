//! The archiver on a bucket: the same objects as in a folder.

use archive::{Archive, ArchiveAddress, ArchiveConfig};
use dev::gcs::{Fault, Front};

use crate::{
    archiving::{a_day, at},
    bench::Bench,
    commands::{push, say},
};

async fn bucket(front: &Front, prefix: &str) -> Archive {
    let bucket = front.make_bucket().await.unwrap();
    let mut config = ArchiveConfig::new(ArchiveAddress::Gcs { bucket, prefix: prefix.into() });
    config.archive_endpoint = Some(front.url().to_owned());
    Archive::open(&config).unwrap()
}

async fn front() -> Front {
    Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap()
}

/// More than a part in one object: many long messages of one user, which no compression makes much shorter.
fn a_day_with_much(bench: &Bench) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .";
    let mut state = 1u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(LETTERS[(state >> 58) as usize])
    };
    for number in 0..190u128 {
        let content: String = (0..60_000).map(|_| letter()).collect();
        let mut command = push("acme/user/ann@x", "ann@x", &[say(&content)]);
        command.id = model::CommandId(uuid::Uuid::from_u128(number));
        bench.log.at(at("2025-12-30T10:00:00Z"), &command);
    }
    a_day(bench);
}

async fn archived(bench: &Bench) {
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
}

#[tokio::test]
async fn a_bucket_has_the_same_objects_as_a_folder() {
    let front = front().await;
    let in_folder = Bench::new(2);
    a_day_with_much(&in_folder);
    archived(&in_folder).await;
    let expected = in_folder.stored().await;
    for prefix in ["", "a/b"] {
        let in_bucket = Bench::on(2, bucket(&front, prefix).await);
        for record in in_folder.log.all() {
            in_bucket.log.put(record.append_time, record.partition, record.key, record.value);
        }
        archived(&in_bucket).await;
        assert_eq!(in_bucket.stored().await, expected);
        assert!(in_bucket.check().await > 6);
    }
    let large = in_folder.archive.list("tenants").await.unwrap().into_iter();
    assert!(large.map(|(_, size)| size).max() > Some(8 << 20), "uploaded in parts");
}

/// On a bucket whose network drops a request in five, two of them end with the bytes of one alone.
#[tokio::test]
async fn two_archivers_on_a_bad_network_end_with_the_same_bytes() {
    let front = front().await;
    let alone = Bench::new(2);
    a_day(&alone);
    archived(&alone).await;
    let bench = Bench::on(2, bucket(&front, "").await);
    a_day(&bench);
    let requests = std::sync::atomic::AtomicU32::new(0);
    front.misbehave(move |_| {
        match requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 10 {
            3 => Some(Fault::AnswerLost),
            7 => Some(Fault::Status(503)),
            _ => None,
        }
    });
    let running = [bench.start(), bench.start_with("other", bench.archive.clone())];
    bench.sealed().await;
    for running in running {
        running.stop().await;
    }
    front.behave();
    assert_eq!(bench.stored().await, alone.stored().await);
}
