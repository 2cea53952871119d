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
const SHARDS: usize = 64;

/// How often the scopes of a shard were committed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

/// Remembered glances.
pub struct Memory {
    summaries: Cache<ScopeRef, (bool, Summary)>,
    members: Cache<(ScopeRef, UserId), Option<Option<Role>>>,
    /// A commit and the remembering of what was read before it exclude each other.
    generations: [Mutex<u64>; SHARDS],
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            summaries: Cache::new(REMEMBERED_MAX),
            members: Cache::new(REMEMBERED_MAX),
            generations: std::array::from_fn(|_| Mutex::new(0)),
        }
    }
}

impl Memory {
    fn generation_of(&self, scope: ScopeRef) -> MutexGuard<'_, u64> {
        let mut hasher = DefaultHasher::new();
        scope.hash(&mut hasher);
        let shard = hasher.finish() as usize % SHARDS;
        self.generations[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before Postgres is asked what is then remembered.
    pub fn generation(&self, scope: ScopeRef) -> Generation {
        Generation(*self.generation_of(scope))
    }

    /// What is remembered of a scope and one of its users, if both are.
    pub fn glance(&self, scope: ScopeRef, user: &UserId) -> Option<Glance> {
        let (exists, summary) = self.summaries.get(&scope)?;
        let member = self.members.get(&(scope, user.clone()))?;
        Some(Glance { exists, member, summary })
    }

    /// Remembers what Postgres said, unless a commit came between the question and now.
    pub fn remember(&self, scope: ScopeRef, user: &UserId, asked: Generation, glance: Glance) {
        let generation = self.generation_of(scope);
        if *generation == asked.0 {
            self.summaries.insert(scope, (glance.exists, glance.summary));
            self.members.insert((scope, user.clone()), glance.member);
        }
    }

    /// Takes over what a commit changed. Called before anyone is told of the commit.
    pub(crate) fn committed(&self, committed: &Committed) {
        for (scope, heading) in &committed.scopes {
            let mut generation = self.generation_of(*scope);
            *generation += 1;
            if let Some((_, summary)) = self.summaries.get(scope) {
                self.summaries.insert(*scope, (heading.exists, summarised(summary, heading)));
            }
        }
        for (scope, user) in &committed.members {
            let mut generation = self.generation_of(*scope);
            *generation += 1;
            self.members.invalidate(&(*scope, user.clone()));
        }
    }
}

fn summarised(old: Summary, heading: &Heading) -> Summary {
    Summary {
        head: heading.head,
        floor: heading.floor,
        count: heading.count,
        digest: heading.digest,
        epoch: old.epoch,
    }
}
