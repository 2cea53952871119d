//! The digest is a sum: in any order, and back again.

use model::{BodyHash, Digest, Item, Timestamp, Version};
use proptest::{collection::vec, prelude::*};

fn sum(items: &[Item]) -> Digest {
    let mut digest = Digest::EMPTY;
    items.iter().for_each(|item| digest.add(*item));
    digest
}

fn small(n: u8) -> Item {
    let mut bytes = [0; 32];
    bytes[31] = n;
    Item(bytes)
}

#[test]
fn carries_and_borrows_through_all_limbs() {
    let all_ones = Item([255; 32]);
    assert_eq!(sum(&[all_ones, small(1)]), Digest::EMPTY);
    let mut digest = Digest::EMPTY;
    digest.remove(small(1));
    assert_eq!(digest.to_bytes(), [255; 32]);
    assert_eq!(sum(&[all_ones, all_ones]).to_string(), format!("{}fe", "f".repeat(62)));
}

#[test]
fn texts() {
    assert_eq!(Digest::EMPTY.to_string(), "0".repeat(64));
    let text = format!("01{}ef", "0".repeat(60));
    assert_eq!(Digest::parse(&text).unwrap().to_string(), text);
    for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"F".repeat(64), &"é".repeat(32)] {
        assert_eq!(Digest::parse(bad), None, "{bad}");
    }
}

/// Only 0 or 255: carries are the rule.
fn items() -> impl Strategy<Value = Vec<Item>> {
    let byte = prop_oneof![Just(0), Just(255), any::<u8>()];
    vec(vec(byte, 32).prop_map(|bytes| Item(bytes.try_into().unwrap())), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_does_not_matter_and_removing_undoes(mut items in items(), last in items()) {
        let digest = sum(&items);
        items.reverse();
        prop_assert_eq!(sum(&items), digest);
        let mut more = digest;
        last.iter().for_each(|item| more.add(*item));
        last.iter().for_each(|item| more.remove(*item));
        prop_assert_eq!(more, digest);
        prop_assert_eq!(Digest::from_bytes(&digest.to_bytes()), digest);
        prop_assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
    }

    #[test]
    fn versions_are_ordered_as_their_bytes(a in 0..3_i64, b in 0..3_i64, x in any::<[u8; 32]>(), y in any::<[u8; 32]>()) {
        let version = |at, body| Version { updated_at: Timestamp::from_micros(at << 40), body: BodyHash(body) };
        let (first, second) = (version(a, x), version(b, y));
        prop_assert_eq!(first.cmp(&second), first.to_bytes().cmp(&second.to_bytes()));
    }
}
