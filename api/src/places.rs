//! Places for those who work or wait, of which one tenant gets a part: a storm leaves room for the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::TenantId;

/// One tenant may have this part of all.
const TENANT_PART: usize = 2;

/// What one tenant may have of so many.
pub(crate) const fn part_of_one(all: usize) -> usize {
    all.div_ceil(TENANT_PART)
}

/// So many, and no more.
pub(crate) struct Places {
    max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    tenants: HashMap<TenantId, usize>,
}

/// One of the places, until it is dropped.
pub(crate) struct Place {
    of: Arc<Places>,
    tenant: TenantId,
}

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: Mutex::default() })
    }

    /// `None`: all are taken, or the tenant has its part.
    pub(crate) fn take(self: &Arc<Self>, tenant: &TenantId) -> Option<Place> {
        let mut held = self.held();
        let own = held.tenants.get(tenant).copied().unwrap_or_default();
        if held.all >= self.max || own >= part_of_one(self.max) {
            return None;
        }
        held.all += 1;
        held.tenants.insert(tenant.clone(), own + 1);
        Some(Place { of: self.clone(), tenant: tenant.clone() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.held();
        held.all -= 1;
        let left = held.tenants.get(&self.tenant).copied().unwrap_or_default().saturating_sub(1);
        match left {
            0 => held.tenants.remove(&self.tenant),
            left => held.tenants.insert(self.tenant.clone(), left),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_part_and_the_others_the_rest() {
        let places = Places::new(3);
        let (acme, globex) = (TenantId::new("acme").unwrap(), TenantId::new("globex").unwrap());
        let mut held: Vec<Place> = (0..2).map(|_| places.take(&acme).unwrap()).collect();
        assert!(places.take(&acme).is_none());
        held.push(places.take(&globex).unwrap());
        assert!(places.take(&globex).is_none(), "all are taken");
        drop(held);
        assert!(places.take(&acme).is_some());
        assert!(places.held().tenants.is_empty() && places.held().all == 0);
        assert!(Places::new(1).take(&acme).is_some());
    }
}
