//! What was acknowledged, and must not be lost.

use std::collections::BTreeMap;

use device::wire::Pulled;
use model::{ContentHash, Cursor, MessageId, PushAnswer, ScopeKey, ScopeRef, Status, Timestamp};

use crate::{Violation, machine::Machine};

#[derive(Default)]
pub struct Witness {
    acknowledged: Vec<Acknowledged>,
    /// Beyond what a recovery found, but on a device that may push.
    coming_back: Vec<ComingBack>,
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

    /// A recovery kept the scopes up to these cursors. What a device holds beyond comes back.
    pub fn recovered(&mut self, bases: &BTreeMap<ScopeRef, Cursor>, machines: &[&Machine]) {
        let base = |scope: &ScopeKey| bases.get(&scope.reference()).copied().unwrap_or_default();
        let (kept, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.acknowledged)
            .into_iter()
            .partition(|known| known.cursor <= base(&known.scope));
        self.acknowledged = kept;
        // What came back, and was deleted or lost once more, is to come back if a device holds it still.
        self.coming_back
            .retain(|lost| held(machines, &lost.scope, lost.id, lost.updated_at).is_some());
        let lost = lost.into_iter().filter(|known| !known.deleted);
        for Acknowledged { scope, id, updated_at, .. } in lost {
            if let Some(message) = held(machines, &scope, id, updated_at) {
                let content = ContentHash::of(message.content.as_deref().unwrap_or_default());
                self.coming_back.push(ComingBack { scope, id, updated_at, content });
            }
        }
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
