use model::Digest;
use serde_json::{Value, json};

use super::*;

const EPOCH: &str = "c4cef105-ad52-5a07-84f6-0b5fe8779186";

fn asked(query: &str) -> Result<Asked, Problem> {
    let uri: Uri = format!("/api/v1/context/pull?{query}").parse().unwrap();
    Asked::parse(&uri, &ApiConfig::default())
}

fn cursor(cursor: u64) -> Cursor {
    Cursor::new(cursor).unwrap()
}

fn page(head: u64, messages: &str, last: Option<u64>, has_more: bool) -> Page {
    Page {
        exists: true,
        member: None,
        summary: Summary {
            head: cursor(head),
            floor: cursor(1),
            count: 2,
            digest: Digest::EMPTY,
            epoch: Epoch(EPOCH.parse().unwrap()),
            rebuilds: 0,
        },
        messages: messages.to_owned().into(),
        last: last.map(cursor),
        has_more,
    }
}

#[test]
fn a_pull_is_read_with_its_defaults() {
    let default = Asked { cursor: Cursor::ZERO, limit: 100, wait: Duration::ZERO, epoch: None };
    assert_eq!(asked("").unwrap(), default);
    assert_eq!(asked("unknown=1&unknown=2").unwrap(), default);
    let epoch = Some(Epoch(EPOCH.parse().unwrap()));
    assert_eq!(
        asked(&format!("cursor=9223372036854775807&limit=1000&wait=60&epoch={EPOCH}")).unwrap(),
        Asked {
            cursor: cursor(i64::MAX as u64),
            limit: 1000,
            wait: Duration::from_secs(60),
            epoch
        }
    );
}

#[test]
fn what_is_out_of_range_is_refused_never_clamped() {
    let cursor = "cursor takes a whole number from 0 to 9223372036854775807";
    let limit = "limit takes a whole number from 1 to 1000";
    let wait = "wait takes a whole number of seconds from 0 to 60";
    let epoch = "epoch takes a UUID, as a pull gave it";
    let table = [
        ("cursor=-1", cursor),
        ("cursor=abc", cursor),
        ("cursor=9e99", cursor),
        ("cursor=", cursor),
        ("cursor=9223372036854775808", cursor),
        ("limit=0", limit),
        ("limit=5000", limit),
        ("limit=1.5", limit),
        ("wait=61", wait),
        ("wait=0.5", wait),
        ("epoch=1", epoch),
        ("epoch=", epoch),
        ("cursor=1&cursor=1", "cursor takes one value, sent were several"),
    ];
    for (query, detail) in table {
        let problem = asked(query).unwrap_err();
        assert_eq!(problem.status().as_u16(), 400, "{query}");
        assert!(problem.detail().starts_with(detail), "{query}: {}", problem.detail());
    }
}

#[test]
fn a_page_is_followed_by_the_next_one_or_by_the_head() {
    let more: Value =
        serde_json::from_slice(&body(&page(9, "{},{}", Some(4), true), None)).unwrap();
    assert_eq!(
        more,
        json!({"messages": [{}, {}], "cursor": 4, "has_more": true, "head": 9, "floor": 1,
            "count": 2, "digest": "0".repeat(64), "epoch": EPOCH})
    );
    let last: Value = serde_json::from_slice(&body(&page(9, "{}", Some(8), false), None)).unwrap();
    assert_eq!((&last["cursor"], &last["has_more"]), (&9.into(), &false.into()));
    let none: Value = serde_json::from_slice(&body(&page(0, "", None, false), None)).unwrap();
    assert_eq!((&none["messages"], &none["cursor"]), (&json!([]), &0.into()));
}

#[test]
fn the_base_stands_beside_another_epoch_alone() {
    assert_eq!((Kept::ALL.base(), Kept::NOTHING.base()), (None, Some(Cursor::ZERO)));
    let page: Value =
        serde_json::from_slice(&body(&page(0, "", None, false), Kept::NOTHING.base())).unwrap();
    assert_eq!(page["base"], 0);
}

#[test]
fn a_cursor_is_good_up_to_the_head_and_in_its_epoch() {
    let table = [
        ("cursor=0", Kept::ALL, true),
        ("cursor=7", Kept::ALL, true),
        ("cursor=8", Kept::ALL, false),
        ("cursor=0", Kept::NOTHING, true),
        ("cursor=1", Kept::NOTHING, false),
    ];
    for (query, kept, good) in table {
        let summary = page(7, "", None, false).summary;
        let checked = check_cursor(&asked(query).unwrap(), &summary, kept);
        assert_eq!(checked.is_ok(), good, "{query}");
        if let Err(problem) = checked {
            assert_eq!((problem.code(), problem.status().as_u16()), ("SYNC_001", 409));
        }
    }
}
