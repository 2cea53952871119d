use model::Offset;
use uuid::Uuid;

use super::*;

const LOG: LogId = LogId(Uuid::from_u128(1));
/// More than there are files.
const PARTITIONS: u32 = 6;

fn open(directory: &Path, log: LogId) -> Result<Cache> {
    Cache::open(directory, "fold", log, HourLength::REAL)
}

fn offset(number: u32) -> Offset {
    Offset::new(u64::from(number)).unwrap()
}

/// Each partition stands at an offset of its own.
fn fill(cache: &Cache) {
    for number in 0..PARTITIONS {
        let next_offset = offset(100 + number);
        let state = PartitionState { next_offset, ..PartitionState::START };
        let partition = Partition::new(number);
        cache.write(partition, true, |tables| tables.put_state(partition, &state)).unwrap();
    }
}

fn offsets(cache: &Cache) -> Vec<Offset> {
    (0..PARTITIONS).map(|n| cache.state(Partition::new(n)).unwrap().next_offset).collect()
}

#[test]
fn every_partition_is_found_where_it_was_put() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path(), LOG).unwrap());
    let cache = open(directory.path(), LOG).unwrap();
    assert_eq!(offsets(&cache), (100..100 + PARTITIONS).map(offset).collect::<Vec<_>>());
}

#[test]
fn what_is_of_another_log_is_made_again_and_what_is_of_an_earlier_version_goes() {
    let directory = tempfile::tempdir().unwrap();
    let earlier = directory.path().join("fold.redb");
    std::fs::write(&earlier, b"one file for all").unwrap();
    fill(&open(directory.path(), LOG).unwrap());
    assert!(!earlier.exists());
    let cache = open(directory.path(), LogId(Uuid::from_u128(2))).unwrap();
    assert_eq!(offsets(&cache), vec![Offset::ZERO; PARTITIONS as usize]);
}

#[test]
fn who_finds_it_open_is_told_and_takes_nothing_away() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), LOG).unwrap();
    fill(&cache);
    assert!(matches!(open(directory.path(), LOG), Err(CacheError::Storage(_))));
    assert!(matches!(
        open(directory.path(), LogId(Uuid::from_u128(2))),
        Err(CacheError::Storage(_))
    ));
    assert_eq!(offsets(&cache), (100..100 + PARTITIONS).map(offset).collect::<Vec<_>>());
}

/// Two writers wait for each other only where their partitions share a file.
#[test]
fn partitions_of_different_files_are_written_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), LOG).unwrap();
    let [first, second] = [0, 1].map(Partition::new);
    cache
        .write(first, false, |_| {
            let state = PartitionState { next_offset: offset(7), ..PartitionState::START };
            cache.write(second, false, |tables| tables.put_state(second, &state))
        })
        .unwrap();
    assert_eq!(cache.state(second).unwrap().next_offset, offset(7));
}

#[test]
fn a_cache_that_is_removed_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path(), LOG).unwrap());
    Cache::remove(directory.path(), "fold").unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    Cache::remove(directory.path(), "fold").unwrap();
}
