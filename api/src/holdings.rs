//! What scopes hold, in memory, for those who compare: read once, then kept up with.
//!
//! A repair takes a few frames, each about the whole scope; and after an incident all devices of a team repair
//! at once. So what a frame is answered from is kept for the next one: 56 bytes a message, as it was at some
//! head. Whatever changed since has a greater cursor, so the next frame reads that alone. Nothing here is
//! state: another process answers the next frame as well (docs/decisions/0011-repair.md).

use std::{sync::Arc, time::Duration};

use contract::{Caller, problems};
use model::{Cursor, Epoch, MessageId, ScopeKey, ScopeRef, TenantId};
use moka::{policy::EvictionPolicy, sync::Cache};
use readmodel::{
    Pool,
    holding::{Holding, changed},
    pull::{Glance, Summary},
};
use repair::{Held, Items};
use service::Problem;
use tokio::sync::Mutex;

use crate::{
    ApiConfig,
    asking::{asker, permit_asking, permit_pull},
    places::{Place, Places},
    workers::{Workers, Working},
};

/// How long what nobody asks for any more is kept.
const KEPT_IDLE: Duration = Duration::from_secs(600);
/// Scopes that are read at the same time, at most; two of one turn wait for each other.
const TURNS: usize = 64;

/// The holdings of scopes, bounded in bytes and in how many work on them.
pub(crate) struct Holdings {
    pool: Pool,
    kept: Cache<ScopeRef, Arc<AtHead>>,
    /// Who comes first reads a scope; who comes meanwhile finds it read.
    turns: [Mutex<()>; TURNS],
    workers: Workers,
    admitted: Arc<Places>,
}

/// A scope's holdings at one head.
struct AtHead {
    epoch: Epoch,
    head: Cursor,
    items: Items,
}

/// What changed since some head, and all that goes with it: one snapshot.
struct Since {
    glance: Glance,
    live: Vec<Held>,
    deleted: Vec<MessageId>,
}

/// A scope's holdings, for one who has the right and the turn to work on them.
pub(crate) struct Current {
    at_head: Arc<AtHead>,
    turn: Turn,
}

/// Held until the work is done, also where nobody waits for it any more.
type Turn = Arc<(Working, Place)>;

impl Holdings {
    pub(crate) fn new(config: &ApiConfig, pool: Pool) -> Self {
        let weigh = |_: &ScopeRef, at_head: &Arc<AtHead>| {
            u32::try_from(at_head.items.bytes()).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder()
            .weigher(weigh)
            .max_capacity(u64::from(config.repair_cache_bytes_max))
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(KEPT_IDLE)
            .build();
        let (working, waiting) = (config.repairs_max as usize, config.repairs_waiting_max as usize);
        Self {
            pool,
            kept,
            turns: [const { Mutex::const_new(()) }; TURNS],
            workers: Workers::new(working),
            admitted: Places::new(working + waiting),
        }
    }

    /// # Errors
    /// 503 if too many work and wait already, or too many of this tenant.
    pub(crate) fn admit(&self, tenant: &TenantId) -> Result<Place, Problem> {
        self.admitted.take(tenant).ok_or_else(|| {
            Problem::unavailable("Too many repairs at once (repairs_waiting_max)").retry_after(1)
        })
    }

    /// What the scope holds, if the caller may pull.
    pub(crate) async fn current(
        &self,
        caller: &Caller,
        scope: &ScopeKey,
        place: Place,
    ) -> Result<Current, Problem> {
        permit_asking(scope)?;
        let reference = scope.reference();
        let leave = self.workers.leave(&scope.tenant).await.map_err(Problem::internal)?;
        let place_in_line = usize::from(reference.0.as_bytes()[15]) % TURNS;
        let _first = self.turns[place_in_line].lock().await;
        let working = self.workers.work(leave).await.map_err(Problem::internal)?;
        let turn = Arc::new((working, place));
        let at_head = match self.kept.get(&reference) {
            Some(kept) => {
                let since = self.ask(caller, scope, kept.head).await?;
                match blocking(&turn, move || kept.follow(since)).await? {
                    Some(at_head) => at_head,
                    None => self.read(caller, scope, &turn).await?,
                }
            }
            None => self.read(caller, scope, &turn).await?,
        };
        self.kept.insert(reference, at_head.clone());
        self.kept.run_pending_tasks();
        Ok(Current { at_head, turn })
    }

    async fn read(
        &self,
        caller: &Caller,
        scope: &ScopeKey,
        turn: &Turn,
    ) -> Result<Arc<AtHead>, Problem> {
        let all = self.ask(caller, scope, Cursor::ZERO).await?;
        let read = blocking(turn, move || AtHead::of(all)).await?;
        let damaged =
            || Problem::internal(format!("the messages of {scope} are not what it sums up to"));
        read.map(Arc::new).ok_or_else(damaged)
    }

    async fn ask(
        &self,
        caller: &Caller,
        scope: &ScopeKey,
        after: Cursor,
    ) -> Result<Since, Problem> {
        let (mut live, mut deleted) = (Vec::new(), Vec::new());
        let each = &mut |holding: Holding| match holding.live {
            true => live.push(Held::new(holding.id, holding.version)),
            false => deleted.push(holding.id),
        };
        let glance = changed(&self.pool, &asker(caller, scope), after, each)
            .await
            .map_err(|error| problems::of_read_model(&error))?;
        permit_pull(caller, scope, &glance)?;
        Ok(Since { glance, live, deleted })
    }
}

impl AtHead {
    /// `None`: the messages are not what the scope says that they sum up to.
    fn of(all: Since) -> Option<Self> {
        let summary = all.glance.summary;
        let items = Items::new(all.live);
        let at_head = Self { epoch: summary.epoch, head: summary.head, items };
        at_head.is(&summary).then_some(at_head)
    }

    /// Brings in what changed since; `None`: this is not what it changed from.
    fn follow(self: Arc<Self>, since: Since) -> Option<Arc<Self>> {
        let summary = since.glance.summary;
        // Of what was deleted up to the floor nothing is told any more.
        let follows = self.epoch == summary.epoch && summary.floor <= self.head;
        if !follows || summary.head < self.head {
            return None;
        }
        if summary.head == self.head {
            return self.is(&summary).then_some(self);
        }
        let mut items = self.items.clone();
        items.change(since.live, &since.deleted);
        let at_head = Self { epoch: summary.epoch, head: summary.head, items };
        at_head.is(&summary).then(|| Arc::new(at_head))
    }

    fn is(&self, summary: &Summary) -> bool {
        (self.items.count(), self.items.digest()) == (summary.count, summary.digest)
    }
}

impl Current {
    /// Works on the items, where no request waits for the thread.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Items) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let at_head = self.at_head.clone();
        blocking(&self.turn, move || work(&at_head.items)).await
    }
}

async fn blocking<T: Send + 'static>(
    turn: &Turn,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let turn = turn.clone();
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)
}

#[cfg(test)]
mod tests {
    use model::{BodyHash, Digest, Timestamp, Version};
    use uuid::Uuid;

    use super::*;

    fn held(id: u128, micros: i64) -> Held {
        let version =
            Version { updated_at: Timestamp::from_micros(micros), body: BodyHash([7; 32]) };
        Held::new(MessageId(Uuid::from_u128(id)), version)
    }

    fn digest(live: &[Held]) -> Digest {
        let mut digest = Digest::EMPTY;
        live.iter().for_each(|held| digest.add(held.item));
        digest
    }

    /// A snapshot that tells of these, and says that all of those are there.
    fn since(head: u64, live: &[Held], deleted: &[u128], all: &[Held]) -> Since {
        let summary = Summary {
            head: Cursor::new(head).unwrap(),
            floor: Cursor::ZERO,
            count: all.len() as u64,
            digest: digest(all),
            epoch: Epoch(Uuid::nil()),
            rebuilds: 0,
        };
        let deleted = deleted.iter().map(|id| MessageId(Uuid::from_u128(*id))).collect();
        let glance = Glance { exists: true, member: None, summary };
        Since { glance, live: live.to_vec(), deleted }
    }

    fn three() -> ([Held; 3], Arc<AtHead>) {
        let three = [held(1, 10), held(2, 20), held(3, 30)];
        let at_head = AtHead::of(since(3, &three, &[], &three)).unwrap();
        (three, Arc::new(at_head))
    }

    #[test]
    fn what_is_not_what_it_sums_up_to_is_not_believed() {
        let ([one, two, three], at_head) = three();
        assert!(AtHead::of(since(3, &[one, two], &[], &[one, two, three])).is_none());
        assert!(AtHead::of(since(3, &[one, two, three], &[], &[one, two, held(3, 31)])).is_none());
        // A change that was not told of.
        assert!(at_head.clone().follow(since(4, &[], &[], &[one, two])).is_none());
        assert!(at_head.clone().follow(since(3, &[], &[], &[one, two])).is_none());
        assert!(at_head.follow(since(4, &[held(4, 40)], &[], &[one, two, three])).is_none());
    }

    #[test]
    fn what_changed_is_followed() {
        let ([one, two, three], at_head) = three();
        let same = at_head.clone().follow(since(3, &[], &[], &[one, two, three])).unwrap();
        assert!(Arc::ptr_eq(&same, &at_head), "nothing is copied");
        let (edited, new) = (held(2, 50), held(4, 5));
        let told = since(6, &[edited, new], &[3], &[one, edited, new]);
        let after = at_head.follow(told).unwrap();
        assert_eq!((after.head.get(), after.items.count()), (6, 3));
        assert_eq!(after.items, Items::new(vec![one, edited, new]));
    }

    #[test]
    fn another_history_is_not_followed() {
        let (all, at_head) = three();
        let mut other = since(4, &[], &[], &all);
        other.glance.summary.epoch = Epoch(Uuid::from_u128(1));
        assert!(at_head.clone().follow(other).is_none());
        // Deletions may have been forgotten since.
        let mut forgetful = since(5, &[], &[], &all);
        forgetful.glance.summary.floor = Cursor::new(4).unwrap();
        assert!(at_head.clone().follow(forgetful).is_none());
        // The read model went back.
        assert!(at_head.follow(since(2, &[], &[], &all)).is_none());
    }
}
