//! Kills under load, at random points; the seed is printed.

use std::{path::Path, time::Duration};

use dev::{
    kafka::{Kafka, KafkaConfig},
    postgres::{Postgres, PostgresConfig},
    progress::Quiet,
};
use eventlog::EventLog;
use readmodel::Pool;
use service::auth::OrgRole;
use sqlx::postgres::PgConnectOptions;

use super::{Child, load::Load};
use crate::{
    client::{Device, USER, say},
    cluster::{SECRET, kafka_flags, no_rates, settings},
    corpus::seed,
    database::Database,
    equation,
    replica::Replica,
};

/// Waits that are the same for one seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        Self(seed())
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// At a random point of what goes on meanwhile.
    pub(super) async fn moment(&mut self) {
        tokio::time::sleep(Duration::from_millis(50 + self.below(450))).await;
    }
}

pub(crate) fn flags(database_url: &str, log: &[String]) -> Vec<String> {
    let mut flags = vec![
        format!("--database-url={database_url}"),
        format!("--jwt-secret={SECRET}"),
        "--database-connections=4".to_owned(),
        "--push-wait-ms=2000".to_owned(),
    ];
    flags.extend(no_rates());
    flags.extend_from_slice(log);
    flags
}

pub(crate) fn ann(at: &Child) -> Device {
    Device::new(&reqwest::Client::new(), &at.url, "acme", "ann", OrgRole::Member)
}

/// The owner of a read model outside of [`Database`].
fn owner(url: &str) -> Pool {
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.options([("search_path", "context_sync")]);
    Pool::of_login(options, 2)
}

/// What was acknowledged, the log, the rows, and a device's replica: all the same.
async fn all_is_well(load: Load, log: &dyn EventLog, pool: &Pool, api: Option<&Child>) {
    let told = load.stop().await;
    let fold = equation::check(log, pool).await;
    told.is_in(&fold);
    assert!(fold.dead_letters.is_empty());
    if let Some(api) = api {
        let replica = caught_up(&ann(api)).await;
        replica.assert_is(&fold, &"acme/user/ann".parse().unwrap());
    }
}

/// A device that pulls everything. That a restart of Postgres broke a connection is found by whoever uses it next, who is told to come
/// back.
async fn caught_up(device: &Device) -> Replica {
    equation::eventually("pulls are answered", async || {
        let reply = device.pull(USER, "limit=1").await;
        assert!([200, 503].contains(&reply.status), "{}", reply.status);
        (reply.status == 200).then_some(())
    })
    .await;
    let mut replica = Replica::default();
    replica.catch_up(device, USER, 100).await;
    replica
}

pub(super) async fn open(flags: &[String], dir: &Path) -> std::sync::Arc<dyn EventLog> {
    eventlog::open(&settings(flags).log, dir).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_killed_and_postgres_and_kafka_restarted() {
    let dir = dev::scratch::Scratch::new().unwrap();
    let mut random = Random::new();
    let config = KafkaConfig::new(dir.path().join("kafka"));
    let kafka = Kafka::start(config, &Quiet).await.unwrap();
    let config = PostgresConfig::new(dir.path().join("postgres"));
    let postgres = Postgres::start(config, &Quiet).await.unwrap();
    let flags = flags(postgres.url(), &kafka_flags(kafka.bootstrap()));
    readmodel::migrate(&settings(&flags).database).await.unwrap();
    let mut projector = Child::serve("projector", &flags, dir.path()).await;
    let mut ingest = Child::serve("ingest", &flags, dir.path()).await;
    let api = Child::serve("api", &flags, dir.path()).await;
    let load = Load::start(&ann(&ingest)).await;
    load.goes_on(20).await;

    for _ in 0..4 {
        random.moment().await;
        projector.kill().await;
        random.moment().await;
        projector.start_again();
        random.moment().await;
        ingest.kill().await;
        ingest.start_again();
    }
    load.goes_on(20).await;

    random.moment().await;
    postgres.kill().await.unwrap();
    random.moment().await;
    postgres.restart().await.unwrap();
    load.goes_on(20).await;
    postgres.restart().await.unwrap();
    load.goes_on(20).await;

    random.moment().await;
    kafka.kill().await.unwrap();
    random.moment().await;
    kafka.restart().await.unwrap();
    load.goes_on(20).await;

    // All at once.
    projector.kill().await;
    ingest.kill().await;
    kafka.kill().await.unwrap();
    postgres.kill().await.unwrap();
    kafka.restart().await.unwrap();
    postgres.restart().await.unwrap();
    projector.start_again();
    ingest.start_again();
    load.goes_on(20).await;
    for child in [&projector, &ingest, &api] {
        child.ready().await;
    }
    let log = open(&flags, dir.path()).await;
    all_is_well(load, log.as_ref(), &owner(postgres.url()), Some(&api)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_on_the_embedded_log_is_killed_and_postgres_restarted() {
    let dir = dev::scratch::Scratch::new().unwrap();
    let mut random = Random::new();
    let config = PostgresConfig::new(dir.path().join("postgres"));
    let postgres = Postgres::start(config, &Quiet).await.unwrap();
    let log_dir = dir.path().join("log");
    let flags = flags(postgres.url(), &[format!("--log-dir={}", log_dir.display())]);
    readmodel::migrate(&settings(&flags).database).await.unwrap();
    let mut node = Child::serve("ingest,projector,api", &flags, dir.path()).await;
    let load = Load::start(&ann(&node)).await;
    load.goes_on(20).await;
    for _ in 0..6 {
        random.moment().await;
        node.kill().await;
        node.start_again();
        load.goes_on(5).await;
    }
    for _ in 0..2 {
        random.moment().await;
        postgres.kill().await.unwrap();
        random.moment().await;
        postgres.restart().await.unwrap();
        load.goes_on(20).await;
    }
    let told = load.stop().await;
    let replica = caught_up(&ann(&node)).await;
    // The log has one process: it ends before the test reads it.
    node.signal("TERM");
    assert!(node.exit().await.success(), "{}", node.said());
    let log = open(&flags, &log_dir).await;
    let fold = equation::check(log.as_ref(), &owner(postgres.url())).await;
    told.is_in(&fold);
    replica.assert_is(&fold, &"acme/user/ann".parse().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_projectors_one_that_stands_still_or_dies_is_replaced() {
    let database = Database::migrated().await;
    let dir = tempfile::tempdir().unwrap();
    let kafka = kafka_flags(&dev::kafka::for_tests().await.unwrap());
    let flags = flags(database.url(), &kafka);
    let mut partitions = flags.clone();
    partitions.push("--partitions=0,1,2,3".to_owned());
    let first = Child::serve("projector", &partitions, dir.path()).await;
    let mut second = Child::serve("projector", &partitions, dir.path()).await;
    let ingest = Child::serve("ingest,api", &flags, dir.path()).await;
    let load = Load::start(&ann(&ingest)).await;
    load.goes_on(20).await;
    first.signal("STOP");
    // Its sessions are ended by the server, and the other takes its partitions.
    load.goes_on(20).await;
    first.signal("CONT");
    load.goes_on(20).await;
    second.kill().await;
    load.goes_on(20).await;
    second.start_again();
    second.ready().await;
    let log = open(&flags, dir.path()).await;
    all_is_well(load, log.as_ref(), &database.owner_pool(), Some(&ingest)).await;
}

/// A push that the log has, and whose answer nobody got, is there once after its retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_push_is_retried_at_another_ingest() {
    let database = Database::migrated().await;
    let dir = tempfile::tempdir().unwrap();
    let kafka = kafka_flags(&dev::kafka::for_tests().await.unwrap());
    let flags = flags(database.url(), &kafka);
    let mut projector = Child::serve("projector", &flags, dir.path()).await;
    let mut ingest = Child::serve("ingest", &flags, dir.path()).await;
    let other = Child::serve("ingest,api", &flags, dir.path()).await;
    projector.kill().await;
    let (device, message) = (ann(&ingest), [say("once")]);
    let accepted = device.push_once(USER, "key", &message).await;
    let pushing = device.pushing(USER, &message).header("Idempotency-Key", "key");
    let waiting = tokio::spawn(crate::client::Reply::try_of(pushing));
    accepted.is(202);
    ingest.kill().await;
    let _ = waiting.await.unwrap();
    projector.start_again();
    let device = device.at(&other.url);
    equation::eventually("it is acknowledged", async || {
        let reply = device.push_once(USER, "key", &message).await;
        (reply.status == 200).then_some(())
    })
    .await;
    assert_eq!(device.pull(USER, "").await.ok()["head"], 1);
    let log = open(&flags, dir.path()).await;
    equation::check(log.as_ref(), &database.owner_pool()).await;
}
