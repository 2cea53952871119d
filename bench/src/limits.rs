//! What bounds the figures: the bare log, the bare insert, the bare select, each in the same run on the
//! same machine.

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use eventlog::EventLog;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    Failure,
    load::{Measured, Work, run},
};

/// Rows in one INSERT: as many as the projector writes at once under load.
const INSERT_ROWS: usize = 1_000;

/// Appends to the bare log.
struct Append {
    log: Arc<dyn EventLog>,
    key: Bytes,
    value: Bytes,
}

impl Work for Append {
    async fn once(&mut self) -> Result<(), Failure> {
        self.log.append(self.key.clone(), self.value.clone()).await?;
        Ok(())
    }
}

/// Bare appends of records of this size, so many at once.
pub(crate) async fn append(
    log: &Arc<dyn EventLog>,
    in_flight: usize,
    bytes: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let worker = |i: usize| Append {
        log: log.clone(),
        key: Bytes::from(format!("bench/user/u{}", i % crate::scenarios::USERS)),
        value: Bytes::from(vec![b'x'; bytes]),
    };
    run((0..in_flight).map(worker).collect(), time, Duration::ZERO).await
}

type MessageRow = (
    Uuid,
    i64,
    Uuid,
    Uuid,
    Option<Uuid>,
    String,
    Vec<u8>,
    Vec<u8>,
    i64,
    i64,
    Option<i64>,
    i64,
    i32,
    String,
);

/// `INSERT … SELECT UNNEST` of the rows of one read model into another, empty one: rows a second.
pub(crate) async fn insert(from: &str, to: &str, rows_max: i64) -> Result<f64, Failure> {
    let mut from = connect(from).await?;
    let rows: Vec<MessageRow> = sqlx::query_as(
        "select scope, cursor, id, id_key, content_key, tenant_id, content_hash, body_hash, updated_at_us,
             created_at_us, deleted_at_us, bytes, json_bytes, json
         from messages order by cursor limit $1",
    )
    .bind(rows_max)
    .fetch_all(&mut from)
    .await?;
    let mut to = connect(to).await?;
    let began = Instant::now();
    for part in rows.chunks(INSERT_ROWS) {
        insert_part(&mut to, part).await?;
    }
    Ok(rows.len() as f64 / began.elapsed().as_secs_f64())
}

async fn insert_part(to: &mut PgConnection, rows: &[MessageRow]) -> Result<(), Failure> {
    macro_rules! column {
        ($n:tt) => {
            rows.iter().map(|row| row.$n.clone()).collect::<Vec<_>>()
        };
    }
    sqlx::query(
        "insert into messages (scope, cursor, id, id_key, content_key, tenant_id, content_hash, body_hash,
             updated_at_us, created_at_us, deleted_at_us, bytes, json_bytes, json)
         select unnest($1::uuid[]), unnest($2::bigint[]), unnest($3::uuid[]), unnest($4::uuid[]),
             unnest($5::uuid[]), unnest($6::text[]), unnest($7::bytea[]), unnest($8::bytea[]),
             unnest($9::bigint[]), unnest($10::bigint[]), unnest($11::bigint[]), unnest($12::bigint[]),
             unnest($13::int[]), unnest($14::text[])",
    )
    .bind(column!(0))
    .bind(column!(1))
    .bind(column!(2))
    .bind(column!(3))
    .bind(column!(4))
    .bind(column!(5))
    .bind(column!(6))
    .bind(column!(7))
    .bind(column!(8))
    .bind(column!(9))
    .bind(column!(10))
    .bind(column!(11))
    .bind(column!(12))
    .bind(column!(13))
    .execute(to)
    .await?;
    Ok(())
}

/// Leaves nothing to do that is not the reading itself: what the pushes before left to vacuum and to write.
pub(crate) async fn settle(url: &str) -> Result<(), Failure> {
    let mut connection = connect(url).await?;
    for statement in ["vacuum (analyze) messages", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }
    Ok(())
}

/// A prepared select of 100 messages' rows by scope and cursor, by pgbench; `None` where that is not
/// installed.
pub(crate) async fn select(
    url: &str,
    clients: usize,
    time: Duration,
    directory: &Path,
) -> Result<Option<f64>, Failure> {
    let mut connection = connect(url).await?;
    let row = sqlx::query("select scope, head from scopes order by head desc limit 1")
        .fetch_one(&mut connection)
        .await?;
    let (scope, head): (Uuid, i64) = (row.try_get(0)?, row.try_get(1)?);
    let script = directory.join("select.sql");
    std::fs::write(
        &script,
        format!(
            "\\set after random(0, {})\n\
             select json from context_sync.messages where scope = '{scope}' and cursor > :after \
             order by cursor limit 100;\n",
            (head - 100).max(0)
        ),
    )?;
    let output = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-j", "1", "-c", &clients.to_string()])
        .args(["-T", &time.as_secs().max(1).to_string(), "-f"])
        .arg(&script)
        .arg(url)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!(
                "bench: no pgbench here; install it to measure pulls beside it (Debian: apt install postgresql)"
            );
            return Ok(None);
        }
        Err(error) => return Err(format!("pgbench does not start: {error}").into()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok());
    match tps {
        Some(tps) => Ok(Some(tps)),
        None => Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A connection that sees the read model.
pub(crate) async fn connect(url: &str) -> Result<PgConnection, Failure> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql("set search_path = context_sync").execute(&mut connection).await?;
    Ok(connection)
}
