//! The part of a state that some commands touch: folding them needs no more, which the projector relies on.

use model::{
    Applied, Changed, Command, Outcome, Scope, ScopeKey, Touched, Unappliable, UserId,
    log_fold::FoldedScope,
};

pub(crate) type Gist<'a> = Option<(&'a Outcome, bool, &'a [Changed], Option<&'a UserId>)>;

/// What folding a command did, to compare.
pub(crate) fn gist(applied: &Result<Applied, Unappliable>) -> Gist<'_> {
    let applied = applied.as_ref().ok()?;
    Some((&applied.outcome, applied.repeated, &applied.changes, applied.member.as_ref()))
}

/// What a projector would load for some commands, out of the whole state.
pub(crate) fn part(whole: Option<&FoldedScope>, key: &ScopeKey, commands: &[&Command]) -> Scope {
    let mut part = Scope::new(key.clone());
    let Some(FoldedScope { scope: whole, .. }) = whole else { return part };
    part.heading = whole.heading.clone();
    for command in commands {
        let touched = Touched::by(command);
        let by_content = touched.contents.iter().filter_map(|hash| whole.live.get(hash));
        for id in touched.messages.iter().chain(by_content) {
            if let Some(entry) = whole.messages.get(id) {
                part.insert(*id, entry.clone());
            }
        }
        for user in touched.users {
            if let Some(member) = whole.members.get(&user) {
                part.members.insert(user, *member);
            }
        }
        if let Some(known) = whole.commands.get(&command.id) {
            part.commands.insert(command.id, known.clone());
        }
    }
    let written = commands.iter().flat_map(|command| Touched::written(command)).collect();
    for command in commands {
        for id in Touched::again(command, &part, &written) {
            if let Some(entry) = whole.messages.get(&id) {
                part.insert(id, entry.clone());
            }
        }
    }
    part
}
