//! Positions fence: who began a batch elsewhere than where the read model stands writes nothing.

use model::{Cursor, LogId};
use readmodel::{
    ReadModelError,
    projection::{Advance, Projection},
    write::Writes,
};
use serde_json::json;
use sqlx::Connection;
use uuid::Uuid;

use crate::{
    commands::{push, say},
    database::Database,
    writer::{PARTITIONS, Writer, advance},
};

async fn offsets(projection: &mut Projection) -> Vec<u64> {
    let positions = projection.positions().await.unwrap();
    positions.iter().map(|position| position.next_offset.get()).collect()
}

async fn commit(projection: &mut Projection, step: Advance) -> Result<(), ReadModelError> {
    projection.commit(&[step], &Writes::default(), false).await
}

fn moved<T>(result: Result<T, ReadModelError>) -> bool {
    matches!(result.err(), Some(ReadModelError::PositionMoved))
}

#[tokio::test]
async fn the_second_of_two_projections_writes_nothing() {
    let database = Database::migrated().await;
    let mut first = Writer::new(&database).await.projection;
    let mut second = Projection::connect(&database.config).await.unwrap();
    commit(&mut first, advance(0, 0, 3)).await.unwrap();
    for stale in [advance(0, 0, 3), advance(0, 2, 4), advance(0, 4, 5)] {
        assert!(moved(commit(&mut second, stale).await));
    }
    assert_eq!(offsets(&mut second).await, [3, 0]);
    commit(&mut second, advance(0, 3, 4)).await.unwrap();
    assert_eq!(offsets(&mut first).await, [4, 0]);
}

/// Two that loaded the same state and folded the same push: both arrive at the fence together.
#[tokio::test]
async fn of_two_commits_at_once_one_wins_and_no_row_is_wrong() {
    let database = Database::migrated().await;
    let mut first = Writer::new(&database).await;
    first.write(&push("acme/user/ann", "ann", &[say("x")])).await;
    let edit = json!({"id": Uuid::new_v4(), "type": "decision", "content": "y"});
    // One by the single statement, the other by a transaction with rows to replace.
    let mut writes = first.writes(&push("acme/user/ann", "ann", &[edit]));
    for replaced in [false, true] {
        let next = first.next();
        if replaced {
            writes.replaced = vec![(writes.messages[0].scope, writes.messages[0].id)];
        }
        let mut second = Projection::connect(&database.config).await.unwrap();
        let mut owner = database.owner().await;
        let mut lock = owner.begin().await.unwrap();
        sqlx::query("select from positions for update").execute(&mut *lock).await.unwrap();
        let step = [advance(0, next, next + 1)];
        let (ours, theirs) = tokio::join!(first.projection.commit(&step, &writes, false), async {
            let release = async {
                database.until_waiting(2).await;
                lock.commit().await.unwrap();
            };
            tokio::join!(second.commit(&step, &writes, false), release).0
        });
        let won = [ours.is_ok(), theirs.is_ok()].iter().filter(|won| **won).count();
        assert_eq!(won, 1, "{ours:?} {theirs:?}");
        assert!(moved(ours) || moved(theirs));
        assert_eq!(offsets(&mut second).await, [next + 1, 0]);
        first.skip();
    }
    let mut owner = database.owner().await;
    let rows: Vec<i64> = sqlx::query_scalar("select cursor from messages order by cursor")
        .fetch_all(&mut owner)
        .await
        .unwrap();
    assert_eq!(rows, [1, 2]);
}

#[tokio::test]
async fn a_batch_of_two_partitions_moves_both_or_none() {
    let database = Database::migrated().await;
    let mut projection = Writer::new(&database).await.projection;
    let writes = Writes::default();
    let steps = [advance(0, 0, 1), advance(1, 1, 2)];
    assert!(moved(projection.commit(&steps, &writes, false).await));
    assert_eq!(offsets(&mut projection).await, [0, 0]);
    projection.commit(&[advance(0, 0, 1), advance(1, 0, 2)], &writes, false).await.unwrap();
    assert_eq!(offsets(&mut projection).await, [1, 2]);
}

#[tokio::test]
async fn positions_are_read_as_they_were_written() {
    let database = Database::migrated().await;
    let mut projection = Writer::new(&database).await.projection;
    let step = advance(1, 0, 5);
    commit(&mut projection, step).await.unwrap();
    assert_eq!(projection.positions().await.unwrap()[1], step.to);
}

#[tokio::test]
async fn another_log_is_refused() {
    let database = Database::migrated().await;
    let Writer { mut projection, log, .. } = Writer::new(&database).await;
    let other = LogId(Uuid::new_v4());
    match projection.adopt_log(other, PARTITIONS, &[]).await {
        Err(ReadModelError::OtherLog { stored, found }) => {
            assert_eq!((stored, found), (log, other))
        }
        adopted => panic!("{adopted:?}"),
    }
    let adopted = projection.adopt_log(log, 3, &[]).await;
    assert!(matches!(
        adopted,
        Err(ReadModelError::OtherPartitionCount { stored: PARTITIONS, found: 3 })
    ));
}

#[tokio::test]
async fn messages_swap_their_contents_in_one_batch() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let edit = |id: Uuid, content: &str, base_cursor: u64| {
        let kind = "decision";
        json!({"id": id, "type": kind, "content": content, "base_cursor": base_cursor})
    };
    writer.write(&push("acme/user/ann", "ann", &[edit(a, "x", 0), edit(b, "y", 0)])).await;
    let swap = [edit(a, "z", 9), edit(a, "z", 1), edit(b, "x", 2), edit(a, "y", 3)];
    writer.write(&push("acme/user/ann", "ann", &swap)).await;
    let mut owner = database.owner().await;
    let rows: Vec<(Uuid, i64, String)> =
        sqlx::query_as("select id, cursor, json::json->>'content' from messages order by cursor")
            .fetch_all(&mut owner)
            .await
            .unwrap();
    assert_eq!(rows, [(b, 4, "x".to_owned()), (a, 5, "y".to_owned())]);
    writer.write(&push("acme/user/ann", "ann", &[say("z")])).await;
}

/// One of its ids, contents or commands is enough for nothing of it to be written.
#[tokio::test]
async fn what_is_taken_for_new_is_written_only_if_nothing_of_it_is_there() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let [first, second] =
        ["there", "new"].map(|content| push("acme/user/ann", "ann", &[say(content)]));
    let there = writer.writes(&first);
    writer.commit(&there).await.unwrap();
    let new = Writes { taken_for_new: true, ..writer.writes(&second) };
    let [mut same_id, mut same_content, mut same_command] = [(); 3].map(|()| new.clone());
    same_id.messages[0].id = there.messages[0].id;
    same_content.messages[0].entry.content_hash = there.messages[0].entry.content_hash;
    same_command.outcomes[0].id = there.outcomes[0].id;
    for writes in [&same_id, &same_content, &same_command] {
        let refused = writer.commit(writes).await.unwrap_err();
        assert!(matches!(refused, ReadModelError::NotNew), "{refused}");
    }
    // In a transaction of several statements too, which holds no lock afterwards.
    let floors = vec![(there.messages[0].scope, Cursor::ZERO)];
    let refused = writer.commit(&Writes { floors, ..same_command }).await.unwrap_err();
    assert!(matches!(refused, ReadModelError::NotNew), "{refused}");
    let mut other = Projection::connect(&database.config).await.unwrap();
    let next = writer.next();
    other.commit(&[advance(0, next, next + 1)], &new, false).await.unwrap();
}

/// Who lost the race is told that, whatever is there; and what no fold makes is refused, not folded again as if nothing were wrong.
#[tokio::test]
async fn what_is_taken_for_new_is_refused_for_what_else_is_wrong_with_it() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let first = writer.writes(&push("acme/user/ann", "ann", &[say("there")]));
    writer.commit(&first).await.unwrap();
    let there = Writes { taken_for_new: true, ..first };
    assert!(moved(writer.projection.commit(&[advance(0, 9, 10)], &there, false).await));
    let new = writer.writes(&push("acme/user/ann", "ann", &[say("new")]));
    let new = Writes { taken_for_new: true, ..new };
    let mut taken_cursor = new.clone();
    taken_cursor.messages[0].entry.cursor = there.messages[0].entry.cursor;
    let mut no_cursor = new.clone();
    no_cursor.messages[0].entry.cursor = Cursor::ZERO;
    for (writes, constraint) in
        [(taken_cursor, "messages_pkey"), (no_cursor, "messages_cursor_check")]
    {
        let refused = writer.commit(&writes).await.unwrap_err();
        let is_refused = matches!(refused, ReadModelError::Refused(_));
        assert!(is_refused && refused.to_string().contains(constraint), "{refused}");
    }
    writer.commit(&new).await.unwrap();
}
