//! What a scope and a tenant hold, and what operators have set.

use model::{OrgRole, TenantId};
use readmodel::{
    DatabaseConfig, DatabaseRole, ReadModelError,
    access::{AccessQuery, accounts},
    quotas::{Overrides, TenantQuotas, Usage, set, show, unset},
};
use serde_json::json;
use sqlx::Executor;
use uuid::Uuid;

use crate::{
    commands::{create, push, say, scope, user},
    database::Database,
    writer::Writer,
};

/// What the gate is told of the scopes.
async fn usages<const N: usize>(database: &Database, keys: [&str; N]) -> [Usage; N] {
    let ask =
        |key: &str| AccessQuery { scope: scope(key), user: user("ann"), org_role: OrgRole::Member };
    let (_, told) = accounts(&database.role(DatabaseRole::Ingest), &keys.map(ask)).await.unwrap();
    std::array::from_fn(|place| told[place].usage)
}

/// Messages and bytes, of the scope and of the tenant.
fn holds(scope: (u64, u64), tenant: (u64, u64)) -> Usage {
    let ((scope_messages, scope_bytes), (tenant_messages, tenant_bytes)) = (scope, tenant);
    let overrides = Overrides::default();
    Usage { scope_messages, scope_bytes, tenant_bytes, tenant_messages, overrides }
}

#[tokio::test]
async fn what_is_held_is_what_is_live_in_the_scope_and_in_the_tenant() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let (ann, web, other) = ("acme/user/ann", "acme/team/web", "globex/user/ann");
    let keys = [ann, web, other, "initech/user/ann"];
    assert_eq!(usages(&database, keys).await, [holds((0, 0), (0, 0)); 4]);
    let id = Uuid::new_v4();
    let mine = json!({"id": id, "type": "decision", "content": "12345"});
    writer.write(&push(ann, "ann", &[mine, say("678")])).await;
    writer.write(&create(web, "ann")).await;
    writer.write(&push(web, "ann", &[say("1")])).await;
    writer.write(&push(other, "ann", &[say("12")])).await;
    // Content, and two bytes of metadata each.
    let (acme, globex) = ((3, 15), (1, 4));
    let held =
        [holds((2, 12), acme), holds((1, 3), acme), holds((1, 4), globex), holds((0, 0), (0, 0))];
    assert_eq!(usages(&database, keys).await, held);
    // Twice the same counts once, an edit by what it adds, and a delete gives all back.
    writer.write(&push(ann, "ann", &[say("678")])).await;
    let edit = json!({"id": id, "type": "decision", "content": "1234567", "base_cursor": 1});
    writer.write(&push(ann, "ann", &[edit])).await;
    let acme = (3, 17);
    assert_eq!(usages(&database, [ann, web]).await, [holds((2, 14), acme), holds((1, 3), acme)]);
    let delete = json!({"id": id, "deleted": true, "base_cursor": 3});
    writer.write(&push(ann, "ann", &[delete])).await;
    let acme = (2, 8);
    assert_eq!(usages(&database, [ann, web]).await, [holds((1, 5), acme), holds((1, 3), acme)]);
}

#[tokio::test]
async fn a_batch_that_lost_its_race_adds_nothing_to_a_tenant() {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let writes = writer.writes(&push("acme/user/ann", "ann", &[say("one")]));
    writer.commit(&writes).await.unwrap();
    let step = [crate::writer::advance(0, 0, 1)];
    let again = writer.projection.commit(&step, &writes, false).await;
    assert!(matches!(again, Err(ReadModelError::PositionMoved)), "{again:?}");
    assert_eq!(usages(&database, ["acme/user/ann"]).await, [holds((1, 5), (1, 5))]);
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

#[tokio::test]
async fn what_operators_set_is_told_and_stays_when_the_read_model_is_dropped() {
    let database = Database::migrated().await;
    Writer::new(&database).await;
    let (config, acme) = (&database.config, tenant("acme"));
    assert_eq!(show(config, None).await.unwrap(), []);
    let messages = Overrides { scope_messages_max: Some(7), ..Overrides::default() };
    set(config, &acme, &messages).await.unwrap();
    let of_tenant = Overrides {
        tenant_bytes_max: Some(0),
        tenant_messages_max: Some(9),
        ..Overrides::default()
    };
    set(config, &acme, &of_tenant).await.unwrap();
    let both = Overrides { scope_messages_max: Some(7), ..of_tenant };
    let [ours, theirs] = usages(&database, ["acme/user/ann", "globex/user/ann"]).await;
    assert_eq!((ours.overrides, theirs.overrides), (both, Overrides::default()));
    let shown =
        |overrides| TenantQuotas { tenant_id: "acme".to_owned(), overrides, messages: 0, bytes: 0 };
    assert_eq!(show(config, None).await.unwrap(), [shown(both)]);

    database.owner().await.execute("drop schema context_sync cascade").await.unwrap();
    readmodel::migrate(config).await.unwrap();
    Writer::new(&database).await;
    assert_eq!(usages(&database, ["acme/user/ann"]).await[0].overrides, both);
    assert!(unset(config, &acme).await.unwrap() && !unset(config, &acme).await.unwrap());
    assert_eq!(show(config, Some(&acme)).await.unwrap(), [shown(Overrides::default())]);
}

#[tokio::test]
async fn a_login_that_does_not_own_them_sets_none_and_is_told_so() {
    let database = Database::migrated().await;
    let name = format!("stranger_{}", Uuid::new_v4().simple());
    let create =
        format!("create role {name} login password 'x'; grant context_sync_ingest to {name}");
    database.owner().await.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    let (_, server) = database.url().rsplit_once('@').unwrap();
    let url = format!("postgres://{name}:x@{server}");
    let config = DatabaseConfig { database_url: Some(url), ..database.config.clone() };
    let one = Overrides { scope_bytes_max: Some(1), ..Overrides::default() };
    let refused = set(&config, &tenant("acme"), &one).await.unwrap_err();
    let drop = format!("drop owned by {name}; drop role {name}");
    database.owner().await.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
    assert!(matches!(refused, ReadModelError::MayNotSet(_)), "{refused:?}");
    assert!(refused.to_string().contains("use the one that migrates"), "{refused}");
    assert_eq!(show(&database.config, None).await.unwrap(), []);
}
