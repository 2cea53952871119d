//! Devices that push all the time, and retry with the same Idempotency-Key until they know.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use model::LogFold;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{
    client::{Device, Reply, USER, say, team},
    equation::{self, eventually},
};

pub(crate) struct Load {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Writer>>,
}

/// A writer's pause after each push. Without it there is the more to compare the busier the machine is.
const PAUSE: Duration = Duration::from_millis(25);

/// A device, and what it was told.
struct Writer {
    device: Device,
    /// The scope's path and its key.
    scope: (String, &'static str),
    name: usize,
    /// Contents and their ids, as acknowledged.
    said: Vec<(String, Uuid)>,
    /// The message that it edits again and again, and its last acknowledged cursor and content.
    edited: (Uuid, u64, String),
}

impl Load {
    /// Writers to a team and to a user's scope.
    pub(crate) async fn start(device: &Device) -> Self {
        eventually("the team", async || {
            let request = device.request(reqwest::Method::PUT, "/api/v1/teams/t");
            let created = Reply::try_of(request).await.ok()?;
            matches!(created.status, 200 | 201).then_some(())
        })
        .await;
        let (acknowledged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let writer = |name: usize| Writer {
            device: device.named(&format!("device-{name}")),
            scope: match name % 2 {
                0 => (team("t"), "acme/team/t"),
                _ => (USER.to_owned(), "acme/user/ann"),
            },
            name,
            said: Vec::new(),
            edited: (Uuid::new_v4(), 0, String::new()),
        };
        let writers = (0..6)
            .map(|name| tokio::spawn(writer(name).run(acknowledged.clone(), stop.clone())))
            .collect();
        Self { acknowledged, stop, writers }
    }

    /// Waits until that many more pushes were acknowledged.
    pub(crate) async fn goes_on(&self, more: u64) {
        let now = self.acknowledged.load(Ordering::SeqCst);
        eventually("pushes are acknowledged again", async || {
            assert!(!self.writers.iter().any(JoinHandle::is_finished), "a writer gave up");
            (self.acknowledged.load(Ordering::SeqCst) >= now + more).then_some(())
        })
        .await;
    }

    /// Ends it; every push is acknowledged by then.
    pub(crate) async fn stop(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut writers = Vec::new();
        for writer in self.writers {
            let ended = tokio::time::timeout(equation::DEADLINE, writer).await;
            writers.push(ended.expect("the last pushes are acknowledged").unwrap());
        }
        println!("{} pushes were acknowledged", self.acknowledged.load(Ordering::SeqCst));
        Told(writers)
    }
}

/// What the writers were told.
pub(crate) struct Told(Vec<Writer>);

impl Told {
    /// All that was acknowledged is there, exactly once, and nothing else.
    pub(crate) fn is_in(&self, fold: &LogFold) {
        for key in ["acme/team/t", "acme/user/ann"] {
            let live = equation::live(fold, key);
            let mut expected = 0;
            for writer in self.0.iter().filter(|writer| writer.scope.1 == key) {
                for (content, id) in &writer.said {
                    assert_eq!(live[id]["content"], *content);
                }
                let (id, cursor, content) = &writer.edited;
                if *cursor > 0 {
                    assert_eq!(
                        (&live[id]["content"], &live[id]["cursor"]),
                        (&json!(content), &json!(cursor))
                    );
                    expected += 1;
                }
                expected += writer.said.len();
            }
            assert_eq!(live.len(), expected, "messages of {key}");
        }
    }
}

impl Writer {
    async fn run(mut self, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Self {
        for n in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let content = format!("device {} says {n}", self.name);
            let edit = format!("device {} edits {n}", self.name);
            let (id, base, _) = &self.edited;
            let messages = [
                say(&content),
                json!({"id": id, "type": "pattern", "content": edit, "base_cursor": base}),
            ];
            let answer = self.push(&format!("{}-{n}", self.name), &messages).await;
            assert_eq!((&answer["synced"], &answer["skipped"]), (&json!(2), &json!(0)), "{answer}");
            let results = &answer["results"];
            self.said.push((content, results[0]["id"].as_str().unwrap().parse().unwrap()));
            self.edited = (self.edited.0, results[1]["cursor"].as_u64().unwrap(), edit);
            acknowledged.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(PAUSE).await;
        }
        self
    }

    /// Retries until it is acknowledged with 200.
    async fn push(&self, key: &str, messages: &[Value]) -> Value {
        loop {
            let pushing =
                self.device.pushing(&self.scope.0, messages).header("Idempotency-Key", key);
            match Reply::try_of(pushing.timeout(Duration::from_secs(20))).await {
                Ok(reply) if reply.status == 200 => return reply.body,
                Ok(reply) if reply.status == 202 => {}
                Ok(reply) => {
                    assert!(
                        reply.headers.contains_key("retry-after"),
                        "{}: {}",
                        reply.status,
                        reply.body
                    );
                    let problem = reply.problem(503, "UNAVAILABLE");
                    let accepted = &problem["accepted"];
                    assert!(*accepted == false || *accepted == "unknown", "{problem}");
                }
                Err(_) => {} // no answer: nobody knows
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
