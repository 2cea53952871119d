use model::{Cursor, message::InvalidCode};

use super::*;

fn parse(body: &str) -> Result<PushBody, Problem> {
    PushBody::parse(body.as_bytes(), &Limits::CONTRACT)
}

fn refused(body: &[u8]) -> (u16, String) {
    let problem = PushBody::parse(body, &Limits::CONTRACT).unwrap_err();
    (problem.status().as_u16(), problem.detail().to_owned())
}

/// The detail of the only message of a push.
fn invalid(message: &str) -> (InvalidCode, String) {
    let push = parse(&format!("{{\"messages\":[{message}]}}")).unwrap();
    let problem = push.refusal().unwrap_or_else(|| panic!("{message} is valid"));
    (push.rejected[0].code, problem.detail().to_owned())
}

#[test]
fn each_message_keeps_its_place() {
    let push = parse(
        r#" {"x": {"y": [1]}, "messages": [{"type":"a","content":"1"}, 7,
            {"type":"a","content":""}, {"type":"a","content":"2","more":null}], "epoch": null} "#,
    )
    .unwrap();
    let places: Vec<_> = push.changes.iter().map(|pushed| pushed.index).collect();
    assert_eq!(places, [0, 3]);
    let rejected: Vec<_> = push.rejected.iter().map(|r| (r.index, r.detail.as_str())).collect();
    assert_eq!(
        rejected,
        [
            (1, "messages[1]: a message takes a JSON object"),
            (2, "messages[2]: content takes at least one character"),
        ]
    );
    assert!(push.refusal().is_none() && push.epoch.is_none());
}

#[test]
fn what_is_no_push_is_refused_by_messages() {
    let table: [(&[u8], &str); 12] = [
        (b"", "EOF"),
        (b"not json", "expected"),
        (b"[]", "invalid type: sequence"),
        (b"null", "invalid type: null"),
        (b"{}", "missing field `messages`"),
        (b"{\"messages\":null}", "invalid type: null, expected an array"),
        (b"{\"messages\":{}}", "invalid type: map, expected an array"),
        (b"{\"messages\":\"x\"}", "invalid type: string"),
        (b"{\"messages\":[],\"messages\":[]}", "duplicate field `messages`"),
        (b"{\"messages\":[]} x", "trailing characters"),
        (b"{\"messages\":[{\"type\":]}", "expected value"),
        (b"{\"messages\":[\"\xff\"]}", "no UTF-8 from byte 14 on"),
    ];
    for (body, reason) in table {
        let (status, detail) = refused(body);
        let starts = "messages takes an array of messages, in a JSON object: ";
        assert_eq!(status, 400, "{detail}");
        assert!(detail.starts_with(starts) && detail.contains(reason), "{detail}");
    }
}

#[test]
fn an_epoch_is_a_uuid() {
    let epoch = |value: &str| parse(&format!("{{\"messages\":[],\"epoch\":{value}}}"));
    let uuid = "\"c4cef105-ad52-5a07-84f6-0b5fe8779186\"";
    assert!(epoch(uuid).unwrap().epoch.is_some());
    assert!(epoch("null").unwrap().epoch.is_none());
    for bad in ["1", "\"\"", "\"x\"", "[]", "{}"] {
        assert_eq!(epoch(bad).unwrap_err().detail(), "epoch takes a UUID, as a pull gave it");
    }
}

#[test]
fn too_many_messages_are_counted() {
    let many = |count: usize| format!("{{\"messages\":[{}]}}", vec!["0"; count].join(","));
    assert_eq!(parse(&many(500)).unwrap().rejected.len(), 500);
    for count in [501, 10_000] {
        let detail = format!("push_messages_max is 500, sent was {count}");
        assert_eq!(refused(many(count).as_bytes()), (413, detail));
    }
}

#[test]
fn a_bad_message_names_its_field_and_what_it_takes() {
    let levels = |count: usize| {
        let inner = "{\"a\":".repeat(count - 1) + "{}" + &"}".repeat(count - 1);
        format!(r#"{{"type":"a","content":"x","metadata":{inner}}}"#)
    };
    assert!(parse(&format!("{{\"messages\":[{}]}}", levels(16))).unwrap().refusal().is_none());
    let deep = levels(20);
    let nested = "[".repeat(5000) + &"]".repeat(5000);
    let long = format!(r#"{{"type":"a","content":"{}"}}"#, "x".repeat((64 << 10) + 1));
    let wide =
        format!(r#"{{"type":"a","content":"x","metadata":{{"a":"{}"}}}}"#, "x".repeat(16 << 10));
    let hash = "0".repeat(64);
    let hash = format!(r#"{{"type":"a","content":"x","content_hash":"{hash}"}}"#);
    let (bad, large, mismatch) =
        (InvalidCode::InvalidRequest, InvalidCode::PayloadTooLarge, InvalidCode::HashMismatch);
    let table = [
        ("[]", bad, "a message takes a JSON object"),
        (r#"{"content":"x"}"#, bad, "type takes a string"),
        (r#"{"type":"Ä","content":"x"}"#, bad, "type takes 1 to 64 characters"),
        (r#"{"type":"a"}"#, bad, "content takes a string"),
        (r#"{"type":"a","content":5}"#, bad, "content takes a string"),
        (r#"{"type":"a","content":"a\u0000b"}"#, bad, "content takes no NUL"),
        (r#"{"type":"a","content":"\ud800"}"#, bad, "content takes well-formed JSON"),
        (
            r#"{"type":"a","content":"x","metadata":{"k":["\udc00"]}}"#,
            bad,
            "metadata takes well-formed JSON",
        ),
        (r#"{"type":"a","content":"x","\ud800":1}"#, bad, "a message takes well-formed JSON"),
        (r#"{"type":"a","content":"\udc00\ud800"}"#, bad, "content takes well-formed JSON"),
        (r#"{"type":"a","content":"x","metadata":[]}"#, bad, "metadata takes a JSON object"),
        (&deep, bad, "metadata takes at most 16 levels"),
        (&nested, bad, "a message takes well-formed JSON: recursion limit"),
        (r#"{"type":"a","content":"x","id":"../x"}"#, bad, "id takes a UUID"),
        (r#"{"type":"a","content":"x","base_cursor":-1}"#, bad, "base_cursor takes a whole number"),
        (r#"{"type":"a","content":"x","base_cursor":9e99}"#, bad, "base_cursor takes a whole"),
        (r#"{"type":"a","content":"x","updated_at":"now"}"#, bad, "updated_at takes an RFC 3339"),
        (r#"{"deleted":true,"base_cursor":1}"#, bad, "a delete takes an id"),
        (&long, large, "content_bytes_max is 65536 bytes, 65537 were sent"),
        (&wide, large, "metadata_bytes_max is 16384 bytes"),
        (&hash, mismatch, "content_hash: the content's SHA-256 is"),
    ];
    for (message, code, detail) in table {
        let shown = &message[..message.len().min(80)];
        let (found, text) = invalid(message);
        assert_eq!(found, code, "{shown}");
        assert!(text.starts_with(&format!("messages[0]: {detail}")), "{shown}: {text}");
    }
}

#[test]
fn bases_of_another_epoch_are_forgotten() {
    let id = "01940f2e-7c00-7000-8000-000000000001";
    let mut push = parse(&format!(
        r#"{{"messages":[{{"type":"a","content":"x","base_cursor":5}},
            {{"id":"{id}","deleted":true,"base_cursor":6}}]}}"#
    ))
    .unwrap();
    assert!(push.names_bases());
    push.forget_bases(Kept::NOTHING);
    match (&push.changes[0].change, &push.changes[1].change) {
        (Change::Write(write), Change::Delete { base_cursor, .. }) => {
            assert_eq!((write.base_cursor, *base_cursor), (None, Cursor::ZERO));
        }
        other => panic!("{other:?}"),
    }
    assert!(!parse(r#"{"messages":[{"type":"a","content":"x"}]}"#).unwrap().names_bases());
}
