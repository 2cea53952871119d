//! The gate: who may do what, and whether there is room for it, asked before the append. Who may, it only
//! spares the log: the fold decides, where the order is decided. Quotas are kept here alone: what is under way
//! when one is reached still comes in.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use contract::problems;
use model::{LogId, ScopeKey, ScopeKind, Standing, TenantId};
use moka::sync::Cache;
use readmodel::{
    Pool, ReadModelError,
    access::{AccessQuery, Account, accounts},
    quotas::{Quotas, Usage},
};
use service::Problem;

use readmodel::gather::{Ask, Gather, Unanswered};

/// How long a standing that allowed something is taken as it was, and what is held too, where there is room.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Standings remembered at once, and scopes, and tenants.
const KNOWN_MAX: u64 = 100_000;
/// Which part of the room that was left is given away without asking again: so many processes together do not
/// go beyond it.
const REMEMBERED_PART: u64 = 16;

/// Asks the read model for the accounts of many, if it is of the log that is written to.
pub(crate) struct Accounts {
    pub(crate) pool: Pool,
    pub(crate) log: LogId,
}

impl Ask for Accounts {
    type Question = AccessQuery;
    type Answer = Account;

    async fn ask(&self, questions: &[AccessQuery]) -> Result<Vec<Account>, ReadModelError> {
        let (stored, accounts) = accounts(&self.pool, questions).await?;
        if stored != self.log {
            return Err(ReadModelError::OtherLog { stored, found: self.log });
        }
        Ok(accounts)
    }
}

/// Remembers who was let in; a refusal is always asked anew, so that whoever was just made a member
/// is one, and whoever just deleted something has room.
pub(crate) struct Gate<A: Ask = Accounts> {
    allowed: Cache<AccessQuery, Standing>,
    quotas: Quotas,
    scopes: Cache<ScopeKey, Arc<Room>>,
    tenants: Cache<TenantId, Arc<Room>>,
    batch: Gather<A>,
    /// Since this process began, a read model has said which log this is.
    is_begun: AtomicBool,
}

/// What a request adds, at most. Deletes add nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl<A: Ask<Question = AccessQuery, Answer = Account>> Gate<A> {
    /// `quotas`: of tenants for whom no operator has set others.
    pub(crate) fn new(asker: A, quotas: Quotas) -> Self {
        fn remembering<K, V>() -> Cache<K, V>
        where
            K: std::hash::Hash + Eq + Send + Sync + 'static,
            V: Clone + Send + Sync + 'static,
        {
            Cache::builder().max_capacity(KNOWN_MAX).time_to_live(KNOWN_FOR).build()
        }
        let (scopes, tenants) = (remembering(), remembering());
        let (batch, is_begun) = (Gather::new(asker), AtomicBool::new(false));
        Self { allowed: remembering(), quotas, scopes, tenants, batch, is_begun }
    }

    /// The caller's standing in the scope, as the read model has it now.
    ///
    /// # Errors
    /// 503 if the read model cannot be asked.
    pub(crate) async fn standing(&self, query: AccessQuery) -> Result<Standing, Problem> {
        if let Some(standing) = standing_of_token(&query) {
            return Ok(standing);
        }
        Ok(self.account(query).await?.standing)
    }

    async fn account(&self, query: AccessQuery) -> Result<Account, Problem> {
        self.ask(query).await.map_err(|error| problems::of_read_model(&error))
    }

    async fn ask(&self, query: AccessQuery) -> Result<Account, Unanswered> {
        let answer = self.batch.ask(query).await;
        if answer.is_ok() {
            self.is_begun.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// As [`Self::ask`]; `None` if the read model cannot be asked, which is not asked again for a while.
    ///
    /// # Errors
    /// 503 if no read model has said yet which log this is. One that was lost is of a new epoch, in which the cursors are
    /// kept that the log gives out as it was found: until that is noted, nothing may be added to it. And if it is of another
    /// log: nobody would ever fold what is added to this one.
    async fn ask_if_up(&self, query: AccessQuery) -> Result<Option<Account>, Problem> {
        let scope = query.scope.clone();
        match self.ask(query).await {
            Ok(account) => Ok(Some(account)),
            Err(error) if self.is_of_no_use(&error) => Err(problems::of_read_model(&error)),
            Err(_) => {
                self.remember(&scope, Room::unknown(), Room::unknown());
                Ok(None)
            }
        }
    }

    fn is_of_no_use(&self, error: &ReadModelError) -> bool {
        match error {
            ReadModelError::OtherLog { .. } => true,
            ReadModelError::NotMigrated => !self.is_begun.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Makes sure, before the first append, that the log is one which a read model is of. While none can be asked,
    /// nobody is held up.
    ///
    /// # Errors
    /// 503 if none is there yet.
    pub(crate) async fn begun(&self, query: AccessQuery) -> Result<(), Problem> {
        if self.is_begun.load(Ordering::Relaxed) || self.scopes.contains_key(&query.scope) {
            return Ok(());
        }
        self.ask_if_up(query).await.map(|_| ())
    }

    /// Lets the caller pass if `allows` says so of the standing. What the scope holds, if it was asked for.
    ///
    /// # Errors
    /// SYNC_005 if not; 503 if the read model cannot be asked.
    pub(crate) async fn pass(
        &self,
        query: AccessQuery,
        allows: fn(Standing) -> bool,
    ) -> Result<Option<Usage>, Problem> {
        if let Some(standing) = standing_of_token(&query) {
            return problems::permit(standing, allows(standing)).map(|()| None);
        }
        if self.allowed.get(&query).is_some_and(allows) {
            return Ok(None);
        }
        let Account { standing, usage } = self.account(query.clone()).await?;
        problems::permit(standing, allows(standing))?;
        self.allowed.insert(query, standing);
        Ok(Some(usage))
    }

    /// Makes sure that the quotas leave room for what is added. `usage`: what [`Gate::pass`] gave. While nobody
    /// can tell what is held, quotas hold nobody up.
    ///
    /// # Errors
    /// SYNC_007 if there is no room; 503 as [`Gate::begun`].
    pub(crate) async fn room(
        &self,
        query: AccessQuery,
        added: Added,
        usage: Option<Usage>,
    ) -> Result<(), Problem> {
        if added == Added::default() {
            return Ok(());
        }
        let scope = query.scope.clone();
        if usage.is_none()
            && let Some(room) = self.scopes.get(&scope)
            && let Some(of_tenant) = self.tenants.get(&scope.tenant)
            && room.is_ample(added)
            && of_tenant.is_ample(added)
        {
            room.give(added);
            of_tenant.give(added);
            return Ok(());
        }
        let usage = match usage {
            Some(usage) => usage,
            None => match self.ask_if_up(query).await? {
                Some(account) => account.usage,
                None => return Ok(()),
            },
        };
        let quotas = usage.overrides.over(self.quotas);
        check(&usage, &quotas, added)?;
        let room = Room::new(
            left(quotas.scope_messages_max, usage.scope_messages),
            left(quotas.scope_bytes_max, usage.scope_bytes),
        );
        let of_tenant = Room::new(
            left(quotas.tenant_messages_max, usage.tenant_messages),
            left(quotas.tenant_bytes_max, usage.tenant_bytes),
        );
        room.give(added);
        of_tenant.give(added);
        self.remember(&scope, room, of_tenant);
        Ok(())
    }

    fn remember(&self, scope: &ScopeKey, room: Room, of_tenant: Room) {
        self.scopes.insert(scope.clone(), Arc::new(room));
        self.tenants.insert(scope.tenant.clone(), Arc::new(of_tenant));
    }
}

/// In a user's own scope and in the org's the token says it all.
fn standing_of_token(query: &AccessQuery) -> Option<Standing> {
    match query.scope.kind {
        ScopeKind::User | ScopeKind::Org => {
            Some(Standing::of(&query.scope, &query.user, query.org_role, false, None))
        }
        ScopeKind::Team | ScopeKind::Project => None,
    }
}

fn check(usage: &Usage, quotas: &Quotas, added: Added) -> Result<(), Problem> {
    let table = [
        ("scope_messages_max", quotas.scope_messages_max, usage.scope_messages, added.messages),
        ("scope_bytes_max", quotas.scope_bytes_max, usage.scope_bytes, added.bytes),
        ("tenant_messages_max", quotas.tenant_messages_max, usage.tenant_messages, added.messages),
        ("tenant_bytes_max", quotas.tenant_bytes_max, usage.tenant_bytes, added.bytes),
    ];
    for (limit, max, used, sent) in table {
        if max > 0 && used.saturating_add(sent) > max {
            return Err(problems::quota_exceeded(limit, max, used, sent));
        }
    }
    Ok(())
}

fn left(max: u64, used: u64) -> u64 {
    if max == 0 { u64::MAX } else { max.saturating_sub(used) }
}

/// What was left when somebody asked, and what was given of it since.
struct Room {
    messages_left: u64,
    bytes_left: u64,
    messages_given: AtomicU64,
    bytes_given: AtomicU64,
}

impl Room {
    fn new(messages_left: u64, bytes_left: u64) -> Self {
        let (messages_given, bytes_given) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { messages_left, bytes_left, messages_given, bytes_given }
    }

    fn unknown() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }

    /// Whether it is given without asking.
    fn is_ample(&self, added: Added) -> bool {
        let fits = |given: &AtomicU64, added: u64, left: u64| {
            given.load(Ordering::Relaxed).saturating_add(added) <= left / REMEMBERED_PART
        };
        fits(&self.messages_given, added.messages, self.messages_left)
            && fits(&self.bytes_given, added.bytes, self.bytes_left)
    }

    fn give(&self, added: Added) {
        self.messages_given.fetch_add(added.messages, Ordering::Relaxed);
        self.bytes_given.fetch_add(added.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
