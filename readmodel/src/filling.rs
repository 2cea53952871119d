//! An empty read model beside a log that has records was lost, and is filled again. The log may have lost its end with it:
//! nobody is left to tell. So what it has by then keeps its cursors, if the same fold gives them out, and those given out
//! later are of another epoch (docs/decisions/0020-a-lost-read-model.md).

use std::collections::BTreeMap;

use model::{Epoch, FoldRevision, LogId, Offset, Partition};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    adoption::PastEpoch,
    connect::ProjectionSet,
    epochs::{self, NewEpoch},
    error::ReadModelError,
};

/// The offset after the last record, by partition.
pub type Ends = BTreeMap<Partition, Offset>;

/// Whether a set of tables is of a log already, or is being filled from one.
pub(crate) const IS_BEGUN: &str =
    "select exists (select from source) or exists (select from context_sync.filling)";

/// One of those that find the tables of no log yet says which they are of.
pub(crate) const LOCK: &str = "select pg_advisory_xact_lock(hashtext('context_sync begin'))";

/// Makes the tables the log's, if they are of none: at once if the log is a new one, else as soon as what it has is folded.
/// `past`: the epochs that were in force before, the oldest first; none where the log's first one is the only one. What
/// stands in the database is believed before that, if it knows their logs: the archive has it from there. Whether it did:
/// else they are of one.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    set: ProjectionSet,
    log: LogId,
    ends: &Ends,
    past: &[PastEpoch],
) -> Result<bool, ReadModelError> {
    sqlx::raw_sql(LOCK).execute(&mut *connection).await?;
    if sqlx::query_scalar(IS_BEGUN).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let (epoch, partitions) = (Epoch::of_log(log), ends.len() as i32);
    match set {
        ProjectionSet::Live => {}
        // Nobody asks it, and the epochs are the live one's.
        ProjectionSet::Rebuilt | ProjectionSet::RebuiltScope => {
            be_of(connection, log, partitions, epoch).await?;
            return Ok(true);
        }
    }
    let before: Vec<LogId> = past.iter().map(|past| past.log).collect();
    let was_begun = is_known(connection, log).await?;
    // Without the logs before it, that was a beginning which knew nothing of a recovery: its cursors are not these.
    let knew_all = has_epochs(connection, &before).await?;
    if !(was_begun && knew_all) {
        let first = NewEpoch {
            epoch,
            bases: Vec::new(),
            keeps_unlisted: false,
            // Of a log with records: nobody is left to say which.
            fold_revision: FoldRevision::FIRST,
        };
        let first = [PastEpoch { log, new: first }];
        let past = if past.is_empty() { &first } else { past };
        put(connection, past).await?;
        // Nobody has a cursor of it but those that are kept.
        if ends.values().all(|end| *end == Offset::ZERO) {
            let present = past.last().map_or(epoch, |last| last.new.epoch);
            epochs::set_fold_revision(connection, FoldRevision::CURRENT).await?;
            be_of(connection, log, partitions, present).await?;
            return Ok(true);
        }
        if was_begun {
            epochs::set_fold_revision(connection, FoldRevision::MIXED).await?;
        }
    }
    tracing::info!(%log, "the read model was lost: it is filled from the log, and an epoch begins");
    sqlx::query(
        "insert into context_sync.filling (partition, log_id, until_offset, fold_revision)
         select partition, $2, until_offset, $4 from unnest($1::integer[], $3::bigint[]) as w (partition, until_offset)",
    )
    .bind(ends.keys().map(|partition| partition.get() as i32).collect::<Vec<_>>())
    .bind(log.0)
    .bind(ends.values().map(|end| end.as_i64()).collect::<Vec<_>>())
    .bind(FoldRevision::CURRENT.0 as i32)
    .execute(connection)
    .await?;
    Ok(true)
}

/// Whether a read model of this log was lost, and not what stands beside it: the epochs that were in force.
async fn is_known(connection: &mut PgConnection, log: LogId) -> Result<bool, ReadModelError> {
    let last: Option<Uuid> = sqlx::query_scalar(
        "select log_id from context_sync_settings.epochs order by number desc limit 1",
    )
    .fetch_optional(connection)
    .await?;
    Ok(last == Some(log.0))
}

/// Whether epochs of all these logs are known.
pub(crate) async fn has_epochs(
    connection: &mut PgConnection,
    logs: &[LogId],
) -> Result<bool, ReadModelError> {
    let has = "select not exists (select from unnest($1::uuid[]) as wanted
        where wanted not in (select log_id from context_sync_settings.epochs))";
    let logs: Vec<Uuid> = logs.iter().map(|log| log.0).collect();
    Ok(sqlx::query_scalar(has).bind(logs).fetch_one(connection).await?)
}

/// Puts epochs in the place of what there is of another log.
async fn put(connection: &mut PgConnection, past: &[PastEpoch]) -> Result<(), ReadModelError> {
    sqlx::raw_sql("delete from context_sync_settings.epochs").execute(&mut *connection).await?;
    for (number, PastEpoch { log, new }) in (1_i32..).zip(past) {
        epochs::insert(connection, number, *log, new).await?;
    }
    Ok(())
}

/// From now on whoever asks is answered.
async fn be_of(
    connection: &mut PgConnection,
    log: LogId,
    partitions: i32,
    epoch: Epoch,
) -> Result<(), ReadModelError> {
    sqlx::query("insert into source (log_id, partitions, epoch) values ($1, $2, $3)")
        .bind(log.0)
        .bind(partitions)
        .bind(epoch.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// The log that the live tables are being filled from, and up to where; `None` if they are not.
pub(crate) async fn until(
    connection: &mut PgConnection,
) -> Result<Option<(LogId, Ends)>, ReadModelError> {
    let rows: Vec<(i32, Uuid, i64)> = sqlx::query_as(
        "select partition, log_id, until_offset from context_sync.filling order by partition",
    )
    .fetch_all(connection)
    .await?;
    let Some((_, log, _)) = rows.first() else { return Ok(None) };
    let end = |(partition, _, end): &(i32, Uuid, i64)| {
        let end = Offset::from_i64(*end).unwrap_or(Offset::ZERO);
        (Partition::new(partition.unsigned_abs()), end)
    };
    Ok(Some((LogId(*log), rows.iter().map(end).collect())))
}

/// Begins the epoch if all is folded up to where it keeps cursors; the partitions that are not there yet. None is beyond.
pub(crate) async fn finish(
    connection: &mut PgConnection,
) -> Result<Vec<Partition>, ReadModelError> {
    // Whoever else folded the last of it waits here, and finds that it is done.
    // What devices are told of this epoch must outlive a crash of the database.
    sqlx::raw_sql(
        "set local statement_timeout = 0; set local synchronous_commit = on;
         lock table context_sync.filling in exclusive mode",
    )
    .execute(&mut *connection)
    .await?;
    let Some((log, ends)) = until(connection).await? else { return Ok(Vec::new()) };
    let behind: Vec<i32> = sqlx::query_scalar(
        "select f.partition from context_sync.filling f left join positions p on p.partition = f.partition
         where coalesce(p.next_offset, 0) < f.until_offset order by 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    if !behind.is_empty() {
        return Ok(behind.into_iter().map(|p| Partition::new(p.unsigned_abs())).collect());
    }
    let filled_by = filled_by(connection).await?;
    let is_alike = filled_by != FoldRevision::MIXED
        && epochs::fold_revision(connection).await? == Some(filled_by);
    let epoch = Epoch(Uuid::new_v4());
    let number = epochs::next_number(connection).await?;
    // What was never there has no cursor that could be kept.
    let new =
        NewEpoch { epoch, bases: Vec::new(), keeps_unlisted: false, fold_revision: filled_by };
    epochs::insert(connection, number, log, &new).await?;
    keep(connection, number, is_alike).await?;
    sqlx::raw_sql("delete from context_sync.filling").execute(&mut *connection).await?;
    be_of(connection, log, ends.len() as i32, epoch).await?;
    tracing::info!(%log, %epoch, is_alike, "the read model is filled, and an epoch began");
    Ok(Vec::new())
}

/// By which revision of the fold the read model is being filled.
async fn filled_by(connection: &mut PgConnection) -> Result<FoldRevision, ReadModelError> {
    let query = "select case when min(fold_revision) = max(fold_revision) then min(fold_revision) else 0 end
                 from context_sync.filling";
    let revision: Option<i32> = sqlx::query_scalar(query).fetch_one(connection).await?;
    Ok(revision.map_or(FoldRevision::MIXED, |revision| FoldRevision(revision.unsigned_abs())))
}

/// Whoever fills with another revision than the one before makes the rows mixed.
pub(crate) async fn mix_fold_revision(
    connection: &mut PgConnection,
    own: FoldRevision,
) -> Result<(), ReadModelError> {
    sqlx::query("update context_sync.filling set fold_revision = $2 where fold_revision <> $1")
        .bind(own.0 as i32)
        .bind(FoldRevision::MIXED.0 as i32)
        .execute(connection)
        .await?;
    Ok(())
}

/// Cursors of the epoch before stay good as far as the log comes to, if the rows were folded alike. What another revision
/// folded may have given them to something else; but what was forgotten up to the floor stays so, for whoever had it.
async fn keep(
    connection: &mut PgConnection,
    number: i32,
    is_alike: bool,
) -> Result<(), ReadModelError> {
    sqlx::query(
        "insert into context_sync_settings.bases (number, scope, base)
         select $1, scope, kept from (
             select scope, case when $2 then head else floor end as kept from scopes
         ) as s where kept > 0",
    )
    .bind(number)
    .bind(is_alike)
    .execute(connection)
    .await?;
    Ok(())
}
