//! A second fold, written otherwise to catch the first: it keeps everything that ever happened in a
//! list, sums nothing up, and looks everything up from the start again. Slow, and plain.

use model::{
    Action, BodyHash, Change, Command, CommandId, ContentHash, MessageId, OrgRole, Role, ScopeKind,
    Status, Timestamp, UserId, Write,
};

const MINUTES_5: i64 = 300_000_000;
const HOURS_24: i64 = 86_400_000_000;

/// What it says of a command: refused, or the statuses of a push (none for another command).
pub(crate) type Judgement = Result<Vec<Status>, ()>;

#[derive(Default)]
pub(crate) struct Auditor {
    judged: Vec<(CommandId, i64, Judgement)>,
    /// The n-th made the cursor n + 1.
    changes: Vec<Happened>,
    roles: Vec<(UserId, Option<Role>)>,
    /// Tombstones that one of these says have expired are as if they had never been.
    expiries: Vec<usize>,
}

#[derive(Clone)]
struct Happened {
    id: MessageId,
    live: bool,
    content: ContentHash,
    body: BodyHash,
    at: i64,
}

impl Auditor {
    pub(crate) fn judge(&mut self, command: &Command, time: Timestamp) -> Judgement {
        let now = time.as_micros();
        let id = command.id;
        let before = self.judged.iter().rev().find(|(judged, ..)| *judged == id);
        if let Some((_, at, judgement)) = before
            && now - at < HOURS_24
        {
            return judgement.clone();
        }
        let judgement = self.decide(command, now);
        self.judged.push((id, now, judgement.clone()));
        judgement
    }

    fn decide(&mut self, command: &Command, now: i64) -> Judgement {
        let rank = self.rank(command);
        match &command.action {
            Action::ScopeCreated => {
                self.roles.is_empty().then_some(()).ok_or(())?;
                self.roles.push((command.actor.clone(), Some(Role::Owner)));
            }
            Action::MemberSet { user, role } => self.change_member(rank, user, Some(*role))?,
            Action::MemberRemoved { user } => {
                let oneself = *user == command.actor && self.role(user).is_some();
                self.role(user).ok_or(())?;
                self.change_member(if oneself { 3 } else { rank }, user, None)?;
            }
            // Restores have cases and properties of their own; no random log of this one's has any.
            Action::RestoreRequested { .. }
            | Action::RestoreChunk(_)
            | Action::RestoreCompleted { .. }
            | Action::RestoreFailed { .. } => return Err(()),
            Action::BackupRequested { .. } => {
                let needed = if command.scope.kind.has_members() { 2 } else { 1 };
                (rank >= needed).then_some(()).ok_or(())?;
            }
            Action::TombstonesExpired { up_to } => {
                self.expiries.push(self.changes.len().min(up_to.get() as usize));
            }
            Action::MessagesPushed { changes, rejected } => {
                (rank >= 1).then_some(()).ok_or(())?;
                let decided = changes.iter().map(|pushed| match &pushed.change {
                    Change::Delete { id, base_cursor } => {
                        (pushed.index, self.delete(*id, base_cursor.get() as usize))
                    }
                    Change::Write(write) => {
                        (pushed.index, self.write(command, pushed.index, write, now))
                    }
                });
                let mut statuses: Vec<_> = decided.collect();
                statuses.extend(rejected.iter().map(|bad| (bad.index, Status::Invalid)));
                statuses.sort_by_key(|(index, _)| *index);
                return Ok(statuses.into_iter().map(|(_, status)| status).collect());
            }
        }
        Ok(vec![])
    }

    /// 0 may read at most, 1 pushes, 2 makes members, 3 makes owners.
    fn rank(&self, command: &Command) -> u8 {
        match (command.scope.kind, command.org_role) {
            (ScopeKind::User, _) => u8::from(command.scope.name.as_str() == command.actor.as_str()),
            (ScopeKind::Org, role) => u8::from(role != OrgRole::Member),
            _ if self.roles.is_empty() => 0,
            (_, OrgRole::Owner) => 3,
            _ => match self.role(&command.actor) {
                None | Some(Role::Viewer) => 0,
                Some(Role::Member) => 1,
                Some(Role::Admin) => 2,
                Some(Role::Owner) => 3,
            },
        }
    }

    fn role(&self, user: &UserId) -> Option<Role> {
        self.roles.iter().rev().find(|(who, _)| who == user)?.1
    }

    fn change_member(&mut self, rank: u8, user: &UserId, role: Option<Role>) -> Result<(), ()> {
        let was_owner = self.role(user) == Some(Role::Owner);
        let needed = if was_owner || role == Some(Role::Owner) { 3 } else { 2 };
        self.roles.push((user.clone(), role));
        let anyone_owns = self.roles.iter().any(|(who, _)| self.role(who) == Some(Role::Owner));
        let may = rank >= needed && anyone_owns;
        if may { Ok(()) } else { self.roles.pop().map_or(Ok(()), |_| Err(())) }
    }

    /// The cursor of an id's last change, and that change.
    fn last(&self, id: MessageId) -> Option<(usize, Happened)> {
        let place = self.changes.iter().rposition(|change| change.id == id)?;
        let last = self.changes[place].clone();
        (last.live || !self.has_expired(place + 1)).then_some((place + 1, last))
    }

    fn has_expired(&self, cursor: usize) -> bool {
        self.expiries.iter().any(|up_to| cursor <= *up_to)
    }

    /// The live message that says this.
    fn holder(&self, content: ContentHash) -> Option<MessageId> {
        self.changes
            .iter()
            .map(|change| change.id)
            .find(|id| self.last(*id).is_some_and(|(_, c)| c.live && c.content == content))
    }

    fn saw(&self, base: usize, cursor: usize) -> bool {
        (cursor..=self.changes.len()).contains(&base)
    }

    fn delete(&mut self, id: MessageId, base: usize) -> Status {
        let Some((cursor, last)) = self.last(id).filter(|(_, last)| last.live) else {
            return Status::Absent;
        };
        if !self.saw(base, cursor) {
            return Status::Superseded;
        }
        self.changes.push(Happened { live: false, ..last });
        Status::Deleted
    }

    fn write(&mut self, push: &Command, index: u32, write: &Write, now: i64) -> Status {
        let content = write.content_hash;
        if let Some(holder) = self.holder(content)
            && write.id != Some(holder)
        {
            return Status::Duplicate;
        }
        let mut id = write.id.unwrap_or(MessageId::of_content(&push.scope, &content));
        if write.id.is_none() && self.last(id).is_some_and(|(_, last)| last.live) {
            id = MessageId::of_content_again(&push.scope, &content, push.id, index);
        }
        let at = write.updated_at.map_or(now, |at| at.as_micros().min(now + MINUTES_5));
        let mut new = Happened { id, live: true, content, body: write.body_hash, at };
        let base = write.base_cursor.map_or(0, |base| base.get() as usize);
        let status = match self.last(id) {
            None if write.id.is_some() && base > 0 && self.has_expired(base) => Status::Stale,
            None => Status::Created,
            Some((_, last)) if !last.live && at > last.at => Status::Revived,
            Some((_, last)) if !last.live => Status::Stale,
            Some((_, last)) if last.body == new.body => Status::Duplicate,
            Some((cursor, last)) if self.saw(base, cursor) => {
                new.at = at.max(last.at + 1);
                Status::Updated
            }
            Some((_, last)) if (at, new.body.0) > (last.at, last.body.0) => Status::Updated,
            Some(_) => Status::Stale,
        };
        if status.is_synced() {
            self.changes.push(new);
        }
        status
    }
}
