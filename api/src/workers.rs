//! Workers that requests wait for in turn; those of one tenant wait for each other before they wait for the rest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use model::TenantId;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::places::part_of_one;

/// So many at work, and no more.
pub(crate) struct Workers {
    all: Arc<Semaphore>,
    of_one: usize,
    /// Of those tenants that work or wait: who waits is admitted before, so they are few.
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// The tenant's leave to have one more at work, once there is a worker.
pub(crate) struct Leave(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// A worker, until it is dropped.
pub(crate) struct Working(#[expect(dead_code, reason = "held")] (OwnedSemaphorePermit, Leave));

impl Workers {
    pub(crate) fn new(max: usize) -> Self {
        let (all, of_one) = (Arc::new(Semaphore::new(max)), part_of_one(max));
        Self { all, of_one, tenants: Mutex::default() }
    }

    /// Waits until the tenant may have one more at work.
    ///
    /// # Errors
    /// Never: nobody closes what is waited for.
    pub(crate) async fn leave(&self, tenant: &TenantId) -> Result<Leave, AcquireError> {
        self.of(tenant).acquire_owned().await.map(Leave)
    }

    /// Waits for a worker.
    ///
    /// # Errors
    /// As [`Self::leave`].
    pub(crate) async fn work(&self, leave: Leave) -> Result<Working, AcquireError> {
        Ok(Working((self.all.clone().acquire_owned().await?, leave)))
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, own| own.strong_count() > 0);
        let known = tenants.get(tenant).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let own = Arc::new(Semaphore::new(self.of_one));
            tenants.insert(tenant.clone(), Arc::downgrade(&own));
            own
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_tenant_that_asks_again_and_again_leaves_a_worker_to_others() {
        let workers = Workers::new(2);
        let (acme, globex) = (TenantId::new("acme").unwrap(), TenantId::new("globex").unwrap());
        let work = async |tenant| workers.work(workers.leave(tenant).await.unwrap()).await.unwrap();
        let first = work(&acme).now_or_never().unwrap();
        assert!(work(&acme).now_or_never().is_none());
        let other = work(&globex).now_or_never().unwrap();
        drop(first);
        let again = work(&acme).now_or_never().unwrap();
        assert!(work(&globex).now_or_never().is_none());
        drop((other, again));
        assert!(work(&globex).now_or_never().is_some());
        assert_eq!(workers.tenants.lock().unwrap().len(), 1, "the others are forgotten");
        assert!(Workers::new(1).leave(&acme).now_or_never().is_some());
    }
}
