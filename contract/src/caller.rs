//! Who calls, in the domain's words.

use http::HeaderMap;
use model::{InvalidName, OrgRole, TenantId, UserId};
use readmodel::access::AccessQuery;
use service::{
    Problem,
    auth::{self, Verifier},
};

/// A caller whose token was verified.
#[derive(Clone, Debug)]
pub struct Caller {
    pub tenant: TenantId,
    pub user: UserId,
    pub org_role: OrgRole,
}

impl Caller {
    /// Verifies the request's token.
    ///
    /// # Errors
    /// 401 if it is not good; 503 if the issuer's keys cannot be fetched.
    pub async fn of(headers: &HeaderMap, verifier: &Verifier) -> Result<Self, Problem> {
        let verified = auth::authenticate(headers, verifier).await?;
        let invalid =
            |e: InvalidName| Problem::unauthenticated(format!("A claim of the token {e}"));
        Ok(Self {
            tenant: TenantId::new(&verified.tenant).map_err(invalid)?,
            user: UserId::new(&verified.user).map_err(invalid)?,
            org_role: match verified.org_role {
                auth::OrgRole::Member => OrgRole::Member,
                auth::OrgRole::Admin => OrgRole::Admin,
                auth::OrgRole::Owner => OrgRole::Owner,
            },
        })
    }

    /// What to ask about the caller's standing in a scope.
    pub fn access(&self, scope: &model::ScopeKey) -> AccessQuery {
        AccessQuery { scope: scope.clone(), user: self.user.clone(), org_role: self.org_role }
    }
}
