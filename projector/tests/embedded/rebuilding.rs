//! Rebuilding: what differs is found and mended, what is stopped goes on, what does not belong together is refused.

use archive::{Archive, ArchiveAddress, ArchiveConfig, base};
use model::{Action, Cursor, FoldRevision};
use projector::{ProjectorConfig, RebuildRequest, Rebuilder, Rebuilding, Rebuilt};
use readmodel::{DatabaseConfig, feed::Feed};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use crate::{
    bench::{Bench, batches, open},
    commands::{command, create, push, say},
    equation::eventually,
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
    let running = bench.start();
    running.ready().await; // a log with records would be another epoch's
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
        "select nspname from pg_namespace where nspname like 'context_sync_re%'",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    assert_eq!(left, Vec::<String>::new());
}

/// A lost read model that is filled by the same revision of the fold keeps its cursors: it must not be thought of rows that
/// another one folded.
#[tokio::test]
async fn rows_are_of_this_revision_of_the_fold_once_all_are_rebuilt() {
    let bench = folded().await;
    let revision = async || -> i32 {
        let last =
            "select fold_revision from context_sync_settings.epochs order by number desc limit 1";
        sqlx::query_scalar(last).fetch_one(&bench.pool).await.unwrap()
    };
    assert_eq!(revision().await, FoldRevision::CURRENT.0 as i32);
    execute(&bench, "update context_sync_settings.epochs set fold_revision = 99").await;
    for (request, expected) in [
        (dry(), 99),
        (of_scope(TEAM, false), 99),
        (RebuildRequest::default(), FoldRevision::CURRENT.0 as i32),
    ] {
        let (rebuilt, _) = rebuild(&bench, request.clone()).await;
        assert_eq!((rebuilt.epoch, revision().await), (None, expected), "{request:?}");
    }
    // A scope that is rebuilt into an epoch of its own says nothing of the others.
    execute(&bench, "update context_sync_settings.epochs set fold_revision = 99").await;
    execute(&bench, "update messages set cursor = cursor + 90").await;
    execute(&bench, "update scopes set head = head + 90").await;
    let (rebuilt, _) = rebuild(&bench, of_scope(TEAM, false)).await;
    assert!(rebuilt.epoch.is_some());
    assert_eq!(revision().await, 99);
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

/// Stops a rebuild of [`forty`] records once some are folded.
async fn stopped_half_way(bench: &Bench, request: &RebuildRequest) {
    let one = ProjectorConfig { batch_records_max: 1, ..batches() };
    let (say, mut said) = mpsc::channel(1);
    let stopped = tokio::spawn(rebuilder(bench, one).run(request.clone(), say, Default::default()));
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
}

/// Rows that are not what they sum up to take nobody's place: one that is another than it was written, or is gone.
#[tokio::test]
async fn rebuilt_rows_that_do_not_come_to_their_sums_are_not_swapped_in() {
    let bench = forty().await;
    let live = async || {
        let live = "select 'messages'::regclass::oid::bigint, string_agg(m::text, ';' order by cursor) from messages m";
        sqlx::query_as::<_, (i64, String)>(live).fetch_one(&bench.pool).await.unwrap()
    };
    let damages = [
        "update SET.messages set body_hash = sha256('another') where cursor = 1",
        "delete from SET.messages where cursor = 1",
    ];
    for (request, set) in [
        (RebuildRequest::default(), "context_sync_rebuilt"),
        (of_scope(ANN, false), "context_sync_rebuilt_scope"),
    ] {
        for damage in damages {
            stopped_half_way(&bench, &request).await;
            execute(&bench, &damage.replace("SET", set)).await;
            let before = live().await;
            let reason = refusal(rebuilder(&bench, batches()), request.clone()).await;
            assert!(reason.contains("is damaged: the rebuilt messages of scope"), "{reason}");
            assert!(live().await == before, "the live rows are those that were there");
            let anew = RebuildRequest { anew: true, ..request.clone() };
            let (rebuilt, differs) = rebuild(&bench, anew).await;
            assert_eq!((rebuilt.swapped, rebuilt.resumed, differs), (true, false, vec![]));
            bench.check().await;
        }
    }
}

/// An event that the live rows have and the rebuilt ones do not, because the database refused it there.
#[tokio::test]
async fn rebuilt_rows_that_lack_an_event_are_not_swapped_in() {
    let bench = forty().await;
    let request = RebuildRequest::default();
    stopped_half_way(&bench, &request).await;
    let forbid = "alter table context_sync_rebuilt.messages add constraint bug check (json not like '%unlucky%')";
    execute(&bench, forbid).await;
    let running = bench.start();
    bench.append(&push(ANN, "ann", &[say("unlucky")])).await;
    bench.append(&push(ANN, "ann", &[say("after it")])).await;
    bench.caught_up().await;
    running.stop().await;
    let reason = refusal(rebuilder(&bench, batches()), request.clone()).await;
    assert!(reason.contains("refuses an event of the log that the live rows have"), "{reason}");
    assert_eq!(bench.head(ANN).await, Some(42));
    bench.check().await;
    let anew = RebuildRequest { anew: true, ..request };
    assert!(rebuild(&bench, anew).await.0.swapped);
    bench.check().await;
}

#[tokio::test]
async fn a_rebuild_that_is_stopped_goes_on_where_it_was() {
    let bench = forty().await;
    for request in [RebuildRequest::default(), of_scope(ANN, false)] {
        stopped_half_way(&bench, &request).await;
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
    let mut owner = bench.database.owner().await;
    let mut committing = owner.begin().await.unwrap();
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

/// Whatever is left to fold, few records or many, those who push do not wait for it.
#[tokio::test]
async fn nobody_waits_for_what_is_folded() {
    let bench = folded().await;
    let shadow_is_at = async |end: i64| {
        let query = "select case when to_regclass('context_sync_rebuilt.positions') is null then 0 else
            (xpath('//sum/text()', query_to_xml('select sum(next_offset) from context_sync_rebuilt.positions', false, true, '')))[1]::text::bigint end";
        let at: Option<i64> = sqlx::query_scalar(query).fetch_one(&bench.pool).await.unwrap();
        (at == Some(end)).then_some(())
    };
    let end: i64 = sqlx::query_scalar("select sum(next_offset)::bigint from positions")
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    // The live rows are another's, so that the rebuild cannot have them: it folds all the same.
    let mut holder = bench.database.owner().await;
    hold(&mut holder, "select from positions for update").await;
    // What is left of a log that was cut is the log's end: more may come while the live rows are held.
    let request = RebuildRequest { cut_log: true, ..RebuildRequest::default() };
    let running = tokio::spawn(said(rebuilder(&bench, batches()), request));
    eventually("all is folded", async || shadow_is_at(end).await).await;
    bench.database.until_waiting(1).await;
    // One record is left, and cannot be folded: it is not waited for with the live rows in hand.
    let mut slow = bench.database.owner().await;
    hold(&mut slow, "lock table context_sync_rebuilt.outcomes in share mode").await;
    bench.append(&push(ANN, "ann", &[say("late")])).await;
    sqlx::raw_sql("commit").execute(&mut holder).await.unwrap();
    bench.database.until_waiting(1).await;
    hold(&mut holder, "set local lock_timeout = '1900ms'; select from positions for update").await;
    sqlx::raw_sql("commit").execute(&mut holder).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut slow).await.unwrap();
    let last = running.await.unwrap().pop();
    assert!(matches!(&last, Some(Rebuilding::Done(rebuilt)) if rebuilt.swapped), "{last:?}");
    bench.check().await;
}

/// A rebuild that has something to say about a scope that differs, and nobody listens yet: it stands where both sets are
/// compared, before the swap.
async fn comparing(bench: &Bench) -> (mpsc::Receiver<Rebuilding>, JoinHandle<()>) {
    execute(bench, "update members set role = 'admin'").await;
    let (say, said) = mpsc::channel(1);
    let rebuilder = rebuilder(bench, batches());
    let running = tokio::spawn(rebuilder.run(RebuildRequest::default(), say, Default::default()));
    eventually("comparing", async || {
        let query = "select exists (select from pg_locks l join pg_stat_activity a using (pid)
            where l.relation = to_regclass('context_sync_rebuilt.members') and l.mode = 'AccessShareLock'
                and a.state = 'idle in transaction')";
        let is_there: bool = sqlx::query_scalar(query).fetch_one(&bench.pool).await.unwrap();
        is_there.then_some(())
    })
    .await;
    (said, running)
}

async fn last(mut said: mpsc::Receiver<Rebuilding>) -> Rebuilding {
    let mut last = None;
    while let Some(line) = said.recv().await {
        last = Some(line);
    }
    last.unwrap()
}

#[tokio::test]
async fn a_swap_that_meets_somebody_is_tried_again() {
    let bench = folded().await;
    let (said, running) = comparing(&bench).await;
    let mut other = bench.database.owner().await;
    hold(&mut other, "lock table context_sync_rebuilt.restores in access share mode").await;
    let ends = tokio::spawn(last(said));
    bench.database.until_waiting(1).await;
    assert!(!running.is_finished());
    sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    running.await.unwrap();
    let end = ends.await.unwrap();
    assert!(matches!(&end, Rebuilding::Done(rebuilt) if rebuilt.swapped), "{end:?}");
    bench.check().await;
}

#[tokio::test]
async fn a_migration_that_came_meanwhile_is_not_undone() {
    let bench = folded().await;
    let (said, running) = comparing(&bench).await;
    let pool = bench.pool.clone();
    let migrating = tokio::spawn(async move {
        let migration = "begin; alter table messages add column later integer;
            insert into _sqlx_migrations (version, description, success, checksum, execution_time)
            values (9999, 'later', true, '', 0); commit";
        sqlx::raw_sql(migration).execute(&pool).await.unwrap();
    });
    bench.database.until_waiting(1).await;
    let end = last(said).await;
    assert!(matches!(&end, Rebuilding::Failed(why) if why.contains("was migrated")), "{end:?}");
    running.await.unwrap();
    migrating.await.unwrap();
    execute(&bench, "select later from messages").await;
}

/// Whoever asked before the last records were folded is not shown the rebuilt rows without them.
#[tokio::test]
async fn an_older_snapshot_sees_no_less_than_it_did() {
    let bench = folded().await;
    let heads = "select sum(head)::bigint from scopes";
    let before: Option<i64> = sqlx::query_scalar(heads).fetch_one(&bench.pool).await.unwrap();
    let mut older = bench.database.owner().await;
    hold(&mut older, "set transaction isolation level repeatable read; select 1").await;
    let (said, running) = comparing(&bench).await;
    let ends = tokio::spawn(last(said));
    eventually("the swap is tried", async || {
        let query = "select exists (select from pg_locks where mode = 'ExclusiveLock'
            and relation = 'context_sync.positions'::regclass)";
        let is_tried: bool = sqlx::query_scalar(query).fetch_one(&bench.pool).await.unwrap();
        (is_tried || running.is_finished()).then_some(())
    })
    .await;
    let seen: Option<i64> = sqlx::query_scalar(heads).fetch_one(&mut older).await.unwrap();
    assert_eq!(seen, before);
    sqlx::raw_sql("commit").execute(&mut older).await.unwrap();
    running.await.unwrap();
    let end = ends.await.unwrap();
    assert!(matches!(&end, Rebuilding::Done(rebuilt) if rebuilt.swapped), "{end:?}");
    bench.check().await;
}

/// The archive has an epoch once it is in force, and not before.
#[tokio::test]
async fn an_epoch_is_kept_when_it_is_in_force() {
    let bench = folded().await;
    let folder = tempfile::tempdir().unwrap();
    let address = ArchiveAddress::File(folder.path().to_owned());
    let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
    let kept = async || {
        let epochs = base::epochs(&archive, bench.log.log_id()).await.unwrap();
        epochs.iter().map(|stored| stored.epoch.to_string()).collect::<Vec<_>>()
    };
    // As if other rules had given out the team's cursors.
    execute(
        &bench,
        "update messages m set cursor = cursor + 10 from scopes s where s.scope = m.scope and s.kind = 'team';
         update scopes set head = head + 10 where kind = 'team'",
    )
    .await;
    // A swap that does not come to be.
    let mut other = bench.database.owner().await;
    hold(&mut other, "lock table scopes in access share mode").await;
    let (say, said) = mpsc::channel(16);
    let archiving = Rebuilder { archive: Some(archive.clone()), ..rebuilder(&bench, batches()) };
    let running = tokio::spawn(archiving.run(RebuildRequest::default(), say, Default::default()));
    bench.database.until_waiting(1).await;
    drop(said);
    running.await.unwrap();
    assert_eq!(kept().await, Vec::<String>::new());
    sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    // One that comes to be, and is told of by the projector: the rebuild knows no archive.
    let (rebuilt, _) = rebuild(&bench, RebuildRequest::default()).await;
    let projecting = bench.start_archiving(&archive);
    eventually("the epoch is kept", async || {
        (kept().await == [rebuilt.epoch.clone().unwrap()]).then_some(())
    })
    .await;
    projecting.stop().await;
}

/// Rows that differ, if not by their cursors, may give out other ones to what comes before the swap.
#[tokio::test]
async fn cursors_that_come_to_differ_while_it_compares_begin_an_epoch() {
    let bench = folded().await;
    // Live, the message is not found any more.
    let damage = "update messages set content_key = gen_random_uuid(), id_key = gen_random_uuid() where cursor = 1 and scope = TEAM";
    execute(&bench, &damage.replace("TEAM", "(select scope from scopes where kind = 'team')"))
        .await;
    let head = bench.head(TEAM).await.unwrap();
    let (said, running) = comparing(&bench).await;
    let projecting = bench.start();
    bench.append(&push(TEAM, "ann", &[say("one")])).await;
    bench.caught_up().await;
    assert_eq!(bench.head(TEAM).await, Some(head + 1), "rebuilt, it is a duplicate");
    let end = last(said).await;
    running.await.unwrap();
    projecting.stop().await;
    assert!(matches!(&end, Rebuilding::Done(rebuilt) if rebuilt.epoch.is_some()), "{end:?}");
    assert_eq!(bases(&bench).await, [head]);
    bench.check().await;
}

/// Of a log that was cut, another record comes to the place of one that an operator was done with.
#[tokio::test]
async fn marks_of_what_was_cut_off_are_forgotten() {
    let bench = folded().await;
    let mark = async |offset: i64| {
        sqlx::query(
            "insert into dead_letter_marks (partition, record_offset, log_id, mark, note)
             select partition, $1, log_id, 'discarded', '' from positions, source where partition = 0",
        )
        .bind(offset)
        .execute(&bench.pool)
        .await
        .unwrap();
    };
    let end = "select next_offset from positions where partition = 0";
    let end: i64 = sqlx::query_scalar(end).fetch_one(&bench.pool).await.unwrap();
    for offset in [end - 1, end, end + 9] {
        mark(offset).await;
    }
    rebuild(&bench, RebuildRequest::default()).await;
    let left: Vec<i64> = sqlx::query_scalar("select record_offset from dead_letter_marks")
        .fetch_all(&bench.pool)
        .await
        .unwrap();
    assert_eq!(left, [end - 1]);
}

/// A device that edits what was deleted and forgotten is told so, also where nothing else of its cursors is kept.
#[tokio::test]
async fn what_was_forgotten_stays_so_where_cursors_say_something_else() {
    let bench = folded().await;
    let head = bench.head(TEAM).await.unwrap();
    let expired = Action::TombstonesExpired { up_to: Cursor::from_i64(head) };
    bench.append(&command(TEAM, "ann", expired)).await;
    bench.append(&push(TEAM, "ann", &[say("the last")])).await;
    let running = bench.start();
    bench.check().await;
    running.stop().await;
    let damage = "update messages m set cursor = cursor + 10 from scopes s
             where s.scope = m.scope and s.kind = 'team' and m.cursor > s.floor;
         update scopes set head = head + 10 where kind = 'team'";
    execute(&bench, damage).await;
    let (rebuilt, _) = rebuild(&bench, RebuildRequest::default()).await;
    assert!(rebuilt.epoch.is_some());
    assert_eq!(bases(&bench).await, [head]);
    bench.check().await;
}

/// What scopes kept of an epoch.
async fn bases(bench: &Bench) -> Vec<i64> {
    let query = "select base from context_sync_settings.bases";
    sqlx::query_scalar(query).fetch_all(&bench.pool).await.unwrap()
}

async fn hold(connection: &mut PgConnection, sql: &str) {
    let hold = AssertSqlSafe(format!("begin; {sql}"));
    sqlx::raw_sql(hold).execute(connection).await.unwrap();
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
