//! The comparison itself: a row that is not the fold's is found.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::{
    bench::Bench,
    commands::{create, push, say},
    equation,
};

/// A damage, and its repair.
const DAMAGES: [(&str, &str); 9] = [
    ("update messages set json = json || ' '", "update messages set json = rtrim(json)"),
    ("update messages set cursor = cursor + 100", "update messages set cursor = cursor - 100"),
    ("update messages set tenant_id = 'globex'", "update messages set tenant_id = 'acme'"),
    ("update messages set bytes = bytes + 1", "update messages set bytes = bytes - 1"),
    ("update scopes set live_count = 9", "update scopes set live_count = 2"),
    ("update scopes set clock_us = clock_us + 1", "update scopes set clock_us = clock_us - 1"),
    ("update members set role = 'admin'", "update members set role = 'owner'"),
    (
        "update outcomes set body = replace(body, '\"synced\":2', '\"synced\":1')",
        "update outcomes set body = replace(body, '\"synced\":1', '\"synced\":2')",
    ),
    (
        "create table kept as select * from messages where cursor = 2;
         delete from messages where cursor = 2",
        "insert into messages select * from kept",
    ),
];

#[tokio::test]
async fn a_damaged_row_is_found() {
    let bench = Bench::new().await;
    bench.append(&create("acme/team/t", "ann")).await;
    bench.append(&push("acme/team/t", "ann", &[say("one"), say("two")])).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    for (damage, repair) in DAMAGES {
        sqlx::raw_sql(damage).execute(&bench.pool).await.unwrap();
        let check = equation::check(bench.log.as_ref(), &bench.pool);
        let found = AssertUnwindSafe(check).catch_unwind().await.is_err();
        assert!(found, "{damage}: not found");
        sqlx::raw_sql(repair).execute(&bench.pool).await.unwrap();
        bench.check().await;
    }
}
