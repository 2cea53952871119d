//! How the read model stands, for operators: of all tenants, and no content (the projector's role).

use model::{Epoch, FoldRevision, LogId, Offset, Partition, RestoreId, Timestamp};
use uuid::Uuid;

use crate::{error::ReadModelError, outcomes::positions, pool::Pool};

/// How it stands.
#[derive(Clone, Debug)]
pub struct ReadModelStanding {
    /// The log that it is of; `None` before a projector said so, and while it is filled.
    pub source: Option<(LogId, Epoch)>,
    /// By which revision of the fold its rows were folded; `None` as `source`.
    pub fold_revision: Option<FoldRevision>,
    /// The offset to fold next, of each partition.
    pub positions: Vec<(Partition, Offset)>,
    /// The archiver's fact to fold next.
    pub catalogue: Option<Offset>,
    /// When the last drill was, and whether all agreed.
    pub drill: Option<(Timestamp, bool)>,
    /// Where none was: what the first backup shows.
    pub undrilled_since: Option<Timestamp>,
    pub restores: Vec<RunningRow>,
    /// Of its tables and their indexes.
    pub bytes: u64,
}

/// A restore that runs.
#[derive(Clone, Debug)]
pub struct RunningRow {
    pub id: RestoreId,
    /// `tenant/kind/name`.
    pub scope: String,
    pub mode: String,
    pub restored: u64,
    pub skipped: u64,
    pub deleted: u64,
}

/// How many backups the catalogue has that can be restored.
pub async fn backups(pool: &Pool) -> Result<u64, ReadModelError> {
    let completed = "select count(*) from context_backups where status = 'completed'";
    let count: i64 = sqlx::query_scalar(completed).fetch_one(pool).await?;
    Ok(count.unsigned_abs())
}

pub async fn standing(pool: &Pool) -> Result<ReadModelStanding, ReadModelError> {
    let source: Option<(Uuid, Uuid, i32)> = sqlx::query_as(
        "select s.log_id, s.epoch, e.fold_revision
         from source s join context_sync_settings.epochs e on e.epoch = s.epoch",
    )
    .fetch_optional(pool)
    .await?;
    let catalogue: Option<i64> = sqlx::query_scalar("select next_offset from catalogue_position")
        .fetch_optional(pool)
        .await?;
    let restores = sqlx::query_as::<_, (Uuid, String, String, i64, i64, i64)>(
        "select r.id, concat_ws('/', s.tenant_id, s.kind, s.name), r.mode, r.restored, r.skipped, r.deleted
         from restores r join scopes s on s.scope = r.scope
         where r.status = 'running' order by 2, r.id",
    )
    .fetch_all(pool)
    .await?;
    let bytes: i64 = sqlx::query_scalar(
        "select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint from pg_class
         where relnamespace = 'context_sync'::regnamespace and relkind in ('r', 'm')",
    )
    .fetch_one(pool)
    .await?;
    let drill = crate::drill::newest(pool).await?;
    let undrilled_since: Option<i64> = match drill {
        Some(_) => None,
        None => sqlx::query_scalar(
            "select (extract(epoch from min(created_at)) * 1000000)::bigint from context_backups
                 where status = 'completed'",
        )
        .fetch_one(pool)
        .await?,
    };
    let running =
        |(id, scope, mode, restored, skipped, deleted): (Uuid, String, String, i64, i64, i64)| {
            RunningRow {
                id: RestoreId(id),
                scope,
                mode,
                restored: restored.unsigned_abs(),
                skipped: skipped.unsigned_abs(),
                deleted: deleted.unsigned_abs(),
            }
        };
    Ok(ReadModelStanding {
        source: source.map(|(log, epoch, _)| (LogId(log), Epoch(epoch))),
        fold_revision: source.map(|(_, _, revision)| FoldRevision(revision.unsigned_abs())),
        positions: positions(pool).await?,
        catalogue: catalogue.and_then(Offset::from_i64),
        drill,
        undrilled_since: undrilled_since.map(Timestamp::from_micros),
        restores: restores.into_iter().map(running).collect(),
        bytes: bytes.unsigned_abs(),
    })
}
