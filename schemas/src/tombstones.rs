//! The record of an expiry of tombstones as Avro has it, and its way to and from the model.

use model::{
    Action, Command, CommandId, Cursor, DeviceId, OrgRole, RequestHash, ScopeKey, ScopeKind,
    ScopeName, TenantId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::wire::{Bytes32, InvalidField, command, user, wire};

#[derive(Serialize, Deserialize)]
pub(crate) struct TombstonesExpired {
    command_id: Uuid,
    tenant_id: String,
    scope_type: ScopeKind,
    scope_id: String,
    actor: String,
    org_role: OrgRole,
    device_id: Option<String>,
    request_hash: Bytes32,
    up_to: i64,
}

impl TombstonesExpired {
    pub(crate) fn new(command: &Command, up_to: Cursor) -> Self {
        wire!(TombstonesExpired, command, up_to: up_to.as_i64())
    }

    pub(crate) fn into_command(self) -> Result<Command, InvalidField> {
        let up_to = u64::try_from(self.up_to).ok().and_then(|up_to| Cursor::new(up_to).ok());
        let up_to = up_to.ok_or(InvalidField::Negative)?;
        command!(self, Action::TombstonesExpired { up_to })
    }
}
