//! The one thread that writes: queue, group commit, new segments, retention.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use model::{Offset, Partition, Place, Timestamp};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    Answer, Options, Position, Progress, SEGMENTS_RETAINED, Shared, io_reason,
    lock::now,
    segment::{self, FRAME_FIXED_BYTES, Frame, Segment, sync_dir},
};
use crate::{AppendError, Appended, RejectReason};

/// What one group holds at most, in bytes of frames (its first record comes whatever its size).
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

struct Queued {
    partition: Partition,
    key: Bytes,
    value: Bytes,
    answer: oneshot::Sender<Answer>,
}

impl Queued {
    fn frame_bytes(&self) -> usize {
        FRAME_FIXED_BYTES + self.key.len() + self.value.len()
    }
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Queued>,
    bytes: usize,
    /// The writer sleeps until it is woken: to wake one that does not costs a system call too.
    sleeps: bool,
    closed: bool,
    /// Why the log takes no more appends.
    failed: Option<String>,
}

/// The records that wait for the writer.
pub(super) struct Queue {
    /// What may wait for the writer, in bytes of frames.
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// True once the writer has ended.
    ended: watch::Sender<bool>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("bytes", &self.waiting().bytes).finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        let ended = watch::Sender::new(false);
        Self { bytes_max, waiting: Mutex::default(), wake: Condvar::new(), ended }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(
        &self,
        partition: Partition,
        key: Bytes,
        value: Bytes,
    ) -> Result<oneshot::Receiver<Answer>, RejectReason> {
        let (answer, receiver) = oneshot::channel();
        let queued = Queued { partition, key, value, answer };
        let bytes = queued.frame_bytes();
        let mut waiting = self.waiting();
        if let Some(reason) = &waiting.failed {
            return Err(RejectReason::LogFailed(reason.clone()));
        }
        if waiting.closed {
            return Err(RejectReason::Closed);
        }
        if waiting.bytes + bytes > self.bytes_max {
            return Err(RejectReason::QueueFull { bytes_max: self.bytes_max as u64 });
        }
        waiting.bytes += bytes;
        waiting.records.push_back(queued);
        let sleeps = std::mem::take(&mut waiting.sleeps);
        drop(waiting);
        if sleeps {
            self.wake.notify_one();
        }
        Ok(receiver)
    }

    /// Takes no more records.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.wake.notify_one();
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.waiting().failed.clone()
    }

    /// Waits for the end of the writer.
    pub(super) async fn ended(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Refuses all that waits, and all that comes.
    fn fail(&self, reason: String) {
        let mut waiting = self.waiting();
        for queued in waiting.records.drain(..) {
            let rejected = RejectReason::LogFailed(reason.clone());
            let _ = queued.answer.send(Err(rejected.into()));
        }
        waiting.bytes = 0;
        waiting.failed.get_or_insert(reason);
    }

    /// Waits for records, at most until `until`, and takes as many as make a group. `None` once
    /// the log is closed or has failed and nothing waits.
    fn take_group(&self, until: Option<Instant>) -> Option<Vec<Queued>> {
        let mut waiting = self.waiting();
        while waiting.records.is_empty() {
            if waiting.closed || waiting.failed.is_some() {
                return None;
            }
            waiting.sleeps = true;
            let Some(until) = until else {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Vec::new());
            }
            let woken = self.wake.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.sleeps = false;
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.records.front().map(Queued::frame_bytes) {
            if bytes > 0 && bytes + next > GROUP_BYTES_MAX {
                break;
            }
            bytes += next;
            group.extend(waiting.records.pop_front());
        }
        waiting.bytes -= bytes;
        Some(group)
    }
}

/// A salt that nobody who writes records can know.
pub(super) fn random_salt() -> u32 {
    Uuid::new_v4().as_fields().0
}

/// Writes the log, from the moment it is open until it is closed.
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    file: Arc<File>,
    salt: u32,
    header_bytes: u64,
    /// The append time of the last record before this segment.
    time_before: Timestamp,
    place: u64,
    ends: Vec<u64>,
    time: Timestamp,
    group: u64,
    buffer: Vec<u8>,
    retention_due: Option<Instant>,
}

/// Says that the writer has ended, whatever ended it.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let queue = &self.0.queue;
        let is_done = {
            let waiting = queue.waiting();
            waiting.records.is_empty() && (waiting.closed || waiting.failed.is_some())
        };
        if !is_done {
            queue.fail("its writer ended by a bug".to_owned());
        }
        queue.ended.send_replace(true);
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        file: Arc<File>,
        last: &Segment,
        tail: segment::Tail,
    ) -> Self {
        let retains = options.retention_age.is_some() || options.retention_bytes.is_some();
        Self {
            shared,
            options,
            file,
            salt: last.salt,
            header_bytes: last.header_bytes(),
            time_before: last.time_before,
            place: tail.place,
            ends: tail.ends,
            time: tail.time,
            group: tail.group,
            buffer: Vec::new(),
            retention_due: retains.then(Instant::now),
        }
    }

    pub(super) fn run(mut self) {
        let guard = EndGuard(Arc::clone(&self.shared));
        while let Some(group) = guard.0.queue.take_group(self.retention_due) {
            if !group.is_empty() {
                self.write_group(group);
            }
            if self.retention_due.is_some_and(|due| due <= Instant::now()) {
                self.retain();
                self.retention_due = Some(Instant::now() + self.options.retention_interval);
            }
        }
    }

    /// Writes, syncs, publishes, and only then acknowledges.
    fn write_group(&mut self, group: Vec<Queued>) {
        let bytes: usize = group.iter().map(Queued::frame_bytes).sum();
        let is_full = self.place + bytes as u64 > self.options.segment_bytes;
        if is_full
            && self.place > self.header_bytes
            && let Err(error) = self.begin_segment()
        {
            let reason = format!("a new segment cannot be made: {}", io_reason(&error));
            self.fail(&reason);
            for queued in group {
                let rejected = RejectReason::LogFailed(reason.clone());
                let _ = queued.answer.send(Err(rejected.into()));
            }
            return;
        }
        let answers = self.encode(group);
        if let Err(error) = self.write_and_sync() {
            // What reached the disk is unknown, and a second sync would not tell (it may succeed
            // although the first one lost the data).
            let reason = format!("writing failed: {}", io_reason(&error));
            self.fail(&reason);
            for (answer, _) in answers {
                let _ = answer.send(Err(AppendError::Unknown { reason: reason.clone() }));
            }
            return;
        }
        self.place += self.buffer.len() as u64;
        self.publish();
        for (answer, appended) in answers {
            let _ = answer.send(Ok(appended));
        }
    }

    /// Puts the group's frames into the buffer, each with its place and time.
    fn encode(&mut self, group: Vec<Queued>) -> Vec<(oneshot::Sender<Answer>, Appended)> {
        self.buffer.clear();
        self.buffer.shrink_to(GROUP_BYTES_MAX);
        self.group += 1;
        self.time = self.time.max(now());
        let last = group.len().saturating_sub(1);
        let mut answers = Vec::with_capacity(group.len());
        for (index, queued) in group.into_iter().enumerate() {
            let Some(end) = self.ends.get_mut(queued.partition.get() as usize) else {
                continue; // `append_to` has checked it.
            };
            let Some(offset) = Offset::new(*end) else { continue };
            *end += 1;
            Frame {
                group: self.group,
                last_of_group: index == last,
                partition: queued.partition.get(),
                offset: offset.get(),
                append_time: self.time,
                key: &queued.key,
                value: &queued.value,
            }
            .encode_into(self.salt, &mut self.buffer);
            let place = Place { partition: queued.partition, offset };
            answers.push((queued.answer, Appended { place, append_time: Some(self.time) }));
        }
        answers
    }

    fn write_and_sync(&self) -> io::Result<()> {
        #[cfg(test)]
        super::tests::inject_failure(&self.shared.dir)?;
        self.file.write_all_at(&self.buffer, self.place)?;
        self.file.sync_data()
    }

    /// Lets readers see what is durable.
    fn publish(&self) {
        let mut state = self.shared.state();
        state.ends.clone_from(&self.ends);
        state.tail.byte = self.place;
        drop(state);
        self.shared.progress.send_replace(Progress::Open);
    }

    fn fail(&self, reason: &str) {
        tracing::error!(reason, "the embedded log has failed: appends are refused until a restart");
        self.shared.queue.fail(reason.to_owned());
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.shared.state().tail.segment + 1;
        let segment = Segment {
            number,
            log_id: self.shared.log_id,
            salt: random_salt(),
            time_before: self.time,
            group_before: self.group,
            base: self.ends.clone(),
            path: self.shared.dir.join(Segment::file_name(number)),
        };
        self.file = Arc::new(segment.create()?);
        self.salt = segment.salt;
        self.time_before = self.time;
        self.place = segment.header_bytes();
        let mut state = self.shared.state();
        state.tail = Position { segment: number, byte: self.place };
        state.segments.push_back(Arc::new(segment));
        Ok(())
    }

    /// Removes whole segments from the front, as far as retention allows. What fails is tried
    /// again at the next look.
    fn retain(&mut self) {
        if let Err(error) = self.begin_segment_by_age().and_then(|()| self.remove_segments()) {
            tracing::warn!(%error, "retention of the embedded log failed; it is tried again");
        }
    }

    /// An idle log's last segment would never be old enough to go.
    fn begin_segment_by_age(&mut self) -> io::Result<()> {
        let Some(age) = self.options.retention_age else { return Ok(()) };
        let part = (age / SEGMENTS_RETAINED).as_micros();
        let old = now().micros_since(self.time_before).unsigned_abs();
        if self.place > self.header_bytes && u128::from(old) > part {
            self.begin_segment()?;
        }
        Ok(())
    }

    fn remove_segments(&self) -> io::Result<()> {
        let segments: Vec<Arc<Segment>> = self.shared.state().segments.iter().cloned().collect();
        let mut sizes = Vec::with_capacity(segments.len());
        for segment in &segments {
            sizes.push(fs::metadata(&segment.path)?.len());
        }
        let mut total: u64 = sizes.iter().sum();
        let now = now();
        let mut removed = false;
        for (index, next) in segments.iter().enumerate().skip(1) {
            let size = sizes[index - 1];
            let age = u128::from(now.micros_since(next.time_before).unsigned_abs());
            let too_old = self.options.retention_age.is_some_and(|max| age > max.as_micros());
            let too_many = self.options.retention_bytes.is_some_and(|max| total - size >= max);
            if !too_old && !too_many {
                break;
            }
            // Readers first: what they are not told of, they do not open.
            self.shared.state().segments.pop_front();
            fs::remove_file(&segments[index - 1].path)?;
            total -= size;
            removed = true;
        }
        if removed { sync_dir(&self.shared.dir) } else { Ok(()) }
    }
}
