//! An erasure takes all rows that hold content of its scope, and no other's.

use model::{Action, Offset, Partition, Timestamp};
use readmodel::{
    Pool,
    dead_letters::{DeadLetter, DeadLetterKind},
    erasures::ERASED_REASON,
    write::{RequestedBackup, Writes},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    commands::{command, push, say, scope},
    database::Database,
    writer::Writer,
};

const ANN: &str = "acme/user/ann";
const BOB: &str = "acme/user/bob";

/// How many rows of a table a scope has.
async fn rows(pool: &Pool, table: &str, key: &str) -> i64 {
    let query = format!("select count(*) from context_sync.{table} where scope = $1");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(scope(key).reference().0);
    query.fetch_one(pool).await.unwrap()
}

/// A record that was refused, and a backup that was asked for.
fn besides(key: &str, offset: u64) -> Writes {
    let letter = DeadLetter {
        partition: Partition::new(1),
        offset: Offset::new(offset).unwrap(),
        kind: DeadLetterKind::Refused,
        scope: Some(scope(key).reference()),
        append_time: Timestamp::EPOCH,
        time: Timestamp::EPOCH,
        key: key.as_bytes().to_vec(),
        value: b"a secret".to_vec(),
        reason: "it says a secret".to_owned(),
    };
    let id = model::BackupId(Uuid::from_u128(offset.into()));
    let backup = RequestedBackup { id, scope: scope(key), at: Timestamp::EPOCH };
    Writes { dead_letters: vec![letter], backups: vec![backup], ..Writes::default() }
}

#[tokio::test]
async fn an_erasure_leaves_nothing_of_its_scope_and_all_of_the_others() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let pool = database.owner_pool();
    for (number, key) in [(1, ANN), (2, BOB)] {
        let name = key.rsplit('/').next().unwrap();
        let id = Uuid::from_u128(number);
        let first = json!({"id": id, "type": "decision", "content": "first"});
        writer.write(&push(key, name, &[first, say("second")])).await;
        let edit = json!({"id": id, "type": "decision", "content": "edited", "base_cursor": 2});
        let mut writes = writer.writes(&push(key, name, &[edit]));
        writes.history = writer.past(key);
        writer.commit(&writes).await.unwrap();
        writer.commit(&besides(key, number as u64)).await.unwrap();
        assert_eq!(rows(&pool, "message_history", key).await, 1);
        assert_eq!(rows(&pool, "messages", key).await, 2);
    }
    writer.write(&command(ANN, "ann", Action::ScopeErased)).await;
    for (key, left) in [(ANN, 0), (BOB, 2)] {
        assert_eq!(rows(&pool, "messages", key).await, left, "{key}");
        assert_eq!(rows(&pool, "message_history", key).await, left / 2, "{key}");
        // What became of commands has no content.
        assert!(rows(&pool, "outcomes", key).await >= 2);
        let (value, reason): (Vec<u8>, String) =
            sqlx::query_as("select value, reason from context_sync.dead_letters where scope = $1")
                .bind(scope(key).reference().0)
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!((value.is_empty(), reason == ERASED_REASON), (left == 0, left == 0), "{key}");
        let hidden: bool = sqlx::query_scalar(
            "select expired_at is not null from context_sync.context_backups where scope = $1",
        )
        .bind(scope(key).reference().0)
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(hidden, left == 0, "{key}");
    }
    let (head, floor, erased, count): (i64, i64, i64, i64) = sqlx::query_as(
        "select head, floor, erased, live_count from context_sync.scopes where scope = $1",
    )
    .bind(scope(ANN).reference().0)
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((head, floor, erased, count), (4, 4, 4, 0));
    // The tenant's sum is that of the rest.
    let held: i64 =
        sqlx::query_scalar("select sum(live_count)::bigint from context_sync.tenant_usage")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(held, 2);
    // What comes after is as ever.
    writer.write(&push(ANN, "ann", &[say("second"), say("anew")])).await;
    assert_eq!(rows(&pool, "messages", ANN).await, 2);
    assert_eq!(rows(&pool, "erasures", ANN).await, 1);
}
