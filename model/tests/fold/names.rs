//! Names, scope keys, cursors, and places in the log.

use model::{
    Cursor, MessageId, Offset, Place, ScopeKey, ScopeKind, TenantId, UserId, ids::NAME_BYTES_MAX,
};
use uuid::Uuid;

#[test]
fn names() {
    for good in ["a", "A-Z_a.z:0@9|+", "...", ".a", &"x".repeat(NAME_BYTES_MAX)] {
        assert_eq!(UserId::new(good).unwrap().as_str(), good);
        let json = format!("\"{good}\"");
        assert_eq!(serde_json::from_str::<UserId>(&json).unwrap().as_str(), good);
        assert_eq!(serde_json::to_string(&UserId::new(good).unwrap()).unwrap(), json);
    }
    for bad in
        ["", ".", "..", "a/b", "a%b", "a b", "é", "a\0", "a\n", &"x".repeat(NAME_BYTES_MAX + 1)]
    {
        assert!(UserId::new(bad).is_err(), "{bad:?}");
        assert!(serde_json::from_value::<UserId>(bad.into()).is_err(), "{bad:?}");
    }
}

#[test]
fn scope_keys() {
    for kind in ScopeKind::ALL {
        let text = format!("acme/{kind}/a@b|c");
        let key: ScopeKey = text.parse().unwrap();
        assert_eq!((key.to_string(), key.kind), (text, kind));
    }
    let user = UserId::new("ann").unwrap();
    let key = ScopeKey::user(TenantId::new("acme").unwrap(), &user).unwrap();
    assert_eq!(key.to_string(), "acme/user/ann");
    for bad in [
        "",
        "acme",
        "acme/team",
        "acme/team/",
        "/team/t",
        "acme/Team/t",
        "acme/team/t/x",
        "acme/team/..",
    ] {
        assert!(bad.parse::<ScopeKey>().is_err(), "{bad}");
    }
    let other: ScopeKey = "acme/team/ann".parse().unwrap();
    assert_ne!(key.reference(), other.reference());
}

#[test]
fn places() {
    for good in ["0-0", "3-12345", "9999-9223372036854775807"] {
        assert_eq!(good.parse::<Place>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        "-",
        "3",
        "3-",
        "-3",
        "3-1-2",
        "3--1",
        "+3-1",
        "3-+1",
        " 3-1",
        "3-1 ",
        "a-1",
        "3-a",
        "10000-0",
        "4294967296-0",
        "0-9223372036854775808",
        "0-18446744073709551616",
        "٣-١",
    ] {
        assert!(bad.parse::<Place>().is_err(), "{bad}");
    }
    assert_eq!(Offset::MAX.next(), Offset::MAX);
    assert_eq!((Offset::from_i64(-1), Offset::new(1 << 63)), (None, None));
}

#[test]
fn cursors() {
    assert!(Cursor::new(i64::MAX as u64).is_ok() && Cursor::new(1 << 63).is_err());
    assert_eq!(Cursor::from_i64(-1), Cursor::ZERO);
    assert!(serde_json::from_str::<Cursor>("-1").is_err());
    assert_eq!(serde_json::from_str::<Cursor>("7").unwrap(), Cursor::new(7).unwrap());
    let id = MessageId(Uuid::from_u128(1));
    assert_eq!(id.to_string(), "00000000-0000-0000-0000-000000000001");
}
