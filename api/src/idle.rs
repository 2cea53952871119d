//! Pulls that find nothing new. Most pulls do, so they are to cost next to nothing.
//!
//! Where the projector of this process is the only one, what it said last is the answer. Elsewhere one
//! small query, shared by all who ask at the same time, takes the place of a page for each; it is asked
//! only where the head that this process saw last lets expect that there is nothing.

use std::sync::Arc;

use model::{Cursor, ScopeKey, ScopeRef, UserId};
use moka::sync::Cache;
use readmodel::{
    PgPool, ReadModelError,
    feed::Feed,
    gather::{Ask, Gather, Unanswered},
    memory::Generation,
    pull::{Glance, GlanceQuery, Page, glances},
};

/// Heads remembered at once.
const HEADS_MAX: u64 = 100_000;

/// Asks the read model for the glances of many.
struct Glances(PgPool);

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
    /// The heads that this process saw last: they may be old, so they only say what to ask.
    heads: Cache<ScopeRef, Cursor>,
    gather: Gather<Glances>,
}

/// A page that is about to be asked for.
pub(crate) struct Asking {
    scope: ScopeRef,
    generation: Option<Generation>,
}

impl Idle {
    pub(crate) fn new(feed: Arc<Feed>, pool: PgPool) -> Self {
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
        if self.heads.get(&reference) != Some(cursor) {
            return Ok(None);
        }
        let glance = self.gather.ask((scope.clone(), user.clone())).await?;
        Ok(Some(glance).filter(at_head))
    }

    /// To be called before a page is asked for.
    pub(crate) fn asking(&self, scope: &ScopeKey) -> Asking {
        let scope = scope.reference();
        Asking { scope, generation: self.feed.memory().map(|memory| memory.generation(scope)) }
    }

    /// Remembers what a page said.
    pub(crate) fn saw(&self, asking: Asking, user: &UserId, page: &Page) {
        match (self.feed.memory(), asking.generation) {
            (Some(memory), Some(generation)) => {
                memory.remember(asking.scope, user, generation, page.glance());
            }
            _ => self.heads.insert(asking.scope, page.summary.head),
        }
    }
}
