//! Commands as ingest would make them. The projector's tests use this file too.
#![allow(dead_code, reason = "each test binary uses a part")]

use model::{
    Action, Command, CommandId, Limits, OrgRole, PushedChange, RequestHash, Role, ScopeKey, UserId,
    draft::parse_change,
};
use serde_json::Value;

pub(crate) fn scope(key: &str) -> ScopeKey {
    key.parse().unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn command(key: &str, actor: &str, action: Action) -> Command {
    Command {
        id: CommandId(uuid::Uuid::new_v4()),
        scope: scope(key),
        actor: user(actor),
        org_role: OrgRole::Member,
        device: None,
        request_hash: RequestHash::of(&[b"request"]),
        action,
    }
}

pub(crate) fn create(key: &str, actor: &str) -> Command {
    command(key, actor, Action::ScopeCreated)
}

pub(crate) fn set_member(key: &str, actor: &str, member: &str, role: Role) -> Command {
    command(key, actor, Action::MemberSet { user: user(member), role })
}

pub(crate) fn remove_member(key: &str, actor: &str, member: &str) -> Command {
    command(key, actor, Action::MemberRemoved { user: user(member) })
}

/// A push of messages as the wire has them.
pub(crate) fn push(key: &str, actor: &str, messages: &[Value]) -> Command {
    let change = |(index, message): (usize, &Value)| PushedChange {
        index: index as u32,
        change: parse_change(&message.to_string(), &Limits::CONTRACT).unwrap(),
    };
    let changes = messages.iter().enumerate().map(change).collect();
    command(key, actor, Action::MessagesPushed { changes, rejected: Vec::new() })
}

pub(crate) fn say(content: &str) -> Value {
    serde_json::json!({"type": "decision", "content": content})
}
