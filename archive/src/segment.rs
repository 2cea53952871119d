//! Segments: raw records as they come, until their hour is sealed. FORMAT.md, "Segments".

use std::io::{self, BufReader, Write};

use bytes::Bytes;
use eventlog::Record;
use model::{LogId, Offset, Partition};
use schemas::{
    Undecodable, Unencodable,
    segment::{Marker, SegmentRecord, SegmentRecords, block, encode_record, header},
};
use sha2::{Digest as _, Sha256};

use crate::{
    error::ArchiveError,
    object::{Object, Scratch, Sha256Hex, Spool, Summing},
    path,
    store::Archive,
};

/// Records are gathered to blocks of this size, in bytes; a larger record is a block of its own.
const BLOCK_BYTES: usize = 64 << 10;

const LOG_ID: &str = "context_sync.log_id";
const PARTITION: &str = "context_sync.partition";
const FIRST_OFFSET: &str = "context_sync.first_offset";
const NEXT_OFFSET: &str = "context_sync.next_offset";
const RECORDS_SHA256: &str = "context_sync.records_sha256";

/// A segment that is in the archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    pub first_offset: Offset,
    pub path: String,
}

/// The segments of a partition, in the order of their offsets.
pub async fn list(
    archive: &Archive,
    log: LogId,
    partition: Partition,
) -> Result<Vec<SegmentName>, ArchiveError> {
    let folder = path::segments(log, partition);
    let mut names = Vec::new();
    for (path, _) in archive.list(&folder).await? {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".avro"));
        if let Some(first) = name.and_then(|name| Offset::new(name.parse().ok()?)) {
            names.push(SegmentName { first_offset: first, path });
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes one segment.
pub struct SegmentWriter {
    scratch: Scratch,
    log: LogId,
    partition: Partition,
    first_offset: Offset,
    next_offset: Offset,
    marker: Marker,
    block: Vec<u8>,
    block_records: usize,
    blocks: Spool,
    blocks_bytes: u64,
    records: Sha256,
}

impl SegmentWriter {
    /// Of the records from an offset on: where the segment before it ended.
    pub fn new(scratch: &Scratch, log: LogId, partition: Partition, first_offset: Offset) -> Self {
        Self {
            scratch: scratch.clone(),
            log,
            partition,
            first_offset,
            next_offset: first_offset,
            marker: marker(log, partition, first_offset),
            block: Vec::new(),
            block_records: 0,
            blocks: scratch.spool(),
            blocks_bytes: 0,
            records: Sha256::new(),
        }
    }

    pub fn first_offset(&self) -> Offset {
        self.first_offset
    }

    /// Where it ends: after its last record.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// What it has come to, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blocks_bytes + self.block.len() as u64
    }

    pub fn push(&mut self, record: &Record) -> Result<(), ArchiveError> {
        let encoded = encoded(record).map_err(io::Error::other)?;
        if self.block.len() + encoded.len() > BLOCK_BYTES {
            self.end_block()?;
        }
        self.records.update(&encoded);
        self.block.extend_from_slice(&encoded);
        self.block_records += 1;
        self.next_offset = record.offset.next();
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), ArchiveError> {
        if self.block_records > 0 {
            let block = block(self.block_records, &self.block, self.marker);
            self.blocks.write_all(&block)?;
            self.blocks_bytes += block.len() as u64;
        }
        self.block.clear();
        self.block_records = 0;
        Ok(())
    }

    /// The object: its header says what the blocks hold.
    pub fn finish(mut self) -> Result<Object, ArchiveError> {
        self.end_block()?;
        let metadata = [
            (LOG_ID, self.log.to_string()),
            (PARTITION, self.partition.to_string()),
            (FIRST_OFFSET, self.first_offset.to_string()),
            (NEXT_OFFSET, self.next_offset.to_string()),
            (RECORDS_SHA256, Sha256Hex::of(self.records).0),
        ];
        let mut file = Summing::new(&self.scratch);
        file.write_all(&header(&metadata, self.marker))?;
        self.blocks.rewind()?;
        io::copy(&mut self.blocks, &mut file)?;
        file.into_object(None)
    }
}

fn encoded(record: &Record) -> Result<Vec<u8>, Unencodable> {
    let mut encoded = Vec::with_capacity(record.key.len() + record.value.len() + 32);
    encode_record(record.offset, record.append_time, &record.key, &record.value, &mut encoded)?;
    Ok(encoded)
}

/// The same for whoever writes the segment.
fn marker(log: LogId, partition: Partition, first_offset: Offset) -> Marker {
    let hash = Sha256::digest(path::segment(log, partition, first_offset));
    let mut marker = [0; 16];
    marker.copy_from_slice(&hash[..16]);
    marker
}

/// Reads one segment.
pub struct SegmentReader {
    records: SegmentRecords<BufReader<Spool>>,
    path: String,
    partition: Partition,
    pub first_offset: Offset,
    /// Where it ends.
    pub next_offset: Offset,
    place: Offset,
    sum: Sha256,
    expected: String,
}

impl SegmentReader {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] if it is none, or not that of its path.
    pub fn new(object: Object, path: &str) -> Result<Self, ArchiveError> {
        let damaged = |error: Undecodable| ArchiveError::content(path, error.to_string());
        let records = SegmentRecords::new(object.into_reader()?).map_err(damaged)?;
        let lacking = || ArchiveError::content(path, "its header lacks what the format has");
        let text = |key: &str| records.metadata(key).ok_or_else(lacking);
        let number = |key: &str| text(key)?.parse::<u64>().map_err(|_| lacking());
        let offset = |key: &str| Offset::new(number(key)?).ok_or_else(lacking);
        let log = LogId(text(LOG_ID)?.parse().map_err(|_| lacking())?);
        let partition = u32::try_from(number(PARTITION)?).map_err(|_| lacking())?;
        let partition = Partition::new(partition);
        let (first_offset, next_offset) = (offset(FIRST_OFFSET)?, offset(NEXT_OFFSET)?);
        let expected = text(RECORDS_SHA256)?.to_owned();
        if path::segment(log, partition, first_offset) != path {
            return Err(ArchiveError::content(path, "its header is another segment's"));
        }
        let (path, place, sum) = (path.to_owned(), first_offset, Sha256::new());
        Ok(Self { records, path, partition, first_offset, next_offset, place, sum, expected })
    }

    /// The next record; `None` at the end, once all were found to be what the header says.
    pub fn next_record(&mut self) -> Result<Option<Record>, ArchiveError> {
        let Some(found) = self.records.next() else { return self.end().map(|()| None) };
        let found = found.map_err(|error| self.problem(error.to_string()))?;
        let SegmentRecord { offset, append_time, key, value } = found;
        if offset < self.place || offset >= self.next_offset {
            return Err(self.problem(format!("it has offset {offset}, after {}", self.place)));
        }
        self.place = offset.next();
        let (key, value) = (Bytes::from(key), Bytes::from(value));
        let record = Record { partition: self.partition, offset, append_time, key, value };
        self.sum.update(encoded(&record).map_err(|error| self.problem(error.to_string()))?);
        Ok(Some(record))
    }

    /// The next records, up to so many or so many bytes of keys and values (but one at least); none at the end.
    pub fn next_records(
        &mut self,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ArchiveError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < records_max && bytes < bytes_max {
            let Some(record) = self.next_record()? else { break };
            bytes += record.key.len() + record.value.len();
            records.push(record);
        }
        Ok(records)
    }

    fn end(&self) -> Result<(), ArchiveError> {
        if self.place != self.next_offset {
            let (found, expected) = (self.place, self.next_offset);
            return Err(self.problem(format!("it ends at {found}, its header says {expected}")));
        }
        let found = Sha256Hex::of(self.sum.clone()).0;
        if found == self.expected {
            return Ok(());
        }
        let expected = &self.expected;
        Err(self.problem(format!("its records have sha256 {found}, its header says {expected}")))
    }

    fn problem(&self, problem: String) -> ArchiveError {
        ArchiveError::content(&self.path, problem)
    }
}

#[cfg(test)]
mod tests {
    use model::Timestamp;

    use super::*;

    const LOG: LogId = LogId(uuid::Uuid::from_u128(7));
    const PARTITION: Partition = Partition::new(3);

    fn records() -> Vec<Record> {
        let record = |n: u64| Record {
            partition: PARTITION,
            // Offsets may skip values.
            offset: Offset::new(100 + 2 * n).unwrap(),
            append_time: Timestamp::from_micros(n as i64),
            key: Bytes::from("acme/user/ann"),
            value: Bytes::from(vec![n as u8; if n == 5 { 2 * BLOCK_BYTES } else { 40_000 }]),
        };
        (0..12).map(record).collect()
    }

    fn written() -> Object {
        let first = Offset::new(99).unwrap();
        let mut writer = SegmentWriter::new(&Scratch::default(), LOG, PARTITION, first);
        records().iter().for_each(|record| writer.push(record).unwrap());
        assert_eq!(writer.next_offset().get(), 123);
        writer.finish().unwrap()
    }

    fn read(object: Object) -> Result<Vec<Record>, ArchiveError> {
        let path = path::segment(LOG, PARTITION, Offset::new(99).unwrap());
        let mut reader = SegmentReader::new(object, &path)?;
        let mut read = Vec::new();
        while let Some(record) = reader.next_record()? {
            read.push(record);
        }
        Ok(read)
    }

    #[test]
    fn records_come_back_and_the_same_records_are_the_same_bytes() {
        assert_eq!(read(written()).unwrap(), records());
        assert_eq!(written().sha256, written().sha256);
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let whole = written().bytes().unwrap();
        let of_bytes = |bytes: &[u8]| Object::of_bytes(&Scratch::default(), bytes).unwrap();
        let begin = whole.len() - 45_000; // in the last block's record, which is opaque
        for place in (0..2_000).chain(begin..begin + 50).chain(whole.len() - 50..whole.len()) {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            // What the schema says of itself is not what makes the records.
            let found = read(of_bytes(&flipped));
            assert!(found.is_err() || found.unwrap() == records(), "flipped at {place}");
        }
        for kept in (0..whole.len()).step_by(997) {
            assert!(read(of_bytes(&whole[..kept])).is_err(), "cut at {kept}");
        }
    }
}
