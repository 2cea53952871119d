use model::{Cursor, Digest, Epoch};
use uuid::Uuid;

use super::*;

const SCOPE: ScopeRef = ScopeRef(Uuid::from_u128(1));

fn ann() -> UserId {
    UserId::new("ann").unwrap()
}

fn at(head: u64) -> Glance {
    let head = Cursor::new(head).unwrap();
    let epoch = Epoch(Uuid::nil());
    let (floor, digest) = (Cursor::ZERO, Digest::EMPTY);
    let summary = Summary { head, floor, count: 0, digest, epoch, rebuilds: 0 };
    Glance { exists: true, member: Some(Some(Role::Member)), summary }
}

fn commit(head: u64) -> Committed {
    let heading = Heading { exists: true, head: Cursor::new(head).unwrap(), ..Heading::default() };
    Committed { scopes: vec![(SCOPE, heading)], ..Committed::default() }
}

fn remembering(head: u64) -> Memory {
    let memory = Memory::default();
    memory.remember(SCOPE, &ann(), memory.generation(SCOPE), at(head));
    assert_eq!(memory.glance(SCOPE, &ann()), Some(at(head)));
    memory
}

#[test]
fn a_commit_moves_what_is_remembered() {
    let memory = remembering(1);
    memory.committing(&commit(2));
    memory.committed(&commit(2));
    assert_eq!(memory.glance(SCOPE, &ann()), Some(at(2)));
}

#[test]
fn nothing_is_answered_while_a_commit_is_under_way() {
    let memory = remembering(1);
    memory.committing(&commit(2));
    assert_eq!(memory.glance(SCOPE, &ann()), None);
}

#[test]
fn of_two_commits_under_way_in_a_shard_one_is_not_the_other() {
    let memory = remembering(1);
    let mut others = (2..).map(|n| ScopeRef(Uuid::from_u128(n)));
    let neighbour = others.find(|other| place(*other) == place(SCOPE)).unwrap();
    let other = Committed { scopes: vec![(neighbour, Heading::default())], ..commit(1) };
    memory.committing(&commit(2));
    memory.committing(&other);
    memory.committed(&other);
    assert_eq!(memory.glance(SCOPE, &ann()), None, "its own commit is under way still");
    memory.committed(&commit(2));
    assert_eq!(memory.glance(SCOPE, &ann()), Some(at(2)));
}

#[test]
fn a_page_from_before_or_during_a_commit_is_not_remembered_after_it() {
    let memory = Memory::default();
    let before = memory.generation(SCOPE);
    memory.committing(&commit(2));
    let during = memory.generation(SCOPE);
    memory.remember(SCOPE, &ann(), during, at(1));
    memory.committed(&commit(2));
    memory.remember(SCOPE, &ann(), before, at(1));
    memory.remember(SCOPE, &ann(), during, at(1));
    assert_eq!(memory.glance(SCOPE, &ann()), None);
}

#[test]
fn a_commit_whose_answer_was_lost_is_forgotten_with_all_before_it() {
    let memory = remembering(1);
    let before = memory.generation(SCOPE);
    memory.committing(&commit(2));
    memory.forget();
    memory.remember(SCOPE, &ann(), before, at(1));
    assert_eq!(memory.glance(SCOPE, &ann()), None);
    memory.remember(SCOPE, &ann(), memory.generation(SCOPE), at(2));
    assert_eq!(memory.glance(SCOPE, &ann()), Some(at(2)));
}

#[test]
fn a_refused_commit_leaves_what_is_remembered() {
    let memory = remembering(1);
    memory.committing(&commit(2));
    memory.refused(&commit(2));
    assert_eq!(memory.glance(SCOPE, &ann()), Some(at(1)));
}

#[test]
fn a_removed_member_is_asked_for_anew() {
    let memory = remembering(1);
    let mut removed = commit(1);
    removed.members.push((SCOPE, ann()));
    memory.committing(&removed);
    memory.committed(&removed);
    assert_eq!(memory.glance(SCOPE, &ann()), None);
}

#[test]
fn what_another_than_the_projector_moved_is_asked_for_anew() {
    let memory = remembering(1);
    let before = memory.generation(SCOPE);
    memory.forget_scopes(&commit(2));
    assert_eq!(memory.glance(SCOPE, &ann()), None);
    memory.remember(SCOPE, &ann(), before, at(1));
    assert_eq!(memory.glance(SCOPE, &ann()), None, "what was asked before is older");
    memory.remember(SCOPE, &ann(), memory.generation(SCOPE), at(2));
    assert_eq!(memory.glance(SCOPE, &ann()), Some(at(2)));
}
