//! Who takes part: fifty devices of some users in some scopes of two tenants.

use model::{Role, ScopeKey, ScopeKind, UserId};

pub const DEVICES: usize = 50;

/// Scope, user, devices.
const CAST: [(&str, &str, usize); 10] = [
    ("acme/user/ann", "ann", 8),
    ("acme/user/bob", "bob", 5),
    ("acme/team/web", "ann", 4),
    ("acme/team/web", "bob", 4),
    ("acme/team/web", "cy", 5),
    ("acme/project/p", "ann", 3),
    ("acme/project/p", "bob", 4),
    ("acme/project/p", "cy", 3),
    ("other/team/web", "dan", 8),
    ("other/user/ann", "ann", 6),
];

/// Scope, who creates it, and whom they take in.
type Company = (&'static str, &'static str, &'static [(&'static str, Role)]);

const COMPANIES: [Company; 3] = [
    ("acme/team/web", "ann", &[("bob", Role::Admin), ("cy", Role::Member)]),
    ("acme/project/p", "ann", &[("bob", Role::Member), ("cy", Role::Viewer)]),
    ("other/team/web", "dan", &[]),
];

/// A device in a scope.
#[derive(Clone, Debug)]
pub struct Seat {
    pub number: usize,
    pub scope: ScopeKey,
    pub user: UserId,
    /// A viewer only pulls.
    pub may_push: bool,
}

/// A team or project, and who is in it.
pub struct Founding {
    pub scope: ScopeKey,
    pub owner: UserId,
    pub members: Vec<(UserId, Role)>,
}

pub fn seats() -> Vec<Seat> {
    let each = CAST.iter().flat_map(|cast| std::iter::repeat_n(cast, cast.2));
    let seat = |(number, (scope, name, _)): (usize, &(&str, &str, usize))| {
        let scope: ScopeKey = scope.parse().unwrap();
        let may_push = scope.kind != ScopeKind::Project || *name != "cy";
        Seat { number, scope, user: user(name), may_push }
    };
    each.enumerate().map(seat).collect()
}

pub fn scopes() -> Vec<ScopeKey> {
    let mut scopes: Vec<ScopeKey> = CAST.iter().map(|(scope, ..)| scope.parse().unwrap()).collect();
    scopes.dedup();
    scopes
}

/// The users' own scopes.
pub fn own_scopes() -> Vec<ScopeKey> {
    scopes().into_iter().filter(|scope| scope.kind == ScopeKind::User).collect()
}

/// Who is in a team or project beside its owner.
pub fn members() -> Vec<(ScopeKey, UserId)> {
    let taken_in = |Founding { scope, members, .. }: Founding| {
        members.into_iter().map(move |(user, _)| (scope.clone(), user))
    };
    foundings().into_iter().flat_map(taken_in).collect()
}

/// Who may do everything in a scope.
pub fn owner(scope: &ScopeKey) -> UserId {
    match foundings().into_iter().find(|founding| founding.scope == *scope) {
        Some(founding) => founding.owner,
        None => user(scope.name.as_str()),
    }
}

pub fn foundings() -> Vec<Founding> {
    let founding = |(scope, owner, members): &Company| Founding {
        scope: scope.parse().unwrap(),
        owner: user(owner),
        members: members.iter().map(|(name, role)| (user(name), *role)).collect(),
    };
    COMPANIES.iter().map(founding).collect()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}
