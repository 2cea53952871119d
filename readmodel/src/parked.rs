//! Folding what was parked: one transaction takes the first events of a scope out of the dead letters and writes
//! what they come to.

use model::{Offset, Partition, Place, ScopeRef, Timestamp};
use sqlx::{Connection, PgConnection, Postgres, Row, Transaction};

use crate::{
    config::DatabaseConfig,
    connect,
    dead_letters::without_nul,
    error::ReadModelError,
    load::{Loaded, Wanted, load},
    write::Writes,
};

/// A connection that folds parked events.
pub struct Parked {
    connection: PgConnection,
}

/// The first events of a scope that wait, and nobody else may move the scope.
pub struct Unparking<'c> {
    transaction: Transaction<'c, Postgres>,
    partition: Partition,
    pub events: Vec<ParkedEvent>,
}

/// An event that waits.
#[derive(Clone, Debug)]
pub struct ParkedEvent {
    pub place: Place,
    pub append_time: Timestamp,
    /// The log's time there.
    pub time: Timestamp,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Parked {
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, ReadModelError> {
        Ok(Self { connection: connect::projector(config).await? })
    }

    /// Takes the first events of a scope, some at a time; `None` if none wait. Batches of the projector wait for the
    /// position meanwhile, and find out then what they may not do any more.
    pub async fn begin(
        &mut self,
        scope: ScopeRef,
        events_max: u32,
    ) -> Result<Option<Unparking<'_>>, ReadModelError> {
        let mut transaction = self.connection.begin().await?;
        let partition: Option<i32> = sqlx::query_scalar(
            "select p.partition from positions p
             where p.partition = (select partition from dead_letters where scope = $1 and kind = 'parked' limit 1)
             for update",
        )
        .bind(scope.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(partition) = partition.map(|partition| Partition::new(partition.unsigned_abs()))
        else {
            return Ok(None);
        };
        let rows = sqlx::query(
            "select record_offset, append_time_us, time_us, key, value from dead_letters
             where scope = $1 and kind = 'parked' order by record_offset limit $2",
        )
        .bind(scope.0)
        .bind(i64::from(events_max))
        .fetch_all(&mut *transaction)
        .await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let offset: i64 = row.try_get("record_offset")?;
            let damaged = || ReadModelError::Damaged(format!("a dead letter has offset {offset}"));
            events.push(ParkedEvent {
                place: Place { partition, offset: Offset::from_i64(offset).ok_or_else(damaged)? },
                append_time: Timestamp::from_micros(row.try_get("append_time_us")?),
                time: Timestamp::from_micros(row.try_get("time_us")?),
                key: row.try_get("key")?,
                value: row.try_get("value")?,
            });
        }
        Ok((!events.is_empty()).then_some(Unparking { transaction, partition, events }))
    }

    /// Says anew why an event waits.
    pub async fn note(&mut self, place: Place, reason: &str) -> Result<(), ReadModelError> {
        sqlx::query(
            "update dead_letters set reason = $3
             where partition = $1 and record_offset = $2 and kind = 'parked'",
        )
        .bind(place.partition.get() as i32)
        .bind(place.offset.as_i64())
        .bind(without_nul(reason))
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}

impl Unparking<'_> {
    /// Loads what the events touch.
    pub async fn load(&mut self, wanted: &Wanted) -> Result<Loaded, ReadModelError> {
        load(&mut self.transaction, wanted).await
    }

    /// Writes what the events come to, takes them out of the dead letters, and commits.
    pub async fn commit(mut self, writes: &Writes) -> Result<(), ReadModelError> {
        let offsets: Vec<i64> = self.events.iter().map(|e| e.place.offset.as_i64()).collect();
        sqlx::query(
            "delete from dead_letters where partition = $1 and record_offset = any($2) and kind = 'parked'",
        )
        .bind(self.partition.get() as i32)
        .bind(offsets)
        .execute(&mut *self.transaction)
        .await?;
        writes.commit_in(&mut self.transaction, &[], true).await?;
        self.transaction.commit().await?;
        Ok(())
    }
}
