use std::sync::{Mutex, atomic::AtomicUsize};

use model::{OrgRole, Role, ScopeKey, UserId};
use readmodel::quotas::Overrides;

use super::*;

/// Knows ann, and counts how often it is asked.
struct Ann(Arc<AtomicUsize>);

impl Ask for Ann {
    type Question = AccessQuery;
    type Answer = Account;

    async fn ask(&self, questions: &[AccessQuery]) -> Result<Vec<Account>, ReadModelError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let standing = |query: &AccessQuery| match query.user.as_str() {
            "ann" => Standing::Role(Role::Member),
            user => Standing::Stranger { former: user == "fred" },
        };
        let account = |query| Account { standing: standing(query), usage: Usage::default() };
        Ok(questions.iter().map(account).collect())
    }
}

fn query(scope: &str, user: &str, org_role: OrgRole) -> AccessQuery {
    let scope: ScopeKey = scope.parse().unwrap();
    AccessQuery { scope, user: UserId::new(user).unwrap(), org_role }
}

#[tokio::test]
async fn only_who_was_let_in_is_remembered() {
    let asked = Arc::new(AtomicUsize::new(0));
    let gate = Gate::new(Ann(asked.clone()), Quotas::default());
    let team = |user: &str| query("acme/team/t", user, OrgRole::Member);
    for (user, passes, asked_then) in
        [("ann", true, 1), ("ann", true, 1), ("bob", false, 2), ("bob", false, 3)]
    {
        let passed = gate.pass(team(user), Standing::may_push).await;
        assert_eq!((passed.is_ok(), asked.load(Ordering::SeqCst)), (passes, asked_then), "{user}");
    }
    let admins = |standing: Standing| standing.role() >= Some(Role::Admin);
    assert!(gate.pass(team("ann"), admins).await.is_err(), "allowed one thing is not all");
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn user_and_org_scopes_need_no_question() {
    let asked = Arc::new(AtomicUsize::new(0));
    let gate = Gate::new(Ann(asked.clone()), Quotas::default());
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

const QUOTAS: Quotas = Quotas {
    scope_bytes_max: 1_000,
    scope_messages_max: 100,
    tenant_bytes_max: 5_000,
    tenant_messages_max: 700,
};

/// What everybody holds; `None`: the read model cannot be asked. And how often it was asked.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<(Option<Usage>, usize)>>);

impl Held {
    /// Messages and bytes, of the scope and of the tenant.
    fn set(&self, scope: (u64, u64), tenant: (u64, u64)) {
        let ((scope_messages, scope_bytes), (tenant_messages, tenant_bytes)) = (scope, tenant);
        let overrides = Overrides::default();
        let usage = Usage { scope_messages, scope_bytes, tenant_bytes, tenant_messages, overrides };
        self.0.lock().unwrap().0 = Some(usage);
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Ask for Held {
    type Question = AccessQuery;
    type Answer = Account;

    async fn ask(&self, questions: &[AccessQuery]) -> Result<Vec<Account>, ReadModelError> {
        let mut held = self.0.lock().unwrap();
        held.1 += 1;
        let usage = held.0.ok_or(ReadModelError::NotConfigured)?;
        Ok(questions.iter().map(|_| Account { standing: Standing::Oneself, usage }).collect())
    }
}

async fn room(gate: &Gate<Held>, user: &str, messages: u64, bytes: u64) -> Result<(), Problem> {
    let query = query(&format!("acme/user/{user}"), user, OrgRole::Member);
    gate.room(query, Added { messages, bytes }, None).await
}

#[tokio::test]
async fn sync_007_the_quota_that_has_no_room_is_named() {
    // What the scope and the tenant hold, what is added, and who refuses it.
    let none = (0, 0);
    let table = [
        (none, none, (100, 1_000), None),
        (none, none, (101, 1_000), Some("scope_messages_max is 100, used are 0, sent were 101")),
        (none, none, (100, 1_001), Some("scope_bytes_max is 1000, used are 0, sent were 1001")),
        ((100, 9), (100, 9), (1, 1), Some("scope_messages_max is 100, used are 100, sent were 1")),
        ((9, 990), (9, 990), (1, 10), None),
        ((9, 990), (9, 990), (1, 11), Some("scope_bytes_max is 1000, used are 990, sent were 11")),
        ((9, 9), (9, 5_000), (1, 1), Some("tenant_bytes_max is 5000, used are 5000, sent were 1")),
        ((9, 9), (690, 9), (10, 1), None),
        ((9, 9), (690, 9), (11, 1), Some("tenant_messages_max is 700, used are 690, sent were 11")),
        // Over it already, since the quota is a new one.
        ((200, 9), (200, 9), (1, 1), Some("scope_messages_max is 100, used are 200, sent were 1")),
        ((200, 9), (800, 9_000), none, None),
    ];
    for (scope, tenant, (more, more_bytes), refused) in table {
        let held = Held::default();
        held.set(scope, tenant);
        let gate = Gate::new(held, QUOTAS);
        let problem = room(&gate, "ann", more, more_bytes).await.err();
        assert_eq!(problem.is_some(), refused.is_some(), "{problem:?}");
        if let (Some(problem), Some(refused)) = (problem, refused) {
            assert_eq!((problem.code(), problem.status().as_u16()), ("SYNC_007", 507));
            assert!(problem.detail().starts_with(refused), "{}", problem.detail());
        }
    }
}

#[tokio::test]
async fn sync_007_ample_room_is_given_without_asking_again() {
    let held = Held::default();
    held.set((0, 0), (0, 0));
    let gate = Gate::new(held.clone(), QUOTAS);
    // A sixteenth of 100 messages is 6.
    for (messages, asked) in [(1, 1), (2, 1), (3, 1), (1, 2), (5, 2), (1, 3)] {
        room(&gate, "ann", messages, 1).await.unwrap();
        assert_eq!(held.asked(), asked);
    }
    // What one scope is given of the tenant's, no other scope is.
    room(&gate, "bob", 1, 300).await.unwrap();
    room(&gate, "ann", 1, 20).await.unwrap();
    assert_eq!(held.asked(), 5, "a sixteenth of the tenant's 5,000 bytes is 312");
    let freed = room(&gate, "cy", 101, 1).await;
    assert!(freed.is_err());
    held.set((0, 0), (0, 0));
    assert!(room(&gate, "cy", 1, 1).await.is_ok(), "a refusal is not remembered");
    // A sixteenth of the 48 messages that are left to the tenant is 3.
    held.set((0, 0), (652, 0));
    let asked = held.asked();
    for (messages, more) in [(2, 1), (1, 1), (1, 2)] {
        room(&gate, "dan", messages, 1).await.unwrap();
        assert_eq!(held.asked(), asked + more);
    }
}

#[tokio::test]
async fn sync_007_what_an_operator_set_counts_and_zero_turns_a_quota_off() {
    let held = Held::default();
    held.set((1_000, 10_000), (20_000, 100_000));
    let off = Gate::new(held.clone(), Quotas::default());
    assert!(room(&off, "ann", 1 << 40, 1 << 40).await.is_ok());
    let set = |overrides| held.0.lock().unwrap().0.as_mut().unwrap().overrides = overrides;
    let gate = Gate::new(held.clone(), QUOTAS);
    set(Overrides {
        scope_messages_max: Some(0),
        scope_bytes_max: Some(0),
        tenant_messages_max: Some(0),
        tenant_bytes_max: None,
    });
    let problem = room(&gate, "ann", 1, 1).await.unwrap_err();
    assert!(problem.detail().starts_with("tenant_bytes_max is 5000"), "{problem}");
    set(Overrides { tenant_messages_max: None, ..set_off() });
    let problem = room(&gate, "ann", 1, 1).await.unwrap_err();
    assert!(problem.detail().starts_with("tenant_messages_max is 700"), "{problem}");
    set(set_off());
    assert!(room(&gate, "ann", 1 << 40, 1 << 40).await.is_ok());
    set(Overrides { scope_messages_max: Some(1_001), ..set_off() });
    assert!(room(&gate, "bob", 1, 1).await.is_ok());
    assert!(room(&gate, "bob", 2, 1).await.is_err());
}

fn set_off() -> Overrides {
    Overrides {
        scope_bytes_max: Some(0),
        scope_messages_max: Some(0),
        tenant_bytes_max: Some(0),
        tenant_messages_max: Some(0),
    }
}

#[tokio::test]
async fn sync_007_while_nobody_can_tell_what_is_held_nobody_is_held_up() {
    let held = Held::default();
    let gate = Gate::new(held.clone(), QUOTAS);
    for _ in 0..10 {
        assert!(room(&gate, "ann", 1_000, 1_000_000).await.is_ok());
    }
    assert_eq!(held.asked(), 1, "nor is each request kept waiting for a database that is down");
}

#[tokio::test]
async fn sync_007_a_team_is_asked_about_once_for_its_member_and_its_room() {
    let held = Held::default();
    held.set((99, 0), (99, 0));
    let gate = Gate::new(held.clone(), QUOTAS);
    let ann = || query("acme/team/web", "ann", OrgRole::Member);
    let usage = gate.pass(ann(), |_| true).await.unwrap();
    gate.room(ann(), Added { messages: 1, bytes: 1 }, usage).await.unwrap();
    assert_eq!(held.asked(), 1);
}

/// Of no log yet, until it is.
#[derive(Clone, Default)]
struct Early(Arc<AtomicBool>);

impl Ask for Early {
    type Question = AccessQuery;
    type Answer = Account;

    async fn ask(&self, questions: &[AccessQuery]) -> Result<Vec<Account>, ReadModelError> {
        if !self.0.load(Ordering::SeqCst) {
            return Err(ReadModelError::NotMigrated);
        }
        let usage = Usage::default();
        Ok(questions.iter().map(|_| Account { standing: Standing::Oneself, usage }).collect())
    }
}

#[tokio::test]
async fn nothing_is_let_in_before_a_read_model_is_there_and_all_once_one_was() {
    let is_there = Early::default();
    let gate = Gate::new(is_there.clone(), QUOTAS);
    let ann = || query("acme/user/ann", "ann", OrgRole::Member);
    let added = Added { messages: 1, bytes: 1 };
    for _ in 0..2 {
        let problems = [
            gate.begun(ann()).await.unwrap_err(),
            gate.room(ann(), added, None).await.unwrap_err(),
        ];
        for problem in problems {
            assert_eq!((problem.status().as_u16(), problem.code()), (503, "UNAVAILABLE"));
        }
    }
    is_there.0.store(true, Ordering::SeqCst);
    gate.begun(ann()).await.unwrap();
    // What is lost later is filled from the log as it is then.
    is_there.0.store(false, Ordering::SeqCst);
    gate.begun(ann()).await.unwrap();
    gate.room(query("acme/user/bob", "bob", OrgRole::Member), added, None).await.unwrap();
}
