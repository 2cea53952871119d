//! The scopes that a worker committed last, as they stand: what is new in them is folded without loading anything
//! ([decision 25](../../docs/decisions/0025-taken-for-new.md)).
//!
//! Nobody else moves the scopes of a worker's partitions. Whoever did has moved the position too, or counted a rebuild:
//! then this worker's next commit fails, its session ends, and this with it. Events that are parked are folded by another,
//! and move no position; so what is known of scopes is forgotten where events begin to be parked, and a scope of which
//! some are is not kept.

use std::{collections::HashMap, sync::Arc};

use model::{Heading, Member, Scope, ScopeKey, UserId};
use moka::sync::Cache;

use crate::batch::{Batch, Folded, Parts};

/// Scopes kept at once, of each worker. The rest is loaded.
const SCOPES_MAX: u64 = 8_192;
/// Users kept of a scope.
const USERS_MAX: usize = 64;

pub struct Recent {
    scopes: Cache<ScopeKey, Stood>,
}

/// How a scope stood after a batch.
#[derive(Clone, Debug)]
pub struct Stood {
    heading: Heading,
    users: Arc<Users>,
}

/// Users whom batches touched; `None`: never was a member.
type Users = HashMap<UserId, Option<Member>>;

impl Default for Recent {
    fn default() -> Self {
        Self { scopes: Cache::new(SCOPES_MAX) }
    }
}

impl Recent {
    /// Folds a batch as if there were no message, content and command that it names, but for what `changed` by batches whose
    /// commits are under way. What comes of it is written only if that is so. `None` if more must be known to fold
    /// it, or if the commit would not show that all of it was new.
    pub fn fold_as_new<'c>(
        &self,
        batch: &Batch,
        changed: impl IntoIterator<Item = &'c Parts>,
    ) -> Option<Folded> {
        let mut loaded = batch.nothing_but(|key| self.scopes.get(key))?;
        changed.into_iter().for_each(|parts| loaded.overlay(parts));
        if !batch.wanted_besides(&loaded).is_empty() {
            return None;
        }
        batch.fold(loaded).taken_for_new()
    }

    /// Takes over what was committed.
    pub fn committed(&mut self, folded: Folded) {
        if folded.parks() {
            *self = Self::default();
            return;
        }
        for (key, mut stood) in folded.stood {
            if let Some(before) = self.scopes.get(&key) {
                stood.users = with(before.users, stood.users);
            }
            self.scopes.insert(key, stood);
        }
    }
}

impl Stood {
    /// `touched`: the users whom the batch has touched.
    pub(crate) fn of(scope: &Scope, touched: impl IntoIterator<Item = UserId>) -> Self {
        let user = |user: UserId| {
            let member = scope.members.get(&user).copied();
            (user, member)
        };
        let users = touched.into_iter().map(user).collect();
        Self { heading: scope.heading.clone(), users: Arc::new(users) }
    }

    /// The scope, with nothing in it.
    pub(crate) fn scope(&self, key: &ScopeKey) -> Scope {
        let mut scope = Scope::new(key.clone());
        scope.heading = self.heading.clone();
        scope
    }

    /// Whether this user is a member, or was; `None`: not known.
    pub(crate) fn member(&self, user: &UserId) -> Option<Option<Member>> {
        self.users.get(user).copied()
    }
}

/// Users as they were before, and as they are now.
fn with(before: Arc<Users>, now: Arc<Users>) -> Arc<Users> {
    if now.iter().all(|(user, member)| before.get(user) == Some(member)) {
        return before;
    }
    if before.len() + now.len() > USERS_MAX {
        return now;
    }
    let mut users = Users::clone(&before);
    users.extend(now.iter().map(|(user, member)| (user.clone(), *member)));
    Arc::new(users)
}
