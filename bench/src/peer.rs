//! The peer: `atuin-server`, where it is installed. Same machine, same Postgres, same client.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use crate::{
    Failure,
    http::{Connection, request},
    load::{Measured, Work, run},
};

pub(crate) struct Peer {
    child: Child,
    address: String,
    token: String,
}

/// Starts the peer on a database of its own; `None` where it is not installed.
pub(crate) async fn start(database_url: &str, directory: &Path) -> Result<Option<Peer>, Failure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = directory.join("atuin");
    std::fs::create_dir_all(&config)?;
    let log = std::fs::File::create(directory.join("atuin.log"))?;
    let child = Command::new("atuin-server")
        .arg("start")
        .env("ATUIN_CONFIG_DIR", &config)
        .env("ATUIN_HOST", "127.0.0.1")
        .env("ATUIN_PORT", port.to_string())
        .env("ATUIN_OPEN_REGISTRATION", "true")
        .env("ATUIN_DB_URI", database_url)
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let Ok(child) = child else { return Ok(None) };
    let mut peer = Peer { child, address: format!("127.0.0.1:{port}"), token: String::new() };
    let began = Instant::now();
    while Connection::open(&peer.address).await.is_err() {
        if began.elapsed() > Duration::from_secs(30) {
            return Err("atuin-server was not there in time".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    peer.register().await?;
    Ok(Some(peer))
}

impl Peer {
    async fn register(&mut self) -> Result<(), Failure> {
        let body = json!({"username": "bench", "email": "bench@example.com", "password": "bench"});
        let headers = [("content-type", "application/json"), ("atuin-version", "18.24.4")];
        let request = request("POST", "/register", &headers, body.to_string().as_bytes());
        let mut connection = Connection::open(&self.address).await?;
        let answer = connection.send(&request).await?;
        let body: serde_json::Value = serde_json::from_slice(answer.body)?;
        let session = body["session"].as_str().ok_or("atuin-server registers nobody")?;
        self.token = format!("Token {session}");
        Ok(())
    }

    fn headers(&self) -> [(&str, &str); 3] {
        [
            ("authorization", &self.token),
            ("content-type", "application/json"),
            ("atuin-version", "18.24.4"),
        ]
    }

    /// Pushes of so many records each; every worker is a host of its own.
    pub(crate) async fn push(
        &self,
        in_flight: usize,
        records: usize,
        time: Duration,
    ) -> Result<Measured, Failure> {
        let mut workers = Vec::new();
        for _ in 0..in_flight {
            workers.push(PeerPush {
                connection: Connection::open(&self.address).await?,
                headers: self.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(),
                host: Uuid::new_v4().simple().to_string(),
                next: 0,
                records,
            });
        }
        run(workers, time, Duration::ZERO).await
    }

    /// Pulls of 100 records of a host that has some.
    pub(crate) async fn pull(&self, in_flight: usize, time: Duration) -> Result<Measured, Failure> {
        let mut pusher = PeerPush {
            connection: Connection::open(&self.address).await?,
            headers: self.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(),
            host: Uuid::new_v4().simple().to_string(),
            next: 0,
            records: 100,
        };
        for _ in 0..20 {
            pusher.once().await?;
        }
        let mut workers = Vec::new();
        for i in 0..in_flight {
            let path = format!(
                "/api/v0/record/next?host={}&tag=bench&start={}&count=100",
                pusher.host,
                (i * 37) % 1_900
            );
            workers.push(PeerPull {
                connection: Connection::open(&self.address).await?,
                request: request("GET", &path, &self.headers(), b""),
            });
        }
        run(workers, time, Duration::ZERO).await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct PeerPush {
    connection: Connection,
    headers: Vec<(String, String)>,
    host: String,
    next: u64,
    records: usize,
}

impl Work for PeerPush {
    async fn once(&mut self) -> Result<(), Failure> {
        let record = |idx: u64| {
            json!({
                "id": Uuid::now_v7().simple().to_string(), "idx": idx,
                "host": {"id": self.host, "name": "bench"}, "timestamp": 1_767_088_800_000_000_000u64,
                "version": "v0", "tag": "bench",
                "data": {"data": "x".repeat(450), "content_encryption_key": "k".repeat(100)},
            })
        };
        let body: Vec<_> = (self.next..self.next + self.records as u64).map(record).collect();
        self.next += self.records as u64;
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let body = serde_json::to_vec(&body)?;
        let answer =
            self.connection.send(&request("POST", "/api/v0/record", &headers, &body)).await?;
        if answer.status == 200 {
            return Ok(());
        }
        let body = String::from_utf8_lossy(answer.body);
        Err(format!("atuin-server answered a push with {}: {body}", answer.status).into())
    }
}

struct PeerPull {
    connection: Connection,
    request: Vec<u8>,
}

impl Work for PeerPull {
    async fn once(&mut self) -> Result<(), Failure> {
        let answer = self.connection.send(&self.request).await?;
        let right = answer.status == 200 && answer.body.len() > 1_000;
        if right {
            Ok(())
        } else {
            Err(format!("a pull was answered with {}", answer.status).into())
        }
    }
}
