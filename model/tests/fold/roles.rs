//! The wire contract's table of roles, and who counts as what. The founding tables are in `workflows.rs`.

use model::{OrgRole, Role, ScopeKey, ScopeKind, Standing, UserId};

const STRANGER: Standing = Standing::Stranger { former: false };

/// push, pull, backup, restore
fn may(standing: Standing) -> String {
    let rights =
        [standing.may_push(), standing.may_pull(), standing.may_back_up(), standing.may_restore()];
    rights.map(|right| if right { '✓' } else { '–' }).iter().collect()
}

#[test]
fn the_table() {
    for (standing, rights) in [
        (Standing::Oneself, "✓✓✓✓"),
        (Standing::Role(Role::Viewer), "–✓––"),
        (Standing::Role(Role::Member), "✓✓––"),
        (Standing::Role(Role::Admin), "✓✓✓✓"),
        (Standing::Role(Role::Owner), "✓✓✓✓"),
        (Standing::Org(OrgRole::Member), "–✓––"),
        (Standing::Org(OrgRole::Admin), "✓✓✓–"),
        (Standing::Org(OrgRole::Owner), "✓✓✓✓"),
        (STRANGER, "––––"),
        (Standing::Stranger { former: true }, "––––"),
    ] {
        assert_eq!(may(standing), rights, "{standing:?}");
    }
}

#[test]
fn who_is_what() {
    let of = |scope: &str, org_role, exists, member| {
        let scope: ScopeKey = scope.parse().unwrap();
        Standing::of(&scope, &UserId::new("ann").unwrap(), org_role, exists, member)
    };
    let (plain, owner) = (OrgRole::Member, OrgRole::Owner);
    assert_eq!(of("acme/user/ann", plain, false, None), Standing::Oneself);
    assert_eq!(of("acme/user/bob", owner, true, Some(Some(Role::Owner))), STRANGER);
    assert_eq!(of("acme/org/acme", plain, false, None), Standing::Org(plain));
    assert_eq!(of("acme/org/other", owner, true, None), STRANGER);
    for scope in ["acme/team/t", "acme/project/t"] {
        assert_eq!(of(scope, owner, false, Some(Some(Role::Owner))), STRANGER);
        assert_eq!(of(scope, plain, true, None), STRANGER);
        assert_eq!(of(scope, OrgRole::Admin, true, None), STRANGER);
        assert_eq!(of(scope, plain, true, Some(None)), Standing::Stranger { former: true });
        assert_eq!(of(scope, owner, true, Some(None)), Standing::Role(Role::Owner));
        assert_eq!(of(scope, owner, true, Some(Some(Role::Viewer))), Standing::Role(Role::Owner));
        for role in Role::ALL {
            assert_eq!(of(scope, plain, true, Some(Some(role))), Standing::Role(role));
        }
    }
}

#[test]
fn names_of_roles() {
    for role in Role::ALL {
        assert_eq!(Role::parse(role.as_str()), Some(role));
        assert!(role.exists_in(ScopeKind::Project));
        assert!(!role.exists_in(ScopeKind::User) && !role.exists_in(ScopeKind::Org));
        assert_eq!(role.exists_in(ScopeKind::Team), role != Role::Viewer);
    }
    for role in OrgRole::ALL {
        assert_eq!(OrgRole::parse(role.as_str()), Some(role));
    }
    assert_eq!((Role::parse("Owner"), OrgRole::parse("viewer")), (None, None));
}
