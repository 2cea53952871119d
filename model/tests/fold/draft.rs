//! What a push's message may be, and what is said of one that is not.

use model::{
    Change, ContentHash, Cursor, InvalidCode, Limits, Timestamp, Write,
    draft::{Invalid, parse_change},
};
use serde_json::{Value, json};

const ID: &str = "0193f5a0-0000-7000-8000-00000000000a";

fn parse(json: &str) -> Result<Change, Invalid> {
    parse_change(json, &Limits::CONTRACT)
}

fn written(message: &Value) -> Write {
    match parse(&message.to_string()) {
        Ok(Change::Write(write)) => write,
        other => panic!("{message}: {other:?}"),
    }
}

/// A good message but for some fields.
fn with(fields: Value) -> Value {
    let mut message = json!({"type": "decision", "content": "x"});
    let all = message.as_object_mut().unwrap();
    all.extend(fields.as_object().unwrap().clone());
    message
}

fn refused(message: &str, code: InvalidCode, detail: &str) {
    match parse(message) {
        Err(invalid) => {
            assert_eq!(invalid.code, code, "{message}");
            assert!(invalid.detail.contains(detail), "{message}\n{}", invalid.detail);
        }
        Ok(change) => panic!("{message} was taken: {change:?}"),
    }
}

fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({}), |inner, _| json!({"a": inner}))
}

#[test]
fn a_message_of_the_founding_document() {
    let write = written(&json!({
        "type": "decision", "content": "x", "metadata": {"timestamp": "2025-12-30T10:00:00Z", "a": 1},
    }));
    assert_eq!(write.id, None);
    assert_eq!(write.base_cursor, None);
    assert_eq!(write.content_hash, ContentHash::of("x"));
    assert_eq!(write.body.metadata.as_str(), r#"{"a":1,"timestamp":"2025-12-30T10:00:00Z"}"#);
    assert_eq!(write.updated_at, Timestamp::parse_rfc3339("2025-12-30T10:00:00Z"));
}

#[test]
fn everything_that_a_message_may_carry() {
    let write = written(&with(json!({
        "id": ID, "base_cursor": i64::MAX, "updated_at": "2025-12-30T12:00:00+02:00", "deleted": false,
        "content_hash": ContentHash::of("x").to_string(), "metadata": {},
    })));
    assert_eq!(write.id.unwrap().to_string(), ID);
    assert_eq!(write.base_cursor, Cursor::new(i64::MAX as u64).ok());
    assert_eq!(write.updated_at, Timestamp::parse_rfc3339("2025-12-30T10:00:00Z"));
}

#[test]
fn a_delete() {
    let delete = json!({"id": ID, "deleted": true, "base_cursor": 0, "content": 7, "type": null});
    match parse(&delete.to_string()).unwrap() {
        Change::Delete { id, base_cursor } => {
            assert_eq!((id.to_string().as_str(), base_cursor), (ID, Cursor::ZERO));
        }
        Change::Write(write) => panic!("{write:?}"),
    }
}

#[test]
fn null_is_absent_and_unknown_fields_are_ignored() {
    let nulls = json!({
        "id": null, "base_cursor": null, "updated_at": null, "content_hash": null, "deleted": null,
        "metadata": null, "tags": ["a"], "cursor": "no",
    });
    assert_eq!(written(&with(nulls)), written(&with(json!({}))));
    assert_eq!(written(&with(json!({}))).body.metadata.as_str(), "{}");
}

#[test]
fn wrong_types() {
    for (field, detail) in [
        ("id", "id takes a UUID"),
        ("base_cursor", "base_cursor takes a whole number"),
        ("updated_at", "updated_at takes an RFC 3339 time"),
        ("content_hash", "content_hash takes 64 lower-case hex digits"),
        ("deleted", "deleted takes true or false"),
        ("metadata", "metadata takes a JSON object"),
        ("type", "type takes"),
        ("content", "content takes a string"),
    ] {
        for value in [json!(7.5), json!([]), json!({}), json!("?"), json!("")] {
            let fits = matches!((field, &value), ("metadata", Value::Object(_)))
                || (field == "content" && value == "?");
            if !fits {
                let message = with(json!({field: value})).to_string();
                let detail = if field == "content" { "content takes" } else { detail };
                refused(&message, InvalidCode::InvalidRequest, detail);
            }
        }
    }
}

#[test]
fn values_out_of_range() {
    for (fields, detail) in [
        (json!({"base_cursor": -1}), "base_cursor takes"),
        (json!({"base_cursor": 1.0}), "base_cursor takes"),
        (json!({"base_cursor": i64::MAX as u64 + 1}), "base_cursor takes"),
        (json!({"id": "0193f5a0000070008000000000000000"}), "id takes a UUID"),
        (json!({"id": format!("{{{ID}}}")}), "id takes a UUID"),
        (json!({"id": format!("urn:uuid:{ID}")}), "id takes a UUID"),
        (json!({"type": "Decision"}), "type takes 1 to 64"),
        (json!({"type": "a".repeat(65)}), "type takes 1 to 64"),
        (json!({"type": "9a"}), "type takes 1 to 64"),
        (json!({"content": ""}), "at least one character"),
        (json!({"content": "a\0b"}), "no NUL"),
        (json!({"updated_at": "2025-12-30"}), "updated_at takes"),
        (json!({"updated_at": "yesterday"}), "updated_at takes"),
        (json!({"updated_at": "2025-13-30T10:00:00Z"}), "updated_at takes"),
        (json!({"content_hash": "g".repeat(64)}), "64 lower-case hex"),
        (json!({"content_hash": "A".repeat(64)}), "64 lower-case hex"),
        (json!({"content_hash": "é".repeat(32)}), "64 lower-case hex"),
        (json!({"metadata": []}), "metadata takes a JSON object"),
        (json!({"metadata": nested(17)}), "at most 16 levels"),
        (json!({"metadata": {"n": (1_u64 << 53) + 1}}), "9007199254740993 as a string"),
        (json!({"metadata": {"a": [{"n": u64::MAX}]}}), "as a string"),
        (json!({"metadata": {"n": i64::MIN}}), "as a string"),
    ] {
        refused(&with(fields).to_string(), InvalidCode::InvalidRequest, detail);
    }
}

#[test]
fn texts_that_are_no_json() {
    let (message, content, metadata) = ("a message takes", "content takes", "metadata takes");
    for (text, detail) in [
        ("", message),
        ("{", message),
        ("7", message),
        ("null", message),
        ("[]", message),
        (r#""text""#, message),
        (r#"{"type":"decision","content":"\ud800"}"#, content),
        (r#"{"type":"decision","content":"\udc00x"}"#, content),
        (r#"{"type":"decision","content":"x","metadata":{"n":1e400}}"#, metadata),
        (r#"{"type":"decision","content":"x","metadata":{"n":["\udc00"]}}"#, metadata),
        (r#"{"type":"decision","content":"x","metadata":{"n":NaN}}"#, message),
        (r#"{"type":"decision","content":"x","\ud800":1}"#, message),
        (r#"{"type":"decision","content":"x"} {}"#, message),
        ("{\"type\":\"decision\",\"content\":\"a\nb\"}", message),
    ] {
        refused(text, InvalidCode::InvalidRequest, detail);
    }
    let deep = format!("{}{}", r#"{"type":"decision","content":"x","metadata":"#, "[".repeat(9999));
    refused(&deep, InvalidCode::InvalidRequest, "well-formed JSON: recursion limit exceeded");
}

#[test]
fn deletes_that_lack_something() {
    refused(r#"{"deleted":true}"#, InvalidCode::InvalidRequest, "an id");
    refused(r#"{"deleted":true,"base_cursor":1}"#, InvalidCode::InvalidRequest, "an id");
    let without_base = json!({"deleted": true, "id": ID, "base_cursor": null}).to_string();
    refused(&without_base, InvalidCode::InvalidRequest, "a base_cursor");
    let garbage = json!({"deleted": true, "id": "A", "base_cursor": 1}).to_string();
    refused(&garbage, InvalidCode::InvalidRequest, "id takes a UUID");
}

#[test]
fn limits_are_named_with_their_value_and_what_was_sent() {
    let limit = Limits::CONTRACT.content_bytes_max;
    written(&with(json!({"content": "a".repeat(limit)})));
    let more = with(json!({"content": "é".repeat(limit / 2 + 1)})).to_string();
    refused(
        &more,
        InvalidCode::PayloadTooLarge,
        "content_bytes_max is 65536 bytes, 65538 were sent",
    );

    let limit = Limits::CONTRACT.metadata_bytes_max;
    let frame = r#"{"a":""}"#.len();
    written(&with(json!({"metadata": {"a": "x".repeat(limit - frame)}})));
    let more = with(json!({"metadata": {"a": "x".repeat(limit - frame + 1)}})).to_string();
    refused(&more, InvalidCode::PayloadTooLarge, "metadata_bytes_max is 16384 bytes, 16385 were");
}

#[test]
fn a_hash_that_is_not_the_content_s() {
    let message = with(json!({"content_hash": ContentHash::of("y").to_string()})).to_string();
    refused(&message, InvalidCode::HashMismatch, &ContentHash::of("x").to_string());
}

#[test]
fn metadata_timestamp_counts_only_without_an_id_and_if_it_is_a_time() {
    let at = |fields| written(&with(fields)).updated_at.map(|at| at.to_string());
    let ten = json!({"timestamp": "2025-12-30T10:00:00Z"});
    assert_eq!(at(json!({"metadata": ten})).as_deref(), Some("2025-12-30T10:00:00Z"));
    assert_eq!(at(json!({"metadata": ten, "id": ID})), None);
    let both = json!({"metadata": ten, "updated_at": "2025-12-30T11:00:00Z"});
    assert_eq!(at(both).as_deref(), Some("2025-12-30T11:00:00Z"));
    assert_eq!(at(json!({"metadata": {"timestamp": "soon"}})), None);
    assert_eq!(at(json!({"metadata": {"timestamp": 1_767_088_800}})), None);
    let old = json!({"updated_at": "1969-12-31T23:59:59Z"});
    assert_eq!(at(old).as_deref(), Some("1970-01-01T00:00:00Z"));
}

#[test]
fn metadata_of_16_levels() {
    written(&with(json!({"metadata": nested(16)})));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever is sent, it is taken or refused with a reason.
    #[test]
    fn no_text_panics(text in ".{0,60}", field in "(id|type|content|metadata|updated_at|base_cursor|deleted)") {
        let _ = parse(&text);
        let _ = parse(&format!(r#"{{"type":"a","content":"x","{field}":{text}}}"#));
        let _ = parse(&json!({"type": "a", "content": "x", field: text}).to_string());
    }
}
