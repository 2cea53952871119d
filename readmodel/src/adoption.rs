//! A read model that begins with what an archive has, because its log does.

use std::time::Duration;

use model::{LogId, Offset, Partition, PartitionClock};
use sqlx::{Connection, PgConnection};

use crate::{
    config::DatabaseConfig,
    connect::{self, ProjectionSet},
    epochs::NewEpoch,
    error::ReadModelError,
    filling::{self, Ends, IS_BEGUN},
    pool::{answer_within, answered, within},
    projection::{Advance, Position, TRANSACTION_ANSWERS},
    rebuild::REPLACED,
    write::Writes,
};

/// One process fills it; the others wait, and ask again and again, so that a database that is gone is noticed.
const LOCK: &str = "set statement_timeout = 0; set lock_timeout = '5s'; select pg_advisory_lock(hashtext('context_sync adoption'));
    set lock_timeout = 0";
const LOCKED_WITHIN: Duration = Duration::from_secs(15);

/// `lock_timeout` is over.
const LOCK_NOT_HAD: &str = "55P03";

/// A batch of rows, or the emptying of tables, is not waited for longer.
const WRITTEN_WITHIN: Duration = Duration::from_secs(600);

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
        let limit = answer_within(config);
        let asked = sqlx::query_scalar(IS_BEGUN).fetch_one(&mut connection);
        let mut is_begun: bool = within(limit, asked).await?;
        if !is_begun {
            lock(&mut connection).await?;
            is_begun = !is_free(&mut connection, limit * TRANSACTION_ANSWERS).await?;
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
        let place = sqlx::query(
            "insert into positions (partition, next_offset, time_us, rules) values ($1, 0, $2, $3)
             on conflict (partition) do nothing",
        )
        .bind(partition.get() as i32)
        .bind(clock.time.as_micros())
        .bind(clock.rules.0 as i32)
        .execute(&mut self.connection);
        let placed = within(WRITTEN_WITHIN, place).await?;
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
        let advance = [Advance { partition, from, to: *position }];
        answered(WRITTEN_WITHIN, writes.commit(&mut self.connection, &advance, false)).await
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
        answered(WRITTEN_WITHIN, async {
            let mut transaction = self.connection.begin().await?;
            if !filling::begin(&mut transaction, self.set, log, ends, epochs).await? {
                return Err(ReadModelError::BegunElsewhere);
            }
            Ok(transaction.commit().await?)
        })
        .await?;
        self.connection.close().await.ok();
        Ok(())
    }
}

async fn lock(connection: &mut PgConnection) -> Result<(), ReadModelError> {
    let is_held = |error: &sqlx::Error| {
        error.as_database_error().and_then(|error| error.code()).as_deref() == Some(LOCK_NOT_HAD)
    };
    loop {
        match within(LOCKED_WITHIN, sqlx::raw_sql(LOCK).execute(&mut *connection)).await {
            Err(error) if is_held(&error) => {}
            had => return Ok(had.map(drop)?),
        }
    }
}

/// Whether the tables are nobody's. What an adoption that was stopped has left in them is deleted.
async fn is_free(connection: &mut PgConnection, limit: Duration) -> Result<bool, ReadModelError> {
    let found = answered(limit, look(connection, false)).await?;
    match found {
        // This takes as long as there are rows.
        Found::Leftovers => {
            let found = answered(WRITTEN_WITHIN, look(connection, true)).await?;
            Ok(found != Found::Log)
        }
        found => Ok(found == Found::Nothing),
    }
}

/// What is in the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Of an adoption that was stopped.
    Leftovers,
    /// They are of a log by now.
    Log,
}

/// Looks while nobody makes them a log's, also one that adopts nothing. `delete`: what is left over.
async fn look(connection: &mut PgConnection, delete: bool) -> Result<Found, ReadModelError> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(filling::LOCK).execute(&mut *transaction).await?;
    if sqlx::query_scalar(IS_BEGUN).fetch_one(&mut *transaction).await? {
        return Ok(Found::Log);
    }
    let mut found = Found::Nothing;
    for table in REPLACED {
        let has_rows = sqlx::AssertSqlSafe(format!("select exists (select from {table})"));
        if sqlx::query_scalar(has_rows).fetch_one(&mut *transaction).await? {
            found = Found::Leftovers;
            if delete {
                let delete = sqlx::AssertSqlSafe(format!("delete from {table}"));
                sqlx::raw_sql(delete).execute(&mut *transaction).await?;
            }
        }
    }
    transaction.commit().await?;
    Ok(found)
}
