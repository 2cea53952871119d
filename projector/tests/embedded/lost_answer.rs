//! Postgres commits, and the answer never arrives.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use model::UserId;
use readmodel::{
    DatabaseConfig, DatabaseRole,
    feed::Feed,
    pull::{Asker, PullQuery, pull},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    bench::{Bench, start_with},
    commands::{push, say, scope},
    equation::eventually,
};

const ANN: &str = "acme/user/ann";
/// Begins the statement that commits a batch.
const WRITE: &[u8] = b"with standing as materialized";

/// Stands between a projector and Postgres, and can lose an answer.
#[derive(Default)]
struct Proxy {
    lose_next: AtomicBool,
    lost: AtomicUsize,
}

impl Proxy {
    /// The URL of Postgres through the proxy.
    async fn open(self: &Arc<Self>, url: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (front, database) = url.rsplit_once('/').unwrap();
        let (login, upstream) = front.rsplit_once('@').unwrap();
        let through = format!("{login}@{}/{database}", listener.local_addr().unwrap());
        let (proxy, upstream) = (self.clone(), upstream.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                tokio::spawn(proxy.clone().carry(client, server));
            }
        });
        through
    }

    /// Carries a connection until one end closes it, or the proxy loses an answer to a commit.
    async fn carry(self: Arc<Self>, mut client: TcpStream, mut server: TcpStream) {
        let mut commits = false;
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(1..) = read else { return };
                    let asked = &asked[..read.unwrap()];
                    commits |= asked.windows(WRITE.len()).any(|part| part == WRITE);
                    server.write_all(asked).await.unwrap();
                }
                read = server.read(&mut answered) => {
                    let Ok(1..) = read else { return };
                    if commits && self.lose_next.swap(false, Ordering::SeqCst) {
                        self.lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if client.write_all(&answered[..read.unwrap()]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_done_once_and_nobody_is_told_there_is_nothing_new() {
    let bench = Bench::new().await;
    let proxy = Arc::new(Proxy::default());
    let through = proxy.open(bench.database.url()).await;
    let config = DatabaseConfig { database_url: Some(through), ..bench.database.config.clone() };
    let feed = Feed::new(true);
    let running = start_with(config, &bench.log, feed.clone());
    bench.append(&push(ANN, "ann", &[say("one")])).await;
    bench.caught_up().await;

    // The memory knows the scope's head, as after a pull.
    let (key, ann) = (scope(ANN), UserId::new("ann").unwrap());
    let reference = key.reference();
    let memory = feed.memory().unwrap();
    let api = bench.database.role(DatabaseRole::Api);
    let query = PullQuery {
        asker: Asker { scope: &key, user: &ann, privileged: true },
        after: model::Cursor::ZERO,
        limit: 10,
        bytes: 1 << 20,
    };
    let head = || memory.glance(reference, &ann).map(|glance| glance.summary.head.get());
    // Postgres has it a moment before the projector hears so, and before that nothing is remembered.
    eventually("the memory has one", async || {
        let asked = memory.generation(reference);
        let page = pull(&api, &query).await.unwrap();
        memory.remember(reference, &ann, asked, page.glance());
        (head() == Some(1)).then_some(())
    })
    .await;

    proxy.lose_next.store(true, Ordering::SeqCst);
    bench.append(&push(ANN, "ann", &[say("two")])).await;
    eventually("the answer is lost", async || {
        let stored = bench.head(ANN).await;
        assert!(stored == Some(1) || head() != Some(1), "Postgres has two, the memory says one");
        (proxy.lost.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    bench.append(&push(ANN, "ann", &[say("three")])).await;
    eventually("projecting goes on", async || {
        let stored = bench.head(ANN).await;
        assert!(stored == Some(1) || head() != Some(1), "Postgres has two, the memory says one");
        (stored == Some(3)).then_some(())
    })
    .await;
    bench.check().await;
    running.ready().await;
    running.stop().await;
}
