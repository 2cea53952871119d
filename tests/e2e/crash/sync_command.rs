//! `context-sync sync` and `status`: a scope in a file, kept right.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{Child, run};
use crate::{
    client::{Device, USER, project, say},
    cluster::{Cluster, LogKind},
};

/// What a device's command printed, and its exit status.
async fn device(command: &str, data: &str, replica: &Path) -> (Value, i32) {
    let replica = format!("--replica={}", replica.display());
    let ended = run(&[command, "--json", "--data-dir", data, &replica]).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    let line =
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{command}: {said}"));
    (line, ended.status.code().unwrap())
}

/// Syncs a file as this device, which succeeds; what it printed.
async fn sync(device: &Device, file: &Path) -> Value {
    let (url, token) = (format!("--url={}", device.url), format!("--token={}", device.token));
    let replica = format!("--replica={}", file.display());
    let ended = run(&["sync", "--json", &url, &token, &replica]).await;
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wf_cs_012_sync_keeps_a_file_right_and_status_says_so() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let data_dir = scratch.path().join("data");
    let (data, output) = (data_dir.to_str().unwrap(), scratch.path().join("dev.log"));
    let mut dev = Child::dev(&data_dir, &output, &[]).await;
    let file = scratch.path().join("deep/user.jsonl");
    let outbox = file.with_extension("outbox.jsonl");

    // Nothing there, nothing here.
    let (told, code) = device("status", data, &file).await;
    assert_eq!((&told["status"], code), (&json!("in_sync"), 0));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let say =
        |n: u32| format!("{}\n", json!({"type": "decision", "content": format!("message {n}")}));
    fs::write(&outbox, (1..=60).map(say).collect::<String>()).unwrap();
    let (told, code) = device("status", data, &file).await;
    assert_eq!((&told["waiting"], code), (&json!(60), 1));

    // What waits is pushed, and is in the file.
    let (done, code) = device("sync", data, &file).await;
    assert_eq!(
        (&done["pushed"]["synced"], &done["mended"]["pulled"], code),
        (&json!(60), &json!(60), 0)
    );
    assert_eq!((&done["cursor"], &done["count"]), (&json!(60), &json!(60)));
    let (told, code) = device("status", data, &file).await;
    assert_eq!((&told["status"], &told["waiting"], code), (&json!("in_sync"), &json!(0), 0));

    // Somebody cuts messages out of the file: the cursor does not tell, count and digest do.
    let whole = fs::read_to_string(&file).unwrap();
    let cut: String = whole.lines().take(50).map(|line| format!("{line}\n")).collect();
    fs::write(&file, cut).unwrap();
    let (told, code) = device("status", data, &file).await;
    assert_eq!((&told["status"], &told["action"], code), (&json!("diverged"), &json!("repair"), 1));
    let (done, code) = device("sync", data, &file).await;
    assert_eq!((&done["mended"]["fetched"], &done["count"], code), (&json!(11), &json!(60), 0));
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&fs::read_to_string(&file).unwrap()), sorted(&whole));

    // A message that is none is named and kept aside; the others are pushed.
    fs::write(&outbox, format!("{}{}\n", say(61), json!({"type": "decision"}))).unwrap();
    let (done, code) = device("sync", data, &file).await;
    assert_eq!(
        (&done["pushed"]["synced"], &done["pushed"]["rejected"], code),
        (&json!(1), &json!(1), 1)
    );
    assert!(!outbox.exists() && file.with_extension("rejected.jsonl").exists());

    // What is not acknowledged waits on.
    dev.kill().await;
    fs::write(&outbox, say(62)).unwrap();
    let replica = format!("--replica={}", file.display());
    let ended = run(&["sync", "--json", "--data-dir", data, &replica]).await;
    assert!(!ended.status.success());
    let mut dev = Child::dev(&data_dir, &output, &[]).await;
    let (done, code) = device("sync", data, &file).await;
    assert_eq!((&done["pushed"]["synced"], &done["count"], code), (&json!(1), &json!(62), 0));
    dev.kill().await;
}

/// What there is no room for waits in its order, and what makes room passes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_007_sync_deletes_from_a_scope_that_is_full_and_keeps_what_had_no_room() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let data_dir = scratch.path().join("data");
    let (data, output) = (data_dir.to_str().unwrap(), scratch.path().join("dev.log"));
    let mut dev = Child::dev(&data_dir, &output, &["--scope-messages-max=4".to_owned()]).await;
    let file = scratch.path().join("laptop.jsonl");
    let outbox = file.with_extension("outbox.jsonl");
    let id = |n: u128| uuid::Uuid::from_u128(n);
    let write = |n: u128, content: &str| {
        format!("{}\n", json!({"id": id(n), "type": "decision", "content": content}))
    };
    let delete = |n: u128| format!("{}\n", json!({"id": id(n), "deleted": true, "base_cursor": 4}));
    let all: String = (1..=4).map(|n| write(n, &format!("message {n}"))).collect();
    fs::write(&outbox, all).unwrap();
    let (done, code) = device("sync", data, &file).await;
    assert_eq!((&done["pushed"]["synced"], code), (&json!(4), 0));

    // Two versions of one message, and a delete between them: the delete passes, and makes too little room.
    fs::write(&outbox, write(5, "older") + &delete(1) + &write(5, "newer")).unwrap();
    let (done, code) = device("sync", data, &file).await;
    assert_eq!((&done["count"], &done["pushed"]["rejected"], code), (&json!(3), &json!(0), 1));
    assert!(!file.with_extension("rejected.jsonl").exists());
    let replica = format!("--replica={}", file.display());
    let refused = run(&["sync", "--json", "--data-dir", data, &replica]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let expected =
        "2 messages wait until there is room: SYNC_007: scope_messages_max is 4, used are 3";
    assert!(said.contains(expected), "{said}");
    let (told, _) = device("status", data, &file).await;
    assert_eq!((&told["status"], &told["waiting"]), (&json!("in_sync"), &json!(2)));

    // Whoever writes more meanwhile waits behind them, but for what is deleted.
    fs::write(&outbox, write(5, "newest") + &delete(2) + &delete(3)).unwrap();
    let (done, code) = device("sync", data, &file).await;
    assert_eq!((&done["count"], &done["pushed"]["over_quota"], code), (&json!(2), &json!(0), 0));
    let held = fs::read_to_string(&file).unwrap();
    assert!(held.contains("newest") && held.contains("message 4"), "{held}");
    let (told, code) = device("status", data, &file).await;
    assert_eq!((&told["status"], &told["waiting"], code), (&json!("in_sync"), &json!(0), 0));
    dev.kill().await;
}

/// A push whose neighbour failed is repeated under its own key: it undoes nothing that others wrote meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_undoes_no_later_edit() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let data_dir = scratch.path().join("data");
    let (data, output) = (data_dir.to_str().unwrap(), scratch.path().join("dev.log"));
    let mut dev = Child::dev(&data_dir, &output, &["--scope-messages-max=120".to_owned()]).await;
    let (laptop, phone) = (scratch.path().join("laptop.jsonl"), scratch.path().join("phone.jsonl"));
    let outbox = |file: &Path| file.with_extension("outbox.jsonl");
    let edit = |content: &str| {
        let id = "0199f7c4-0000-7000-8000-000000000001";
        format!("{}\n", json!({"id": id, "type": "decision", "content": content}))
    };
    let say = |n: u32| format!("{}\n", json!({"type": "decision", "content": format!("{n}")}));

    let many: String = (1..=130).map(say).collect();
    fs::write(outbox(&laptop), format!("{}{many}", edit("the laptop's"))).unwrap();
    let replica = format!("--replica={}", laptop.display());
    let refused = run(&["sync", "--json", "--data-dir", data, &replica]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("scope_messages_max"), "{said}");
    let (told, _) = device("status", data, &laptop).await;
    assert_eq!(told["waiting"], 31, "what was acknowledged waits no more");
    // As if it had ended before it could write that down.
    for entry in fs::read_dir(scratch.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "done") {
            fs::remove_file(path).unwrap();
        }
    }
    fs::write(outbox(&phone), edit("the phone's")).unwrap();
    let (done, code) = device("sync", data, &phone).await;
    assert_eq!((&done["pushed"]["synced"], &done["count"], code), (&json!(1), &json!(100), 0));

    dev.kill().await;
    let mut dev = Child::dev(&data_dir, &output, &[]).await;
    let (done, code) = device("sync", data, &laptop).await;
    assert_eq!((&done["count"], code), (&json!(131), 0));
    assert!(fs::read_to_string(&laptop).unwrap().contains("the phone's"));
    dev.kill().await;
}

/// Cursors of an epoch that is over say nothing of what stands there now: nothing is deleted that was never seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wf_cs_012_sync_says_of_which_epoch_its_base_cursors_are() {
    let cluster = Cluster::start(LogKind::Embedded).await;
    let ann = cluster.device("ann");
    let pushed = ann.push(USER, &[say("one")]).await.ok();
    let id = &pushed["results"][0]["id"];
    let delete = format!("{}\n", json!({"id": id, "deleted": true, "base_cursor": 1}));
    let scratch = dev::scratch::Scratch::new().unwrap();
    let file = scratch.path().join("laptop.jsonl");
    let outbox = file.with_extension("outbox.jsonl");
    let first = sync(&ann, &file).await;
    assert_eq!((&first["count"], &first["cursor"]), (&json!(1), &json!(1)));

    // As if a recovery had lost what this device saw at cursor 1, and another message stood there.
    let epoch = first["epoch"].as_str().unwrap();
    let replica = fs::read_to_string(&file).unwrap();
    fs::write(&file, replica.replacen(epoch, &uuid::Uuid::new_v4().to_string(), 1)).unwrap();
    fs::write(&outbox, &delete).unwrap();
    let done = sync(&ann, &file).await;
    assert_eq!((&done["pushed"]["skipped"], &done["pushed"]["synced"]), (&json!(1), &json!(0)));
    assert_eq!((&done["count"], &done["epoch"]), (&json!(1), &json!(epoch)));

    fs::write(&outbox, &delete).unwrap();
    let done = sync(&ann, &file).await;
    assert_eq!((&done["pushed"]["synced"], &done["count"]), (&json!(1), &json!(0)));
    cluster.finish().await;
}

/// A push is acknowledged, and before a pull has brought it, a recovery loses it: the outbox has it still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wf_cs_012_what_was_acknowledged_and_lost_before_it_was_pulled_is_pushed_again() {
    let cluster = Cluster::start(LogKind::Embedded).await;
    let ann = cluster.device("ann");
    let scratch = dev::scratch::Scratch::new().unwrap();
    let file = scratch.path().join("laptop.jsonl");
    let beside = || fs::read_dir(scratch.path()).unwrap().count();
    ann.push(USER, &[say("one")]).await.ok();
    let first = sync(&ann, &file).await;
    let (epoch, files) = (first["epoch"].as_str().unwrap(), beside());

    // As an end right after the answer leaves it: pushes were acknowledged, and no pull came.
    let message = |content: &str, cursor: u64| {
        json!({"id": uuid::Uuid::new_v4(), "type": "decision", "content": content, "metadata": {}, "cursor": cursor,
            "updated_at": "2025-12-30T10:00:00Z", "contributed_by": "ann", "deleted": false})
    };
    let lines = format!(
        "\n{}\n\n{}\n\n{{\"id\": \"torn",
        message("passed by a pull", 1),
        message("lost", 2)
    );
    fs::write(file.with_extension("acknowledged.jsonl"), &lines).unwrap();
    let replica = fs::read_to_string(&file).unwrap();
    fs::write(&file, replica.replacen(epoch, &uuid::Uuid::new_v4().to_string(), 1)).unwrap();
    let done = sync(&ann, &file).await;
    assert_eq!(done["mended"]["pushed_again"], 1, "{done}");
    assert_eq!((&done["count"], &done["epoch"]), (&json!(2), &json!(epoch)));
    assert!(fs::read_to_string(&file).unwrap().contains("lost"));
    assert_eq!(beside(), files);
    cluster.finish().await;
}

/// Who may only read any more still gets what others write, and what they wrote waits; whoever is no member keeps nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_005_what_may_not_be_pushed_waits_and_what_may_be_pulled_comes() {
    let cluster = Cluster::start(LogKind::Embedded).await;
    let (ann, bob) = (cluster.device("ann"), cluster.device("bob"));
    ann.create("/api/v1/projects/p", &[("bob", "member")]).await;
    let scope = project("p");
    let scratch = dev::scratch::Scratch::new().unwrap();
    let file = scratch.path().join("bobs.jsonl");
    let flags = [
        format!("--url={}", bob.url),
        format!("--token={}", bob.token),
        format!("--replica={}", file.display()),
    ];
    let sync = async || {
        let arguments = ["sync", "--json", "--scope=project/p", &flags[0], &flags[1], &flags[2]];
        let ended = run(&arguments).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        (serde_json::from_slice::<Value>(&ended.stdout).unwrap_or_default(), said)
    };
    let role = async |role: &str| {
        ann.put("/api/v1/projects/p/members/bob", json!({"role": role})).await.ok();
    };

    ann.push(&scope, &[say("one")]).await.ok();
    role("viewer").await;
    fs::write(file.with_extension("outbox.jsonl"), format!("{}\n", say("bob's"))).unwrap();
    for _ in 0..2 {
        let (done, said) = sync().await;
        assert_eq!((&done["count"], &done["pushed"]["synced"]), (&json!(1), &json!(0)), "{said}");
        assert!(
            said.contains(
                "1 messages wait until you may push (a refusal may hold for up to a day): SYNC_005"
            ),
            "{said}"
        );
    }
    role("member").await;
    let (done, said) = sync().await;
    assert_eq!((&done["count"], &done["pushed"]["synced"]), (&json!(2), &json!(1)), "{said}");

    ann.delete("/api/v1/projects/p/members/bob").await;
    fs::write(file.with_extension("outbox.jsonl"), format!("{}\n", say("late"))).unwrap();
    let (_, said) = sync().await;
    assert!(said.contains("what was here of the scope is deleted"), "{said}");
    assert!(!file.exists());
    cluster.finish().await;
}
