//! The read model, in memory: what Postgres holds, with its constraints.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use model::{
    CommandId, Cursor, Epoch, FoldRevision, Heading, Item, KnownCommand, LogId, Member, MessageId,
    Offset, OrgRole, Outcome, Partition, PartitionClock, Scope, ScopeKey, ScopeRef, Standing,
    UserId,
};
use readmodel::{
    adoption::PastEpoch,
    epochs::NewEpoch,
    load::{Loaded, Wanted},
    projection::{Advance, Position},
    write::{MessageImage, Writes},
};
use repair::{Held, Items};

use crate::{Mistake, Violation, log::partitions};

/// The rows, and how far each partition is folded into them.
#[derive(Clone)]
pub struct Rows {
    pub positions: BTreeMap<Partition, Position>,
    /// The oldest first; the last one is in force.
    pub epochs: Vec<PastEpoch>,
    pub scopes: BTreeMap<ScopeKey, Heading>,
    pub messages: BTreeMap<(ScopeRef, MessageId), MessageImage>,
    members: HashMap<(ScopeRef, UserId), Member>,
    outcomes: HashMap<CommandId, (ScopeRef, Arc<Outcome>)>,
    mistake: Option<Mistake>,
}

/// What became of a commit.
pub enum Committed {
    Done(Gone),
    /// The positions stand elsewhere; nothing was written.
    Moved,
    /// Some of what was taken for new is there; nothing was written.
    NotNew,
}

/// What a commit has taken away for good.
#[derive(Default)]
pub struct Gone {
    pub erased: Vec<Erased>,
    pub tombstones: usize,
}

/// The messages of a scope up to a cursor.
pub struct Erased {
    pub scope: ScopeRef,
    pub cursor: Cursor,
    /// The live ones.
    pub items: Vec<Item>,
}

/// A page of a scope's messages, as JSON.
pub struct Page {
    pub messages: Vec<(Cursor, String)>,
    pub has_more: bool,
}

impl Rows {
    /// Of a log that is folded for the first time.
    pub fn new(log: LogId, mistake: Option<Mistake>) -> Self {
        let epoch = Epoch::of_log(log);
        let new = NewEpoch {
            epoch,
            bases: Vec::new(),
            keeps_unlisted: false,
            fold_revision: FoldRevision::CURRENT,
        };
        Self::with_epochs(vec![PastEpoch { log, new }], mistake)
    }

    pub fn with_epochs(epochs: Vec<PastEpoch>, mistake: Option<Mistake>) -> Self {
        let mut rows = Self {
            positions: BTreeMap::new(),
            epochs,
            scopes: BTreeMap::new(),
            messages: BTreeMap::new(),
            members: HashMap::new(),
            outcomes: HashMap::new(),
            mistake,
        };
        partitions().for_each(|partition| rows.place(partition, PartitionClock::START));
        rows
    }

    /// Where a partition's fold begins.
    pub fn place(&mut self, partition: Partition, clock: PartitionClock) {
        let next_offset = Offset::ZERO;
        let position = Position { partition, next_offset, clock, last: None, rebuilds: 0 };
        self.positions.insert(partition, position);
    }

    pub fn epoch(&self) -> Epoch {
        self.epochs.last().unwrap().new.epoch
    }

    /// As the SQL function of this name: up to which cursor a scope kept those of an epoch; `None` of the present one.
    pub fn kept(&self, scope: ScopeRef, named: Option<Epoch>) -> Option<Cursor> {
        let named = named.filter(|named| *named != self.epoch())?;
        let asked = self.epochs.iter().position(|past| past.new.epoch == named);
        let Some(asked) = asked else { return Some(Cursor::ZERO) };
        let base = |past: &PastEpoch| {
            let listed = past.new.bases.iter().find(|(own, _)| *own == scope);
            let unlisted = if past.new.keeps_unlisted { i64::MAX } else { 0 };
            listed.map_or(Cursor::from_i64(unlisted), |(_, base)| *base)
        };
        self.epochs[asked + 1..].iter().map(base).min()
    }

    pub fn outcome(&self, id: CommandId) -> Option<Arc<Outcome>> {
        self.outcomes.get(&id).map(|(_, outcome)| outcome.clone())
    }

    /// Loads what a batch touches, and nothing else.
    pub fn load(&self, wanted: &Wanted, with_commands: bool) -> Loaded {
        let mut loaded = Loaded::default();
        for (key, commands) in wanted.scopes() {
            let reference = key.reference();
            let mut scope = Scope::new(key.clone());
            if let Some(heading) = self.scopes.get(key) {
                scope.heading = heading.clone();
            }
            for image in self.of(reference) {
                if wanted.has_message(reference, &image.id, &image.entry) {
                    scope.insert(image.id, image.entry.clone());
                }
            }
            let members = self
                .members
                .iter()
                .filter(|((own, user), _)| *own == reference && wanted.has_user(reference, user));
            scope.members = members.map(|((_, user), member)| (user.clone(), *member)).collect();
            let known = commands.iter().filter_map(|id| {
                let (own, outcome) = self.outcomes.get(id)?;
                let (folded_at, outcome) = (outcome.folded_at, outcome.clone());
                (*own == reference).then_some((*id, KnownCommand { folded_at, outcome }))
            });
            if with_commands {
                scope.commands = known.collect();
            }
            loaded.scopes.insert(key.clone(), scope);
        }
        loaded
    }

    /// Who a user is in a scope.
    pub fn standing(&self, scope: &ScopeKey, user: &UserId) -> Standing {
        let exists = self.scopes.get(scope).is_some_and(|heading| heading.exists);
        let member = self.members.get(&(scope.reference(), user.clone()));
        Standing::of(scope, user, OrgRole::Member, exists, member.map(|member| member.role))
    }

    /// Writes a batch, if the positions stand where it began, and if all is new that it takes for new.
    ///
    /// # Errors
    /// A constraint does not hold.
    pub fn commit(
        &mut self,
        writes: &Writes,
        advances: &[Advance],
        fenced: bool,
    ) -> Result<Committed, Violation> {
        let stands = |advance: &Advance| {
            let position = &self.positions[&advance.partition];
            position.next_offset == advance.from && position.rebuilds == advance.to.rebuilds
        };
        if fenced && !advances.iter().all(stands) {
            return Ok(Committed::Moved);
        }
        if writes.taken_for_new
            && self.is_there(writes)
            && self.mistake != Some(Mistake::TakesAllForNew)
        {
            return Ok(Committed::NotNew);
        }
        if !writes.dead_letters.is_empty() {
            return Err(Violation(format!("a dead letter: {:?}", writes.dead_letters)));
        }
        let mut gone = Gone::default();
        // First: what the batch adds besides came after the erasure.
        for erased in &writes.erased {
            gone.erased.push(self.erase(erased.scope, erased.cursor));
        }
        for place in &writes.replaced {
            if self.messages.remove(place).is_none() {
                return Err(Violation(format!("message {} is replaced, but has no row", place.1)));
            }
        }
        let before = self.messages.len();
        for (scope, floor) in &writes.floors {
            self.expire(*scope, *floor);
        }
        gone.tombstones = before - self.messages.len();
        for image in &writes.messages {
            if self.messages.insert((image.scope, image.id), image.clone()).is_some() {
                return Err(Violation(format!("message {} has two rows", image.id)));
            }
        }
        for (key, heading) in &writes.scopes {
            let mut heading = heading.clone();
            if self.mistake == Some(Mistake::ExpiresWithoutFloor) {
                heading.floor = heading.erased;
            }
            let head = heading.head;
            let before = self.scopes.insert(key.clone(), heading).unwrap_or_default();
            if head < before.head {
                return Err(Violation(format!("the head of {key} goes back")));
            }
            self.check(key)?;
        }
        for image in &writes.members {
            self.members.insert((image.scope, image.user.clone()), image.member);
        }
        for image in &writes.outcomes {
            self.outcomes.insert(image.id, (image.scope, image.outcome.clone()));
        }
        for advance in advances {
            self.positions.insert(advance.partition, advance.to);
        }
        Ok(Committed::Done(gone))
    }

    /// Whether a message, a content or a command that is to be written is there already.
    fn is_there(&self, writes: &Writes) -> bool {
        let same = |own: &MessageImage, other: &MessageImage| {
            let content =
                |image: &MessageImage| image.entry.is_live().then_some(image.entry.content_hash);
            own.id == other.id || content(own).is_some() && content(own) == content(other)
        };
        let has = |image: &MessageImage| self.of(image.scope).any(|other| same(image, other));
        writes.messages.iter().any(has)
            || writes.outcomes.iter().any(|image| self.outcomes.contains_key(&image.id))
    }

    fn expire(&mut self, scope: ScopeRef, floor: Cursor) {
        let (keeps_live, keeps_all) = match self.mistake {
            Some(Mistake::ExpiresTheLiving) => (false, false),
            Some(Mistake::KeepsTombstones) => (true, true),
            _ => (true, false),
        };
        self.messages.retain(|(own, _), image| {
            let lives = keeps_live && image.entry.is_live();
            *own != scope || lives || image.entry.cursor > floor || keeps_all
        });
    }

    fn erase(&mut self, scope: ScopeRef, cursor: Cursor) -> Erased {
        let live = self.of(scope).filter(|image| image.entry.is_live());
        let up_to = live.filter(|image| image.entry.cursor <= cursor);
        let items = up_to.map(|image| image.entry.version.item(image.id)).collect();
        let keeps = self.mistake == Some(Mistake::KeepsErased);
        self.messages
            .retain(|(own, _), image| *own != scope || image.entry.cursor > cursor || keeps);
        Erased { scope, cursor, items }
    }

    /// What unique indexes and constraints hold.
    fn check(&self, key: &ScopeKey) -> Result<(), Violation> {
        let heading = &self.scopes[key];
        let (mut cursors, mut contents, mut live) = (BTreeSet::new(), HashSet::new(), 0);
        for image in self.of(key.reference()) {
            let entry = &image.entry;
            if !cursors.insert(entry.cursor) {
                return Err(Violation(format!("cursor {} of {key} twice", entry.cursor)));
            }
            if entry.is_live() && !contents.insert(entry.content_hash) {
                return Err(Violation(format!("a content of {key} lives twice")));
            }
            live += u64::from(entry.is_live());
        }
        let last = cursors.last().copied().unwrap_or_default();
        // What changed last may be a tombstone that has expired.
        let is_head = last == heading.head || last < heading.head && heading.floor == heading.head;
        if !is_head || live != heading.count {
            let (head, count) = (heading.head, heading.count);
            return Err(Violation(format!(
                "{key} has head {head} and counts {count}, its rows go to {last}, {live} live"
            )));
        }
        Ok(())
    }

    /// The rows of a scope.
    pub fn of(&self, scope: ScopeRef) -> impl Iterator<Item = &MessageImage> {
        let all = (scope, MessageId(uuid::Uuid::nil()))..=(scope, MessageId(uuid::Uuid::max()));
        self.messages.range(all).map(|(_, image)| image)
    }

    /// What comes after a cursor.
    pub fn page(&self, scope: ScopeRef, after: Cursor, limit: usize) -> Page {
        let after = self.of(scope).filter(|image| image.entry.cursor > after);
        let mut found: Vec<_> = after.map(|image| (image.entry.cursor, image)).collect();
        found.sort_unstable_by_key(|(cursor, _)| *cursor);
        let has_more = found.len() > limit;
        found.truncate(limit);
        let messages = found.into_iter().map(|(cursor, image)| (cursor, image.json.clone()));
        Page { messages: messages.collect(), has_more }
    }

    /// What a repair compares.
    pub fn items(&self, scope: ScopeRef) -> Items {
        let live = self.of(scope).filter(|image| image.entry.is_live());
        Items::new(live.map(|image| Held::new(image.id, image.entry.version)).collect())
    }

    /// Says in what the rows of two folds of the same log differ.
    ///
    /// # Errors
    /// They do.
    pub fn compare(&self, other: &Self) -> Result<(), Violation> {
        let rows = |rows: &Self| -> Vec<_> {
            rows.messages.values().map(|image| (image.entry.clone(), image.json.clone())).collect()
        };
        let differs = |what: &str| Err(Violation(format!("folded anew, the {what} differ")));
        if self.scopes != other.scopes {
            return differs("scopes");
        }
        if rows(self) != rows(other) {
            return differs("messages");
        }
        if self.members != other.members {
            return differs("members");
        }
        if self.outcomes != other.outcomes {
            return differs("outcomes");
        }
        Ok(())
    }
}
