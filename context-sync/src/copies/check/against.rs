//! A scope of one side, compared with what the log folds to.

use std::collections::{HashMap, HashSet};

use model::{Entry, Heading, Member, MessageId, UserId};

use super::{
    Found,
    fold::{JsonHash, ScopeFold},
};

/// What is compared with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Rows,
    Archive,
}

impl Side {
    fn holds(self) -> &'static str {
        match self {
            Self::Rows => "in the rows",
            Self::Archive => "in the archive",
        }
    }

    fn lacks(self) -> &'static str {
        match self {
            Self::Rows => "has no row",
            Self::Archive => "is not in the archive",
        }
    }
}

/// A side, the log, and what is found to differ.
pub(super) struct Against<'a> {
    pub(super) side: Side,
    pub(super) log: &'a ScopeFold,
    pub(super) found: &'a mut Found,
}

impl Against<'_> {
    /// What the scope sums up to.
    pub(super) fn heading(&mut self, own: &Heading) {
        let (log, holds) = (&self.log.scope.heading, self.side.holds());
        for (what, own, log) in [
            ("head", own.head.to_string(), log.head.to_string()),
            ("floor", own.floor.to_string(), log.floor.to_string()),
            ("last erasure", own.erased.to_string(), log.erased.to_string()),
            ("clock", own.clock.to_string(), log.clock.to_string()),
            ("count", own.count.to_string(), log.count.to_string()),
            ("bytes", own.bytes.to_string(), log.bytes.to_string()),
            ("digest", own.digest.to_string(), log.digest.to_string()),
            ("number of owners", own.owners.to_string(), log.owners.to_string()),
        ] {
            if own != log {
                self.found.push(|| format!("its {what} is {own} {holds}, {log} by the log"));
            }
        }
        if own.restore != log.restore {
            self.found.push(|| format!("the restore that runs {holds} is another by the log"));
        }
    }

    pub(super) fn message(&mut self, id: MessageId, own: &Entry, json: JsonHash) {
        let holds = self.side.holds();
        let Some(entry) = self.log.scope.messages.get(&id) else {
            return self.found.push(|| format!("message {id} is {holds}, and not in the log"));
        };
        let (cursor, log) = (own.cursor, entry.cursor);
        if cursor != log {
            self.found
                .push(|| format!("message {id} is at cursor {cursor} {holds}, {log} by the log"));
        } else if entry != own {
            self.found.push(|| {
                format!("message {id} at cursor {cursor} {holds} is another version by the log")
            });
        } else if self.log.json.get(&id) != Some(&json) {
            self.found.push(|| format!("the JSON of message {id} {holds} is another by the log"));
        }
    }

    /// Of the log's messages, those that the side was not seen to have.
    pub(super) fn missing(&mut self, seen: &HashSet<MessageId>) {
        let lacks = self.side.lacks();
        for id in self.log.scope.messages.keys().filter(|id| !seen.contains(*id)) {
            self.found.push(|| format!("message {id} {lacks}"));
        }
    }

    pub(super) fn members(&mut self, own: &[(UserId, Member)]) {
        let (holds, lacks) = (self.side.holds(), self.side.lacks());
        let log: &HashMap<UserId, Member> = &self.log.scope.members;
        for (user, member) in own {
            if log.get(user) != Some(member) {
                self.found.push(|| format!("member {user} is another {holds} than by the log"));
            }
        }
        let stored: HashSet<&UserId> = own.iter().map(|(user, _)| user).collect();
        for user in log.keys().filter(|user| !stored.contains(user)) {
            self.found.push(|| format!("member {user} {lacks}"));
        }
    }
}
