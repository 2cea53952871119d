//! Rebuilding: what differs is found and mended, what is stopped goes on, what does not belong together is refused.

use projector::{ProjectorConfig, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use readmodel::{DatabaseConfig, feed::Feed};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    bench::{Bench, batches, open},
    commands::{create, push, say},
};

const ANN: &str = "acme/user/ann";
const TEAM: &str = "acme/team/t";

fn rebuilder(bench: &Bench, config: ProjectorConfig) -> Rebuilder {
    let (database, log) = (bench.database.config.clone(), bench.log.clone());
    Rebuilder { config, database, log, archive: None, feed: Feed::new(true) }
}

fn dry() -> RebuildRequest {
    RebuildRequest { dry_run: true, ..RebuildRequest::default() }
}

fn of_scope(scope: &str, dry_run: bool) -> RebuildRequest {
    RebuildRequest { scope: Some(scope.to_owned()), dry_run, ..RebuildRequest::default() }
}

/// All that it says.
async fn said(rebuilder: Rebuilder, request: RebuildRequest) -> Vec<Rebuilding> {
    let (say, mut said) = mpsc::channel(16);
    let running = tokio::spawn(rebuilder.run(request, say, Default::default()));
    let mut lines = Vec::new();
    while let Some(line) = said.recv().await {
        lines.push(line);
    }
    running.await.unwrap();
    lines
}

/// What it came to, and the scopes that differed.
async fn rebuild(bench: &Bench, request: RebuildRequest) -> (Rebuilt, Vec<String>) {
    let mut lines = said(rebuilder(bench, batches()), request).await;
    let rebuilt = match lines.pop() {
        Some(Rebuilding::Done(rebuilt)) => rebuilt,
        other => panic!("{other:?} after {lines:?}"),
    };
    let differs = lines.into_iter().filter_map(|line| match line {
        Rebuilding::Differs(difference) => Some(difference.scope),
        _ => None,
    });
    (rebuilt, differs.collect())
}

async fn refusal(rebuilder: Rebuilder, request: RebuildRequest) -> String {
    match said(rebuilder, request).await.pop() {
        Some(Rebuilding::Failed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

async fn execute(bench: &Bench, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&bench.pool).await.unwrap();
}

/// Two scopes with messages that were edited and deleted.
async fn folded() -> Bench {
    let bench = Bench::new().await;
    bench.append(&create(TEAM, "ann")).await;
    let (edited, deleted) = (Uuid::new_v4(), Uuid::new_v4());
    let message = |id: Uuid, content: &str| json!({"id": id, "type": "decision", "content": content, "base_cursor": 99});
    for key in [TEAM, ANN] {
        bench.append(&push(key, "ann", &[say("one"), say("two"), say("one")])).await;
        bench.append(&push(key, "ann", &[message(edited, "a"), message(deleted, "b")])).await;
        bench.append(&push(key, "ann", &[message(edited, "c")])).await;
        let delete = json!({"id": deleted, "deleted": true, "base_cursor": 99});
        bench.append(&push(key, "ann", &[delete])).await;
    }
    bench.append_raw(ANN, b"no event".to_vec()).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    bench
}

#[tokio::test]
async fn what_is_well_is_found_well_and_rebuilt_as_it_was() {
    let bench = folded().await;
    let expected = Rebuilt {
        scopes: 2,
        differing: 0,
        tenants: 0,
        swapped: false,
        resumed: false,
        epoch: None,
    };
    assert_eq!(rebuild(&bench, dry()).await, (expected.clone(), vec![]));
    let swapped = Rebuilt { swapped: true, ..expected };
    for _ in 0..2 {
        assert_eq!(rebuild(&bench, RebuildRequest::default()).await, (swapped.clone(), vec![]));
        bench.check().await;
    }
    // The projector goes on with the tables that are there now.
    let running = bench.start();
    bench.append(&push(TEAM, "ann", &[say("three")])).await;
    bench.check().await;
    running.stop().await;
    let left: Vec<String> = sqlx::query_scalar(
        "select nspname from pg_namespace where nspname like 'context_sync_rebuilt%'",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    assert_eq!(left, Vec::<String>::new());
}

/// Tables, indexes, constraints, policies and grants by their definitions.
const DEFINITIONS: &str = "
    select c.relname || ' ' || c.relrowsecurity || c.relforcerowsecurity || coalesce(c.reloptions::text, '')
        || coalesce((select string_agg(grants::text, ',' order by grants::text)
               from unnest(c.relacl) as grants where grants::text not like '%=arwdDxtm/%'), '')
    from pg_class c where c.relnamespace = 'context_sync'::regnamespace and c.relkind = 'r'
    union all select indexdef from pg_indexes where schemaname = 'context_sync'
    union all select conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        from pg_constraint where connamespace = 'context_sync'::regnamespace
    union all select policies::text from pg_policies policies where schemaname = 'context_sync'
    union all select attrelid::regclass::text || ' ' || attname || ' ' || attstorage::text || ' ' || attnotnull::text
            || coalesce(attacl::text, '') || coalesce(pg_get_expr(adbin, adrelid), '')
        from pg_attribute join pg_class c on c.oid = attrelid
            left join pg_attrdef d on d.adrelid = attrelid and d.adnum = attnum
        where c.relnamespace = 'context_sync'::regnamespace and c.relkind = 'r' and attnum > 0
    order by 1";

#[tokio::test]
async fn the_tables_are_the_migrations_afterwards() {
    let bench = folded().await;
    let definitions = async || -> Vec<String> {
        sqlx::query_scalar(DEFINITIONS).fetch_all(&bench.pool).await.unwrap()
    };
    let before = definitions().await;
    assert!(before.len() > 100, "{before:?}");
    rebuild(&bench, RebuildRequest::default()).await;
    assert_eq!(definitions().await, before);
}

#[tokio::test]
async fn what_differs_is_named_and_mended() {
    let bench = folded().await;
    let of = |sql: &str| sql.replace("TEAM", "(select scope from scopes where kind = 'team')");
    for damage in [
        "update messages set json = json || ' ' where cursor = 2 and scope = TEAM",
        "update messages set body_hash = sha256(body_hash) where cursor = 1 and scope = TEAM",
        "update scopes set live_count = 9, digest = sha256(digest) where scope = TEAM",
        "update members set role = 'admin' where scope = TEAM",
        "delete from members where scope = TEAM",
        "update outcomes set body = replace(body, '\"synced\":2', '\"synced\":1') where scope = TEAM",
        "delete from outcomes where scope = TEAM",
        "update message_history set json = json || ' ' where scope = TEAM and result = 'replaced'",
        "delete from message_history where scope = TEAM",
    ] {
        execute(&bench, &of(damage)).await;
        for scope in [None, Some(TEAM)] {
            let request = RebuildRequest { scope: scope.map(str::to_owned), ..dry() };
            let (rebuilt, differs) = rebuild(&bench, request).await;
            assert_eq!((rebuilt.differing, differs), (1, vec![TEAM.to_owned()]), "{damage}");
        }
        let (rebuilt, differs) = rebuild(&bench, of_scope(ANN, true)).await;
        assert_eq!((rebuilt.scopes, rebuilt.differing, differs), (1, 0, vec![]), "{damage}");
        let mend = match damage.starts_with("update") {
            true => RebuildRequest::default(),
            false => of_scope(TEAM, false),
        };
        let (rebuilt, _) = rebuild(&bench, mend).await;
        assert_eq!(
            (rebuilt.swapped, rebuilt.epoch),
            (true, None),
            "{damage}: cursors say the same"
        );
        bench.check().await;
    }
    // What a tenant has is of no scope.
    execute(&bench, "update tenant_usage set live_bytes = live_bytes + 1").await;
    let (rebuilt, differs) = rebuild(&bench, dry()).await;
    assert_eq!((rebuilt.differing, rebuilt.tenants, differs), (0, 1, vec!["acme".to_owned()]));
    rebuild(&bench, RebuildRequest::default()).await;
    assert_eq!(rebuild(&bench, dry()).await.0.tenants, 0);
    let running = bench.start();
    bench.append(&push(TEAM, "ann", &[say("three")])).await;
    bench.check().await;
    running.stop().await;
}

/// A log of 40 records, all folded.
async fn forty() -> Bench {
    let bench = Bench::new().await;
    for number in 0..40 {
        bench.append(&push(ANN, "ann", &[say(&format!("message {number}"))])).await;
    }
    let running = bench.start();
    bench.caught_up().await;
    running.stop().await;
    bench
}

#[tokio::test]
async fn a_rebuild_that_is_stopped_goes_on_where_it_was() {
    let bench = forty().await;
    for request in [RebuildRequest::default(), of_scope(ANN, false)] {
        let one = ProjectorConfig { batch_records_max: 1, ..batches() };
        let (say, mut said) = mpsc::channel(1);
        let stopped =
            tokio::spawn(rebuilder(&bench, one).run(request.clone(), say, Default::default()));
        loop {
            match said.recv().await.unwrap() {
                Rebuilding::Folded { records, of } if records >= 5 => {
                    assert_eq!(of, 40);
                    break;
                }
                Rebuilding::Folded { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        drop(said);
        stopped.await.unwrap();
        let dry = RebuildRequest { dry_run: true, ..request.clone() };
        let (rebuilt, _) = rebuild(&bench, dry).await;
        assert!(rebuilt.resumed, "{request:?}");
        let (rebuilt, _) = rebuild(&bench, request).await;
        assert_eq!((rebuilt.resumed, rebuilt.differing), (false, 0), "a dry run leaves nothing");
        bench.check().await;
    }
}

/// Whoever commits does not wait for what can be folded before.
#[tokio::test]
async fn what_is_there_is_folded_before_anybody_waits() {
    let bench = forty().await;
    // Somebody commits for a while: nothing is held until that is done.
    let mut committing = bench.pool.begin().await.unwrap();
    let lock = "select from context_sync.positions for update";
    sqlx::query(lock).execute(&mut *committing).await.unwrap();
    let (say, mut said) = mpsc::channel(1_000);
    let running = tokio::spawn(rebuilder(&bench, batches()).run(dry(), say, Default::default()));
    let folded = async {
        while let Some(line) = said.recv().await {
            if matches!(line, Rebuilding::Folded { records: 40, of: 40 }) {
                return true;
            }
        }
        false
    };
    let folded = tokio::time::timeout(std::time::Duration::from_secs(20), folded).await;
    assert_eq!(folded, Ok(true), "all is folded meanwhile");
    committing.rollback().await.unwrap();
    while said.recv().await.is_some() {}
    running.await.unwrap();
}

#[tokio::test]
async fn a_scope_that_is_none_is_refused() {
    let bench = folded().await;
    let reason = refusal(rebuilder(&bench, batches()), of_scope("acme/user/nobody", true)).await;
    assert!(reason.contains("no scope acme/user/nobody"), "{reason}");
    let (rebuilt, _) = rebuild(&bench, of_scope(ANN, true)).await;
    assert_eq!((rebuilt.scopes, rebuilt.resumed), (1, false));
}

/// A batch that was folded from the rows before a swap is not written to those after it.
#[tokio::test]
async fn batches_of_the_rows_before_are_not_written_to_the_rows_after() {
    let bench = folded().await;
    let running = bench.start_with_small_batches();
    for round in 0..3 {
        let pushing = async {
            for number in 0..60 {
                let say = say(&format!("{round}: {number}"));
                bench.append(&push(if number % 3 == 0 { TEAM } else { ANN }, "ann", &[say])).await;
            }
        };
        let request = match round {
            1 => of_scope(ANN, false),
            _ => RebuildRequest::default(),
        };
        let ((rebuilt, differs), ()) = tokio::join!(rebuild(&bench, request), pushing);
        assert_eq!((rebuilt.swapped, differs), (true, vec![]));
        bench.check().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn what_does_not_belong_together_is_refused_and_nothing_is_changed() {
    let bench = folded().await;
    let dir = tempfile::tempdir().unwrap();
    let other = Rebuilder { log: open(dir.path()).await, ..rebuilder(&bench, batches()) };
    let reason = refusal(other, RebuildRequest::default()).await;
    assert!(reason.contains("was built from log"), "{reason}");

    for bad in ["acme/team", "acme/club/x", ""] {
        let reason = refusal(rebuilder(&bench, batches()), of_scope(bad, false)).await;
        assert!(reason.contains("takes tenant/kind/name"), "{reason}");
    }

    let login = format!("stranger_{}", Uuid::new_v4().simple());
    execute(
        &bench,
        &format!("create role {login} login in role context_sync_projector password 'x'"),
    )
    .await;
    let url = bench.database.url();
    let (_, host) =
        url.rsplit_once('@').unwrap_or_else(|| url.split_at(url.find("//").unwrap() + 2));
    let url = format!("postgres://{login}:x@{host}");
    let database = DatabaseConfig { database_url: Some(url), ..bench.database.config.clone() };
    let stranger = Rebuilder { database, ..rebuilder(&bench, batches()) };
    let reason = refusal(stranger, RebuildRequest::default()).await;
    execute(&bench, &format!("drop role {login}")).await;
    assert!(reason.contains("does not own"), "{reason}");

    let fresh = Bench::new().await;
    let reason = refusal(rebuilder(&fresh, batches()), RebuildRequest::default()).await;
    assert!(reason.contains("of no log yet"), "{reason}");
    bench.check().await;
}
