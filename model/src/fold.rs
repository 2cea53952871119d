//! The fold of one scope: `(state, command, time) -> outcome`. The same function in the projector,
//! the tests and the tools; every copy that folded the same log agrees, cursors included.
//!
//! It touches only what a command names ([`Touched`]), so that a projector need load no more.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    cursor::Cursor,
    event::{Action, Change, Command, PushedChange, Rejected, Unappliable, Write},
    hash::{ContentHash, Digest, Version},
    ids::{BackupId, CommandId, MessageId, UserId},
    limits::{COMMAND_KNOWN_MICROS, UPDATED_AT_AHEAD_MAX_MICROS},
    message::Entry,
    outcome::{Outcome, PushAnswer, PushResult, Refusal, Status, Verdict},
    restore::{RestoreRecord, RunningRestore, Step},
    role::{OrgRole, Role, Standing},
    scope::ScopeKey,
    time::Timestamp,
};

/// What a scope sums up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heading {
    /// Teams and projects: `ScopeCreated` was accepted. Others: a push or a backup was.
    pub exists: bool,
    /// The cursor of the last change.
    pub head: Cursor,
    /// Tombstones up to this cursor have expired.
    pub floor: Cursor,
    /// The time of the last event.
    pub clock: Timestamp,
    /// Live messages, and their [`crate::Body::bytes`].
    pub count: u64,
    pub bytes: u64,
    pub digest: Digest,
    /// Members whose role is owner.
    pub owners: u32,
    pub restore: Option<RunningRestore>,
}

/// A user's membership; removed ones are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// `None`: removed.
    pub role: Option<Role>,
    /// When the role was given, or taken.
    pub since: Timestamp,
}

/// A command folded before.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownCommand {
    pub folded_at: Timestamp,
    pub outcome: Arc<Outcome>,
}

/// The state of one scope, or the part of it that some commands touch.
#[derive(Clone, Debug)]
pub struct Scope {
    pub key: ScopeKey,
    pub heading: Heading,
    pub messages: HashMap<MessageId, Entry>,
    /// Live messages by content: at most one each.
    pub live: HashMap<ContentHash, MessageId>,
    pub members: HashMap<UserId, Member>,
    pub commands: HashMap<CommandId, KnownCommand>,
}

/// What folding one command did.
#[derive(Clone, Debug)]
pub struct Applied {
    pub outcome: Arc<Outcome>,
    /// The command was known; nothing changed, and the outcome is the stored one.
    pub repeated: bool,
    /// Changed messages, in the order of their cursors.
    pub changes: Vec<Changed>,
    /// The user whose membership changed.
    pub member: Option<UserId>,
    /// A restore, as it stands now, if the command was about one.
    pub restore: Option<RestoreRecord>,
    /// The floor, if the command raised it: the tombstones up to it are gone.
    pub floor: Option<Cursor>,
}

/// A message that took the next cursor. Its new entry is in the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub id: MessageId,
    pub cursor: Cursor,
    /// Which of the push's `changes` made it, or of the chunk's `deletes` and `puts`, counted through.
    pub change: usize,
    /// No message had this id before.
    pub is_new: bool,
}

/// What some commands made of a scope, for those who loaded it before them ([`Scope::overlay`]).
#[derive(Clone, Debug)]
pub struct Later {
    /// The heading after them, and what they changed.
    pub scope: Scope,
    /// Messages that they changed and that are no more: the tombstones have expired.
    pub gone: Vec<MessageId>,
}

/// What a command names: all that folding it may read or write, beside the scope's heading, tombstones that
/// expire, which are only let go of, and, rarely, [`Touched::again`].
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub messages: Vec<MessageId>,
    pub contents: Vec<ContentHash>,
    pub users: Vec<UserId>,
}

impl Touched {
    pub fn by(command: &Command) -> Self {
        let mut touched = Self { users: vec![command.actor.clone()], ..Self::default() };
        match &command.action {
            Action::MessagesPushed { changes, .. } => {
                for PushedChange { change, .. } in changes {
                    touched.add_change(command, change);
                }
            }
            Action::RestoreChunk(chunk) => {
                touched.messages.extend(&chunk.deletes);
                touched.messages.extend(chunk.puts.iter().map(|put| put.id));
                touched.contents.extend(chunk.puts.iter().map(|put| put.content_hash));
            }
            Action::ScopeCreated
            | Action::BackupRequested { .. }
            | Action::RestoreRequested { .. }
            | Action::RestoreCompleted { .. }
            | Action::RestoreFailed { .. }
            | Action::TombstonesExpired { .. } => {}
            Action::MemberSet { user, .. } | Action::MemberRemoved { user } => {
                touched.users.push(user.clone());
            }
        }
        touched
    }

    fn add_change(&mut self, command: &Command, change: &Change) {
        match change {
            Change::Delete { id, .. } => self.messages.push(*id),
            Change::Write(write) => {
                let hash = write.content_hash;
                self.contents.push(hash);
                let derived = || MessageId::of_content(&command.scope, &hash);
                self.messages.push(write.id.unwrap_or_else(derived));
            }
        }
    }

    /// The second ids of content pushed without one, where the first may be that of other content by
    /// now: it is in `scope`, the touched part of the state before, or some write that is folded along
    /// with the command names it (`written`: [`Touched::written`] of all of them).
    pub fn again(command: &Command, scope: &Scope, written: &HashSet<MessageId>) -> Vec<MessageId> {
        if written.is_empty() && scope.messages.is_empty() {
            return Vec::new();
        }
        let may_be_edited = |id: &MessageId, hash: &ContentHash| {
            let edited = |entry: &Entry| entry.is_live() && entry.content_hash != *hash;
            written.contains(id) || scope.messages.get(id).is_some_and(edited)
        };
        let again = |(index, write): (u32, &Write)| {
            let hash = write.content_hash;
            let first = MessageId::of_content(&command.scope, &hash);
            let again = || MessageId::of_content_again(&command.scope, &hash, command.id, index);
            (write.id.is_none() && may_be_edited(&first, &hash)).then(again)
        };
        command.writes().filter_map(again).collect()
    }

    /// The ids that a command's writes name.
    pub fn written(command: &Command) -> impl Iterator<Item = MessageId> {
        command.writes().filter_map(|(_, write)| write.id)
    }
}

impl Scope {
    /// A scope that nothing has happened to.
    pub fn new(key: ScopeKey) -> Self {
        Self {
            key,
            heading: Heading::default(),
            messages: HashMap::new(),
            live: HashMap::new(),
            members: HashMap::new(),
            commands: HashMap::new(),
        }
    }

    /// Puts a stored entry in place, as when loading.
    pub fn insert(&mut self, id: MessageId, entry: Entry) {
        if entry.is_live() {
            self.live.insert(entry.content_hash, id);
        }
        self.messages.insert(id, entry);
    }

    /// The part of the state that is about these.
    pub fn part(
        &self,
        messages: impl IntoIterator<Item = MessageId>,
        users: impl IntoIterator<Item = UserId>,
        commands: impl IntoIterator<Item = CommandId>,
    ) -> Self {
        let mut part = Self::new(self.key.clone());
        part.heading = self.heading.clone();
        for id in messages {
            if let Some(entry) = self.messages.get(&id) {
                part.insert(id, entry.clone());
            }
        }
        let members = users.into_iter().filter_map(|user| {
            let member = *self.members.get(&user)?;
            Some((user, member))
        });
        part.members = members.collect();
        let commands =
            commands.into_iter().filter_map(|id| Some((id, self.commands.get(&id)?.clone())));
        part.commands = commands.collect();
        part
    }

    /// What commands that changed these have made of the scope.
    pub fn later(
        &self,
        messages: impl IntoIterator<Item = MessageId>,
        users: impl IntoIterator<Item = UserId>,
        commands: impl IntoIterator<Item = CommandId>,
    ) -> Later {
        let (there, gone): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|id| self.messages.contains_key(id));
        Later { scope: self.part(there, users, commands), gone }
    }

    /// Brings this part of an earlier state up to a later one. `later` has the later heading, and all
    /// that changed in between.
    pub fn overlay(&mut self, later: &Later) {
        let Later { scope: later, gone } = later;
        self.heading = later.heading.clone();
        // First every content is let go of, then each is taken again: they may have changed hands.
        for id in later.messages.keys().chain(gone) {
            if let Some(old) = self.messages.remove(id)
                && self.live.get(&old.content_hash) == Some(id)
            {
                self.live.remove(&old.content_hash);
            }
        }
        for (id, entry) in &later.messages {
            self.insert(*id, entry.clone());
        }
        self.forget_tombstones();
        self.members.extend(later.members.iter().map(|(user, member)| (user.clone(), *member)));
        self.commands.extend(later.commands.iter().map(|(id, known)| (*id, known.clone())));
    }

    /// Folds one command. `time` is the log's: the running maximum of append times in the partition.
    pub fn apply(&mut self, command: &Command, time: Timestamp) -> Result<Applied, Unappliable> {
        command.check()?;
        self.heading.clock = self.heading.clock.max(time);
        if let Some(known) = self.known(command.id) {
            let outcome = known.outcome.clone();
            let changes = Vec::new();
            let (member, restore, floor) = (None, None, None);
            return Ok(Applied { outcome, repeated: true, changes, member, restore, floor });
        }
        let mut changes = Vec::new();
        let mut member = None;
        let mut restore = None;
        let before = self.heading.floor;
        let verdict = match &command.action {
            Action::MessagesPushed { changes: pushed, rejected } => {
                self.push(command, pushed, rejected, &mut changes)
            }
            Action::ScopeCreated => self.create(command, &mut member),
            Action::MemberSet { user, role } => self.set_member(command, user, *role, &mut member),
            Action::MemberRemoved { user } => self.remove_member(command, user, &mut member),
            Action::BackupRequested { backup } => self.back_up(command, *backup),
            Action::TombstonesExpired { up_to } => self.expire_tombstones(*up_to),
            other => {
                let step = self.restore(command, other, &mut changes);
                restore = step.1;
                step.0
            }
        };
        let outcome = Arc::new(Outcome {
            actor: command.actor.clone(),
            request_hash: command.request_hash,
            folded_at: self.heading.clock,
            verdict,
        });
        let known = KnownCommand { folded_at: self.heading.clock, outcome: outcome.clone() };
        self.commands.insert(command.id, known);
        let floor = Some(self.heading.floor).filter(|floor| *floor > before);
        Ok(Applied { outcome, repeated: false, changes, member, restore, floor })
    }

    fn known(&self, id: CommandId) -> Option<&KnownCommand> {
        let clock = self.heading.clock;
        self.commands
            .get(&id)
            .filter(|known| clock.micros_since(known.folded_at) < COMMAND_KNOWN_MICROS)
    }

    fn standing(&self, user: &UserId, org_role: OrgRole) -> Standing {
        let member = self.members.get(user).map(|member| member.role);
        Standing::of(&self.key, user, org_role, self.heading.exists, member)
    }

    fn push(
        &mut self,
        command: &Command,
        pushed: &[PushedChange],
        rejected: &[Rejected],
        changes: &mut Vec<Changed>,
    ) -> Verdict {
        let standing = self.standing(&command.actor, command.org_role);
        if !standing.may_push() {
            return refused(standing);
        }
        self.heading.exists = true;
        let previous = self.heading.head;
        let mut results: Vec<PushResult> = Vec::with_capacity(pushed.len() + rejected.len());
        for (place, PushedChange { index, change }) in pushed.iter().enumerate() {
            let (status, id) = match change {
                Change::Write(write) => self.write(command.id, *index, write),
                Change::Delete { id, base_cursor } => self.delete(*id, *base_cursor),
            };
            let entry = self.messages.get(&id).filter(|_| status != Status::Absent);
            if status.is_synced() {
                changes.push(Changed {
                    id,
                    cursor: self.heading.head,
                    change: place,
                    is_new: status == Status::Created,
                });
            }
            results.push(PushResult {
                index: *index,
                status,
                id: Some(id),
                cursor: entry.map(|entry| entry.cursor),
                updated_at: entry.map(|entry| entry.version.updated_at),
                code: None,
                detail: None,
            });
        }
        results.extend(rejected.iter().map(invalid_result));
        let clock = self.heading.clock;
        let head = self.heading.head;
        Verdict::Pushed(PushAnswer::new(command.id, clock, previous, head, results))
    }

    /// The table of writes: the first row that fits decides.
    fn write(&mut self, push: CommandId, index: u32, write: &Write) -> (Status, MessageId) {
        let hash = write.content_hash;
        if let Some(same) =
            self.live.get(&hash).filter(|same| write.id.is_none_or(|id| id != **same))
        {
            return (Status::Duplicate, *same);
        }
        let id = write.id.unwrap_or_else(|| MessageId::of_content(&self.key, &hash));
        let edited_since = self.messages.get(&id).is_some_and(Entry::is_live);
        if write.id.is_none() && edited_since {
            let again = MessageId::of_content_again(&self.key, &hash, push, index);
            return (self.write_with_id(again, write), again);
        }
        (self.write_with_id(id, write), id)
    }

    fn write_with_id(&mut self, id: MessageId, write: &Write) -> Status {
        let version = self.version_of(write);
        let Some(old) = self.messages.get(&id).cloned() else {
            if self.was_forgotten(write) {
                return Status::Stale;
            }
            self.put(id, write, version, version.updated_at);
            return Status::Created;
        };
        if !old.is_live() {
            if version.updated_at <= old.version.updated_at {
                return Status::Stale;
            }
            self.put(id, write, version, old.created_at);
            return Status::Revived;
        }
        if old.version.body == version.body {
            return Status::Duplicate;
        }
        if self.base(write.base_cursor) >= old.cursor {
            let updated_at = version.updated_at.max(old.version.updated_at.plus_micros(1));
            self.put(id, write, Version { updated_at, ..version }, old.created_at);
            return Status::Updated;
        }
        if version <= old.version {
            return Status::Stale;
        }
        self.put(id, write, version, old.created_at);
        Status::Updated
    }

    fn delete(&mut self, id: MessageId, base_cursor: Cursor) -> (Status, MessageId) {
        let Some(old) = self.messages.get(&id).filter(|entry| entry.is_live()).cloned() else {
            return (Status::Absent, id);
        };
        if self.base(Some(base_cursor)) < old.cursor {
            return (Status::Superseded, id);
        }
        self.take_away(id, &old);
        self.heading.head = self.heading.head.next();
        let tombstone = Entry {
            cursor: self.heading.head,
            deleted_at: Some(self.heading.clock),
            restore: None,
            ..old
        };
        self.messages.insert(id, tombstone);
        (Status::Deleted, id)
    }

    /// What the writer had seen: nothing, if the cursor it names was never given out.
    pub(crate) fn base(&self, base_cursor: Option<Cursor>) -> Cursor {
        base_cursor.filter(|base| *base <= self.heading.head).unwrap_or(Cursor::ZERO)
    }

    pub(crate) fn version_of(&self, write: &Write) -> Version {
        let clock = self.heading.clock;
        let latest = clock.plus_micros(UPDATED_AT_AHEAD_MAX_MICROS);
        Version { updated_at: write.updated_at.unwrap_or(clock).min(latest), body: write.body_hash }
    }

    /// Makes this the live version of the message, at the next cursor.
    fn put(&mut self, id: MessageId, write: &Write, version: Version, created_at: Timestamp) {
        self.put_version(id, write.content_hash, write.body.bytes(), version, created_at);
    }

    /// As [`Self::put`], of whatever wants it.
    pub(crate) fn put_version(
        &mut self,
        id: MessageId,
        content_hash: ContentHash,
        bytes: u64,
        version: Version,
        created_at: Timestamp,
    ) {
        if let Some(old) = self.messages.get(&id).filter(|entry| entry.is_live()).cloned() {
            self.take_away(id, &old);
        }
        let heading = &mut self.heading;
        heading.head = heading.head.next();
        heading.count += 1;
        heading.bytes += bytes;
        heading.digest.add(version.item(id));
        let entry = Entry {
            cursor: heading.head,
            version,
            content_hash,
            created_at,
            bytes,
            deleted_at: None,
            restore: None,
        };
        self.insert(id, entry);
    }

    /// Takes a live version out of the sums and the contents.
    pub(crate) fn take_away(&mut self, id: MessageId, old: &Entry) {
        let heading = &mut self.heading;
        heading.count = heading.count.saturating_sub(1);
        heading.bytes = heading.bytes.saturating_sub(old.bytes);
        heading.digest.remove(old.version.item(id));
        self.live.remove(&old.content_hash);
    }

    fn back_up(&mut self, command: &Command, backup: BackupId) -> Verdict {
        let standing = self.standing(&command.actor, command.org_role);
        if !standing.may_back_up() {
            return refused(standing);
        }
        self.heading.exists = true;
        Verdict::BackupRequested { backup }
    }

    fn restore(&mut self, command: &Command, action: &Action, changes: &mut Vec<Changed>) -> Step {
        match action {
            Action::RestoreRequested { restore, mode, backup, source } => {
                let standing = self.standing(&command.actor, command.org_role);
                if !standing.may_restore() {
                    return (refused(standing), None);
                }
                self.begin_restore(*restore, *mode, *backup, source, &command.actor)
            }
            Action::RestoreChunk(chunk) => self.restore_chunk(chunk, changes),
            Action::RestoreCompleted { restore, from } => self.end_restore(*restore, *from, None),
            Action::RestoreFailed { restore, from, code, detail } => {
                self.end_restore(*restore, *from, Some((*code, detail)))
            }
            // The caller has dealt with these.
            Action::MessagesPushed { .. }
            | Action::ScopeCreated
            | Action::MemberSet { .. }
            | Action::MemberRemoved { .. }
            | Action::BackupRequested { .. }
            | Action::TombstonesExpired { .. } => (Verdict::RestoreStep, None),
        }
    }

    fn create(&mut self, command: &Command, member: &mut Option<UserId>) -> Verdict {
        if self.heading.exists {
            return match self.standing(&command.actor, command.org_role) {
                former @ Standing::Stranger { former: true } => refused(former),
                standing => Verdict::Refused(Refusal::Exists { role: standing.role() }),
            };
        }
        self.heading.exists = true;
        self.set_role(&command.actor, Some(Role::Owner), member);
        Verdict::ScopeCreated
    }

    fn set_member(
        &mut self,
        command: &Command,
        user: &UserId,
        role: Role,
        member: &mut Option<UserId>,
    ) -> Verdict {
        let standing = self.standing(&command.actor, command.org_role);
        let old = self.role_of(user);
        let about_owner = role == Role::Owner || old == Some(Role::Owner);
        if standing.role() < Some(if about_owner { Role::Owner } else { Role::Admin }) {
            return refused(standing);
        }
        if role != Role::Owner && self.is_last_owner(user) {
            return Verdict::Refused(Refusal::LastOwner);
        }
        if old != Some(role) {
            self.set_role(user, Some(role), member);
        }
        let since = self.members.get(user).map_or(self.heading.clock, |member| member.since);
        Verdict::MemberSet { user: user.clone(), role, since }
    }

    fn remove_member(
        &mut self,
        command: &Command,
        user: &UserId,
        member: &mut Option<UserId>,
    ) -> Verdict {
        let standing = self.standing(&command.actor, command.org_role);
        let old = self.role_of(user);
        let oneself = *user == command.actor && old.is_some();
        let needed = if old == Some(Role::Owner) { Role::Owner } else { Role::Admin };
        if !oneself && standing.role() < Some(needed) {
            return refused(standing);
        }
        if old.is_none() {
            return Verdict::Refused(Refusal::NoSuchMember);
        }
        if self.is_last_owner(user) {
            return Verdict::Refused(Refusal::LastOwner);
        }
        self.set_role(user, None, member);
        Verdict::MemberRemoved { user: user.clone() }
    }

    fn role_of(&self, user: &UserId) -> Option<Role> {
        self.members.get(user).and_then(|member| member.role)
    }

    fn is_last_owner(&self, user: &UserId) -> bool {
        self.heading.owners == 1 && self.role_of(user) == Some(Role::Owner)
    }

    fn set_role(&mut self, user: &UserId, role: Option<Role>, member: &mut Option<UserId>) {
        let was_owner = self.role_of(user) == Some(Role::Owner);
        let is_owner = role == Some(Role::Owner);
        match (was_owner, is_owner) {
            (false, true) => self.heading.owners += 1,
            (true, false) => self.heading.owners = self.heading.owners.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        self.members.insert(user.clone(), Member { role, since: self.heading.clock });
        *member = Some(user.clone());
    }
}

fn refused(standing: Standing) -> Verdict {
    let purge = standing == Standing::Stranger { former: true };
    Verdict::Refused(Refusal::PermissionDenied { purge })
}

fn invalid_result(rejected: &Rejected) -> PushResult {
    PushResult {
        index: rejected.index,
        status: Status::Invalid,
        id: None,
        cursor: None,
        updated_at: None,
        code: Some(rejected.code),
        detail: Some(rejected.detail.clone()),
    }
}
