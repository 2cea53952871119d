//! The reader in Python, which was written from FORMAT.md: others can read what is written.

use std::{fs, path::Path, process::Command};

use crate::{
    bench::{Bench, open},
    segments::{SOON, all_uploaded, an_open_hour},
    weeks::three_weeks,
};

/// The lines that the reader prints, and whether it finds all well.
fn read(folder: &Path) -> (bool, Vec<String>) {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../archive/tests/reader.py");
    let output = Command::new("python3").arg(reader).arg(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "", "it does not fail, whatever it reads");
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.success(), said.lines().map(str::to_owned).collect())
}

/// The reader finds all well.
pub(crate) fn proves(bench: &Bench) {
    let (is_well, said) = read(&bench.folder);
    assert!(is_well, "{said:?}");
}

/// Damages an object in a copy of the archive, and says what the reader finds.
pub(crate) fn damaged(bench: &Bench, path: &str, damage: impl Fn(&Path, Vec<u8>)) -> Vec<String> {
    let file = bench.folder.join(path);
    let whole = fs::read(&file).unwrap();
    damage(&file, whole.clone());
    let (is_well, said) = read(&bench.folder);
    fs::write(&file, whole).unwrap();
    assert!(!is_well && !said.is_empty(), "{path}");
    said
}

fn flip(file: &Path, mut bytes: Vec<u8>) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path, bytes: Vec<u8>) {
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

pub(crate) fn remove(file: &Path, _: Vec<u8>) {
    fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn the_reader_in_python_proves_an_archive_and_names_what_is_damaged() {
    let bench = three_weeks().await;
    proves(&bench);
    let objects = bench.objects();
    for part in [
        "/web/incremental/2026-01-05",
        "/web/full/2026-01-06",
        "/on-demand/",
        "a%3Ab/users/ann%40x%7Cy%2Bz/full/",
        "events/date=2026-01-05/hour=all",
        "messages/date=2026-01-05/hour=all",
        "/hour/2026-01-05-10",
        "partition=0/full/2026-01-06",
        "/compaction/2026-01-05",
    ] {
        let path = objects.keys().find(|path| path.contains(part)).unwrap();
        for (damage, what) in
            [(flip as fn(&Path, Vec<u8>), "flipped"), (cut, "cut"), (remove, "removed")]
        {
            // What is not there cannot be asked for its name: who lists it or goes on from it is named.
            if what == "removed" && path.starts_with("manifests/") {
                continue;
            }
            let said = damaged(&bench, path, damage);
            assert!(said.iter().any(|line| line.starts_with(path)), "{path} {what}: {said:?}");
        }
    }
    finds_a_hole_and_a_lie(&bench);
    proves(&bench);
}

#[tokio::test]
async fn the_reader_in_python_proves_segments_and_names_what_is_damaged_or_left_over() {
    let bench = Bench { segments: SOON, ..Bench::new(1) };
    let running = bench.start();
    for from in [0, 20] {
        an_open_hour(&bench, from, 20);
        all_uploaded(&bench).await;
    }
    running.stop().await;
    proves(&bench);
    let objects = bench.objects();
    let mut paths: Vec<_> = objects.keys().filter(|path| path.starts_with("segments/")).collect();
    // Their names are numbers: the longer one is the later.
    paths.sort_by_key(|path| (path.len(), *path));
    let [.., before, last] = paths[..] else { panic!("{paths:?}") };
    for damage in [flip as fn(&Path, Vec<u8>), cut] {
        let said = damaged(&bench, before, damage);
        assert!(said.iter().any(|line| line.starts_with(before.as_str())), "{said:?}");
    }
    let said = damaged(&bench, before, remove);
    assert!(said.iter().any(|line| line.starts_with(last.as_str())), "{said:?}");
    let left = "tenants/acme/users/u1/incremental/2025-12-30-10.jsonl.gz";
    let file = bench.folder.join(left);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "half").unwrap();
    let (is_well, said) = read(&bench.folder);
    assert!(
        is_well && said[0] == format!("{left}: no manifest lists it, which is no loss"),
        "{said:?}"
    );
}

fn finds_a_hole_and_a_lie(bench: &Bench) {
    let objects = bench.objects();
    let hour = objects.keys().find(|path| path.contains("/hour/2026-01-05-10")).unwrap();
    let said = damaged(bench, hour, remove);
    assert!(said.iter().any(|line| line.contains("the manifest before it")), "{said:?}");
    let full = objects
        .keys()
        .find(|path| path.contains("/full/2026-01-06.jsonl.gz") && path.starts_with("manifests/"));
    for (truth, lie, named) in [
        ("\"count\":", "\"count\":1", "the number of messages"),
        ("\"digest\":\"", "\"digest\":\"0", "the digest"),
        ("\"scopes\":", "\"scopes\":1", "the trailer"),
    ] {
        let said = damaged(bench, full.unwrap(), |file, _| rewrite(bench, file, truth, lie));
        assert!(said.iter().any(|line| line.contains(named)), "{lie}: {said:?}");
    }
}

/// Packs a manifest anew, with something in it replaced.
fn rewrite(bench: &Bench, file: &Path, truth: &str, lie: &str) {
    let scratch = open(&bench.folder).scratch().clone();
    let object = archive::object::Object::of_bytes(&scratch, &fs::read(file).unwrap()).unwrap();
    let mut lines = object.lines("x").unwrap();
    let mut writer = archive::object::LinesWriter::new(&scratch);
    while let Some(line) = lines.next_line().unwrap() {
        writer.push(String::from_utf8(line).unwrap().replace(truth, lie).as_bytes()).unwrap();
    }
    fs::write(file, writer.finish().unwrap().bytes().unwrap()).unwrap();
}
