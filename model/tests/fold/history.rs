//! Versions that are past: none is lost, and none is there twice.

use std::collections::{BTreeMap, HashMap};

use model::{
    Cursor, LogFold, MessageId, PastResult, ScopeKey, Status, Verdict,
    history::{Past, past},
};
use proptest::prelude::*;
use serde_json::Value;

use crate::random::{Record, logs};

/// What the versions of one message were and are, by cursor, as JSON.
type Versions = BTreeMap<u64, Value>;

fn cursor_of(json: &Value) -> u64 {
    json["cursor"].as_u64().unwrap()
}

/// Folds a log, and gathers each command's past versions.
fn history(log: &[Record]) -> (LogFold, HashMap<(ScopeKey, MessageId), Versions>, u64) {
    let mut fold = LogFold::default();
    let mut versions: HashMap<(ScopeKey, MessageId), Versions> = HashMap::new();
    let mut given_out = 0;
    for (time, command) in log {
        let before: HashMap<MessageId, Value> = fold
            .scopes
            .get(&command.scope)
            .map(|folded| {
                let json = |m: &model::Message| serde_json::from_str(&m.to_json()).unwrap();
                folded.messages.iter().map(|(id, message)| (*id, json(message))).collect()
            })
            .unwrap_or_default();
        let Ok(applied) = fold.apply_command(command, *time) else { continue };
        given_out += applied.changes.len() as u64;
        // Of what is forgotten, what came before says nothing any more.
        let left = &fold.scopes[&command.scope].messages;
        for id in before.keys().filter(|id| applied.floor.is_some() && !left.contains_key(*id)) {
            let past = versions.remove(&(command.scope.clone(), *id)).unwrap_or_default();
            given_out -= 1 + past.len() as u64;
        }
        let past = past(&fold.scopes[&command.scope].scope, command, &applied);
        check_given_way(&applied.outcome.verdict, applied.repeated, &past);
        for Past { id, result, won_by, json, .. } in past {
            if result != PastResult::Replaced {
                continue;
            }
            let json = json.map(|json| serde_json::from_str(&json).unwrap());
            let json: Value = json.unwrap_or_else(|| before[&id].clone());
            assert!(cursor_of(&json) < won_by.get());
            assert_eq!(json["id"], id.to_string());
            let of = versions.entry((command.scope.clone(), id)).or_default();
            assert_eq!(of.insert(cursor_of(&json), json), None, "each version is past once");
        }
    }
    (fold, versions, given_out)
}

/// What had to give way is what the outcome says, with what it said itself.
fn check_given_way(verdict: &Verdict, repeated: bool, past: &[Past]) {
    let results = match verdict {
        Verdict::Pushed(answer) if !repeated => answer.results.as_slice(),
        _ => &[],
    };
    let expected: Vec<(MessageId, PastResult, Cursor)> = results
        .iter()
        .filter_map(|result| match result.status {
            Status::Stale => Some((result.id?, PastResult::Stale, result.cursor?)),
            Status::Superseded => Some((result.id?, PastResult::Superseded, result.cursor?)),
            _ => None,
        })
        .collect();
    let gave_way: Vec<&Past> =
        past.iter().filter(|past| past.result != PastResult::Replaced).collect();
    let found: Vec<_> = gave_way.iter().map(|p| (p.id, p.result, p.won_by)).collect();
    assert_eq!(found, expected);
    for past in gave_way {
        let json: Value = serde_json::from_str(past.json.as_ref().unwrap()).unwrap();
        assert_eq!(json["cursor"], Value::Null);
        assert_eq!(json["deleted"], past.result == PastResult::Superseded);
        assert_eq!(json["content"].is_null(), past.result == PastResult::Superseded);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every cursor that was ever given out is a message's now, or of a version that is past.
    #[test]
    fn every_version_is_the_message_or_past(log in logs(40)) {
        let (fold, past, given_out) = history(&log);
        let now: u64 = fold.scopes.values().map(|folded| folded.messages.len() as u64).sum();
        let versions: u64 = past.values().map(|versions| versions.len() as u64).sum();
        prop_assert_eq!(now + versions, given_out);
        for ((scope, id), versions) in &past {
            let message = &fold.scopes[scope].messages[id];
            let newest = *versions.keys().next_back().unwrap();
            prop_assert!(newest < message.entry.cursor.get());
            for json in versions.values() {
                prop_assert_eq!(&json["created_at"], &serde_json::to_value(message.entry.created_at).unwrap());
            }
        }
    }
}
