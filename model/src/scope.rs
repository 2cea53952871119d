//! Scopes: whose messages they are.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{InvalidName, NAMESPACE, ScopeName, TenantId, UserId};

/// What a scope belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    User,
    Team,
    Project,
    Org,
}

impl ScopeKind {
    pub const ALL: [Self; 4] = [Self::User, Self::Team, Self::Project, Self::Org];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Project => "project",
            Self::Org => "org",
        }
    }

    /// Teams and projects are created and have members; a user's and an org's scope just are.
    pub const fn has_members(self) -> bool {
        matches!(self, Self::Team | Self::Project)
    }
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One scope of one tenant: the log's record key, written `tenant/kind/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeKey {
    pub tenant: TenantId,
    pub kind: ScopeKind,
    pub name: ScopeName,
}

/// The text is no scope key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected tenant/kind/name, kind being user, team, project or org")]
pub struct InvalidScopeKey;

impl ScopeKey {
    pub fn user(tenant: TenantId, user: &UserId) -> Result<Self, InvalidName> {
        Ok(Self { tenant, kind: ScopeKind::User, name: ScopeName::new(user.as_str())? })
    }

    /// A fixed-size stand-in for the key, the same everywhere: rows carry it instead of three texts.
    pub fn reference(&self) -> ScopeRef {
        ScopeRef(Uuid::new_v5(&NAMESPACE, format!("scope/{self}").as_bytes()))
    }
}

impl fmt::Display for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.kind, self.name)
    }
}

impl FromStr for ScopeKey {
    type Err = InvalidScopeKey;

    fn from_str(text: &str) -> Result<Self, InvalidScopeKey> {
        let mut parts = text.split('/');
        let (Some(tenant), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidScopeKey);
        };
        Ok(Self {
            tenant: TenantId::new(tenant).map_err(|_| InvalidScopeKey)?,
            kind: ScopeKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or(InvalidScopeKey)?,
            name: ScopeName::new(name).map_err(|_| InvalidScopeKey)?,
        })
    }
}

/// [`ScopeKey::reference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeRef(pub Uuid);
