//! A scope restored from its backup, beside pushing the same records and inserting as many rows.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    Failure,
    http::{Connection, request},
    load::Work,
    scenarios::Push,
    server::{Server, token},
};

const USER: &str = "restorer";
/// Pushes at once, and how many each does, of 100 messages.
const AT_ONCE: usize = 8;
const PUSHES: usize = 125;
const PUSH_MESSAGES: usize = 100;
pub(crate) const RECORDS: usize = AT_ONCE * PUSHES * PUSH_MESSAGES;

const ASK_EVERY: Duration = Duration::from_millis(10);
const WITHIN: Duration = Duration::from_secs(300);

/// Records a second.
pub(crate) struct Restored {
    pub(crate) pushed: f64,
    pub(crate) restored: f64,
}

/// A scope that was pushed, and its backup.
pub(crate) struct BackedUp {
    pushed: f64,
    operator: Operator,
    backup: String,
}

/// Pushes a scope, and backs it up.
pub(crate) async fn back_up(server: &Server) -> Result<BackedUp, Failure> {
    let pushed = push(server).await?;
    let mut operator = Operator::new(server).await?;
    let backups = "/api/v1/context/backups";
    let backup = operator.send("POST", backups, &Value::Null, 202).await?;
    let id = backup["id"].as_str().ok_or("a backup has no id")?.to_owned();
    let backup = operator.ended(&format!("{backups}/{id}")).await?;
    if backup["record_count"] != RECORDS {
        return Err(format!("the backup is {backup}").into());
    }
    Ok(BackedUp { pushed, operator, backup: id })
}

impl BackedUp {
    /// Restores the backup into an empty team.
    pub(crate) async fn restore(self) -> Result<Restored, Failure> {
        let Self { pushed, mut operator, backup } = self;
        operator.send("PUT", "/api/v1/teams/restored", &Value::Null, 201).await?;
        let source = json!({"scope_type": "user", "scope_id": USER});
        let body = json!({"backup_id": backup, "mode": "merge", "source": source});
        let began = Instant::now();
        let path = "/api/v1/teams/restored/context/restore";
        let running = operator.send("POST", path, &body, 202).await?;
        let id = running["restore_id"].as_str().ok_or("a restore has no id")?;
        let restored = operator.ended(&format!("{path}s/{id}")).await?;
        if restored["restored"] != RECORDS {
            return Err(format!("the restore is {restored}").into());
        }
        Ok(Restored { pushed, restored: RECORDS as f64 / began.elapsed().as_secs_f64() })
    }
}

async fn push(server: &Server) -> Result<f64, Failure> {
    let mut workers = Vec::new();
    for _ in 0..AT_ONCE {
        workers.push(Push::new(server, USER, PUSH_MESSAGES).await?);
    }
    let began = Instant::now();
    let pushes = workers.into_iter().map(|mut worker| {
        tokio::spawn(async move {
            for _ in 0..PUSHES {
                worker.once().await?;
            }
            Ok::<_, Failure>(())
        })
    });
    for task in pushes.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(RECORDS as f64 / began.elapsed().as_secs_f64())
}

/// One who asks, one thing at a time.
struct Operator {
    connection: Connection,
    token: String,
}

impl Operator {
    async fn new(server: &Server) -> Result<Self, Failure> {
        let token = format!("Bearer {}", token(USER)?);
        Ok(Self { connection: Connection::open(&server.api).await?, token })
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: &Value,
        expected: u16,
    ) -> Result<Value, Failure> {
        let headers = [("authorization", self.token.as_str()), ("prefer", "respond-async")];
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        // To create the team is waited for.
        let headers = if method == "PUT" { &headers[..1] } else { &headers[..] };
        let answer = self.connection.send(&request(method, path, headers, &body)).await?;
        if answer.status == expected {
            return Ok(serde_json::from_slice(answer.body)?);
        }
        let body = String::from_utf8_lossy(answer.body);
        Err(format!("{method} {path} was answered with {}: {body}", answer.status).into())
    }

    /// Asks until it is completed.
    async fn ended(&mut self, path: &str) -> Result<Value, Failure> {
        let began = Instant::now();
        loop {
            let headers = [("authorization", self.token.as_str())];
            let answer = self.connection.send(&request("GET", path, &headers, b"")).await?;
            let shown: Value = serde_json::from_slice(answer.body)?;
            if answer.status == 200 && shown["status"] == "completed" {
                return Ok(shown);
            }
            // At first the read model does not know it.
            let goes_on = answer.status == 404 || shown["status"] != "failed";
            if !goes_on || began.elapsed() > WITHIN {
                return Err(format!("{path} came to {shown}").into());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}
