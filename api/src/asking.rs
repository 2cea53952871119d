//! What is asked of the read model on behalf of a caller, and whether they may be told.

use contract::{Caller, problems};
use model::{Cursor, Epoch, OrgRole, ScopeKey, ScopeKind, Standing};
use readmodel::pull::{Asker, Glance};
use service::Problem;

/// The caller, as one who asks about the scope.
pub(crate) fn asker<'a>(caller: &'a Caller, scope: &'a ScopeKey) -> Asker<'a> {
    let privileged = !scope.kind.has_members() || caller.org_role == OrgRole::Owner;
    Asker { scope, user: &caller.user, privileged }
}

/// Refuses what no snapshot need be asked about: another tenant's org.
pub(crate) fn permit_asking(scope: &ScopeKey) -> Result<(), Problem> {
    let other = scope.kind == ScopeKind::Org && scope.name.as_str() != scope.tenant.as_str();
    if other { Err(problems::permission_denied(false)) } else { Ok(()) }
}

/// Refuses one who may not pull, by the snapshot of the answer.
pub(crate) fn permit_pull(
    caller: &Caller,
    scope: &ScopeKey,
    glance: &Glance,
) -> Result<(), Problem> {
    let Glance { exists, member, .. } = *glance;
    let standing = Standing::of(scope, &caller.user, caller.org_role, exists, member);
    problems::permit(standing, standing.may_pull())
}

/// Up to where cursors of the request's epoch are still good; `None` if it is the current one, or
/// not said. What a recovery keeps is not in the read model, so of another epoch nothing is.
pub(crate) fn base(asked: Option<Epoch>, current: Epoch) -> Option<Cursor> {
    asked.filter(|epoch| *epoch != current).map(|_| Cursor::ZERO)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn another_epoch_has_a_base() {
        let [current, other] = [1, 2].map(|n| Epoch(Uuid::from_u128(n)));
        assert_eq!(base(None, current), None);
        assert_eq!(base(Some(current), current), None);
        assert_eq!(base(Some(other), current), Some(Cursor::ZERO));
    }
}
