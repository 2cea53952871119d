//! What holds of every erasure, and of a log whose erased contents are blanked.

use std::collections::HashMap;

use model::{Cursor, ScopeKey, Verdict, log_fold::LogFold};
use proptest::prelude::*;

use crate::random::{Record, logs};

/// How many commands of each scope stand before its last erasure.
fn erased_before(log: &[Record]) -> HashMap<ScopeKey, usize> {
    let mut fold = LogFold::default();
    let mut erased = HashMap::new();
    for (number, (time, command)) in log.iter().enumerate() {
        let Ok(applied) = fold.apply_command(command, *time) else { continue };
        if matches!(applied.outcome.verdict, Verdict::ScopeErased { .. }) && !applied.repeated {
            erased.insert(command.scope.clone(), number);
        }
    }
    erased
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// After each command: heads, counts, bytes and digests are the same, and the outcomes too.
    #[test]
    fn a_log_whose_erased_contents_are_blanked_folds_to_the_same(log in logs(60)) {
        let erased = erased_before(&log);
        let (mut whole, mut blanked) = (LogFold::default(), LogFold::default());
        for (number, (time, command)) in log.iter().enumerate() {
            let is_erased = erased.get(&command.scope).is_some_and(|at| number < *at);
            let other = if is_erased { command.blanked() } else { command.clone() };
            let (one, other) = (whole.apply_command(command, *time), blanked.apply_command(&other, *time));
            let gist = |applied: &model::Applied| (applied.outcome.clone(), applied.changes.clone());
            prop_assert_eq!(one.as_ref().ok().map(gist), other.as_ref().ok().map(gist));
            let (one, other) = (whole.scopes.get(&command.scope), blanked.scopes.get(&command.scope));
            let heading = |folded: &model::log_fold::FoldedScope| folded.scope.heading.clone();
            prop_assert_eq!(one.map(heading), other.map(heading));
        }
        for (key, one) in &whole.scopes {
            prop_assert_eq!(&one.messages, &blanked.scopes[key].messages);
        }
    }

    /// Nothing that was folded before shows in what is folded after, but for the cursor.
    #[test]
    fn after_an_erasure_a_scope_is_as_if_it_began(log in logs(60)) {
        let erased = erased_before(&log);
        let mut fold = LogFold::default();
        let mut anew = LogFold::default();
        for (number, (time, command)) in log.iter().enumerate() {
            let _ = fold.apply_command(command, *time);
            if erased.get(&command.scope) == Some(&number) {
                let folded = &fold.scopes[&command.scope];
                prop_assert!(folded.messages.is_empty() && folded.scope.messages.is_empty());
                prop_assert!(folded.scope.live.is_empty() && folded.scope.heading.restore.is_none());
                let mut empty = folded.clone();
                (empty.scope.messages, empty.scope.live) = Default::default();
                anew.scopes.insert(command.scope.clone(), empty);
            } else if anew.scopes.contains_key(&command.scope) {
                let _ = anew.apply_command(command, *time);
            }
        }
        for (key, anew) in &anew.scopes {
            let folded = &fold.scopes[key];
            prop_assert_eq!(&folded.scope.heading, &anew.scope.heading);
            prop_assert_eq!(&folded.messages, &anew.messages);
            prop_assert!(folded.messages.values().all(|m| m.entry.cursor > folded.scope.heading.erased));
            prop_assert!(folded.scope.heading.erased > Cursor::ZERO);
        }
    }
}

#[test]
fn a_blanked_body_has_as_many_bytes_and_is_still_a_body() {
    use model::{Body, MessageType, Metadata};
    for metadata in ["{}", r#"{"":1}"#, r#"{"a":1}"#, r#"{"source":"session-abc"}"#] {
        let body = Body {
            message_type: MessageType::new("decision").unwrap(),
            content: "naïve – 東京 😀".into(),
            metadata: Metadata::from_canonical(metadata.into()),
        };
        let blanked = body.blanked();
        assert_eq!(blanked.bytes(), body.bytes());
        let value: serde_json::Value = serde_json::from_str(blanked.metadata.as_str()).unwrap();
        assert_eq!(Metadata::new(&value).unwrap(), blanked.metadata);
        assert!(!blanked.content.contains("ve") && !blanked.metadata.as_str().contains('a'));
    }
}
