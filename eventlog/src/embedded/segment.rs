//! The files of the embedded log: what is in them, and how a torn tail is told from damage.
//!
//! A log is a sequence of segment files. A segment has a header and then frames, one a record, of
//! all partitions in the order of their append. Frames are written in groups, and a group only
//! after the group before it was synced. So when a frame does not check out:
//!
//! - a good frame of a *later* group behind it proves that its own group had been synced, and
//!   perhaps acknowledged: damage, and the log refuses to open;
//! - otherwise it is the torn tail of a crash, which nobody was told of: the group is cut.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use model::{LogId, Offset, Partition, Timestamp};
use uuid::Uuid;

use crate::{RECORD_BYTES_MAX, Record};

/// The first bytes of a segment; the last of them is the format's version.
const SEGMENT_MAGIC: [u8; 8] = *b"CTXSLOG\x01";
/// The bytes of a header besides its offsets.
const HEADER_FIXED_BYTES: usize = 8 + 4 + 8 + 16 + 4 + 8 + 8 + 4 + 4;
/// The first bytes of a frame.
const FRAME_MAGIC: u32 = 0x5EC0_4DF1;
/// The bytes of a frame besides its key and value.
pub(super) const FRAME_FIXED_BYTES: usize = 48;
const FRAME_BYTES_MAX: usize = FRAME_FIXED_BYTES + RECORD_BYTES_MAX;
/// The flag of the last frame of a group.
const LAST_OF_GROUP: u32 = 1;
/// How much is read from a file at once, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// What a segment's header says, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) log_id: LogId,
    /// Begins every frame's checksum, so that no record's bytes can pass for a frame.
    pub(super) salt: u32,
    /// The append time of the last record before this segment.
    pub(super) time_before: Timestamp,
    /// The number of the last group before this segment.
    pub(super) group_before: u64,
    /// Of each partition, the offset of its first record in this segment or behind it.
    pub(super) base: Vec<u64>,
    pub(super) path: PathBuf,
}

impl Segment {
    /// Where the first frame begins.
    pub(super) fn header_bytes(&self) -> u64 {
        (HEADER_FIXED_BYTES + 8 * self.base.len()) as u64
    }

    pub(super) fn file_name(number: u64) -> String {
        format!("{number:020}.log")
    }

    fn encode_header(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_FIXED_BYTES + 8 * self.base.len());
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&(self.base.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(self.log_id.0.as_bytes());
        bytes.extend_from_slice(&self.salt.to_be_bytes());
        bytes.extend_from_slice(&self.time_before.as_micros().to_be_bytes());
        bytes.extend_from_slice(&self.group_before.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for offset in &self.base {
            bytes.extend_from_slice(&offset.to_be_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Creates the file under another name, syncs it, and only then gives it its name: a file of
    /// that name always has its whole header.
    pub(super) fn create(&self) -> io::Result<File> {
        let draft = self.path.with_extension("tmp");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&draft)?;
        file.write_all(&self.encode_header())?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir)?;
        }
        Ok(file)
    }

    /// Reads the header of the segment file at `path`. The error is a reason for people.
    pub(super) fn read_header(path: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; 12];
        let short = |e: io::Error| format!("its header cannot be read: {e}");
        file.read_exact(&mut bytes).map_err(short)?;
        if bytes[..8] != SEGMENT_MAGIC {
            return Err("it is no log segment, or one of another version".to_owned());
        }
        let partitions = be_u32(&bytes, 8);
        if partitions == 0 || partitions > Partition::COUNT_MAX {
            return Err(format!("its header names {partitions} partitions"));
        }
        bytes.resize(HEADER_FIXED_BYTES + 8 * partitions as usize, 0);
        file.read_exact(&mut bytes[12..]).map_err(short)?;
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(body) != be_u32(crc, 0) {
            return Err("its header is damaged".to_owned());
        }
        let base = body[HEADER_FIXED_BYTES - 4..].chunks_exact(8).map(|c| be_u64(c, 0)).collect();
        Ok(Self {
            number: be_u64(body, 12),
            log_id: LogId(Uuid::from_bytes(take(body, 20))),
            salt: be_u32(body, 36),
            time_before: Timestamp::from_micros(be_u64(body, 40).cast_signed()),
            group_before: be_u64(body, 48),
            base,
            path: path.to_owned(),
        })
    }
}

/// Makes names created, renamed or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// One record in a segment.
pub(super) struct Frame<'a> {
    pub(super) group: u64,
    pub(super) last_of_group: bool,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) append_time: Timestamp,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Frame<'_> {
    pub(super) fn encode_into(&self, salt: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let bytes = FRAME_FIXED_BYTES + self.key.len() + self.value.len();
        out.extend_from_slice(&FRAME_MAGIC.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(bytes as u32).to_be_bytes());
        let flags = if self.last_of_group { LAST_OF_GROUP } else { 0 };
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&self.group.to_be_bytes());
        out.extend_from_slice(&self.partition.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.append_time.as_micros().to_be_bytes());
        out.extend_from_slice(&(self.key.len() as u32).to_be_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        let crc = checksum(salt, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_be_bytes());
    }

    /// A copy of its own: a slice would keep the whole chunk in memory.
    pub(super) fn to_record(&self) -> Option<Record> {
        let mut bytes = Vec::with_capacity(self.key.len() + self.value.len());
        bytes.extend_from_slice(self.key);
        bytes.extend_from_slice(self.value);
        let mut value = Bytes::from(bytes);
        let key = value.split_to(self.key.len());
        Some(Record {
            partition: Partition::new(self.partition),
            offset: Offset::new(self.offset)?,
            append_time: self.append_time,
            key,
            value,
        })
    }
}

fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// The length that the frame at the start of `bytes` gives itself, if that can be a frame at all.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < FRAME_FIXED_BYTES || be_u32(bytes, 0) != FRAME_MAGIC {
        return None;
    }
    let total = be_u32(bytes, 8) as usize;
    (FRAME_FIXED_BYTES..=FRAME_BYTES_MAX).contains(&total).then_some(total)
}

/// The frame that is all of `bytes`, if it checks out.
fn decode_frame(bytes: &[u8], salt: u32) -> Option<Frame<'_>> {
    let key_bytes = be_u32(bytes, 44) as usize;
    if checksum(salt, &bytes[8..]) != be_u32(bytes, 4)
        || bytes.len() < FRAME_FIXED_BYTES.checked_add(key_bytes)?
    {
        return None;
    }
    let (key, value) = bytes[FRAME_FIXED_BYTES..].split_at(key_bytes);
    Some(Frame {
        group: be_u64(bytes, 16),
        last_of_group: be_u32(bytes, 12) & LAST_OF_GROUP != 0,
        partition: be_u32(bytes, 24),
        offset: be_u64(bytes, 28),
        append_time: Timestamp::from_micros(be_u64(bytes, 36).cast_signed()),
        key,
        value,
    })
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(take(bytes, at))
}

fn be_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(take(bytes, at))
}

/// Why a scan cannot go on.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    /// The bytes at the scanner's place are no whole, good frame.
    Bad,
}

/// Reads the frames of one segment, from a place up to an end, in bounded memory.
pub(super) struct Scanner {
    file: Arc<File>,
    salt: u32,
    place: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_place: u64,
}

impl Scanner {
    pub(super) fn new(file: Arc<File>, salt: u32, place: u64, end: u64) -> Self {
        Self { file, salt, place, end, chunk: Vec::new(), chunk_place: place }
    }

    /// Where the next frame begins.
    pub(super) const fn place(&self) -> u64 {
        self.place
    }

    /// The next frame; `None` at the end. At an error the scanner stays where it is.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ScanError> {
        if self.place >= self.end {
            return Ok(None);
        }
        let bad = || ScanError::Bad;
        let start = self.load(FRAME_FIXED_BYTES)?.ok_or_else(bad)?;
        let total = frame_bytes(&self.chunk[start..]).ok_or_else(bad)?;
        let start = self.load(total)?.ok_or_else(bad)?;
        let frame = decode_frame(&self.chunk[start..start + total], self.salt).ok_or_else(bad)?;
        self.place += total as u64;
        Ok(Some(frame))
    }

    /// Brings `bytes` bytes from the place on into the chunk, and returns where they begin in it;
    /// `None` if the end comes first.
    fn load(&mut self, bytes: usize) -> Result<Option<usize>, ScanError> {
        if self.place + bytes as u64 > self.end {
            return Ok(None);
        }
        let start = (self.place - self.chunk_place) as usize;
        if start + bytes <= self.chunk.len() {
            return Ok(Some(start));
        }
        let left = usize::try_from(self.end - self.place).unwrap_or(usize::MAX);
        self.chunk.resize(bytes.max(CHUNK_BYTES).min(left), 0);
        self.chunk_place = self.place;
        self.file.read_exact_at(&mut self.chunk, self.place).map_err(ScanError::Io)?;
        Ok(Some(0))
    }
}

/// What the last segment holds, once its torn tail is cut.
#[derive(Debug)]
pub(super) struct Tail {
    /// Where the next frame goes.
    pub(super) place: u64,
    /// The offset of each partition's next record.
    pub(super) ends: Vec<u64>,
    pub(super) time: Timestamp,
    pub(super) group: u64,
    /// How many bytes were cut.
    pub(super) cut: u64,
}

/// Finds the end of the last segment, and cuts what a crash left behind it. The error is a reason
/// for people.
pub(super) fn recover(segment: &Segment, file: &Arc<File>) -> Result<Tail, String> {
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let mut tail = Tail {
        place: segment.header_bytes(),
        ends: segment.base.clone(),
        time: segment.time_before,
        group: segment.group_before,
        cut: 0,
    };
    let mut ends = tail.ends.clone();
    let mut scanner = Scanner::new(Arc::clone(file), segment.salt, tail.place, length);
    loop {
        let place = scanner.place();
        let frame = match scanner.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(ScanError::Io(error)) => return Err(error.to_string()),
            Err(ScanError::Bad) => {
                refuse_damage(segment, file, place, length, tail.group + 1)?;
                break;
            }
        };
        let end = ends.get_mut(frame.partition as usize).filter(|end| **end == frame.offset);
        let (Some(end), true) = (end, frame.group == tail.group + 1) else {
            return Err(format!("it is out of order at byte {place}"));
        };
        *end += 1;
        if frame.last_of_group {
            let (group, time) = (frame.group, frame.append_time);
            let place = scanner.place();
            tail = Tail { place, ends: ends.clone(), time, group, cut: 0 };
        }
    }
    tail.cut = length - tail.place;
    if tail.cut > 0 {
        file.set_len(tail.place).and_then(|()| file.sync_all()).map_err(|e| e.to_string())?;
    }
    Ok(tail)
}

/// An error if a good frame of a group later than `torn` follows the bad bytes at `place`.
fn refuse_damage(
    segment: &Segment,
    file: &File,
    place: u64,
    length: u64,
    torn: u64,
) -> Result<(), String> {
    let mut rest = vec![0; usize::try_from(length - place).map_err(|e| e.to_string())?];
    file.read_exact_at(&mut rest, place).map_err(|e| e.to_string())?;
    let magic = FRAME_MAGIC.to_be_bytes();
    for start in 0..rest.len().saturating_sub(FRAME_FIXED_BYTES) {
        if rest[start..start + 4] != magic {
            continue;
        }
        let frame = frame_bytes(&rest[start..])
            .and_then(|total| rest.get(start..start + total))
            .and_then(|bytes| decode_frame(bytes, segment.salt));
        if frame.is_some_and(|frame| frame.group > torn) {
            return Err(format!(
                "it is damaged at byte {place}, in front of records that were acknowledged later \
                 (no torn tail); restore the file from a copy, or recover the log from the archive"
            ));
        }
    }
    Ok(())
}
