//! An erasure of more than one transaction may delete.

use model::Action;
use serde_json::json;
use uuid::Uuid;

use crate::{
    bench::Bench,
    commands::{command, push, say, scope},
};

const ANN: &str = "acme/user/ann";
const BOB: &str = "acme/user/bob";

/// No statement deletes more past versions than that, and messages have no limit of time; the third deletion fails once.
const LIMITS: &str = "
create sequence context_sync.deletions;
create function context_sync.limit_deletions() returns trigger language plpgsql security definer as $$
begin
    if tg_table_name = 'message_history' and (select count(*) from gone) > 10000
        or tg_table_name = 'messages' and (select count(*) from gone) > 10000
            and current_setting('statement_timeout') <> '0'
    then raise exception 'too much at once'; end if;
    if (select count(*) from gone) > 0 and nextval('context_sync.deletions') = 3 then raise exception 'once'; end if;
    return null;
end $$;
create trigger limited after delete on context_sync.messages
    referencing old table as gone for each statement execute function context_sync.limit_deletions();
create trigger limited after delete on context_sync.message_history
    referencing old table as gone for each statement execute function context_sync.limit_deletions();";

/// Versions of Ann's that are long past.
const PAST: &str = "
insert into context_sync.message_history (id_key, record_offset, change, partition, scope, tenant_id, result, won_by,
    decided_at_us, json_bytes, json)
select gen_random_uuid(), 0, 0, partition, $1, 'acme', 'replaced', 1, time_us, 2, '{}'
from context_sync.positions, generate_series(1, 25000) where partition = $2";

/// All that came before it is committed then, and another user's pushes too; what comes after it finds nothing.
#[tokio::test]
async fn a_large_erasure_is_done_in_parts_and_gone_on_with() {
    let bench = Bench::new().await;
    let first = Uuid::new_v4();
    bench
        .append(&push(ANN, "ann", &[json!({"id": first, "type": "decision", "content": "0"})]))
        .await;
    for batch in 0..12 {
        let messages: Vec<_> = (0..1_000).map(|i| say(&format!("{i} of {batch}"))).collect();
        bench.append(&push(ANN, "ann", &messages)).await;
    }
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    let partition = eventlog::partition_of(ANN.as_bytes(), eventlog::EMBEDDED_PARTITIONS);
    sqlx::query(PAST)
        .bind(scope(ANN).reference().0)
        .bind(partition.get() as i32)
        .execute(&bench.pool)
        .await
        .unwrap();
    sqlx::raw_sql(LIMITS).execute(&bench.pool).await.unwrap();

    let edit = json!({"id": first, "type": "decision", "content": "1", "base_cursor": 1});
    bench.append(&push(ANN, "ann", &[edit])).await;
    bench.append(&push(BOB, "bob", &[say("mine")])).await;
    bench.append(&command(ANN, "ann", Action::ScopeErased)).await;
    bench.append(&push(ANN, "ann", &[say("0 of 0"), say("anew")])).await;
    let running = bench.start();
    bench.check().await; // also that the edit was one: its row was there when it was folded
    running.stop().await;
    let failed: bool = sqlx::query_scalar("select last_value >= 3 from context_sync.deletions")
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert!(failed);
    let left: (i64, i64) = sqlx::query_as(
        "select (select count(*) from context_sync.messages where scope = $1),
             (select count(*) from context_sync.message_history where scope = $1)",
    )
    .bind(scope(ANN).reference().0)
    .fetch_one(&bench.pool)
    .await
    .unwrap();
    assert_eq!(left, (2, 0));
}
