use bytes::Bytes;
use model::{Event, Offset, Partition, Place, Timestamp};
use tokio::sync::mpsc;

use super::*;
use crate::record::Unusable;

/// Records that change nothing, of so many bytes each.
fn records(bytes: &[usize]) -> Vec<Decoded> {
    let record = |(offset, bytes): (usize, &usize)| Decoded {
        place: Place {
            partition: Partition::new(0),
            offset: Offset::new(offset as u64).unwrap_or(Offset::ZERO),
        },
        append_time: Timestamp::EPOCH,
        key: Bytes::new(),
        value: Bytes::from(vec![0; *bytes]),
        event: Ok::<_, Unusable>(Event::Tick),
    };
    bytes.iter().enumerate().map(record).collect()
}

fn config(records: u32, bytes: u64) -> ProjectorConfig {
    ProjectorConfig {
        batch_records_max: records,
        batch_bytes_max: bytes,
        projector_workers: 2,
        history_days: 90,
        batch_changes_max: 1,
        partitions: Vec::new(),
    }
}

fn sizes(parts: impl IntoIterator<Item = Vec<Decoded>>) -> Vec<Vec<usize>> {
    parts.into_iter().map(|part| part.iter().map(Decoded::bytes).collect()).collect()
}

#[test]
fn no_batch_is_over_a_limit_but_of_one_record() {
    type Case = (u32, u64, &'static [usize], &'static [&'static [usize]]);
    let cases: [Case; 6] = [
        (9, 9, &[], &[&[]]),
        (9, 9, &[1, 2, 3], &[&[1, 2, 3]]),
        (2, 9, &[1, 2, 3], &[&[1, 2], &[3]]),
        (9, 3, &[1, 2, 3], &[&[1, 2], &[3]]),
        (9, 2, &[1, 5, 1, 1, 1], &[&[1], &[5], &[1, 1], &[1]]),
        (1, 9, &[1, 1], &[&[1], &[1]]),
    ];
    for (records_max, bytes_max, given, cut_to) in cases {
        let parts = cut(records(given), &config(records_max, bytes_max));
        assert_eq!(sizes(parts), cut_to, "{records_max} {bytes_max} {given:?}");
    }
}

#[tokio::test]
async fn what_is_put_back_comes_first_and_in_order() -> Result<(), LogError> {
    let (send, reads) = mpsc::channel(1);
    let config = config(2, 9);
    let mut inbox = Inbox::new(&config, reads);
    assert!(send.send(Ok(records(&[1, 2, 3]))).await.is_ok());
    let first = inbox.next().await?;
    inbox.put_back(first);
    let mut parts = vec![inbox.next().await?, inbox.next().await?];
    drop(send);
    assert!(matches!(inbox.next().await, Err(LogError::Closed)));
    assert_eq!(sizes(parts.drain(..)), [vec![1, 2], vec![3]]);
    Ok(())
}

#[tokio::test]
async fn what_is_left_over_is_filled_up_with_what_is_read_next() -> Result<(), LogError> {
    let (send, reads) = mpsc::channel(9);
    let config = ProjectorConfig { batch_changes_max: 2_000, ..config(4, 99) };
    let mut inbox = Inbox::new(&config, reads);
    for read in [[1, 2, 3], [4, 5, 6], [7, 8, 9]] {
        assert!(send.send(Ok(records(&read))).await.is_ok());
    }
    drop(send);
    let parts = [inbox.next().await?, inbox.next().await?, inbox.next().await?];
    assert_eq!(sizes(parts), [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9]]);
    assert!(matches!(inbox.next().await, Err(LogError::Closed)));
    Ok(())
}

#[tokio::test]
async fn few_records_wait_for_the_commit_and_come_with_what_was_read_meanwhile()
-> Result<(), LogError> {
    let (send, reads) = mpsc::channel(9);
    let config = ProjectorConfig { batch_changes_max: 2_000, ..config(2_000, 1 << 20) };
    let mut inbox = Inbox::new(&config, reads);
    let read = async |bytes: &[usize]| assert!(send.send(Ok(records(bytes))).await.is_ok());
    read(&[1, 2]).await;
    // The commit ends first: what was read is not lost.
    tokio::select! {
        biased;
        few = inbox.next_ahead() => panic!("{few:?}"),
        () = tokio::task::yield_now() => {}
    }
    read(&[3]).await;
    assert_eq!(sizes([inbox.next().await?]), [vec![1, 2, 3]]);
    // Enough by their number, or by their bytes.
    read(&[1; 40]).await;
    read(&[1; 24]).await;
    assert_eq!(inbox.next_ahead().await?.len(), 64);
    read(&[64 << 10]).await;
    assert_eq!(inbox.next_ahead().await?.len(), 1);
    drop(send);
    assert!(matches!(inbox.next_ahead().await, Err(LogError::Closed)));
    Ok(())
}
