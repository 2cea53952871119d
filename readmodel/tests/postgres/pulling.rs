//! Pages of a pull.

use model::{Cursor, Digest, Epoch, Role};
use readmodel::{
    DatabaseRole, Pool,
    pull::{Asker, GlanceQuery, Page, PullQuery, glances, pull},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    commands::{create, push, remove_member, say, scope, set_member, user},
    database::Database,
    writer::Writer,
};

const TEAM: &str = "acme/team/t";
/// More than all messages of a test.
const ALL_BYTES: u64 = 4 << 20;

async fn page(pool: &Pool, name: &str, after: i64, limit: u32, bytes: u64) -> Page {
    let (scope, user, after) = (&scope(TEAM), &user(name), Cursor::from_i64(after));
    let asker = Asker { scope, user, privileged: false };
    let query = PullQuery { asker, after, limit, bytes };
    pull(pool, &query).await.unwrap()
}

fn messages(page: &Page) -> Vec<Value> {
    let json = [&b"["[..], &page.messages, b"]"].concat();
    serde_json::from_slice(&json).unwrap()
}

fn cursors(page: &Page) -> Vec<u64> {
    messages(page).iter().map(|message| message["cursor"].as_u64().unwrap()).collect()
}

/// Messages at cursors 1 to 5, of about one size.
async fn five_messages() -> (Database, Writer) {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    writer.write(&create(TEAM, "ann")).await;
    let five: Vec<Value> = (1..=5).map(|n| say(&format!("message {n}"))).collect();
    writer.write(&push(TEAM, "ann", &five)).await;
    (database, writer)
}

#[tokio::test]
async fn a_page_ends_at_its_limit_or_its_bytes() {
    let (database, _writer) = five_messages().await;
    let api = database.role(DatabaseRole::Api);
    let one = messages(&page(&api, "ann", 0, 1, ALL_BYTES).await)[0].to_string().len() as u64;
    // after, limit, bytes => cursors, has_more
    let table: &[(i64, u32, u64, &[u64], bool)] = &[
        (0, 1000, ALL_BYTES, &[1, 2, 3, 4, 5], false),
        (0, 5, ALL_BYTES, &[1, 2, 3, 4, 5], false),
        (0, 4, ALL_BYTES, &[1, 2, 3, 4], true),
        (0, 1, ALL_BYTES, &[1], true),
        (4, 1, ALL_BYTES, &[5], false),
        (3, 1, ALL_BYTES, &[4], true),
        (5, 100, ALL_BYTES, &[], false),
        (9, 100, ALL_BYTES, &[], false),
        (i64::MAX, 1000, ALL_BYTES, &[], false),
        (0, 100, 5 * one, &[1, 2, 3, 4, 5], false),
        (0, 100, 5 * one - 1, &[1, 2, 3, 4], true),
        (0, 100, 2 * one, &[1, 2], true),
        (0, 100, 1, &[1], true),
        (4, 100, 1, &[5], false),
        (0, 2, 3 * one, &[1, 2], true),
    ];
    for (after, limit, bytes, expected, more) in table {
        let page = page(&api, "ann", *after, *limit, *bytes).await;
        let row = format!("after {after} limit {limit} bytes {bytes}");
        assert_eq!((cursors(&page).as_slice(), page.has_more), (*expected, *more), "{row}");
        assert_eq!(page.last.map(Cursor::get), expected.last().copied(), "{row}");
        assert_eq!((page.summary.head.get(), page.summary.count), (5, 5), "{row}");
    }
}

#[tokio::test]
async fn an_edited_message_stands_once_and_a_deleted_one_as_a_tombstone() {
    let (database, mut writer) = five_messages().await;
    let api = database.role(DatabaseRole::Api);
    let all = messages(&page(&api, "ann", 0, 10, ALL_BYTES).await);
    let id = |n: usize| all[n - 1]["id"].clone();
    let edit = json!({"id": id(2), "type": "pattern", "content": "edited", "base_cursor": 2});
    let delete = json!({"id": id(4), "deleted": true, "base_cursor": 4});
    writer.write(&push(TEAM, "ann", &[edit, delete])).await;
    let page = page(&api, "ann", 0, 10, ALL_BYTES).await;
    assert_eq!(cursors(&page), [1, 3, 5, 6, 7]);
    let now = messages(&page);
    assert_eq!((&now[3]["id"], &now[3]["content"]), (&id(2), &json!("edited")));
    assert_eq!((&now[4]["id"], &now[4]["deleted"]), (&id(4), &json!(true)));
    assert_eq!(now[4]["content"], Value::Null);
    assert_eq!((page.summary.head.get(), page.summary.count), (7, 4));
    assert_ne!(page.summary.digest, Digest::EMPTY);
    assert_eq!(page.summary.epoch, Epoch::of_log(writer.log));
}

#[tokio::test]
async fn only_members_and_the_privileged_get_messages() {
    let (database, mut writer) = five_messages().await;
    let api = database.role(DatabaseRole::Api);
    writer.write(&set_member(TEAM, "ann", "bob", Role::Member)).await;
    writer.write(&set_member(TEAM, "ann", "cid", Role::Admin)).await;
    writer.write(&remove_member(TEAM, "ann", "cid")).await;
    let who = [
        ("ann", Some(Some(Role::Owner)), 5),
        ("bob", Some(Some(Role::Member)), 5),
        ("cid", Some(None), 0),
        ("eve", None, 0),
    ];
    for (name, member, count) in who {
        let page = page(&api, name, 0, 10, ALL_BYTES).await;
        assert!(page.exists);
        assert_eq!((page.member, cursors(&page).len()), (member, count), "{name}");
    }
    let (scope, user) = (&scope(TEAM), &user("eve"));
    let after = Cursor::ZERO;
    let asker = Asker { scope, user, privileged: true };
    let query = PullQuery { asker, after, limit: 10, bytes: ALL_BYTES };
    let page = pull(&api, &query).await.unwrap();
    assert_eq!((page.member, cursors(&page).len()), (None, 5));
}

#[tokio::test]
async fn a_scope_that_nothing_happened_to_is_empty() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let api = database.role(DatabaseRole::Api);
    let empty = page(&api, "ann", 0, 10, ALL_BYTES).await;
    assert!(!empty.exists && !empty.has_more && empty.member.is_none());
    assert_eq!((empty.last, empty.summary.head, empty.summary.count), (None, Cursor::ZERO, 0));
    assert_eq!(empty.summary.digest, Digest::EMPTY);
    writer.write(&create(TEAM, "ann")).await;
    let created = page(&api, "ann", 0, 10, ALL_BYTES).await;
    assert!(created.exists && created.messages.is_empty());
    let unknown = json!({"id": Uuid::new_v4(), "deleted": true, "base_cursor": 1});
    writer.write(&push(TEAM, "ann", &[unknown])).await;
    assert_eq!(page(&api, "ann", 0, 10, ALL_BYTES).await.summary.head, Cursor::ZERO);
}

#[tokio::test]
async fn glances_come_in_the_order_asked_and_each_caller_gets_their_own() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    writer.write(&create("acme/team/web", "ann")).await;
    writer.write(&push("acme/user/bob", "bob", &[say("x"), say("y")])).await;
    let watcher = database.role(DatabaseRole::Watcher);
    let ask = |tenant: &str, key: &str, name: &str| GlanceQuery {
        scope: scope(key).reference(),
        tenant: model::TenantId::new(tenant).unwrap(),
        user: user(name),
    };
    let asked = [
        ask("acme", "acme/team/web", "eve"),
        ask("acme", "acme/user/bob", "bob"),
        ask("acme", "acme/team/web", "ann"),
        ask("globex", "acme/user/bob", "bob"),
        ask("acme", "acme/user/bob", "bob"),
    ];
    let glances = glances(&watcher, &asked).await.unwrap();
    let gist: Vec<_> = glances.iter().map(|g| (g.exists, g.member, g.summary.head.get())).collect();
    let bobs = (true, None, 2);
    let owner = (true, Some(Some(Role::Owner)), 0);
    assert_eq!(gist, [(true, None, 0), bobs, owner, (false, None, 0), bobs]);
}
