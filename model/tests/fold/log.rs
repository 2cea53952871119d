//! The fold of a whole log: partitions, dead letters, rules; and outcomes as they are stored.

use model::{
    Action, Command, CommandId, Event, LogFold, Offset, OrgRole, Outcome, Partition, Place,
    PushAnswer, RequestHash, RulesVersion, ScopeKey, Timestamp, UnknownRules, UserId, Verdict,
};
use uuid::Uuid;

fn place(partition: u32, offset: u64) -> Place {
    Place { partition: Partition::new(partition), offset: Offset::new(offset).unwrap() }
}

fn create(scope: &str) -> Command {
    Command {
        id: CommandId(Uuid::from_u128(1)),
        scope: scope.parse().unwrap(),
        actor: UserId::new("ann").unwrap(),
        org_role: OrgRole::Member,
        device: None,
        request_hash: RequestHash::of(&[b"a", b"b"]),
        action: Action::ScopeCreated,
    }
}

const KEY: &str = "acme/team/t";

#[test]
fn dead_letters_block_nothing_but_pass_time() {
    let mut log = LogFold::default();
    let event = Event::Command(create(KEY));
    let at = Timestamp::from_millis;
    assert!(log.apply(place(0, 0), at(9), b"garbage", None).unwrap().is_none());
    assert!(log.apply(place(0, 1), at(5), b"acme/team/u", Some(&event)).unwrap().is_none());
    let users = Event::Command(create("acme/user/ann"));
    assert!(log.apply(place(0, 2), at(5), b"acme/user/ann", Some(&users)).unwrap().is_none());
    assert!(log.scopes.is_empty());
    assert_eq!(log.dead_letters, [place(0, 0), place(0, 1), place(0, 2)]);
    let applied = log.apply(place(0, 3), at(5), KEY.as_bytes(), Some(&event)).unwrap().unwrap();
    assert!(!applied.repeated);
    assert_eq!(applied.outcome.folded_at, at(9));
}

#[test]
fn each_partition_has_a_time_of_its_own() {
    let mut log = LogFold::default();
    let at = Timestamp::from_millis;
    log.apply(place(0, 0), at(9), b"", Some(&Event::Tick)).unwrap();
    log.apply(place(1, 0), at(5), KEY.as_bytes(), Some(&Event::Command(create(KEY)))).unwrap();
    assert_eq!(log.scopes[&KEY.parse::<ScopeKey>().unwrap()].scope.heading.clock, at(5));
    assert_eq!(log.partitions[&Partition::new(0)].time, at(9));
}

#[test]
fn a_scope_s_clock_does_not_go_back_whatever_time_it_is_given() {
    let mut log = LogFold::default();
    let at = Timestamp::from_millis;
    log.apply_command(&create(KEY), at(9)).unwrap();
    let other = Command { id: CommandId(Uuid::from_u128(2)), ..create(KEY) };
    assert_eq!(log.apply_command(&other, at(5)).unwrap().outcome.folded_at, at(9));
}

#[test]
fn rules_that_this_build_does_not_know_stop_it_in_its_place() {
    let mut log = LogFold::default();
    let known = Event::RulesChanged { version: RulesVersion::CURRENT };
    log.apply(place(0, 0), Timestamp::from_millis(1), b"", Some(&known)).unwrap();
    let before = log.partitions[&Partition::new(0)];
    let version = RulesVersion(RulesVersion::CURRENT.0 + 1);
    let later = Event::RulesChanged { version };
    let stopped = log.apply(place(0, 1), Timestamp::from_millis(2), b"", Some(&later));
    assert_eq!(stopped.unwrap_err(), UnknownRules(version));
    assert_eq!(log.partitions[&Partition::new(0)], before);
}

#[test]
fn outcomes_come_back_from_their_json() {
    let scope: ScopeKey = KEY.parse().unwrap();
    let mut log = LogFold::default();
    let outcome = log.apply_command(&create(KEY), Timestamp::from_micros(1)).unwrap().outcome;
    let push = PushAnswer::new(
        CommandId(Uuid::from_u128(2)),
        Timestamp::from_micros(1),
        model::Cursor::ZERO,
        model::Cursor::ZERO,
        vec![],
    );
    let pushed = Outcome { verdict: Verdict::Pushed(push), ..(*outcome).clone() };
    for outcome in [(*outcome).clone(), pushed] {
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), outcome, "{json}");
    }
    assert!(log.scopes[&scope].scope.heading.exists);
}
