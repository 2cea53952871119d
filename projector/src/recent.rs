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

use crate::batch::{Batch, Folded, Parts, Steps};

/// What one worker keeps at once, as [`Stood::weight`] has it: some 4 MB, of 6,500 scopes with one user each, say. The
/// rest is loaded.
const WEIGHT_MAX: u64 = 32_768;
/// Users kept of a scope.
const USERS_MAX: usize = 256;

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
        let weigher = |_: &ScopeKey, stood: &Stood| stood.weight();
        Self { scopes: Cache::builder().max_capacity(WEIGHT_MAX).weigher(weigher).build() }
    }
}

impl Recent {
    /// The batch, to be folded as if there were no message, content and command that it names, but for what `changed` by
    /// batches whose commits are under way. `None` if more must be known.
    pub fn as_new<'b, 'c>(
        &self,
        batch: &'b Batch,
        changed: impl IntoIterator<Item = &'c Parts>,
    ) -> Option<Steps<'b>> {
        let mut loaded = batch.nothing_but(|key| self.scopes.get(key))?;
        changed.into_iter().for_each(|parts| loaded.overlay(parts));
        batch.wanted_besides(&loaded).is_empty().then(|| batch.steps(loaded))
    }

    /// Takes over what was committed.
    pub fn committed(&mut self, folded: Folded) {
        if folded.parks() {
            *self = Self::default();
            return;
        }
        for (key, stood) in folded.stood {
            self.keep(key, stood);
        }
    }

    fn keep(&mut self, key: ScopeKey, mut stood: Stood) {
        let before = self.scopes.get(&key).map(|before| before.users);
        stood.users = with(before.unwrap_or_default(), stood.users);
        self.scopes.insert(key, stood);
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

    fn weight(&self) -> u32 {
        4 + self.users.len() as u32
    }

    /// Whether this user is a member, or was; `None`: not known.
    pub(crate) fn member(&self, user: &UserId) -> Option<Option<Member>> {
        self.users.get(user).copied()
    }
}

/// Users as they were before, and as they are now; some of them, where they are too many.
fn with(before: Arc<Users>, now: Arc<Users>) -> Arc<Users> {
    if now.iter().all(|(user, member)| before.get(user) == Some(member)) {
        return before;
    }
    let older = before.iter().filter(|(user, _)| !now.contains_key(*user));
    let users = now.iter().chain(older).take(USERS_MAX);
    Arc::new(users.map(|(user, member)| (user.clone(), *member)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(numbers: std::ops::Range<usize>) -> Arc<Users> {
        let user = |n| (UserId::new(&format!("u{n}")).unwrap(), None);
        Arc::new(numbers.map(user).collect())
    }

    #[test]
    fn those_who_came_last_are_kept_and_no_more_than_there_is_room_for() {
        let before = users(0..USERS_MAX);
        assert!(Arc::ptr_eq(&before, &with(before.clone(), users(3..9))), "nothing is new");
        let last = users(USERS_MAX..USERS_MAX + 9);
        let kept = with(before, last.clone());
        assert_eq!(kept.len(), USERS_MAX);
        assert!(last.keys().all(|user| kept.contains_key(user)));
        assert_eq!(with(Arc::default(), users(0..1_000)).len(), USERS_MAX);
    }

    #[test]
    fn how_a_member_stands_now_counts() {
        let key: ScopeKey = "acme/team/web".parse().unwrap();
        let ann = UserId::new("ann").unwrap();
        let stood = |role: Option<Option<model::Role>>| {
            let mut scope = Scope::new(key.clone());
            let member = role.map(|role| Member { role, since: model::Timestamp::EPOCH });
            scope.members.extend(member.map(|member| (ann.clone(), member)));
            Stood::of(&scope, [ann.clone()])
        };
        let mut recent = Recent::default();
        let [never, owner, removed] = [None, Some(Some(model::Role::Owner)), Some(None)].map(stood);
        for stood in [never, owner, removed] {
            let expected = stood.member(&ann);
            recent.keep(key.clone(), stood);
            assert_eq!(recent.scopes.get(&key).unwrap().member(&ann), expected);
        }
    }
}
