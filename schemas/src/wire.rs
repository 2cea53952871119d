//! The records as Avro has them, field by field, and their way to and from the model.

use std::fmt;

use model::{
    Action, BackupId, Body, BodyHash, Change, Command, CommandId, ContentHash, Cursor, DeviceId,
    InvalidCode, MessageId, MessageType, Metadata, OrgRole, PushedChange, Rejected, RequestHash,
    Role, ScopeKey, ScopeKind, ScopeName, TenantId, Timestamp, UserId, Write,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Visitor},
};
use uuid::Uuid;

/// The fields decode, but are nothing that the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    #[error("tenant_id, scope_id, actor, device_id or user is no name")]
    Name,
    #[error("type is no message type")]
    MessageType,
    #[error("base_cursor is negative")]
    BaseCursor,
    #[error("index is negative")]
    Index,
    #[error("a delete lacks its id or its base_cursor")]
    Delete,
    #[error("a size, count, cursor or place is negative")]
    Negative,
}

/// 32 bytes, as an Avro `fixed`.
#[derive(Clone, Copy)]
pub(crate) struct Bytes32(pub(crate) [u8; 32]);

impl Serialize for Bytes32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Bytes32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("32 bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes32, E> {
                bytes.try_into().map(Bytes32).map_err(|_| E::invalid_length(bytes.len(), &self))
            }
        }
        deserializer.deserialize_bytes(Bytes).map_err(D::Error::custom)
    }
}

/// What every command carries. The field names are the schemas'.
#[derive(Serialize, Deserialize)]
pub(crate) struct ScopeCreated {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ScopeErased {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct MessagesPushed {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
    changes: Vec<WireChange>,
    rejected: Vec<WireRejected>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Change")]
struct WireChange {
    index: i32,
    id: Option<Uuid>,
    base_cursor: Option<i64>,
    write: Option<WireWrite>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Write")]
struct WireWrite {
    r#type: String,
    content: String,
    metadata: String,
    updated_at: Option<i64>,
    content_hash: Bytes32,
    body_hash: Bytes32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Rejected")]
struct WireRejected {
    index: i32,
    code: InvalidCode,
    detail: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct MemberSet {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
    user: String,
    role: Role,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct MemberRemoved {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
    user: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BackupRequested {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
    backup_id: Uuid,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Tick {}

#[derive(Serialize, Deserialize)]
pub(crate) struct RulesChanged {
    pub(crate) version: i32,
    pub(crate) schemas: Vec<i64>,
}

/// Avro has no inheritance: each record repeats the envelope's fields, these macros copy them.
macro_rules! wire {
    ($record:ident, $command:ident $(, $field:ident: $value:expr)*) => {
        $record {
            command_id: $command.id.0,
            tenant_id: $command.scope.tenant.to_string(),
            scope_type: $command.scope.kind,
            scope_id: $command.scope.name.to_string(),
            actor: $command.actor.to_string(),
            org_role: $command.org_role,
            device_id: $command.device.as_ref().map(ToString::to_string),
            request_hash: Bytes32($command.request_hash.0),
            $($field: $value,)*
        }
    };
}

macro_rules! command {
    ($wire:ident, $action:expr) => {
        Ok(Command {
            id: CommandId($wire.command_id),
            scope: ScopeKey {
                tenant: TenantId::new(&$wire.tenant_id).map_err(|_| InvalidField::Name)?,
                kind: $wire.scope_type,
                name: ScopeName::new(&$wire.scope_id).map_err(|_| InvalidField::Name)?,
            },
            actor: user(&$wire.actor)?,
            org_role: $wire.org_role,
            device: match &$wire.device_id {
                Some(device) => Some(DeviceId::new(device).map_err(|_| InvalidField::Name)?),
                None => None,
            },
            request_hash: RequestHash($wire.request_hash.0),
            action: $action,
        })
    };
}

pub(crate) use {command, wire};

pub(crate) fn user(text: &str) -> Result<UserId, InvalidField> {
    UserId::new(text).map_err(|_| InvalidField::Name)
}

impl ScopeCreated {
    pub(crate) fn new(command: &Command) -> Self {
        wire!(ScopeCreated, command)
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        command!(self, Action::ScopeCreated)
    }
}

impl ScopeErased {
    pub(crate) fn new(command: &Command) -> Self {
        wire!(ScopeErased, command)
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        command!(self, Action::ScopeErased)
    }
}

impl MemberSet {
    pub(crate) fn new(command: &Command, user: &UserId, role: Role) -> Self {
        wire!(MemberSet, command, user: user.to_string(), role: role)
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        command!(self, Action::MemberSet { user: user(&self.user)?, role: self.role })
    }
}

impl MemberRemoved {
    pub(crate) fn new(command: &Command, user: &UserId) -> Self {
        wire!(MemberRemoved, command, user: user.to_string())
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        command!(self, Action::MemberRemoved { user: user(&self.user)? })
    }
}

impl BackupRequested {
    pub(crate) fn new(command: &Command, backup: BackupId) -> Self {
        wire!(BackupRequested, command, backup_id: backup.0)
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        command!(self, Action::BackupRequested { backup: BackupId(self.backup_id) })
    }
}

impl MessagesPushed {
    pub(crate) fn new(command: &Command, changes: &[PushedChange], rejected: &[Rejected]) -> Self {
        wire!(
            MessagesPushed, command,
            changes: changes.iter().map(WireChange::new).collect(),
            rejected: rejected.iter().map(WireRejected::new).collect()
        )
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        let changes =
            self.changes.into_iter().map(WireChange::into_change).collect::<Result<_, _>>()?;
        let rejected =
            self.rejected.into_iter().map(WireRejected::into_rejected).collect::<Result<_, _>>()?;
        command!(self, Action::MessagesPushed { changes, rejected })
    }
}

impl WireChange {
    fn new(pushed: &PushedChange) -> Self {
        let index = pushed.index as i32;
        match &pushed.change {
            Change::Delete { id, base_cursor } => {
                let base_cursor = Some(base_cursor.as_i64());
                Self { index, id: Some(id.0), base_cursor, write: None }
            }
            Change::Write(write) => Self {
                index,
                id: write.id.map(|id| id.0),
                base_cursor: write.base_cursor.map(Cursor::as_i64),
                write: Some(WireWrite {
                    r#type: write.body.message_type.as_str().to_owned(),
                    content: write.body.content.clone(),
                    metadata: write.body.metadata.as_str().to_owned(),
                    updated_at: write.updated_at.map(Timestamp::as_micros),
                    content_hash: Bytes32(write.content_hash.0),
                    body_hash: Bytes32(write.body_hash.0),
                }),
            },
        }
    }

    fn into_change(self) -> Result<PushedChange, InvalidField> {
        let index = u32::try_from(self.index).map_err(|_| InvalidField::Index)?;
        let id = self.id.map(MessageId);
        let base_cursor = match self.base_cursor {
            Some(cursor) if cursor < 0 => return Err(InvalidField::BaseCursor),
            cursor => cursor.map(Cursor::from_i64),
        };
        let change = match (self.write, id, base_cursor) {
            (Some(write), id, base_cursor) => Change::Write(write.into_write(id, base_cursor)?),
            (None, Some(id), Some(base_cursor)) => Change::Delete { id, base_cursor },
            (None, _, _) => return Err(InvalidField::Delete),
        };
        Ok(PushedChange { index, change })
    }
}

impl WireWrite {
    fn into_write(
        self,
        id: Option<MessageId>,
        base_cursor: Option<Cursor>,
    ) -> Result<Write, InvalidField> {
        let message_type = MessageType::new(&self.r#type).map_err(|_| InvalidField::MessageType)?;
        let metadata = Metadata::from_canonical(self.metadata);
        Ok(Write {
            id,
            body: Body { message_type, content: self.content, metadata },
            updated_at: self.updated_at.map(Timestamp::from_micros),
            base_cursor,
            content_hash: ContentHash(self.content_hash.0),
            body_hash: BodyHash(self.body_hash.0),
        })
    }
}

impl WireRejected {
    fn new(rejected: &Rejected) -> Self {
        Self { index: rejected.index as i32, code: rejected.code, detail: rejected.detail.clone() }
    }

    fn into_rejected(self) -> Result<Rejected, InvalidField> {
        let index = u32::try_from(self.index).map_err(|_| InvalidField::Index)?;
        Ok(Rejected { index, code: self.code, detail: self.detail })
    }
}
