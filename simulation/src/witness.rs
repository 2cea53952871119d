//! What was acknowledged, and must not be lost; what was erased, and must not come back.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use device::wire::Pulled;
use model::{
    ContentHash, Cursor, Item, MessageId, PushAnswer, ScopeKey, ScopeRef, Status, Timestamp,
    UserId, Verdict,
};
use readmodel::write::Writes;

use crate::{
    Violation,
    machine::Machine,
    plan::Harm,
    rows::{Erased, Gone},
};

#[derive(Default)]
pub struct Witness {
    acknowledged: Vec<Acknowledged>,
    /// Beyond what a recovery found, but on a device that may push.
    coming_back: Vec<ComingBack>,
    /// Of the erasures of a scope the last, and what was erased, but for what a device has said again since.
    erased: BTreeMap<ScopeRef, (Cursor, HashSet<Item>)>,
    /// Devices that may let go of what they alone hold.
    unsteady: BTreeSet<usize>,
}

/// A message as it stands in the end.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub cursor: Cursor,
    /// `None`: it is deleted.
    pub content: Option<ContentHash>,
}

/// All messages of all scopes, tombstones too.
pub type Standings = BTreeMap<(ScopeRef, MessageId), Standing>;

struct Acknowledged {
    scope: ScopeKey,
    id: MessageId,
    cursor: Cursor,
    updated_at: Timestamp,
    deleted: bool,
}

struct ComingBack {
    scope: ScopeKey,
    id: MessageId,
    updated_at: Timestamp,
    content: ContentHash,
}

impl Witness {
    /// A device was told this.
    pub fn acknowledged(&mut self, scope: &ScopeKey, answer: &PushAnswer) {
        for result in &answer.results {
            let deleted = result.status == Status::Deleted;
            if !(result.status.is_synced() || result.status == Status::Duplicate) {
                continue;
            }
            if let (Some(id), Some(cursor), Some(updated_at)) =
                (result.id, result.cursor, result.updated_at)
            {
                let scope = scope.clone();
                self.acknowledged.push(Acknowledged { scope, id, cursor, updated_at, deleted });
            }
        }
    }

    /// A role is given or taken, sooner or later: what is held by the user's devices may go with it.
    pub fn role_changes(&mut self, scope: &ScopeKey, user: &UserId, machines: &[&Machine]) {
        let seats = machines.iter().map(|machine| &machine.seat);
        let own = seats.filter(|seat| seat.scope == *scope && seat.user == *user);
        self.unsteady.extend(own.map(|seat| seat.number));
        self.reconsider(machines);
    }

    /// Something has happened to what a device holds. One whose cursor is not what it was does not know any more what
    /// its scope has lost.
    pub fn suffered(&mut self, device: usize, harm: &Harm, machines: &[&Machine]) {
        if matches!(harm, Harm::Jump { .. }) {
            self.unsteady.insert(device);
        }
        self.reconsider(machines);
    }

    /// What the rows took in, and let go of.
    ///
    /// # Errors
    /// A restore brought back what was erased.
    pub fn committed(&mut self, writes: &Writes, gone: Gone) -> Result<(), Violation> {
        for Erased { scope, cursor, items } in gone.erased {
            let (last, erased) = self.erased.entry(scope).or_default();
            *last = cursor;
            erased.extend(items);
        }
        let pushed = pushed(writes);
        for image in &writes.messages {
            let item = image.entry.version.item(image.id);
            let Some((cursor, erased)) = self.erased.get_mut(&image.scope) else { continue };
            if erased.remove(&item) && !pushed.contains(&(image.scope, image.entry.cursor)) {
                return Err(Violation(format!(
                    "a restore brought back {}, which was erased at cursor {cursor}",
                    image.id
                )));
            }
        }
        Ok(())
    }

    /// A recovery kept the scopes up to these cursors. What a device holds beyond comes back.
    pub fn recovered(&mut self, bases: &BTreeMap<ScopeRef, Cursor>, machines: &[&Machine]) {
        let base = |scope: &ScopeKey| bases.get(&scope.reference()).copied().unwrap_or_default();
        let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.acknowledged)
            .into_iter()
            .partition(|known| known.cursor <= base(&known.scope));
        self.acknowledged = kept;
        // An erasure that was lost is to be asked for again.
        self.erased
            .retain(|scope, (cursor, _)| bases.get(scope).is_some_and(|base| *cursor <= *base));
        // What came back, and was deleted or lost once more, is to come back if a device holds it still.
        self.reconsider(machines);
        let machines = self.steady(machines);
        let lost = lost.into_iter().filter(|known| !known.deleted);
        for Acknowledged { scope, id, updated_at, .. } in lost {
            if let Some(message) = held(&machines, &scope, id, updated_at) {
                let content = ContentHash::of(message.content.as_deref().unwrap_or_default());
                self.coming_back.push(ComingBack { scope, id, updated_at, content });
            }
        }
    }

    /// What no device holds any more is not awaited: it was deleted, or a device has lost it by itself.
    fn reconsider(&mut self, machines: &[&Machine]) {
        let machines = self.steady(machines);
        self.coming_back
            .retain(|lost| held(&machines, &lost.scope, lost.id, lost.updated_at).is_some());
    }

    fn steady<'a>(&self, machines: &[&'a Machine]) -> Vec<&'a Machine> {
        let is_steady = |machine: &&&Machine| !self.unsteady.contains(&machine.seat.number);
        machines.iter().filter(is_steady).copied().collect()
    }

    /// `floors`: up to them, what was deleted is forgotten.
    ///
    /// # Errors
    /// Something that was acknowledged is nowhere.
    pub fn check(
        &self,
        standings: &Standings,
        floors: &BTreeMap<ScopeRef, Cursor>,
    ) -> Result<(), Violation> {
        let floor = |scope: &ScopeKey| floors.get(&scope.reference()).copied().unwrap_or_default();
        for Acknowledged { scope, id, cursor, deleted, .. } in &self.acknowledged {
            let Some(now) = standings.get(&(scope.reference(), *id)) else {
                if *cursor <= floor(scope) {
                    continue;
                }
                return Err(Violation(format!("{id} of {scope} was acknowledged, and is gone")));
            };
            let is_it = now.cursor == *cursor && now.content.is_none() == *deleted;
            if now.cursor <= *cursor && !is_it {
                return Err(Violation(format!(
                    "{id} of {scope} was acknowledged at cursor {cursor}, and now it is {now:?}"
                )));
            }
        }
        for ComingBack { scope, id, content, .. } in &self.coming_back {
            let lives = || {
                let mut own = standings.iter().filter(|((of, _), _)| *of == scope.reference());
                own.any(|(_, now)| now.content == Some(*content))
            };
            let may_be_forgotten = floor(scope) > Cursor::ZERO;
            if !may_be_forgotten && !standings.contains_key(&(scope.reference(), *id)) && !lives() {
                return Err(Violation(format!(
                    "{id} of {scope} was lost by a recovery, a device held it, and it did not come back"
                )));
            }
        }
        Ok(())
    }
}

/// The cursors at which devices have said something.
fn pushed(writes: &Writes) -> HashSet<(ScopeRef, Cursor)> {
    let mut pushed = HashSet::new();
    for image in &writes.outcomes {
        if let Verdict::Pushed(answer) = &image.outcome.verdict {
            let cursors = answer.results.iter().filter_map(|result| result.cursor);
            pushed.extend(cursors.map(|cursor| (image.scope, cursor)));
        }
    }
    pushed
}

/// A version of a message, as a device that may push holds it.
fn held(
    machines: &[&Machine],
    scope: &ScopeKey,
    id: MessageId,
    updated_at: Timestamp,
) -> Option<Pulled> {
    let may = machines.iter().filter(|m| m.seat.scope == *scope && m.seat.may_push);
    let messages = may.flat_map(|machine| machine.replica.messages());
    let messages = messages.filter(|message| message.held.id == id);
    let mut read = messages.filter_map(|m| serde_json::from_str::<Pulled>(m.json().get()).ok());
    read.find(|pulled| pulled.updated_at == updated_at)
}
