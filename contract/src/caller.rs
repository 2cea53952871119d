//! Who calls, in the domain's words.

use std::sync::Arc;

use http::HeaderMap;
use model::{InvalidName, OrgRole, TenantId, UserId};
use readmodel::access::AccessQuery;
use service::{
    Problem,
    auth::{self, Verifier},
};

use crate::{headers, rates::Rates};

/// A caller whose token was verified.
#[derive(Clone, Debug)]
pub struct Caller {
    pub tenant: TenantId,
    pub user: UserId,
    pub org_role: OrgRole,
}

/// Where every request of the contract comes in.
#[derive(Clone)]
pub struct Entrance {
    pub verifier: Arc<Verifier>,
    pub rates: Arc<Rates>,
}

impl Entrance {
    /// Verifies the request's token, and counts the request. That comes before anything of it is read or
    /// asked of the database: one that is refused costs next to nothing.
    ///
    /// # Errors
    /// 401 if the token is not good; 503 if the issuer's keys cannot be fetched; SYNC_006 if there were too
    /// many requests.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let caller = Caller::of(headers, &self.verifier).await?;
        // A name that is none is refused by whoever needs one.
        let device = headers::device_if_any(headers).ok().flatten();
        self.rates.admit(&caller, device.as_ref())?;
        Ok(caller)
    }
}

impl Caller {
    async fn of(headers: &HeaderMap, verifier: &Verifier) -> Result<Self, Problem> {
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
