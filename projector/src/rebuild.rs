//! Rebuilding the read model from the log while it is in use: the projector's own sessions fold into a second set of
//! tables, up to where the live one stands; both are compared, and the second one takes the first one's place.

mod folding;
mod work;

use std::sync::Arc;

use archive::Archive;
use eventlog::{EventLog, LogError};
use model::{Offset, Partition, ScopeKey};
use readmodel::{
    DatabaseConfig, ReadModelError,
    feed::Feed,
    rebuild::{Extent, Rebuild},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{ProjectorConfig, ProjectorError};
use work::Work;

/// Rebuilds a read model.
pub struct Rebuilder {
    pub config: ProjectorConfig,
    /// The login must own the tables.
    pub database: DatabaseConfig,
    pub log: Arc<dyn EventLog>,
    /// A log that was recovered begins with what it has.
    pub archive: Option<Archive>,
    /// Of the roles of this process: what they remember of the rows before is forgotten.
    pub feed: Arc<Feed>,
}

/// What is to be rebuilt, and how.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RebuildRequest {
    /// One scope, `tenant/kind/name`; all if there is none.
    pub scope: Option<String>,
    /// Compare, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Begin anew, whatever an earlier rebuild left.
    #[serde(default)]
    pub anew: bool,
    /// The log has lost records for good: go on from what is left of it.
    #[serde(default)]
    pub cut_log: bool,
}

/// What a rebuild says while it goes on; the last is `Done` or `Failed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rebuilding {
    /// So many records are folded, of those that the live rows are made of.
    Folded {
        records: u64,
        of: u64,
    },
    /// So many scopes are compared.
    Compared {
        scopes: u64,
        of: u64,
    },
    /// A scope that is not what its events come to.
    Differs(Difference),
    Done(Rebuilt),
    Failed(String),
}

/// How a scope differs. What is of the live rows is before what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `tenant/kind/name`, or the scope's reference where neither has its name; of what a tenant has, the tenant.
    pub scope: String,
    pub problem: String,
}

/// What a rebuild came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// How many were compared, and how many of them differ.
    pub scopes: u64,
    pub differing: u64,
    /// Tenants of which the rows say that they have more or less than it is: quotas are compared with that.
    #[serde(default)]
    pub tenants: u64,
    /// The rebuilt rows have taken the live ones' place.
    pub swapped: bool,
    /// It went on with what an earlier rebuild left.
    pub resumed: bool,
    /// The epoch that began, because cursors say something else now.
    pub epoch: Option<String>,
}

/// Why a rebuild ended. The live rows are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Projector(#[from] ProjectorError),
    #[error("the rebuild was stopped; started again, it goes on from there")]
    Stopped,
    #[error("{0:?} is no scope; it takes tenant/kind/name, kind being user, team, project or org")]
    NoScope(String),
    #[error(
        "partition {partition} of the log begins at offset {start}: retention removed what was before. With an archive that \
         has it (--archive), the rebuild begins there"
    )]
    LogBegins { partition: Partition, start: Offset },
    #[error("the log was recovered: it begins with what the archive has. Name it with --archive")]
    Recovered,
    /// The rebuilt set lacks events that the live one has.
    #[error(
        "the database refuses an event of the log that the live rows have (dead_letters of schema \
         context_sync_rebuilt): nothing was swapped. Report its reason"
    )]
    ParksMore,
    #[error(
        "the tables were in use all the time; try again when there is less to do, it goes on from here"
    )]
    Busy,
    #[error("there is no scope {0}, in the rows or by the log")]
    UnknownScope(ScopeKey),
    #[error("--cut-log is for a whole read model, not for one scope")]
    CutScope,
}

impl From<ReadModelError> for RebuildError {
    fn from(error: ReadModelError) -> Self {
        Self::Projector(error.into())
    }
}

impl From<LogError> for RebuildError {
    fn from(error: LogError) -> Self {
        Self::Projector(error.into())
    }
}

impl Rebuilder {
    /// Rebuilds, and says how it goes; ends when nobody listens any more, or at a shutdown. The last thing that is
    /// said is how it ended.
    pub async fn run(
        self,
        request: RebuildRequest,
        say: mpsc::Sender<Rebuilding>,
        shutdown: CancellationToken,
    ) {
        let stop = shutdown.child_token();
        let work = self.rebuild(&request, &say, &stop);
        tokio::pin!(work);
        let ended = tokio::select! {
            ended = &mut work => ended,
            () = say.closed() => {
                stop.cancel();
                work.await
            }
        };
        let last = match ended {
            Ok(rebuilt) => Rebuilding::Done(rebuilt),
            Err(error) => Rebuilding::Failed(error.to_string()),
        };
        let _ = say.send(last).await; // whoever asked may have gone
    }

    async fn rebuild(
        &self,
        request: &RebuildRequest,
        say: &mpsc::Sender<Rebuilding>,
        stop: &CancellationToken,
    ) -> Result<Rebuilt, RebuildError> {
        let scope = request.scope.as_ref().map(|scope| {
            scope.parse::<ScopeKey>().map_err(|_| RebuildError::NoScope(scope.clone()))
        });
        let extent = scope.transpose()?.map_or(Extent::All, Extent::Scope);
        if request.cut_log && extent != Extent::All {
            return Err(RebuildError::CutScope);
        }
        let (log, partitions) = (self.log.log_id(), self.log.partitions());
        let rebuild = Rebuild::begin(&self.database, log, partitions, extent.clone()).await?;
        Work::new(self, request, extent, rebuild, say, stop).run().await
    }
}
