//! What every store does, and what happens with one that does not. `file://` is the machine's own file system; behind
//! `gs://` is fake-gcs-server, and before it a front that misbehaves as it is told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod contract;
mod faults;
mod local;

use archive::{Archive, ArchiveAddress, ArchiveConfig, object::Object};
use dev::gcs::Front;

/// More than a part: it is uploaded in two.
const LARGE: usize = (8 << 20) + 4_321;
const SIZES: [usize; 2] = [1_000, LARGE];

/// A bucket of a test's own.
struct Bucket {
    front: Front,
    config: ArchiveConfig,
    archive: Archive,
}

impl Bucket {
    async fn new() -> Self {
        Self::with("", |_| ()).await
    }

    /// `set` changes the settings.
    async fn with(prefix: &str, set: impl FnOnce(&mut ArchiveConfig)) -> Self {
        let front = Front::start(&dev::gcs::for_tests().await.unwrap()).await.unwrap();
        let bucket = front.make_bucket().await.unwrap();
        let mut config = ArchiveConfig::new(ArchiveAddress::Gcs { bucket, prefix: prefix.into() });
        config.archive_endpoint = Some(front.url().to_owned());
        set(&mut config);
        let archive = Archive::open(&config).unwrap();
        Self { front, config, archive }
    }
}

/// Bytes that no compression shortens, another sequence for each seed.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn object(archive: &Archive, bytes: &[u8]) -> Object {
    Object::of_bytes(archive.scratch(), bytes).unwrap()
}

async fn fetched(archive: &Archive, path: &str) -> Vec<u8> {
    archive.fetch(path).await.unwrap().bytes().unwrap()
}
