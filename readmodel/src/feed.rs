//! The feed: who waits for the read model to move, and how they learn that it did.
//!
//! In one process with the projector, a commit is handed over as it is. From other processes it comes
//! as a NOTIFY, which only says that it is worth asking; and since a notification can be lost, the
//! waiters also ask every [`ASK_EVERY`]. Either way one query asks for all who wait.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use model::{CommandId, Cursor, Heading, Offset, Outcome, Partition, Place, ScopeRef, UserId};
use tokio::sync::{oneshot, watch};

use crate::memory::Memory;

/// How often waiters ask the database when nobody notified them.
pub const ASK_EVERY: Duration = Duration::from_millis(250);

/// What a commit of the projector says to those who wait.
#[derive(Debug, Default)]
pub struct Committed {
    /// The offset to fold next, of each partition in the batch.
    pub positions: Vec<(Partition, Offset)>,
    /// The outcomes of the batch, by command id; repeated commands have their first one.
    pub outcomes: Vec<(CommandId, Arc<Outcome>)>,
    /// The scopes that had an event, as they stand now.
    pub scopes: Vec<(ScopeRef, Heading)>,
    /// Whose membership changed.
    pub members: Vec<(ScopeRef, UserId)>,
}

type Told = Option<Arc<Outcome>>;

/// Shared by the roles of one process.
#[derive(Default)]
pub struct Feed {
    waiting: Mutex<Waiting>,
    memory: Option<Memory>,
    ask_heads: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    outcomes: HashMap<CommandId, Vec<OutcomeWaiter>>,
    heads: HashMap<ScopeRef, watch::Sender<Cursor>>,
}

struct OutcomeWaiter {
    /// Where the command stands on the log, once the log has it.
    at: Arc<OnceLock<Place>>,
    tell: oneshot::Sender<Told>,
}

/// An outcome to come. Made before the append, so that no commit is missed.
pub struct OutcomeWait {
    feed: Arc<Feed>,
    id: CommandId,
    at: Arc<OnceLock<Place>>,
    told: oneshot::Receiver<Told>,
}

/// A scope's head to come. Made before looking at the scope, so that no commit is missed.
pub struct HeadWait {
    feed: Arc<Feed>,
    scope: ScopeRef,
    head: Option<watch::Receiver<Cursor>>,
}

/// What became of a command whose record is on the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Waited {
    Outcome(Arc<Outcome>),
    /// The record became a dead letter: there is no outcome, and there will be none for now.
    Nothing,
    /// The time ran out first.
    TimedOut,
}

impl Feed {
    /// `exclusive`: only a projector of this process moves the read model, so that what it says can be
    /// remembered.
    pub fn new(exclusive: bool) -> Arc<Self> {
        let memory = exclusive.then(Memory::default);
        Arc::new(Self { memory, ..Self::default() })
    }

    /// What the projector said last, where it is the only one.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit is about to be sent. Called by the projector of this process.
    pub fn committing(&self, committed: &Committed) {
        if let Some(memory) = &self.memory {
            memory.committing(committed);
        }
    }

    /// The database refused the commit: the read model is as it was before it.
    pub fn refused(&self, committed: &Committed) {
        if let Some(memory) = &self.memory {
            memory.refused(committed);
        }
    }

    /// The projector of this process begins anew, from what the read model has: the answer of its last
    /// commit may have been lost. Whoever waits for a head is told by the asker.
    pub fn begin_anew(&self) {
        if let Some(memory) = &self.memory {
            memory.forget();
        }
        self.doubt_heads();
    }

    /// Heads may have moved without the feed hearing of it.
    pub(crate) fn doubt_heads(&self) {
        self.ask_heads.store(true, Ordering::Release);
    }

    /// Whether heads may have moved without the feed hearing of it, since this was asked last.
    pub(crate) fn heads_are_unsure(&self) -> bool {
        self.ask_heads.swap(false, Ordering::AcqRel)
    }

    /// Hands a commit to those who wait for it. Called by the projector of this process.
    pub fn committed(&self, committed: &Committed) {
        // First: whoever is told of a push may pull at once, and must find it.
        if let Some(memory) = &self.memory {
            memory.committed(committed);
        }
        self.tell_all(committed);
    }

    /// Parked events were folded, by another than the projector, which may have gone on from there already.
    pub fn unparked(&self, committed: &Committed) {
        if let Some(memory) = &self.memory {
            memory.forget_scopes(committed);
        }
        self.tell_all(committed);
    }

    /// Parked events may have been folded: the answer to their commit was lost.
    pub fn perhaps_unparked(&self, committed: &Committed) {
        if let Some(memory) = &self.memory {
            memory.forget_scopes(committed);
        }
        self.doubt_heads();
    }

    fn tell_all(&self, committed: &Committed) {
        for (id, outcome) in &committed.outcomes {
            self.tell(*id, Some(outcome));
        }
        let waiting = self.waiting();
        for (scope, heading) in &committed.scopes {
            if let Some(head) = waiting.heads.get(scope) {
                raise(head, heading.head);
            }
        }
    }

    fn tell(&self, id: CommandId, outcome: Option<&Arc<Outcome>>) {
        let waiters = self.waiting().outcomes.remove(&id);
        for waiter in waiters.unwrap_or_default() {
            let _ = waiter.tell.send(outcome.cloned()); // it may have given up
        }
    }

    /// Begins to wait for what becomes of a command.
    pub fn expect(self: &Arc<Self>, id: CommandId) -> OutcomeWait {
        let (tell, told) = oneshot::channel();
        let at = Arc::new(OnceLock::new());
        let waiter = OutcomeWaiter { at: at.clone(), tell };
        self.waiting().outcomes.entry(id).or_default().push(waiter);
        OutcomeWait { feed: self.clone(), id, at, told }
    }

    /// Begins to wait for the scope's head.
    pub fn watch(self: &Arc<Self>, scope: ScopeRef) -> HeadWait {
        let mut waiting = self.waiting();
        let sender = waiting.heads.entry(scope).or_insert_with(|| watch::Sender::new(Cursor::ZERO));
        HeadWait { feed: self.clone(), scope, head: Some(sender.subscribe()) }
    }

    /// The commands on the log that somebody waits for.
    pub(crate) fn awaited_commands(&self) -> Vec<(CommandId, Place)> {
        let waiting = self.waiting();
        let at = |waiters: &Vec<OutcomeWaiter>| waiters.iter().find_map(|w| w.at.get().copied());
        waiting.outcomes.iter().filter_map(|(id, waiters)| Some((*id, at(waiters)?))).collect()
    }

    /// The scopes that somebody waits for, with the greatest head heard of.
    pub(crate) fn awaited_scopes(&self) -> Vec<(ScopeRef, Cursor)> {
        self.waiting().heads.iter().map(|(scope, head)| (*scope, *head.borrow())).collect()
    }

    /// What the database said of a command.
    pub(crate) fn decided(&self, id: CommandId, outcome: Option<&Arc<Outcome>>) {
        self.tell(id, outcome);
    }

    /// What the database said of a scope.
    pub(crate) fn moved(&self, scope: ScopeRef, head: Cursor) {
        if let Some(sender) = self.waiting().heads.get(&scope) {
            raise(sender, head);
        }
    }
}

fn raise(sender: &watch::Sender<Cursor>, head: Cursor) {
    sender.send_if_modified(|known| {
        let higher = head > *known;
        *known = head.max(*known);
        higher
    });
}

impl OutcomeWait {
    /// Waits for the outcome of the command, which the log has at `at`.
    pub async fn decided(mut self, at: Place, wait: Duration) -> Waited {
        let _ = self.at.set(at);
        match tokio::time::timeout(wait, &mut self.told).await {
            Ok(Ok(Some(outcome))) => Waited::Outcome(outcome),
            Ok(Ok(None)) => Waited::Nothing,
            Ok(Err(_)) | Err(_) => Waited::TimedOut,
        }
    }
}

impl Drop for OutcomeWait {
    fn drop(&mut self) {
        self.told.close();
        let mut waiting = self.feed.waiting();
        if let Some(waiters) = waiting.outcomes.get_mut(&self.id) {
            waiters.retain(|waiter| !waiter.tell.is_closed());
            if waiters.is_empty() {
                waiting.outcomes.remove(&self.id);
            }
        }
    }
}

impl HeadWait {
    /// Waits until the head is past the cursor. False when the time runs out first.
    pub async fn past(&mut self, cursor: Cursor, wait: Duration) -> bool {
        let Some(head) = &mut self.head else { return false };
        let moved = tokio::time::timeout(wait, head.wait_for(|head| *head > cursor)).await;
        matches!(moved, Ok(Ok(_)))
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.head = None;
        let mut waiting = self.feed.waiting();
        if waiting.heads.get(&self.scope).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.heads.remove(&self.scope);
        }
    }
}
