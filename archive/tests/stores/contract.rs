//! What the archive relies on, whichever the store.

use archive::{Archive, ArchiveError, object::LinesWriter};
use futures_util::future::join_all;

use crate::{LARGE, SIZES, bytes, fetched, object};

/// Runs each case, an `async fn(&Archive)`, on every store.
macro_rules! every_store {
    ($($case:ident,)*) => {$(
        mod $case {
            use archive::{Archive, ArchiveAddress, ArchiveConfig};
            use crate::Bucket;

            #[tokio::test]
            async fn file() {
                let directory = tempfile::tempdir().unwrap();
                let address = ArchiveAddress::File(directory.path().join("archive"));
                super::$case(&Archive::open(&ArchiveConfig::new(address)).unwrap()).await;
            }

            #[tokio::test]
            async fn gcs() {
                super::$case(&Bucket::new().await.archive).await;
            }

            #[tokio::test]
            async fn gcs_below_a_prefix() {
                super::$case(&Bucket::with("a/b%40c", |_| ()).await.archive).await;
            }
        }
    )*};
}

every_store! {
    an_object_comes_back_as_it_was,
    what_is_created_again_is_taken_as_it_is,
    other_content_is_refused_and_what_is_there_left_alone,
    of_many_writers_one_wins,
    writers_of_the_same_all_succeed,
    what_is_missing_is_said_to_be,
    what_is_deleted_is_gone,
    a_folder_lists_what_is_below_it,
    names_are_kept_as_they_are,
}

async fn an_object_comes_back_as_it_was(archive: &Archive) {
    let part = 8 << 20;
    for (number, length) in [0, 1, 1_000, part, part + 1, 2 * part + 5].into_iter().enumerate() {
        let (path, bytes) = (format!("a/{number}"), bytes(length, 1));
        let mut object = object(archive, &bytes);
        archive.create(&path, &mut object).await.unwrap();
        assert!(fetched(archive, &path).await == bytes, "{length} bytes");
        archive.fetch_checked(&path, &object.sha256).await.unwrap();
        assert!(archive.list("a").await.unwrap().contains(&(path, length as u64)));
    }
    assert_eq!(archive.list("_uploads").await.unwrap(), []);
}

async fn what_is_created_again_is_taken_as_it_is(archive: &Archive) {
    for length in SIZES {
        let (path, bytes) = (format!("a/{length}"), bytes(length, 2));
        for _ in 0..2 {
            archive.create(&path, &mut object(archive, &bytes)).await.unwrap();
        }
        assert!(fetched(archive, &path).await == bytes, "{length} bytes");
    }
    // Another gzip packs otherwise: what is there counts, and its hash.
    let mut lines = LinesWriter::new(archive.scratch());
    lines.push(b"{}").unwrap();
    let mut ours = lines.finish().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut packed, b"{}\n").unwrap();
    let mut theirs = object(archive, &packed.finish().unwrap());
    archive.create("a/lines.jsonl.gz", &mut theirs).await.unwrap();
    assert_ne!(ours.sha256, theirs.sha256);
    archive.create("a/lines.jsonl.gz", &mut ours).await.unwrap();
    assert_eq!(ours.sha256, theirs.sha256);
}

async fn other_content_is_refused_and_what_is_there_left_alone(archive: &Archive) {
    for length in SIZES {
        let (path, first) = (format!("a/{length}"), bytes(length, 3));
        archive.create(&path, &mut object(archive, &first)).await.unwrap();
        for other in [bytes(length, 4), bytes(10, 4), bytes(LARGE, 4), Vec::new()] {
            let refused = archive.create(&path, &mut object(archive, &other)).await.unwrap_err();
            assert!(matches!(refused, ArchiveError::OtherContent { .. }), "{refused}");
            assert!(!refused.is_retryable());
        }
        assert!(fetched(archive, &path).await == first, "{length} bytes");
    }
}

async fn of_many_writers_one_wins(archive: &Archive) {
    for length in SIZES {
        let path = format!("a/{length}");
        let contents: Vec<Vec<u8>> = (0..4).map(|writer| bytes(length, writer)).collect();
        let created = contents
            .iter()
            .map(|content| async { archive.create(&path, &mut object(archive, content)).await });
        let created = join_all(created).await;
        let winners: Vec<usize> = (0..4).filter(|&writer| created[writer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{created:?}");
        for error in created.into_iter().filter_map(Result::err) {
            assert!(matches!(error, ArchiveError::OtherContent { .. }), "{error}");
        }
        assert!(fetched(archive, &path).await == contents[winners[0]]);
    }
}

async fn writers_of_the_same_all_succeed(archive: &Archive) {
    for length in SIZES {
        let (path, content) = (format!("a/{length}"), bytes(length, 5));
        let created =
            (0..4).map(|_| async { archive.create(&path, &mut object(archive, &content)).await });
        for created in join_all(created).await {
            created.unwrap();
        }
        assert!(fetched(archive, &path).await == content);
    }
    assert_eq!(archive.list("_uploads").await.unwrap(), []);
}

async fn what_is_missing_is_said_to_be(archive: &Archive) {
    let error = archive.fetch("a/missing").await.unwrap_err();
    assert!(matches!(error, ArchiveError::NotFound { .. }), "{error}");
    assert!(matches!(archive.stream("a/missing").await, Err(ArchiveError::NotFound { .. })));
    assert!(!archive.delete("a/missing").await.unwrap());
    assert_eq!(archive.list("a").await.unwrap(), []);
}

async fn what_is_deleted_is_gone(archive: &Archive) {
    for length in SIZES {
        let path = format!("a/{length}");
        archive.create(&path, &mut object(archive, &bytes(length, 6))).await.unwrap();
        assert!(archive.delete(&path).await.unwrap());
        assert!(!archive.delete(&path).await.unwrap());
        assert!(archive.fetch(&path).await.is_err());
        // Its name is free again.
        archive.create(&path, &mut object(archive, &bytes(length, 7))).await.unwrap();
    }
}

async fn a_folder_lists_what_is_below_it(archive: &Archive) {
    for path in ["a/c", "a/b/2", "a/b/1", "ab/3", "a.b", "b/a/b/4"] {
        archive.create(path, &mut object(archive, path.as_bytes())).await.unwrap();
    }
    let listed = |folder: &'static str| async move {
        let listed = archive.list(folder).await.unwrap();
        listed.into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(listed("a").await, ["a/b/1", "a/b/2", "a/c"]);
    assert_eq!(listed("a/b").await, ["a/b/1", "a/b/2"]);
    assert_eq!(listed("b").await, ["b/a/b/4"]);
}

async fn names_are_kept_as_they_are(archive: &Archive) {
    let long = "x".repeat(128);
    let mut paths = vec![
        "tenants/a%3Ab/users/ann%40x%7Cy%2Bz/full/2025-12-30.jsonl".to_owned(),
        "events/date=2025-12-30/hour=10/partition=3.avro".to_owned(),
        format!("tenants/{long}/teams/{}/org", "%40".repeat(85)),
        "tenants/%25/users/.x_-".to_owned(),
    ];
    for path in &paths {
        archive.create(path, &mut object(archive, path.as_bytes())).await.unwrap();
        assert_eq!(fetched(archive, path).await, path.as_bytes());
        assert_eq!(archive.path_of(&archive.url(path)), Some(&**path));
    }
    let mut listed: Vec<String> = Vec::new();
    for folder in ["tenants", "events"] {
        listed.extend(archive.list(folder).await.unwrap().into_iter().map(|(path, _)| path));
    }
    listed.sort_unstable();
    paths.sort_unstable();
    assert_eq!(listed, paths);
}
