//! What a scope holds, for those who compare.

use std::collections::BTreeMap;

use model::{Cursor, Digest, MessageId, Role};
use readmodel::{
    DatabaseRole, Pool,
    holding::{Holding, changed, named},
    pull::{Asker, Glance, summary},
};
use serde_json::{Value, json};

use crate::{
    commands::{create, push, remove_member, scope, set_member, user},
    database::Database,
    writer::Writer,
};

const TEAM: &str = "acme/team/t";
const OTHER: &str = "acme/team/u";
const ALL_BYTES: u64 = 4 << 20;

fn id(n: u128) -> MessageId {
    MessageId(uuid::Uuid::from_u128(n))
}

fn write(n: u128, content: &str, base: u64) -> Value {
    json!({"id": id(n), "type": "decision", "content": content, "base_cursor": base})
}

/// Messages 1 to 4 at cursors 1 to 4; then 2 is edited, 3 deleted.
async fn team() -> (Database, Writer) {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    writer.write(&create(TEAM, "ann")).await;
    writer.write(&create(OTHER, "ann")).await;
    let four: Vec<Value> = (1..=4).map(|n| write(n, &format!("message {n}"), 0)).collect();
    writer.write(&push(TEAM, "ann", &four)).await;
    writer.write(&push(OTHER, "ann", &[write(9, "elsewhere", 0)])).await;
    let delete = json!({"id": id(3), "deleted": true, "base_cursor": 3});
    writer.write(&push(TEAM, "ann", &[write(2, "edited", 2), delete])).await;
    (database, writer)
}

struct Changed {
    glance: Glance,
    holdings: Vec<Holding>,
}

async fn asked(api: &Pool, asker: &Asker<'_>, after: i64) -> Changed {
    let mut holdings = Vec::new();
    let each = &mut |holding| holdings.push(holding);
    let glance = changed(api, asker, Cursor::from_i64(after), each).await.unwrap();
    Changed { glance, holdings }
}

async fn since(api: &Pool, name: &str, after: i64) -> Changed {
    let (scope, user) = (&scope(TEAM), &user(name));
    asked(api, &Asker { scope, user, privileged: false }, after).await
}

/// By id, whether it is live.
fn live(changed: &Changed) -> BTreeMap<u128, bool> {
    changed.holdings.iter().map(|h| (h.id.0.as_u128(), h.live)).collect()
}

#[tokio::test]
async fn what_is_held_sums_up_to_what_the_scope_says() {
    let (database, _writer) = team().await;
    let api = database.role(DatabaseRole::Api);
    let all = since(&api, "ann", 0).await;
    assert_eq!(live(&all), BTreeMap::from([(1, true), (2, true), (4, true)]));
    let mut digest = Digest::EMPTY;
    all.holdings.iter().for_each(|holding| digest.add(holding.version.item(holding.id)));
    let told = all.glance.summary;
    assert_eq!((told.head.get(), told.count, told.digest), (6, 3, digest));
    let (scope, user) = (&scope(TEAM), &user("ann"));
    let asker = Asker { scope, user, privileged: false };
    assert_eq!(summary(&api, &asker).await.unwrap(), all.glance);
}

#[tokio::test]
async fn what_changed_since_is_told_with_what_was_deleted() {
    let (database, _writer) = team().await;
    let api = database.role(DatabaseRole::Api);
    let table: [(i64, &[(u128, bool)]); 4] = [
        (3, &[(2, true), (3, false), (4, true)]),
        (4, &[(2, true), (3, false)]),
        (5, &[(3, false)]),
        (6, &[]),
    ];
    for (after, expected) in table {
        let expected = expected.iter().copied().collect();
        assert_eq!(live(&since(&api, "ann", after).await), expected, "after {after}");
    }
}

#[tokio::test]
async fn only_those_who_may_pull_are_told() {
    let (database, mut writer) = team().await;
    let api = database.role(DatabaseRole::Api);
    writer.write(&set_member(TEAM, "ann", "bob", Role::Member)).await;
    writer.write(&set_member(TEAM, "ann", "cid", Role::Member)).await;
    writer.write(&remove_member(TEAM, "ann", "cid")).await;
    for (name, count) in [("ann", 3), ("bob", 3), ("cid", 0), ("eve", 0)] {
        assert_eq!(since(&api, name, 0).await.holdings.len(), count, "{name}");
        let (scope, user) = (&scope(TEAM), &user(name));
        let asker = Asker { scope, user, privileged: false };
        let (_, found) = named(&api, &asker, &[id(1), id(2), id(4)], ALL_BYTES).await.unwrap();
        assert_eq!(found.len(), count, "{name}");
    }
    let (elsewhere, ann) = (&scope("globex/team/t"), &user("ann"));
    let asker = Asker { scope: elsewhere, user: ann, privileged: true };
    let none = asked(&api, &asker, 0).await;
    assert!(!none.glance.exists && none.holdings.is_empty());
}

#[tokio::test]
async fn named_messages_come_in_the_order_asked_until_the_bytes_are_full() {
    let (database, _writer) = team().await;
    let api = database.role(DatabaseRole::Api);
    let (scope, user) = (&scope(TEAM), &user("ann"));
    let asker = Asker { scope, user, privileged: false };
    // 3 is a tombstone, 7 was never there, 9 is another scope's.
    let asked = [4, 9, 3, 7, 1, 2].map(id);
    let (_, found) = named(&api, &asker, &asked, ALL_BYTES).await.unwrap();
    let got: BTreeMap<u128, bool> =
        found.iter().map(|(id, named)| (id.0.as_u128(), named.holding.live)).collect();
    assert_eq!(got, BTreeMap::from([(1, true), (2, true), (3, false), (4, true)]));
    let json = |n| found[&id(n)].json.clone().unwrap();
    let message: Value = serde_json::from_str(&json(2)).unwrap();
    assert_eq!((&message["content"], &message["cursor"]), (&json!("edited"), &json!(5)));
    let (four, three) = (json(4).len() as u64, json(3).len() as u64);
    let table: [(u64, &[u128]); 5] = [
        (1, &[4]),
        (four, &[4]),
        (four + three - 1, &[4]),
        (four + three, &[3, 4]),
        (ALL_BYTES, &[1, 2, 3, 4]),
    ];
    for (bytes, expected) in table {
        let (_, found) = named(&api, &asker, &asked, bytes).await.unwrap();
        let mut with: Vec<u128> =
            found.values().filter(|n| n.json.is_some()).map(|n| n.holding.id.0.as_u128()).collect();
        with.sort_unstable();
        assert_eq!((found.len(), with.as_slice()), (4, expected), "{bytes} bytes");
    }
}
