use model::Event;

use super::*;
use crate::{
    object::{Object, Scratch},
    table::{EventRow, EventsWriter, Merger, Table},
};

const VALUE_BYTES: usize = 1 << 20;

/// Records of a megabyte.
fn large(offsets: Range<u64>) -> Object {
    let mut writer = EventsWriter::new(&Scratch::default(), Partition::new(0)).unwrap();
    for offset in offsets {
        let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
        let (append_time, key) = (Timestamp::EPOCH, Bytes::new());
        let (partition, offset) = (Partition::new(0), Offset::new(offset).unwrap());
        let record = eventlog::Record { partition, offset, append_time, key, value };
        let (log_time, event) = (append_time, Some(Event::Tick));
        let (repeated, is_unfolded, chunk) = (false, false, Vec::new());
        let row = EventRow { record, log_time, event, outcome: None, repeated, is_unfolded, chunk };
        writer.push(row).unwrap();
    }
    writer.finish().unwrap().0
}

/// Whatever anybody pushes: a reader that went on for 1,024 rows would hold as many megabytes, and not find room for
/// the places of more than two gigabytes of values.
#[test]
fn what_is_read_at_once_is_bounded_in_bytes() {
    let file = large(0..100).contents();
    let groups = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).unwrap();
    assert!(groups.metadata().num_row_groups() > 1);
    let mut rows = 0;
    for batch in opened(file, "events").unwrap() {
        let batch = batch.unwrap();
        assert!(batch.num_rows() * VALUE_BYTES <= READ_BYTES, "{} rows", batch.num_rows());
        rows += batch.num_rows();
    }
    assert_eq!(rows, 100);
}

/// Another version may have ended its row groups elsewhere.
#[test]
fn rows_are_compared_whatever_their_row_groups() {
    let merged = |parts: &[Range<u64>]| {
        let mut merger = Merger::new(&Scratch::default(), Table::Events);
        parts.iter().for_each(|part| merger.push(large(part.clone()), "events").unwrap());
        merger.finish().unwrap().unwrap().0.contents()
    };
    let whole = large(0..70).contents();
    let same = |other| same_rows(whole.clone(), other, "events").unwrap();
    assert!(same(merged(&[0..3, 3..70])));
    assert!(!same(merged(&[0..3, 3..69])));
    assert!(!same(merged(&[0..3, 3..70, 70..71])));
    assert!(!same(merged(&[0..3, 4..71])));
}
