//! What a bad store does, and what becomes of it: each fault once, each fault for ever, on small objects and on large.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};
use std::time::Duration;

use archive::{Archive, ArchiveError, StorageClass};
use dev::gcs::Fault;
use http::{Method, request::Parts};

use crate::{Bucket, LARGE, SIZES, bytes, fetched, object};

const FAULTS: [Fault; 8] = [
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(408),
    Fault::Closed,
    Fault::AnswerLost,
    Fault::Slow(Duration::from_millis(300)),
    Fault::Garbled,
];

/// The fault of the n-th request of a kind, and of it alone.
fn nth(
    fault: Fault,
    n: u32,
    is_meant: fn(&Parts) -> bool,
) -> impl Fn(&Parts) -> Option<Fault> + Send + Sync {
    let seen = AtomicU32::new(0);
    move |parts| {
        let is_it = is_meant(parts) && seen.fetch_add(1, Ordering::Relaxed) == n;
        is_it.then_some(fault)
    }
}

fn writes(parts: &Parts) -> bool {
    matches!(parts.method, Method::PUT | Method::POST)
}

fn reads(parts: &Parts) -> bool {
    parts.method == Method::GET
}

#[tokio::test]
async fn an_upload_outlives_each_fault() {
    let bucket = Bucket::new().await;
    let Bucket { front, archive, .. } = &bucket;
    for fault in FAULTS {
        let (path, content) = (format!("a/{fault:?}"), bytes(1_000, 1));
        front.misbehave(nth(fault, 0, writes));
        archive.create(&path, &mut object(archive, &content)).await.unwrap();
        front.behave();
        assert!(fetched(archive, &path).await == content, "{path}");
    }
}

/// A large object takes five: begin, two parts, end, copy.
#[tokio::test]
async fn an_upload_in_parts_outlives_faults_of_each_of_its_requests() {
    let bucket = Bucket::new().await;
    let Bucket { front, archive, .. } = &bucket;
    let content = bytes(LARGE, 1);
    for fault in FAULTS.into_iter().chain([Fault::AnswerCut]) {
        for n in 0..5 {
            let path = format!("a/{fault:?}-{n}");
            front.misbehave(nth(fault, n, writes));
            archive.create(&path, &mut object(archive, &content)).await.unwrap();
            front.behave();
            assert!(fetched(archive, &path).await == content, "{path}");
        }
    }
    assert_eq!(archive.list("_uploads").await.unwrap(), []);
}

#[tokio::test]
async fn a_download_outlives_each_fault() {
    let bucket = Bucket::new().await;
    let Bucket { front, archive, .. } = &bucket;
    for length in SIZES {
        let (path, content) = (format!("a/{length}"), bytes(length, 2));
        archive.create(&path, &mut object(archive, &content)).await.unwrap();
        for fault in FAULTS.into_iter().chain([Fault::AnswerCut]) {
            front.misbehave(nth(fault, 0, reads));
            assert!(fetched(archive, &path).await == content, "{fault:?}");
            assert_eq!(archive.list("a").await.unwrap().len(), 1 + usize::from(length == LARGE));
        }
        front.behave();
    }
}

/// What lasts is said, as what can be tried again; and nothing half-written is there.
#[tokio::test]
async fn a_fault_that_lasts_is_said_and_leaves_nothing_behind() {
    let bucket = Bucket::new().await;
    let Bucket { front, archive, .. } = &bucket;
    let content = bytes(LARGE, 3);
    for fault in [Fault::Status(429), Fault::Status(503), Fault::Closed] {
        front.misbehave(move |parts| writes(parts).then_some(fault));
        let error = archive.create("a/b", &mut object(archive, &content)).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Unavailable(_)), "{error}");
        assert!(error.is_retryable() && !error.needs_operator());
        front.behave();
        assert_eq!(archive.list("a").await.unwrap(), []);
    }
    archive.create("a/b", &mut object(archive, &content)).await.unwrap();
    assert!(fetched(archive, "a/b").await == content);
}

#[tokio::test]
async fn an_answer_that_is_always_cut_is_no_object() {
    let bucket = Bucket::new().await;
    let Bucket { front, archive, .. } = &bucket;
    archive.create("a/b", &mut object(archive, &bytes(1_000, 4))).await.unwrap();
    front.misbehave(|parts| reads(parts).then_some(Fault::AnswerCut));
    let error = archive.fetch("a/b").await.unwrap_err();
    assert!(matches!(error, ArchiveError::Unavailable(_)), "{error}");
}

/// What an operator must mend is told apart from what passes.
#[tokio::test]
async fn a_refusal_and_a_missing_bucket_are_named() {
    let mut bucket = Bucket::new().await;
    for status in [401, 403] {
        bucket.front.misbehave(move |_| Some(Fault::Status(status)));
        for error in all_errors(&bucket.archive).await {
            assert!(matches!(error, ArchiveError::Refused(_)), "{status}: {error}");
            assert!(error.is_retryable() && error.needs_operator());
        }
    }
    bucket.front.behave();
    let missing = "gs://no-bucket-of-this-name".parse().unwrap();
    bucket.config.archive = Some(missing);
    let archive = Archive::open(&bucket.config).unwrap();
    for error in all_errors(&archive).await {
        assert!(matches!(error, ArchiveError::NoBucket(_)), "{error}");
        assert!(error.is_retryable() && error.needs_operator());
    }
}

/// Of each operation.
async fn all_errors(archive: &Archive) -> Vec<ArchiveError> {
    let [small, large] = SIZES.map(|length| object(archive, &bytes(length, 5)));
    let mut errors = Vec::new();
    for mut object in [small, large] {
        errors.push(archive.create("a/b", &mut object).await.unwrap_err());
    }
    errors.push(archive.fetch("a/b").await.unwrap_err());
    errors.push(archive.list("a").await.unwrap_err());
    errors.push(archive.delete("a/b").await.unwrap_err());
    errors
}

/// CRC32C goes with all content, so that the store itself refuses what was damaged on the way; and the storage class
/// and key of the settings with all that makes an object.
#[tokio::test]
async fn uploads_carry_their_checksum_and_what_the_settings_say() {
    const KEY: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let bucket = Bucket::with("", |config| {
        config.archive_storage_class = Some(StorageClass::Nearline);
        config.archive_kms_key = Some(KEY.parse().unwrap());
    })
    .await;
    let seen: Arc<Mutex<Vec<Parts>>> = Arc::default();
    let sees = seen.clone();
    bucket.front.misbehave(move |parts| {
        sees.lock().unwrap().push(parts.clone());
        None
    });
    for length in SIZES {
        let path = format!("a/{length}");
        bucket
            .archive
            .create(&path, &mut object(&bucket.archive, &bytes(length, 6)))
            .await
            .unwrap();
    }
    let seen = seen.lock().unwrap();
    let has = |parts: &Parts, header: &str| parts.headers.contains_key(header);
    let asks = |parts: &Parts, query: &str| parts.uri.query().unwrap_or_default().contains(query);
    let (mut contents, mut objects) = (0, 0);
    for parts in seen.iter().filter(|parts| writes(parts)) {
        let is_content = parts.method == Method::PUT && !has(parts, "x-goog-copy-source");
        assert_eq!(has(parts, "x-goog-hash"), is_content, "{parts:?}");
        let makes_object = !asks(parts, "uploadId=");
        for (header, value) in
            [("x-goog-storage-class", "NEARLINE"), ("x-goog-encryption-kms-key-name", KEY)]
        {
            let found = parts.headers.get(header).map(|found| found.to_str().unwrap());
            assert_eq!(found, makes_object.then_some(value), "{parts:?}");
        }
        contents += u32::from(is_content);
        objects += u32::from(makes_object);
    }
    assert_eq!(
        (contents, objects),
        (3, 3),
        "one small object; two parts, their begin, and the copy"
    );
}

/// What was flipped on the way is refused by the store, and uploaded again.
#[tokio::test]
async fn what_is_damaged_on_the_way_is_never_stored() {
    let bucket = Bucket::new().await;
    let Bucket { front, archive, .. } = &bucket;
    front.misbehave(|parts| (parts.method == Method::PUT).then_some(Fault::Garbled));
    for length in SIZES {
        let path = format!("a/{length}");
        let error = archive.create(&path, &mut object(archive, &bytes(length, 7))).await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("BadDigest"), "{error}");
    }
    front.behave();
    assert_eq!(archive.list("a").await.unwrap(), []);
}
