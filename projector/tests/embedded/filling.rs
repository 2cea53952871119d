//! A read model that was lost is filled from its log, which may have lost its end too.

use archive::{
    Archive, ArchiveAddress, ArchiveConfig,
    base::{self, StoredEpoch},
};
use eventlog::partition_of;
use model::{Cursor, Epoch, Event, FoldRevision, LogId, Partition, RulesVersion};
use readmodel::{DatabaseRole, ReadModelError, epochs::kept, pull};
use uuid::Uuid;

use crate::{
    bench::{Bench, open, start},
    commands::{create, push, say, scope},
    database::Database,
    equation::{self, eventually},
    other_logs::copy,
};

const ANN: &str = "acme/user/ann";
const BOB: &str = "acme/user/bob";
const TEAM: &str = "acme/team/t";

fn first(log: LogId) -> Epoch {
    Epoch::of_log(log)
}

async fn epoch(database: &Database) -> Option<Epoch> {
    match pull::epoch(&database.role(DatabaseRole::Api)).await {
        Ok(epoch) => Some(epoch),
        Err(ReadModelError::NotMigrated) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Up to which cursor a scope kept those of an epoch; `None`: it is the present one.
async fn base_of(database: &Database, key: &str, of: Epoch) -> Option<u64> {
    let (api, present) = (database.role(DatabaseRole::Api), epoch(database).await.unwrap());
    let kept = kept(&api, scope(key).reference(), Some(of), present).await.unwrap();
    kept.base().map(Cursor::get)
}

async fn say_all(bench: &Bench, key: &str, contents: &[&str]) {
    for content in contents {
        bench.append(&push(key, "ann", &[say(content)])).await;
    }
}

/// The disk of the log is put back to what it was, and the database is gone: what devices had seen beyond that is given
/// out again, in another epoch.
#[tokio::test]
async fn a_log_that_was_cut_gives_no_cursor_twice_in_an_epoch() {
    let bench = Bench::new().await;
    let running = bench.start();
    running.ready().await;
    say_all(&bench, ANN, &["one", "two"]).await;
    bench.check().await;
    let cut = tempfile::tempdir().unwrap();
    copy(bench.dir(), cut.path());
    say_all(&bench, ANN, &["three", "four"]).await;
    bench.check().await;
    running.stop().await;
    let before = first(bench.log.log_id());
    assert_eq!((epoch(&bench.database).await, bench.head(ANN).await), (Some(before), Some(4)));

    let log = open(cut.path()).await;
    assert_eq!(log.log_id(), bench.log.log_id());
    let database = Database::migrated().await;
    let running = start(&database, &log);
    running.ready().await;
    assert_ne!(epoch(&database).await, Some(before));
    for content in ["3", "4", "5"] {
        let value = schemas::encode_command(&push(ANN, "ann", &[say(content)])).unwrap();
        log.append(ANN.into(), value.into()).await.unwrap();
    }
    equation::check(log.as_ref(), &database.owner_pool()).await;
    assert_eq!(base_of(&database, ANN, before).await, Some(2));
    running.stop().await;
}

/// Until all is folded that was there, nobody is told anything; and it is gone on with where it was stopped.
#[tokio::test]
async fn nobody_is_answered_before_every_partition_is_filled() {
    let bench = Bench::new().await;
    let partition = |key: &str| partition_of(key.as_bytes(), 4);
    assert_ne!(partition(ANN), partition(BOB), "they are to be of different ones");
    say_all(&bench, ANN, &["one", "two", "three"]).await;
    bench.append(&push(BOB, "bob", &[say("one")])).await;
    let others: Vec<Partition> =
        (0..4).map(Partition::new).filter(|other| *other != partition(ANN)).collect();
    let one = bench.start_on(&[partition(ANN)]);
    one.waits("another projector's").await;
    assert_eq!((bench.head(ANN).await, epoch(&bench.database).await), (Some(3), None));
    // What comes meanwhile is no part of it.
    say_all(&bench, ANN, &["four"]).await;
    one.stop().await;
    let one = bench.start_on(&[partition(ANN)]);
    one.waits("another projector's").await;
    assert_eq!((bench.head(ANN).await, epoch(&bench.database).await), (Some(3), None));
    let other = bench.start_on(&others);
    one.ready().await;
    other.ready().await;
    bench.check().await;
    let log = bench.log.log_id();
    assert_eq!(base_of(&bench.database, ANN, first(log)).await, Some(3));
    assert_eq!(base_of(&bench.database, BOB, first(log)).await, Some(1));
    one.stop().await;
    other.stop().await;
}

/// All is folded, but nobody is answered from it yet: it is not ready before that.
#[tokio::test]
async fn who_fills_is_not_ready_before_it_answers() {
    let bench = Bench::new().await;
    say_all(&bench, ANN, &["one", "two"]).await;
    bench.append(&push(BOB, "bob", &[say("one")])).await;
    let one = bench.start_on(&[partition_of(ANN.as_bytes(), 4)]);
    one.waits("another projector's").await;
    one.stop().await;
    // What finishing waits for.
    let mut holding = bench.pool.begin().await.unwrap();
    sqlx::query("lock table context_sync.filling in row exclusive mode")
        .execute(&mut *holding)
        .await
        .unwrap();
    let all = bench.start();
    eventually("all is folded, and finishing waits", async || {
        let waits = "select exists (select from pg_locks where not granted
            and relation = 'context_sync.filling'::regclass)";
        let waits: bool = sqlx::query_scalar(waits).fetch_one(&bench.pool).await.unwrap();
        waits.then_some(())
    })
    .await;
    all.waits("being filled").await;
    assert!(!all.readiness.is_ready());
    holding.commit().await.unwrap();
    all.ready().await;
    assert!(epoch(&bench.database).await.is_some());
    all.stop().await;
}

/// A record that this build cannot fold stands before the end: it is not passed over to be done.
#[tokio::test]
async fn what_cannot_be_filled_stays_unanswered() {
    let bench = Bench::new().await;
    let place = bench.append(&push(ANN, "ann", &[say("x")])).await;
    let unknown = Event::RulesChanged { version: RulesVersion(99) };
    bench.append_event(place.partition, &unknown).await;
    bench.start().error().await;
    assert_eq!((bench.head(ANN).await, epoch(&bench.database).await), (Some(1), None));
}

/// The database is lost again and again, and the archive is what remembers: devices of every epoch carry on.
#[tokio::test]
async fn an_epoch_of_a_lost_read_model_outlives_the_next_one() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let address = ArchiveAddress::File(folder.path().to_owned());
    let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
    let log = bench.log.log_id();
    // An archive that is of this log.
    let mut epochs = vec![first(log)];
    bench.append(&create(TEAM, "ann")).await;
    for round in 1..=3_u64 {
        bench.append(&push(ANN, "ann", &[say(&format!("x {round}"))])).await;
        let database = Database::migrated().await;
        let running = bench.start_archiving_on(&database, &archive);
        running.ready().await;
        equation::check(bench.log.as_ref(), &database.owner_pool()).await;
        let present = epoch(&database).await.unwrap();
        assert!(!epochs.contains(&present));
        for (at, of) in epochs.iter().enumerate() {
            // What a device of it may have: what was there when the one after it began.
            assert_eq!(base_of(&database, ANN, *of).await, Some(at as u64 + 1), "round {round}");
            assert_eq!(base_of(&database, BOB, *of).await, Some(0), "it was never there");
        }
        eventually("the archive has it", async || {
            let stored = base::epochs(&archive, log).await.unwrap();
            stored.last().is_some_and(|last| last.epoch == present).then_some(())
        })
        .await;
        epochs.push(present);
        running.stop().await;
    }
}

/// The database is lost whole: by which revision of the fold its rows were, the archive remembers.
#[tokio::test]
async fn what_another_revision_of_the_fold_gave_out_is_not_kept() {
    for (fold_revision, kept) in [(FoldRevision::CURRENT, 2), (FoldRevision(99), 0)] {
        let bench = Bench::new().await;
        let folder = tempfile::tempdir().unwrap();
        let address = ArchiveAddress::File(folder.path().to_owned());
        let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
        let log = bench.log.log_id();
        say_all(&bench, ANN, &["one", "two"]).await;
        let before = Epoch(Uuid::new_v4());
        let bases = Vec::new();
        let stored = StoredEpoch { epoch: before, bases, keeps_unlisted: true, fold_revision };
        stored.keep(&archive, log, 2).await.unwrap();
        let running = bench.start_archiving_on(&bench.database, &archive);
        running.ready().await;
        assert_eq!(base_of(&bench.database, ANN, before).await, Some(kept), "{fold_revision:?}");
        running.stop().await;
    }
}
