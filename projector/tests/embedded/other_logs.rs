//! A log that is not the one the rows were folded from is refused, and nothing is written.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use eventlog::{AppendFuture, Bounds, EventLog, LogError, LogReader, Record};
use futures_util::{FutureExt, future::BoxFuture};
use model::{Event, LogId, Offset, Partition, Place, RulesVersion, UnknownRules};
use projector::ProjectorError;
use readmodel::ReadModelError;
use uuid::Uuid;

use crate::{
    bench::{Bench, open, start},
    commands::{push, say},
};

const ANN: &str = "acme/user/ann";

/// A bench that has folded one push of Ann's.
async fn folded() -> Bench {
    let bench = Bench::new().await;
    bench.append(&push(ANN, "ann", &[say("x")])).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    bench
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn another_log() {
    let bench = folded().await;
    let dir = tempfile::tempdir().unwrap();
    let other = open(dir.path()).await;
    match start(&bench.database, &other).error().await {
        ProjectorError::ReadModel(ReadModelError::OtherLog { stored, found }) => {
            assert_eq!((stored, found), (bench.log.log_id(), other.log_id()));
        }
        error => panic!("{error}"),
    }
    bench.check().await;
}

/// Two logs of one identity, copied when they were empty, that took different records since.
#[tokio::test]
async fn the_same_log_with_another_record() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(dir.path()).await.close().await.unwrap();
    copy(dir.path(), other_dir.path());
    let bench = Bench::on(dir).await;
    let place = bench.append(&push(ANN, "ann", &[say("x")])).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;

    let other = open(other_dir.path()).await;
    assert_eq!(other.log_id(), bench.log.log_id());
    let error = start(&bench.database, &other).error().await;
    assert!(
        matches!(error, ProjectorError::Truncated { partition, .. } if partition == place.partition),
        "{error}"
    );
    let value = schemas::encode_command(&push(ANN, "ann", &[say("y")])).unwrap();
    other.append(ANN.into(), value.into()).await.unwrap();
    let error = start(&bench.database, &other).error().await;
    assert!(matches!(error, ProjectorError::OtherRecord(at) if at == place), "{error}");
    bench.check().await;
}

/// The archive has its own copy of what the log does not have any more: what was erased since is without content there.
#[tokio::test]
async fn a_record_that_was_blanked_since_is_no_other() {
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(dir.path()).await.close().await.unwrap();
    copy(dir.path(), copied.path());
    let bench = Bench::on(dir).await;
    let pushed = push(ANN, "ann", &[say("x")]);
    let place = bench.append(&pushed).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;

    let log = open(copied.path()).await;
    let value = schemas::encode_command(&pushed.blanked()).unwrap();
    assert_eq!(log.append(ANN.into(), value.into()).await.unwrap().place, place);
    // The log's own record was never blanked.
    let error = start(&bench.database, &log).error().await;
    assert!(matches!(error, ProjectorError::OtherRecord(at) if at == place), "{error}");
    let copies: Arc<dyn EventLog> = Arc::new(Copies(log));
    start(&bench.database, &copies).ready_then_stop().await;
}

/// A log whose records are read from copies.
struct Copies(Arc<dyn EventLog>);

impl EventLog for Copies {
    fn log_id(&self) -> LogId {
        self.0.log_id()
    }

    fn partitions(&self) -> u32 {
        self.0.partitions()
    }

    fn is_exclusive(&self) -> bool {
        self.0.is_exclusive()
    }

    fn append_to(&self, partition: Partition, key: Bytes, value: Bytes) -> AppendFuture {
        self.0.append_to(partition, key, value)
    }

    fn bounds(&self, partition: Partition) -> BoxFuture<'_, Result<Bounds, LogError>> {
        self.0.bounds(partition)
    }

    fn own_start(&self, partition: Partition) -> BoxFuture<'_, Result<Offset, LogError>> {
        async move { Ok(self.0.bounds(partition).await?.end) }.boxed()
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        self.0.reader(from)
    }

    fn read_one(&self, place: Place) -> BoxFuture<'_, Result<Option<Record>, LogError>> {
        self.0.read_one(place)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.0.close()
    }
}

/// Somebody started a projector on the new log before the recovery into it was done.
#[tokio::test]
async fn rows_that_were_begun_before_their_log_was_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::on(dir).await;
    bench.start().ready_then_stop().await;
    let lost = LogId(Uuid::new_v4());
    bench.log.recover_from(lost).await.unwrap();
    bench.log.close().await.unwrap();
    let copied = tempfile::tempdir().unwrap();
    copy(bench.dir(), copied.path());
    let log = open(copied.path()).await;
    assert_eq!((log.log_id(), log.recovered_from()), (bench.log.log_id(), Some(lost)));
    let error = start(&bench.database, &log).error().await;
    assert!(
        matches!(error, ProjectorError::BegunWithoutBase { lost: from, .. } if from == lost),
        "{error}"
    );
    // Another log's rows are not to be dropped for it.
    let other = folded().await;
    let error = start(&other.database, &log).error().await;
    let other_log = |error: &_| matches!(error, ReadModelError::OtherLog { .. });
    assert!(matches!(&error, ProjectorError::ReadModel(inner) if other_log(inner)), "{error}");
}

#[tokio::test]
async fn rules_that_this_build_does_not_know_stop_it_there() {
    let bench = Bench::new().await;
    let place = bench.append(&push(ANN, "ann", &[say("before")])).await;
    let unknown = Event::RulesChanged { version: RulesVersion(99) };
    let change = bench.append_event(place.partition, &unknown).await;
    bench.append(&push(ANN, "ann", &[say("after")])).await;
    for _ in 0..2 {
        let error = bench.start().error().await;
        assert!(
            matches!(error, ProjectorError::UnknownRules(UnknownRules(RulesVersion(99)))),
            "{error}"
        );
        assert!(error.to_string().contains("upgrade"), "{error}");
        assert_eq!(bench.head(ANN).await, Some(1));
        let next: i64 =
            sqlx::query_scalar("select next_offset from positions where partition = $1")
                .bind(place.partition.get() as i32)
                .fetch_one(&bench.pool)
                .await
                .unwrap();
        assert_eq!(next, change.offset.as_i64());
    }
    assert_eq!(bench.dead_letters().await, []);
}

#[tokio::test]
async fn rules_that_it_knows_fold_on() {
    let bench = Bench::new().await;
    for partition in 0..4 {
        let event = Event::RulesChanged { version: RulesVersion::CURRENT };
        bench.append_event(Partition::new(partition), &event).await;
    }
    bench.append(&push(ANN, "ann", &[say("x")])).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
}

#[tokio::test]
async fn a_partition_that_the_log_does_not_have() {
    let bench = Bench::new().await;
    let running = bench.start();
    running.ready().await;
    running.stop().await;
    let readiness = service::ops::Readiness::new();
    let projector = projector::Projector {
        config: projector::ProjectorConfig {
            batch_records_max: 1,
            batch_changes_max: 5_000,
            batch_bytes_max: 1,
            projector_workers: 2,
            history_days: 90,
            partitions: vec![Partition::new(4)],
        },
        database: bench.database.config.clone(),
        log: bench.log.clone(),
        facts: None,
        archive: None,
        feed: readmodel::feed::Feed::new(true),
        ready: readiness.component("projector"),
    };
    let error = projector.run(Default::default()).await.unwrap_err();
    assert!(matches!(error, ProjectorError::NoSuchPartition(p) if p.get() == 4), "{error}");
}
