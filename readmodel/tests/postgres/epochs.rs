//! Which cursors of an epoch are good in a later one.

use model::{Cursor, Epoch, ScopeRef};
use readmodel::{
    DatabaseRole,
    epochs::{Kept, kept},
};
use uuid::Uuid;

use crate::{database::Database, writer::Writer};

fn epoch(number: u128) -> Epoch {
    Epoch(Uuid::from_u128(number))
}

/// Epoch, whether it keeps the scopes that it does not list, and up to where it keeps the scope, if it lists it.
const EPOCHS: [(u128, bool, Option<i64>); 5] =
    [(1, false, None), (2, false, Some(10)), (3, true, Some(7)), (4, true, None), (5, false, None)];

#[tokio::test]
async fn a_cursor_is_good_up_to_the_least_of_what_was_kept_since() {
    let database = Database::migrated().await;
    let _ = Writer::new(&database).await;
    let scope = ScopeRef(Uuid::from_u128(99));
    let owner = database.owner_pool();
    sqlx::query("delete from context_sync_settings.epochs").execute(&owner).await.unwrap();
    for (number, keeps, base) in EPOCHS {
        sqlx::query(
            "insert into context_sync_settings.epochs select $1, $2, log_id, $3 from source",
        )
        .bind(number as i32)
        .bind(epoch(number).0)
        .bind(keeps)
        .execute(&owner)
        .await
        .unwrap();
        if let Some(base) = base {
            sqlx::query("insert into context_sync_settings.bases values ($1, $2, $3)")
                .bind(number as i32)
                .bind(scope.0)
                .bind(base)
                .execute(&owner)
                .await
                .unwrap();
        }
    }
    let all = i64::MAX;
    for role in [DatabaseRole::Api, DatabaseRole::Ingest] {
        let pool = database.role(role);
        for (named, present, base) in [
            (Some(1), 1, None),
            (None, 4, None),
            (Some(1), 2, Some(10)),
            (Some(1), 3, Some(7)),
            (Some(2), 3, Some(7)),
            (Some(1), 4, Some(7)),
            (Some(3), 4, Some(all)),
            // A scope that it neither lists nor keeps.
            (Some(4), 5, Some(0)),
            (Some(1), 5, Some(0)),
            // Later than the present one, or never in force.
            (Some(4), 3, Some(0)),
            (Some(77), 4, Some(0)),
        ] {
            let found = kept(&pool, scope, named.map(epoch), epoch(present)).await.unwrap();
            assert_eq!(found.base(), base.map(Cursor::from_i64), "{named:?} in {present}");
            assert!(found.keeps(Cursor::from_i64(base.unwrap_or(all))));
            let beyond = base.filter(|base| *base < all).map(|base| Cursor::from_i64(base).next());
            assert!(beyond.is_none_or(|beyond| !found.keeps(beyond)));
        }
    }
    assert_eq!(Kept::ALL.up_to(Cursor::ZERO), Kept::ALL);
    let five = Cursor::from_i64(5);
    assert_eq!(Kept::NOTHING.up_to(five).base(), Some(Cursor::ZERO));
}
