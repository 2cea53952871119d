//! A read model that was lost, beside a log that nobody can vouch for.

use futures_util::future::join_all;
use model::{Cursor, Epoch, FoldRevision, LogId, OrgRole, Partition, PartitionClock, ScopeRef};
use readmodel::{
    DatabaseRole, Pool, ProjectionSet, ReadModelError,
    access::{AccessQuery, accounts},
    adoption::{Adoption, PastEpoch},
    epochs::{NewEpoch, kept},
    projection::Projection,
    pull::{self, GlanceQuery, glances},
};
use uuid::Uuid;

use crate::{
    commands::{create, push, say, scope, user},
    database::Database,
    writer::{PARTITIONS, Writer, ends},
};

const ANN: &str = "acme/user/ann";
const LATE: &str = "acme/team/late";

async fn epoch(database: &Database) -> Epoch {
    pull::epoch(&database.role(DatabaseRole::Api)).await.unwrap()
}

/// Up to where a scope keeps the cursors of an epoch; `None`: it is the present one.
async fn base(database: &Database, key: &str, of: Epoch) -> Option<Cursor> {
    let (api, present) = (database.role(DatabaseRole::Api), epoch(database).await);
    kept(&api, scope(key).reference(), Some(of), present).await.unwrap().base()
}

fn early<T>(asked: Result<T, ReadModelError>) -> bool {
    matches!(asked, Err(ReadModelError::NotMigrated))
}

/// Nobody learns anything of it, not even that a team does not exist.
async fn assert_unanswered(database: &Database) {
    let api = database.role(DatabaseRole::Api);
    assert!(early(pull::epoch(&api).await));
    let glance =
        GlanceQuery { scope: scope(ANN).reference(), tenant: scope(ANN).tenant, user: user("ann") };
    let watcher = database.role(DatabaseRole::Watcher);
    assert!(early(glances(&watcher, std::slice::from_ref(&glance)).await));
    let asked = AccessQuery { scope: scope(LATE), user: user("ann"), org_role: OrgRole::Member };
    let ingest: Pool = database.role(DatabaseRole::Ingest);
    assert!(early(accounts(&ingest, std::slice::from_ref(&asked)).await));
}

fn partitions(numbers: &[u32]) -> Vec<Partition> {
    numbers.iter().copied().map(Partition::new).collect()
}

#[tokio::test]
async fn it_answers_once_it_is_filled_and_keeps_what_the_log_had_by_then() {
    let database = Database::migrated().await;
    let log = LogId(Uuid::new_v4());
    let mut writer = Writer::beside(&database, log, [2, 0]).await;
    for number in 0..2_u64 {
        assert_unanswered(&database).await;
        assert_eq!(writer.projection.finish_filling().await.unwrap(), partitions(&[0]));
        writer.write(&push(ANN, "ann", &[say(&format!("x {number}"))])).await;
    }
    assert_unanswered(&database).await;
    assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
    let first = Epoch::of_log(log);
    let present = epoch(&database).await;
    assert_ne!(present, first);
    // What comes now, to this scope or to new ones, is of the new epoch alone.
    writer.write(&push(ANN, "ann", &[say("y")])).await;
    writer.write(&create(LATE, "ann")).await;
    writer.write(&push(LATE, "ann", &[say("z")])).await;
    assert_eq!(base(&database, ANN, first).await, Some(Cursor::from_i64(2)));
    assert_eq!(base(&database, LATE, first).await, Some(Cursor::ZERO));
    assert_eq!(base(&database, ANN, present).await, None);
    assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
    assert_eq!(epoch(&database).await, present, "it is filled once");
    assert_eq!(writer.projection.filled_until().await.unwrap(), None);
}

#[tokio::test]
async fn epochs_outlive_what_is_dropped() {
    let database = Database::migrated().await;
    let log = LogId(Uuid::new_v4());
    let first = Epoch::of_log(log);
    let mut epochs = vec![first];
    // The last time, all of the log is gone.
    for (round, records) in [1, 2, 3, 0].into_iter().enumerate() {
        let mut writer = Writer::beside(&database, log, [records, 0]).await;
        for number in 0..records {
            writer.write(&push(ANN, "ann", &[say(&format!("x {number}"))])).await;
        }
        assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
        let present = epoch(&database).await;
        assert!(!epochs.contains(&present), "{round}");
        for (at, of) in epochs.iter().enumerate() {
            // What came after an epoch began is not kept of the one before, whatever is there now.
            let least = [1, 2, 3, 0][at..=round].iter().min().copied();
            assert_eq!(base(&database, ANN, *of).await, least.map(Cursor::from_i64), "{round}");
        }
        epochs.push(present);
        let owner = database.owner_pool();
        sqlx::query("drop schema context_sync cascade").execute(&owner).await.unwrap();
        readmodel::migrate(&database.config).await.unwrap();
    }
    // Those of a log are nothing to another one.
    let other = LogId(Uuid::new_v4());
    Writer::beside(&database, other, [0, 0]).await;
    assert_eq!(epoch(&database).await, Epoch::of_log(other));
    assert_eq!(base(&database, ANN, first).await, Some(Cursor::ZERO));
}

/// What a mended fold comes to may give a cursor to something else: devices begin anew, and repair what differs.
#[tokio::test]
async fn a_fill_by_another_revision_of_the_fold_keeps_no_cursor() {
    let database = Database::migrated().await;
    let owner = database.owner_pool();
    let log = LogId(Uuid::new_v4());
    let mut epochs = vec![Epoch::of_log(log)];
    Writer::beside(&database, log, [0, 0]).await;
    for other_revision in [true, false] {
        if other_revision {
            sqlx::query("update context_sync_settings.epochs set fold_revision = 99")
                .execute(&owner)
                .await
                .unwrap();
        }
        sqlx::query("drop schema context_sync cascade").execute(&owner).await.unwrap();
        readmodel::migrate(&database.config).await.unwrap();
        let mut writer = Writer::beside(&database, log, [1, 0]).await;
        writer.write(&push(ANN, "ann", &[say("x")])).await;
        assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
        epochs.push(epoch(&database).await);
    }
    assert_eq!(base(&database, ANN, epochs[0]).await, Some(Cursor::ZERO));
    // It was filled by this revision, and so was the next one.
    assert_eq!(base(&database, ANN, epochs[1]).await, Some(Cursor::from_i64(1)));
}

/// A read model that was begun before its log was recovered is dropped: what is filled then knows the epochs of the lost log,
/// and trusts no cursor that was given out meanwhile.
#[tokio::test]
async fn epochs_that_know_nothing_of_a_recovery_are_replaced() {
    for records in [0, 1] {
        let database = Database::migrated().await;
        let (lost, log) = (LogId(Uuid::new_v4()), LogId(Uuid::new_v4()));
        let mut writer = Writer::beside(&database, log, [0, 0]).await;
        assert!(!writer.projection.goes_on_from(lost).await.unwrap());
        drop(writer);
        let owner = database.owner_pool();
        sqlx::query("drop schema context_sync cascade").execute(&owner).await.unwrap();
        readmodel::migrate(&database.config).await.unwrap();
        let mut adoption = adopt(&database).await.unwrap();
        for partition in partitions(&[0, 1]) {
            adoption.place(partition, PartitionClock::START).await.unwrap();
        }
        let past = [(lost, None), (log, Some(3))].map(|(log, base)| PastEpoch {
            log,
            new: NewEpoch {
                epoch: Epoch::of_log(log),
                bases: base.map(recovered).into_iter().collect(),
                keeps_unlisted: false,
                fold_revision: FoldRevision::FIRST,
            },
        });
        adoption.finish(log, &ends([records, 0]), &past).await.unwrap();
        let mut writer = Writer::beside(&database, log, [records, 0]).await;
        if records > 0 {
            writer.write(&push(ANN, "ann", &[say("x")])).await;
            assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
        }
        let of_lost = base(&database, ANN, Epoch::of_log(lost)).await;
        let of_log = base(&database, ANN, Epoch::of_log(log)).await;
        let expected = match records {
            0 => (Some(Cursor::from_i64(3)), None),
            _ => (Some(Cursor::ZERO), Some(Cursor::ZERO)),
        };
        assert_eq!((of_lost, of_log), expected);
        assert!(writer.projection.goes_on_from(lost).await.unwrap());
    }
}

fn recovered(base: i64) -> (ScopeRef, Cursor) {
    (scope(ANN).reference(), Cursor::from_i64(base))
}

/// Whoever folds on with another revision makes rows mixed: nothing that fills them again can know what they said.
#[tokio::test]
async fn rows_that_several_revisions_folded_keep_no_cursor() {
    let database = Database::migrated().await;
    let owner = database.owner_pool();
    let log = LogId(Uuid::new_v4());
    let revision = async || -> i32 {
        let last =
            "select fold_revision from context_sync_settings.epochs order by number desc limit 1";
        sqlx::query_scalar(last).fetch_one(&owner).await.unwrap()
    };
    let execute = async |sql: &'static str| {
        sqlx::raw_sql(sql).execute(&owner).await.unwrap();
    };
    let lose = async || {
        execute("drop schema context_sync cascade").await;
        readmodel::migrate(&database.config).await.unwrap();
    };
    let mut writer = Writer::beside(&database, log, [0, 0]).await;
    assert_eq!(revision().await, FoldRevision::CURRENT.0 as i32);
    // Another build has begun them: this one's next session goes on.
    execute("update context_sync_settings.epochs set fold_revision = 99").await;
    writer.projection.adopt_log(log, PARTITIONS, &[]).await.unwrap();
    assert_eq!(revision().await, FoldRevision::MIXED.0 as i32);

    // What is forgotten up to the floor stays so: devices are to bring back none of it.
    lose().await;
    let mut writer = Writer::beside(&database, log, [1, 0]).await;
    writer.write(&push(ANN, "ann", &[say("x")])).await;
    execute("update scopes set floor = 1, head = 3").await;
    // Of this fill another build has folded a part.
    execute("update context_sync.filling set fold_revision = 99").await;
    writer.projection.adopt_log(log, PARTITIONS, &[]).await.unwrap();
    assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
    let filled = epoch(&database).await;
    assert_eq!(base(&database, ANN, Epoch::of_log(log)).await, Some(Cursor::from_i64(1)));
    assert_eq!(revision().await, FoldRevision::MIXED.0 as i32);

    lose().await;
    let mut writer = Writer::beside(&database, log, [1, 0]).await;
    writer.write(&push(ANN, "ann", &[say("x")])).await;
    assert_eq!(writer.projection.finish_filling().await.unwrap(), []);
    assert_eq!(base(&database, ANN, filled).await, Some(Cursor::ZERO));
    assert_eq!(revision().await, FoldRevision::CURRENT.0 as i32);
}

#[tokio::test]
async fn of_those_that_begin_at_once_one_says_where_the_log_ended() {
    let database = Database::migrated().await;
    let log = LogId(Uuid::new_v4());
    let begin = async |end: u64| {
        let mut projection = Projection::connect(&database.config).await.unwrap();
        projection.begin(log, &ends([end, 0])).await.unwrap();
        assert!(projection.is_begun().await.unwrap());
        projection
    };
    let mut begun = join_all((1..=6).map(begin)).await;
    let until = begun[0].filled_until().await.unwrap().unwrap();
    assert_eq!(until.len(), PARTITIONS as usize);
    assert!((1..=6).any(|end| until == ends([end, 0])), "{until:?}");
    // Another log is refused, as ever.
    let other = begun[1].adopt_log(LogId(Uuid::new_v4()), PARTITIONS, &[]).await;
    assert!(matches!(other, Err(ReadModelError::OtherLog { .. })), "{other:?}");
    let other = begun[1].adopt_log(log, PARTITIONS + 1, &[]).await;
    assert!(matches!(other, Err(ReadModelError::OtherPartitionCount { .. })), "{other:?}");
}

async fn adopt(database: &Database) -> Option<Adoption> {
    Adoption::begin(&database.config, ProjectionSet::Live).await.unwrap()
}

/// Waits until so many wait for a lock of this name.
async fn wait_for_waiting(pool: &Pool, lock: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let query = "select exists (select from pg_locks where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())
        and objid = (hashtext($1)::bigint & 4294967295)::oid)";
    while !sqlx::query_scalar::<_, bool>(query).bind(lock).fetch_one(pool).await.unwrap() {
        assert!(tokio::time::Instant::now() < deadline, "nobody waits for {lock}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The first one finds that it has nothing to adopt, and begins: the other one has waited for it.
#[tokio::test]
async fn an_adoption_deletes_nothing_that_another_projector_begins_with() {
    let database = Database::migrated().await;
    let owner = database.owner_pool();
    let log = LogId(Uuid::new_v4());
    let first = adopt(&database).await.unwrap();
    let mut beginning = owner.begin().await.unwrap();
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtext('context_sync begin'))")
        .execute(&mut *beginning)
        .await
        .unwrap();
    let second = adopt(&database);
    let meanwhile = async {
        wait_for_waiting(&owner, "context_sync adoption").await;
        drop(first);
        wait_for_waiting(&owner, "context_sync begin").await;
        sqlx::query(
            "insert into context_sync.filling (partition, log_id, until_offset) values (0, $1, 1)",
        )
        .bind(log.0)
        .execute(&mut *beginning)
        .await
        .unwrap();
        sqlx::raw_sql(
            "insert into context_sync.positions (partition, next_offset, time_us, rules) values (0, 0, 0, 1)",
        )
        .execute(&mut *beginning)
        .await
        .unwrap();
        beginning.commit().await.unwrap();
    };
    let (second, ()) = futures_util::future::join(second, meanwhile).await;
    assert!(second.is_none());
    let mut projection = Projection::connect(&database.config).await.unwrap();
    assert_eq!(projection.positions().await.unwrap().len(), 1, "it is still there");
}

/// Whoever adopts learns that somebody was faster, and begins again with what there is.
#[tokio::test]
async fn an_adoption_does_not_end_in_what_another_projector_has_begun() {
    let database = Database::migrated().await;
    let log = LogId(Uuid::new_v4());
    let mut adoption = adopt(&database).await.unwrap();
    Writer::beside(&database, log, [0, 0]).await;
    let clock = PartitionClock::START;
    let placed = adoption.place(Partition::new(0), clock).await.unwrap_err();
    let ended = adoption.finish(log, &ends([0, 0]), &[]).await.unwrap_err();
    for error in [placed, ended] {
        assert!(matches!(error, ReadModelError::BegunElsewhere), "{error:?}");
        assert!(error.is_retryable());
    }
    assert!(adopt(&database).await.is_none());
}
