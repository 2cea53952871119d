//! The standing drill: backups are what is live, or the drill says which are not; and the ops port.

use archive::Archive;
use context_sync::serve::Role;
use model::{DrillRecord, Timestamp};
use readmodel::DatabaseRole;
use serde_json::{Value, json};
use sqlx::Row;

use crate::{
    backups::back_up,
    client::{USER, say, team},
    cluster::{ARCHIVING, Cluster},
    crash::run,
    equation::eventually,
};

archiving_on_both_logs! {
    backups_are_what_is_live_also_where_it_has_moved_on,
    what_is_not_as_it_was_backed_up_is_named,
    a_drill_is_asked_for_on_the_ops_port_and_kept,
    a_drill_is_due_at_start_and_not_again_before_its_time,
    what_would_expire_is_asked_for_on_the_ops_port,
}

/// As `ops drill` with --archive and --database-url does.
async fn drill(cluster: &Cluster) -> DrillRecord {
    let archive = Archive::open(&cluster.settings.archive).unwrap();
    let pool = cluster.database.role(DatabaseRole::Ingest);
    archiver::drill(&archive, &pool, 100, Timestamp::EPOCH, None).await.unwrap()
}

/// `ops drill` itself, where there is no archiver: its status, and what it says.
async fn drill_command(cluster: &Cluster) -> (Option<i32>, String) {
    let archive = cluster.settings.archive.archive.as_ref().unwrap().to_string();
    let database = cluster.database.url();
    let args = ["ops", "drill", "--archive", &archive, "--database-url", database];
    let ended = run(&args).await;
    let said = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8(said).unwrap())
}

/// Messages pushed, edited and deleted; backed up; then nothing archives any more.
async fn backed_up(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[]).await;
    ann.push(&team("web"), &[say("one"), say("two"), say("three"), say("four")]).await.ok();
    let pulled = ann.pull(&team("web"), "cursor=0").await.ok();
    let delete = json!({"id": pulled["messages"][3]["id"], "deleted": true, "base_cursor": 4});
    ann.push(&team("web"), &[delete]).await.ok();
    ann.push(USER, &[say("mine")]).await.ok();
    back_up(&ann, &team("web")).await;
    back_up(&ann, USER).await;
    cluster.restart(&[Role::Ingest, Role::Projector, Role::Api]).await;
}

async fn backups_are_what_is_live_also_where_it_has_moved_on(cluster: &mut Cluster) {
    backed_up(cluster).await;
    let record = drill(cluster).await;
    assert_eq!((record.scopes, record.failures), (2, vec![]));
    let ann = cluster.device("ann");
    let pulled = ann.pull(&team("web"), "cursor=0").await.ok();
    let id = |place: usize| pulled["messages"][place]["id"].clone();
    let edit = json!({"id": id(0), "type": "decision", "content": "ONE", "base_cursor": 99});
    let delete = json!({"id": id(1), "deleted": true, "base_cursor": 99});
    ann.push(&team("web"), &[edit, delete, say("five"), say("four")]).await.ok();
    let record = drill(cluster).await;
    assert_eq!((record.scopes, record.failures), (2, vec![]));
    let well = "well: the newest backups of 2 scopes are what is live\n";
    assert_eq!(drill_command(cluster).await, (Some(0), well.to_owned()));
}

/// Each is done to the rows, found, and undone.
async fn what_is_not_as_it_was_backed_up_is_named(cluster: &mut Cluster) {
    backed_up(cluster).await;
    let pool = cluster.database.owner_pool();
    for (change, undo, problem) in [
        (
            "update messages set body_hash = sha256(body_hash) where cursor = 2",
            "update messages set body_hash = b.body_hash from before b
             where messages.scope = b.scope and messages.cursor = b.cursor",
            "another version",
        ),
        (
            "delete from messages where cursor = 3",
            "insert into messages select * from before on conflict do nothing",
            "is not live",
        ),
        (
            "update scopes set digest = sha256(digest) where kind = 'team'",
            "update scopes set digest = b.digest from scopes_before b where b.scope = scopes.scope",
            "with digest",
        ),
        (
            "update scopes set head = head - 1 where kind = 'team'",
            "update scopes set head = head + 1 where kind = 'team'",
            "the read model is at cursor 4",
        ),
    ] {
        let keep = "create table before as select * from messages;
             create table scopes_before as select * from scopes;";
        for sql in [keep, change] {
            sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        }
        let record = drill(cluster).await;
        assert_eq!((record.scopes, record.failures.len()), (2, 1), "{change}: {record:?}");
        let failure = &record.failures[0];
        assert_eq!(failure.scope.to_string(), "acme/team/web");
        assert!(failure.problem.contains(problem), "{change}: {}", failure.problem);
        for sql in [undo, "drop table before; drop table scopes_before"] {
            sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        }
        assert_eq!(drill(cluster).await.failures, []);
    }
    // What is wrong with the object is named too.
    let path: String = sqlx::query(
        "select gcs_path from context_backups where scope_type = 'user' and backup_type = 'on_demand'",
    )
    .fetch_one(&pool)
    .await
    .unwrap()
    .get(0);
    let path = path.strip_prefix("file://").unwrap();
    let whole = std::fs::read(path).unwrap();
    std::fs::write(path, &whole[1..]).unwrap();
    let others = "update context_backups set expired_at = now() where backup_type <> 'on_demand'";
    sqlx::query(others).execute(&pool).await.unwrap();
    let record = drill(cluster).await;
    let failures: Vec<_> =
        record.failures.iter().map(|f| (f.scope.to_string(), &f.problem)).collect();
    assert!(
        matches!(&failures[..], [(scope, problem)] if scope == "acme/user/ann" && problem.contains("sha256")),
        "{failures:?}"
    );
    let (status, said) = drill_command(cluster).await;
    assert!(status == Some(1) && said.starts_with("acme/user/ann: backup "), "{said}");
    assert!(said.contains("\nwrong: the newest backups of 1 of 2 scopes"), "{said}");
}

/// Asks on the ops port; the lines of the answer.
async fn ask(cluster: &Cluster, path: &str) -> Vec<Value> {
    let url = format!("{}{path}", cluster.node.ops_url);
    let answer = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn a_drill_is_asked_for_on_the_ops_port_and_kept(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    back_up(&ann, USER).await;
    let said = ask(cluster, "/archive/drill?scopes=5").await;
    assert_eq!(said.last().unwrap(), &json!({"done": {"scopes": 1, "failures": 0}}), "{said:?}");
    assert_eq!(said[0]["scope"]["scope"], "acme/user/ann");
    let pool = cluster.database.role(DatabaseRole::Ingest);
    let kept = eventually("the drill is in the catalogue", async || {
        readmodel::drill::newest(&pool).await.unwrap()
    })
    .await;
    assert!(kept.1);
    let metrics = reqwest::get(format!("{}/metrics", cluster.node.ops_url)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for gauge in ["context_sync_drill_ok 1", "context_sync_drill_age_seconds "] {
        assert!(metrics.contains(gauge), "{gauge}: {metrics}");
    }
}

async fn drills(cluster: &Cluster) -> i64 {
    let pool = cluster.database.owner_pool();
    sqlx::query_scalar("select count(*) from drills where failures = '[]'")
        .fetch_one(&pool)
        .await
        .unwrap()
}

/// Nobody asks: --archive-drill-hours is a day.
async fn a_drill_is_due_at_start_and_not_again_before_its_time(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    back_up(&ann, USER).await;
    assert_eq!(drills(cluster).await, 0, "there was no backup when one was due");
    cluster.restart(ARCHIVING).await;
    eventually("a drill by itself", async || (drills(cluster).await == 1).then_some(())).await;
    // The next process knows of it. What is due comes before what is asked for, and its fact before a later backup's.
    cluster.restart(ARCHIVING).await;
    ask(cluster, "/archive/expire?dry_run=true").await;
    back_up(&cluster.device("ann"), USER).await;
    assert_eq!(drills(cluster).await, 1);
}

async fn what_would_expire_is_asked_for_on_the_ops_port(cluster: &mut Cluster) {
    // A page of a browser on the machine may send a request, and names where it comes from.
    for path in ["/archive/expire", "/archive/drill", "/rebuild?cut_log=true"] {
        let asked = reqwest::Client::new().post(format!("{}{path}", cluster.node.ops_url));
        let refused = asked.header("Origin", "https://example.org").send().await.unwrap();
        assert_eq!(refused.status(), 400, "{path}");
    }
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    back_up(&ann, USER).await;
    for dry_run in [true, false] {
        let said = ask(cluster, &format!("/archive/expire?dry_run={dry_run}")).await;
        let nothing = json!({"expired": 0, "bytes": 0, "stays": 0, "tombstones": 0});
        let done = json!({ "done": nothing });
        assert_eq!(said, [done], "nothing is over its time");
    }
}
