//! `context-sync dev`: killed and started again it has all data; Ctrl-C stops it; one a directory.

use serde_json::json;

use super::{Child, run};
use crate::{
    client::{Device, USER, contents, say},
    cluster::kafka_flags,
    equation::eventually,
};

/// A device with a token of the development key, as `context-sync token` prints it.
pub(super) async fn device(dev: &Child, data_dir: &str) -> Device {
    let token = run(&["token", "--tenant=acme", "--user=ann", "--data-dir", data_dir]).await;
    assert!(token.status.success());
    let mut device = Device::new(
        &reqwest::Client::new(),
        &dev.url,
        "acme",
        "ann",
        service::auth::OrgRole::Member,
    );
    device.token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    device
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keeps_its_data_whatever_ends_it() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let data_dir = scratch.path().join("data");
    let (data, output) = (data_dir.to_str().unwrap(), scratch.path().join("dev.log"));
    let mut dev = Child::dev(&data_dir, &output, &[]).await;
    eventually("it greets", async || dev.said().contains("Context Sync is ready").then_some(()))
        .await;
    let ann = device(&dev, data).await;
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    let before = ann.pull(USER, "").await.ok();
    // Operators' commands find its database.
    let args = ["ops", "quota", "show", "--tenant=acme", "--json", "--data-dir", data];
    let shown = run(&args).await;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["messages"], &shown["bytes"]), (&json!(2), &json!(10)));
    // Operators ask through it: nobody else can read its log.
    for command in ["status", "check"] {
        let asked = run(&["ops", command, "--data-dir", data]).await;
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        assert!(asked.status.success() && said.contains("well"), "{command}: {said}");
    }

    // A second one on the same directory names the one that holds it.
    let args = ["dev", "--data-dir", data, "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0"];
    let second = run(&args).await;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains(&dev.pid().to_string()), "{said}");
    assert_eq!(ann.pull(USER, "").await.ok(), before);

    dev.kill().await;
    dev = Child::dev(&data_dir, &output, &[]).await;
    let ann = device(&dev, data).await;
    assert_eq!(ann.pull(USER, "").await.ok(), before);
    ann.push(USER, &[say("three")]).await.ok();

    // Ctrl-C: status 0.
    dev.signal("INT");
    let status = dev.exit().await;
    assert_eq!(status.code(), Some(0), "{}", dev.said());

    // Postgres is a copy: it may be deleted.
    std::fs::remove_dir_all(data_dir.join("postgres")).unwrap();
    let mut dev = Child::dev(&data_dir, &output, &[]).await;
    let after = device(&dev, data).await.pull(USER, "").await.ok();
    assert_eq!((contents(&after), &after["count"]), (vec!["one", "two", "three"], &json!(3)));
    assert_eq!(after["messages"][0], before["messages"][0]);
    // Devices carry on.
    let epoch = before["epoch"].as_str().unwrap();
    let page = device(&dev, data).await.pull(USER, &format!("cursor=2&epoch={epoch}")).await.ok();
    assert_eq!((contents(&page), &page["base"]), (vec!["three"], &json!(3)));
    dev.signal("TERM");
    assert_eq!(dev.exit().await.code(), Some(0), "{}", dev.said());
}

/// The same on Apache Kafka: all roles in one process, on a log that others may use too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_on_apache_kafka_keeps_its_data() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let data_dir = scratch.path().join("data");
    let (data, output) = (data_dir.to_str().unwrap(), scratch.path().join("dev.log"));
    let kafka = kafka_flags(&dev::kafka::for_tests().await.unwrap());
    let mut dev = Child::dev(&data_dir, &output, &kafka).await;
    let ann = device(&dev, data).await;
    ann.push(USER, &[say("one"), say("two")]).await.ok();
    let before = ann.pull(USER, "").await.ok();
    assert_eq!(contents(&before), ["one", "two"]);

    dev.kill().await;
    std::fs::remove_dir_all(data_dir.join("postgres")).unwrap();
    let mut dev = Child::dev(&data_dir, &output, &kafka).await;
    let after = device(&dev, data).await.pull(USER, "").await.ok();
    let of = |page: &serde_json::Value| (page["messages"].clone(), page["digest"].clone());
    assert_eq!(of(&after), of(&before), "filled from the log");
    assert!(!data_dir.join("log").exists());
    dev.signal("INT");
    assert_eq!(dev.exit().await.code(), Some(0), "{}", dev.said());
}
