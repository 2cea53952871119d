//! The records of restores as Avro has them, and their way to and from the model.

use model::{
    Action, BackupId, Body, BodyHash, Command, CommandId, ContentHash, Cursor, DeviceId, MessageId,
    MessageType, Metadata, OrgRole, Put, RequestHash, RestoreFailure as Failure, RestoreId,
    RestoreMode, RestorePlace as Place, ScopeKey, ScopeKind, ScopeName, TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::wire::{Bytes32, InvalidField, command, user, wire};

/// A record with the envelope of every command, and these fields.
macro_rules! record {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Serialize, Deserialize)]
        pub(crate) struct $name {
            command_id: Uuid,
            tenant_id: String,
            scope_type: ScopeKind,
            scope_id: String,
            actor: String,
            org_role: OrgRole,
            device_id: Option<String>,
            request_hash: Bytes32,
            $($field: $type,)*
        }
    };
}

record!(RestoreRequested {
    restore_id: Uuid,
    mode: RestoreMode,
    backup_id: Uuid,
    source_type: ScopeKind,
    source_id: String,
});
record!(RestoreChunk {
    restore_id: Uuid,
    from: RestorePlace,
    to: RestorePlace,
    deletes: Vec<Uuid>,
    puts: Vec<WirePut>,
});
record!(RestoreCompleted { restore_id: Uuid, from: RestorePlace });
record!(RestoreFailed { restore_id: Uuid, from: RestorePlace, code: Failure, detail: String });

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RestoreStage {
    Deletes,
    Puts,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct RestorePlace {
    stage: RestoreStage,
    number: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Put")]
struct WirePut {
    id: Uuid,
    r#type: String,
    content: String,
    metadata: String,
    content_hash: Bytes32,
    body_hash: Bytes32,
    updated_at: i64,
    created_at: i64,
    contributed_by: String,
    device_id: Option<String>,
}

impl From<Place> for RestorePlace {
    fn from(place: Place) -> Self {
        match place {
            Place::Deletes(cursor) => {
                Self { stage: RestoreStage::Deletes, number: cursor.as_i64() }
            }
            Place::Puts(lines) => Self { stage: RestoreStage::Puts, number: lines as i64 },
        }
    }
}

impl RestorePlace {
    fn read(self) -> Result<Place, InvalidField> {
        let number = u64::try_from(self.number).map_err(|_| InvalidField::Negative)?;
        Ok(match self.stage {
            RestoreStage::Deletes => Place::Deletes(Cursor::from_i64(self.number)),
            RestoreStage::Puts => Place::Puts(number),
        })
    }
}

impl WirePut {
    fn new(put: &Put) -> Self {
        Self {
            id: put.id.0,
            r#type: put.body.message_type.as_str().to_owned(),
            content: put.body.content.clone(),
            metadata: put.body.metadata.as_str().to_owned(),
            content_hash: Bytes32(put.content_hash.0),
            body_hash: Bytes32(put.body_hash.0),
            updated_at: put.updated_at.as_micros(),
            created_at: put.created_at.as_micros(),
            contributed_by: put.contributed_by.to_string(),
            device_id: put.device.as_ref().map(ToString::to_string),
        }
    }

    fn read(self) -> Result<Put, InvalidField> {
        Ok(Put {
            id: MessageId(self.id),
            body: Body {
                message_type: MessageType::new(&self.r#type)
                    .map_err(|_| InvalidField::MessageType)?,
                content: self.content,
                metadata: Metadata::from_canonical(self.metadata),
            },
            content_hash: ContentHash(self.content_hash.0),
            body_hash: BodyHash(self.body_hash.0),
            updated_at: Timestamp::from_micros(self.updated_at),
            created_at: Timestamp::from_micros(self.created_at),
            contributed_by: user(&self.contributed_by)?,
            device: match &self.device_id {
                Some(device) => Some(DeviceId::new(device).map_err(|_| InvalidField::Name)?),
                None => None,
            },
        })
    }
}

impl RestoreRequested {
    pub(crate) fn new(
        command: &Command,
        restore: RestoreId,
        mode: RestoreMode,
        backup: BackupId,
        source: &ScopeKey,
    ) -> Self {
        wire!(RestoreRequested, command, restore_id: restore.0, mode: mode, backup_id: backup.0,
            source_type: source.kind, source_id: source.name.to_string())
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        let source = ScopeKey {
            tenant: TenantId::new(&self.tenant_id).map_err(|_| InvalidField::Name)?,
            kind: self.source_type,
            name: ScopeName::new(&self.source_id).map_err(|_| InvalidField::Name)?,
        };
        let (restore, backup) = (RestoreId(self.restore_id), BackupId(self.backup_id));
        command!(
            self,
            Action::RestoreRequested { restore, mode: self.mode, backup, source: Box::new(source) }
        )
    }
}

impl RestoreChunk {
    pub(crate) fn new(command: &Command, chunk: &model::RestoreChunk) -> Self {
        wire!(RestoreChunk, command, restore_id: chunk.restore.0, from: chunk.from.into(),
            to: chunk.to.into(), deletes: chunk.deletes.iter().map(|id| id.0).collect(),
            puts: chunk.puts.iter().map(WirePut::new).collect())
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        let chunk = model::RestoreChunk {
            restore: RestoreId(self.restore_id),
            from: self.from.read()?,
            to: self.to.read()?,
            deletes: self.deletes.into_iter().map(MessageId).collect(),
            puts: self.puts.into_iter().map(WirePut::read).collect::<Result<_, _>>()?,
        };
        command!(self, Action::RestoreChunk(Box::new(chunk)))
    }
}

impl RestoreCompleted {
    pub(crate) fn new(command: &Command, restore: RestoreId, from: Place) -> Self {
        wire!(RestoreCompleted, command, restore_id: restore.0, from: from.into())
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        let (restore, from) = (RestoreId(self.restore_id), self.from.read()?);
        command!(self, Action::RestoreCompleted { restore, from })
    }
}

impl RestoreFailed {
    pub(crate) fn new(
        command: &Command,
        restore: RestoreId,
        from: Place,
        code: Failure,
        detail: &str,
    ) -> Self {
        wire!(RestoreFailed, command, restore_id: restore.0, from: from.into(), code: code,
            detail: detail.to_owned())
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        let (restore, from) = (RestoreId(self.restore_id), self.from.read()?);
        let (code, detail) = (self.code, self.detail.clone());
        command!(self, Action::RestoreFailed { restore, from, code, detail })
    }
}
