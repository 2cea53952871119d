use axum::response::IntoResponse;
use clap::Parser;
use governor::clock::FakeRelativeClock;
use model::OrgRole;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rates(device: u32, user: u32, tenant: u32) -> (Rates<FakeRelativeClock>, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    let config = RateConfig {
        device_requests_per_second: device,
        user_requests_per_second: user,
        tenant_requests_per_second: tenant,
    };
    (Rates::with_clock(&config, clock.clone()), clock)
}

fn caller(tenant: &str, user: &str) -> Caller {
    Caller {
        tenant: TenantId::new(tenant).unwrap(),
        user: UserId::new(user).unwrap(),
        org_role: OrgRole::Member,
    }
}

/// Of so many requests at once, how many are taken.
fn taken(rates: &Rates<FakeRelativeClock>, who: (&str, &str, &str), requests: u32) -> u32 {
    let (tenant, user, device) = who;
    let (caller, device) = (caller(tenant, user), DeviceId::new(device).unwrap());
    (0..requests).map(|_| u32::from(rates.count(&caller, Some(&device)).is_ok())).sum()
}

#[test]
fn sync_006_a_rate_has_bursts_of_twice_and_comes_back_steadily() {
    let (rates, clock) = rates(5, 0, 0);
    let ann = ("acme", "ann", "laptop");
    assert_eq!(taken(&rates, ann, 100), 10, "a burst");
    for _ in 0..3 {
        clock.advance(SECOND);
        assert_eq!(taken(&rates, ann, 100), 5, "a second's worth");
    }
    clock.advance(SECOND / 5);
    assert_eq!(taken(&rates, ann, 100), 1, "one comes back at a time");
    clock.advance(1000 * SECOND);
    assert_eq!(taken(&rates, ann, 100), 10, "never more than a burst");
}

#[test]
fn sync_006_each_has_a_bucket_of_its_own() {
    // Whose requests come first, and how many of the second's five are taken.
    let table = [
        ((10, 0, 0), ("acme", "ann", "laptop"), ("acme", "ann", "phone"), 5),
        ((10, 0, 0), ("acme", "ann", "laptop"), ("acme", "bob", "laptop"), 5),
        ((10, 0, 0), ("acme", "ann", "laptop"), ("globex", "ann", "laptop"), 5),
        ((0, 10, 0), ("acme", "ann", "laptop"), ("acme", "ann", "phone"), 0),
        ((0, 10, 0), ("acme", "ann", "laptop"), ("acme", "bob", "laptop"), 5),
        ((0, 10, 0), ("acme", "ann", "laptop"), ("globex", "ann", "laptop"), 5),
        ((0, 0, 10), ("acme", "ann", "laptop"), ("acme", "bob", "phone"), 0),
        ((0, 0, 10), ("acme", "ann", "laptop"), ("globex", "ann", "laptop"), 5),
        // No two names are one when they are put together.
        ((10, 10, 10), ("a", "b|c", "d"), ("a|b", "c", "d"), 5),
        ((10, 10, 0), ("a", "b", "c|d"), ("a", "b|c", "d"), 5),
    ];
    for ((device, user, tenant), first, second, expected) in table {
        let (rates, _) = rates(device, user, tenant);
        assert_eq!(taken(&rates, first, 100), 20, "{first:?}");
        assert_eq!(taken(&rates, second, 5), expected, "{first:?}, then {second:?}");
    }
}

#[test]
fn sync_006_what_a_device_sends_in_vain_is_not_taken_from_the_others() {
    let (rates, _) = rates(1, 10, 100);
    assert_eq!(taken(&rates, ("acme", "ann", "storm"), 100_000), 2);
    assert_eq!(taken(&rates, ("acme", "ann", "laptop"), 2), 2, "its user's other device");
    for device in 0..50 {
        taken(&rates, ("acme", "ann", &format!("d{device}")), 2);
    }
    assert_eq!(taken(&rates, ("acme", "bob", "laptop"), 2), 2, "its tenant's other user");
}

#[test]
fn sync_006_zero_turns_a_limit_off_and_no_device_has_none() {
    let (none, _) = rates(0, 0, 0);
    assert_eq!(taken(&none, ("acme", "ann", "laptop"), 100_000), 100_000);
    let (rates, _) = rates(1, 3, 0);
    let ann = caller("acme", "ann");
    let passed = (0..10).filter(|_| rates.count(&ann, None).is_ok()).count();
    assert_eq!(passed, 6, "only the user's limit counts");
}

#[test]
fn sync_006_says_what_the_limit_is_and_when_to_come_back() {
    let (rates, clock) = rates(50, 200, 2_000);
    let (ann, laptop) = (caller("acme", "ann"), DeviceId::new("laptop").unwrap());
    let problem = (0..).find_map(|_| rates.admit(&ann, Some(&laptop)).err()).unwrap();
    assert_eq!((problem.code(), problem.status().as_u16()), ("SYNC_006", 429));
    assert!(problem.detail().starts_with("device_requests_per_second is 50, with bursts of 100"));
    let response = problem.into_response();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("retry-after"), "1");
    assert_eq!(header("ratelimit"), r#""device";r=0;t=1"#);
    let policy = r#""device";q=100;w=2, "user";q=400;w=2, "tenant";q=4000;w=2"#;
    assert_eq!(header("ratelimit-policy"), policy);
    // Who waits as told is taken.
    clock.advance(SECOND);
    assert!(rates.admit(&ann, Some(&laptop)).is_ok());
}

#[test]
fn sync_006_nobody_is_told_to_wait_for_nothing() {
    let (rates, _) = rates(50, 0, 0);
    // Room came between the count and the look at the clock.
    for (wait, seconds) in [(Duration::ZERO, "1"), (Duration::from_nanos(1), "1"), (SECOND, "1")] {
        let exceeded = Exceeded { level: DEVICE, per_second: 50, wait };
        let response = rates.problem(&exceeded).into_response();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("retry-after"), seconds);
        assert_eq!(header("ratelimit"), format!(r#""device";r=0;t={seconds}"#));
    }
}

#[test]
fn sync_006_who_is_idle_is_forgotten() {
    let (rates, clock) = rates(1, 10, 100);
    for user in 0..100 {
        taken(&rates, ("acme", &format!("u{user}"), "laptop"), 1);
    }
    let known = || {
        let (device, user) = (rates.device.as_ref().unwrap(), rates.user.as_ref().unwrap());
        let tenant = rates.tenant.as_ref().unwrap();
        [device.limiter.len(), user.limiter.len(), tenant.limiter.len()]
    };
    assert_eq!(known(), [100, 100, 1]);
    rates.forget_idle(true);
    assert_eq!(known(), [100, 100, 1], "their buckets are not full yet");
    clock.advance(2 * SECOND);
    taken(&rates, ("acme", "ann", "laptop"), 1);
    rates.forget_idle(true);
    assert_eq!(known(), [1, 1, 1]);
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    rates: RateConfig,
}

#[test]
fn the_flags_defaults_are_the_defaults() {
    assert_eq!(Command::parse_from(["x"]).rates, RateConfig::default());
    let off = ["device", "user", "tenant"].map(|level| format!("--{level}-requests-per-second=0"));
    let off = Command::parse_from(["x".to_owned()].into_iter().chain(off)).rates;
    assert_eq!(off, RateConfig::OFF);
}
