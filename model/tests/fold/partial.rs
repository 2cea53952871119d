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
    part_behind(whole, None, key, commands)
}

/// The same out of an earlier state, before the commands that made `changed`.
pub(crate) fn part_behind(
    earlier: Option<&FoldedScope>,
    changed: Option<&Scope>,
    key: &ScopeKey,
    commands: &[&Command],
) -> Scope {
    let nothing = Scope::new(key.clone());
    let earlier = earlier.map_or(&nothing, |folded| &folded.scope);
    let mut messages = Vec::new();
    let mut users = Vec::new();
    for command in commands {
        let touched = Touched::by(command);
        messages.extend(touched.contents.iter().filter_map(|hash| earlier.live.get(hash)));
        messages.extend(touched.messages);
        users.extend(touched.users);
    }
    let mut part = earlier.part(messages, users, commands.iter().map(|command| command.id));
    if let Some(changed) = changed {
        part.overlay(changed);
    }
    let written = commands.iter().flat_map(|command| Touched::written(command)).collect();
    for command in commands {
        for id in Touched::again(command, &part, &written) {
            if let Some(entry) = earlier.messages.get(&id) {
                part.insert(id, entry.clone());
            }
        }
    }
    if let Some(changed) = changed {
        part.overlay(changed);
    }
    part
}
