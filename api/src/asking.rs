//! What is asked of the read model on behalf of a caller, and whether they may be told.

use contract::{Caller, problems};
use model::{Epoch, OrgRole, ScopeKey, ScopeKind, Standing};
use readmodel::{
    epochs::{self, Kept},
    pull::{Asker, Glance, Summary},
};
use service::Problem;

use crate::Api;

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

/// Which cursors of the request's epoch are still good in the scope as the snapshot has it.
pub(crate) async fn kept(
    api: &Api,
    scope: &ScopeKey,
    asked: Option<Epoch>,
    summary: &Summary,
) -> Result<Kept, Problem> {
    let kept = epochs::kept(&api.pool, scope.reference(), asked, summary.epoch).await;
    Ok(kept.map_err(|error| problems::of_read_model(&error))?.up_to(summary.head))
}
