//! The projector's side: positions, and batches that commit with them.

use std::time::Duration;

use model::{
    FoldRevision, LogId, Offset, Partition, PartitionClock, RulesVersion, Timestamp,
    limits::OUTCOME_KEPT_MICROS,
};
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    connect::{self, ProjectionSet},
    epochs,
    erasures::{self, ErasedImage},
    error::ReadModelError,
    filling::{self, Ends, IS_BEGUN},
    load::hash32,
    pool::{answer_within, answered, within},
    write::{Writes, fence},
};

/// Outcomes deleted in one statement, at most: it must not keep the projector waiting.
pub const EXPIRED_AT_ONCE: i64 = 5_000;

/// A transaction may take as long as so many statements: few of them wait, and the server ends each that runs for too long.
pub(crate) const TRANSACTION_ANSWERS: u32 = 3;

/// Noting what every scope keeps takes as long as there are scopes; a database that is gone is given up some time.
const FILL_WITHIN: Duration = Duration::from_secs(600);

/// Erasing takes as long as the scope has messages and tombstones.
const ERASE_WITHIN: Duration = Duration::from_secs(600);

/// How far a partition is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub partition: Partition,
    /// The offset to fold next.
    pub next_offset: Offset,
    pub clock: PartitionClock,
    /// The last record folded, to recognise the log by.
    pub last: Option<LastRecord>,
    /// How often the partition's rows were replaced by rebuilt ones: what was folded from others is not to be
    /// written to these.
    pub rebuilds: u64,
}

/// A record that was folded: its offset, and the SHA-256 of its key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    pub offset: Offset,
    pub hash: [u8; 32],
}

/// A partition's step from one position to another.
#[derive(Clone, Copy, Debug)]
pub struct Advance {
    pub partition: Partition,
    /// Where the batch began. If the stored position is another one, the batch is not ours to write.
    pub from: Offset,
    pub to: Position,
}

/// A writer of the read model: one batch at a time, of partitions of its own.
pub struct Projection {
    connection: PgConnection,
    set: ProjectionSet,
    answer_within: Duration,
}

impl Projection {
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, ReadModelError> {
        Self::connect_to(config, ProjectionSet::Live).await
    }

    /// As [`Self::connect`], to one set of tables.
    pub async fn connect_to(
        config: &DatabaseConfig,
        set: ProjectionSet,
    ) -> Result<Self, ReadModelError> {
        let connection = connect::projector_on(config, set).await?;
        Ok(Self { connection, set, answer_within: answer_within(config) })
    }

    /// Whether these are the tables of a log already, be it that they are still being filled.
    pub async fn is_begun(&mut self) -> Result<bool, ReadModelError> {
        let asked = sqlx::query_scalar(IS_BEGUN).fetch_one(&mut self.connection);
        Ok(within(self.answer_within, asked).await?)
    }

    /// Whether it was begun with what was recovered of that log.
    pub async fn goes_on_from(&mut self, lost: LogId) -> Result<bool, ReadModelError> {
        let lost = [lost];
        answered(self.answer_within, filling::has_epochs(&mut self.connection, &lost)).await
    }

    /// Makes this the read model of the log, if it is of none yet. `ends`: of every partition. If it has records, nobody
    /// is answered from here before they are folded ([`Self::finish_filling`]).
    pub async fn begin(&mut self, log: LogId, ends: &Ends) -> Result<(), ReadModelError> {
        let limit = self.answer_within * TRANSACTION_ANSWERS;
        answered(limit, async {
            let mut transaction = self.connection.begin().await?;
            filling::begin(&mut transaction, self.set, log, ends, &[]).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Refuses if this is the read model of another log, or of none. Then the positions of all partitions, those of one's
    /// `own` settled.
    pub async fn adopt_log(
        &mut self,
        log: LogId,
        partitions: u32,
        own: &[Partition],
    ) -> Result<Vec<Position>, ReadModelError> {
        let limit = self.answer_within * TRANSACTION_ANSWERS;
        answered(limit, self.settle(log, partitions, own)).await?;
        self.positions().await
    }

    /// Every partition has a position, and nobody is about to move one's `own`.
    async fn settle(
        &mut self,
        log: LogId,
        partitions: u32,
        own: &[Partition],
    ) -> Result<(), ReadModelError> {
        let mut transaction = self.connection.begin().await?;
        match filling::until(&mut transaction).await? {
            Some((of, ends)) => check_same((of, ends.len() as u32), (log, partitions))?,
            None => check_source(&mut transaction, log, partitions).await?,
        }
        if self.set == ProjectionSet::Live {
            note_fold_revision(&mut transaction).await?;
        }
        sqlx::query(
            "insert into positions (partition, next_offset, time_us, rules)
             select partition, 0, 0, $2 from generate_series(0, $1 - 1) as partition
             on conflict (partition) do nothing",
        )
        .bind(partitions as i32)
        .bind(PartitionClock::START.rules.0 as i32)
        .execute(&mut *transaction)
        .await?;
        // Waits for a commit that lost its connection: what is read then is what there is.
        sqlx::query(
            "select from positions where partition = any($1) order by partition for update",
        )
        .bind(own.iter().map(|p| p.get() as i32).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// Up to where nothing but what was there is folded, because the read model is being filled; `None` if it is not.
    pub async fn filled_until(&mut self) -> Result<Option<Ends>, ReadModelError> {
        let until = answered(self.answer_within, filling::until(&mut self.connection)).await?;
        Ok(until.map(|(_, ends)| ends))
    }

    /// Has the read model answer, in its new epoch, if all is folded that it is to be filled with; the partitions that
    /// are behind else.
    pub async fn finish_filling(&mut self) -> Result<Vec<Partition>, ReadModelError> {
        answered(FILL_WITHIN, async {
            let mut transaction = self.connection.begin().await?;
            let behind = filling::finish(&mut transaction).await?;
            transaction.commit().await?;
            Ok(behind)
        })
        .await
    }

    /// The stored positions, of every partition.
    pub async fn positions(&mut self) -> Result<Vec<Position>, ReadModelError> {
        answered(self.answer_within, positions_of(&mut self.connection, self.set)).await
    }

    /// Writes a batch's rows and advances the positions: both or neither, and neither if the positions
    /// stand elsewhere than where the batch began; only past versions of what it erases may go before. `notify`: tells other processes. Only a hint: they
    /// also ask.
    pub async fn commit(
        &mut self,
        advances: &[Advance],
        writes: &Writes,
        notify: bool,
    ) -> Result<(), ReadModelError> {
        let mut limit = self.answer_within * TRANSACTION_ANSWERS;
        for erased in &writes.erased {
            while answered(limit, erase_past(&mut self.connection, advances, erased)).await? {}
        }
        if !writes.erased.is_empty() {
            limit = limit.max(ERASE_WITHIN);
        }
        answered(limit, writes.commit(&mut self.connection, advances, notify)).await
    }

    /// Deletes outcomes that no command of their partition can repeat any more, some at a time; how
    /// many. By the log's time, not the clock: a rebuild must find what was there the first time. A scope whose
    /// events are parked keeps them: those will be folded as if it were still then.
    pub async fn expire_outcomes(&mut self, position: &Position) -> Result<u64, ReadModelError> {
        let before = position.clock.time.as_micros() - OUTCOME_KEPT_MICROS;
        let delete = "delete from outcomes where ctid = any(array(
                 select ctid from outcomes where partition = $1 and folded_at_us < $2
                     and scope <> all (array(select distinct scope from dead_letters where kind = 'parked' and scope is not null))
                 limit $3))";
        self.expire(delete, position.partition, before).await
    }

    /// Deletes versions that have been past for longer than this, in microseconds, some at a time; how many. By the
    /// log's time.
    pub async fn expire_history(
        &mut self,
        position: &Position,
        kept_micros: i64,
    ) -> Result<u64, ReadModelError> {
        let before = position.clock.time.as_micros().saturating_sub(kept_micros);
        let delete = "delete from message_history where ctid = any(array(
                 select ctid from message_history where partition = $1 and decided_at_us < $2 limit $3))";
        self.expire(delete, position.partition, before).await
    }

    /// Runs a deletion of what is older.
    async fn expire(
        &mut self,
        delete: &'static str,
        partition: Partition,
        before: i64,
    ) -> Result<u64, ReadModelError> {
        let limit = self.answer_within * TRANSACTION_ANSWERS;
        answered(limit, expire(&mut self.connection, delete, partition, before)).await
    }
}

/// Deletes some of what is to be erased, if the positions stand where its batch begins; whether there is more.
async fn erase_past(
    connection: &mut PgConnection,
    advances: &[Advance],
    erased: &ErasedImage,
) -> Result<bool, ReadModelError> {
    let mut transaction = connection.begin().await?;
    fence(&mut transaction, advances).await?;
    let is_more = erasures::erase_past(&mut transaction, erased).await?;
    transaction.commit().await?;
    Ok(is_more)
}

/// What is folded from here on is folded by this build.
async fn note_fold_revision(connection: &mut PgConnection) -> Result<(), ReadModelError> {
    // Waits for another session that ends the filling: then the rows are of the epoch that it began.
    filling::mix_fold_revision(connection, FoldRevision::CURRENT).await?;
    match filling::until(connection).await? {
        Some(_) => Ok(()),
        None => epochs::mix_fold_revision(connection, FoldRevision::CURRENT).await,
    }
}

async fn expire(
    connection: &mut PgConnection,
    delete: &'static str,
    partition: Partition,
    before: i64,
) -> Result<u64, ReadModelError> {
    let mut transaction = connection.begin().await?;
    // The one kind of query that is no look-up by a key: a range of the small index on time.
    sqlx::raw_sql(
        "set local enable_bitmapscan = on; set local plan_cache_mode = force_custom_plan",
    )
    .execute(&mut *transaction)
    .await?;
    let done = sqlx::query(delete)
        .bind(partition.get() as i32)
        .bind(before)
        .bind(EXPIRED_AT_ONCE)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(done.rows_affected())
}

/// Makes sure that this is the read model of the log.
pub(crate) async fn check_source(
    connection: &mut PgConnection,
    log: LogId,
    partitions: u32,
) -> Result<(), ReadModelError> {
    let found: Option<(Uuid, i32)> =
        sqlx::query_as("select log_id, partitions from source").fetch_optional(connection).await?;
    let Some((stored, count)) = found else { return Err(ReadModelError::OfNoLog) };
    check_same((LogId(stored), count.unsigned_abs()), (log, partitions))
}

/// The log that the rows are of, and its number of partitions, is this one.
fn check_same(rows: (LogId, u32), log: (LogId, u32)) -> Result<(), ReadModelError> {
    let ((stored, count), (found, partitions)) = (rows, log);
    if stored != found {
        return Err(ReadModelError::OtherLog { stored, found });
    }
    if count != partitions {
        return Err(ReadModelError::OtherPartitionCount { stored: count, found: partitions });
    }
    Ok(())
}

pub(crate) async fn positions(
    connection: &mut PgConnection,
) -> Result<Vec<Position>, ReadModelError> {
    positions_of(connection, ProjectionSet::Live).await
}

/// As [`positions`], of one set of tables.
pub(crate) async fn positions_of(
    connection: &mut PgConnection,
    set: ProjectionSet,
) -> Result<Vec<Position>, ReadModelError> {
    let query = sqlx::AssertSqlSafe(format!(
        "select partition, next_offset, time_us, rules, last_offset, last_hash, rebuilds
         from {}.positions order by partition",
        set.schema()
    ));
    let rows = sqlx::query(query).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let hash: Option<&[u8]> = row.try_get("last_hash")?;
            let offset = row.try_get::<Option<i64>, _>("last_offset")?.and_then(Offset::from_i64);
            let last = match (offset, hash) {
                (Some(offset), Some(hash)) => Some(LastRecord { offset, hash: hash32(hash)? }),
                _ => None,
            };
            let rules = row.try_get::<i32, _>("rules")?.unsigned_abs();
            let time = Timestamp::from_micros(row.try_get("time_us")?);
            Ok(Position {
                partition: Partition::new(row.try_get::<i32, _>("partition")?.unsigned_abs()),
                next_offset: Offset::from_i64(row.try_get("next_offset")?).unwrap_or(Offset::ZERO),
                clock: PartitionClock { time, rules: RulesVersion(rules) },
                last,
                rebuilds: row.try_get::<i64, _>("rebuilds")?.unsigned_abs(),
            })
        })
        .collect()
}
