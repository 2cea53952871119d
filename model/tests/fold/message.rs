//! A message as a pull gives it.

use std::collections::BTreeMap;

use model::{
    Body, BodyHash, ContentHash, Cursor, DeviceId, Entry, Message, MessageId, MessageType,
    Metadata, Timestamp, UserId, Version,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// The wire contract's keys, in its order.
const KEYS: [&str; 11] = [
    "id",
    "type",
    "content",
    "content_hash",
    "metadata",
    "created_at",
    "updated_at",
    "contributed_by",
    "device_id",
    "cursor",
    "deleted",
];

fn message(content: &str) -> Message {
    let metadata = Metadata::new(&json!({"z": 1.5, "a": {"\"": []}})).unwrap();
    let at = |text| Timestamp::parse_rfc3339(text).unwrap();
    Message {
        id: MessageId(Uuid::from_u128(10)),
        entry: Entry {
            cursor: Cursor::new(12341).unwrap(),
            version: Version {
                updated_at: at("2025-12-30T10:00:00.25Z"),
                body: BodyHash::of("decision", content, metadata.as_str()),
            },
            content_hash: ContentHash::of(content),
            created_at: at("2025-12-30T09:00:00Z"),
            bytes: 0,
            deleted_at: None,
            restore: None,
        },
        body: Some(Body {
            message_type: MessageType::new("decision").unwrap(),
            content: content.to_owned(),
            metadata,
        }),
        contributed_by: UserId::new("ann+1@example.com").unwrap(),
        device: DeviceId::new("laptop|1").ok(),
    }
}

fn keys_in_order(json: &str) -> Vec<String> {
    let values: BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(json).unwrap();
    let mut keys: Vec<String> = values.keys().cloned().collect();
    // None of these keys stands within a value of the messages above.
    keys.sort_by_key(|key| json.find(&format!("\"{key}\":")).unwrap());
    keys
}

#[test]
fn json_of_a_live_message() {
    let content = "quote \" slash \\ line \n nul-ish \u{1} é 😀 \u{2028}";
    let json = message(content).to_json();
    assert_eq!(keys_in_order(&json), KEYS);
    let expected = json!({
        "id": "00000000-0000-0000-0000-00000000000a", "type": "decision", "content": content,
        "content_hash": ContentHash::of(content).to_string(), "metadata": {"z": 1.5, "a": {"\"": []}},
        "created_at": "2025-12-30T09:00:00Z", "updated_at": "2025-12-30T10:00:00.250Z",
        "contributed_by": "ann+1@example.com", "device_id": "laptop|1", "cursor": 12341, "deleted": false,
    });
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), expected);
    assert!(!json.contains('\n'));
}

#[test]
fn json_of_a_tombstone() {
    let mut tombstone = message("x");
    tombstone.entry.deleted_at = Some(Timestamp::EPOCH);
    tombstone.body = None;
    tombstone.device = None;
    let json = tombstone.to_json();
    assert_eq!(keys_in_order(&json), KEYS);
    let value: Value = serde_json::from_str(&json).unwrap();
    for key in ["type", "content", "content_hash", "metadata", "device_id"] {
        assert_eq!(value[key], Value::Null, "{key}");
    }
    assert_eq!(value["deleted"], true);
}

#[test]
fn message_types() {
    for good in ["a", "decision", "a-b_c9", &"a".repeat(64)] {
        assert_eq!(MessageType::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "A", "9", "_a", "-a", "a b", "aé", &"a".repeat(65)] {
        assert!(MessageType::new(bad).is_err(), "{bad}");
    }
}
