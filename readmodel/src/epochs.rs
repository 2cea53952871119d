//! Epochs: which cursors devices may go on from, after the log or the rules gave out others.

use model::{Cursor, Epoch, FoldRevision, LogId, ScopeRef};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{config::DatabaseConfig, connect, error::ReadModelError, pool::Pool};

/// What a scope kept of the epoch that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    base: Option<Cursor>,
}

impl Kept {
    /// Of the present epoch, or of one that was not named.
    pub const ALL: Self = Self { base: None };

    /// Of an epoch of which nothing was kept.
    pub const NOTHING: Self = Self { base: Some(Cursor::ZERO) };

    /// Whether a cursor of that epoch says the same in the present one.
    pub fn keeps(self, cursor: Cursor) -> bool {
        self.base.is_none_or(|base| cursor <= base)
    }

    /// Up to which cursor; `None` where the epoch is the present one.
    pub fn base(self) -> Option<Cursor> {
        self.base
    }

    /// No cursor above the head was given out: an answer names none.
    #[must_use]
    pub fn up_to(self, head: Cursor) -> Self {
        Self { base: self.base.map(|base| base.min(head)) }
    }
}

/// Whether a device's cursor is still good: what its scope kept of the epoch that it names, where `present` is the
/// one in force (the api and the ingest role). Asks nothing where they are the same, or none is named.
pub async fn kept(
    pool: &Pool,
    scope: ScopeRef,
    named: Option<Epoch>,
    present: Epoch,
) -> Result<Kept, ReadModelError> {
    let Some(named) = named.filter(|named| *named != present) else { return Ok(Kept::ALL) };
    let base: Option<i64> = sqlx::query_scalar("select kept($1, $2, $3)")
        .bind(scope.0)
        .bind(named.0)
        .bind(present.0)
        .fetch_one(pool)
        .await?;
    Ok(base.map_or(Kept::NOTHING, |base| Kept { base: Some(Cursor::from_i64(base)) }))
}

/// Whether the log goes on from another one: then its first record is not the beginning.
pub(crate) const IS_RECOVERED: &str = "select exists (select from context_sync_settings.epochs e join source s on s.log_id <> e.log_id)";

/// As [`IS_RECOVERED`] (the projector's role).
pub async fn is_recovered(pool: &Pool) -> Result<bool, ReadModelError> {
    Ok(sqlx::query_scalar(IS_RECOVERED).fetch_one(pool).await?)
}

/// An epoch that begins, and what it keeps of the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEpoch {
    pub epoch: Epoch,
    /// Up to which cursor, by scope.
    pub bases: Vec<(ScopeRef, Cursor)>,
    /// Whether scopes that are not among them are kept whole, or not at all.
    pub keeps_unlisted: bool,
    /// By which all rows were folded that it began with, and since.
    pub fold_revision: FoldRevision,
}

/// The epochs that began on a log after its first one, with their numbers: no log says that they did.
pub async fn begun(
    config: &DatabaseConfig,
    log: LogId,
) -> Result<Vec<(u32, NewEpoch)>, ReadModelError> {
    let mut connection = connect::projector(config).await?;
    let rows: Vec<(i32, Uuid, bool, i32)> = sqlx::query_as(
        "select number, epoch, keeps_unlisted, fold_revision from context_sync_settings.epochs
         where log_id = $1 and number > (select min(number) from context_sync_settings.epochs where log_id = $1)
         order by number",
    )
    .bind(log.0)
    .fetch_all(&mut connection)
    .await?;
    let mut begun = Vec::new();
    for (number, epoch, keeps_unlisted, revision) in rows {
        let bases: Vec<(Uuid, i64)> = sqlx::query_as(
            "select scope, base from context_sync_settings.bases where number = $1 order by scope",
        )
        .bind(number)
        .fetch_all(&mut connection)
        .await?;
        let base = |(scope, base)| (ScopeRef(scope), Cursor::from_i64(base));
        let bases = bases.into_iter().map(base).collect();
        let (epoch, fold_revision) = (Epoch(epoch), FoldRevision(revision.unsigned_abs()));
        let new = NewEpoch { epoch, bases, keeps_unlisted, fold_revision };
        begun.push((number.unsigned_abs(), new));
    }
    connection.close().await.ok();
    Ok(begun)
}

/// The number of the epoch that begins next.
pub(crate) async fn next_number(connection: &mut PgConnection) -> Result<i32, ReadModelError> {
    let next = "select coalesce(max(number), 0) + 1 from context_sync_settings.epochs";
    Ok(sqlx::query_scalar(next).fetch_one(connection).await?)
}

/// By which revision the rows were folded that the last epoch began with; `None` if none ever began here.
pub(crate) async fn fold_revision(
    connection: &mut PgConnection,
) -> Result<Option<FoldRevision>, ReadModelError> {
    let last =
        "select fold_revision from context_sync_settings.epochs order by number desc limit 1";
    let revision: Option<i32> = sqlx::query_scalar(last).fetch_optional(connection).await?;
    Ok(revision.map(|revision| FoldRevision(revision.unsigned_abs())))
}

/// Whoever folds on with another revision than the rows are of makes them mixed.
pub(crate) async fn mix_fold_revision(
    connection: &mut PgConnection,
    own: FoldRevision,
) -> Result<(), ReadModelError> {
    if fold_revision(connection).await?.is_some_and(|revision| revision != own) {
        set_fold_revision(connection, FoldRevision::MIXED).await?;
    }
    Ok(())
}

/// As [`fold_revision`]: all rows are of this one by now.
pub(crate) async fn set_fold_revision(
    connection: &mut PgConnection,
    revision: FoldRevision,
) -> Result<(), ReadModelError> {
    sqlx::query(
        "update context_sync_settings.epochs set fold_revision = $1
         where number = (select max(number) from context_sync_settings.epochs)
             and fold_revision <> $1",
    )
    .bind(revision.0 as i32)
    .execute(connection)
    .await?;
    Ok(())
}

/// Puts an epoch in force, in the transaction that replaces the rows.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    new: &NewEpoch,
) -> Result<(), ReadModelError> {
    let number = next_number(connection).await?;
    let log: Uuid =
        sqlx::query_scalar("select log_id from source").fetch_one(&mut *connection).await?;
    insert(connection, number, LogId(log), new).await?;
    sqlx::query("update source set epoch = $1").bind(new.epoch.0).execute(connection).await?;
    Ok(())
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    number: i32,
    log: LogId,
    new: &NewEpoch,
) -> Result<(), ReadModelError> {
    sqlx::query(
        "insert into context_sync_settings.epochs (number, epoch, log_id, keeps_unlisted, fold_revision)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(number)
    .bind(new.epoch.0)
    .bind(log.0)
    .bind(new.keeps_unlisted)
    .bind(new.fold_revision.0 as i32)
    .execute(&mut *connection)
    .await?;
    let scopes: Vec<Uuid> = new.bases.iter().map(|(scope, _)| scope.0).collect();
    let bases: Vec<i64> = new.bases.iter().map(|(_, base)| base.as_i64()).collect();
    sqlx::query(
        "insert into context_sync_settings.bases (number, scope, base)
         select $1, unnest($2::uuid[]), unnest($3::bigint[])",
    )
    .bind(number)
    .bind(scopes)
    .bind(bases)
    .execute(connection)
    .await?;
    Ok(())
}
