//! No secret and no content in any log line, whatever happens.

use std::path::Path;

use serde_json::json;
use service::auth::OrgRole;

use crate::{
    client::{Device, Reply, USER, say, team},
    cluster::{SECRET, kafka_flags},
    crash::{Child, free_port, run},
    database::Database,
    equation::eventually,
};

const SASL_PASSWORD: &str = "sasl-pa55word-of-the-tests";
const DATABASE_PASSWORD: &str = "database-pa55word-of-the-tests";
const CONTENT: &str = "content-that-only-members-see";
const KINDS: [&str; 2] = ["text", "json"];

/// All that must not be in a log.
fn secrets(database: &Database, device: &Device) -> Vec<String> {
    let url = database.url();
    let password = url.split_once("://").and_then(|(_, rest)| rest.split_once(':'));
    let password = password.and_then(|(_, rest)| rest.split_once('@')).unwrap().0;
    let mut secrets = vec![SECRET.to_owned(), SASL_PASSWORD.into(), DATABASE_PASSWORD.into()];
    secrets.extend([CONTENT.into(), password.to_owned(), device.token.clone()]);
    secrets
}

fn assert_none(output: &str, secrets: &[String]) {
    for line in output.lines() {
        for secret in secrets {
            assert!(!line.contains(secret.as_str()), "{secret:?} is in: {line}");
        }
    }
}

/// Pushes, pulls, and all that goes wrong with a request.
async fn story(device: &Device) {
    device.create_team("t", &[("bob", "member")]).await;
    device.push_once(&team("t"), "key", &[say(CONTENT)]).await.ok();
    device
        .push_once(&team("t"), "key", &[say("another")])
        .await
        .problem(409, "IDEMPOTENCY_MISMATCH");
    device.pull(&team("t"), "").await.ok();
    device
        .push(USER, &[json!({"type": CONTENT, "content": [CONTENT]})])
        .await
        .problem(400, "INVALID_REQUEST");
    let cut = format!(r#"{{"messages": [{{"content": "{CONTENT}"#);
    let request = device.request(reqwest::Method::POST, "/api/v1/context/push").body(cut);
    Reply::of(request).await.problem(400, "INVALID_REQUEST");
    let wrong_hash = json!({"type": "a", "content": CONTENT, "content_hash": "0".repeat(64)});
    device.push(USER, &[wrong_hash]).await.problem(422, "SYNC_002");
    let mut forged = device.clone();
    forged.token.pop();
    forged.pull(USER, "").await.problem(401, "UNAUTHENTICATED");
    device.get(&format!("/nowhere?access_token={}", device.token)).await.problem(404, "NOT_FOUND");
    device
        .get(&format!("/api/v1/teams/none/context/pull?q={CONTENT}"))
        .await
        .problem(403, "SYNC_005");
}

async fn check(format: &str, dir: &Path) {
    let database = Database::migrated().await;
    let mut flags = kafka_flags(&dev::kafka::for_tests().await.unwrap()).to_vec();
    flags.extend([
        format!("--database-url={}", database.url()),
        format!("--jwt-secret={SECRET}"),
        format!("--kafka-property=sasl.password={SASL_PASSWORD}"),
        "--telemetry-filter=debug".to_owned(),
        format!("--telemetry-format={format}"),
    ]);
    let mut node = Child::serve("ingest,projector,api", &flags, dir).await;
    let device = Device::new(&reqwest::Client::new(), &node.url, "acme", "ann", OrgRole::Member);
    story(&device).await;

    // A row that the database refuses.
    let constraint = "alter table messages add constraint bug check (json not like '%unlucky%')";
    sqlx::query(constraint).execute(&database.owner_pool()).await.unwrap();
    let unlucky = format!("unlucky {CONTENT}");
    let accepted = device.pushing(USER, &[say(&unlucky)]).header("Prefer", "respond-async");
    Reply::of(accepted).await.is(202);
    eventually("the event is parked", async || node.said().contains("parking").then_some(())).await;

    // A database that is gone.
    sqlx::query("drop schema context_sync cascade").execute(&database.owner_pool()).await.unwrap();
    device.pull(USER, "").await.problem(503, "UNAVAILABLE");
    node.signal("TERM");
    assert!(node.exit().await.success(), "{}", node.said());
    let said = node.said();
    assert!(said.contains("/api/v1/teams/") && said.to_lowercase().contains("debug"), "{said}");
    assert_none(&said, &secrets(&database, &device));

    // A database and a log that were never there.
    let nowhere = free_port();
    flags.retain(|flag| !flag.starts_with("--database-url"));
    flags.push(format!("--database-url=postgres://u:{DATABASE_PASSWORD}@127.0.0.1:{nowhere}/d"));
    let mut node = Child::serve_at_once("ingest,projector,api", &flags, dir);
    let url = format!("{}/readyz", node.ops_url);
    eventually("it says that it is not ready", async || {
        let reply = Reply::try_of(reqwest::Client::new().get(&url)).await.ok()?;
        let waits = reply.status == 503 && reply.body.to_string().contains("Postgres");
        assert_none(&reply.body.to_string(), &secrets(&database, &device));
        waits.then_some(())
    })
    .await;
    node.kill().await;
    assert_none(&node.said(), &secrets(&database, &device));
    flags.retain(|flag| !flag.starts_with("--log=") && !flag.starts_with("--log-topic"));
    flags.push(format!("--log=kafka://127.0.0.1:{nowhere}"));
    let mut node = Child::serve_at_once("ingest,projector,api", &flags, dir);
    assert!(!node.exit().await.success());
    assert_none(&node.said(), &secrets(&database, &device));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_line_of_serve_has_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    for format in KINDS {
        check(format, dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_line_of_dev_has_a_secret_but_the_tokens_it_is_asked_for() {
    let scratch = dev::scratch::Scratch::new().unwrap();
    let (data, output) = (scratch.path().join("data"), scratch.path().join("dev.log"));
    let debug = ["--telemetry-filter=debug".to_owned(), "--telemetry-format=json".to_owned()];
    let mut node = Child::dev(&data, &output, &debug).await;
    let key = std::fs::read_to_string(data.join("jwt.key")).unwrap();
    let mut device =
        Device::new(&reqwest::Client::new(), &node.url, "acme", "ann", OrgRole::Member);
    let data_dir = format!("--data-dir={}", data.display());
    let token = run(&["token", "--tenant=acme", "--user=ann", &data_dir]).await;
    device.token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    story(&device).await;
    node.signal("INT");
    assert!(node.exit().await.success());
    assert_none(&node.said(), &[key.trim().to_owned(), CONTENT.to_owned(), device.token]);
}

#[tokio::test]
async fn no_help_text_and_no_complaint_shows_what_was_configured() {
    let secrets = [SECRET, SASL_PASSWORD, DATABASE_PASSWORD].map(str::to_owned);
    let mut command = tokio::process::Command::new(crate::crash::binary());
    command.env("CONTEXT_SYNC_JWT_SECRET", SECRET);
    command.env("DATABASE_URL", format!("postgres://u:{DATABASE_PASSWORD}@h/d"));
    command.env("CONTEXT_SYNC_KAFKA_PROPERTY", format!("sasl.password={SASL_PASSWORD}"));
    let help = command.args(["serve", "--help"]).output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("--jwt-secret") && help.contains("DATABASE_URL"));
    assert_none(&help, &secrets);
    for args in [
        vec![
            "serve".to_owned(),
            "--roles=api".into(),
            format!("--database-url=mysql://u:{DATABASE_PASSWORD}@h/d"),
            format!("--jwt-secret={SECRET}"),
            "--listen=127.0.0.1:0".into(),
            "--ops-listen=127.0.0.1:0".into(),
            "--log=kafka://127.0.0.1:1".into(),
        ],
        vec![
            "migrate".to_owned(),
            format!("--database-url=postgres://u:{DATABASE_PASSWORD}@127.0.0.1:1/d"),
        ],
        vec![
            "migrate".to_owned(),
            format!("--database-url=postgres://u:{DATABASE_PASSWORD}@127.0.0.1:x/d"),
        ],
        vec![
            "serve".to_owned(),
            "--roles=api".into(),
            format!("--jwt-secret={SECRET}"),
            format!("--kafka-property=sasl.password={SASL_PASSWORD}"),
            "--log-partitions=x".into(),
        ],
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = run(&args).await;
        assert!(!output.status.success());
        assert_none(&String::from_utf8_lossy(&output.stderr), &secrets);
        assert_none(&String::from_utf8_lossy(&output.stdout), &secrets);
    }
}
