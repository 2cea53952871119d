//! A folder of the file system: what crashes and people leave in it.

use std::{fs, path::Path, sync::Arc};

use archive::{
    Archive, ArchiveAddress, ArchiveConfig, ArchiveError, StorageClass, object::Scratch,
};
use object_store::{ObjectStore, memory::InMemory};

use crate::{LARGE, bytes, fetched, object};

fn open(directory: &Path) -> Archive {
    Archive::open(&ArchiveConfig::new(ArchiveAddress::File(directory.to_owned()))).unwrap()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Objects are written under another name, synced, and linked into place: what a crash leaves is never an object.
#[tokio::test]
async fn half_written_files_of_a_crash_are_no_objects() {
    let directory = tempfile::tempdir().unwrap();
    let archive = open(directory.path());
    for length in [1_000, LARGE] {
        let (path, content) = (format!("a/{length}"), bytes(length, 1));
        for leftover in ["#1", "#2"] {
            write(&directory.path().join(format!("{path}{leftover}")), &content[..100]);
        }
        assert!(archive.fetch(&path).await.is_err());
        assert!(!archive.list("a").await.unwrap().iter().any(|(found, _)| *found == path));
        archive.create(&path, &mut object(&archive, &content)).await.unwrap();
        assert!(fetched(&archive, &path).await == content);
    }
    let listed: Vec<String> =
        archive.list("a").await.unwrap().into_iter().map(|(path, _)| path).collect();
    assert_eq!(listed, ["a/1000".to_owned(), format!("a/{LARGE}")]);
}

/// An upload that is dropped half way, as a killed process drops it.
#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_no_object() {
    let directory = tempfile::tempdir().unwrap();
    let archive = open(directory.path());
    let content = bytes(4 * LARGE, 2);
    for polls in 1..12 {
        let mut object = object(&archive, &content);
        {
            let mut upload = std::pin::pin!(archive.create("a/b", &mut object));
            for _ in 0..polls {
                let _ = futures_util::poll!(upload.as_mut());
                tokio::task::yield_now().await;
            }
        }
        for (path, size) in archive.list("a").await.unwrap() {
            assert_eq!((path.as_str(), size), ("a/b", content.len() as u64));
        }
    }
    archive.create("a/b", &mut object(&archive, &content)).await.unwrap();
    assert!(fetched(&archive, "a/b").await == content);
}

#[tokio::test]
async fn what_people_leave_in_the_folder_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let archive = open(directory.path());
    archive.create("a/b", &mut object(&archive, b"b")).await.unwrap();
    for stranger in ["a/.DS_Store", "a/notes.txt~", "a/x y/é.txt", "a/%", "lost+found/1"] {
        write(&directory.path().join(stranger), b"stranger");
    }
    fs::create_dir_all(directory.path().join("a/empty")).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("a/dangling")).unwrap();
    let listed = archive.list("a").await.unwrap();
    assert!(listed.contains(&("a/b".to_owned(), 1)));
    assert!(listed.iter().all(|(path, _)| path.starts_with("a/")), "{listed:?}");
    assert!(fetched(&archive, "a/b").await == b"b");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    write(&file, b"a file");
    for folder in [file.clone(), file.join("folder"), "/proc/archive".into()] {
        let opened = Archive::open(&ArchiveConfig::new(ArchiveAddress::File(folder.clone())));
        assert!(matches!(opened, Err(ArchiveError::Open(_))), "{}", folder.display());
    }
    let mut config = ArchiveConfig::new(ArchiveAddress::File(directory.path().to_owned()));
    config.archive_storage_class = Some(StorageClass::Archive);
    let error = Archive::open(&config).unwrap_err();
    assert!(error.to_string().contains("buckets alone"), "{error}");
}

/// Whoever only reads makes no archive where a path is mistyped.
#[tokio::test]
async fn a_folder_that_is_missing_is_said_to_who_reads_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("mistyped");
    let config = ArchiveConfig::new(ArchiveAddress::File(folder.clone()));
    let error = Archive::open_existing(&config).unwrap_err();
    assert!(error.to_string().contains("check --archive"), "{error}");
    assert!(!folder.exists());
    Archive::open(&config).unwrap();
    Archive::open_existing(&config).unwrap();
}

/// A manifest that was tampered with names what is no path: damage, not a store that is down.
#[tokio::test]
async fn what_is_no_path_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let archive = open(directory.path());
    for path in ["tenants//x", "a/../b"] {
        let error = archive.fetch(path).await.unwrap_err();
        assert!(!error.is_retryable(), "{path}: {error}");
    }
}

/// A file stands where a folder should be: the disk's own words, to be tried again.
#[tokio::test]
async fn a_folder_that_is_a_file_is_an_error_like_others() {
    let directory = tempfile::tempdir().unwrap();
    let archive = open(directory.path());
    write(&directory.path().join("a"), b"a file");
    for length in [1_000, LARGE] {
        let error = archive.create("a/b", &mut object(&archive, &bytes(length, 3))).await;
        assert!(error.unwrap_err().is_retryable());
    }
    assert!(archive.fetch("a/b").await.is_err());
}

/// Whatever the store: it is called by its address alone.
#[tokio::test]
async fn an_archive_lies_over_any_store() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let address = ArchiveAddress::File("/memory".into());
    let archive = Archive::over(store, address, Scratch::default());
    archive.create("a/b", &mut object(&archive, &bytes(LARGE, 4))).await.unwrap();
    assert!(fetched(&archive, "a/b").await == bytes(LARGE, 4));
    assert_eq!(archive.url("a/b"), "file:///memory/a/b");
}
