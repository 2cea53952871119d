//! What the projector of this process said last of a scope: enough to answer "nothing new" without
//! asking Postgres. Only for a log that no other process can project: then nobody else moves a scope.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use model::{Heading, Role, ScopeRef, UserId};
use moka::sync::Cache;

use crate::{
    feed::Committed,
    pull::{Glance, Summary},
};

/// Scopes, and users of scopes, remembered at once. The rest is asked of Postgres.
const REMEMBERED_MAX: u64 = 50_000;
/// So many that commits under way rarely share one with a pull.
const SHARDS: usize = 4_096;

/// How often the scopes of a shard were committed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

/// Remembered glances.
pub struct Memory {
    summaries: Cache<ScopeRef, (bool, Summary)>,
    members: Cache<(ScopeRef, UserId), Option<Option<Role>>>,
    /// A commit and the remembering of what was read before it exclude each other.
    shards: Vec<Mutex<Shard>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shard {
    generation: u64,
    /// Commits that are under way, or whose answer was lost: what Postgres has is not known, so nothing is
    /// answered or remembered.
    unknown: u32,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            summaries: Cache::new(REMEMBERED_MAX),
            members: Cache::new(REMEMBERED_MAX),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Memory {
    fn shard(&self, scope: ScopeRef) -> MutexGuard<'_, Shard> {
        self.shards[place(scope)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before Postgres is asked what is then remembered.
    pub fn generation(&self, scope: ScopeRef) -> Generation {
        Generation(self.shard(scope).generation)
    }

    /// What is remembered of a scope and one of its users, if both are.
    pub fn glance(&self, scope: ScopeRef, user: &UserId) -> Option<Glance> {
        let shard = self.shard(scope);
        if shard.unknown > 0 {
            return None;
        }
        let (exists, summary) = self.summaries.get(&scope)?;
        let member = self.members.get(&(scope, user.clone()))?;
        Some(Glance { exists, member, summary })
    }

    /// Remembers what Postgres said, unless a commit came between the question and now.
    pub fn remember(&self, scope: ScopeRef, user: &UserId, asked: Generation, glance: Glance) {
        let shard = self.shard(scope);
        if shard.generation == asked.0 && shard.unknown == 0 {
            self.summaries.insert(scope, (glance.exists, glance.summary));
            self.members.insert((scope, user.clone()), glance.member);
        }
    }

    /// A commit is about to be sent: until its answer, who knows.
    pub(crate) fn committing(&self, committed: &Committed) {
        for scope in touched(committed) {
            let mut shard = self.shard(scope);
            shard.generation += 1;
            shard.unknown += 1;
        }
    }

    /// Takes over what a commit changed. Called before anyone is told of the commit.
    pub(crate) fn committed(&self, committed: &Committed) {
        for (scope, heading) in &committed.scopes {
            let _shard = self.shard(*scope);
            if let Some((_, summary)) = self.summaries.get(scope) {
                self.summaries.insert(*scope, (heading.exists, summarised(summary, heading)));
            }
        }
        for (scope, user) in &committed.members {
            let _shard = self.shard(*scope);
            self.members.invalidate(&(*scope, user.clone()));
        }
        for scope in touched(committed) {
            let mut shard = self.shard(scope);
            // Also what was asked while the commit was under way is older than it.
            shard.generation += 1;
            shard.unknown = shard.unknown.saturating_sub(1);
        }
    }

    /// The database refused the commit under way: all is as it was.
    pub(crate) fn refused(&self, committed: &Committed) {
        for scope in touched(committed) {
            let mut shard = self.shard(scope);
            shard.unknown = shard.unknown.saturating_sub(1);
        }
    }

    /// Forgets a scope that another than the projector has moved.
    pub(crate) fn forget_scopes(&self, moved: &Committed) {
        for scope in touched(moved) {
            let mut shard = self.shard(scope);
            // Also what was asked before is older than this.
            shard.generation += 1;
            self.summaries.invalidate(&scope);
        }
        for (scope, user) in &moved.members {
            self.members.invalidate(&(*scope, user.clone()));
        }
    }

    /// Forgets everything: an answer was lost, and with it what the read model has. To be called once
    /// that is settled again, which is when the positions could be read.
    pub(crate) fn forget(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.generation += 1;
            shard.unknown = 1;
        }
        self.summaries.invalidate_all();
        self.members.invalidate_all();
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).unknown = 0;
        }
    }
}

/// The shard of a scope.
fn place(scope: ScopeRef) -> usize {
    let mut hasher = DefaultHasher::new();
    scope.hash(&mut hasher);
    hasher.finish() as usize % SHARDS
}

fn touched(committed: &Committed) -> impl Iterator<Item = ScopeRef> {
    let scopes = committed.scopes.iter().map(|(scope, _)| *scope);
    scopes.chain(committed.members.iter().map(|(scope, _)| *scope))
}

fn summarised(old: Summary, heading: &Heading) -> Summary {
    Summary {
        head: heading.head,
        floor: heading.floor,
        count: heading.count,
        digest: heading.digest,
        ..old
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
