use futures_util::future::join_all;
use model::OrgRole;
use readmodel::{
    DatabaseConfig, DatabaseRole, ReadModelError,
    access::{AccessQuery, accounts, members},
    projection::Projection,
    pull::epoch,
};

use crate::{
    commands::{scope, user},
    database::Database,
    writer::Writer,
};

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = Database::migrated().await;
    let writer = Writer::new(&database).await;
    readmodel::migrate(&database.config).await.unwrap();
    let mut again = Projection::connect(&database.config).await.unwrap();
    assert_eq!(again.adopt_log(writer.log, 2, &[]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn many_migrate_a_new_database_at_once() {
    let database = Database::fresh().await;
    for migrated in join_all((0..8).map(|_| readmodel::migrate(&database.config))).await {
        migrated.unwrap();
    }
    Writer::new(&database).await;
}

#[tokio::test]
async fn a_database_without_a_read_model_says_so() {
    let database = Database::fresh().await;
    let asked = epoch(&database.role(DatabaseRole::Api)).await;
    assert!(matches!(asked, Err(ReadModelError::NotMigrated)), "{asked:?}");
}

#[tokio::test]
async fn a_read_model_of_no_log_yet_has_no_epoch() {
    let database = Database::migrated().await;
    let asked = epoch(&database.role(DatabaseRole::Api)).await;
    assert!(matches!(asked, Err(ReadModelError::NotMigrated)), "{asked:?}");
}

#[tokio::test]
async fn nobody_is_refused_by_a_read_model_of_no_log_yet() {
    let database = Database::migrated().await;
    let asked =
        AccessQuery { scope: scope("acme/team/web"), user: user("ann"), org_role: OrgRole::Member };
    let of_ingest =
        accounts(&database.role(DatabaseRole::Ingest), std::slice::from_ref(&asked)).await;
    assert!(matches!(of_ingest, Err(ReadModelError::NotMigrated)), "{of_ingest:?}");
    let of_api = members(&database.role(DatabaseRole::Api), &asked).await;
    assert!(matches!(of_api, Err(ReadModelError::NotMigrated)), "{of_api:?}");
}

#[tokio::test]
async fn whoever_asks_seldom_does_not_meet_a_connection_that_was_lost() {
    let database = Database::migrated().await;
    Writer::new(&database).await;
    let one = DatabaseConfig { database_connections: 1, ..database.config.clone() };
    let pool = readmodel::pool_seldom_used(&one, DatabaseRole::Api).unwrap();
    let asked = epoch(&pool).await.unwrap();
    // As when Postgres was restarted.
    let lost = sqlx::query(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    );
    lost.execute(&database.owner_pool()).await.unwrap();
    assert_eq!(epoch(&pool).await.unwrap(), asked);
}

#[tokio::test]
async fn an_unusable_url_is_an_error_that_does_not_show_it() {
    let mut config = Database::fresh().await.config.clone();
    config.database_url = Some("mysql://u:hunter2@h/d".to_owned());
    let error = readmodel::migrate(&config).await.unwrap_err();
    assert!(matches!(error, ReadModelError::InvalidUrl) && !error.to_string().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    config.database_url = None;
    let error = readmodel::migrate(&config).await.unwrap_err();
    assert!(matches!(error, ReadModelError::NotConfigured), "{error}");
}
