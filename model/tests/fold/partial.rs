//! The part of a state that some commands touch: folding them needs no more, which the projector relies on.

use model::{
    Applied, Changed, Command, Cursor, Later, Outcome, Scope, ScopeKey, Touched, Unappliable,
    UserId, log_fold::FoldedScope,
};

pub(crate) type Gist<'a> =
    Option<(&'a Outcome, bool, &'a [Changed], Option<&'a UserId>, Option<Cursor>)>;

/// What folding a command did, to compare.
pub(crate) fn gist(applied: &Result<Applied, Unappliable>) -> Gist<'_> {
    let applied = applied.as_ref().ok()?;
    let Applied { outcome, repeated, changes, member, floor, .. } = applied;
    Some((outcome, *repeated, changes, member.as_ref(), *floor))
}

/// What a projector would load for some commands, out of the whole state.
pub(crate) fn part(whole: Option<&FoldedScope>, key: &ScopeKey, commands: &[&Command]) -> Scope {
    Loads { first: whole, second: whole, changed: None }.part(key, commands)
}

/// The states that a projector loads from while the commands before are being committed.
pub(crate) struct Loads<'a> {
    pub(crate) first: Option<&'a FoldedScope>,
    /// For [`Touched::again`]: as `first`, or after the commit.
    pub(crate) second: Option<&'a FoldedScope>,
    /// What the commands before changed.
    pub(crate) changed: Option<&'a Later>,
}

impl Loads<'_> {
    pub(crate) fn part(&self, key: &ScopeKey, commands: &[&Command]) -> Scope {
        let nothing = Scope::new(key.clone());
        let first = self.first.map_or(&nothing, |folded| &folded.scope);
        let mut messages = Vec::new();
        let mut users = Vec::new();
        for command in commands {
            let touched = Touched::by(command);
            messages.extend(touched.contents.iter().filter_map(|hash| first.live.get(hash)));
            messages.extend(touched.messages);
            users.extend(touched.users);
        }
        let mut part = first.part(messages, users, commands.iter().map(|command| command.id));
        self.overlay(&mut part);
        let second = self.second.map_or(&nothing, |folded| &folded.scope);
        let written = commands.iter().flat_map(|command| Touched::written(command)).collect();
        for command in commands {
            for id in Touched::again(command, &part, &written) {
                if let Some(entry) = second.messages.get(&id) {
                    part.insert(id, entry.clone());
                }
            }
        }
        self.overlay(&mut part);
        part
    }

    fn overlay(&self, part: &mut Scope) {
        if let Some(changed) = self.changed {
            part.overlay(changed);
        }
    }
}
