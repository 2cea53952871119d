//! What devices do, as load.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    Failure,
    http::{Connection, request},
    load::{Measured, Work, run},
    server::{Server, TENANT, token, token_of},
};

/// Users of the load; each pushes to a scope of its own.
pub(crate) const USERS: usize = 64;

/// A usual message, as the wire has it. No two of different names are the same.
pub(crate) fn message(name: &str) -> String {
    format!(
        "{{\"type\":\"decision\",\"content\":\"Decision {name}: keep the log the only truth; derive the rows and the \
         archive from it, compare all three, and say so in one line that a person can check without reading the \
         code. The rest of this message is as long as a usual note of a few sentences would be, which is some hundred \
         bytes of text.\",\"metadata\":{{\"source\":\"session-abc\",\"timestamp\":\"2025-12-30T10:00:00Z\"}}}}"
    )
}

/// Pushes messages that nobody pushed before.
pub(crate) struct Push {
    connection: Connection,
    token: String,
    messages: usize,
    pushed: u64,
    salt: Uuid,
}

impl Push {
    /// To the scope of a user.
    pub(crate) async fn new(server: &Server, user: &str, messages: usize) -> Result<Self, Failure> {
        Self::of(TENANT, server, user, messages).await
    }

    /// As [`Push::new`], of a tenant of its own.
    pub(crate) async fn of(
        tenant: &str,
        server: &Server,
        user: &str,
        messages: usize,
    ) -> Result<Self, Failure> {
        Ok(Self {
            connection: Connection::open(&server.api).await?,
            token: format!("Bearer {}", token_of(tenant, user)?),
            messages,
            pushed: 0,
            salt: Uuid::now_v7(),
        })
    }

    fn body(&mut self) -> Vec<u8> {
        let mut body = String::from("{\"messages\":[");
        for i in 0..self.messages {
            self.pushed += 1;
            let separator = if i == 0 { "" } else { "," };
            body.push_str(separator);
            body.push_str(&message(&format!("{} of {}", self.pushed, self.salt)));
        }
        body.push_str("]}");
        body.into_bytes()
    }
}

impl Push {
    /// Pushes, and gives the status and, of a refusal, what it says.
    pub(crate) async fn send(&mut self) -> Result<(u16, String), Failure> {
        let body = self.body();
        let headers = [("authorization", self.token.as_str()), ("x-device-id", "bench")];
        let request = request("POST", "/api/v1/context/push", &headers, &body);
        let answer = self.connection.send(&request).await?;
        let said = match answer.status {
            200 => String::new(),
            _ => String::from_utf8_lossy(answer.body).into_owned(),
        };
        Ok((answer.status, said))
    }
}

impl Work for Push {
    async fn once(&mut self) -> Result<(), Failure> {
        match self.send().await? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("a push was answered with {status}: {body}").into()),
        }
    }
}

/// Pushes of so many messages each, so many at once.
pub(crate) async fn push(
    server: &Server,
    in_flight: usize,
    messages: usize,
    time: Duration,
    pace: Duration,
) -> Result<Measured, Failure> {
    let mut workers = Vec::new();
    for i in 0..in_flight {
        workers.push(Push::new(server, &user(i), messages).await?);
    }
    run(workers, time, pace).await
}

/// Pushes one message to each of so many scopes, 64 at a time.
pub(crate) async fn scopes(server: &Server, count: usize) -> Result<(), Failure> {
    let mut tasks = Vec::new();
    for worker in 0..USERS {
        let mut push = Push::new(server, &user(worker), 1).await?;
        let scopes: Vec<usize> = (worker..count).step_by(USERS).collect();
        tasks.push(tokio::spawn(async move {
            for scope in scopes {
                push.token = format!("Bearer {}", token(&format!("scope-{scope}"))?);
                push.once().await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Pulls the same page again and again.
struct Pull {
    connection: Connection,
    requests: Vec<Vec<u8>>,
    next: usize,
    expect: &'static [u8],
}

impl Work for Pull {
    async fn once(&mut self) -> Result<(), Failure> {
        self.next = (self.next + 1) % self.requests.len();
        let answer = self.connection.send(&self.requests[self.next]).await?;
        let right = answer.status == 200 && answer.body.starts_with(self.expect);
        if right {
            Ok(())
        } else {
            Err(format!("a pull was answered with {}", answer.status).into())
        }
    }
}

/// Pulls of 100 messages, from places all over the first user's scope.
pub(crate) async fn pull(
    server: &Server,
    in_flight: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let head = head(server).await?;
    let cursors: Vec<u64> = (0..97).map(|i| head.saturating_sub(100) * i / 97).collect();
    pulls(server, in_flight, time, &cursors, b"{\"messages\":[{\"id\":").await
}

/// Pulls with nothing new.
pub(crate) async fn idle_pull(
    server: &Server,
    in_flight: usize,
    time: Duration,
) -> Result<Measured, Failure> {
    let head = head(server).await?;
    pulls(server, in_flight, time, &[head], b"{\"messages\":[]").await
}

async fn pulls(
    server: &Server,
    in_flight: usize,
    time: Duration,
    cursors: &[u64],
    expect: &'static [u8],
) -> Result<Measured, Failure> {
    let token = bearer(0)?;
    let headers = [("authorization", token.as_str()), ("x-device-id", "bench")];
    let requests: Vec<Vec<u8>> = cursors
        .iter()
        .map(|cursor| {
            let path = format!("/api/v1/context/pull?cursor={cursor}&limit=100");
            request("GET", &path, &headers, b"")
        })
        .collect();
    let mut workers = Vec::new();
    for i in 0..in_flight {
        let connection = Connection::open(&server.api).await?;
        workers.push(Pull { connection, requests: requests.clone(), next: i, expect });
    }
    run(workers, time, Duration::ZERO).await
}

async fn head(server: &Server) -> Result<u64, Failure> {
    let token = bearer(0)?;
    let headers = [("authorization", token.as_str()), ("x-device-id", "bench")];
    let mut connection = Connection::open(&server.api).await?;
    let answer =
        connection.send(&request("GET", "/api/v1/context/pull?limit=1", &headers, b"")).await?;
    let answer: serde_json::Value = serde_json::from_slice(answer.body)?;
    answer["head"].as_u64().ok_or_else(|| "a pull has no head".into())
}

fn bearer(i: usize) -> Result<String, Failure> {
    Ok(format!("Bearer {}", token(&user(i))?))
}

fn user(i: usize) -> String {
    format!("u{}", i % USERS)
}
