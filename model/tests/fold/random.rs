//! Random logs. Few scopes, users, ids, contents and times, so that everything collides.

use model::{
    Action, BackupId, Body, Change, Command, CommandId, ContentHash, Cursor, DeviceId, InvalidCode,
    MessageId, MessageType, Metadata, OrgRole, PushedChange, Rejected, RequestHash, Role, ScopeKey,
    Timestamp, UserId, log_fold::LogFold,
};
use proptest::{collection::vec, option, prelude::*, strategy::Union};
use uuid::Uuid;

use crate::table::write;

/// A command, and the running maximum of append times at its place.
pub(crate) type Record = (Timestamp, Command);

const SCOPES: [(u32, &str); 5] = [
    (3, "acme/user/ann"),
    (6, "acme/team/t"),
    (2, "acme/project/p"),
    (1, "acme/org/acme"),
    (1, "other/team/t"),
];
const USERS: [(u32, &str); 4] = [(6, "ann"), (3, "bob"), (1, "cy"), (1, "dan")];
const CONTENTS: [&str; 5] = ["v", "w", "x", "y", "z"];
const START: i64 = 1_767_088_800_000_000;
const SECOND: i64 = 1_000_000;

/// Logs of up to `length` commands, some of them twice. Mostly the team and the project
/// have members from the start.
pub(crate) fn logs(length: usize) -> impl Strategy<Value = Vec<Record>> {
    let creations = prop::bool::weighted(0.8);
    (creations, vec(step(), 1..length)).prop_map(|(creations, mut steps)| {
        if creations {
            let begin =
                [What::Create, What::Set("bob", Role::Admin), What::Set("cy", Role::Member)];
            let begun = |scope| begin.clone().map(|what| Step::by_ann(scope, what));
            steps.splice(0..0, begun("acme/team/t").into_iter().chain(begun("acme/project/p")));
        }
        let mut log: Vec<Record> = Vec::new();
        let mut now = START;
        let mut time = Timestamp::EPOCH;
        let mut fold = LogFold::default();
        for (number, step) in steps.into_iter().enumerate() {
            now += step.passed;
            time = time.max(Timestamp::from_micros(now));
            let command = match step.repeat_of.and_then(|back| log.iter().rev().nth(back)) {
                Some((_, earlier)) => earlier.clone(),
                None => step.command(number, &fold),
            };
            let _ = fold.apply_command(&command, time);
            log.push((time, command));
        }
        log
    })
}

#[derive(Clone, Debug)]
struct Step {
    passed: i64,
    repeat_of: Option<usize>,
    scope: &'static str,
    actor: &'static str,
    org_role: OrgRole,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Create,
    Set(&'static str, Role),
    Remove(&'static str),
    Backup,
    /// Counted back from the head.
    Expire(i64),
    Push(Vec<Piece>),
}

#[derive(Clone, Debug)]
enum Piece {
    Invalid,
    Delete {
        id: usize,
        base: Base,
    },
    Write {
        content: &'static str,
        body: u8,
        id: Option<usize>,
        at: Option<i64>,
        base: Option<Base>,
    },
}

/// Counted back from the head before the push, so that it is often good.
type Base = i64;

fn one_of(weighted: &[(u32, &'static str)]) -> impl Strategy<Value = &'static str> + use<> {
    Union::new_weighted(weighted.iter().map(|(weight, name)| (*weight, Just(*name))).collect())
}

fn step() -> impl Strategy<Value = Step> {
    let passed = prop_oneof![
        20 => Just(0),
        20 => Just(SECOND),
        10 => Just(-5 * SECOND),
        1 => Just(86_400 * SECOND),
    ];
    let org_role = prop_oneof![
        6 => Just(OrgRole::Member),
        1 => Just(OrgRole::Admin),
        1 => Just(OrgRole::Owner),
    ];
    let user = || one_of(&USERS);
    let role = prop::sample::select(&Role::ALL[..]);
    let what = prop_oneof![
        1 => Just(What::Create),
        2 => (user(), role).prop_map(|(user, role)| What::Set(user, role)),
        1 => user().prop_map(What::Remove),
        1 => Just(What::Backup),
        2 => (-1..6_i64).prop_map(What::Expire),
        12 => vec(piece(), 0..5).prop_map(What::Push),
    ];
    let repeat_of = option::weighted(0.1, 0..6_usize);
    (passed, repeat_of, one_of(&SCOPES), user(), org_role, what).prop_map(
        |(passed, repeat_of, scope, actor, org_role, what)| Step {
            passed,
            repeat_of,
            scope,
            actor,
            org_role,
            what,
        },
    )
}

fn piece() -> impl Strategy<Value = Piece> {
    let base = || prop_oneof![6 => Just(0), 6 => -2..9_i64, 1 => Just(-i64::MAX)];
    let at = prop_oneof![4 => -3..30_i64, 1 => Just(400), 1 => Just(-90_000)];
    let content = prop::sample::select(&CONTENTS[..]);
    let write = (content, 0..3_u8, option::of(0..4_usize), option::of(at), option::of(base()))
        .prop_map(|(content, body, id, at, base)| Piece::Write { content, body, id, at, base });
    prop_oneof![
        1 => Just(Piece::Invalid),
        3 => (0..4_usize, base()).prop_map(|(id, base)| Piece::Delete { id, base }),
        9 => write,
    ]
}

impl Step {
    fn by_ann(scope: &'static str, what: What) -> Self {
        let org_role = OrgRole::Member;
        Self { passed: 0, repeat_of: None, scope, actor: "ann", org_role, what }
    }

    fn command(self, number: usize, fold: &LogFold) -> Command {
        let scope: ScopeKey = self.scope.parse().unwrap();
        let head = fold.scopes.get(&scope).map_or(0, |folded| folded.scope.heading.head.as_i64());
        let user = |name: &str| UserId::new(name).unwrap();
        let action = match self.what {
            What::Create => Action::ScopeCreated,
            What::Set(name, role) => Action::MemberSet { user: user(name), role },
            What::Remove(name) => Action::MemberRemoved { user: user(name) },
            What::Backup => {
                Action::BackupRequested { backup: BackupId(Uuid::from_u128(number as u128)) }
            }
            What::Expire(back) => {
                Action::TombstonesExpired { up_to: Cursor::from_i64(head - back) }
            }
            What::Push(pieces) => push(&scope, head, pieces),
        };
        Command {
            id: CommandId(Uuid::from_u128(number as u128)),
            scope,
            actor: user(self.actor),
            org_role: self.org_role,
            device: DeviceId::new("laptop").ok(),
            request_hash: RequestHash::of(&[]),
            action,
        }
    }
}

fn push(scope: &ScopeKey, head: i64, pieces: Vec<Piece>) -> Action {
    let (mut changes, mut rejected) = (Vec::new(), Vec::new());
    // Two ids that contents derive, others of their own.
    let id_of = |n: usize| match n {
        0 | 1 => MessageId::of_content(scope, &ContentHash::of(CONTENTS[n])),
        _ => MessageId(Uuid::from_u128(n as u128)),
    };
    let cursor = |back| Cursor::from_i64(head.saturating_sub(back));
    for (piece, index) in pieces.into_iter().zip(0..) {
        let change = match piece {
            Piece::Invalid => {
                let (code, detail) = (InvalidCode::HashMismatch, String::new());
                rejected.push(Rejected { index, code, detail });
                continue;
            }
            Piece::Delete { id, base } => {
                Change::Delete { id: id_of(id), base_cursor: cursor(base) }
            }
            Piece::Write { content, body, id, at, base } => {
                let body = Body {
                    message_type: MessageType::new(["decision", "insight"][usize::from(body % 2)])
                        .unwrap(),
                    content: content.to_owned(),
                    metadata: Metadata::from_canonical(format!("{{\"n\":{}}}", body / 2)),
                };
                let at = at.map(|seconds| Timestamp::from_micros(START + seconds * SECOND));
                Change::Write(write(body, id.map(id_of), at, base.map(cursor)))
            }
        };
        changes.push(PushedChange { index, change });
    }
    Action::MessagesPushed { changes, rejected }
}
