//! The published vectors: what `schemas/vectors` promises is what the rules compute.

use std::{path::PathBuf, process::Command};

use model::{
    BodyHash, CommandId, ContentHash, Digest, Epoch, Item, LogId, MessageId, Metadata, NAMESPACE,
    RulesVersion, ScopeKey, Timestamp, UserId, Version,
};
use serde_json::Value;
use uuid::Uuid;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/vectors"))
}

fn read(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(file)).unwrap()).unwrap()
}

fn text<'a>(vector: &'a Value, key: &str) -> &'a str {
    vector[key].as_str().unwrap_or_else(|| panic!("no {key} in {vector}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn vectors_of_ids() {
    let file = read("ids.json");
    assert_eq!(text(&file, "namespace"), NAMESPACE.to_string());
    let vectors = file["ids"].as_array().unwrap();
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let scope = || text(vector, "scope").parse::<ScopeKey>().unwrap();
        let hash = || {
            let hash = ContentHash::of(text(vector, "content"));
            assert_eq!(hash.to_string(), text(vector, "content_hash"));
            hash
        };
        let number = |key: &str| u32::try_from(vector[key].as_u64().unwrap()).unwrap();
        let id = match (text(vector, "of"), vector.get("push_id")) {
            ("message", None) => MessageId::of_content(&scope(), &hash()).0,
            ("message", Some(_)) => {
                let push = CommandId(text(vector, "push_id").parse().unwrap());
                MessageId::of_content_again(&scope(), &hash(), push, number("index")).0
            }
            ("command", _) => {
                let actor = UserId::new(text(vector, "actor")).unwrap();
                CommandId::of_key(&scope(), text(vector, "kind"), &actor, text(vector, "key")).0
            }
            ("scope", _) => scope().reference().0,
            ("epoch", _) => {
                let log = LogId(text(vector, "log_id").parse().unwrap());
                assert_eq!(number("rules"), RulesVersion::FIRST.0);
                Epoch::of_log(log).0
            }
            (other, _) => panic!("an id of {other}"),
        };
        assert_eq!(id.to_string(), text(vector, "id"), "{vector}");
        assert_eq!(id, Uuid::new_v5(&NAMESPACE, text(vector, "name").as_bytes()), "{vector}");
    }
}

#[test]
fn vectors_of_the_digest() {
    let file = read("digest.json");
    let vectors = file["messages"].as_array().unwrap();
    assert_eq!(vectors.len(), 7);
    let mut digest = Digest::EMPTY;
    assert_eq!(digest.to_string(), text(&file, "digest_of_none"));
    let mut items: Vec<Item> = Vec::new();
    for vector in vectors {
        let (message_type, content) = (text(vector, "type"), text(vector, "content"));
        let metadata = Metadata::new(&vector["metadata"]).unwrap();
        let body = text(vector, "body");
        let tail = format!(",\"metadata\":{},\"type\":\"{message_type}\"}}", metadata.as_str());
        assert!(body.ends_with(&tail), "{body}\n{tail}");
        let body_hash = BodyHash::of(message_type, content, metadata.as_str());
        assert_eq!(body_hash.to_string(), text(vector, "body_hash"), "{body}");
        assert_eq!(ContentHash::of(body).0, body_hash.0);
        assert_eq!(ContentHash::of(content).to_string(), text(vector, "content_hash"));

        let updated_at = Timestamp::parse_rfc3339(text(vector, "updated_at")).unwrap();
        let version = Version { updated_at, body: body_hash };
        assert_eq!(hex(&version.to_bytes()), text(vector, "version"));
        let item = version.item(MessageId(text(vector, "id").parse().unwrap()));
        assert_eq!(item.to_string(), text(vector, "item"));
        digest.add(item);
        items.push(item);
        assert_eq!(digest.to_string(), text(vector, "digest"));
    }
    items.into_iter().for_each(|item| digest.remove(item));
    assert_eq!(digest, Digest::EMPTY);
}

/// The stranger's script agrees with the files too, where there is a Python to run it.
#[test]
fn vectors_by_the_script() {
    let script = folder().join("check.py");
    match Command::new("python3").arg("-B").arg(script).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let problem = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}{problem}");
        }
        Err(none) => eprintln!("not run: python3: {none}"),
    }
}
