//! Operators' commands, as they are typed: `ops status`, `check`, `trace`, `dead-letters`. Through the ops port on both
//! logs, and straight to Kafka and Postgres.

use bytes::Bytes;
use eventlog::LogAddress;
use serde_json::{Value, json};
use service::auth::OrgRole;
use uuid::Uuid;

use crate::{
    backups::back_up,
    client::{Reply, USER, contents, say, team},
    cluster::{ALL, Cluster, LogKind},
    crash::run,
    equation::{caught_up, eventually},
};

/// What a command said, and its status.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) lines: Vec<String>,
    pub(crate) error: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        let text = self.lines.join("\n");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The objects of an answer that has one a line.
    pub(crate) fn objects(&self) -> Vec<Value> {
        self.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) async fn said(args: &[&str]) -> Said {
    let output = run(args).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        status: output.status.code().unwrap_or(-1),
        lines: text(&output.stdout).lines().map(str::to_owned).collect(),
        error: text(&output.stderr),
    }
}

/// Runs `ops …` against the cluster, with `--json`.
pub(crate) async fn ops(cluster: &Cluster, args: &[&str]) -> Said {
    let port = format!("--ops-url={}", cluster.node.ops_url);
    said(&[&["ops"][..], args, &[&port, "--json"]].concat()).await
}

/// The flags of a command that goes to Kafka, Postgres and the archive itself.
pub(crate) fn flags(cluster: &Cluster) -> Vec<String> {
    let log = &cluster.settings.log;
    let LogAddress::Kafka { brokers } = &log.log else { panic!("only Kafka") };
    vec![
        format!("--log=kafka://{brokers}"),
        format!("--log-topic-prefix={}", log.log_topic_prefix),
        format!("--database-url={}", cluster.database.url()),
        "--json".to_owned(),
    ]
}

pub(crate) async fn ops_with(args: &[&str], flags: &[String]) -> Said {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    said(&[&["ops"][..], args, &flags].concat()).await
}

pub(crate) async fn sql(cluster: &Cluster, statement: &str) {
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::query(statement).execute(&cluster.pool).await.unwrap();
}

/// Appends a record as no client can.
pub(crate) async fn append(cluster: &Cluster, key: &str, value: Vec<u8>) -> String {
    let appended = cluster.node.log.append(Bytes::from(key.to_owned()), Bytes::from(value)).await;
    let place = appended.unwrap().place.to_string();
    caught_up(cluster.node.log.as_ref(), &cluster.pool).await;
    place
}

both_logs! {
    status_says_that_all_is_well_and_what_is_not,
    a_refused_record_is_shown_retried_or_discarded,
    a_parked_scope_serves_pulls_until_it_is_retried,
    check_finds_what_the_log_does_not_fold_to,
    a_push_and_a_message_are_traced,
    a_conflict_is_seen_in_the_history_and_undone,
}

async fn status_says_that_all_is_well_and_what_is_not(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    let well = ops(cluster, &["status"]).await;
    let status = well.json();
    assert_eq!((well.status, &status["problems"], &status["unasked"]), (0, &json!([]), &json!([])));
    let partitions = status["partitions"].as_array().unwrap();
    let sum = |key: &str| partitions.iter().map(|own| own[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((partitions.len(), sum("log_end"), sum("projected"), sum("lag")), (4, 1, 1, 0));
    let none = json!({"refused": 0, "refused_scopes": [], "parked": []});
    assert_eq!(status["dead_letters"], none);
    assert!(status["database_bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["log_id"], cluster.node.log.log_id().to_string());
    // Whose they are is said of those that have the most.
    // Long ones count as one by what they begin with.
    let long = "k".repeat(512);
    let longer = [1, 2].map(|n| format!("{long}{n}"));
    for (key, records) in [
        ("acme/user/ann", 1),
        ("", 3),
        ("\x1b[2J", 4),
        ("x", 5),
        ("y", 6),
        ("z", 1),
        (&longer[0], 1),
        (&longer[1], 1),
    ] {
        for _ in 0..records {
            append(cluster, key, b"no event".to_vec()).await;
        }
    }
    let not = ops(cluster, &["status"]).await;
    assert_eq!(not.status, 1, "{not:?}");
    let of = |scope: &str, records: u64| json!({"scope": scope, "records": records});
    let most = [of("y", 6), of("x", 5), of("\x1b[2J", 4), of("", 3), of(&long, 2)];
    let letters = &not.json()["dead_letters"];
    assert_eq!((&letters["refused"], &letters["refused_scopes"]), (&json!(22), &json!(most)));
    // For people, on one screen.
    let port = format!("--ops-url={}", cluster.node.ops_url);
    let shown = said(&["ops", "status", &port]).await;
    let text = shown.lines.join("\n");
    assert_eq!(shown.status, 1);
    for line in [
        "PARTITION",
        "dead letters  22 refused",
        "  y: 6 refused\n",
        "  [2J: 4 refused\n",
        "  without a key: 3 refused\n",
        "  elsewhere: 2 refused",
        "last drill    never",
        "not well",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    // Where they cannot be asked for, all else is known.
    let substring = r#"execute on function pg_catalog."substring"(bytea, integer, integer)"#;
    sql(cluster, &format!("revoke {substring} from public")).await;
    let without = ops(cluster, &["status"]).await;
    sql(cluster, &format!("grant {substring} to public")).await;
    let (status, before) = (without.json(), not.json());
    let letters = &status["dead_letters"];
    assert_eq!((without.status, &letters["refused"]), (3, &json!(22)), "{without:?}");
    assert_eq!(letters["refused_scopes"], Value::Null);
    assert_eq!(status["unasked"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(status["unasked"][0]["part"], "refused_scopes");
    let projected = |of: &Value| {
        of["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|own| own["projected"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(projected(&status), projected(&before));
    assert_eq!(status["problems"], before["problems"]);
}

async fn a_refused_record_is_shown_retried_or_discarded(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.push(USER, &[say("one")]).await.ok();
    // An event of ann's under another's key, as a bad producer would have it.
    let first = model::Place {
        partition: eventlog::partition_of(b"acme/user/ann", 4),
        offset: model::Offset::ZERO,
    };
    let good = cluster.node.log.read_one(first).await.unwrap().unwrap();
    let model::Event::Command(mut command) = schemas::decode(&good.value).unwrap() else {
        panic!()
    };
    command.id = model::CommandId(Uuid::new_v4());
    if let model::Action::MessagesPushed { changes, .. } = &mut command.action {
        let two = model::draft::parse_change(&say("two").to_string(), &model::Limits::CONTRACT);
        changes[0].change = two.unwrap();
    }
    let value = schemas::encode_command(&command).unwrap();
    let misplaced = append(cluster, "acme/user/bob", value).await;
    let garbage = append(cluster, "acme/user/ann", b"\x1b[2Jno event".to_vec()).await;

    let listed = ops(cluster, &["dead-letters", "list"]).await.objects();
    let mut places: Vec<&str> = listed.iter().map(|l| l["place"].as_str().unwrap()).collect();
    let mut expected = vec![misplaced.as_str(), garbage.as_str()];
    places.sort_unstable();
    expected.sort_unstable();
    assert_eq!(places, expected);
    let shown = ops(cluster, &["dead-letters", "show", &misplaced]).await.json();
    assert!(shown["reason"].as_str().unwrap().contains("key is not the event's scope"));
    assert_eq!(shown["record"]["scope"], "acme/user/ann");
    assert_eq!(shown["record"]["command_id"], command.id.to_string());

    // Without --yes nothing happens; what is no event is never appended again.
    let before = cluster.ends().await;
    let asked = said(&[
        "ops",
        "dead-letters",
        "retry",
        &misplaced,
        &format!("--ops-url={}", cluster.node.ops_url),
    ])
    .await;
    assert!(asked.status == 1 && asked.lines.last().unwrap().contains("add --yes"), "{asked:?}");
    let left = ops(cluster, &["dead-letters", "retry", &garbage, "--yes"]).await;
    assert_eq!(left.status, 1, "{left:?}");
    assert!(left.lines[0].contains("it would be refused again"), "{left:?}");
    assert_eq!(cluster.ends().await, before);

    let retried = ops(cluster, &["dead-letters", "retry", &misplaced, "--yes"]).await;
    assert_eq!(retried.status, 0, "{retried:?}");
    assert!(retried.lines[0].contains("1 synced"), "{retried:?}");
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "two"]);
    let again = ops(cluster, &["dead-letters", "retry", &misplaced, "--yes"]).await;
    assert!(again.status == 1 && again.lines[0].contains("retried already"), "{again:?}");

    let discard = ["dead-letters", "discard", garbage.as_str(), "--note=a test", "--yes"];
    assert_eq!(ops(cluster, &discard).await.status, 0);
    assert_eq!(ops(cluster, &discard).await.status, 1, "once");
    assert_eq!(ops(cluster, &["dead-letters", "list"]).await.lines, [""; 0]);
    let all = ops(cluster, &["dead-letters", "list", "--all"]).await.objects();
    assert_eq!(all.len(), 2, "the rows stay: they are what the log folds to");
    assert_eq!(ops(cluster, &["status"]).await.status, 0);
    let none = ops(cluster, &["dead-letters", "show", "3-99999"]).await;
    assert!(none.status == 3 && none.error.contains("no dead letter at 3-99999"), "{none:?}");
}

async fn a_parked_scope_serves_pulls_until_it_is_retried(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.push(USER, &[say("one")]).await.ok();
    sql(cluster, "alter table messages add constraint bug check (json not like '%unlucky%')").await;
    let unlucky = ann.push(USER, &[say("unlucky")]).await;
    let location = unlucky.headers["location"].to_str().unwrap().to_owned();
    let accepted = unlucky.is(202);
    let three =
        Reply::of(ann.pushing(USER, &[say("three")]).header("Prefer", "respond-async")).await;
    three.is(202);
    bob.push(USER, &[say("bob's")]).await.ok();

    let page = ann.pull(USER, "").await.ok();
    assert_eq!(contents(&page), ["one"], "it shows what was before");
    let status = ops(cluster, &["status"]).await;
    let parked = &status.json()["dead_letters"]["parked"][0];
    assert_eq!(
        (status.status, &parked["scope"], &parked["events"]),
        (1, &json!("acme/user/ann"), &json!(2))
    );
    assert!(parked["reason"].as_str().unwrap().contains("bug"));
    let check = ops(cluster, &["check"]).await;
    let sums = check.objects().pop().unwrap();
    assert_eq!(
        (check.status, &sums["differ"]),
        (1, &json!(0)),
        "up to there they are equal: {sums}"
    );
    assert_eq!(sums["parked"], json!(["acme/user/ann"]));
    assert_eq!(ann.get(&location).await.ok(), accepted, "its outcome is still to come");
    let other = cluster.device_of("globex", "ann", OrgRole::Member);
    other.get(&location).await.problem(404, "NOT_FOUND");

    let place = parked["place"].as_str().unwrap();
    let discard = ops(cluster, &["dead-letters", "discard", place, "--yes"]).await;
    assert!(
        discard.status == 1 && discard.lines[0].contains("all other copies have folded it"),
        "{discard:?}"
    );
    let retry = ["dead-letters", "retry", "--scope=acme/user/ann", "--yes"];
    let still = ops(cluster, &retry).await;
    assert!(still.status == 1 && still.lines[0].contains("still_parked"), "{still:?}");

    // Somebody waits for what comes; the answer does not come from memory.
    let (waiting, told) = tokio::join!(ann.pull(USER, "cursor=1&wait=30"), async {
        sql(cluster, "alter table messages drop constraint bug").await;
        ops(cluster, &retry).await
    });
    assert_eq!(told.status, 0, "{told:?}");
    assert_eq!(contents(&waiting.ok())[0], "unlucky");
    assert_eq!(contents(&ann.pull(USER, "").await.ok()), ["one", "unlucky", "three"]);
    let completed = ann.get(&location).await.ok();
    assert_eq!((&completed["status"], &completed["cursor"]), (&json!("completed"), &json!(2)));
    ann.push(USER, &[say("four")]).await.ok();
    let check = ops(cluster, &["check"]).await;
    assert_eq!((check.status, check.lines.len()), (0, 1), "{check:?}");
    assert_eq!(ops(cluster, &["status"]).await.status, 0);
}

async fn check_finds_what_the_log_does_not_fold_to(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    ann.create_team("web", &[("bob", "member")]).await;
    let pushed = ann.push(&team("web"), &[say("one"), say("two"), say("three")]).await.ok();
    let edit = json!({"id": pushed["results"][0]["id"], "type": "decision", "content": "uno", "base_cursor": 1});
    ann.push(&team("web"), &[edit]).await.ok();
    ann.push(USER, &[say("mine")]).await.ok();
    append(cluster, "acme/user/ann", b"no event".to_vec()).await;
    let well = ops(cluster, &["check"]).await;
    let sums = well.objects().pop().unwrap();
    assert_eq!(
        (well.status, &sums["scopes"], &sums["messages"]),
        (0, &json!(2), &json!(4)),
        "{well:?}"
    );
    // Of any t parts, all together are all.
    let mut scopes = 0;
    for part in ["1/3", "2/3", "3/3"] {
        let sampled = ops(cluster, &["check", "--sample", part]).await;
        assert_eq!(sampled.status, 0, "{sampled:?}");
        scopes += sampled.objects().pop().unwrap()["scopes"].as_u64().unwrap();
    }
    assert_eq!(scopes, 2);

    let keep = "create table before as select * from messages;
        create table scopes_before as select * from scopes;
        create table members_before as select * from members;
        create table letters_before as select * from dead_letters;
        create table outcomes_before as select * from outcomes;
        create table history_before as select * from message_history;
        create table usage_before as select * from tenant_usage";
    sqlx::raw_sql(keep).execute(&cluster.pool).await.unwrap();
    for (change, problem, has_scope) in [
        ("update messages set json = replace(json, 'two', 'TWO')", "the JSON of message", true),
        (
            "update messages set body_hash = sha256(body_hash) where json like '%two%'",
            "its digest is stored as",
            true,
        ),
        ("delete from messages where json like '%three%'", "has no row", true),
        ("update scopes set clock_us = clock_us + 1 where kind = 'team'", "its clock is", true),
        ("update members set role = 'admin' where user_id = 'bob'", "member bob is another", true),
        ("delete from members where user_id = 'bob'", "member bob has no row", true),
        ("delete from outcomes", "has no row", false),
        ("delete from dead_letters", "no dead letter either", false),
        ("update message_history set json = json || ' '", "is not so by the log", true),
        ("update message_history set won_by = won_by + 1", "is not so by the log", true),
        ("delete from message_history", "has no row", true),
        (
            "update tenant_usage set live_bytes = live_bytes + 1",
            "what quotas are compared with is",
            false,
        ),
        (
            "update tenant_usage set live_count = live_count + 1",
            "what quotas are compared with is",
            false,
        ),
    ] {
        sql(cluster, change).await;
        let found = ops(cluster, &["check"]).await;
        let text = found.lines.join("\n");
        assert!(found.status == 1 && text.contains(problem), "{change}: {found:?}");
        if has_scope {
            let own = ops(cluster, &["check", "--scope=acme/team/web"]).await;
            assert_eq!(own.status, 1, "{change}: {own:?}");
            let other = ops(cluster, &["check", "--scope=acme/user/ann"]).await;
            assert_eq!(other.status, 0, "{change}: {other:?}");
        }
        let undo = "delete from messages; insert into messages select * from before;
            delete from scopes; insert into scopes select * from scopes_before;
            delete from members; insert into members select * from members_before;
            delete from dead_letters; insert into dead_letters select * from letters_before;
            delete from outcomes; insert into outcomes select * from outcomes_before;
            delete from message_history; insert into message_history select * from history_before;
            delete from tenant_usage; insert into tenant_usage select * from usage_before";
        sqlx::raw_sql(undo).execute(&cluster.pool).await.unwrap();
    }
    let drop = "drop table before, scopes_before, members_before, letters_before, outcomes_before,
        history_before, usage_before";
    sql(cluster, drop).await;
    assert_eq!(ops(cluster, &["check"]).await.status, 0);
    let none = ops(cluster, &["check", "--scope=acme/team/none"]).await;
    assert!(none.status == 3 && none.error.contains("no scope acme/team/none"), "{none:?}");
    let bad = ops(cluster, &["check", "--sample=4/3"]).await;
    assert!(bad.status == 2 && bad.error.contains("n/t"), "{bad:?}");
}

async fn a_push_and_a_message_are_traced(cluster: &mut Cluster) {
    let eve = cluster.device_of("globex", "eve", OrgRole::Member);
    let pushed = eve.push(USER, &[say("one"), say("two")]).await.ok();
    let (push, id) =
        (pushed["push_id"].as_str().unwrap(), pushed["results"][0]["id"].as_str().unwrap());
    let edit = json!({"id": id, "type": "decision", "content": "ONE", "base_cursor": 1});
    eve.named("phone").push(USER, &[edit]).await.ok();

    let traced = ops(cluster, &["trace", push]).await;
    let trace = traced.json();
    assert_eq!(
        (traced.status, &trace["what"], &trace["tenant"]),
        (0, &json!("command"), &json!("globex"))
    );
    let step = &trace["steps"][0];
    assert_eq!(
        (&step["device"], &step["actor"], &step["state"]),
        (&json!("eve-laptop"), &json!("eve"), &json!("projected"))
    );
    assert_eq!(
        step["messages"][0],
        json!({"message_id": id, "status": "created", "cursor": 1, "replaced_at": 3})
    );
    assert!(step["outcome"].as_str().unwrap().starts_with("pushed: 2 synced"), "{step}");

    let message = ops(cluster, &["trace", id]).await.json();
    assert_eq!(
        (&message["what"], &message["scope"]),
        (&json!("message"), &json!("globex/user/eve"))
    );
    let cursors: Vec<&Value> =
        message["steps"].as_array().unwrap().iter().map(|s| &s["messages"][0]["cursor"]).collect();
    assert_eq!(cursors, [1, 3]);
    // An outcome lives a day, the log longer.
    sql(cluster, "create table outcomes_before as select * from outcomes").await;
    sql(cluster, "delete from outcomes").await;
    let old = ops(cluster, &["trace", push]).await.json();
    assert_eq!(old["steps"], trace["steps"]);
    sql(cluster, "insert into outcomes select * from outcomes_before").await;
    let none = ops(cluster, &["trace", &Uuid::new_v4().to_string()]).await;
    assert!(none.status == 3 && none.error.contains("is no push"), "{none:?}");
    assert_eq!(ops(cluster, &["trace", "x"]).await.status, 2);
}

async fn a_conflict_is_seen_in_the_history_and_undone(cluster: &mut Cluster) {
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create_team("t", &[("bob", "member"), ("cy", "member")]).await;
    let id = Uuid::new_v4().to_string();
    let edit = |content: &str, base: u64, second: u32| {
        json!({"id": id, "type": "decision", "content": content, "base_cursor": base,
            "updated_at": format!("2025-12-30T11:00:{second:02}Z")})
    };
    ann.push(&team("t"), &[edit("first", 0, 0)]).await.ok();
    bob.push(&team("t"), &[edit("bob's", 1, 2)]).await.ok();
    ann.named("phone").push(&team("t"), &[edit("ann's", 1, 1)]).await.ok();
    ann.push(&team("t"), &[json!({"id": id, "deleted": true, "base_cursor": 1})]).await.ok();
    let path = format!("{}/messages/{id}/history", team("t"));
    let seen = cluster.device("cy").get(&path).await.ok();
    assert_eq!((&seen["message"]["content"], &seen["has_more"]), (&json!("bob's"), &json!(false)));
    let entries = seen["history"].as_array().unwrap();
    let of = |entry: &Value| {
        let message = &entry["message"];
        json!([
            entry["result"],
            entry["won_by"],
            message["content"],
            message["contributed_by"],
            message["device_id"],
            message["cursor"]
        ])
    };
    assert_eq!(
        entries.iter().map(of).collect::<Vec<_>>(),
        [
            json!(["superseded", 2, null, "ann", "ann-laptop", null]),
            json!(["stale", 2, "ann's", "ann", "phone", null]),
            json!(["replaced", 2, "first", "ann", "ann-laptop", 1]),
        ]
    );
    assert_eq!(entries[1]["message"]["updated_at"], "2025-12-30T11:00:01Z");
    let page = ann.get(&format!("{path}?limit=1")).await.ok();
    assert_eq!((&page["history"][0], &page["has_more"]), (&entries[0], &json!(true)));
    let before = entries[1]["place"].as_str().unwrap();
    let rest = ann.get(&format!("{path}?before={before}")).await.ok();
    assert_eq!((&rest["history"], &rest["has_more"]), (&json!([entries[2]]), &json!(false)));

    // Undone: what lost is pushed over what won.
    let lost = &entries[1]["message"];
    let undo = json!({"id": id, "type": lost["type"], "content": lost["content"],
        "metadata": lost["metadata"], "base_cursor": seen["message"]["cursor"]});
    ann.push(&team("t"), &[undo]).await.ok();
    let undone = ann.get(&path).await.ok();
    assert_eq!(undone["message"]["content"], "ann's");
    assert_eq!(of(&undone["history"][0]), json!(["replaced", 3, "bob's", "bob", "bob-laptop", 2]));

    // For whoever may pull, and nobody else.
    cluster.device("mallory").get(&path).await.problem(403, "SYNC_005");
    let other = cluster.device_of("globex", "ann", OrgRole::Owner);
    other.get(&path).await.problem(403, "SYNC_005");
    let none = format!("{}/messages/{}/history", team("t"), Uuid::new_v4());
    ann.get(&none).await.problem(404, "NOT_FOUND");
    ann.get(&format!("{USER}/messages/{id}/history")).await.problem(404, "NOT_FOUND");
    for (query, names) in [("limit=0", "limit"), ("before=x", "before")] {
        let problem = ann.get(&format!("{path}?{query}")).await.problem(400, "INVALID_REQUEST");
        assert!(problem["detail"].as_str().unwrap().starts_with(names));
    }
    ann.get(&format!("{}/messages/x/history", team("t"))).await.problem(400, "INVALID_REQUEST");
}

archiving_on_both_logs! {
    what_is_archived_is_in_the_status_and_in_a_trace,
}

async fn what_is_archived_is_in_the_status_and_in_a_trace(cluster: &mut Cluster) {
    let ann = cluster.device("ann");
    let pushed = ann.push(USER, &[say("one")]).await.ok();
    let push = pushed["push_id"].as_str().unwrap();
    back_up(&ann, USER).await;
    let trace = eventually("its hour is archived", async || {
        let trace = ops(cluster, &["trace", push]).await.json();
        trace["steps"][0]["archived_hour"].is_string().then_some(trace)
    })
    .await;
    let backups = trace["backups"].as_array().unwrap();
    let own = backups.iter().find(|backup| backup["type"] == "on_demand").unwrap();
    assert_eq!(own["cursors"], json!([1]));
    assert!(own["path"].as_str().unwrap().starts_with("file://"), "{own}");
    let said = ops(cluster, &["status"]).await;
    let status = said.json();
    assert_eq!((&status["problems"], &status["unasked"]), (&json!([]), &json!([])), "{status}");
    let hour = &trace["steps"][0]["archived_hour"];
    let archived = |own: &Value| own["archived_hour"].as_str() >= hour.as_str();
    assert!(status["partitions"].as_array().unwrap().iter().any(archived), "{status}");
    assert!(status["catalogue"]["projected"].as_u64().unwrap() > 0, "{status}");
    let disks = status["disks"].as_array().unwrap();
    assert!(disks.iter().any(|disk| disk["what"] == "archive" && disk["bytes"].as_u64() > Some(0)));
    let full = ops(cluster, &["status", "--disk-free-bytes-min=18446744073709551615"]).await;
    assert!(full.status == 1 && full.lines.join("").contains("bytes are free"), "{full:?}");
    what_is_not_archived_is_a_problem_and_a_tick_is_none(cluster).await;
}

async fn what_is_not_archived_is_a_problem_and_a_tick_is_none(cluster: &mut Cluster) {
    let strict = ["status", "--archived-seconds-max=0"];
    // A partition where nothing comes is well for as long as it likes: all that is in no hour is a tick.
    eventually("nothing but ticks is unarchived", async || {
        let said = ops(cluster, &strict).await;
        let is_old = |own: &Value| own["archived_seconds"].as_u64() > Some(1);
        let has_aged = said.json()["partitions"].as_array().unwrap().iter().any(is_old);
        (said.status == 0 && has_aged).then_some(())
    })
    .await;
    // The archiver is gone, and of some partitions there is no hour at all.
    cluster.restart(ALL).await;
    for user in ["bob", "cy", "dan", "eve", "fay", "gil", "hal"] {
        cluster.device(user).push(USER, &[say("one")]).await.ok();
    }
    let said = eventually("what is not archived has aged", async || {
        let said = ops(cluster, &strict).await;
        let aged =
            |own: &Value| own["archived"].is_null() && own["unarchived_seconds"].as_u64() > Some(0);
        said.json()["partitions"].as_array().unwrap().iter().any(aged).then_some(said)
    })
    .await;
    assert!(said.status == 1 && said.lines.join("").contains("is in no archived hour"), "{said:?}");
    let raw = ["status", "--segments-seconds-max=1"];
    eventually("nor is it there raw", async || {
        let said = ops(cluster, &raw).await;
        (said.status == 1 && said.lines.join("").contains("not even raw")).then_some(())
    })
    .await;
    if cluster.kind == LogKind::Kafka {
        let said = ops_with(&["status"], &flags(cluster)).await;
        let unasked = &said.json()["unasked"][0];
        assert_eq!((said.status, &unasked["part"]), (3, &json!("archive")), "{said:?}");
        assert!(unasked["why"].as_str().unwrap().contains("none is named"), "{unasked}");
    }
}

/// An event that the database refuses, until the constraint `bug` is dropped.
pub(crate) async fn park_unlucky(cluster: &Cluster, user: &str) {
    sql(cluster, "alter table messages add constraint bug check (json not like '%unlucky%')").await;
    cluster.device(user).push(USER, &[say("unlucky")]).await.is(202);
    let parked =
        async || letters(cluster).await.iter().any(|(_, kind, _)| kind == "parked").then_some(());
    eventually("it is parked", parked).await;
}

/// Offset, kind and mark of each.
pub(crate) async fn letters(cluster: &Cluster) -> Vec<(i64, String, Option<String>)> {
    let query = "select d.record_offset, d.kind, k.mark from dead_letters d
        left join dead_letter_marks k using (partition, record_offset)
        order by partition, record_offset";
    sqlx::query_as(query).fetch_all(&cluster.pool).await.unwrap()
}
