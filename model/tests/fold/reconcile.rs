//! `WF-CS-012.txt`: what devices are told of their drift.

use std::collections::HashMap;

use model::{
    Cursor, Digest,
    reconcile::{Claim, ScopeSums, reconcile},
};

const TABLE: &str = include_str!("WF-CS-012.txt");

/// `name=value` pairs.
struct Fields<'a>(HashMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Self {
        Self(text.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect())
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        self.0.remove(name).map(|number| number.parse().unwrap())
    }

    fn cursor(&mut self, name: &str) -> Option<Cursor> {
        self.number(name).map(|cursor| Cursor::new(cursor).unwrap())
    }

    /// Named by its last digit.
    fn digest(&mut self) -> Option<Digest> {
        self.0.remove("digest").map(|last| Digest::parse(&format!("{last:0>64}")).unwrap())
    }

    #[track_caller]
    fn done(self) {
        assert!(self.0.is_empty(), "unknown: {:?}", self.0.keys());
    }
}

fn told(situation: &str) -> String {
    let (device, scope) = situation.split_once('|').unwrap();
    let (mut device, mut scope) = (Fields::of(device), Fields::of(scope));
    let claim = Claim {
        cursor: device.cursor("cursor").unwrap(),
        count: device.number("count"),
        digest: device.digest(),
    };
    let base = device.cursor("base");
    let at = ScopeSums {
        head: scope.cursor("head").unwrap(),
        floor: scope.cursor("floor").unwrap_or_default(),
        count: scope.number("count").unwrap_or_default(),
        digest: scope.digest().unwrap_or_default(),
    };
    device.done();
    scope.done();
    let told = reconcile(&claim, base, &at);
    let word = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    let status = word(serde_json::to_value(told.status).unwrap());
    let action = word(serde_json::to_value(told.action).unwrap());
    format!("{status} {action} from {}", told.cursor)
}

#[test]
fn devices_are_told_of_their_drift() {
    let mut case = "";
    for line in
        TABLE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix("case ") {
            case = name;
            continue;
        }
        let (situation, expected) = line.split_once("=>").unwrap();
        assert_eq!(told(situation), expected.trim(), "{case}: {situation}");
    }
}
