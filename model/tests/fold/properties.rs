//! What holds of every log.

use std::collections::HashMap;

use model::{
    Command, Cursor, Later, MessageId, Scope, ScopeKey, Status, Verdict,
    log_fold::{FoldedScope, LogFold, images},
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};

use crate::{
    auditor::Auditor,
    partial::{Loads, gist, part},
    pull::Device,
    random::{Record, logs},
    sums::{self, expect},
};

fn fold(log: &[Record]) -> LogFold {
    let mut fold = LogFold::default();
    for (time, command) in log {
        let _ = fold.apply_command(command, *time);
    }
    fold
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() }
}

fn fail(problem: String) -> TestCaseError {
    TestCaseError::fail(problem)
}

fn same_scope(a: &Scope, b: &Scope) -> Result<(), String> {
    expect("heading", &a.heading, &b.heading)?;
    expect("messages", &a.messages, &b.messages)?;
    expect("live", &a.live, &b.live)?;
    expect("members", &a.members, &b.members)?;
    expect("commands", &a.commands, &b.commands)
}

fn same_fold(a: &LogFold, b: &LogFold) -> Result<(), String> {
    expect("scopes", a.scopes.len(), b.scopes.len())?;
    for (key, folded) in &a.scopes {
        same_scope(&folded.scope, &b.scopes[key].scope)?;
        expect("messages", &folded.messages, &b.scopes[key].messages)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_sum_is_what_it_sums_up(log in logs(60)) {
        let mut fold = LogFold::default();
        for (time, command) in &log {
            let _ = fold.apply_command(command, *time);
            if let Some(folded) = fold.scopes.get(&command.scope) {
                sums::check(folded).map_err(fail)?;
            }
        }
    }

    #[test]
    fn a_command_folded_twice_changes_nothing(log in logs(60)) {
        let mut fold = LogFold::default();
        for (time, command) in &log {
            let Ok(first) = fold.apply_command(command, *time) else { continue };
            let before = fold.clone();
            let second = fold.apply_command(command, *time).unwrap();
            prop_assert!(second.repeated && second.changes.is_empty() && second.member.is_none());
            prop_assert_eq!(first.outcome, second.outcome);
            same_fold(&before, &fold).map_err(fail)?;
        }
    }

    #[test]
    fn cursors_are_dense_and_monotonic(log in logs(60)) {
        let mut fold = LogFold::default();
        let mut heads: HashMap<ScopeKey, Cursor> = HashMap::new();
        for (time, command) in &log {
            let Ok(applied) = fold.apply_command(command, *time) else { continue };
            let head = heads.entry(command.scope.clone()).or_default();
            let mut changed: HashMap<MessageId, Cursor> = HashMap::new();
            for change in &applied.changes {
                prop_assert_eq!(change.cursor, head.next());
                *head = change.cursor;
                changed.insert(change.id, change.cursor);
            }
            let scope = &fold.scopes[&command.scope].scope;
            prop_assert_eq!(scope.heading.head, *head);
            let images = images(scope, command, &applied.changes);
            prop_assert_eq!(images.len(), changed.len());
            for (id, cursor) in changed {
                prop_assert_eq!(scope.messages[&id].cursor, cursor);
            }
        }
    }

    #[test]
    fn a_message_is_new_once_and_created_once(log in logs(60)) {
        let mut fold = LogFold::default();
        let mut created = HashMap::new();
        for (time, command) in &log {
            let Ok(applied) = fold.apply_command(command, *time) else { continue };
            // What is forgotten may come again, as if it were new.
            let left = &fold.scopes[&command.scope].scope.messages;
            if applied.floor.is_some() {
                created.retain(|(scope, id), _| *scope != command.scope || left.contains_key(id));
            }
            for change in applied.changes {
                let key = (command.scope.clone(), change.id);
                prop_assert_eq!(change.is_new, !created.contains_key(&key));
                let entry = &fold.scopes[&command.scope].scope.messages[&change.id];
                prop_assert_eq!(*created.entry(key).or_insert(entry.created_at), entry.created_at);
            }
        }
    }

    /// Also: any two folds of one log agree, though their hash maps are seeded differently.
    #[test]
    fn the_order_of_events_of_different_scopes_does_not_matter(
        log in logs(60),
        picks in vec(0..8_usize, 60),
    ) {
        let mut queues: Vec<Vec<Record>> = Vec::new();
        for record in log.iter().rev() {
            match queues.iter_mut().find(|queue| queue[0].1.scope == record.1.scope) {
                Some(queue) => queue.push(record.clone()),
                None => queues.push(vec![record.clone()]),
            }
        }
        let mut mixed = Vec::new();
        for pick in picks.into_iter().cycle() {
            queues.retain(|queue| !queue.is_empty());
            if queues.is_empty() {
                break;
            }
            let queue = pick % queues.len();
            mixed.extend(queues[queue].pop());
        }
        prop_assert_eq!(mixed.len(), log.len());
        same_fold(&fold(&log), &fold(&mixed)).map_err(fail)?;
    }

    /// The projector loads no more than this, before a batch.
    #[test]
    fn what_a_batch_touches_is_all_that_folding_it_needs(log in logs(60), sizes in vec(1..9_usize, 60)) {
        let mut whole = LogFold::default();
        let mut rest = &log[..];
        for size in sizes {
            let (batch, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let mut parts: HashMap<ScopeKey, Scope> = HashMap::new();
            for (_, Command { scope, .. }) in batch {
                let commands: Vec<_> =
                    batch.iter().map(|(_, c)| c).filter(|c| c.scope == *scope).collect();
                parts.insert(scope.clone(), part(whole.scopes.get(scope), scope, &commands));
            }
            for (time, command) in batch {
                let scope = parts.get_mut(&command.scope).unwrap();
                let in_part = scope.apply(command, *time);
                let in_whole = whole.apply_command(command, *time);
                prop_assert_eq!(gist(&in_part), gist(&in_whole));
            }
            for (key, part) in parts {
                let Some(FoldedScope { scope, .. }) = whole.scopes.get(&key) else { continue };
                prop_assert_eq!(&part.heading, &scope.heading);
                prop_assert!(part.messages.iter().all(|(id, e)| scope.messages.get(id) == Some(e)));
                prop_assert!(part.live.iter().all(|(hash, id)| scope.live.get(hash) == Some(id)));
                prop_assert!(part.members.iter().all(|(u, m)| scope.members.get(u) == Some(m)));
            }
        }
    }

    /// The projector may load a batch while the one before it commits.
    #[test]
    fn what_was_loaded_a_batch_ago_and_laid_over_is_all_it_needs(
        log in logs(60),
        sizes in vec(1..9_usize, 60),
        late in vec(any::<bool>(), 60),
    ) {
        let mut whole = LogFold::default();
        let mut earlier = LogFold::default();
        let mut changed: HashMap<ScopeKey, Later> = HashMap::new();
        let mut rest = &log[..];
        for (size, late) in sizes.into_iter().zip(late) {
            let (batch, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let mut parts: HashMap<ScopeKey, Scope> = HashMap::new();
            for (_, Command { scope, .. }) in batch {
                let commands: Vec<_> =
                    batch.iter().map(|(_, c)| c).filter(|c| c.scope == *scope).collect();
                let loads = Loads {
                    first: earlier.scopes.get(scope),
                    // The commit may come between the loads.
                    second: if late { &whole } else { &earlier }.scopes.get(scope),
                    changed: changed.get(scope),
                };
                parts.insert(scope.clone(), loads.part(scope, &commands));
            }
            earlier = whole.clone();
            let mut ids: HashMap<&ScopeKey, (Vec<_>, Vec<_>, Vec<_>)> = HashMap::new();
            for (time, command) in batch {
                let in_part = parts.get_mut(&command.scope).unwrap().apply(command, *time);
                let in_whole = whole.apply_command(command, *time);
                prop_assert_eq!(gist(&in_part), gist(&in_whole));
                let Ok(applied) = in_whole else { continue };
                let (messages, users, commands) = ids.entry(&command.scope).or_default();
                messages.extend(applied.changes.iter().map(|changed| changed.id));
                users.extend(applied.member);
                commands.push(command.id);
            }
            changed.clear();
            for (key, (messages, users, commands)) in ids {
                let later = whole.scopes[key].scope.later(messages, users, commands);
                let (scope, folded) = (&whole.scopes[key].scope, &parts[key]);
                prop_assert_eq!(&later.scope.heading, &folded.heading);
                let in_scope = |(id, e)| scope.messages.get(id) == Some(e);
                prop_assert!(folded.messages.iter().all(in_scope));
                prop_assert!(folded.live.iter().all(|(hash, id)| scope.live.get(hash) == Some(id)));
                prop_assert!(folded.members.iter().all(|(u, m)| scope.members.get(u) == Some(m)));
                changed.insert(key.clone(), later);
            }
        }
    }

    #[test]
    fn a_device_that_pulled_up_to_the_head_agrees(
        log in logs(60),
        pulls in vec((0..5_usize, 1..5_usize), 60),
    ) {
        let mut fold = LogFold::default();
        let mut devices: HashMap<ScopeKey, Device> = HashMap::new();
        for ((time, command), (often, limit)) in log.iter().zip(pulls) {
            let _ = fold.apply_command(command, *time);
            let Some(folded) = fold.scopes.get(&command.scope) else { continue };
            let device = devices.entry(command.scope.clone()).or_default();
            for _ in 0..often.saturating_sub(2) {
                device.pull(folded, limit);
            }
        }
        for (key, mut device) in devices {
            let folded = &fold.scopes[&key];
            while device.pull(folded, 3) {}
            let heading = &folded.scope.heading;
            prop_assert_eq!(device.cursor, heading.head);
            prop_assert_eq!(device.live.len() as u64, heading.count);
            prop_assert_eq!(device.digest(), heading.digest);
            let live = folded.messages.iter().filter(|(_, message)| message.entry.is_live());
            prop_assert_eq!(device.live, live.map(|(id, m)| (*id, m.clone())).collect());
        }
    }

    #[test]
    fn an_auditor_of_the_whole_history_judges_alike(log in logs(60)) {
        let mut fold = LogFold::default();
        let mut auditors: HashMap<ScopeKey, Auditor> = HashMap::new();
        for (time, command) in &log {
            let Ok(applied) = fold.apply_command(command, *time) else { continue };
            let auditor = auditors.entry(command.scope.clone()).or_default();
            let judged = auditor.judge(command, *time);
            let got = match &applied.outcome.verdict {
                Verdict::Refused(_) => Err(()),
                Verdict::Pushed(answer) => Ok(answer.results.iter().map(|r| r.status).collect()),
                _ => Ok(vec![]),
            };
            prop_assert_eq!(got, judged);
        }
    }
}

/// The logs of these properties are no narrow path: in a few of them, everything happens.
#[test]
fn random_logs_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..64 {
        let log = logs(60).new_tree(&mut runner).unwrap().current();
        let mut fold = LogFold::default();
        for (time, command) in &log {
            let applied = fold.apply_command(command, *time);
            let names = match applied.map(|applied| applied.outcome.verdict.clone()) {
                Ok(Verdict::Pushed(answer)) => answer
                    .results
                    .iter()
                    .map(|result| match (result.status, result.cursor) {
                        (Status::Stale, None) => "Stale, as it was forgotten".to_owned(),
                        (status, _) => format!("{status:?}"),
                    })
                    .collect(),
                Ok(Verdict::Refused(refusal)) => vec![format!("{refusal:?}")],
                Ok(verdict) => {
                    let text = format!("{verdict:?}");
                    vec![text.split(' ').next().unwrap_or_default().to_owned()]
                }
                Err(problem) => vec![format!("{problem:?}")],
            };
            names.into_iter().for_each(|name| *seen.entry(name).or_default() += 1);
        }
    }
    for name in [
        "Created",
        "Updated",
        "Revived",
        "Deleted",
        "Duplicate",
        "Stale",
        "Superseded",
        "Absent",
        "Invalid",
        "PermissionDenied { purge: false }",
        "PermissionDenied { purge: true }",
        "Exists { role: None }",
        "Exists { role: Some(Owner) }",
        "LastOwner",
        "NoSuchMember",
        "ScopeCreated",
        "MemberSet",
        "MemberRemoved",
        "TombstonesExpired",
        "Stale, as it was forgotten",
        "NoMembersInScope",
        "NoSuchRole",
    ] {
        assert!(seen.get(name).is_some_and(|times| *times > 2), "{name}: {seen:#?}");
    }
}
