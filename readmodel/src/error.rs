//! What can go wrong with the read model, by what the caller can do about it.

use model::{LogId, Partition};

#[derive(Debug, thiserror::Error)]
pub enum ReadModelError {
    /// Try again: the database is down, busy, or gave up on a deadlock.
    #[error("Postgres cannot be used now: {0}")]
    Unavailable(#[source] sqlx::Error),

    /// It cannot be reached, or lets nobody in.
    #[error(
        "Postgres at {at} cannot be used: {source}; check DATABASE_URL or --database-url, and that it runs there"
    )]
    NoLogin {
        /// `host:port/database`.
        at: String,
        source: sqlx::Error,
    },

    /// The login may not do this; an operator may grant it.
    #[error("the database login may not do this; it must be a member of the role it takes: {0}")]
    Forbidden(#[source] sqlx::Error),

    /// The database refuses this data, whatever the number of tries.
    #[error("Postgres refuses the data: {0}")]
    Refused(#[source] sqlx::Error),

    /// A position is not where the batch began: another projector got there first, or an earlier
    /// commit of one's own lost its answer. Reload the positions and go on from there.
    #[error("a partition's position is not the expected one: another projector moved it")]
    PositionMoved,

    /// Some of what a batch takes to be new is there already: load what it touches, and fold it again.
    #[error("what was taken to be new is there already")]
    NotNew,

    /// Tables that were being filled from the archive are of a log by now: begin again with what they have.
    #[error("another projector has begun the read model meanwhile")]
    BegunElsewhere,

    /// An operator's command, by a login that does not own what it is about.
    #[error("this login may not do that ({0}): use the one that migrates; nothing was changed")]
    MayNotSet(#[source] sqlx::Error),

    #[error("no database is configured: set DATABASE_URL or --database-url")]
    NotConfigured,

    #[error(
        "--database-url is no Postgres URL; it takes postgres://user:password@host:port/database"
    )]
    InvalidUrl,

    #[error("the database holds no read model of this version: run `context-sync migrate`")]
    NotMigrated,

    #[error("migrating failed: {0}")]
    Migration(#[source] sqlx::migrate::MigrateError),

    /// The rows were folded from a different log; going on would mix two histories.
    #[error(
        "the read model was built from log {stored}, this log is {found}: name the log that it is of (--log, \
         --log-topic-prefix, --log-dir), or the database that is of this log. If {stored} is lost, `context-sync ops \
         recover` goes on from its archive"
    )]
    OtherLog { stored: LogId, found: LogId },

    #[error(
        "the read model is of no log yet, or is still being filled from it: start a projector on it, and wait until it is ready"
    )]
    OfNoLog,

    #[error(
        "another rebuild works on this database: wait for it, or stop it (what it did is gone on from)"
    )]
    RebuildRuns,

    /// The rebuilt tables are not what the live ones are any more.
    #[error("the read model was migrated meanwhile: nothing was swapped; start the rebuild again")]
    MigratedMeanwhile,

    /// Creating and replacing tables is the owner's.
    #[error(
        "the database login {login} does not own the read model's tables: a rebuild needs the one that \
         runs `context-sync migrate`"
    )]
    NotOwner { login: String },

    #[error("the read model was built with {stored} partitions, the log has {found}")]
    OtherPartitionCount { stored: u32, found: u32 },

    #[error(
        "the read model has no position of partition {0}: it is damaged, drop its schema to rebuild it"
    )]
    NoPosition(Partition),

    /// Rows are behind the position: an operator must retry what is parked first.
    #[error("events of partition {0} are parked: its rows are not what the log folds to")]
    Parked(Partition),

    /// A row holds what no fold writes.
    #[error("the read model is damaged: {0}")]
    Damaged(String),
}

impl ReadModelError {
    /// Whether it is the database's answer to a statement that may succeed later: whoever asked may go on asking.
    pub fn is_of_statement(&self) -> bool {
        matches!(self, Self::Unavailable(sqlx::Error::Database(_)) | Self::Forbidden(_))
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::NoLogin { .. }
                | Self::Forbidden(_)
                | Self::OfNoLog
                | Self::BegunElsewhere
        )
    }
}

impl From<sqlx::Error> for ReadModelError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // 22: data exception, 23: integrity constraint violation.
                Some(code) if code.starts_with("22") || code.starts_with("23") => {
                    Self::Refused(error)
                }
                Some("42501") => Self::Forbidden(error),
                // Undefined table, schema or function: not migrated.
                Some("42P01" | "3F000" | "42883" | "42704") => Self::NotMigrated,
                _ => Self::Unavailable(error),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Damaged(error.to_string())
            }
            sqlx::Error::Encode(_) => Self::Refused(error),
            _ => Self::Unavailable(error),
        }
    }
}
