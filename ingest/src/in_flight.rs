//! Pushes under way: so many, and so many bytes of them, that the process stays within its memory and what
//! it took gets done, however slow the log and the read model are. More is refused before it is read.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::problems;
use model::TenantId;
use service::Problem;

/// One tenant may have this part of all: a storm, or bodies that never end, leave room for the others.
const TENANT_PART: u64 = 2;

const PUSHES: &str = "context_sync_pushes_in_flight";
const BYTES: &str = "context_sync_push_bytes_in_flight";

/// Counts what is under way.
pub(crate) struct InFlight {
    pushes_max: Max,
    bytes_max: Max,
    held: Mutex<Held>,
}

/// A limit; 0 sets none.
#[derive(Clone, Copy)]
struct Max {
    limit: &'static str,
    of_all: u64,
}

struct Held {
    all: Load,
    tenants: HashMap<TenantId, Load>,
    shown: Shown,
}

/// What operators see of it.
struct Shown {
    pushes: metrics::Gauge,
    bytes: metrics::Gauge,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Load {
    pushes: u64,
    bytes: u64,
}

/// A push that is under way, until this is dropped.
pub(crate) struct Entered<'a> {
    in_flight: &'a InFlight,
    tenant: TenantId,
    bytes: u64,
}

impl InFlight {
    pub(crate) fn new(pushes_max: u32, bytes_max: u64) -> Self {
        Self {
            pushes_max: Max { limit: "pushes_in_flight_max", of_all: u64::from(pushes_max) },
            bytes_max: Max { limit: "push_bytes_in_flight_max", of_all: bytes_max },
            held: Mutex::new(Held::new()),
        }
    }

    /// Begins a push whose body has, or may have, so many bytes. A push that is alone passes whatever its size, and
    /// a tenant's only one may be more than its part.
    ///
    /// # Errors
    /// 503 at once if there is no room, for anyone or for this tenant.
    pub(crate) fn enter(&self, tenant: &TenantId, bytes: u64) -> Result<Entered<'_>, Problem> {
        let mut held = self.held();
        let own = held.tenants.get(tenant).copied().unwrap_or_default();
        let all = held.all;
        self.pushes_max.check_all(all.pushes, 1)?;
        self.pushes_max.check_part(own.pushes, 1)?;
        if all.pushes > 0 {
            self.bytes_max.check_all(all.bytes, bytes)?;
        }
        if own.pushes > 0 {
            self.bytes_max.check_part(own.bytes, bytes)?;
        }
        held.change(tenant, |load| {
            load.pushes += 1;
            load.bytes += bytes;
        });
        Ok(Entered { in_flight: self, tenant: tenant.clone(), bytes })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Max {
    fn check_all(self, all: u64, more: u64) -> Result<(), Problem> {
        let Self { limit, of_all } = self;
        if of_all == 0 || all + more <= of_all {
            return Ok(());
        }
        Err(problems::overloaded(limit, of_all, "and as much is under way"))
    }

    fn check_part(self, own: u64, more: u64) -> Result<(), Problem> {
        let Self { limit, of_all } = self;
        if of_all == 0 || own + more <= of_all.div_ceil(TENANT_PART) {
            return Ok(());
        }
        Err(problems::overloaded(limit, of_all, "of which one tenant gets half, and has it"))
    }
}

impl Held {
    fn new() -> Self {
        Self { all: Load::default(), tenants: HashMap::new(), shown: Shown::new() }
    }

    fn change(&mut self, tenant: &TenantId, change: impl Fn(&mut Load)) {
        change(&mut self.all);
        let own = self.tenants.entry(tenant.clone()).or_default();
        change(own);
        if *own == Load::default() {
            self.tenants.remove(tenant);
        }
        self.shown.pushes.set(self.all.pushes as f64);
        self.shown.bytes.set(self.all.bytes as f64);
    }
}

impl Shown {
    fn new() -> Self {
        metrics::describe_gauge!(PUSHES, "Pushes under way");
        let bytes = metrics::Unit::Bytes;
        metrics::describe_gauge!(BYTES, bytes, "Bytes of the bodies of pushes under way");
        Self { pushes: metrics::gauge!(PUSHES), bytes: metrics::gauge!(BYTES) }
    }
}

impl Entered<'_> {
    /// The body is there: it has so many bytes.
    pub(crate) fn has(&mut self, bytes: u64) {
        let announced = std::mem::replace(&mut self.bytes, bytes);
        let settle = |load: &mut Load| load.bytes = (load.bytes + bytes).saturating_sub(announced);
        self.in_flight.held().change(&self.tenant, settle);
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let bytes = self.bytes;
        self.in_flight.held().change(&self.tenant, |load| {
            load.pushes = load.pushes.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(bytes);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    /// The limit that refuses it.
    fn refusal(entered: Result<Entered<'_>, Problem>) -> Option<String> {
        let problem = entered.err()?;
        assert_eq!((problem.code(), problem.status().as_u16()), ("UNAVAILABLE", 503));
        problem.detail().split(' ').next().map(str::to_owned)
    }

    #[test]
    fn overload_one_tenant_leaves_room_for_the_others() {
        let in_flight = InFlight::new(4, 0);
        let (acme, globex, initech) = (tenant("acme"), tenant("globex"), tenant("initech"));
        let mut storm = Vec::new();
        storm.extend([in_flight.enter(&acme, 1).unwrap(), in_flight.enter(&acme, 1).unwrap()]);
        assert_eq!(refusal(in_flight.enter(&acme, 1)).unwrap(), "pushes_in_flight_max");
        storm.extend([in_flight.enter(&globex, 1).unwrap(), in_flight.enter(&globex, 1).unwrap()]);
        assert!(refusal(in_flight.enter(&initech, 1)).is_some(), "nobody gets more than there is");
        storm.pop();
        assert!(in_flight.enter(&initech, 1).is_ok(), "what ends makes room");
        drop(storm);
        assert_eq!(in_flight.held().all, Load::default());
        assert!(in_flight.held().tenants.is_empty(), "nothing is kept of who is idle");
    }

    #[test]
    fn overload_bytes_count_as_announced_until_the_body_is_there() {
        let in_flight = InFlight::new(0, 100);
        let acme = tenant("acme");
        let mut first = in_flight.enter(&acme, 1000).unwrap();
        for other in [&acme, &tenant("globex")] {
            let refused = refusal(in_flight.enter(other, 1));
            assert_eq!(refused.as_deref(), Some("push_bytes_in_flight_max"));
        }
        first.has(30);
        let second = in_flight.enter(&acme, 20).unwrap();
        assert!(refusal(in_flight.enter(&acme, 1)).is_some(), "half of all");
        assert_eq!(in_flight.held().all, Load { pushes: 2, bytes: 50 });
        // There is room for others, as long as there is any.
        let third = in_flight.enter(&tenant("globex"), 50).unwrap();
        assert!(refusal(in_flight.enter(&tenant("initech"), 1)).is_some());
        drop((first, second, third));
        assert_eq!(in_flight.held().all, Load::default());
    }

    #[test]
    fn overload_zero_turns_a_limit_off() {
        let in_flight = InFlight::new(0, 0);
        let many: Vec<_> = (0..1000).map(|_| in_flight.enter(&tenant("acme"), 1 << 30)).collect();
        assert!(many.iter().all(Result::is_ok));
    }
}
