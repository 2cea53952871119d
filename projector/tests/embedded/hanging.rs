//! Postgres stops answering while a session begins, and nobody hangs up: the machine is gone, or the network between.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use archive::{Archive, ArchiveAddress, ArchiveConfig};
use futures_util::future::join_all;
use readmodel::{DatabaseConfig, feed::Feed};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
};

use crate::{
    bench::{Bench, batches, start_batching},
    commands::{push, say},
};

const ANN: &str = "acme/user/ann";
/// About as many as a session has had when it has begun.
const ANSWERS: usize = 50;

/// A way to Postgres that carries so many answers. Then what is open stands still, and what is opened later is carried.
struct Line {
    answers: AtomicUsize,
    lasts: usize,
}

impl Line {
    /// The URL of Postgres over the line, which is there for as long as the tasks are.
    async fn open(self: &Arc<Self>, url: &str, tasks: &mut JoinSet<()>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (front, database) = url.rsplit_once('/').unwrap();
        let (login, upstream) = front.rsplit_once('@').unwrap();
        let through = format!("{login}@{}/{database}", listener.local_addr().unwrap());
        let (line, upstream) = (self.clone(), upstream.to_owned());
        tasks.spawn(async move {
            let mut carrying = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                carrying.spawn(line.clone().carry(client, server));
            }
        });
        through
    }

    async fn carry(self: Arc<Self>, mut client: TcpStream, mut server: TcpStream) {
        let was_cut = self.is_cut();
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(1..) = read else { return };
                    if server.write_all(&asked[..read.unwrap()]).await.is_err() {
                        return;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(1..) = read else { return };
                    self.answers.fetch_add(1, Ordering::SeqCst);
                    if self.is_cut() && !was_cut {
                        // Nobody hangs up.
                        std::future::pending::<()>().await;
                    }
                    if client.write_all(&answered[..read.unwrap()]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.answers.load(Ordering::SeqCst) > self.lasts
    }
}

#[tokio::test]
async fn a_database_that_is_gone_while_a_session_begins_is_given_up() {
    let mut benches = Vec::new();
    for answers in (0..ANSWERS).step_by(5) {
        benches.push((answers, Bench::new().await));
    }
    join_all(benches.iter().map(|(answers, bench)| begins_after(*answers, bench))).await;
    // That blocks, and what stood still has yet to hang up.
    join_all(benches.into_iter().map(|(_, bench)| spawn_blocking(|| drop(bench)))).await;
}

/// The line is cut after so many answers.
async fn begins_after(answers: usize, bench: &Bench) {
    let line = Arc::new(Line { answers: AtomicUsize::new(0), lasts: answers });
    let mut tasks = JoinSet::new();
    let through = line.open(bench.database.url(), &mut tasks).await;
    let config = DatabaseConfig {
        database_url: Some(through),
        database_statement_timeout_ms: 100,
        database_acquire_timeout_ms: 500,
        ..bench.database.config.clone()
    };
    let folder = tempfile::tempdir().unwrap();
    let address = ArchiveAddress::File(folder.path().to_owned());
    // With an archive, what it has is asked for first.
    let archive =
        answers.is_multiple_of(10).then(|| Archive::open(&ArchiveConfig::new(address)).unwrap());
    let running = start_batching(batches(), config, &bench.log, Feed::new(true), archive);
    running.ready().await;
    bench.append(&push(ANN, "ann", &[say("one")])).await;
    bench.check().await;
    assert!(line.is_cut(), "{answers} answers are more than a session and a push have");
    running.stop().await;
}
