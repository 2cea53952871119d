//! What holds of every restore.

use std::collections::BTreeMap;

use model::{
    Action, BackupId, Command, CommandId, MessageId, OrgRole, RequestHash, RestoreId, RestoreMode,
    RestorePlace, ScopeKey, Timestamp, UserId, Verdict, Version,
    log_fold::{FoldedScope, LogFold},
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::{
    random::{Record, logs},
    restoring::{live, next_chunk},
    sums,
};

const SCOPES: [&str; 2] = ["acme/user/ann", "acme/team/t"];

/// A log in two parts, restored into where it ends from where its first part ends.
struct Story {
    fold: LogFold,
    scope: ScopeKey,
    saved: Option<FoldedScope>,
    time: Timestamp,
    commands: u128,
}

impl Story {
    fn new(log: &[Record], split: usize, scope: &str) -> Self {
        let scope: ScopeKey = scope.parse().unwrap();
        let mut fold = LogFold::default();
        let mut saved = None;
        for (number, (time, command)) in log.iter().enumerate() {
            if number == split % log.len() {
                saved = fold.scopes.get(&scope).cloned();
            }
            let _ = fold.apply_command(command, *time);
        }
        let time = log.last().unwrap().0;
        Self { fold, scope, saved, time, commands: 1 << 64 }
    }

    fn apply(&mut self, action: Action) -> Verdict {
        self.commands += 1;
        let command = Command {
            id: CommandId(Uuid::from_u128(self.commands)),
            scope: self.scope.clone(),
            actor: UserId::new("ann").unwrap(),
            org_role: OrgRole::Owner,
            device: None,
            request_hash: RequestHash::of(&[]),
            action,
        };
        let applied = self.fold.apply_command(&command, self.time).unwrap();
        sums::check(&self.fold.scopes[&self.scope]).unwrap();
        applied.outcome.verdict.clone()
    }

    fn folded(&self) -> &FoldedScope {
        &self.fold.scopes[&self.scope]
    }

    /// Whether it could begin.
    fn begin(&mut self, mode: RestoreMode) -> bool {
        let verdict = self.apply(Action::RestoreRequested {
            restore: RestoreId(Uuid::from_u128(self.commands)),
            mode,
            backup: BackupId(Uuid::nil()),
            source: Box::new(self.scope.clone()),
        });
        matches!(verdict, Verdict::RestoreRequested { .. })
    }

    /// Does the rest of the running restore, in chunks of these sizes, and says what it came to.
    fn finish(&mut self, sizes: &[usize]) -> model::RestoreCounts {
        let total = live(self.saved.as_ref()).len() as u64;
        for size in sizes.iter().cycle() {
            let running = self.folded().scope.heading.restore.clone().unwrap();
            if running.place >= RestorePlace::Puts(total) {
                let (restore, from) = (running.id, running.place);
                self.apply(Action::RestoreCompleted { restore, from });
                return running.counts;
            }
            let chunk = next_chunk(Some(self.folded()), self.saved.as_ref(), *size);
            assert_eq!(self.apply(Action::RestoreChunk(Box::new(chunk))), Verdict::RestoreStep);
        }
        unreachable!()
    }

    fn versions(&self) -> BTreeMap<MessageId, Version> {
        let live = live(Some(self.folded())).into_iter();
        live.map(|message| (message.id, message.entry.version)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn an_undisturbed_replace_shows_what_the_backup_shows(
        log in logs(40), split in 0..40_usize, scope in 0..2_usize, size in 1..6_usize,
    ) {
        let mut story = Story::new(&log, split, SCOPES[scope]);
        prop_assume!(story.begin(RestoreMode::Replace));
        let counts = story.finish(&[size]);
        let heading = &story.folded().scope.heading;
        let saved = story.saved.as_ref().map(|saved| saved.scope.heading.clone());
        let saved = saved.unwrap_or_default();
        prop_assert_eq!((heading.count, heading.digest), (saved.count, saved.digest));
        prop_assert_eq!(counts.restored + counts.skipped, saved.count);
        prop_assert_eq!(&heading.restore, &None);
    }

    /// It has no use for the backup's tombstones: what lives goes on living, in its version or a greater one.
    #[test]
    fn a_merge_takes_nothing_away(
        log in logs(40), split in 0..40_usize, scope in 0..2_usize, size in 1..6_usize,
    ) {
        let mut story = Story::new(&log, split, SCOPES[scope]);
        prop_assume!(story.begin(RestoreMode::Merge));
        let before = story.versions();
        let counts = story.finish(&[size]);
        let after = story.versions();
        for (id, version) in &before {
            prop_assert!(after.get(id).is_some_and(|after| after >= version), "{}", id);
        }
        prop_assert_eq!(counts.deleted, 0);
        prop_assert!(after.len() >= before.len() && after.len() as u64 <= before.len() as u64 + counts.restored);
    }

    #[test]
    fn chunks_of_any_size_come_to_the_same(
        log in logs(40), split in 0..40_usize, scope in 0..2_usize, replace: bool,
        sizes in prop::collection::vec(1..5_usize, 1..6),
    ) {
        let mode = if replace { RestoreMode::Replace } else { RestoreMode::Merge };
        let mut whole = Story::new(&log, split, SCOPES[scope]);
        prop_assume!(whole.begin(mode));
        let mut parts = Story::new(&log, split, SCOPES[scope]);
        parts.begin(mode);
        prop_assert_eq!(whole.finish(&[1_000]), parts.finish(&sizes));
        prop_assert_eq!(whole.versions(), parts.versions());
        let (whole, parts) = (&whole.folded().scope.heading, &parts.folded().scope.heading);
        prop_assert_eq!((whole.head, whole.digest), (parts.head, parts.digest));
    }

    #[test]
    fn a_second_restore_changes_nothing(
        log in logs(40), split in 0..40_usize, scope in 0..2_usize, replace: bool,
    ) {
        let mode = if replace { RestoreMode::Replace } else { RestoreMode::Merge };
        let mut story = Story::new(&log, split, SCOPES[scope]);
        prop_assume!(story.begin(mode));
        story.finish(&[7]);
        let (versions, head) = (story.versions(), story.folded().scope.heading.head);
        story.begin(mode);
        let counts = story.finish(&[3]);
        prop_assert_eq!((counts.restored, counts.deleted), (0, 0));
        prop_assert_eq!((story.versions(), story.folded().scope.heading.head), (versions, head));
    }

    /// Nothing that was pushed after it began is lost, and nothing of it is done twice.
    #[test]
    fn pushes_during_a_restore_are_kept(
        log in logs(60), split in 0..20_usize, begin in 20..40_usize, scope in 0..2_usize, replace: bool,
    ) {
        let mode = if replace { RestoreMode::Replace } else { RestoreMode::Merge };
        let (before, during) = log.split_at(begin.min(log.len() - 1).max(1));
        let mut story = Story::new(before, split, SCOPES[scope]);
        prop_assume!(story.begin(mode));
        let at = story.folded().scope.heading.head;
        for (time, command) in during {
            story.time = story.time.max(*time);
            let _ = story.fold.apply_command(command, story.time);
            // An erasure ends it.
            let Some(running) = story.folded().scope.heading.restore.clone() else {
                return Ok(());
            };
            let chunk = next_chunk(Some(story.folded()), story.saved.as_ref(), 1);
            if chunk.to > running.place {
                let pushed: Vec<_> = live(Some(story.folded()))
                    .into_iter()
                    .filter(|message| message.entry.cursor > at && !restored(&story, message.id))
                    .collect();
                story.apply(Action::RestoreChunk(Box::new(chunk)));
                for message in pushed {
                    prop_assert_eq!(
                        story.folded().messages.get(&message.id), Some(&message)
                    );
                }
            }
        }
        story.finish(&[2]);
    }
}

/// Whether the restore itself may have made the message's live version.
fn restored(story: &Story, id: MessageId) -> bool {
    live(story.saved.as_ref()).iter().any(|saved| saved.id == id)
}
