//! Roles, and what each may do: the founding permission tables.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    ids::UserId,
    scope::{ScopeKey, ScopeKind},
};

/// A member's role in a team or a project. Teams have no viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Member,
    Admin,
    Owner,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Member, Self::Admin, Self::Owner];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether members of such a scope can have this role.
    pub const fn exists_in(self, kind: ScopeKind) -> bool {
        match kind {
            ScopeKind::Team => !matches!(self, Self::Viewer),
            ScopeKind::Project => true,
            ScopeKind::User | ScopeKind::Org => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A user's role in the tenant, from the token.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum OrgRole {
    #[default]
    Member,
    Admin,
    Owner,
}

impl OrgRole {
    pub const ALL: [Self; 3] = [Self::Member, Self::Admin, Self::Owner];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// Who a user is to a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Their own user scope.
    Oneself,
    /// In a team or project. An org owner stands as owner in each.
    Role(Role),
    /// Their tenant's org scope.
    Org(OrgRole),
    /// Neither. `former` says that they were a member once, so their devices are to purge.
    Stranger { former: bool },
}

impl Standing {
    /// `member` is the user's row in a team or project: a role, or removed (`Some(None)`).
    /// `exists` says whether the team or project was ever created.
    pub fn of(
        scope: &ScopeKey,
        user: &UserId,
        org_role: OrgRole,
        exists: bool,
        member: Option<Option<Role>>,
    ) -> Self {
        match scope.kind {
            ScopeKind::User if scope.name.as_str() == user.as_str() => Self::Oneself,
            ScopeKind::Org if scope.name.as_str() == scope.tenant.as_str() => Self::Org(org_role),
            ScopeKind::User | ScopeKind::Org => Self::Stranger { former: false },
            ScopeKind::Team | ScopeKind::Project if !exists => Self::Stranger { former: false },
            ScopeKind::Team | ScopeKind::Project if org_role == OrgRole::Owner => {
                Self::Role(Role::Owner)
            }
            ScopeKind::Team | ScopeKind::Project => match member {
                Some(Some(role)) => Self::Role(role),
                Some(None) => Self::Stranger { former: true },
                None => Self::Stranger { former: false },
            },
        }
    }

    pub fn may_push(self) -> bool {
        match self {
            Self::Oneself => true,
            Self::Role(role) => role >= Role::Member,
            Self::Org(role) => role >= OrgRole::Admin,
            Self::Stranger { .. } => false,
        }
    }

    pub fn may_pull(self) -> bool {
        !matches!(self, Self::Stranger { .. })
    }

    pub fn may_back_up(self) -> bool {
        match self {
            Self::Oneself => true,
            Self::Role(role) => role >= Role::Admin,
            Self::Org(role) => role >= OrgRole::Admin,
            Self::Stranger { .. } => false,
        }
    }

    pub fn may_restore(self) -> bool {
        match self {
            Self::Oneself => true,
            Self::Role(role) => role >= Role::Admin,
            Self::Org(role) => role >= OrgRole::Owner,
            Self::Stranger { .. } => false,
        }
    }

    /// Of a user's scope: its user may have it erased, and the tenant's admins and owners.
    pub fn may_erase(self, org_role: OrgRole) -> bool {
        matches!(self, Self::Oneself) || org_role >= OrgRole::Admin
    }

    /// A role in a team or project, if this is one.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Role(role) => Some(role),
            Self::Oneself | Self::Org(_) | Self::Stranger { .. } => None,
        }
    }
}
