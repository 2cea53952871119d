//! Leases: which projector works on which partitions, so that two do not get in each other's way.
//!
//! Only for liveness. What keeps rows right is the compare-and-set of positions; a lease that is lost
//! without notice costs a wasted batch, no more.

use std::time::Duration;

use model::Partition;
use sqlx::{Connection, PgConnection};

use crate::{DatabaseConfig, connect, error::ReadModelError, pool::within};

/// How often the holder must show that it is alive ([`Leases::renew`]).
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How long the server may take: then it has given the leases to others, or is not there any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The first key of the advisory locks, so that other users of the server do not meet ours: "csyn".
const LOCK_CLASS: i32 = 0x6373_796e;

/// Advisory locks of one session, a partition each. The server drops them with the connection, also
/// of a process that stands still for longer than the session may be idle.
pub struct Leases {
    connection: PgConnection,
    held: Vec<Partition>,
}

impl Leases {
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, ReadModelError> {
        let mut connection = connect::projector(config).await?;
        let set = sqlx::raw_sql("set idle_session_timeout = '10s'").execute(&mut connection);
        within(ANSWER_WITHIN, set).await?;
        Ok(Self { connection, held: Vec::new() })
    }

    /// The partitions held.
    pub fn held(&self) -> &[Partition] {
        &self.held
    }

    /// Shows that the holder is alive, and takes what nobody holds. True if that was something.
    pub async fn renew(&mut self, wanted: &[Partition]) -> Result<bool, ReadModelError> {
        let missing: Vec<i32> = wanted
            .iter()
            .filter(|partition| !self.held.contains(partition))
            .map(|partition| partition.get() as i32)
            .collect();
        let take = sqlx::query_scalar(
            "select partition from unnest($2::int[]) as partition
             where pg_try_advisory_lock($1, partition)",
        )
        .bind(LOCK_CLASS)
        .bind(missing);
        let taken: Vec<i32> = within(ANSWER_WITHIN, take.fetch_all(&mut self.connection)).await?;
        self.held.extend(taken.iter().map(|partition| Partition::new(partition.unsigned_abs())));
        Ok(!taken.is_empty())
    }

    /// Gives all back at once, so that another projector need not wait for the server to notice.
    pub async fn release(self) {
        let _ = self.connection.close().await; // the server releases them either way
    }
}
