//! The catalogue of backups and of drills: what facts become, and who is shown what.

use model::{
    AboutBackup, BackupId, BackupRecord, BackupType, Cursor, Digest, DrillFailure, DrillId,
    DrillRecord, Fact, LogId, Offset, OrgRole, Timestamp,
};
use readmodel::{
    DatabaseRole, Pool,
    access::AccessQuery,
    catalogue::{self, BackupRow, BackupStatus, Catalogue, Page},
    drill, restores,
};
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use crate::{
    commands::{push, say, scope, user},
    database::Database,
    writer::Writer,
};

const SCOPE: &str = "acme/user/ann";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_767_096_000_000 + seconds * 1_000)
}

fn id(number: u128) -> BackupId {
    BackupId(Uuid::from_u128(number))
}

fn completed(number: u128) -> Fact {
    Fact::BackupCompleted(BackupRecord {
        id: id(number),
        scope: scope(SCOPE),
        backup_type: BackupType::Full,
        path: format!("file:///archive/{number}"),
        size_bytes: 100,
        record_count: 1,
        checksum: [7; 32],
        created_at: at(number as i64),
        completed_at: at(100),
        expires_at: Some(at(1_000)),
        cursor_first: Cursor::new(1).unwrap(),
        cursor_last: Cursor::new(1).unwrap(),
        digest: Digest::EMPTY,
    })
}

fn about(number: u128) -> AboutBackup {
    AboutBackup { id: id(number), scope: scope(SCOPE), at: at(2_000) }
}

fn failed(number: u128, detail: &str) -> Fact {
    let backup_type = BackupType::OnDemand;
    Fact::BackupFailed { about: about(number), backup_type, detail: detail.to_owned() }
}

/// Applies facts from an offset on.
async fn apply(catalogue: &mut Catalogue, from: u64, facts: &[Fact]) {
    let offset = |offset: u64| Offset::new(offset).unwrap();
    let to = offset(from + facts.len() as u64);
    catalogue.apply(offset(from), to, facts).await.unwrap();
}

async fn catalogue(database: &Database) -> Catalogue {
    let mut catalogue = Catalogue::connect(&database.config).await.unwrap().unwrap();
    let position = catalogue.position(LogId(Uuid::from_u128(1))).await.unwrap();
    assert_eq!(position, Offset::ZERO);
    catalogue
}

async fn shown(pool: &Pool) -> Vec<BackupRow> {
    let asked = AccessQuery { scope: scope(SCOPE), user: user("ann"), org_role: OrgRole::Member };
    let page = Page { backup_type: None, before: None, limit: 10 };
    let (_, rows) = catalogue::list(pool, &asked, page).await.unwrap();
    let rows = rows.unwrap();
    let unknown = Page { before: Some(id(4_711)), ..page };
    assert_eq!(catalogue::list(pool, &asked, unknown).await.unwrap().1, None);
    for row in &rows {
        let (_, one) = catalogue::get(pool, &asked, row.id).await.unwrap();
        assert_eq!(one.as_ref(), Some(row));
    }
    rows
}

#[tokio::test]
async fn a_failed_backup_is_shown_as_failed_and_without_an_object() {
    let database = Database::migrated().await;
    Writer::new(&database).await; // it says which log this is
    let mut catalogue = catalogue(&database).await;
    apply(&mut catalogue, 0, &[failed(1, "other content\0"), failed(1, "again")]).await;
    let rows = shown(&database.role(DatabaseRole::Api)).await;
    assert_eq!((rows.len(), rows[0].status, &rows[0].object), (1, BackupStatus::Failed, &None));
    // What is completed cannot fail any more.
    apply(&mut catalogue, 2, &[completed(2), failed(2, "lost since")]).await;
    let rows = shown(&database.role(DatabaseRole::Api)).await;
    let completed = rows.iter().find(|row| row.id == id(2)).unwrap();
    assert_eq!(completed.status, BackupStatus::Completed);
}

/// The founding cleanup: nobody is shown the row any more; and a fact that is repeated does not bring it back.
#[tokio::test]
async fn an_expired_backup_is_shown_to_nobody_again() {
    let database = Database::migrated().await;
    Writer::new(&database).await; // it says which log this is
    let mut catalogue = catalogue(&database).await;
    let api = database.role(DatabaseRole::Api);
    apply(&mut catalogue, 0, &[completed(1), completed(2)]).await;
    assert_eq!(shown(&api).await.len(), 2);
    apply(&mut catalogue, 2, &[Fact::BackupExpired(about(1)), completed(1)]).await;
    let rows = shown(&api).await;
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id(2)]);
}

/// Of an incremental `record_count` is what changed in the hour; what it shows is as much as the full before it and the
/// incrementals up to it, at most.
#[tokio::test]
async fn what_a_backup_may_bring_is_counted_by_all_that_it_is_made_of() {
    let database = Database::migrated().await;
    let mut catalogue = catalogue(&database).await;
    let backup = |number: u128, backup_type, second, count| {
        let Fact::BackupCompleted(backup) = completed(number) else { unreachable!() };
        let created_at = at(second);
        Fact::BackupCompleted(BackupRecord {
            backup_type,
            created_at,
            record_count: count,
            ..backup
        })
    };
    let facts = [
        backup(1, BackupType::Incremental, 10, 1_000),
        backup(2, BackupType::Full, 20, 40),
        backup(3, BackupType::Incremental, 30, 5),
        backup(4, BackupType::Incremental, 40, 0),
        backup(5, BackupType::OnDemand, 45, 41),
        backup(6, BackupType::Full, 50, 42),
    ];
    apply(&mut catalogue, 0, &facts).await;
    let pool = database.role(DatabaseRole::Ingest);
    let scope = about(1).scope;
    for (number, count, messages_max) in
        [(1, 1_000, 1_000), (2, 40, 40), (3, 5, 45), (4, 0, 45), (5, 41, 41), (6, 42, 42)]
    {
        let found = restores::restorable(&pool, &scope, id(number)).await.unwrap().unwrap();
        assert_eq!((found.backup.record_count, found.messages_max), (Some(count), messages_max));
    }
    let found = restores::restorable_as_of(&pool, &scope, at(47)).await.unwrap().unwrap();
    assert_eq!((found.backup.id, found.messages_max), (id(4), 45));
}

#[tokio::test]
async fn drills_are_kept_and_the_newest_one_is_known() {
    let database = Database::migrated().await;
    let mut catalogue = catalogue(&database).await;
    let ingest = database.role(DatabaseRole::Ingest);
    assert_eq!(drill::newest(&ingest).await.unwrap(), None);
    let drilled = |number: u128, failures: Vec<DrillFailure>| {
        let (id, at) = (DrillId(Uuid::from_u128(number)), at(number as i64));
        Fact::DrillCompleted(DrillRecord { id, at, scopes: 3, failures })
    };
    apply(&mut catalogue, 0, &[drilled(1, Vec::new()), drilled(1, Vec::new())]).await;
    assert_eq!(drill::newest(&ingest).await.unwrap(), Some((at(1), true)));
    let problem = "message 5 is not in it\0".to_owned();
    let failure = DrillFailure { scope: scope(SCOPE), backup: id(9), problem };
    apply(&mut catalogue, 2, &[drilled(2, vec![failure])]).await;
    assert_eq!(drill::newest(&ingest).await.unwrap(), Some((at(2), false)));
    let rows = sqlx::query("select failures::text from drills order by drilled_at desc")
        .fetch_all(&database.owner_pool())
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    let failures: serde_json::Value = serde_json::from_str(rows[0].get(0)).unwrap();
    assert_eq!(failures[0]["scope"], SCOPE);
    assert_eq!(failures[0]["problem"], "message 5 is not in it\u{fffd}");
}

#[tokio::test]
async fn a_sample_has_scopes_with_a_backup_and_goes_round() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    for name in ["ann", "bob", "cy"] {
        writer.write(&push(&format!("acme/user/{name}"), name, &[say("x"), say("y")])).await;
    }
    let mut catalogue = catalogue(&database).await;
    apply(&mut catalogue, 0, &[completed(1), completed(2)]).await;
    let ingest = database.role(DatabaseRole::Ingest);
    for from in [Uuid::nil(), Uuid::max(), scope(SCOPE).reference().0] {
        let sample = drill::sample(&ingest, from, 5).await.unwrap();
        assert_eq!(sample, [(scope(SCOPE), id(2))], "the newest, from {from}");
    }
    let mut rows = Vec::new();
    let live = drill::live_rows(&ingest, &scope(SCOPE), |row| rows.push(row)).await.unwrap();
    let live = live.unwrap();
    assert_eq!((live.head.get(), live.count, rows.len()), (2, 2, 2));
    assert_eq!(rows.iter().map(|row| row.cursor.get()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(drill::live(&ingest, &scope(SCOPE)).await.unwrap(), Some(live));
    assert_eq!(drill::live(&ingest, &scope("acme/user/nobody")).await.unwrap(), None);
    assert_eq!(json!(drill::source(&ingest).await.unwrap().1), json!(2));
}
