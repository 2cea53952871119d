//! Positions fence: who began a batch elsewhere than where the read model stands writes nothing.

use model::LogId;
use readmodel::{ReadModelError, load::Wanted, projection::Projection, write::Writes};
use serde_json::json;
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

#[tokio::test]
async fn the_second_of_two_projections_writes_nothing() {
    let database = Database::migrated().await;
    let mut first = Writer::new(&database).await.projection;
    let mut second = Projection::connect(&database.config).await.unwrap();
    let batch = first.begin(&[advance(0, 0, 3)], &Wanted::default()).await.unwrap();
    batch.commit(&Writes::default()).await.unwrap();
    for stale in [advance(0, 0, 3), advance(0, 2, 4), advance(0, 4, 5)] {
        let begun = second.begin(&[stale], &Wanted::default()).await;
        assert!(matches!(begun.err(), Some(ReadModelError::PositionMoved)));
    }
    assert_eq!(offsets(&mut second).await, [3, 0]);
    let batch = second.begin(&[advance(0, 3, 4)], &Wanted::default()).await.unwrap();
    batch.commit(&Writes::default()).await.unwrap();
    assert_eq!(offsets(&mut first).await, [4, 0]);
}

#[tokio::test]
async fn of_two_projections_at_once_one_wins() {
    let database = Database::migrated().await;
    let mut first = Writer::new(&database).await.projection;
    let config = database.config.clone();
    let batch = first.begin(&[advance(0, 0, 1)], &Wanted::default()).await.unwrap();
    let second = tokio::spawn(async move {
        let mut second = Projection::connect(&config).await.unwrap();
        // Waits for the first to end.
        second.begin(&[advance(0, 0, 1)], &Wanted::default()).await.err()
    });
    tokio::task::yield_now().await;
    batch.commit(&Writes::default()).await.unwrap();
    assert!(matches!(second.await.unwrap(), Some(ReadModelError::PositionMoved)));
}

#[tokio::test]
async fn a_batch_of_two_partitions_moves_both_or_none() {
    let database = Database::migrated().await;
    let mut projection = Writer::new(&database).await.projection;
    let wanted = Wanted::default();
    let begun = projection.begin(&[advance(0, 0, 1), advance(1, 1, 2)], &wanted).await;
    assert!(matches!(begun.err(), Some(ReadModelError::PositionMoved)));
    assert_eq!(offsets(&mut projection).await, [0, 0]);
    let begun = projection.begin(&[advance(0, 0, 1), advance(1, 0, 2)], &wanted).await;
    begun.unwrap().commit(&Writes::default()).await.unwrap();
    assert_eq!(offsets(&mut projection).await, [1, 2]);
}

#[tokio::test]
async fn a_dropped_batch_is_undone() {
    let database = Database::migrated().await;
    let mut projection = Writer::new(&database).await.projection;
    drop(projection.begin(&[advance(0, 0, 1)], &Wanted::default()).await.unwrap());
    assert_eq!(offsets(&mut projection).await, [0, 0]);
}

#[tokio::test]
async fn positions_are_read_as_they_were_written() {
    let database = Database::migrated().await;
    let mut projection = Writer::new(&database).await.projection;
    let step = advance(1, 0, 5);
    let batch = projection.begin(&[step], &Wanted::default()).await.unwrap();
    batch.commit(&Writes::default()).await.unwrap();
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
