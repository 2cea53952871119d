//! Where the log does not reach back any more, the rows are rebuilt from the archive and then the log.

use std::sync::Arc;

use archive::replay::Replay;
use eventlog::EventLog;
use model::LogFold;
use projector::{RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use readmodel::feed::Feed;
use tokio::sync::mpsc;

use crate::{
    database::Database,
    equation,
    gaps::{Setting, batches},
    recovering::{archive_all, partitions},
};

async fn rebuild(
    setting: &Setting,
    log: Arc<dyn EventLog>,
    request: RebuildRequest,
) -> Result<Rebuilt, String> {
    let (config, database) = (batches(), setting.database.config.clone());
    let rebuilder = Rebuilder { config, database, log, archive: None, feed: Feed::new(true) };
    let (say, mut said) = mpsc::channel(64);
    let running = tokio::spawn(rebuilder.run(request, say, Default::default()));
    let mut last = None;
    while let Some(line) = said.recv().await {
        last = Some(line);
    }
    running.await.unwrap();
    match last {
        Some(Rebuilding::Done(rebuilt)) => Ok(rebuilt),
        Some(Rebuilding::Failed(reason)) => Err(reason),
        other => panic!("{other:?}"),
    }
}

fn fold(setting: &Setting) -> LogFold {
    let mut fold = LogFold::default();
    for record in setting.bench.log.all() {
        let event = schemas::decode(&record.value).ok();
        fold.apply(record.place(), record.append_time, &record.key, event.as_ref()).unwrap();
    }
    fold
}

#[tokio::test]
async fn what_retention_removed_comes_from_the_archive() {
    let mut setting = Setting::new().await;
    setting.push("2025-12-30T10:00:00Z", 30);
    setting.push("2025-12-30T12:00:00Z", 30);
    setting.push("2025-12-31T04:00:00Z", 30);
    archive_all(&setting.bench, "cache").await;
    setting.project().await;
    let log: Arc<dyn EventLog> = setting.bench.log.clone();
    for partition in partitions(&setting.bench) {
        // Somewhere in an hour that is sealed.
        let sealed = setting.bench.sealed_until(partition).await;
        setting.bench.log.cut(partition, sealed - 20);
    }
    let reason = rebuild(&setting, log.clone(), RebuildRequest::default()).await.unwrap_err();
    assert!(reason.contains("--archive"), "{reason}");
    let replay = || Replay::over(log.clone(), setting.bench.archive.clone());
    for dry_run in [true, false] {
        let request = RebuildRequest { dry_run, ..RebuildRequest::default() };
        let rebuilt = rebuild(&setting, replay(), request).await.unwrap();
        assert_eq!((rebuilt.scopes, rebuilt.differing, rebuilt.swapped), (4, 0, !dry_run));
    }
    equation::compare(&fold(&setting), &setting.database.owner_pool()).await;
    // A database that is lost is filled again in the same way.
    setting.database = Database::migrated().await;
    setting.project_with(replay()).await;
    setting.push("2025-12-31T05:00:00Z", 3);
    setting.project_with(replay()).await;
    equation::compare(&fold(&setting), &setting.database.owner_pool()).await;
}
