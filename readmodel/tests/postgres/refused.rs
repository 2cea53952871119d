//! The rules once more, where a bug of the fold cannot pass them: the constraints.

use model::{Cursor, Timestamp};
use readmodel::{ReadModelError, write::Writes};
use serde_json::json;
use uuid::Uuid;

use crate::{
    commands::{create, push, say},
    database::Database,
    writer::Writer,
};

const TEAM: &str = "acme/team/t";

type Bug = fn(&mut Writes);

/// Rules, and writes that break them.
fn bugs() -> Vec<(&'static str, Bug)> {
    vec![
        ("one row an id", |w| w.replaced.clear()),
        ("one live message a content", |w| w.messages[0].id.0 = Uuid::new_v4()),
        ("one message a cursor", |w| {
            w.messages[0].id.0 = Uuid::new_v4();
            w.messages[0].entry.content_hash.0 = [1; 32];
            w.messages[0].entry.cursor = Cursor::from_i64(2);
        }),
        ("cursors begin at 1", |w| w.messages[0].entry.cursor = Cursor::ZERO),
        ("the last owner stays", |w| w.scopes[0].1.owners = 0),
        ("the floor is no higher than the head", |w| {
            w.scopes[0].1.floor = w.scopes[0].1.head.next();
        }),
    ]
}

#[tokio::test]
async fn what_no_fold_writes_is_refused_and_leaves_nothing() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let id = Uuid::new_v4();
    writer.write(&create(TEAM, "ann")).await;
    let first = json!({"id": id, "type": "decision", "content": "first"});
    writer.write(&push(TEAM, "ann", &[first, say("second")])).await;
    let edit = json!({"id": id, "type": "pattern", "content": "first", "base_cursor": 1});
    let right = push(TEAM, "ann", &[edit]);
    let next = writer.next();
    let mut writes = writer.writes(&right);
    for (rule, bug) in bugs() {
        let mut wrong = Writes {
            scopes: writes.scopes.clone(),
            replaced: writes.replaced.clone(),
            messages: writes
                .messages
                .iter()
                .map(|image| readmodel::write::MessageImage {
                    scope: image.scope,
                    tenant: image.tenant.clone(),
                    id: image.id,
                    entry: image.entry.clone(),
                    json: image.json.clone(),
                })
                .collect(),
            ..Writes::default()
        };
        if rule == "one live message a content" {
            wrong.replaced.clear();
        }
        bug(&mut wrong);
        let refused = writer.commit(&wrong).await;
        assert!(matches!(refused, Err(ReadModelError::Refused(_))), "{rule}: {refused:?}");
        assert!(!refused.unwrap_err().is_retryable(), "{rule}");
        let positions = writer.projection.positions().await.unwrap();
        assert_eq!(positions[0].next_offset.get(), next, "{rule}");
    }
    writes.outcomes.clear();
    writer.commit(&writes).await.unwrap();
}

#[tokio::test]
async fn times_and_texts_at_their_limits_are_kept() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let content = "\u{1}\u{7f}\u{ffff}\u{10ffff} \"\\\u{2028}'; drop table messages; --";
    let message = json!({"type": "decision", "content": content, 
        "updated_at": "1970-01-01T00:00:00Z",
        "metadata": {"nul": "\0", "é": 1e-7}});
    writer.write(&push("acme/user/ann", "ann", &[message])).await;
    let mut owner = database.owner().await;
    let (json, at): (String, i64) = sqlx::query_as("select json, updated_at_us from messages")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    let row: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(row["content"], content);
    assert_eq!(row["metadata"]["nul"], "\0");
    assert_eq!(Timestamp::from_micros(at), Timestamp::EPOCH);
}
