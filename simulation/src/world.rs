//! The servers: one log, one read model, one bucket, and the processes that come and go around them.

use std::{collections::BTreeMap, sync::Arc};

use device::{
    problem::{ClientError, Problem},
    wire::{Fetched, PullFrom, PullPage, Reconciled},
};
use model::{
    Action, BackupId, Command, CommandId, Cursor, DeviceId, Epoch, Item, Limits, LogId, OrgRole,
    Outcome, Partition, PushAnswer, PushedChange, Refusal, Rejected, RequestHash, RestoreId,
    RestoreMode, Role, ScopeKey, Standing, Timestamp, UserId, Verdict,
    draft::{Invalid, parse_change},
    reconcile::{Claim, ScopeSums, is_good, reconcile},
};
use projector::{batch::Batch, record::Decoded};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    Mistake, Violation,
    archiver::{Bucket, Cache},
    cast::{self, Seat},
    effects::{Effect, Effects},
    log::{Log, home, partitions},
    projecting::Projecting,
    random::Random,
    recovery, restoring,
    rows::Rows,
    witness::Witness,
};

/// Records of a batch, at most.
pub(crate) const BATCH: usize = 6;
const FRAME_BYTES: u32 = repair::FRAME_BYTES_MIN;
/// 2025-12-30T10:00:00Z.
const BEGIN: i64 = 1_767_088_800_000_000;
const MINUTE: i64 = 60_000_000;
/// Longer than an hour of the archive: a message that is deleted and forgotten within one is in no incremental.
const TOMBSTONES_KEPT: i64 = 120 * MINUTE;

pub struct World {
    pub random: Random,
    pub now: Timestamp,
    pub log: Log,
    /// It, and those that it was recovered from, the oldest first.
    pub logs: Vec<LogId>,
    pub rows: Rows,
    pub(crate) projecting: Projecting,
    pub bucket: Bucket,
    pub cache: Cache,
    /// Pushes that come once more, when nobody waits for them any longer.
    pub late: Vec<Push>,
    /// Of a hundred requests, how many go wrong.
    pub faults: u32,
    /// Counts the servers' crashes.
    pub life: u64,
    pub witness: Witness,
    pub effects: Effects,
    pub violation: Option<Violation>,
    pub mistake: Option<Mistake>,
    /// Before the last commit; only some mistakes need it.
    pub(crate) before: Option<Rows>,
    /// Chunks of restores that an executor that was thought dead still sends.
    stale: Vec<Command>,
    serial: u128,
}

/// A push as a device sends it.
#[derive(Clone)]
pub struct Push {
    pub scope: ScopeKey,
    pub actor: UserId,
    pub device: DeviceId,
    pub key: String,
    pub epoch: Option<Epoch>,
    pub messages: Vec<Box<RawValue>>,
}

/// What became of a push so far.
pub enum Accepted {
    Known(Arc<Outcome>),
    /// It is on the log.
    Waiting(CommandId),
}

pub fn unreachable(cause: &str) -> ClientError {
    ClientError::Unreachable { url: "http://simulation".to_owned(), cause: cause.to_owned() }
}

fn problem(status: u16, code: &str, detail: &str) -> ClientError {
    let (code, detail) = (code.to_owned(), detail.to_owned());
    ClientError::Problem(Box::new(Problem { status, code, detail, ..Problem::default() }))
}

fn denied(purge: bool) -> ClientError {
    let (code, detail) = ("SYNC_005".to_owned(), "your role does not allow this".to_owned());
    ClientError::Problem(Box::new(Problem {
        status: 403,
        code,
        detail,
        purge,
        ..Problem::default()
    }))
}

/// Refuses one of this standing, unless they are allowed.
fn permit(standing: Standing, allowed: bool) -> Result<(), ClientError> {
    if allowed { Ok(()) } else { Err(denied(standing == Standing::Stranger { former: true })) }
}

impl World {
    pub fn new(mistake: Option<Mistake>) -> Result<Self, Violation> {
        let id = LogId(Uuid::from_u128(1));
        let mut bucket = Bucket::new(mistake);
        let mut world = Self {
            random: Random::new(0),
            now: Timestamp::from_micros(BEGIN),
            log: Log::new(id),
            logs: vec![id],
            rows: Rows::new(id, mistake),
            projecting: Projecting::default(),
            cache: recovery::cache(&mut bucket, id)?,
            bucket,
            late: Vec::new(),
            faults: 0,
            life: 0,
            witness: Witness::default(),
            effects: Effects::default(),
            violation: None,
            mistake,
            before: None,
            stale: Vec::new(),
            serial: 1,
        };
        for founding in cast::foundings() {
            world.command(&founding.scope, &founding.owner, Action::ScopeCreated);
            for (user, role) in founding.members {
                let set = Action::MemberSet { user, role };
                world.command(&founding.scope, &founding.owner, set);
            }
        }
        partitions().try_for_each(|partition| world.bucket.upload(&world.log, partition))?;
        world.settle()?;
        world.effects = Effects::default();
        Ok(world)
    }

    /// An id that nothing else has.
    pub fn id(&mut self) -> Uuid {
        self.serial += 1;
        Uuid::from_u128(self.serial)
    }

    /// Broker clocks differ, and step back.
    fn append_time(&mut self) -> Timestamp {
        self.now = self.now.plus_micros(1_000);
        match self.random.below(8) {
            0 => self.now.plus_micros(-5_000_000),
            _ => self.now,
        }
    }

    fn append(&mut self, command: &Command) {
        let time = self.append_time();
        self.log.append(time, command);
    }

    fn command(&mut self, scope: &ScopeKey, actor: &UserId, action: Action) -> Command {
        let command = Command {
            id: CommandId(self.id()),
            scope: scope.clone(),
            actor: actor.clone(),
            org_role: OrgRole::Member,
            device: None,
            request_hash: RequestHash::of(&[]),
            action,
        };
        self.append(&command);
        command
    }

    pub fn back_up(&mut self, scope: &ScopeKey) {
        let backup = BackupId(self.id());
        self.command(scope, &cast::owner(scope), Action::BackupRequested { backup });
    }

    /// As a user asks that all of theirs be erased.
    pub fn erase(&mut self, scope: &ScopeKey) {
        self.command(scope, &cast::owner(scope), Action::ScopeErased);
    }

    /// As the owner gives a role, or takes it.
    pub fn set_member(&mut self, scope: &ScopeKey, user: &UserId, role: Option<Role>) {
        let user = user.clone();
        let action = match role {
            Some(role) => Action::MemberSet { user, role },
            None => Action::MemberRemoved { user },
        };
        self.command(scope, &cast::owner(scope), action);
    }

    /// As ingest asks for one of the backups that it is shown.
    pub fn restore(&mut self, scope: &ScopeKey, pick: u8, mode: RestoreMode) {
        let erased = self.rows.scopes.get(scope).map_or(Cursor::ZERO, |heading| heading.erased);
        let shown = self
            .bucket
            .backups
            .iter()
            .filter(|made| made.scope == *scope && made.cursor_last >= erased);
        let backups: Vec<BackupId> = shown.map(|made| made.id).collect();
        if backups.is_empty() {
            return;
        }
        let backup = backups[usize::from(pick) % backups.len()];
        let (restore, source) = (RestoreId(self.id()), Box::new(scope.clone()));
        let action = Action::RestoreRequested { restore, mode, backup, source };
        self.command(scope, &cast::owner(scope), action);
    }

    /// As the archiver says that tombstones are old enough.
    pub fn expire(&mut self, scope: &ScopeKey, keep: u8) {
        let before = self.now.plus_micros(-TOMBSTONES_KEPT);
        let is_old = |at: &Timestamp| *at < before;
        let rows = self.rows.of(scope.reference()).map(|image| &image.entry);
        let old = rows.filter(|entry| entry.deleted_at.as_ref().is_some_and(is_old));
        let mut cursors: Vec<Cursor> = old.map(|entry| entry.cursor).collect();
        cursors.sort_unstable();
        if let Some(up_to) = cursors.iter().rev().nth(usize::from(keep)).copied() {
            self.command(scope, &cast::owner(scope), Action::TombstonesExpired { up_to });
        }
    }

    /// All processes end at once; what they had in memory is gone.
    pub fn crash(&mut self) -> Result<(), Violation> {
        self.life += 1;
        self.projecting = Projecting::default();
        if let Some(before) = self.before.take() {
            match self.mistake {
                Some(Mistake::FoldsTwice) => self.rows.positions = before.positions,
                _ => self.lose_tail(before),
            }
        }
        self.cache = recovery::cache(&mut self.bucket, self.log.id)?;
        Ok(())
    }

    /// The log was not as durable as it said.
    fn lose_tail(&mut self, before: Rows) {
        let is_last = |partition: &Partition| {
            before.positions[partition].next_offset.next() == self.log.end(*partition)
        };
        let moved = |partition: &Partition| {
            before.positions[partition].next_offset != self.rows.positions[partition].next_offset
        };
        let mut lost = partitions().filter(moved);
        if let (Some(partition), None) = (lost.next(), lost.next())
            && is_last(&partition)
        {
            self.log.lose_last(partition);
            self.rows = before;
        }
    }

    /// One of the servers' processes goes one step further.
    pub fn work(&mut self) -> Result<(), Violation> {
        match self.random.below(100) {
            0..55 => self.project(),
            55..78 => self.archive(),
            78..83 => {
                let partition = Partition::new(self.random.below(2) as u32);
                self.bucket.upload(&self.log, partition)
            }
            83..92 => self.go_on_restoring().map(|_| ()),
            92..94 => {
                self.tick();
                Ok(())
            }
            _ => {
                self.deliver_late();
                Ok(())
            }
        }
    }

    fn deliver_late(&mut self) {
        if !self.late.is_empty() {
            let late = self.late.swap_remove(self.random.below(self.late.len()));
            // Nobody hears what becomes of it.
            let _ = self.accept(&late);
        }
        if !self.stale.is_empty() && self.random.chance(50) {
            let stale = self.stale.swap_remove(self.random.below(self.stale.len()));
            self.append(&stale);
        }
    }

    /// The archiver folds a record of each partition.
    fn archive(&mut self) -> Result<(), Violation> {
        for partition in partitions() {
            let next = self.cache.next(partition);
            if let Some(record) = self.log.from(partition, next).first().cloned() {
                self.cache.take(&mut self.bucket, &self.log, &record)?;
            }
        }
        Ok(())
    }

    fn is_current(&self, partition: Partition) -> bool {
        self.cache.next(partition) >= self.log.end(partition)
    }

    /// Whether there was anything to do.
    fn go_on_restoring(&mut self) -> Result<bool, Violation> {
        let mut running = restoring::running(&self.cache);
        running.retain(|(scope, _)| self.is_current(home(scope)));
        if running.is_empty() {
            return Ok(false);
        }
        let (scope, restore) = running.swap_remove(self.random.below(running.len()));
        let action =
            restoring::next(&self.bucket, &self.cache, &scope, &restore, &mut self.random)?;
        let appended = self.command(&scope, &restore.actor, action);
        let mut again = Command { id: CommandId(self.id()), ..appended };
        if self.mistake == Some(Mistake::RestoresTwice) {
            restoring::readdress(&mut again);
            self.append(&again);
            return Ok(true);
        }
        match self.random.below(12) {
            // Two executors at once.
            0 => self.append(&again),
            1 => self.stale.push(again),
            _ => {}
        }
        Ok(true)
    }

    fn tick(&mut self) {
        for partition in self.cache.idle(self.now) {
            if self.is_current(partition) {
                let time = self.now;
                self.log.tick(time, partition);
            }
        }
    }

    /// All that was begun comes to its end.
    pub fn settle(&mut self) -> Result<(), Violation> {
        for _ in 0..10_000 {
            while !self.late.is_empty() || !self.stale.is_empty() {
                self.deliver_late();
            }
            let is_projected =
                |partition| self.rows.positions[&partition].next_offset >= self.log.end(partition);
            if !self.projecting.is_idle() || !partitions().all(is_projected) {
                self.project()?;
            } else if !partitions().all(|partition| self.is_current(partition)) {
                self.archive()?;
            } else if !self.go_on_restoring()? {
                return Ok(());
            }
        }
        Err(Violation("the servers never come to rest".to_owned()))
    }

    /// All that the log has is folded once more, beside; the rows that come of it take the place of those there are.
    pub fn rebuild(&mut self) -> Result<(), Violation> {
        let mut shadow = self.folded_anew()?;
        if self.mistake == Some(Mistake::RebuildsTooLittle) {
            shadow.positions = self.rows.positions.clone();
        } else {
            self.rows.compare(&shadow)?;
        }
        self.effects.count(Effect::Rebuild, !shadow.messages.is_empty());
        for (partition, position) in &mut shadow.positions {
            position.rebuilds = self.rows.positions[partition].rebuilds + 1;
        }
        self.rows = shadow;
        self.before = None;
        self.projecting.forget();
        Ok(())
    }

    /// What the log comes to, up to where the rows are.
    fn folded_anew(&mut self) -> Result<Rows, Violation> {
        let mut shadow = match self.mistake {
            Some(Mistake::RebuildsFromNothing) => Rows::new(self.log.id, self.mistake),
            _ => recovery::rows(&mut self.bucket, &self.logs)?,
        };
        let too_little = u64::from(self.mistake == Some(Mistake::RebuildsTooLittle));
        for partition in partitions() {
            let until = self.rows.positions[&partition].next_offset.get();
            let until = until.saturating_sub(too_little);
            loop {
                let from = shadow.positions[&partition].next_offset;
                let left = (until - from.get()) as usize;
                let most = (1 + self.random.below(2 * BATCH)).min(left);
                let records = self.log.from(partition, from)[..most].iter().cloned();
                let records: Vec<Decoded> = records.map(Decoded::new).collect();
                if records.is_empty() {
                    break;
                }
                let batch = Batch::new(records, &shadow.positions);
                let mut loaded = shadow.load(&batch.wanted(), true);
                loaded.add_messages(shadow.load(&batch.wanted_besides(&loaded), true));
                shadow.commit(&batch.fold(loaded).writes, &batch.advances, true)?;
            }
        }
        Ok(shadow)
    }

    /// Log and rows are gone. The new log begins with what the archive has.
    pub fn recover(&mut self) -> Result<(), Violation> {
        let (lost, new) = (self.log.id, LogId(self.id()));
        recovery::recover(&mut self.bucket, lost, new)?;
        self.log = Log::new(new);
        self.logs.push(new);
        self.rows = recovery::rows(&mut self.bucket, &self.logs)?;
        self.before = None;
        self.stale.clear();
        self.crash()
    }

    pub fn pass(&mut self, seconds: u32) {
        self.now = self.now.plus_micros(i64::from(seconds) * 1_000_000);
    }

    /// As ingest takes a push.
    pub fn accept(&mut self, push: &Push) -> Result<Accepted, ClientError> {
        let (mut changes, mut rejected) = (Vec::new(), Vec::new());
        for (index, message) in (0..).zip(&push.messages) {
            match parse_change(message.get(), &Limits::CONTRACT) {
                Ok(change) => changes.push(PushedChange { index, change }),
                Err(Invalid { code, detail }) => rejected.push(Rejected { index, code, detail }),
            }
        }
        if changes.is_empty() && !rejected.is_empty() {
            return Err(problem(400, "INVALID_REQUEST", &rejected[0].detail));
        }
        let id = CommandId::of_key(&push.scope, "push", &push.actor, &push.key);
        // A retry may come before the first try is folded, and the look into the rows in vain.
        if self.random.chance(70)
            && let Some(known) = self.rows.outcome(id)
        {
            return Ok(Accepted::Known(known));
        }
        // Who is let in is remembered for a while: then the fold alone decides.
        if self.random.chance(70) {
            let standing = self.rows.standing(&push.scope, &push.actor);
            permit(standing, standing.may_push())?;
        }
        if let Some(base) = self.rows.kept(push.scope.reference(), push.epoch) {
            changes.iter_mut().for_each(|pushed| pushed.change.forget_base(|of| of <= base));
        }
        let epoch = push.epoch.map(|epoch| epoch.0.to_string()).unwrap_or_default();
        let messages = push.messages.iter().map(|json| json.get().as_bytes());
        let body: Vec<&[u8]> = messages.chain([epoch.as_bytes()]).collect();
        let command = Command {
            id,
            scope: push.scope.clone(),
            actor: push.actor.clone(),
            org_role: OrgRole::Member,
            device: Some(push.device.clone()),
            request_hash: RequestHash::of(&body),
            action: Action::MessagesPushed { changes, rejected },
        };
        self.append(&command);
        Ok(Accepted::Waiting(id))
    }

    fn kept(&self, scope: &ScopeKey, epoch: Option<Epoch>, head: Cursor) -> Option<Cursor> {
        match self.mistake {
            Some(Mistake::IgnoresBase) => None,
            _ => self.rows.kept(scope.reference(), epoch).map(|base| base.min(head)),
        }
    }

    fn sums(&self, scope: &ScopeKey) -> ScopeSums {
        let heading = self.rows.scopes.get(scope).cloned().unwrap_or_default();
        let model::Heading { head, floor, count, digest, .. } = heading;
        ScopeSums { head, floor, count, digest }
    }

    fn permit(&self, seat: &Seat) -> Result<(), ClientError> {
        let standing = self.rows.standing(&seat.scope, &seat.user);
        permit(standing, standing.may_pull() || self.mistake == Some(Mistake::ServesRemoved))
    }

    /// As the api answers a pull.
    pub fn pull(&mut self, seat: &Seat, from: PullFrom) -> Result<PullPage, ClientError> {
        self.permit(seat)?;
        let ScopeSums { head, floor, count, digest } = self.sums(&seat.scope);
        let base = self.kept(&seat.scope, from.epoch, head);
        let cursor = Cursor::new(from.cursor).unwrap();
        if !is_good(cursor, base) || cursor > head {
            return Err(problem(409, "SYNC_001", "the cursor is not good"));
        }
        let limit = (from.limit as usize).min(1 + self.random.below(12));
        let reference = seat.scope.reference();
        let page = self.rows.page(reference, cursor, limit);
        let last = page.messages.last().map(|(cursor, _)| *cursor);
        let raw = |(_, json): (Cursor, String)| RawValue::from_string(json).unwrap();
        Ok(PullPage {
            messages: page.messages.into_iter().map(raw).collect(),
            cursor: last.filter(|_| page.has_more).unwrap_or(head),
            has_more: page.has_more,
            head,
            floor,
            count,
            digest,
            epoch: self.rows.epoch(),
            base,
        })
    }

    /// As the api tells a device whether it has drifted.
    pub fn reconcile(
        &self,
        seat: &Seat,
        claim: &Claim,
        epoch: Option<Epoch>,
    ) -> Result<Reconciled, ClientError> {
        self.permit(seat)?;
        let sums = self.sums(&seat.scope);
        let mut base = self.kept(&seat.scope, epoch, sums.head);
        let told = reconcile(claim, base, &sums);
        if self.mistake == Some(Mistake::ReportsNoLoss) {
            base = base.map(|_| Cursor::from_i64(i64::MAX));
        }
        let ScopeSums { head, floor, count, digest } = sums;
        let model::reconcile::Reconciled { status, action, cursor } = told;
        let epoch = self.rows.epoch();
        Ok(Reconciled { status, action, cursor, head, floor, count, digest, epoch, base })
    }

    /// As the api answers a frame.
    pub fn compare(&self, seat: &Seat, frame: &[u8]) -> Result<Vec<u8>, ClientError> {
        self.permit(seat)?;
        let items = match self.mistake {
            Some(Mistake::ComparesWithNothing) => repair::Items::default(),
            _ => self.rows.items(seat.scope.reference()),
        };
        items
            .answer(frame, FRAME_BYTES)
            .map_err(|error| problem(400, "INVALID_REQUEST", &error.to_string()))
    }

    /// As the api gives messages by their items; not all fit.
    pub fn fetch(&mut self, seat: &Seat, asked: &[Item]) -> Result<Fetched, ClientError> {
        self.permit(seat)?;
        let most = 1 + self.random.below(12);
        let reference = seat.scope.reference();
        let named = self.rows.items(reference).named(&asked.iter().copied().collect());
        let (mut messages, mut missing) = (Vec::new(), Vec::new());
        for item in asked.iter().take(most) {
            match named.get(item).and_then(|id| self.rows.messages.get(&(reference, *id))) {
                Some(image) => messages.push(RawValue::from_string(image.json.clone()).unwrap()),
                None => missing.push(*item),
            }
        }
        Ok(Fetched { messages, missing })
    }
}

/// What the answer to a push is.
pub fn answer(outcome: &Outcome) -> Result<PushAnswer, ClientError> {
    match &outcome.verdict {
        Verdict::Pushed(answer) => Ok(answer.clone()),
        Verdict::Refused(Refusal::PermissionDenied { purge }) => Err(denied(*purge)),
        other => Err(problem(500, "INTERNAL", &format!("a push became {other:?}"))),
    }
}

/// A time before or after another.
pub fn minutes(from: Timestamp, minutes: i8) -> Timestamp {
    from.plus_micros(i64::from(minutes) * MINUTE)
}

/// The bases of the epoch that began last.
pub fn bases(rows: &Rows) -> BTreeMap<model::ScopeRef, Cursor> {
    rows.epochs.last().unwrap().new.bases.iter().copied().collect()
}
