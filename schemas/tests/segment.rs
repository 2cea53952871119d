//! A segment's bytes are a contract too: a golden file reads back for ever, with any Avro library.
//!
//! `UPDATE_GOLDEN=1 cargo test -p schemas` writes the golden file if it is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use apache_avro::types::Value;
use model::{Offset, Timestamp};
use schemas::segment::{SegmentRecord, SegmentRecords, block, encode_record, header};

const MARKER: [u8; 16] = [9; 16];

fn records() -> Vec<SegmentRecord> {
    let record = |offset, key: &str, value: &[u8]| SegmentRecord {
        offset: Offset::new(offset).unwrap(),
        append_time: Timestamp::parse_rfc3339("2025-12-30T10:15:00.000001Z").unwrap(),
        key: key.into(),
        value: value.into(),
    };
    let long = vec![b'x'; 200];
    vec![
        record(70, "acme/team/web", &[0xC3, 1, 2]),
        record(71, "", b""),
        record(1 << 40, "acme/user/ann", &long),
    ]
}

fn file() -> Vec<u8> {
    let mut file = header(&[("context_sync.next_offset", "73".to_owned())], MARKER);
    for records in records().chunks(2) {
        let mut encoded = Vec::new();
        for SegmentRecord { offset, append_time, key, value } in records {
            encode_record(*offset, *append_time, key, value, &mut encoded).unwrap();
        }
        file.extend(block(records.len(), &encoded, MARKER));
    }
    file
}

#[test]
fn a_golden_segment_reads_back_and_is_written_with_the_same_bytes() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("segments/segment.v1.avro");
    if !path.exists() && std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, file()).unwrap();
    }
    let golden = fs::read(&path).unwrap();
    assert_eq!(file(), golden);
    let read = SegmentRecords::new(golden.as_slice()).unwrap();
    assert_eq!(read.metadata("context_sync.next_offset"), Some("73"));
    assert_eq!(read.map(Result::unwrap).collect::<Vec<_>>(), records());
}

/// With nothing but an Avro library: no code of this crate, and no schema but the file's own.
#[test]
fn an_avro_library_reads_it() {
    let file = file();
    let read = apache_avro::Reader::new(file.as_slice()).unwrap();
    let values: Vec<Value> = read.map(Result::unwrap).collect();
    assert_eq!(values.len(), 3);
    let Value::Record(fields) = &values[0] else { panic!("{:?}", values[0]) };
    assert_eq!(fields[0], ("offset".to_owned(), Value::Long(70)));
    assert_eq!(fields[1].1, Value::TimestampMicros(1_767_089_700_000_001));
    assert_eq!(fields[2].1, Value::Bytes(b"acme/team/web".to_vec()));
}

#[test]
fn damaged_segments_never_panic() {
    let whole = file();
    for place in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x55;
        for bytes in [&flipped[..], &whole[..place]] {
            if let Ok(records) = SegmentRecords::new(bytes) {
                let _ = records.collect::<Vec<_>>();
            }
        }
    }
}
