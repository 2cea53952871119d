//! A rebuild that goes on: fold, compare, swap.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use archive::base::StoredEpoch;
use eventlog::partition_of;
use model::{Offset, Partition, ScopeRef};
use readmodel::{
    ProjectionSet,
    epochs::NewEpoch,
    feed::Feed,
    projection::Position,
    rebuild::{Cursors, Extent, Rebuild, ScopeDifference, Sums, TenantDifference},
};
use service::ops::{ComponentHandle, Readiness};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Difference, RebuildError, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use crate::{
    ProjectorError,
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

/// A rebuild that goes on.
pub(super) struct Work<'a> {
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

impl<'a> Work<'a> {
    pub(super) fn new(
        of: &'a Rebuilder,
        request: &'a RebuildRequest,
        extent: Extent,
        rebuild: Rebuild,
        say: &'a mpsc::Sender<Rebuilding>,
        stop: &'a CancellationToken,
    ) -> Self {
        let (feed, ready) = (Feed::new(false), Readiness::new().component("rebuild"));
        Self { of, request, extent, rebuild, say, stop, feed, ready }
    }

    /// However it ends, the live rows are let go of.
    pub(super) async fn run(mut self) -> Result<Rebuilt, RebuildError> {
        let ended = self.rebuild().await;
        let released = self.rebuild.release().await;
        self.rebuild.end().await;
        let rebuilt = ended?;
        released?;
        Ok(rebuilt)
    }

    async fn rebuild(&mut self) -> Result<Rebuilt, RebuildError> {
        self.check_log().await?;
        if self.of.archive.is_none() && self.rebuild.is_recovered().await? {
            return Err(RebuildError::Recovered);
        }
        let resumed = self.prepare().await?;
        self.check_start(resumed).await?;
        self.come_near().await?;
        let (scopes, differing, tenants) = self.compare().await?;
        if let (0, Extent::Scope(scope)) = (scopes, &self.extent) {
            let scope = scope.clone();
            self.rebuild.discard().await?;
            return Err(RebuildError::UnknownScope(scope));
        }
        let mut rebuilt = Rebuilt {
            scopes,
            differing: differing.len() as u64,
            tenants,
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

    /// Folds all that is there, and then until little is left that came meanwhile: a record may be hundreds of
    /// messages, and whoever commits would wait for it.
    async fn come_near(&mut self) -> Result<(), RebuildError> {
        let mut left_max = 0;
        loop {
            let live = self.rebuild.positions(ProjectionSet::Live).await?;
            let until = self.until(&live).await?;
            if self.left(&until).await? <= left_max {
                return Ok(());
            }
            self.fold(until, FAIL_MAX).await?;
            left_max = HELD_RECORDS_MAX;
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

    /// Compares both sets at the same places. How many scopes there are, which differ, and of how many tenants it does
    /// what they have.
    async fn compare(&mut self) -> Result<(u64, Vec<ScopeRef>, u64), RebuildError> {
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
        let tenants = comparing.tenants();
        for tenant in &tenants {
            self.tell(Rebuilding::Differs(of_tenant(tenant))).await?;
        }
        let done = comparing.done;
        comparing.end().await;
        Ok((done, differing, tenants.len() as u64))
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
            if self.stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
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

fn of_tenant(TenantDifference { tenant, live, rebuilt }: &TenantDifference) -> Difference {
    let sums = |(count, bytes): &(i64, i64)| format!("{count} messages with {bytes} bytes");
    let (live, rebuilt) = (sums(live), sums(rebuilt));
    let problem = format!("what quotas are compared with is {live}; by the log {rebuilt}");
    Difference { scope: tenant.clone(), problem }
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
        (found.history, "past versions"),
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
