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

/// Rules, the constraints that keep them, and writes that break them.
const BUGS: [(&str, &str, Bug); 6] = [
    ("one row an id", "messages_id", |w| {
        w.replaced.clear();
        w.messages[0].entry.content_hash.0 = [1; 32];
    }),
    ("one live message a content", "messages_live_content", |w| {
        w.replaced.clear();
        w.messages[0].id.0 = Uuid::new_v4();
    }),
    ("one message a cursor", "messages_pkey", |w| {
        w.messages[0].id.0 = Uuid::new_v4();
        w.messages[0].entry.content_hash.0 = [1; 32];
        w.messages[0].entry.cursor = Cursor::from_i64(2);
    }),
    ("cursors begin at 1", "messages_cursor_check", |w| w.messages[0].entry.cursor = Cursor::ZERO),
    ("the last owner stays", "scopes_last_owner_stays", |w| w.scopes[0].1.owners = 0),
    ("the floor is no higher than the head", "scopes_floor", |w| {
        w.scopes[0].1.floor = w.scopes[0].1.head.next();
    }),
];

#[tokio::test]
async fn what_no_fold_writes_is_refused_and_leaves_nothing() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let id = Uuid::new_v4();
    writer.write(&create(TEAM, "ann")).await;
    let first = json!({"id": id, "type": "decision", "content": "first"});
    writer.write(&push(TEAM, "ann", &[first, say("second")])).await;
    let edit = json!({"id": id, "type": "pattern", "content": "first", "base_cursor": 1});
    let next = writer.next();
    let writes = writer.writes(&push(TEAM, "ann", &[edit]));
    for (rule, constraint, bug) in BUGS {
        let mut wrong = writes.clone();
        bug(&mut wrong);
        let refused = writer.commit(&wrong).await.unwrap_err();
        assert!(matches!(refused, ReadModelError::Refused(_)), "{rule}: {refused}");
        assert!(refused.to_string().contains(constraint), "{rule}: {refused}");
        assert!(!refused.is_retryable(), "{rule}");
        let positions = writer.projection.positions().await.unwrap();
        assert_eq!(positions[0].next_offset.get(), next, "{rule}");
    }
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
