//! Nothing crosses a tenant, whatever the query; and each role does its own work alone.

use model::{Cursor, Role};
use readmodel::{
    DatabaseRole, Pool,
    access::{AccessQuery, accounts},
    pull::moved,
};
use sqlx::Row;

use crate::{
    commands::{create, push, say, scope, set_member, user},
    database::Database,
    writer::Writer,
};

/// Two tenants with a team of one name, a member of one name, and a message each.
async fn two_tenants() -> Database {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    for tenant in ["acme", "globex"] {
        let team = format!("{tenant}/team/web");
        writer.write(&create(&team, "ann")).await;
        writer.write(&set_member(&team, "ann", "bob", Role::Member)).await;
        writer.write(&push(&team, "bob", &[say(&format!("secret of {tenant}"))])).await;
    }
    database
}

/// The SQLSTATE of the refusal.
fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

async fn count(pool: &Pool, set_tenant: Option<&str>, query: &'static str) -> i64 {
    let mut transaction = pool.begin().await.unwrap();
    if let Some(tenant) = set_tenant {
        sqlx::query("select set_config('context_sync.tenant', $1, true)")
            .bind(tenant)
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    sqlx::query(query).fetch_one(&mut *transaction).await.unwrap().get(0)
}

/// Queries that forgot the tenant.
const WRONG: [&str; 6] = [
    "select count(*) from messages",
    "select count(*) from messages where json like '%secret%'",
    "select count(*) from scopes",
    "select count(*) from members",
    "select count(*) from outcomes",
    "select count(*) from messages where scope in (select scope from scopes)",
];

#[tokio::test]
async fn without_a_tenant_the_api_role_sees_no_row() {
    let database = two_tenants().await;
    let api = database.role(DatabaseRole::Api);
    for query in WRONG {
        assert_eq!(count(&api, None, query).await, 0, "{query}");
        assert_eq!(count(&api, Some(""), query).await, 0, "{query}");
        assert_eq!(count(&api, Some("nobody"), query).await, 0, "{query}");
    }
}

#[tokio::test]
async fn a_wrong_query_of_the_api_role_gives_nothing_of_another_tenant() {
    let database = two_tenants().await;
    let api = database.role(DatabaseRole::Api);
    for tenant in ["acme", "globex"] {
        assert_eq!(count(&api, Some(tenant), "select count(*) from messages").await, 1);
        assert_eq!(count(&api, Some(tenant), "select count(*) from scopes").await, 1);
        assert_eq!(count(&api, Some(tenant), "select count(*) from members").await, 2);
        assert_eq!(count(&api, Some(tenant), "select count(*) from outcomes").await, 3);
    }
    let all = "select count(*) from messages where json like '%secret of globex%'";
    assert_eq!(count(&api, Some("acme"), all).await, 0);
    assert_eq!(count(&api, Some("globex"), all).await, 1);
}

#[tokio::test]
async fn another_tenants_scope_pulls_as_if_it_were_not_there() {
    let database = two_tenants().await;
    let api = database.role(DatabaseRole::Api);
    // One row: a message would be a second one.
    let row = sqlx::query(
        "select known, membership, head, count(*) over () as rows
         from page('acme', $1, 'bob', true, 0, 100, 1000000)",
    )
    .bind(scope("globex/team/web").reference().0)
    .fetch_one(&api)
    .await
    .unwrap();
    assert_eq!((row.get("known"), row.get("membership")), (false, false));
    assert_eq!(row.get::<Option<i64>, _>("head"), None);
    assert_eq!(row.get::<i64, _>("rows"), 1);
    // What the function set ends with its statement.
    assert_eq!(count(&api, None, "select count(*) from messages").await, 0);
}

#[tokio::test]
async fn the_api_role_cannot_write() {
    let database = two_tenants().await;
    let api = database.role(DatabaseRole::Api);
    for statement in [
        "delete from messages",
        "update messages set json = ''",
        "insert into members select * from members",
        "update positions set next_offset = 0",
        "delete from outcomes",
        "select * from messages for update",
        "select * from dead_letters",
        "truncate messages",
        "alter table messages disable row level security",
        "drop policy api on messages",
    ] {
        let refused = sqlx::query(statement).execute(&api).await.unwrap_err();
        assert_eq!(code(&refused).as_deref(), Some("42501"), "{statement}: {refused}");
    }
}

#[tokio::test]
async fn no_other_table_is_a_way_around() {
    let database = two_tenants().await;
    let readable: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relnamespace = 'context_sync'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
             and has_any_column_privilege('context_sync_api', oid, 'select')
             and not (relrowsecurity and relforcerowsecurity)
         order by 1",
    )
    .fetch_all(&mut database.owner().await)
    .await
    .unwrap();
    assert_eq!(readable, ["positions", "source"], "what every tenant may know");
}

#[tokio::test]
async fn the_ingest_role_reads_no_content_and_writes_nothing() {
    let database = two_tenants().await;
    let ingest = database.role(DatabaseRole::Ingest);
    for statement in [
        "select * from messages",
        "select json from messages",
        "select * from page('acme', gen_random_uuid(), 'ann', true, 0, 10, 1000)",
        "select * from moved(array[]::uuid[], array[]::bigint[])",
        "delete from outcomes",
        "update members set role = 'owner'",
        "insert into positions values (9, 0, 0, 1, null, null)",
        "select * from dead_letters",
        "select * from message_history",
    ] {
        let refused = sqlx::query(statement).execute(&ingest).await.unwrap_err();
        assert_eq!(code(&refused).as_deref(), Some("42501"), "{statement}: {refused}");
    }
    // Only what the fold remembers of a message.
    sqlx::query("select id, cursor, content_hash from messages").execute(&ingest).await.unwrap();
}

#[tokio::test]
async fn standings_are_those_of_the_scope_named() {
    let database = two_tenants().await;
    let ingest = database.role(DatabaseRole::Ingest);
    let org_role = model::OrgRole::Member;
    let asked =
        |key: &str, name: &str| AccessQuery { scope: scope(key), user: user(name), org_role };
    let all = [
        asked("acme/team/web", "ann"),
        asked("acme/team/web", "eve"),
        asked("globex/team/web", "bob"),
        asked("initech/team/web", "ann"),
        asked("acme/team/web", "ann"),
    ];
    let (_, accounts) = accounts(&ingest, &all).await.unwrap();
    let standings: Vec<_> = accounts.iter().map(|account| account.standing).collect();
    let roles: Vec<Option<Role>> = standings.into_iter().map(|standing| standing.role()).collect();
    let expected = [Some(Role::Owner), None, Some(Role::Member), None, Some(Role::Owner)];
    assert_eq!(roles, expected);
}

#[tokio::test]
async fn moved_tells_of_the_scopes_that_went_past_their_cursor() {
    let database = two_tenants().await;
    let api = database.role(DatabaseRole::Watcher);
    let reference = |key: &str| scope(key).reference();
    let cursor = Cursor::from_i64;
    let (acme, globex) = (reference("acme/team/web"), reference("globex/team/web"));
    let unknown = reference("acme/team/none");
    let asked = [(acme, cursor(0)), (globex, cursor(1)), (unknown, cursor(0))];
    assert_eq!(moved(&api, &asked).await.unwrap(), [(acme, cursor(1))]);
    assert_eq!(moved(&api, &[]).await.unwrap(), []);
}

#[tokio::test]
async fn only_the_watcher_asks_across_tenants_and_it_sees_no_table() {
    let database = two_tenants().await;
    let api = database.role(DatabaseRole::Api);
    let watcher = database.role(DatabaseRole::Watcher);
    for question in [
        "select * from moved(array[]::uuid[], array[]::bigint[])",
        "select * from glance(array[]::uuid[], array[]::text[], array[]::text[])",
    ] {
        let refused = sqlx::query(question).execute(&api).await.unwrap_err();
        assert_eq!(code(&refused).as_deref(), Some("42501"), "{question}: {refused}");
        sqlx::query(question).execute(&watcher).await.unwrap();
    }
    for table in [
        "messages",
        "scopes",
        "members",
        "outcomes",
        "positions",
        "dead_letters",
        "message_history",
    ] {
        let query = sqlx::AssertSqlSafe(format!("select * from {table}"));
        let refused = sqlx::query(query).execute(&watcher).await.unwrap_err();
        assert_eq!(code(&refused).as_deref(), Some("42501"), "{table}: {refused}");
    }
}
