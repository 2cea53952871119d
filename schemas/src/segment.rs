//! Segments: raw records of the log in an Avro object container file, which every Avro library reads.
//!
//! Its parts are written here one by one: the library's own writer puts the header first, and its keys in
//! an order of chance. A segment's header says what the file holds, and the same records give the same bytes.

use std::{collections::HashMap, fmt, io::Read, sync::LazyLock};

use apache_avro::{Reader, Schema, reader::ReaderDeser, writer::datum::GenericDatumWriter};
use model::{Offset, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use crate::{ALLOCATION_BYTES_MAX, Undecodable, Unencodable};

/// The schema of a segment's records, as it stands in each segment.
pub const SCHEMA: &str = include_str!("../segments/segment.v1.avsc");

/// What ends the header and each block.
pub type Marker = [u8; 16];

static WRITER: LazyLock<GenericDatumWriter<'static>> = LazyLock::new(writer);

/// The schema is part of the program; a test parses it, so that none of this can fail.
#[allow(clippy::expect_used)]
fn writer() -> GenericDatumWriter<'static> {
    let schema: &'static Schema =
        Box::leak(Box::new(Schema::parse_str(SCHEMA).expect("the embedded schema parses")));
    let writer = GenericDatumWriter::builder(schema).human_readable(false);
    writer.build().expect("the embedded schema resolves")
}

/// A record as a segment has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRecord {
    pub offset: Offset,
    pub append_time: Timestamp,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename = "SegmentRecord")]
struct Written<'a> {
    offset: i64,
    append_time: i64,
    #[serde(serialize_with = "write_bytes")]
    key: &'a [u8],
    #[serde(serialize_with = "write_bytes")]
    value: &'a [u8],
}

#[derive(Deserialize)]
#[serde(rename = "SegmentRecord")]
struct Found {
    offset: i64,
    append_time: i64,
    #[serde(deserialize_with = "read_bytes")]
    key: Vec<u8>,
    #[serde(deserialize_with = "read_bytes")]
    value: Vec<u8>,
}

fn write_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

fn read_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
    from.deserialize_byte_buf(Bytes)
}

/// Appends a record in its schema.
pub fn encode_record(
    offset: Offset,
    append_time: Timestamp,
    key: &[u8],
    value: &[u8],
    to: &mut Vec<u8>,
) -> Result<(), Unencodable> {
    let (offset, append_time) = (offset.as_i64(), append_time.as_micros());
    let written = Written { offset, append_time, key, value };
    WRITER.write_ser(to, &written).map(|_| ()).map_err(|e| Unencodable(e.to_string()))
}

/// The beginning of a file. `metadata` stands in the order given, after Avro's own.
pub fn header(metadata: &[(&str, String)], marker: Marker) -> Vec<u8> {
    let avro = [("avro.schema", SCHEMA), ("avro.codec", "null")];
    let metadata = metadata.iter().map(|(key, value)| (*key, value.as_str()));
    let all: Vec<(&str, &str)> = avro.into_iter().chain(metadata).collect();
    let mut header = b"Obj\x01".to_vec();
    long(all.len(), &mut header);
    for (key, value) in all {
        for text in [key, value] {
            long(text.len(), &mut header);
            header.extend_from_slice(text.as_bytes());
        }
    }
    long(0, &mut header);
    header.extend_from_slice(&marker);
    header
}

/// A block of encoded records.
pub fn block(records: usize, encoded: &[u8], marker: Marker) -> Vec<u8> {
    let mut block = Vec::with_capacity(encoded.len() + 32);
    long(records, &mut block);
    long(encoded.len(), &mut block);
    block.extend_from_slice(encoded);
    block.extend_from_slice(&marker);
    block
}

/// Avro's `long`, of a number that is not negative.
fn long(number: usize, to: &mut Vec<u8>) {
    let mut rest = (number as u64) << 1;
    while rest > 0x7f {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

/// Reads a segment.
pub struct SegmentRecords<R> {
    records: ReaderDeser<'static, R, Found>,
    metadata: HashMap<String, Vec<u8>>,
}

impl<R: Read> SegmentRecords<R> {
    /// Reads the header.
    pub fn new(file: R) -> Result<Self, Undecodable> {
        apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
        let reader = Reader::builder(file).human_readable(false).build();
        let reader = reader.map_err(|e| Undecodable::Body(e.to_string()))?;
        let metadata = reader.user_metadata().clone();
        Ok(Self { records: reader.into_deser_iter(), metadata })
    }

    /// What the header says under this key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.metadata.get(key)?).ok()
    }
}

impl<R: Read> Iterator for SegmentRecords<R> {
    type Item = Result<SegmentRecord, Undecodable>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.records.next()?;
        let found = found.map_err(|e| Undecodable::Body(e.to_string()));
        Some(found.and_then(|found| {
            let negative = || Undecodable::Body("an offset is negative".to_owned());
            Ok(SegmentRecord {
                offset: Offset::from_i64(found.offset).ok_or_else(negative)?,
                append_time: Timestamp::from_micros(found.append_time),
                key: found.key,
                value: found.value,
            })
        }))
    }
}
