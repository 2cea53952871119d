//! Names and ids. Each is a type of its own, so that none is taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{backup::BackupType, cursor::Cursor, hash::ContentHash, scope::ScopeKey};

/// The namespace of every UUIDv5 that Context Sync derives. The names under it are parts joined by
/// `/`, the first saying what is named; `schemas/vectors/ids.json` publishes examples.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x5c3f_6f0a_9a3e_5d5e_8f0b_2a6e_4c1d_7b90);

/// The greatest length of a name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("takes 1 to 128 characters of A-Z a-z 0-9 . _ : @ | + - (and not . or .. alone)")]
pub struct InvalidName;

/// Names appear in log keys (joined by `/`), object paths and URLs: hence no `/`, no `%`, no `..`.
fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:@|+-".contains(&b))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(InvalidName) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A tenant: whatever crosses it is a breach.
    TenantId
);
name!(
    /// A user, named within the tenant.
    UserId
);
name!(
    /// A device of a user.
    DeviceId
);
name!(
    /// What a scope is called within its kind: a user's, team's, project's or tenant's id.
    ScopeName
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A message, within its scope.
    MessageId
);
uuid_id!(
    /// A command on the log. A push's is its `push_id`.
    CommandId
);
uuid_id!(
    /// A backup of a scope.
    BackupId
);
uuid_id!(
    /// A restore of a scope.
    RestoreId
);
uuid_id!(
    /// A drill: backups compared with what is live.
    DrillId
);
uuid_id!(
    /// As long as it lasts, a cursor says the same: of one log, and of what was folded from it.
    Epoch
);

fn derived(name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

impl MessageId {
    /// The id of content pushed without one: retries, from any device, converge on it.
    pub fn of_content(scope: &ScopeKey, hash: &ContentHash) -> Self {
        Self(derived(&format!("message/{scope}/{hash}")))
    }

    /// The id of content whose first message has been edited into something else since.
    pub fn of_content_again(
        scope: &ScopeKey,
        hash: &ContentHash,
        push: CommandId,
        index: u32,
    ) -> Self {
        Self(derived(&format!("message/{scope}/{hash}/{push}/{index}")))
    }
}

impl CommandId {
    /// The id of a command that carries an Idempotency-Key: a retry has the same one.
    pub fn of_key(scope: &ScopeKey, kind: &str, actor: &UserId, key: &str) -> Self {
        Self(derived(&format!("command/{scope}/{kind}/{actor}/{key}")))
    }

    /// The id of the expiry of tombstones up to a cursor: whoever finds them old says the same.
    pub fn of_expiry(scope: &ScopeKey, up_to: Cursor) -> Self {
        Self(derived(&format!("command/{scope}/tombstones-expired/{up_to}")))
    }
}

impl UserId {
    /// Who wants what the archiver appends of itself.
    pub fn archiver() -> Self {
        Self("context-sync:archiver".into())
    }
}

impl BackupId {
    /// The id of a scheduled backup: `period` is the name of its hour or day.
    pub fn scheduled(scope: &ScopeKey, backup_type: BackupType, period: &str) -> Self {
        Self(derived(&format!("backup/{scope}/{}/{period}", backup_type.as_str())))
    }
}

impl Epoch {
    /// The epoch that a log begins with, whichever build asks: rules change from a record on, and no cursor with them.
    pub fn of_log(log: crate::LogId) -> Self {
        Self(derived(&format!("epoch/{log}/{}", crate::RulesVersion::FIRST.0)))
    }
}
