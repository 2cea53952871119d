//! Bringing a replica to what its scope is: it pulls, looks whether it is the same now, and mends what is not.

use std::collections::{HashSet, VecDeque};

use model::{Cursor, Digest, Epoch, Item, reconcile::Remedy};
use repair::{BadFrame, Differences, Finding};
use serde_json::value::RawValue;

use crate::{
    Requests,
    batches::Outgoing,
    problem::ClientError,
    replica::{Message, Replica, ReplicaError},
    upload::{Tally, Upload},
    wire::{PullFrom, PullPage, Reconciled},
};

/// Messages in a page.
const PAGE: u32 = 1_000;
/// Messages that are fetched at once: the contract's limit.
const FETCH: usize = 1_000;
/// Bytes of a frame: every server takes as many.
const FRAME_BYTES: u32 = 64 << 10;
/// Frames of one repair, at most: enough for a million messages of which none is the same.
const FRAMES_MAX: usize = 2_000;
/// Repairs in a row; a scope that others write to may need a second one, never this many.
const REPAIRS_MAX: usize = 5;

/// Why a replica could not be brought to what its scope is.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Replica(#[from] ReplicaError),
    #[error("the API answered a repair with no frame: {0}")]
    Frame(#[from] BadFrame),
    #[error("a repair did not end after {FRAMES_MAX} frames")]
    Endless,
    #[error("the API gave none of the messages that it named")]
    NothingFetched,
    #[error("after {REPAIRS_MAX} repairs the messages here still are not those of the scope")]
    StillDiffers,
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Mended {
    /// Messages and tombstones that pulls gave.
    pub pulled: u64,
    pub repairs: u64,
    /// Messages that a repair gave.
    pub fetched: u64,
    /// Messages that the scope no longer has.
    pub dropped: u64,
    /// Messages that the scope had lost.
    pub pushed_again: u64,
}

impl Mended {
    /// Adds what another one took.
    pub fn add(&mut self, other: &Self) {
        let Self { pulled, repairs, fetched, dropped, pushed_again } = *other;
        self.pulled += pulled;
        self.repairs += repairs;
        self.fetched += fetched;
        self.dropped += dropped;
        self.pushed_again += pushed_again;
    }
}

/// Messages that the scope had lost and does not have again, as they are pushed. They are no longer in the replica:
/// whoever mends must keep them.
#[derive(Debug, Default)]
pub struct Left {
    /// To be pushed later: something failed before.
    pub owed: Vec<Box<RawValue>>,
    /// Not taken from this device, or not offered: it may have been deleted or erased since.
    pub refused: Vec<Box<RawValue>>,
}

/// What a recovery has perhaps not kept.
struct Lost {
    messages: Vec<Message>,
    /// Up to which cursor it kept the scope.
    kept: Cursor,
    floor: Cursor,
}

/// A replica on its way to what its scope is.
pub struct Mending<'a, R> {
    requests: R,
    replica: &'a mut Replica,
    pub mended: Mended,
    /// To be kept, however [`Mending::run`] ended.
    pub left: Left,
    /// In which epoch what is owed was pushed again, if it was: until a pull has brought it, it is owed.
    pushed_again_in: Option<Epoch>,
}

impl<'a, R: Requests> Mending<'a, R> {
    pub fn new(requests: R, replica: &'a mut Replica) -> Self {
        let (mended, left) = (Mended::default(), Left::default());
        Self { requests, replica, mended, left, pushed_again_in: None }
    }

    /// Pulls, and mends what then differs, until count and digest are the scope's.
    pub async fn run(&mut self) -> Result<(), DriftError> {
        for _ in 0..=REPAIRS_MAX {
            let pulled = self.pull().await;
            if pulled.is_ok()
                && let Some(epoch) = self.pushed_again_in.take()
                && self.replica.epoch == Some(epoch)
            {
                self.left.owed.clear();
            }
            match pulled {
                Ok(_) if !self.left.owed.is_empty() => self.push_again().await?,
                Ok(sums) if sums == (self.replica.count(), self.replica.digest()) => return Ok(()),
                Ok(_) => self.mend(true).await?,
                // The cursor is not good: what to do, reconciling tells.
                Err(DriftError::Client(error)) if is_invalid_cursor(&error) => {
                    self.mend(false).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(DriftError::StillDiffers)
    }

    /// Pulls to the head; the scope's count and digest there.
    async fn pull(&mut self) -> Result<(u64, Digest), DriftError> {
        let mut lost = Vec::new();
        let sums = self.pull_pages(&mut lost).await;
        for Lost { messages, kept, floor } in lost {
            // What was pushed since the recovery has a later cursor too, and came with the pages.
            let is_gone = |message: &Message| !self.replica.holds(&message.held);
            let gone = messages.into_iter().filter(is_gone).collect();
            self.let_go(gone, kept, floor)?;
        }
        sums
    }

    /// `lost`: what recoveries have perhaps not kept.
    async fn pull_pages(&mut self, lost: &mut Vec<Lost>) -> Result<(u64, Digest), DriftError> {
        loop {
            let from = PullFrom {
                cursor: self.replica.cursor.get(),
                limit: PAGE,
                wait: 0,
                epoch: self.replica.epoch,
            };
            let page = self.requests.pull(from).await?;
            self.mended.pulled += page.messages.len() as u64;
            let PullPage { messages, cursor, has_more, count, digest, epoch, .. } = page;
            if let Some(base) = page.base {
                // A repair that was not finished, and pushes, are held beyond the cursor; what was kept ends before that.
                let messages = self.replica.remove(|message| message.cursor > base);
                lost.push(Lost { messages, kept: base, floor: page.floor });
            }
            for message in messages {
                self.replica.apply(message)?;
            }
            self.replica.cursor = cursor;
            // A cursor that was good is one of the present epoch from here on.
            self.replica.epoch = Some(epoch);
            if !has_more {
                return Ok((count, digest));
            }
        }
    }

    /// Does what the API says; but one who pulled and saw that it `differs` repairs, also where others have pushed
    /// since.
    async fn mend(&mut self, differs: bool) -> Result<(), DriftError> {
        let claim = self.replica.claim();
        let told = self.requests.reconcile(&claim, self.replica.epoch).await?;
        match told.action {
            Remedy::Resync => self.resync(&told).await,
            Remedy::Repair => self.repair(&told).await,
            Remedy::None | Remedy::Pull if differs => self.repair(&told).await,
            Remedy::None | Remedy::Pull => Ok(()),
        }
    }

    /// Finds out what differs, and mends that.
    async fn repair(&mut self, told: &Reconciled) -> Result<(), DriftError> {
        self.mended.repairs += 1;
        let Differences { here_alone, there_alone } = self.compare().await?;
        let gone = self.replica.remove(|message| here_alone.contains(&message.held.item));
        self.let_go(gone, told.kept(), told.floor)?;
        self.fetch(there_alone.into_iter().collect()).await?;
        self.go_on(told.cursor, told.epoch);
        self.push_again().await
    }

    /// Pulls everything anew.
    async fn resync(&mut self, told: &Reconciled) -> Result<(), DriftError> {
        self.mended.repairs += 1;
        let before = self.replica.begin_anew(told.epoch);
        if let Err(error) = self.pull().await {
            *self.replica = before;
            return Err(error);
        }
        let gone = before.without(self.replica);
        self.let_go(gone, told.kept(), told.floor)?;
        self.push_again().await
    }

    async fn compare(&self) -> Result<Differences, DriftError> {
        let items = self.replica.items();
        let (mut finding, first) = Finding::begin(&items, FRAME_BYTES)?;
        let mut next = Some(first);
        for _ in 0..FRAMES_MAX {
            let Some(frame) = next else { return Ok(finding.end()) };
            next = finding.next(&self.requests.compare(frame).await?)?;
        }
        Err(DriftError::Endless)
    }

    /// Of what the scope does not have, what it never deleted is owed to it: it stood beyond all that the scope `kept`. But
    /// where the scope has forgotten deletions since, or was erased, this may be one of them: then it is for somebody to
    /// look at.
    fn let_go(
        &mut self,
        gone: Vec<Message>,
        kept: Cursor,
        floor: Cursor,
    ) -> Result<(), DriftError> {
        let has_forgotten = floor > kept;
        for message in gone {
            if message.cursor <= kept {
                self.mended.dropped += 1;
            } else if has_forgotten {
                self.left.refused.push(message.to_push()?);
            } else {
                self.left.owed.push(message.to_push()?);
            }
        }
        Ok(())
    }

    async fn fetch(&mut self, items: Vec<Item>) -> Result<(), DriftError> {
        let mut left: VecDeque<Item> = items.into();
        while !left.is_empty() {
            let asked: Vec<Item> = left.drain(..left.len().min(FETCH)).collect();
            let fetched = self.requests.fetch(&asked).await?;
            self.mended.fetched += fetched.messages.len() as u64;
            let mut answered: HashSet<Item> = fetched.missing.into_iter().collect();
            for message in fetched.messages {
                answered.extend(self.replica.apply(message)?.map(|held| held.item));
            }
            if answered.is_empty() {
                return Err(DriftError::NothingFetched);
            }
            // The rest did not fit.
            left.extend(asked.into_iter().filter(|item| !answered.contains(item)));
        }
        Ok(())
    }

    fn go_on(&mut self, cursor: Cursor, epoch: Epoch) {
        self.replica.cursor = cursor;
        self.replica.epoch = Some(epoch);
    }

    /// Pushes what the scope has lost, at the versions it had. It is owed until the scope has said that it has it.
    async fn push_again(&mut self) -> Result<(), DriftError> {
        let mut upload = Upload::new(&self.requests);
        let pushed = upload_all(&mut upload, &self.left.owed).await;
        let Tally { synced, rejected, .. } = upload.tally;
        self.mended.pushed_again += synced;
        match pushed {
            Ok(()) if rejected == 0 => self.pushed_again_in = self.replica.epoch,
            // One who may not push can only let it go; and which of them were rejected, the push does not say by id.
            Ok(()) => self.left.refused.append(&mut self.left.owed),
            Err(ClientError::Problem(problem)) if problem.is_not_allowed() => {
                self.left.refused.append(&mut self.left.owed)
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

async fn upload_all<R: Requests>(
    upload: &mut Upload<'_, R>,
    messages: &[Box<RawValue>],
) -> Result<(), ClientError> {
    for json in messages {
        upload.add(Outgoing { origin: String::new(), json: json.clone() }).await?;
    }
    upload.finish().await.map(drop)
}

fn is_invalid_cursor(error: &ClientError) -> bool {
    error.problem().is_some_and(|problem| problem.code == "SYNC_001")
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
