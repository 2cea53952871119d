//! Rebuilding the read model from the log while it is in use: the projector's own sessions fold into a second set of
//! tables, up to where the live one stands; both are compared, and the second one takes the first one's place.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use archive::{Archive, base::StoredEpoch};
use eventlog::{EventLog, LogError, partition_of};
use model::{Offset, Partition, ScopeKey, ScopeRef};
use readmodel::{
    DatabaseConfig, ProjectionSet, ReadModelError,
    epochs::NewEpoch,
    feed::Feed,
    projection::Position,
    rebuild::{Cursors, Extent, Rebuild, ScopeDifference, Sums},
};
use serde::{Deserialize, Serialize};
use service::ops::{ComponentHandle, Readiness};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    ProjectorConfig, ProjectorError,
    session::{Aim, Session},
};

/// So many records are folded while whoever commits waits, at most.
const HELD_RECORDS_MAX: u64 = 500;
/// How often the live tables are asked for, when others have them, and how long apart.
const SWAP_TRIES: u32 = 200;
const SWAP_PAUSE: Duration = Duration::from_millis(100);
/// How long Postgres or the log may fail without a record being folded, and how long apart it is tried.
const FAIL_MAX: Duration = Duration::from_secs(60);
const FAIL_PAUSE: Duration = Duration::from_millis(500);

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
    /// `tenant/kind/name`, or the scope's reference where neither has its name.
    pub scope: String,
    pub problem: String,
}

/// What a rebuild came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// How many were compared, and how many of them differ.
    pub scopes: u64,
    pub differing: u64,
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
        let (feed, ready) = (Feed::new(false), Readiness::new().component("rebuild"));
        let mut work = Work { of: self, request, extent, rebuild, say, stop, feed, ready };
        let ended = work.run().await;
        let released = work.rebuild.release().await;
        work.rebuild.end().await;
        let rebuilt = ended?;
        released?;
        Ok(rebuilt)
    }
}

/// A rebuild that goes on.
struct Work<'a> {
    of: &'a Rebuilder,
    request: &'a RebuildRequest,
    extent: Extent,
    rebuild: Rebuild,
    say: &'a mpsc::Sender<Rebuilding>,
    stop: &'a CancellationToken,
    /// Nobody waits for what is folded here, and nobody is told whether it is ready.
    feed: Arc<Feed>,
    ready: ComponentHandle,
}

impl Work<'_> {
    async fn run(&mut self) -> Result<Rebuilt, RebuildError> {
        self.check_log().await?;
        if self.of.archive.is_none() && self.rebuild.is_recovered().await? {
            return Err(RebuildError::Recovered);
        }
        let resumed = self.prepare().await?;
        self.check_start(resumed).await?;
        self.come_near().await?;
        let (scopes, differing) = self.compare().await?;
        let mut rebuilt = Rebuilt {
            scopes,
            differing: differing.len() as u64,
            swapped: !self.request.dry_run,
            resumed,
            epoch: None,
        };
        if rebuilt.swapped {
            rebuilt.epoch = self.swap(&differing).await?;
        }
        self.rebuild.discard().await?;
        Ok(rebuilt)
    }

    /// Makes the second set, or goes on with what there is of it. True if it goes on.
    async fn prepare(&mut self) -> Result<bool, RebuildError> {
        // What was folded from a log that is cut now may be of what is lost.
        let anew = self.request.anew || self.request.cut_log;
        let resumed = self.rebuild.prepare(anew).await?;
        if resumed && self.is_ahead().await? {
            self.rebuild.prepare(true).await?;
            return Ok(false);
        }
        Ok(resumed)
    }

    /// Whether the rebuilt rows are past the live ones, which were put back meanwhile.
    async fn is_ahead(&mut self) -> Result<bool, RebuildError> {
        let live = self.rebuild.positions(ProjectionSet::Live).await?;
        let rebuilt = self.rebuild.positions(self.extent.set()).await?;
        let is_past = |rebuilt: &Position| {
            let live = live.iter().find(|live| live.partition == rebuilt.partition);
            live.is_some_and(|live| rebuilt.next_offset > live.next_offset)
        };
        Ok(rebuilt.iter().any(is_past))
    }

    fn partitions(&self) -> Vec<Partition> {
        let count = self.of.log.partitions();
        match &self.extent {
            Extent::All => (0..count).map(Partition::new).collect(),
            Extent::Scope(scope) => vec![partition_of(scope.to_string().as_bytes(), count)],
        }
    }

    /// The log must be the one that the live rows are folded from.
    async fn check_log(&mut self) -> Result<(), RebuildError> {
        let own = self.partitions();
        for position in self.rebuild.positions(ProjectionSet::Live).await? {
            if !own.contains(&position.partition) {
                continue;
            }
            match self.session(BTreeMap::new(), &|_| {}).check(&position).await {
                Err(ProjectorError::Truncated { .. } | ProjectorError::OtherRecord(_))
                    if self.request.cut_log => {}
                checked => {
                    checked?;
                }
            }
        }
        Ok(())
    }

    /// The fold begins with the first record, unless it has begun.
    async fn check_start(&mut self, resumed: bool) -> Result<(), RebuildError> {
        let begun = match resumed {
            true => self.rebuild.positions(self.extent.set()).await?,
            false => Vec::new(),
        };
        for partition in self.partitions() {
            let position = begun.iter().find(|position| position.partition == partition);
            let needed = position.map_or(Offset::ZERO, |position| position.next_offset);
            let start = self.of.log.bounds(partition).await?.start;
            if start > needed {
                return Err(RebuildError::LogBegins { partition, start });
            }
        }
        Ok(())
    }

    /// Where the live rows stand, or as far as the log goes, if it is cut.
    async fn until(&self, live: &[Position]) -> Result<BTreeMap<Partition, Offset>, RebuildError> {
        let own = self.partitions();
        let mut until = BTreeMap::new();
        for position in live.iter().filter(|position| own.contains(&position.partition)) {
            let end = match self.request.cut_log {
                true => self.of.log.bounds(position.partition).await?.end,
                false => position.next_offset,
            };
            until.insert(position.partition, end);
        }
        Ok(until)
    }

    /// Folds until little is left.
    async fn come_near(&mut self) -> Result<(), RebuildError> {
        loop {
            let live = self.rebuild.positions(ProjectionSet::Live).await?;
            let until = self.until(&live).await?;
            if self.left(&until).await? <= HELD_RECORDS_MAX {
                return Ok(());
            }
            self.fold(until, FAIL_MAX).await?;
        }
    }

    /// How many records are left to fold.
    async fn left(&mut self, until: &BTreeMap<Partition, Offset>) -> Result<u64, RebuildError> {
        let rebuilt = self.rebuild.positions(self.extent.set()).await?;
        let place = |partition: &Partition| {
            let position = rebuilt.iter().find(|position| position.partition == *partition);
            position.map_or(0, |position| position.next_offset.get())
        };
        Ok(until.iter().map(|(own, until)| until.get().saturating_sub(place(own))).sum())
    }

    /// Folds up to these places, with the projector's own session; again, where Postgres or the log fails, for as
    /// long as this.
    async fn fold(
        &self,
        until: BTreeMap<Partition, Offset>,
        patience: Duration,
    ) -> Result<(), RebuildError> {
        let of: u64 = until.values().map(|until| until.get()).sum();
        let furthest = AtomicU64::new(0);
        let folded = |records: u64| {
            furthest.fetch_max(records, Ordering::Relaxed);
            // Whoever is slow to listen hears the next one.
            let _ = self.say.try_send(Rebuilding::Folded { records, of });
        };
        let partitions: Vec<Partition> = until.keys().copied().collect();
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let ended = self.session(until.clone(), &folded).project(&partitions, self.stop).await;
            if self.stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
            let Err(error) = ended else { return Ok(()) };
            let now = furthest.load(Ordering::Relaxed);
            if now > last {
                (last, since) = (now, Instant::now());
            }
            if !error.is_retryable() || since.elapsed() >= patience {
                return Err(error.into());
            }
            tracing::warn!(%error, "rebuilding stopped; trying again");
            tokio::time::sleep(FAIL_PAUSE).await;
        }
    }

    /// A session of the projector that folds into the rebuilt set.
    fn session<'s>(
        &'s self,
        until: BTreeMap<Partition, Offset>,
        folded: &'s (dyn Fn(u64) + Send + Sync),
    ) -> Session<'s> {
        let scope = match &self.extent {
            Extent::All => None,
            Extent::Scope(scope) => Some(scope),
        };
        Session {
            config: &self.of.config,
            database: &self.of.database,
            log: &self.of.log,
            feed: &self.feed,
            ready: &self.ready,
            archive: self.of.archive.as_ref(),
            aim: Some(Aim { set: self.extent.set(), until, scope, folded }),
        }
    }

    /// Compares both sets at the same places. How many scopes there are, and which differ.
    async fn compare(&mut self) -> Result<(u64, Vec<ScopeRef>), RebuildError> {
        let live = self.rebuild.hold().await?;
        let until = self.until(&live).await?;
        self.fold(until, Duration::ZERO).await?;
        let mut comparing = self.rebuild.compare().await?;
        self.rebuild.release().await?;
        let mut differing = Vec::new();
        while let Some(found) = comparing.next().await? {
            for difference in found {
                differing.push(difference.reference);
                self.tell(Rebuilding::Differs(described(&difference))).await?;
            }
            let (scopes, of) = (comparing.done, comparing.total);
            self.tell(Rebuilding::Compared { scopes, of }).await?;
        }
        let done = comparing.done;
        comparing.end().await;
        Ok((done, differing))
    }

    async fn tell(&self, line: Rebuilding) -> Result<(), RebuildError> {
        if self.stop.is_cancelled() {
            return Err(RebuildError::Stopped);
        }
        self.say.send(line).await.map_err(|_| RebuildError::Stopped)
    }

    async fn swap(&mut self, differing: &[ScopeRef]) -> Result<Option<String>, RebuildError> {
        let cursors = match self.request.cut_log {
            true => Cursors::OfCutLog,
            false => Cursors::OfSamePlaces,
        };
        for _ in 0..SWAP_TRIES {
            self.come_near().await?;
            let held = match &self.extent {
                Extent::All => self.rebuild.hold_all().await?,
                Extent::Scope(_) => Some(self.rebuild.hold().await?),
            };
            if let Some(live) = held {
                let until = self.until(&live).await?;
                if self.left(&until).await? <= HELD_RECORDS_MAX {
                    self.fold(until, Duration::ZERO).await?;
                    if self.rebuild.parks_more().await? {
                        return Err(RebuildError::ParksMore);
                    }
                    let epoch = self.epoch(differing, cursors).await?;
                    self.rebuild.swap(epoch.as_ref()).await?;
                    self.of.feed.begin_anew();
                    return Ok(epoch.map(|new| new.epoch.to_string()));
                }
                self.rebuild.release().await?;
            }
            tokio::time::sleep(SWAP_PAUSE).await;
        }
        Err(RebuildError::Busy)
    }
}

impl Work<'_> {
    /// The epoch that begins, kept where it outlives the database.
    async fn epoch(
        &mut self,
        differing: &[ScopeRef],
        cursors: Cursors,
    ) -> Result<Option<NewEpoch>, RebuildError> {
        let Some((number, new)) = self.rebuild.epoch(differing, cursors).await? else {
            return Ok(None);
        };
        if let Some(archive) = &self.of.archive {
            let bases = new.bases.iter().map(|(scope, base)| (scope.0, *base)).collect();
            let stored = StoredEpoch { epoch: new.epoch, bases };
            let kept = stored.keep(archive, self.of.log.log_id(), number).await;
            kept.map_err(ProjectorError::from)?;
        }
        Ok(Some(new))
    }
}

fn described(found: &ScopeDifference) -> Difference {
    let scope = match &found.scope {
        Some(scope) => scope.to_string(),
        None => found.reference.0.to_string(),
    };
    let sums = |sums: &Option<Sums>| match sums {
        Some(Sums { head, count, digest }) => {
            format!("{count} messages up to cursor {head}, digest {digest}")
        }
        None => "nothing".to_owned(),
    };
    let mut problem = match found.live == found.rebuilt {
        true => format!("live and by the log {}", sums(&found.live)),
        false => format!("live {}; by the log {}", sums(&found.live), sums(&found.rebuilt)),
    };
    for (count, what) in [
        (found.messages, "messages"),
        (found.members, "members"),
        (found.outcomes, "outcomes"),
        (found.restores, "restores"),
        (found.dead_letters, "dead letters"),
    ] {
        if count > 0 {
            problem.push_str(&format!("; rows of {what} that differ: {count}"));
        }
    }
    if let Some(first) = found.first {
        problem.push_str(&format!(", the first at cursor {first}"));
    }
    Difference { scope, problem }
}
