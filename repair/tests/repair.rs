//! Two sides find out exactly how they differ, whatever they hold; and no bytes do harm.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};

use model::{BodyHash, Item, MessageId, Timestamp, Version};
use proptest::{collection::vec, prelude::*};
use repair::{BadFrame, Differences, FRAME_BYTES_MIN, Finding, Held, Items};
use uuid::Uuid;

const FRAME_BYTES: u32 = 64 << 10;

/// By id: when it was updated, in microseconds, and what it says.
type Messages = BTreeMap<u16, (u32, u8)>;

fn held((id, (micros, body)): (&u16, &(u32, u8))) -> Held {
    let updated_at = Timestamp::from_micros(i64::from(*micros));
    let version = Version { updated_at, body: BodyHash([*body; 32]) };
    Held::new(message(*id), version)
}

fn message(id: u16) -> MessageId {
    MessageId(Uuid::from_u128(u128::from(id)))
}

fn items(messages: &Messages) -> Items {
    Items::new(messages.iter().map(held).collect())
}

/// The whole exchange; frames and bytes of both directions.
fn exchange(device: &Items, scope: &Items, frame_bytes_max: u32) -> (Differences, usize, usize) {
    let (mut finding, first) = Finding::begin(device, frame_bytes_max).unwrap();
    let (mut next, mut frames, mut bytes) = (Some(first), 0, 0);
    while let Some(frame) = next {
        let answer = scope.answer(&frame, frame_bytes_max).unwrap();
        for frame in [&frame, &answer] {
            assert!(frame.len() <= frame_bytes_max as usize, "{} bytes", frame.len());
        }
        frames += 1;
        bytes += frame.len() + answer.len();
        next = finding.next(&answer).unwrap();
    }
    (finding.end(), frames, bytes)
}

fn set(messages: &Messages) -> BTreeSet<Item> {
    messages.iter().map(|message| held(message).item).collect()
}

fn check(device: &Messages, scope: &Messages, frame_bytes_max: u32) {
    let (found, ..) = exchange(&items(device), &items(scope), frame_bytes_max);
    let (device, scope) = (set(device), set(scope));
    assert_eq!(found.here_alone, &device - &scope);
    assert_eq!(found.there_alone, &scope - &device);
}

/// Few different times, so that many messages share one.
fn messages() -> impl Strategy<Value = Messages> {
    proptest::collection::btree_map(any::<u16>(), (0..40_u32, any::<u8>()), 0..400).prop_map(
        |few| few.into_iter().map(|(id, (time, body))| (id, (time * 500, body))).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_two_sides_find_how_they_differ(one in messages(), other in messages()) {
        check(&one, &other, FRAME_BYTES);
        check(&one, &other, FRAME_BYTES_MIN);
    }

    #[test]
    fn a_few_changes_are_found(one in messages(), changes in vec((any::<u16>(), any::<Option<u8>>()), 0..20)) {
        let mut other = one.clone();
        for (pick, change) in changes {
            let id = other.keys().nth(usize::from(pick) % other.len().max(1)).copied();
            match (id, change) {
                (Some(id), Some(body)) => _ = other.insert(id, (9_000, body)),
                (Some(id), None) => _ = other.remove(&id),
                (None, _) => _ = other.insert(pick, (1, 1)),
            }
        }
        check(&one, &other, FRAME_BYTES_MIN);
    }

    #[test]
    fn items_that_change_are_those_of_what_is_left(before in messages(), after in messages()) {
        let mut changed = items(&before);
        let live = after.iter().map(held).collect();
        let deleted: Vec<_> = before.keys().filter(|id| !after.contains_key(*id)).map(|id| message(*id)).collect();
        changed.change(live, &deleted);
        let anew = items(&after);
        prop_assert_eq!((changed.count(), changed.digest()), (anew.count(), anew.digest()));
        prop_assert_eq!(changed, anew);
    }

    #[test]
    fn no_bytes_do_harm(scope in messages(), bytes in vec(any::<u8>(), 0..300), plain in any::<bool>()) {
        let scope = items(&scope);
        // Most random bytes are refused at once: small ones are more often ranges.
        let bytes: Vec<u8> = if plain { bytes } else { bytes.iter().map(|byte| byte % 4).collect() };
        let frame = [&[0x61], &bytes[..]].concat();
        if let Ok(answer) = scope.answer(&frame, FRAME_BYTES_MIN) {
            prop_assert!(answer.len() <= FRAME_BYTES_MIN as usize);
            repair::frame::check(&answer).unwrap();
        }
        let (mut finding, _) = Finding::begin(&scope, FRAME_BYTES_MIN).unwrap();
        let _ = finding.next(&frame);
    }

    #[test]
    fn no_damaged_frame_does_harm(scope in messages(), place in any::<usize>(), byte in any::<u8>()) {
        let scope = items(&scope);
        let (_, mut frame) = Finding::begin(&scope, FRAME_BYTES_MIN).unwrap();
        let place = place % frame.len();
        frame[place] = byte;
        let _ = scope.answer(&frame, FRAME_BYTES_MIN);
        frame.truncate(place);
        let cut = scope.answer(&frame, FRAME_BYTES_MIN);
        prop_assert!(place > 0 || cut == Err(BadFrame::Empty));
    }
}

/// 50,000 messages, a second apart.
fn many() -> Messages {
    (0..50_000).map(|n| (n, (u32::from(n) * 10_000, 0))).collect()
}

#[test]
fn ten_differences_among_50_000_are_found_in_two_frames_of_a_few_kb() {
    let (device, mut scope) = (many(), many());
    for n in 0..10 {
        scope.insert(n * 4_999, (7, 1));
    }
    let (found, frames, bytes) = exchange(&items(&device), &items(&scope), FRAME_BYTES);
    assert_eq!((found.here_alone.len(), found.there_alone.len()), (10, 10));
    assert!(frames <= 4, "{frames} frames");
    assert!(bytes < 32 << 10, "{bytes} bytes");
}

#[test]
fn equal_sides_need_one_small_frame() {
    let (found, frames, bytes) = exchange(&items(&many()), &items(&many()), FRAME_BYTES);
    assert_eq!((found, frames), (Differences::default(), 1));
    assert!(bytes < 1_024, "{bytes} bytes");
}

#[test]
fn frames_stay_small_where_everything_differs() {
    check(&Messages::new(), &many(), FRAME_BYTES);
    check(&many(), &Messages::new(), FRAME_BYTES_MIN);
}

#[test]
fn endless_ranges_are_answered_within_the_limit() {
    let scope = items(&many());
    let ranges = |range: &[u8]| [&[0x61][..], &range.repeat(60_000 / range.len())].concat();
    let fingerprint = [&[2, 0, 1][..], &[7; 16]].concat(); // a millisecond later each
    for range in
        [&[1, 0, 0][..], &[2, 0, 0], &[0, 0, 0], &[1, 0, 2, 0], &[0, 0, 2, 0], &fingerprint]
    {
        let answer = scope.answer(&ranges(range), FRAME_BYTES_MIN).unwrap();
        assert!(answer.len() <= FRAME_BYTES_MIN as usize, "{range:?}: {}", answer.len());
    }
}

#[test]
fn times_are_compared_in_milliseconds_and_never_twice() {
    let at = |micros, body| BTreeMap::from([(1, (micros, body))]);
    // Another microsecond is another version, at the same place.
    check(&at(1_000, 1), &at(1_999, 1), FRAME_BYTES);
    let twice = vec![held((&1, &(5, 5))), held((&1, &(5, 5)))];
    assert_eq!(Items::new(twice).count(), 1);
}

/// Who keeps them for others weighs them by what they take: one message more does not double it.
#[test]
fn what_changed_takes_no_more_than_it_is() {
    let held_by = |ids: std::ops::Range<u16>| ids.map(|id| held((&id, &(1, 1)))).collect();
    let mut items = Items::new(held_by(0..1_000));
    let each = items.bytes() / 1_000;
    items.change(held_by(1_000..1_001), &[message(0), message(1)]);
    assert_eq!(items.count(), 999);
    let mut copy = items.clone();
    copy.change(held_by(1_001..1_003), &[]);
    assert!(copy.bytes() <= 1_001 * each, "{} bytes for 1001 of {each}", copy.bytes());
}
