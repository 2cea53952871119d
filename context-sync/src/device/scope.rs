//! The scope that a device names, and where the API has it.

use std::{fmt, fmt::Write, str::FromStr};

use model::{ScopeKind, ScopeName};

/// A scope within the caller's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The caller's own.
    User,
    Team(ScopeName),
    Project(ScopeName),
    Org(ScopeName),
}

/// The text names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "takes user, team/ID, project/ID or org/ID; an ID has 1 to 128 of A-Z a-z 0-9 . _ : @ | + -"
)]
pub struct InvalidScope;

impl Scope {
    /// A team.
    pub fn team(name: &str) -> Result<Self, InvalidScope> {
        ScopeName::new(name).map(Self::Team).map_err(|_| InvalidScope)
    }

    /// A project.
    pub fn project(name: &str) -> Result<Self, InvalidScope> {
        ScopeName::new(name).map(Self::Project).map_err(|_| InvalidScope)
    }

    /// What the API's paths about its messages begin with.
    pub fn context_path(&self) -> String {
        match self {
            Self::User => "/api/v1/context".to_owned(),
            _ => format!("{}/context", self.path()),
        }
    }

    /// Where the API has the scope itself: the path that creates a team or a project.
    pub fn path(&self) -> String {
        match self {
            Self::User => "/api/v1".to_owned(),
            Self::Team(name) => format!("/api/v1/teams/{}", encoded(name.as_str())),
            Self::Project(name) => format!("/api/v1/projects/{}", encoded(name.as_str())),
            Self::Org(name) => format!("/api/v1/orgs/{}", encoded(name.as_str())),
        }
    }

    /// Where the API has a member of it.
    pub fn member_path(&self, user: &str) -> String {
        format!("{}/members/{}", self.path(), encoded(user))
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        if text == ScopeKind::User.as_str() {
            return Ok(Self::User);
        }
        let (kind, name) = text.split_once('/').ok_or(InvalidScope)?;
        let name = ScopeName::new(name).map_err(|_| InvalidScope)?;
        match ScopeKind::ALL.into_iter().find(|k| k.as_str() == kind) {
            Some(ScopeKind::Team) => Ok(Self::Team(name)),
            Some(ScopeKind::Project) => Ok(Self::Project(name)),
            Some(ScopeKind::Org) => Ok(Self::Org(name)),
            Some(ScopeKind::User) | None => Err(InvalidScope),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("user"),
            Self::Team(name) => write!(f, "team/{name}"),
            Self::Project(name) => write!(f, "project/{name}"),
            Self::Org(name) => write!(f, "org/{name}"),
        }
    }
}

/// One segment of a path.
fn encoded(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => path.push(byte.into()),
            // Writing to a String cannot fail.
            _ => _ = write!(path, "%{byte:02X}"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_written_and_placed() {
        for (text, path) in [
            ("user", "/api/v1/context"),
            ("team/web", "/api/v1/teams/web/context"),
            ("project/a|b:c@d+e", "/api/v1/projects/a%7Cb%3Ac%40d%2Be/context"),
            ("org/acme", "/api/v1/orgs/acme/context"),
        ] {
            let scope: Scope = text.parse().unwrap();
            assert_eq!((scope.to_string().as_str(), scope.context_path().as_str()), (text, path));
        }
        for bad in ["", "users", "team", "team/", "team/..", "team/a/b", "user/ann", "squad/x"] {
            assert_eq!(bad.parse::<Scope>(), Err(InvalidScope), "{bad}");
        }
    }

    #[test]
    fn members_stand_below_their_scope() {
        let team = Scope::team("web").unwrap();
        assert_eq!(team.member_path("ann@x"), "/api/v1/teams/web/members/ann%40x");
    }
}
