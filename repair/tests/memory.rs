//! What a frame makes the answering side hold. One test, so that nothing else is counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unsafe_code,
    reason = "a test; and what is held is counted by an allocator"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use model::{BodyHash, MessageId, Timestamp, Version};
use repair::{Held, Items};
use uuid::Uuid;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all; this one counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), SeqCst) + layout.size();
        MOST.fetch_max(held, SeqCst);
        // SAFETY: as whoever calls says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as whoever calls says.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The most that is held beside what was before, while something is done.
fn most<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(SeqCst);
    MOST.store(before, SeqCst);
    let done = work();
    (done, MOST.load(SeqCst) - before)
}

/// As the server has it where nothing is set.
const FRAME_BYTES: u32 = 256 << 10;
/// An answer that grows holds twice what it has and what it had; ids are looked up in a table that is not full.
const HELD_MAX: usize = 6 * FRAME_BYTES as usize;

/// A scope of 200,000 messages is 11 MB: what a frame takes beside that is some frames, whatever is in it.
#[test]
fn a_frame_makes_nobody_hold_more_than_a_few_frames() {
    let held = |n: u128| {
        let updated_at = Timestamp::from_millis(n as i64);
        Held::new(MessageId(Uuid::from_u128(n)), Version { updated_at, body: BodyHash([7; 32]) })
    };
    let items = Items::new((0..200_000).map(held).collect());
    let filled = |range: &[u8]| {
        [&[0x61][..], &range.repeat((FRAME_BYTES as usize - 1) / range.len())].concat()
    };
    let fingerprint = |millis: u8| [&[millis, 0, 1][..], &[7; 16]].concat();
    // As many ids as a frame has room for, none of which is there.
    let ids = (0..8_190_u32).flat_map(|n| [&n.to_be_bytes()[..], &[1; 28]].concat());
    let ids: Vec<u8> = [0x61, 0, 0, 2, 0xbf, 0x7e].into_iter().chain(ids).collect();
    let announced = [0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
    let announced: Vec<u8> = [0x61, 0, 0, 2].into_iter().chain(announced).collect();
    for (what, frame, is_frame) in [
        ("all ids, and none is named", vec![0x61, 0, 0, 2, 0], true),
        ("all ids, again and again", filled(&[0, 0, 2, 0]), true),
        ("the ids of a millisecond each", filled(&[2, 0, 2, 0]), true),
        ("as many ids as there is room for", ids, true),
        ("an id a range", filled(&[&[2, 0, 2, 1][..], &[7; 32]].concat()), true),
        ("ranges that are told by names", filled(&fingerprint(33)), true),
        ("ranges that are split", filled(&fingerprint(60)), true),
        ("empty ranges", filled(&[1, 0, 0]), true),
        ("2^56 ids announced, and none sent", announced, false),
        ("one number without an end", vec![0xff; FRAME_BYTES as usize], false),
    ] {
        assert!(frame.len() <= FRAME_BYTES as usize, "{what}: {} bytes", frame.len());
        let (answer, most) = most(|| items.answer(&frame, FRAME_BYTES));
        assert!(most <= HELD_MAX, "{what}: {most} bytes");
        assert_eq!(answer.is_ok(), is_frame, "{what}");
        let bytes = answer.map_or(0, |answer| answer.len());
        assert!(bytes <= FRAME_BYTES as usize, "{what}: {bytes} bytes");
    }
}
