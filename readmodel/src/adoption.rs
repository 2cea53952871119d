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
            is_begun = sqlx::query_scalar(IS_BEGUN).fetch_one(&mut connection).await?;
        }
        if is_begun {
            connection.close().await.ok();
            return Ok(None);
        }
        // An adoption that was stopped has left them.
        for table in REPLACED {
            let delete = sqlx::AssertSqlSafe(format!("delete from {table}"));
            sqlx::raw_sql(delete).execute(&mut connection).await?;
        }
        Ok(Some(Self { connection, set }))
    }

    /// Says where a partition begins: at its first record, at the log's time that the archive came to.
    pub async fn place(
        &mut self,
        partition: Partition,
        clock: PartitionClock,
    ) -> Result<Position, ReadModelError> {
        sqlx::query(
            "insert into positions (partition, next_offset, time_us, rules) values ($1, 0, $2, $3)",
        )
        .bind(partition.get() as i32)
        .bind(clock.time.as_micros())
        .bind(clock.rules.0 as i32)
        .execute(&mut self.connection)
        .await?;
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
    pub async fn finish(
        mut self,
        log: LogId,
        ends: &Ends,
        epochs: &[PastEpoch],
    ) -> Result<(), ReadModelError> {
        let mut transaction = self.connection.begin().await?;
        filling::begin(&mut transaction, self.set, log, ends, epochs).await?;
        transaction.commit().await?;
        self.connection.close().await.ok();
        Ok(())
    }
}
