//! A rebuild that goes on: fold, compare, swap.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use archive::base;
use eventlog::partition_of;
use model::{Offset, Partition};
use readmodel::{
    ProjectionSet,
    feed::Feed,
    projection::Position,
    rebuild::{
        Comparing, Cursors, DifferingScope, Extent, Rebuild, ScopeDifference, Sums,
        TenantDifference,
    },
};
use service::ops::{ComponentHandle, Readiness};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Difference, RebuildError, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use crate::{ProjectorError, epochs};

/// How often the live rows are asked for, when others have them or too much comes, and how long apart.
const HOLD_TRIES: u32 = 200;
const HOLD_PAUSE: Duration = Duration::from_millis(100);
/// How often a swap is put off because somebody has asked before the last records were folded, and goes on.
const OLDER_TRIES: u32 = 5;

/// A rebuild that goes on.
pub(super) struct Work<'a> {
    pub(super) of: &'a Rebuilder,
    pub(super) request: &'a RebuildRequest,
    pub(super) extent: Extent,
    pub(super) rebuild: Rebuild,
    pub(super) say: &'a mpsc::Sender<Rebuilding>,
    pub(super) stop: &'a CancellationToken,
    /// Nobody waits for what is folded here, and nobody is told whether it is ready.
    pub(super) feed: Arc<Feed>,
    pub(super) ready: ComponentHandle,
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
        let (compared, mut kept) = self.compare().await?;
        if let (0, Extent::Scope(scope)) = (compared.scopes, &self.extent) {
            let scope = scope.clone();
            self.rebuild.discard().await?;
            return Err(RebuildError::UnknownScope(scope));
        }
        let mut rebuilt = Rebuilt { resumed, ..compared };
        if rebuilt.swapped {
            rebuilt.epoch = self.swap(&mut kept).await?;
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

    pub(super) fn partitions(&self) -> Vec<Partition> {
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

    /// Compares both sets at the same places. What it came to, and, for a swap, what each scope that differs keeps.
    async fn compare(&mut self) -> Result<(Rebuilt, Vec<DifferingScope>), RebuildError> {
        let mut comparing = self.begin_comparing().await?;
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
        let cursors = match self.request.cut_log {
            true => Cursors::OfCutLog,
            false => Cursors::OfSamePlaces,
        };
        let kept = match self.request.dry_run {
            true => Vec::new(),
            false => comparing.kept(&differing, cursors).await?,
        };
        let compared = Rebuilt {
            scopes: comparing.done,
            differing: differing.len() as u64,
            tenants: tenants.len() as u64,
            swapped: !self.request.dry_run,
            resumed: false,
            epoch: None,
        };
        comparing.end().await;
        Ok((compared, kept))
    }

    /// Once both sets are at the same places: what is compared is as it was then.
    async fn begin_comparing(&mut self) -> Result<Comparing, RebuildError> {
        for tries in 0..HOLD_TRIES {
            if self.hold(tries).await? {
                let comparing = self.rebuild.compare().await?;
                self.rebuild.release().await?;
                return Ok(comparing);
            }
        }
        Err(RebuildError::Busy)
    }

    /// Holds the live rows, with both sets at the same places. False if that is not to be had without others waiting
    /// for long: after a pause, then, which ends here.
    async fn hold(&mut self, tries: u32) -> Result<bool, RebuildError> {
        if self.stop.is_cancelled() {
            return Err(RebuildError::Stopped);
        }
        self.come_near().await?;
        if let Some(live) = self.rebuild.hold().await? {
            if self.fold_held(&live, tries).await? {
                return Ok(true);
            }
            self.rebuild.release().await?;
        }
        tokio::time::sleep(HOLD_PAUSE).await;
        Ok(false)
    }

    async fn tell(&self, line: Rebuilding) -> Result<(), RebuildError> {
        if self.stop.is_cancelled() {
            return Err(RebuildError::Stopped);
        }
        self.say.send(line).await.map_err(|_| RebuildError::Stopped)
    }

    async fn swap(
        &mut self,
        differing: &mut [DifferingScope],
    ) -> Result<Option<String>, RebuildError> {
        if let Some(archive) =
            self.of.archive.as_ref().filter(|_| self.rebuild.epoch(differing).is_some())
        {
            // It will have to take the epoch: better no swap than one that may be forgotten.
            base::epochs(archive, self.of.log.log_id()).await.map_err(ProjectorError::from)?;
        }
        for tries in 0..HOLD_TRIES {
            if !self.hold(tries).await? {
                continue;
            }
            if self.rebuild.parks_more().await? {
                return Err(RebuildError::ParksMore);
            }
            self.rebuild.look_again(differing).await?;
            let epoch = self.rebuild.epoch(differing);
            let swapped = self.rebuild.swap(epoch.as_ref(), tries < OLDER_TRIES).await;
            if !matches!(swapped, Ok(false)) {
                self.of.feed.begin_anew(); // also where the answer was lost
            }
            if swapped? {
                self.keep_epoch().await;
                return Ok(epoch.map(|new| new.epoch.to_string()));
            }
            tokio::time::sleep(HOLD_PAUSE).await;
        }
        Err(RebuildError::Busy)
    }

    /// The epoch that began is kept where it outlives the database.
    async fn keep_epoch(&self) {
        let Some(archive) = &self.of.archive else { return };
        let kept = epochs::keep(&self.of.database, archive, self.of.log.log_id()).await;
        if let Err(error) = kept {
            tracing::warn!(%error, "the archive has not got the epoch yet: the projector tries again");
        }
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
