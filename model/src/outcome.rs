//! Outcomes: what the fold decided of a command. Stored by command id, and answered to who asked.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    cursor::Cursor,
    hash::RequestHash,
    ids::{BackupId, CommandId, MessageId, RestoreId, UserId},
    message::InvalidCode,
    role::Role,
    time::Timestamp,
};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub actor: UserId,
    pub request_hash: RequestHash,
    /// The scope's clock when it was folded.
    pub folded_at: Timestamp,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pushed(PushAnswer),
    ScopeCreated,
    MemberSet {
        user: UserId,
        role: Role,
        since: Timestamp,
    },
    MemberRemoved {
        user: UserId,
    },
    BackupRequested {
        backup: BackupId,
    },
    RestoreRequested {
        restore: RestoreId,
    },
    /// A part of a restore was done.
    RestoreStep,
    RestoreEnded {
        restore: RestoreId,
    },
    /// The floor as it stands now, whether this raised it or not.
    TombstonesExpired {
        floor: Cursor,
    },
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// SYNC_005. `purge`: the actor was a member once.
    PermissionDenied { purge: bool },
    /// The team or project exists already; `role` is the actor's in it, if any.
    Exists { role: Option<Role> },
    /// Nobody would be left to own the scope.
    LastOwner,
    /// The user to remove is no member.
    NoSuchMember,
    /// One restore of a scope at a time.
    RestoreRunning { restore: RestoreId },
    /// The restore does not stand where this goes on from: it was done, or is no more.
    NotItsPlace,
}

/// The answer to a push, as the wire contract has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushAnswer {
    pub synced: u32,
    pub skipped: u32,
    pub cursor: Cursor,
    pub timestamp: Timestamp,
    pub rejected: u32,
    pub previous_cursor: Cursor,
    pub push_id: CommandId,
    pub results: Vec<PushResult>,
}

/// What became of one message of a push.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushResult {
    pub index: u32,
    pub status: Status,
    pub id: Option<MessageId>,
    pub cursor: Option<Cursor>,
    pub updated_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<InvalidCode>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Updated,
    Revived,
    Deleted,
    /// A live message has this content already.
    Duplicate,
    /// A later version is there already.
    Stale,
    /// It was updated since the deleter saw it: the update wins.
    Superseded,
    /// There is nothing to delete.
    Absent,
    Invalid,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Revived => "revived",
            Self::Deleted => "deleted",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Superseded => "superseded",
            Self::Absent => "absent",
            Self::Invalid => "invalid",
        }
    }

    pub const fn is_synced(self) -> bool {
        matches!(self, Self::Created | Self::Updated | Self::Revived | Self::Deleted)
    }

    pub const fn is_skipped(self) -> bool {
        matches!(self, Self::Duplicate | Self::Stale | Self::Superseded | Self::Absent)
    }
}

impl PushAnswer {
    /// Sums up results, which it puts in the order of the request.
    pub fn new(
        push: CommandId,
        at: Timestamp,
        previous: Cursor,
        cursor: Cursor,
        mut results: Vec<PushResult>,
    ) -> Self {
        results.sort_by_key(|result| result.index);
        let count = |which: fn(Status) -> bool| {
            results.iter().filter(|result| which(result.status)).count() as u32
        };
        Self {
            synced: count(Status::is_synced),
            skipped: count(Status::is_skipped),
            rejected: count(|status| status == Status::Invalid),
            cursor,
            timestamp: at,
            previous_cursor: previous,
            push_id: push,
            results,
        }
    }
}

impl From<MessageId> for Uuid {
    fn from(id: MessageId) -> Self {
        id.0
    }
}
