//! A read model that begins with what an archive has, because its log does.

use model::{LogId, Offset, Partition, PartitionClock};
use sqlx::{Connection, PgConnection};

use crate::{
    config::DatabaseConfig,
    connect::{self, ProjectionSet},
    epochs::NewEpoch,
    error::ReadModelError,
    filling::{self, Ends, IS_BEGUN},
    projection::{Advance, Position},
    rebuild::REPLACED,
    write::Writes,
};

/// One process fills it; the others wait.
const LOCK: &str = "select pg_advisory_lock(hashtext('context_sync adoption'))";

/// An epoch that was in force before, or that begins now: of which log, and what it kept of the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEpoch {
    pub log: LogId,
    pub new: NewEpoch,
}

/// An empty set of tables that is being filled. Nobody reads the live one before it is done.
pub struct Adoption {
    connection: PgConnection,
    set: ProjectionSet,
}

impl Adoption {
    /// Begins to fill a set of tables, with nothing in them; `None` if they are of a log already.
    pub async fn begin(
        config: &DatabaseConfig,
        set: ProjectionSet,
    ) -> Result<Option<Self>, ReadModelError> {
        let mut connection = connect::projector_on(config, set).await?;
        let mut is_begun: bool = sqlx::query_scalar(IS_BEGUN).fetch_one(&mut connection).await?;
        if !is_begun {
            let wait = format!("set lock_timeout = 0; set statement_timeout = 0; {LOCK}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(wait)).execute(&mut connection).await?;
            is_begun = !empty(&mut connection).await?;
        }
        if is_begun {
            connection.close().await.ok();
            return Ok(None);
        }
        Ok(Some(Self { connection, set }))
    }

    /// Says where a partition begins: at its first record, at the log's time that the archive came to.
    ///
    /// # Errors
    /// [`ReadModelError::BegunElsewhere`] if somebody said so already.
    pub async fn place(
        &mut self,
        partition: Partition,
        clock: PartitionClock,
    ) -> Result<Position, ReadModelError> {
        let placed = sqlx::query(
            "insert into positions (partition, next_offset, time_us, rules) values ($1, 0, $2, $3)
             on conflict (partition) do nothing",
        )
        .bind(partition.get() as i32)
        .bind(clock.time.as_micros())
        .bind(clock.rules.0 as i32)
        .execute(&mut self.connection)
        .await?;
        if placed.rows_affected() == 0 {
            return Err(ReadModelError::BegunElsewhere);
        }
        Ok(Position { partition, next_offset: Offset::ZERO, clock, last: None, rebuilds: 0 })
    }

    /// Writes rows of a partition, which stays where it is.
    pub async fn write(
        &mut self,
        position: &Position,
        writes: &Writes,
    ) -> Result<(), ReadModelError> {
        let Position { partition, next_offset: from, .. } = *position;
        writes
            .commit(&mut self.connection, &[Advance { partition, from, to: *position }], false)
            .await
    }

    /// What the archive has is there: from now on the tables are the log's, which is folded into them. `ends`: of every
    /// partition of the log. `epochs`: the oldest first; the last one is in force, or was until the read model was lost.
    ///
    /// # Errors
    /// [`ReadModelError::BegunElsewhere`] if they are somebody else's by now.
    pub async fn finish(
        mut self,
        log: LogId,
        ends: &Ends,
        epochs: &[PastEpoch],
    ) -> Result<(), ReadModelError> {
        let mut transaction = self.connection.begin().await?;
        if !filling::begin(&mut transaction, self.set, log, ends, epochs).await? {
            return Err(ReadModelError::BegunElsewhere);
        }
        transaction.commit().await?;
        self.connection.close().await.ok();
        Ok(())
    }
}

/// Deletes what an adoption that was stopped has left; whether it did: tables that are of a log by now are left alone. Nobody
/// makes them a log's meanwhile, also one that adopts nothing.
async fn empty(connection: &mut PgConnection) -> Result<bool, ReadModelError> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(filling::LOCK).execute(&mut *transaction).await?;
    if sqlx::query_scalar(IS_BEGUN).fetch_one(&mut *transaction).await? {
        return Ok(false);
    }
    for table in REPLACED {
        let delete = sqlx::AssertSqlSafe(format!("delete from {table}"));
        sqlx::raw_sql(delete).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(true)
}
