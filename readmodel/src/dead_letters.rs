//! Dead letters: records that became no rows, and what operators do about them.

use std::collections::HashSet;

use model::{LogId, Offset, Partition, Place, ScopeRef, Timestamp};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{error::ReadModelError, pool::Pool, write::each};

/// A record that became no rows.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub partition: Partition,
    pub offset: Offset,
    pub kind: DeadLetterKind,
    pub scope: Option<ScopeRef>,
    pub append_time: Timestamp,
    /// The log's time there.
    pub time: Timestamp,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterKind {
    /// It is no event, or contradicts itself.
    Refused,
    /// The database refused it; it waits for an operator.
    Parked,
    /// Nothing is wrong with it, but an earlier event of its scope is parked: so is it.
    ParkedBehind,
}

impl DeadLetterKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Parked | Self::ParkedBehind => "parked",
        }
    }
}

/// # Errors
/// [`ReadModelError::PositionMoved`] if the events behind a parked one were folded meanwhile: these are to be folded
/// too. The positions are locked by then, so that no retry comes in between.
pub(crate) async fn insert_dead_letters(
    connection: &mut PgConnection,
    letters: &[DeadLetter],
) -> Result<(), ReadModelError> {
    let behind: HashSet<Uuid> = letters
        .iter()
        .filter(|letter| letter.kind == DeadLetterKind::ParkedBehind)
        .filter_map(|letter| Some(letter.scope?.0))
        .collect();
    if !behind.is_empty() {
        let parked: i64 = sqlx::query_scalar(
            "select count(distinct scope) from dead_letters where scope = any($1) and kind = 'parked'",
        )
        .bind(behind.iter().copied().collect::<Vec<_>>())
        .fetch_one(&mut *connection)
        .await?;
        if parked.unsigned_abs() != behind.len() as u64 {
            return Err(ReadModelError::PositionMoved);
        }
    }
    sqlx::query(
        "insert into dead_letters (partition, record_offset, kind, scope, append_time_us, time_us, key,
             value, reason)
         select * from unnest($1::int[], $2::bigint[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[],
             $7::bytea[], $8::bytea[], $9::text[])",
    )
    .bind(each(letters, |d| d.partition.get() as i32))
    .bind(each(letters, |d| d.offset.as_i64()))
    .bind(each(letters, |d| d.kind.as_str()))
    .bind(each(letters, |d| d.scope.map(|scope| scope.0)))
    .bind(each(letters, |d| d.append_time.as_micros()))
    .bind(each(letters, |d| d.time.as_micros()))
    .bind(each(letters, |d| d.key.as_slice()))
    .bind(each(letters, |d| d.value.as_slice()))
    .bind(each(letters, |d| without_nul(&d.reason)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Postgres takes no NUL in text; a reason may quote the record.
pub(crate) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// What an operator did about a refused record.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// A new event was appended, at this place.
    Retried(String),
    Discarded,
}

/// A dead letter as its row has it.
#[derive(Clone, Debug)]
pub struct StoredLetter {
    pub place: Place,
    /// It waits, and its scope with it; otherwise it was refused, in every copy.
    pub is_parked: bool,
    pub append_time: Timestamp,
    /// The log's time there.
    pub time: Timestamp,
    pub key: Vec<u8>,
    /// Empty in a list.
    pub value: Vec<u8>,
    pub value_bytes: u64,
    pub reason: String,
    /// What was done about it, why, and when.
    pub mark: Option<(Mark, String, Timestamp)>,
}

/// Which dead letters.
#[derive(Clone, Copy, Debug)]
pub struct LetterQuery {
    /// Also those that are marked.
    pub with_marked: bool,
    /// Those after this place, in the log's order.
    pub after: Option<Place>,
    pub limit: u32,
}

const COLUMNS: &str =
    "d.partition, d.record_offset, d.kind, d.append_time_us, d.time_us, d.key, d.reason,
    octet_length(d.value)::bigint as value_bytes, k.mark, k.retried_as, k.note,
    (extract(epoch from k.marked_at) * 1000000)::bigint as marked_us";

/// Of the log that the read model is of.
const MARKS: &str = "left join dead_letter_marks k on k.partition = d.partition
    and k.record_offset = d.record_offset and k.log_id = (select log_id from source)";

/// Dead letters in the log's order, without their values (the projector's role).
pub async fn list(pool: &Pool, query: LetterQuery) -> Result<Vec<StoredLetter>, ReadModelError> {
    let after = query.after.map_or((-1, -1), |at| (at.partition.get() as i32, at.offset.as_i64()));
    let sql = sqlx::AssertSqlSafe(format!(
        "select {COLUMNS}, ''::bytea as value from dead_letters d {MARKS}
         where (d.partition, d.record_offset) > ($1, $2) and ($3 or k.mark is null)
         order by d.partition, d.record_offset limit $4"
    ));
    let rows = sqlx::query(sql)
        .bind(after.0)
        .bind(after.1)
        .bind(query.with_marked)
        .bind(i64::from(query.limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(letter).collect()
}

/// One dead letter; `None` if there is none at this place (the projector's role).
pub async fn get(pool: &Pool, place: Place) -> Result<Option<StoredLetter>, ReadModelError> {
    let sql = sqlx::AssertSqlSafe(format!(
        "select {COLUMNS}, d.value from dead_letters d {MARKS}
         where d.partition = $1 and d.record_offset = $2"
    ));
    let row = sqlx::query(sql)
        .bind(place.partition.get() as i32)
        .bind(place.offset.as_i64())
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(letter).transpose()
}

/// Marks a refused record as done with; false if it has a mark already, or is none (the projector's role).
pub async fn mark(
    pool: &Pool,
    place: Place,
    mark: &Mark,
    note: &str,
) -> Result<bool, ReadModelError> {
    let (name, retried_as) = match mark {
        Mark::Retried(place) => ("retried", Some(place.as_str())),
        Mark::Discarded => ("discarded", None),
    };
    let done = sqlx::query(
        "insert into dead_letter_marks (partition, record_offset, log_id, mark, retried_as, note)
         select d.partition, d.record_offset, source.log_id, $3, $4, $5
         from dead_letters d, source
         where d.partition = $1 and d.record_offset = $2 and d.kind = 'refused'
         on conflict do nothing",
    )
    .bind(place.partition.get() as i32)
    .bind(place.offset.as_i64())
    .bind(name)
    .bind(retried_as)
    .bind(without_nul(note))
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A scope whose events wait.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ParkedScope {
    /// `tenant/kind/name`.
    pub scope: String,
    /// The first of them: the one that the database refused.
    pub place: String,
    pub reason: String,
    pub events: u64,
}

/// Keys of which it is said how many refused records they have, at most, and how much of a key: whoever wrote to the log as
/// nobody should may have made any number of them, of any length.
const REFUSED_KEYS_MAX: i64 = 5;
const KEY_BYTES_MAX: i32 = 512;

/// How many refused records a scope has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefusedScope {
    /// The records' key: `tenant/kind/name`, or what whatever it is begins with.
    pub scope: String,
    pub records: u64,
}

/// How many refused records nobody has marked yet, and the scopes whose events wait (the projector's role).
pub async fn open(pool: &Pool) -> Result<(u64, Vec<ParkedScope>), ReadModelError> {
    let sql = sqlx::AssertSqlSafe(format!(
        "select count(*) from dead_letters d {MARKS} where d.kind = 'refused' and k.mark is null"
    ));
    let refused: i64 = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok((refused.unsigned_abs(), parked(pool).await?))
}

/// The keys that have the most refused records which nobody has marked yet (the projector's role). Those that begin with
/// the same bytes count as one: what is sorted is bounded, however long they are.
pub async fn most_refused(pool: &Pool) -> Result<Vec<RefusedScope>, ReadModelError> {
    let sql = sqlx::AssertSqlSafe(format!(
        "select substring(d.key for $1), count(*)
         from dead_letters d {MARKS} where d.kind = 'refused' and k.mark is null
         group by 1 order by 2 desc, 1 limit $2"
    ));
    let rows = sqlx::query_as::<_, (Vec<u8>, i64)>(sql)
        .bind(KEY_BYTES_MAX)
        .bind(REFUSED_KEYS_MAX)
        .fetch_all(pool)
        .await?;
    let most = rows.into_iter().map(|(key, records)| RefusedScope {
        scope: String::from_utf8_lossy(&key).into_owned(),
        records: records.unsigned_abs(),
    });
    Ok(most.collect())
}

async fn parked(pool: &Pool) -> Result<Vec<ParkedScope>, ReadModelError> {
    let rows = sqlx::query_as::<_, (Vec<u8>, i32, i64, String, i64)>(
        "select distinct on (d.scope) d.key, d.partition, d.record_offset, d.reason,
             count(*) over (partition by d.scope)
         from dead_letters d where d.kind = 'parked'
         order by d.scope, d.record_offset",
    )
    .fetch_all(pool)
    .await?;
    let parked =
        |(key, partition, offset, reason, events): (Vec<u8>, i32, i64, String, i64)| ParkedScope {
            scope: String::from_utf8_lossy(&key).into_owned(),
            place: format!("{partition}-{offset}"),
            reason,
            events: events.unsigned_abs(),
        };
    Ok(rows.into_iter().map(parked).collect())
}

/// The log that the read model is of; `None` before a projector said so (the projector's role).
pub async fn log_of(pool: &Pool) -> Result<Option<(LogId, u32)>, ReadModelError> {
    let row: Option<(Uuid, i32)> =
        sqlx::query_as("select log_id, partitions from source").fetch_optional(pool).await?;
    Ok(row.map(|(log, partitions)| (LogId(log), partitions.unsigned_abs())))
}

pub(crate) fn letter(row: &PgRow) -> Result<StoredLetter, ReadModelError> {
    let offset: i64 = row.try_get("record_offset")?;
    let damaged = || ReadModelError::Damaged(format!("a dead letter has offset {offset}"));
    let partition = Partition::new(row.try_get::<i32, _>("partition")?.unsigned_abs());
    let place = Place { partition, offset: Offset::from_i64(offset).ok_or_else(damaged)? };
    let retried: Option<String> = row.try_get("retried_as")?;
    let mark = match row.try_get::<Option<&str>, _>("mark")? {
        None => None,
        Some(_) => Some((
            retried.map_or(Mark::Discarded, Mark::Retried),
            row.try_get("note")?,
            Timestamp::from_micros(row.try_get("marked_us")?),
        )),
    };
    Ok(StoredLetter {
        place,
        is_parked: row.try_get::<&str, _>("kind")? == "parked",
        append_time: Timestamp::from_micros(row.try_get("append_time_us")?),
        time: Timestamp::from_micros(row.try_get("time_us")?),
        key: row.try_get("key")?,
        value: row.try_get("value")?,
        value_bytes: row.try_get::<i64, _>("value_bytes")?.unsigned_abs(),
        reason: row.try_get("reason")?,
        mark,
    })
}
