//! The gate: who may do what, asked before the append. It only spares the log: the fold decides,
//! where the order is decided.

use std::time::Duration;

use contract::problems;
use model::{ScopeKind, Standing};
use moka::sync::Cache;
use readmodel::{
    PgPool, ReadModelError,
    access::{AccessQuery, standings},
};
use service::Problem;

use readmodel::gather::{Ask, Gather};

/// How long a standing that allowed something is taken as it was.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Standings remembered at once.
const KNOWN_MAX: u64 = 100_000;

/// Asks the read model for the standings of many.
pub(crate) struct Standings(pub(crate) PgPool);

impl Ask for Standings {
    type Question = AccessQuery;
    type Answer = Standing;

    async fn ask(&self, questions: &[AccessQuery]) -> Result<Vec<Standing>, ReadModelError> {
        standings(&self.0, questions).await
    }
}

/// Remembers who was let in; a refusal is always asked anew, so that whoever was just made a member
/// is one.
pub(crate) struct Gate<A: Ask = Standings> {
    allowed: Cache<AccessQuery, Standing>,
    batch: Gather<A>,
}

impl<A: Ask<Question = AccessQuery, Answer = Standing>> Gate<A> {
    pub(crate) fn new(asker: A) -> Self {
        let allowed = Cache::builder().max_capacity(KNOWN_MAX).time_to_live(KNOWN_FOR).build();
        Self { allowed, batch: Gather::new(asker) }
    }

    /// The caller's standing in the scope, as the read model has it now.
    ///
    /// # Errors
    /// 503 if the read model cannot be asked.
    pub(crate) async fn standing(&self, query: AccessQuery) -> Result<Standing, Problem> {
        if matches!(query.scope.kind, ScopeKind::User | ScopeKind::Org) {
            // The token says it all.
            return Ok(Standing::of(&query.scope, &query.user, query.org_role, false, None));
        }
        self.batch.ask(query).await.map_err(|error| problems::of_read_model(&error))
    }

    /// Lets the caller pass if `allows` says so of the standing.
    ///
    /// # Errors
    /// SYNC_005 if not; 503 if the read model cannot be asked.
    pub(crate) async fn pass(
        &self,
        query: AccessQuery,
        allows: fn(Standing) -> bool,
    ) -> Result<(), Problem> {
        if !query.scope.kind.has_members() {
            let standing = self.standing(query).await?;
            return problems::permit(standing, allows(standing));
        }
        if self.allowed.get(&query).is_some_and(allows) {
            return Ok(());
        }
        let standing = self.standing(query.clone()).await?;
        problems::permit(standing, allows(standing))?;
        self.allowed.insert(query, standing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use model::{OrgRole, Role, ScopeKey, UserId};

    use super::*;

    /// Knows ann, and counts how often it is asked.
    struct Ann(Arc<AtomicUsize>);

    impl Ask for Ann {
        type Question = AccessQuery;
        type Answer = Standing;

        async fn ask(&self, questions: &[AccessQuery]) -> Result<Vec<Standing>, ReadModelError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let standing = |query: &AccessQuery| match query.user.as_str() {
                "ann" => Standing::Role(Role::Member),
                user => Standing::Stranger { former: user == "fred" },
            };
            Ok(questions.iter().map(standing).collect())
        }
    }

    fn query(scope: &str, user: &str, org_role: OrgRole) -> AccessQuery {
        let scope: ScopeKey = scope.parse().unwrap();
        AccessQuery { scope, user: UserId::new(user).unwrap(), org_role }
    }

    #[tokio::test]
    async fn only_who_was_let_in_is_remembered() {
        let asked = Arc::new(AtomicUsize::new(0));
        let gate = Gate::new(Ann(asked.clone()));
        let team = |user: &str| query("acme/team/t", user, OrgRole::Member);
        for (user, passes, asked_then) in
            [("ann", true, 1), ("ann", true, 1), ("bob", false, 2), ("bob", false, 3)]
        {
            let passed = gate.pass(team(user), Standing::may_push).await;
            assert_eq!(
                (passed.is_ok(), asked.load(Ordering::SeqCst)),
                (passes, asked_then),
                "{user}"
            );
        }
        let admins = |standing: Standing| standing.role() >= Some(Role::Admin);
        assert!(gate.pass(team("ann"), admins).await.is_err(), "allowed one thing is not all");
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn user_and_org_scopes_need_no_question() {
        let asked = Arc::new(AtomicUsize::new(0));
        let gate = Gate::new(Ann(asked.clone()));
        let table = [
            ("acme/user/ann", OrgRole::Member, true),
            ("acme/user/bob", OrgRole::Owner, false),
            ("acme/org/acme", OrgRole::Member, false),
            ("acme/org/acme", OrgRole::Admin, true),
            ("acme/org/other", OrgRole::Owner, false),
        ];
        for (scope, org_role, passes) in table {
            let passed = gate.pass(query(scope, "ann", org_role), Standing::may_push).await;
            assert_eq!(passed.is_ok(), passes, "{scope} {org_role:?}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }
}
