//! What must be true of any state, however it came about: everything a heading sums up, recomputed.

use std::collections::HashSet;

use model::{Digest, Outcome, Role, Status, Verdict, log_fold::FoldedScope};

pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(
    what: &str,
    got: T,
    expected: T,
) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what} is {got:?}, should be {expected:?}")) }
}

pub(crate) fn check(folded: &FoldedScope) -> Result<(), String> {
    let (scope, heading) = (&folded.scope, &folded.scope.heading);
    let live = || scope.messages.iter().filter(|(_, entry)| entry.is_live());

    let mut digest = Digest::EMPTY;
    live().for_each(|(id, entry)| digest.add(entry.version.item(*id)));
    expect("digest", heading.digest, digest)?;
    expect("count", heading.count, live().count() as u64)?;
    expect("bytes", heading.bytes, live().map(|(_, entry)| entry.bytes).sum())?;

    let contents: HashSet<_> = live().map(|(_, entry)| entry.content_hash).collect();
    expect("live contents", contents.len(), live().count())?;
    expect("contents kept", scope.live.len(), contents.len())?;
    for (hash, id) in &scope.live {
        let entry = scope.messages.get(id).filter(|entry| entry.is_live());
        expect("content of a live message", entry.map(|entry| entry.content_hash), Some(*hash))?;
    }

    let cursors: HashSet<_> = scope.messages.values().map(|entry| entry.cursor).collect();
    expect("cursors", cursors.len(), scope.messages.len())?;
    let beyond = cursors.iter().any(|c| c.get() == 0 || *c > heading.head);
    expect("a cursor out of 1 ..= head", beyond, false)?;

    expect("a floor above the head", heading.floor > heading.head, false)?;
    let forgotten = |entry: &model::Entry| !entry.is_live() && entry.cursor <= heading.floor;
    let kept = scope.messages.values().any(forgotten);
    expect("a tombstone that has expired", kept, false)?;

    let owner = |role: &Option<Role>| *role == Some(Role::Owner);
    let owners = scope.members.values().filter(|member| owner(&member.role)).count();
    expect("owners", heading.owners as usize, owners)?;
    let ownerless = scope.key.kind.has_members() && heading.exists && owners == 0;
    expect("a team or project without owner", ownerless, false)?;

    for (id, message) in &folded.messages {
        expect("entry of a message", Some(&message.entry), scope.messages.get(id))?;
        expect("a body of a live message", message.body.is_some(), message.entry.is_live())?;
    }
    expect("messages", folded.messages.len(), scope.messages.len())?;
    scope.commands.values().try_for_each(|known| check_outcome(&known.outcome))
}

/// The sums of an answer.
fn check_outcome(outcome: &Outcome) -> Result<(), String> {
    let Verdict::Pushed(answer) = &outcome.verdict else { return Ok(()) };
    let sums = answer.synced + answer.skipped + answer.rejected;
    expect("results", answer.results.len(), sums as usize)?;
    let moved = answer.cursor.get() - answer.previous_cursor.get();
    expect("the way of the head", moved, u64::from(answer.synced))?;
    let synced = answer.results.iter().filter(|result| result.status.is_synced());
    let cursors: Vec<_> = synced.filter_map(|result| Some(result.cursor?.get())).collect();
    let dense: Vec<_> = (answer.previous_cursor.get() + 1..=answer.cursor.get()).collect();
    expect("cursors of a push", cursors, dense)?;
    let invalid = answer.results.iter().filter(|result| result.status == Status::Invalid).count();
    expect("rejected", answer.rejected as usize, invalid)
}
