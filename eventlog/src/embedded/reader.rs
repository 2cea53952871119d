//! Reading the embedded log: one pass over the files for all partitions of a reader.

use std::{fs::File, io, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use model::{Offset, Partition, Place};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Position, Progress, Shared,
    segment::{Frame, ScanError, Scanner, Segment},
};
use crate::{LogError, LogReader, ReadLimit, Record, WAIT_MAX};

/// A reader of some partitions. The records of all partitions stand in the files in the order of
/// their append; what stands before `cursor` has been returned, or is not this reader's.
pub(super) struct EmbeddedReader {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    wanted: Wanted,
    /// `None` after a seek: it is found anew.
    cursor: Option<Cursor>,
}

/// Of each partition of the log, the offset to return next; `None` where it is not read.
type Wanted = Vec<Option<u64>>;

#[derive(Clone)]
struct Cursor {
    position: Position,
    /// The segment's file, once it is open: it stays readable when retention removes it.
    open: Option<(Arc<Segment>, Arc<File>)>,
}

impl EmbeddedReader {
    pub(super) fn new(shared: Arc<Shared>, from: &[(Partition, Offset)]) -> Result<Self, LogError> {
        let partitions = shared.partitions;
        let mut wanted = vec![None; partitions as usize];
        for (partition, offset) in from {
            match wanted.get_mut(partition.get() as usize) {
                Some(slot) => *slot = Some(offset.get()),
                None => {
                    return Err(LogError::NoSuchPartition { partition: *partition, partitions });
                }
            }
        }
        let progress = shared.progress.subscribe();
        Ok(Self { shared, progress, wanted, cursor: None })
    }

    /// Where to read from, or what is out of range.
    fn cursor(&self) -> Result<Cursor, LogError> {
        let state = self.shared.state();
        let mut position = state.tail;
        for (partition, asked) in self.wanted.iter().enumerate() {
            let (Some(asked), Some(bounds)) = (asked, state.bounds(partition)) else { continue };
            if !(bounds.start.get()..=bounds.end.get()).contains(asked) {
                let partition = Partition::new(partition as u32);
                let asked = Offset::new(*asked).unwrap_or(Offset::MAX);
                return Err(LogError::OutOfRange { partition, asked, bounds });
            }
            if self.cursor.is_none() {
                position = position.min(state.locate(partition, *asked));
            }
        }
        Ok(self.cursor.clone().unwrap_or(Cursor { position, open: None }))
    }

    async fn read(&mut self, limit: ReadLimit, wait: Duration) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        loop {
            if *self.progress.borrow_and_update() == Progress::Closed {
                return Err(LogError::Closed);
            }
            let cursor = self.cursor()?;
            let tail = self.shared.state().tail;
            if cursor.position < tail {
                let (shared, wanted) = (Arc::clone(&self.shared), self.wanted.clone());
                let scan = move || scan(&shared, cursor, wanted, tail, limit);
                let scanned = tokio::task::spawn_blocking(scan).await;
                // Only now, in one step: dropped before, this call has changed nothing.
                let scanned = scanned.map_err(|error| LogError::Failed(error.to_string()))??;
                self.wanted = scanned.wanted;
                self.cursor = scanned.cursor;
                if !scanned.records.is_empty() {
                    return Ok(scanned.records);
                }
                continue;
            }
            self.cursor = Some(cursor);
            match timeout_at(deadline, self.progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(LogError::Closed),
                Err(_) => return Ok(Vec::new()),
            }
        }
    }
}

impl LogReader for EmbeddedReader {
    fn next(
        &mut self,
        limit: ReadLimit,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        self.read(limit, wait).boxed()
    }

    fn seek(&mut self, partition: Partition, offset: Offset) -> Result<(), LogError> {
        let slot = self.wanted.get_mut(partition.get() as usize).and_then(Option::as_mut);
        let next = slot.ok_or(LogError::NotAssigned { partition })?;
        *next = offset.get();
        self.cursor = None;
        Ok(())
    }
}

struct Scanned {
    records: Vec<Record>,
    wanted: Wanted,
    /// `None`: the file is gone; look again where to read.
    cursor: Option<Cursor>,
}

/// Reads from `cursor` until the limit, the end of the segment, or `tail`. Blocks.
fn scan(
    shared: &Shared,
    mut cursor: Cursor,
    mut wanted: Wanted,
    tail: Position,
    limit: ReadLimit,
) -> Result<Scanned, LogError> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let Some((segment, mut scanner)) = open_scanner(shared, &mut cursor, tail)? else {
        return Ok(Scanned { records, wanted, cursor: None });
    };
    loop {
        cursor.position.byte = scanner.place();
        let frame = match scanner.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => return Err(unreadable(&error, &segment, cursor.position, &wanted)),
        };
        let slot = wanted.get_mut(frame.partition as usize).and_then(Option::as_mut);
        let Some(next) = slot.filter(|next| **next <= frame.offset) else { continue };
        if *next < frame.offset {
            return Err(hole(&frame, *next));
        }
        bytes += frame.key.len() + frame.value.len();
        let is_over = records.len() >= limit.records_max || bytes > limit.bytes_max;
        if is_over && !records.is_empty() {
            return Ok(Scanned { records, wanted, cursor: Some(cursor) });
        }
        *next += 1;
        records.extend(frame.to_record());
    }
    if cursor.position.segment < tail.segment {
        let position = Position { segment: segment.number + 1, byte: segment.header_bytes() };
        cursor = Cursor { position, open: None };
    }
    Ok(Scanned { records, wanted, cursor: Some(cursor) })
}

/// A scanner at the cursor; `None` if retention has removed the segment.
fn open_scanner(
    shared: &Shared,
    cursor: &mut Cursor,
    tail: Position,
) -> Result<Option<(Arc<Segment>, Scanner)>, LogError> {
    let failed = |error: io::Error| LogError::Failed(error.to_string());
    let (segment, file) = match cursor.open.clone() {
        Some(open) => open,
        None => {
            let segment = shared.state().segment(cursor.position.segment).cloned();
            let Some(segment) = segment else { return Ok(None) };
            match File::open(&segment.path) {
                Ok(file) => (segment, Arc::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
    };
    let end = if segment.number < tail.segment {
        file.metadata().map_err(failed)?.len()
    } else {
        tail.byte
    };
    cursor.open = Some((Arc::clone(&segment), Arc::clone(&file)));
    let scanner = Scanner::new(file, segment.salt, cursor.position.byte, end);
    Ok(Some((segment, scanner)))
}

fn unreadable(
    error: &ScanError,
    segment: &Segment,
    position: Position,
    wanted: &Wanted,
) -> LogError {
    let path = segment.path.display();
    match error {
        ScanError::Io(error) => LogError::Failed(format!("{path} cannot be read: {error}")),
        ScanError::Bad => {
            let first = wanted.iter().enumerate().find_map(|(p, next)| Some((p, (*next)?)));
            let (partition, offset) = first.unwrap_or((0, 0));
            LogError::Corrupt {
                partition: Partition::new(partition as u32),
                offset: Offset::new(offset).unwrap_or(Offset::MAX),
                reason: format!("{path} is damaged at byte {}", position.byte),
            }
        }
    }
}

fn hole(frame: &Frame<'_>, wanted: u64) -> LogError {
    LogError::Corrupt {
        partition: Partition::new(frame.partition),
        offset: Offset::new(wanted).unwrap_or(Offset::MAX),
        reason: format!("offset {} comes instead of {wanted}", frame.offset),
    }
}

/// The record at `place`, by a scan of its segment. Blocks.
pub(super) fn read_one(shared: &Shared, place: Place) -> Result<Option<Record>, LogError> {
    let bounds = shared.bounds(place.partition)?;
    if !(bounds.start..bounds.end).contains(&place.offset) {
        return Ok(None);
    }
    let mut wanted = vec![None; shared.partitions as usize];
    let index = place.partition.get() as usize;
    if let Some(slot) = wanted.get_mut(index) {
        *slot = Some(place.offset.get());
    }
    let (mut position, tail) = {
        let state = shared.state();
        (state.locate(index, place.offset.get()), state.tail)
    };
    let limit = ReadLimit { records_max: 1, bytes_max: usize::MAX };
    while position < tail {
        let scanned = scan(shared, Cursor { position, open: None }, wanted, tail, limit)?;
        if let Some(record) = scanned.records.into_iter().next() {
            return Ok(Some(record));
        }
        let Some(cursor) = scanned.cursor else { return Ok(None) };
        (position, wanted) = (cursor.position, scanned.wanted);
    }
    Ok(None)
}
