//! A snapshot of a partition's rows is what the log folds to, whatever is committed meanwhile.

use std::collections::BTreeMap;

use model::{LogId, Partition};
use readmodel::{ReadModelError, snapshot::Snapshot};
use serde_json::json;
use uuid::Uuid;

use crate::{
    commands::{create, push, remove_member, say, set_member},
    database::Database,
    writer::{PARTITIONS, Writer},
};

const PARTITION: Partition = Partition::new(0);

async fn written(database: &Database) -> Writer {
    let mut writer = Writer::new(database).await;
    let id = Uuid::from_u128(1);
    let edit = json!({"id": id, "type": "decision", "content": "é", "base_cursor": 0});
    let delete = json!({"id": id, "deleted": true, "base_cursor": 1});
    let many: Vec<_> = (0..450).map(|n| say(&format!("message {n}"))).collect();
    for command in [
        create("acme/team/web", "ann"),
        set_member("acme/team/web", "ann", "bob", model::Role::Member),
        push("acme/team/web", "bob", &[edit, say("x")]),
        push("acme/team/web", "bob", &[delete]),
        push("acme/user/ann", "ann", &many),
        remove_member("acme/team/web", "ann", "bob"),
    ] {
        writer.write(&command).await;
    }
    writer
}

async fn begin(database: &Database, log: LogId) -> Result<Snapshot, ReadModelError> {
    Snapshot::begin(&database.config, log, PARTITIONS, PARTITION).await
}

#[tokio::test]
async fn a_snapshot_is_the_fold_and_stands_still() {
    let database = Database::migrated().await;
    let mut writer = written(&database).await;
    let mut snapshot = begin(&database, writer.log).await.unwrap();
    let fold = writer.fold().clone();
    let next = writer.next();
    writer.write(&push("acme/user/ann", "ann", &[say("too late")])).await;
    writer.write(&push("acme/user/bob", "bob", &[say("too late")])).await;
    assert_eq!(snapshot.position.next_offset.get(), next);

    let scopes = snapshot.scopes(None).await.unwrap();
    let last = scopes.last().map(|(key, _)| key.reference());
    assert_eq!(snapshot.scopes(last).await.unwrap(), []);
    assert!(scopes.is_sorted_by_key(|(key, _)| key.reference().0));
    let headings: BTreeMap<_, _> =
        scopes.iter().map(|(key, heading)| (key.to_string(), heading.clone())).collect();
    let folded = fold.scopes.iter();
    let expected: BTreeMap<_, _> =
        folded.map(|(key, own)| (key.to_string(), own.scope.heading.clone())).collect();
    assert_eq!(headings, expected);

    for (key, folded) in &fold.scopes {
        let members = snapshot.members(key.reference()).await.unwrap();
        assert_eq!(
            members.into_iter().collect::<std::collections::HashMap<_, _>>(),
            folded.scope.members
        );
        let mut messages = BTreeMap::new();
        let mut after = model::Cursor::ZERO;
        loop {
            let rows = snapshot.messages(key.reference(), after).await.unwrap();
            let Some(last) = rows.last() else { break };
            after = last.entry.cursor;
            messages.extend(rows.into_iter().map(|row| (row.id, (row.entry, row.json))));
        }
        let folded = folded.messages.iter();
        let expected = folded.map(|(id, own)| (*id, (own.entry.clone(), own.to_json())));
        assert_eq!(messages, expected.collect(), "{key}");
    }

    let outcomes = snapshot.outcomes(None).await.unwrap();
    let last = outcomes.last().map(|row| row.id);
    assert_eq!(snapshot.outcomes(last).await.unwrap(), []);
    let known: usize = fold.scopes.values().map(|own| own.scope.commands.len()).sum();
    assert_eq!(outcomes.len(), known);
    for row in outcomes {
        let mut scopes = fold.scopes.values();
        let found = scopes.find_map(|own| own.scope.commands.get(&row.id)).unwrap();
        assert_eq!(row.outcome, found.outcome);
    }
    snapshot.end().await;
}

#[tokio::test]
async fn rows_of_another_log_and_rows_that_wait_for_an_operator_are_refused() {
    let database = Database::migrated().await;
    let writer = written(&database).await;
    let other = begin(&database, LogId(Uuid::new_v4())).await.err();
    assert!(matches!(other, Some(ReadModelError::OtherLog { .. })), "{other:?}");
    let mut owner = database.owner().await;
    sqlx::query(
        "insert into dead_letters (partition, record_offset, kind, append_time_us, time_us, key, value, reason)
         values (0, 3, 'parked', 0, 0, '', '', 'a bug')",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let parked = begin(&database, writer.log).await.err();
    assert!(matches!(parked, Some(ReadModelError::Parked(PARTITION))), "{parked:?}");
}
