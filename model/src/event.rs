//! Events: what happened, in the order of the log. Every write is a command; the fold decides.

use crate::{
    cursor::Cursor,
    hash::{BodyHash, ContentHash, RequestHash},
    ids::{BackupId, CommandId, DeviceId, MessageId, RestoreId, UserId},
    message::{Body, InvalidCode},
    restore::{RestoreChunk, RestoreFailure, RestoreMode, RestorePlace},
    role::{OrgRole, Role},
    scope::ScopeKey,
    time::Timestamp,
};

/// The version of the fold's rules, and with it of the schemas that decode.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct RulesVersion(pub u32);

impl RulesVersion {
    /// What every log begins with.
    pub const FIRST: Self = Self(1);
    /// The latest that this build knows.
    pub const CURRENT: Self = Self(1);
}

/// A record of the log, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Command(Command),
    /// Time passes on an idle partition.
    Tick,
    /// From here on these rules fold the partition. A build that does not know them stops.
    RulesChanged {
        version: RulesVersion,
    },
}

/// Somebody wants something of a scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub id: CommandId,
    pub scope: ScopeKey,
    pub actor: UserId,
    pub org_role: OrgRole,
    pub device: Option<DeviceId>,
    pub request_hash: RequestHash,
    pub action: Action,
}

/// What a command wants. Named as the events it makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    MessagesPushed {
        changes: Vec<PushedChange>,
        rejected: Vec<Rejected>,
    },
    ScopeCreated,
    MemberSet {
        user: UserId,
        role: Role,
    },
    MemberRemoved {
        user: UserId,
    },
    BackupRequested {
        backup: BackupId,
    },
    /// `source`: whose backup it is, of the same tenant.
    RestoreRequested {
        restore: RestoreId,
        mode: RestoreMode,
        backup: BackupId,
        source: Box<ScopeKey>,
    },
    RestoreChunk(Box<RestoreChunk>),
    RestoreCompleted {
        restore: RestoreId,
        from: RestorePlace,
    },
    RestoreFailed {
        restore: RestoreId,
        from: RestorePlace,
        code: RestoreFailure,
        detail: String,
    },
    /// Tombstones up to this cursor are old enough to be forgotten.
    TombstonesExpired {
        up_to: Cursor,
    },
    /// All that a user's scope has ever held is to be gone.
    ScopeErased,
}

/// One valid message of a push, with its place in the request.
#[derive(Clone, Debug, PartialEq)]
pub struct PushedChange {
    pub index: u32,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Write(Write),
    Delete { id: MessageId, base_cursor: Cursor },
}

impl Change {
    /// The cursor of the version that the writer had seen.
    pub const fn base_cursor(&self) -> Option<Cursor> {
        match self {
            Self::Write(write) => write.base_cursor,
            Self::Delete { base_cursor, .. } => Some(*base_cursor),
        }
    }

    /// A base that does not stand says nothing: the writer had seen nothing.
    pub fn forget_base(&mut self, stands: impl Fn(Cursor) -> bool) {
        match self {
            Self::Write(write) => {
                write.base_cursor = write.base_cursor.filter(|base| stands(*base))
            }
            Self::Delete { base_cursor, .. } if !stands(*base_cursor) => {
                *base_cursor = Cursor::ZERO
            }
            Self::Delete { .. } => {}
        }
    }
}

/// A message to create, or a version of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub id: Option<MessageId>,
    pub body: Body,
    /// The writer's time: `updated_at`, or (only without an id) `metadata.timestamp`.
    pub updated_at: Option<Timestamp>,
    /// The cursor of the version that the writer had seen.
    pub base_cursor: Option<Cursor>,
    /// Never recomputed by the fold, so that order and digests outlive an erased content.
    pub content_hash: ContentHash,
    pub body_hash: BodyHash,
}

/// One message of a push that was refused before the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    pub index: u32,
    pub code: InvalidCode,
    pub detail: String,
}

/// The event contradicts itself; it never came from ingest. It becomes a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unappliable {
    #[error("the record's key is not the event's scope")]
    OtherKey,
    #[error("a scope of this kind is not created and has no members")]
    NoMembersInScope,
    #[error("no such role in a scope of this kind")]
    NoSuchRole,
    #[error("the org scope is not its tenant's")]
    NotItsTenant,
    #[error("the backup's scope is of another tenant")]
    OtherTenant,
    #[error("only a user's scope is erased")]
    NotErasable,
}

impl Command {
    /// The messages that it writes, with their places in the request.
    pub fn writes(&self) -> impl Iterator<Item = (u32, &Write)> {
        let changes = match &self.action {
            Action::MessagesPushed { changes, .. } => changes.as_slice(),
            _ => &[],
        };
        changes.iter().filter_map(|PushedChange { index, change }| match change {
            Change::Write(write) => Some((*index, write)),
            Change::Delete { .. } => None,
        })
    }

    /// Checks what no state is needed for.
    pub fn check(&self) -> Result<(), Unappliable> {
        let kind = self.scope.kind;
        match &self.action {
            Action::MessagesPushed { .. }
            | Action::BackupRequested { .. }
            | Action::RestoreChunk(_)
            | Action::RestoreCompleted { .. }
            | Action::RestoreFailed { .. }
            | Action::TombstonesExpired { .. } => {}
            Action::RestoreRequested { source, .. } if source.tenant != self.scope.tenant => {
                return Err(Unappliable::OtherTenant);
            }
            Action::RestoreRequested { .. } => {}
            Action::ScopeErased if kind != crate::ScopeKind::User => {
                return Err(Unappliable::NotErasable);
            }
            Action::ScopeErased => {}
            Action::ScopeCreated | Action::MemberRemoved { .. } | Action::MemberSet { .. }
                if !kind.has_members() =>
            {
                return Err(Unappliable::NoMembersInScope);
            }
            Action::MemberSet { role, .. } if !role.exists_in(kind) => {
                return Err(Unappliable::NoSuchRole);
            }
            Action::ScopeCreated | Action::MemberRemoved { .. } | Action::MemberSet { .. } => {}
        }
        let org = kind == crate::ScopeKind::Org;
        if org && self.scope.name.as_str() != self.scope.tenant.as_str() {
            return Err(Unappliable::NotItsTenant);
        }
        Ok(())
    }
}

impl Event {
    /// The name of its kind: that of its schema, in snake case.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Command(command) => command.action.kind(),
            Self::Tick => "tick",
            Self::RulesChanged { .. } => "rules_changed",
        }
    }
}

impl Action {
    /// The name of its kind: that of its schema, in snake case.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::MessagesPushed { .. } => "messages_pushed",
            Self::ScopeCreated => "scope_created",
            Self::MemberSet { .. } => "member_set",
            Self::MemberRemoved { .. } => "member_removed",
            Self::BackupRequested { .. } => "backup_requested",
            Self::RestoreRequested { .. } => "restore_requested",
            Self::RestoreChunk(_) => "restore_chunk",
            Self::RestoreCompleted { .. } => "restore_completed",
            Self::RestoreFailed { .. } => "restore_failed",
            Self::TombstonesExpired { .. } => "tombstones_expired",
            Self::ScopeErased => "scope_erased",
        }
    }
}
