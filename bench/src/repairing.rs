//! A device that differs from its scope in ten messages: what it moves and how long it takes to mend that, beside
//! pulling everything anew.

use std::{collections::BTreeSet, time::Instant};

use model::{BodyHash, Item, MessageId, Metadata, Timestamp, Version};
use repair::{Finding, Held, Items};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Failure,
    http::{Connection, request},
    load::Work,
    scenarios::Push,
    server::{Server, token},
};

const USER: &str = "repairer";
const PUSH_MESSAGES: usize = 100;
/// Pushes at once.
const AT_ONCE: usize = 8;
const FRAME_BYTES: u32 = 64 << 10;
/// Messages that the device lacks, and as many that it alone has.
const HALF: usize = 5;

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) kb: f64,
    pub(crate) ms: f64,
}

pub(crate) struct Repaired {
    /// All pages of the scope.
    pub(crate) pull: Cost,
    /// The first repair: the server reads what the scope holds.
    pub(crate) first: Cost,
    /// The next one.
    pub(crate) next: Cost,
    /// What the server has more of in memory, in MB.
    pub(crate) memory: f64,
}

/// Pushes so many messages to a scope, pulls them, loses some, and repairs.
pub(crate) async fn repair(server: &Server, messages: usize) -> Result<Repaired, Failure> {
    push(server, messages).await?;
    let mut device = Device::new(server).await?;
    let (pull, all) = device.pull().await?;
    if all.len() < messages {
        return Err(format!("{} of {messages} messages were pulled", all.len()).into());
    }
    let differing = differing(&all);
    let before = server.resident_mb()?;
    let first = device.repair(&differing).await?;
    let memory = server.resident_mb()? - before;
    let next = device.repair(&differing).await?;
    Ok(Repaired { pull, first, next, memory })
}

async fn push(server: &Server, messages: usize) -> Result<(), Failure> {
    let pushes = messages.div_ceil(PUSH_MESSAGES);
    let mut tasks = Vec::new();
    for worker in 0..AT_ONCE {
        let mut push = Push::new(server, USER, PUSH_MESSAGES).await?;
        tasks.push(tokio::spawn(async move {
            for _ in (worker..pushes).step_by(AT_ONCE) {
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

/// The messages without some, and with as many others.
fn differing(all: &[Held]) -> Items {
    let (lost, kept) = all.split_at(HALF.min(all.len()));
    let other = |held: &Held| {
        let (updated_at, body) = (Timestamp::from_millis(1_000), BodyHash(held.item.0));
        Held::new(held.id, Version { updated_at, body })
    };
    Items::new(kept.iter().copied().chain(lost.iter().map(other)).collect())
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Message>,
    cursor: u64,
    has_more: bool,
}

#[derive(Deserialize)]
struct Message {
    id: MessageId,
    r#type: String,
    content: String,
    metadata: Value,
    updated_at: Timestamp,
}

impl Message {
    fn held(&self) -> Result<Held, Failure> {
        let metadata = Metadata::new(&self.metadata)?;
        let body = BodyHash::of(&self.r#type, &self.content, metadata.as_str());
        Ok(Held::new(self.id, Version { updated_at: self.updated_at, body }))
    }
}

/// One who counts what goes both ways, headers too.
struct Device {
    connection: Connection,
    token: String,
    bytes: usize,
}

impl Device {
    async fn new(server: &Server) -> Result<Self, Failure> {
        let token = format!("Bearer {}", token(USER)?);
        Ok(Self { connection: Connection::open(&server.api).await?, token, bytes: 0 })
    }

    async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let headers = [("authorization", self.token.as_str()), ("x-device-id", "bench")];
        let request = request(method, path, &headers, body);
        let answer = self.connection.send(&request).await?;
        self.bytes += request.len() + answer.bytes;
        if answer.status == 200 {
            return Ok(answer.body.to_vec());
        }
        let body = String::from_utf8_lossy(answer.body);
        Err(format!("{method} {path} was answered with {}: {body}", answer.status).into())
    }

    fn cost(&mut self, begun: Instant) -> Cost {
        let bytes = std::mem::take(&mut self.bytes);
        Cost { kb: bytes as f64 / 1024.0, ms: begun.elapsed().as_secs_f64() * 1_000.0 }
    }

    /// All messages, and what getting them took.
    async fn pull(&mut self) -> Result<(Cost, Vec<Held>), Failure> {
        let (mut cursor, mut held, mut cost) = (0, Vec::new(), Cost::default());
        loop {
            let begun = Instant::now();
            let path = format!("/api/v1/context/pull?cursor={cursor}&limit=1000");
            let body = self.send("GET", &path, b"").await?;
            let page = self.cost(begun);
            cost = Cost { kb: cost.kb + page.kb, ms: cost.ms + page.ms };
            let page: Page = serde_json::from_slice(&body)?;
            for message in &page.messages {
                held.push(message.held()?);
            }
            cursor = page.cursor;
            if !page.has_more {
                return Ok((cost, held));
            }
        }
    }

    /// Finds out what differs, and fetches what is missing.
    async fn repair(&mut self, items: &Items) -> Result<Cost, Failure> {
        let begun = Instant::now();
        let (mut finding, first) = Finding::begin(items, FRAME_BYTES)?;
        let mut next = Some(first);
        while let Some(frame) = next {
            let path = "/api/v1/context/reconcile/messages";
            next = finding.next(&self.send("POST", path, &frame).await?)?;
        }
        let found = finding.end();
        let missing: BTreeSet<Item> = found.there_alone;
        if (found.here_alone.len(), missing.len()) != (HALF, HALF) {
            return Err(format!("{} were found to be missing", missing.len()).into());
        }
        let body = json!({ "ids": missing }).to_string().into_bytes();
        let fetched = self.send("POST", "/api/v1/context/messages", &body).await?;
        let cost = self.cost(begun);
        let fetched: Value = serde_json::from_slice(&fetched)?;
        match fetched["messages"].as_array().map(Vec::len) {
            Some(HALF) => Ok(cost),
            _ => Err(format!("fetched was {fetched}").into()),
        }
    }
}
