//! WF-CS-001 to 006 and 011 of the founding document: its requests, answers and tables.

use model::{
    Action, Change, Command, CommandId, Cursor, Limits, OrgRole, PushedChange, RequestHash, Role,
    ScopeKey, ScopeKind, Standing, Timestamp, UserId, Verdict, draft::parse_change,
    log_fold::LogFold,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{pull::pull, table};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

fn command(scope: &ScopeKey, actor: &str, number: u128, action: Action) -> Command {
    Command {
        id: CommandId(Uuid::from_u128(number)),
        scope: scope.clone(),
        actor: user(actor),
        org_role: OrgRole::Member,
        device: Some(model::DeviceId::new("device-uuid-123").unwrap()),
        request_hash: RequestHash::of(&[]),
        action,
    }
}

fn push_of(json: &str) -> Action {
    let change = parse_change(json, &Limits::CONTRACT).unwrap();
    Action::MessagesPushed { changes: vec![PushedChange { index: 0, change }], rejected: vec![] }
}

const DECISION: &str = r#"{
    "type": "decision",
    "content": "Use PostgreSQL RLS for tenant isolation",
    "metadata": {"source": "session-abc", "timestamp": "2025-12-30T10:00:00Z"}
}"#;

#[test]
fn wf_cs_001_user_context_push() {
    let scope: ScopeKey = "acme/user/ann".parse().unwrap();
    let mut log = LogFold::default();
    let push = command(&scope, "ann", 1, push_of(DECISION));
    let applied = log.apply_command(&push, at("2025-12-30T10:00:01Z")).unwrap();
    let Verdict::Pushed(answer) = &applied.outcome.verdict else { panic!("{applied:?}") };
    let answer = serde_json::to_value(answer).unwrap();
    for (key, value) in [
        ("synced", json!(1)),
        ("skipped", json!(0)),
        ("cursor", json!(1)),
        ("timestamp", json!("2025-12-30T10:00:01Z")),
        ("rejected", json!(0)),
        ("previous_cursor", json!(0)),
        ("push_id", json!("00000000-0000-0000-0000-000000000001")),
    ] {
        assert_eq!(answer[key], value, "{key}");
    }
    assert_eq!(
        answer["results"][0],
        json!({
            "index": 0, "status": "created", "cursor": 1, "updated_at": "2025-12-30T10:00:00Z",
            "id": model::MessageId::of_content(&scope, &content_hash()).to_string(),
        })
    );
}

fn content_hash() -> model::ContentHash {
    model::ContentHash::of("Use PostgreSQL RLS for tenant isolation")
}

#[test]
fn wf_cs_002_user_context_pull() {
    let scope: ScopeKey = "acme/user/ann".parse().unwrap();
    let mut log = LogFold::default();
    log.apply_command(&command(&scope, "ann", 1, push_of(DECISION)), at("2025-12-30T10:00:01Z"))
        .unwrap();
    let page = pull(&log.scopes[&scope], Cursor::ZERO, 100);
    assert_eq!((page.messages.len(), page.cursor.get(), page.has_more), (1, 1, false));
    let message: Value = serde_json::from_str(&page.messages[0].to_json()).unwrap();
    for (key, value) in [
        ("type", json!("decision")),
        ("content", json!("Use PostgreSQL RLS for tenant isolation")),
        ("content_hash", json!(content_hash().to_string())),
        ("metadata", json!({"source": "session-abc", "timestamp": "2025-12-30T10:00:00Z"})),
        ("created_at", json!("2025-12-30T10:00:00Z")),
    ] {
        assert_eq!(message[key], value, "{key}");
    }
}

#[test]
fn wf_cs_003_team_context_push() {
    permissions(ScopeKind::Team, include_str!("WF-CS-003.txt"));
}

#[test]
fn wf_cs_004_team_context_pull() {
    let scope: ScopeKey = "acme/team/backend".parse().unwrap();
    let pattern = r#"{"type": "pattern", "content": "Always validate input at API boundaries",
        "updated_at": "2025-12-30T09:00:00Z"}"#;
    let mut log = LogFold::default();
    let time = at("2025-12-30T10:00:00Z");
    log.apply_command(&command(&scope, "user-uuid-456", 1, Action::ScopeCreated), time).unwrap();
    log.apply_command(&command(&scope, "user-uuid-456", 2, push_of(pattern)), time).unwrap();
    let page = pull(&log.scopes[&scope], Cursor::ZERO, 100);
    let message: Value = serde_json::from_str(&page.messages[0].to_json()).unwrap();
    assert_eq!(message["type"], "pattern");
    assert_eq!(message["contributed_by"], "user-uuid-456");
    assert_eq!(message["created_at"], "2025-12-30T09:00:00Z");
}

/// WF-CS-006, the pull, is the table's second column: every role of a project pulls.
#[test]
fn wf_cs_005_and_006_project_context_push_and_pull() {
    permissions(ScopeKind::Project, include_str!("WF-CS-005.txt"));
}

#[test]
fn wf_cs_011_conflict_resolution() {
    table::check("WF-CS-011.txt", include_str!("WF-CS-011.txt"));
}

/// Each row of a founding permission table, in `Standing` and, for pushes, through the fold.
fn permissions(kind: ScopeKind, text: &str) {
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let roles: Vec<_> = Role::ALL.into_iter().filter(|role| role.exists_in(kind)).collect();
    assert_eq!(rows.len(), roles.len());
    for (row, role) in rows.iter().zip(roles) {
        assert_eq!(row[0].to_lowercase(), format!("{kind} {role}"));
        let may: Vec<bool> = row[1..].iter().map(|cell| *cell == "✅").collect();
        let standing = Standing::Role(role);
        let got = [
            standing.may_push(),
            standing.may_pull(),
            standing.may_back_up(),
            standing.may_restore(),
        ];
        assert_eq!(may, got, "{row:?}");
        assert_eq!(may[0], push_is_accepted(kind, role), "{row:?}");
    }
}

fn push_is_accepted(kind: ScopeKind, role: Role) -> bool {
    let scope: ScopeKey = format!("acme/{kind}/x").parse().unwrap();
    let mut log = LogFold::default();
    let set = Action::MemberSet { user: user("bob"), role };
    let delete =
        Change::Delete { id: model::MessageId(Uuid::from_u128(1)), base_cursor: Cursor::ZERO };
    let push = Action::MessagesPushed {
        changes: vec![PushedChange { index: 0, change: delete }],
        rejected: vec![],
    };
    log.apply_command(&command(&scope, "ann", 1, Action::ScopeCreated), at("2025-12-30T10:00:00Z"))
        .unwrap();
    log.apply_command(&command(&scope, "ann", 2, set), at("2025-12-30T10:00:00Z")).unwrap();
    let applied = log.apply_command(&command(&scope, "bob", 3, push), at("2025-12-30T10:00:00Z"));
    matches!(applied.unwrap().outcome.verdict, Verdict::Pushed(_))
}
