//! Pulls that find nothing new. Most pulls do, so they are to cost next to nothing.
//!
//! Where the projector of this process is the only one, what it said last is the answer. Elsewhere one
//! small query, shared by all who ask at the same time, takes the place of a page for each; it is asked
//! only where the head that this process saw last lets expect that there is nothing.

use std::sync::Arc;

use model::{Cursor, Epoch, ScopeKey, ScopeRef, UserId};
use moka::sync::Cache;
use readmodel::{
    Pool, ReadModelError,
    feed::Feed,
    gather::{Ask, Gather, Unanswered},
    memory::Generation,
    pull::{Glance, GlanceQuery, Page, Summary, glances},
};
use service::Problem;

/// Heads remembered at once.
const HEADS_MAX: u64 = 100_000;

/// Asks the read model for the glances of many.
struct Glances(Pool);

impl Ask for Glances {
    type Question = GlanceQuery;
    type Answer = Glance;

    async fn ask(&self, questions: &[GlanceQuery]) -> Result<Vec<Glance>, ReadModelError> {
        glances(&self.0, questions).await
    }
}

/// Answers pulls that find nothing new.
pub(crate) struct Idle {
    feed: Arc<Feed>,
    /// The greatest heads that this process saw. They may be old, so they only say what to ask; but no
    /// scope goes back behind them, unless the read model lost something.
    heads: Cache<ScopeRef, (Epoch, Cursor)>,
    gather: Gather<Glances>,
}

/// The read model shows less than it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WentBack;

impl WentBack {
    pub(crate) fn problem(self) -> Problem {
        Problem::unavailable("The read model is being folded again after a crash of its database")
            .retry_after(1)
    }
}

/// A page that is about to be asked for.
pub(crate) struct Asking {
    scope: ScopeRef,
    generation: Option<Generation>,
    /// What was seen before: the answer is no older than that. It may well be older than what others see meanwhile.
    seen: Option<(Epoch, Cursor)>,
}

impl Idle {
    pub(crate) fn new(feed: Arc<Feed>, pool: Pool) -> Self {
        Self { feed, heads: Cache::new(HEADS_MAX), gather: Gather::new(Glances(pool)) }
    }

    /// What there is to say to one whose cursor is the head; `None` if that is not known, and a page is
    /// to be asked for.
    pub(crate) async fn glance(
        &self,
        scope: &ScopeKey,
        user: &UserId,
        cursor: Cursor,
    ) -> Result<Option<Glance>, Unanswered> {
        let reference = scope.reference();
        let at_head = |glance: &Glance| glance.summary.head == cursor;
        if let Some(memory) = self.feed.memory() {
            return Ok(memory.glance(reference, user).filter(at_head));
        }
        if self.heads.get(&reference).is_none_or(|(_, head)| head != cursor) {
            return Ok(None);
        }
        Ok(Some(self.ask(scope, user).await?).filter(at_head))
    }

    /// Asks Postgres, with whoever else asks.
    async fn ask(&self, scope: &ScopeKey, user: &UserId) -> Result<Glance, Unanswered> {
        let (tenant, user) = (scope.tenant.clone(), user.clone());
        self.gather.ask(GlanceQuery { scope: scope.reference(), tenant, user }).await
    }

    /// What there is to say to one for whom a page of the scope as it was then is kept; `None` if it is not known to be as
    /// it was.
    pub(crate) async fn now(
        &self,
        scope: &ScopeKey,
        user: &UserId,
        then: &Summary,
    ) -> Result<Option<Glance>, Unanswered> {
        let reference = scope.reference();
        let unchanged = |glance: &Glance| glance.summary == *then;
        if let Some(memory) = self.feed.memory() {
            return Ok(memory.glance(reference, user).filter(unchanged));
        }
        if self.heads.get(&reference) != Some((then.epoch, then.head)) {
            return Ok(None);
        }
        Ok(Some(self.ask(scope, user).await?).filter(unchanged))
    }

    /// To be called before a page is asked for.
    pub(crate) fn asking(&self, scope: &ScopeKey) -> Asking {
        let scope = scope.reference();
        let generation = self.feed.memory().map(|memory| memory.generation(scope));
        Asking { scope, generation, seen: self.heads.get(&scope) }
    }

    /// Remembers what a page said.
    ///
    /// # Errors
    /// The scope's head is behind one that was seen before it was asked for: Postgres crashed and lost its last moments, which
    /// are being folded again.
    pub(crate) fn saw(&self, asking: Asking, user: &UserId, page: &Page) -> Result<(), WentBack> {
        let Summary { epoch, head, .. } = page.summary;
        if asking.seen.is_some_and(|(of, seen)| of == epoch && head < seen) {
            return Err(WentBack);
        }
        let newest = self.heads.get(&asking.scope);
        if newest.is_none_or(|(of, newest)| of != epoch || newest < head) {
            self.heads.insert(asking.scope, (epoch, head));
        }
        if let (Some(memory), Some(generation)) = (self.feed.memory(), asking.generation) {
            memory.remember(asking.scope, user, generation, page.glance());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model::Digest;

    use super::*;

    fn page(epoch: u128, head: u64) -> Page {
        let head = Cursor::new(head).unwrap();
        let epoch = Epoch(uuid::Uuid::from_u128(epoch));
        let (floor, digest) = (Cursor::ZERO, Digest::EMPTY);
        let summary = Summary { head, floor, count: 0, digest, epoch, rebuilds: 0 };
        Page::empty(Glance { exists: true, member: None, summary })
    }

    #[tokio::test]
    async fn a_scope_that_goes_back_is_not_believed_within_an_epoch() {
        let config = readmodel::DatabaseConfig {
            database_url: Some("postgres://nobody@127.0.0.1:1/none".into()),
            database_connections: 1,
            database_acquire_timeout_ms: 1,
            database_statement_timeout_ms: 1,
        };
        let pool = readmodel::pool(&config, readmodel::DatabaseRole::Watcher).unwrap();
        let idle = Idle::new(Feed::new(false), pool);
        let (scope, ann) = ("acme/user/ann".parse().unwrap(), UserId::new("ann").unwrap());
        let saw = |epoch, head| idle.saw(idle.asking(&scope), &ann, &page(epoch, head));
        assert_eq!(saw(1, 5), Ok(()));
        assert_eq!(saw(1, 5), Ok(()));
        assert_eq!(saw(1, 4), Err(WentBack));
        assert_eq!(saw(1, 6), Ok(()));
        assert_eq!(saw(1, 5), Err(WentBack));
        assert_eq!(saw(2, 0), Ok(()), "another epoch has cursors of its own");
        // One that was asked for before another's page was seen may be older than that.
        let early = idle.asking(&scope);
        assert_eq!(saw(2, 3), Ok(()));
        assert_eq!(idle.saw(early, &ann, &page(2, 2)), Ok(()));
        assert_eq!(saw(2, 2), Err(WentBack), "the later one is what counts");
    }
}
