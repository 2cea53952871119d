use bytes::Bytes;
use eventlog::LogError;
use model::{Event, Offset, Place, Timestamp};

use super::*;

fn records(places: &[(u32, u64)]) -> Vec<Decoded> {
    let record = |&(partition, offset): &(u32, u64)| Decoded {
        place: Place {
            partition: Partition::new(partition),
            offset: Offset::new(offset).unwrap_or(Offset::ZERO),
        },
        append_time: Timestamp::EPOCH,
        key: Bytes::new(),
        value: Bytes::new(),
        event: Ok(Event::Tick),
    };
    places.iter().map(record).collect()
}

fn of_two_workers() -> (Outlets, Vec<mpsc::Receiver<Read>>) {
    outlets(
        [vec![0, 2], vec![1]].map(|own| own.into_iter().map(Partition::new).collect()).into_iter(),
    )
}

fn received(inlet: &mut mpsc::Receiver<Read>) -> Option<Vec<(u32, u64)>> {
    let records = inlet.try_recv().ok()?.ok()?;
    Some(records.iter().map(|r| (r.place.partition.get(), r.place.offset.get())).collect())
}

#[tokio::test]
async fn each_worker_gets_its_own_in_their_order() {
    let (outlets, mut inlets) = of_two_workers();
    assert!(outlets.give_out(Ok(records(&[(1, 5), (0, 7), (2, 1), (0, 8)]))).await.is_continue());
    assert!(outlets.give_out(Ok(records(&[(2, 2)]))).await.is_continue());
    assert_eq!(received(&mut inlets[0]), Some(vec![(0, 7), (2, 1), (0, 8)]));
    assert_eq!(received(&mut inlets[0]), Some(vec![(2, 2)]));
    assert_eq!(received(&mut inlets[1]), Some(vec![(1, 5)]));
    assert_eq!(received(&mut inlets[1]), None);
}

#[tokio::test]
async fn what_failed_is_told_to_all_and_ends_the_reading() {
    let (outlets, mut inlets) = of_two_workers();
    drop(inlets.remove(0)); // it has folded all that it was to
    assert!(outlets.give_out(Err(LogError::Failed("disk".into()))).await.is_break());
    assert!(matches!(inlets[0].try_recv(), Ok(Err(LogError::Failed(_)))));
}

#[tokio::test]
async fn a_worker_that_is_gone_ends_the_reading_once_there_is_something_for_it() {
    let (outlets, mut inlets) = of_two_workers();
    drop(inlets.remove(0));
    assert!(outlets.give_out(Ok(records(&[(1, 5)]))).await.is_continue());
    assert!(outlets.give_out(Ok(records(&[(2, 5)]))).await.is_break());
}
