//! How many requests a second a device, a user and a tenant may send. Each process counts what it is sent.

use std::{hash::Hash, num::NonZeroU32, sync::Arc, time::Duration};

use clap::Args;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};
use http::{HeaderName, HeaderValue};
use model::{DeviceId, TenantId, UserId};
use service::Problem;
use tokio_util::sync::CancellationToken;

use crate::{Caller, problems};

/// A burst is what so many seconds of the steady rate come to; an empty bucket is full again after them.
const BURST_SECONDS: u32 = 2;
/// How often callers that have been idle are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// After how many times the room they took is given back: what is needed again at once is not.
const SHRINK_EVERY: u32 = 60;

// As draft-ietf-httpapi-ratelimit-headers (-10 and -11) has them.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Rates of requests; each a flag and an environment variable. A process counts what it is sent itself:
/// behind a balancer over n processes a caller may have n times as much.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// Requests a second of one device, with bursts of twice as many; 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_DEVICE_REQUESTS_PER_SECOND")]
    #[arg(default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=RATE_MAX))]
    pub device_requests_per_second: u32,

    /// Requests a second of one user, with bursts of twice as many; 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_USER_REQUESTS_PER_SECOND")]
    #[arg(default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=RATE_MAX))]
    pub user_requests_per_second: u32,

    /// Requests a second of one tenant, with bursts of twice as many; 0 sets no limit
    #[arg(long, env = "CONTEXT_SYNC_TENANT_REQUESTS_PER_SECOND")]
    #[arg(default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(0..=RATE_MAX))]
    pub tenant_requests_per_second: u32,
}

const RATE_MAX: i64 = 1_000_000;

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            device_requests_per_second: 50,
            user_requests_per_second: 200,
            tenant_requests_per_second: 2_000,
        }
    }
}

impl RateConfig {
    /// No limits.
    pub const OFF: Self = Self {
        device_requests_per_second: 0,
        user_requests_per_second: 0,
        tenant_requests_per_second: 0,
    };
}

/// Who shares a bucket, and what it is called.
#[derive(Clone, Copy)]
struct Level {
    /// In the rate limit fields.
    policy: &'static str,
    /// In problems, flags and metrics.
    limit: &'static str,
}

const DEVICE: Level = Level { policy: "device", limit: "device_requests_per_second" };
const USER: Level = Level { policy: "user", limit: "user_requests_per_second" };
const TENANT: Level = Level { policy: "tenant", limit: "tenant_requests_per_second" };

/// A bucket for every key, which has the whole name of whose it is: nobody has another one's, and a device's
/// name, which anyone may claim, says nothing outside its user.
struct Buckets<K: Hash + Eq + Clone, C: Clock> {
    level: Level,
    per_second: u32,
    limiter: RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<C::Instant>>,
}

/// The buckets of all callers.
pub struct Rates<C: Clock = DefaultClock> {
    device: Option<Buckets<(TenantId, UserId, DeviceId), C>>,
    user: Option<Buckets<(TenantId, UserId), C>>,
    tenant: Option<Buckets<TenantId, C>>,
    clock: C,
    /// All limits that are set, as a field of the answer.
    policy: HeaderValue,
}

/// Too many requests.
struct Exceeded {
    level: Level,
    per_second: u32,
    /// Until there is room for one.
    wait: Duration,
}

impl Rates {
    pub fn new(config: &RateConfig) -> Self {
        Self::with_clock(config, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with_clock(config: &RateConfig, clock: C) -> Self {
        let (device, user) = (config.device_requests_per_second, config.user_requests_per_second);
        let tenant = config.tenant_requests_per_second;
        let set = [(DEVICE, device), (USER, user), (TENANT, tenant)];
        let policies = set.into_iter().filter(|(_, per_second)| *per_second > 0);
        let policies: Vec<String> =
            policies.map(|(level, per_second)| policy(level, per_second)).collect();
        Self {
            device: Buckets::new(DEVICE, device, &clock),
            user: Buckets::new(USER, user, &clock),
            tenant: Buckets::new(TENANT, tenant, &clock),
            clock,
            // Of digits and quoted names: it is always a header's value.
            policy: HeaderValue::from_str(&policies.join(", "))
                .unwrap_or(HeaderValue::from_static("")),
        }
    }

    /// Counts a request of the caller.
    ///
    /// # Errors
    /// SYNC_006, which names the limit, and when there is room again.
    pub fn admit(&self, caller: &Caller, device: Option<&DeviceId>) -> Result<(), Problem> {
        self.count(caller, device).map_err(|exceeded| self.problem(&exceeded))
    }

    /// The narrowest first: what a device sends beyond its own is not taken from its user's bucket, nor
    /// what a user sends beyond theirs from the tenant's.
    fn count(&self, caller: &Caller, device: Option<&DeviceId>) -> Result<(), Exceeded> {
        let (tenant, user) = (&caller.tenant, &caller.user);
        if let (Some(buckets), Some(device)) = (&self.device, device) {
            buckets.take(&(tenant.clone(), user.clone(), device.clone()), &self.clock)?;
        }
        if let Some(buckets) = &self.user {
            buckets.take(&(tenant.clone(), user.clone()), &self.clock)?;
        }
        match &self.tenant {
            Some(buckets) => buckets.take(tenant, &self.clock),
            None => Ok(()),
        }
    }

    fn problem(&self, exceeded: &Exceeded) -> Problem {
        let Exceeded { level: Level { policy, limit }, per_second, wait } = *exceeded;
        // Whole seconds are all that the fields know: the next one. There may be room by now, but not when it was asked.
        let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
        let detail = format!(
            "{limit} is {per_second}, with bursts of {}: wait as Retry-After says, and send more in each request",
            burst(per_second)
        );
        let problem = problems::rate_limited(limit, u64::from(per_second), detail, seconds)
            .header(RATE_LIMIT_POLICY, self.policy.clone());
        match HeaderValue::from_str(&format!("\"{policy}\";r=0;t={seconds}")) {
            Ok(standing) => problem.header(RATE_LIMIT, standing),
            Err(_) => problem,
        }
    }

    /// Forgets whose bucket is full again: they are as if they had never come.
    fn forget_idle(&self, shrink: bool) {
        fn forget<K: Hash + Eq + Clone, C: Clock>(buckets: Option<&Buckets<K, C>>, shrink: bool) {
            let Some(Buckets { limiter, .. }) = buckets else { return };
            limiter.retain_recent();
            if shrink {
                limiter.shrink_to_fit();
            }
        }
        forget(self.device.as_ref(), shrink);
        forget(self.user.as_ref(), shrink);
        forget(self.tenant.as_ref(), shrink);
    }
}

/// Keeps the memory at what the callers of the last seconds need, until shutdown.
pub async fn forget_idle(rates: Arc<Rates>, shutdown: CancellationToken) {
    for time in 1_u32.. {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(FORGET_EVERY) => rates.forget_idle(time.is_multiple_of(SHRINK_EVERY)),
        }
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Buckets<K, C> {
    /// `None` if there is no limit.
    fn new(level: Level, per_second: u32, clock: &C) -> Option<Self> {
        let burst = NonZeroU32::new(burst(per_second))?;
        let quota = Quota::per_second(NonZeroU32::new(per_second)?).allow_burst(burst);
        let limiter = RateLimiter::new(quota, DashMapStateStore::default(), clock.clone());
        Some(Self { level, per_second, limiter })
    }

    fn take(&self, key: &K, clock: &C) -> Result<(), Exceeded> {
        self.limiter.check_key(key).map_err(|until| Exceeded {
            level: self.level,
            per_second: self.per_second,
            wait: until.wait_time_from(clock.now()),
        })
    }
}

const fn burst(per_second: u32) -> u32 {
    per_second * BURST_SECONDS
}

/// So many requests within so many seconds: that is the bucket's size, and how long it takes to fill.
fn policy(level: Level, per_second: u32) -> String {
    format!("\"{}\";q={};w={BURST_SECONDS}", level.policy, burst(per_second))
}

#[cfg(test)]
#[path = "rates_tests.rs"]
mod tests;
