//! A database that does not answer any more, and does not say so: its machine is gone, or the network between. Whoever asks
//! it is told in bounded time; and once another one is there in its place, all go on with that, without a restart.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    Child,
    chaos::{ann, flags, open},
};
use crate::{
    client::{USER, say},
    cluster::{LogKind, kafka_flags},
    database::Database,
    equation::{self, eventually},
};

/// A way to the database, whose connections can all stop at once: nothing comes through any more, and nobody hangs up.
struct Line {
    port: u16,
    /// How often they stopped, and whether new ones get nowhere either.
    stopped: watch::Sender<(u32, bool)>,
}

impl Line {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (stopped, seen) = watch::channel((0, false));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, port, seen.clone()));
            }
        });
        Self { port: own, stopped }
    }

    fn stop(&self) {
        self.stopped.send_modify(|(times, is_dead)| (*times, *is_dead) = (*times + 1, true));
    }

    /// New connections come through; those that stopped do not.
    fn go_on(&self) {
        self.stopped.send_modify(|(_, is_dead)| *is_dead = false);
    }
}

async fn carry(mut near: TcpStream, port: u16, mut seen: watch::Receiver<(u32, bool)>) {
    let (times, is_dead) = *seen.borrow_and_update();
    let carrying = async {
        let mut far = TcpStream::connect(("127.0.0.1", port)).await?;
        copy_bidirectional(&mut near, &mut far).await
    };
    let stopping = async {
        if !is_dead {
            let _ = seen.wait_for(|(now, _)| *now > times).await;
        }
    };
    tokio::select! {
        _ = carrying => return,
        () = stopping => {}
    }
    // Held until the test ends.
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_a_database_that_does_not_answer_is_given_up_on_the_embedded_log() {
    a_database_that_does_not_answer_is_given_up(LogKind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_a_database_that_does_not_answer_is_given_up_on_kafka() {
    a_database_that_does_not_answer_is_given_up(LogKind::Kafka).await;
}

async fn a_database_that_does_not_answer_is_given_up(kind: LogKind) {
    let database = Database::migrated().await;
    let dir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("log");
    let (server, name) = database.url().rsplit_once('/').unwrap();
    let (host, port) = server.rsplit_once(':').unwrap();
    let line = Line::to(port.parse().unwrap()).await;
    let through = format!("{host}:{}/{name}", line.port);
    let log = match kind {
        LogKind::Embedded => vec![format!("--log-dir={}", log_dir.display())],
        LogKind::Kafka => kafka_flags(&dev::kafka::for_tests().await.unwrap()).to_vec(),
    };
    let mut flags = flags(&through, &log);
    flags.extend([
        "--database-statement-timeout-ms=500".to_owned(),
        "--database-acquire-timeout-ms=500".to_owned(),
    ]);
    let mut node = Child::serve("ingest,projector,api", &flags, dir.path()).await;
    let ann = ann(&node);
    ann.push(USER, &[say("before")]).await.ok();

    line.stop();
    let began = Instant::now();
    let keys: Vec<String> = (0..20).map(|n| format!("push {n}")).collect();
    let push = async |key: &String| ann.push_once(USER, key, &[say(key)]).await;
    for reply in join_all(keys.iter().map(push)).await {
        match reply.status {
            200 | 202 => {}
            _ => drop(reply.problem(503, "UNAVAILABLE")),
        }
    }
    let pulled = ann.pull(USER, "").await;
    assert!(pulled.status == 200 || pulled.status == 503, "{pulled:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}"); // a request may take 75 s

    line.go_on();
    for key in &keys {
        eventually("it has an outcome", async || (push(key).await.status == 200).then_some(()))
            .await;
    }
    node.ready().await;
    let page = ann.pull(USER, "limit=1").await.ok();
    assert_eq!((&page["count"], &page["head"]), (&21.into(), &21.into()), "each once");
    node.signal("TERM");
    assert!(node.exit().await.success(), "{}", node.said());
    let log = open(&flags, &log_dir).await;
    equation::check(log.as_ref(), &database.owner_pool()).await;
}
