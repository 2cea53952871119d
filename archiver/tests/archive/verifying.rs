//! `ops verify`: what is wrong is found and named; what is well is proven.

use std::{fs, path::PathBuf};

use archive::verify::{Report, Sample, verify};

use crate::{archiving::a_day, bench::Bench};

async fn archived() -> Bench {
    let bench = Bench::new(2);
    a_day(&bench);
    let running = bench.start();
    bench.sealed().await;
    running.stop().await;
    bench
}

async fn report(bench: &Bench) -> Report {
    verify(&bench.archive, Sample::ALL, |_, _| {}).await.unwrap()
}

/// The paths with problems.
async fn problems(bench: &Bench) -> Vec<String> {
    let report = report(bench).await;
    assert_eq!(report.is_well(), report.problems.is_empty());
    report.problems.into_iter().map(|problem| problem.path).collect()
}

fn path_with(bench: &Bench, part: &str) -> (String, PathBuf) {
    let name = bench.objects().into_keys().find(|name| name.contains(part)).unwrap();
    let path = bench.folder.join(&name);
    (name, path)
}

#[tokio::test]
async fn a_whole_archive_is_proven() {
    let bench = archived().await;
    let report = report(&bench).await;
    assert_eq!(report.problems, []);
    assert_eq!(report.orphans, [""; 0]);
    assert_eq!((report.backups, report.states_read), (6, 4), "{report:?}");
    assert_eq!(report.objects, report.objects_read);
    assert!(report.until.iter().any(|until| until.hour == "2025-12-31-00"), "{report:?}");
}

#[tokio::test]
async fn runs_of_a_sample_read_all_together() {
    let bench = archived().await;
    let all = report(&bench).await;
    let (mut read, mut states) = (0, 0);
    for sample in ["1/3", "2/3", "3/3"] {
        let report = verify(&bench.archive, sample.parse().unwrap(), |_, _| {}).await.unwrap();
        assert_eq!((report.objects, report.manifests), (all.objects, all.manifests));
        read += report.objects_read;
        states += report.states_read;
    }
    assert_eq!((read, states), (all.objects_read, all.states_read));
    for wrong in ["", "0/3", "4/3", "1", "1/0", "x/y"] {
        assert!(wrong.parse::<Sample>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_in_every_object() {
    let bench = archived().await;
    let objects: Vec<String> =
        bench.objects().into_keys().filter(|name| !name.starts_with("_schemas/")).collect();
    for name in objects {
        let path = bench.folder.join(&name);
        let whole = fs::read(&path).unwrap();
        for place in [11, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[place] ^= 4;
            fs::write(&path, &flipped).unwrap();
            let problems = problems(&bench).await;
            assert!(problems.contains(&name), "{name} flipped at {place}: {problems:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(problems(&bench).await, [""; 0]);
}

#[tokio::test]
async fn what_is_missing_or_cut_is_named() {
    for part in ["teams/web/full", "users/ann/incremental", "events/", "messages/"] {
        let bench = archived().await;
        let (name, path) = path_with(&bench, part);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(problems(&bench).await, [name.as_str()]);
        fs::remove_file(&path).unwrap();
        assert_eq!(problems(&bench).await, [name.as_str()]);
    }
}

#[tokio::test]
async fn a_missing_manifest_breaks_the_chain_where_it_goes_on() {
    let bench = archived().await;
    let (_, path) = path_with(&bench, "hour/2025-12-30-11");
    fs::remove_file(&path).unwrap();
    let problems = problems(&bench).await;
    let goes_on = |path: &&String| path.contains("hour/2025-12-30-12");
    let names_it = |path: &String| path.contains("compaction/2025-12-30");
    assert!(problems.iter().any(|path| goes_on(&path)), "{problems:?}");
    assert!(problems.iter().all(|path| goes_on(&path) || names_it(path)), "{problems:?}");
}

#[tokio::test]
async fn what_no_manifest_lists_is_an_orphan() {
    let bench = archived().await;
    let orphan = "tenants/acme/users/ann/incremental/2030-01-01-00.jsonl.gz";
    fs::write(bench.folder.join(orphan), "x").unwrap();
    let report = report(&bench).await;
    assert_eq!(report.orphans, [orphan]);
    assert!(report.is_well());
}
