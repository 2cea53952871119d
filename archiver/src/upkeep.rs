//! What an archiver does beside archiving: every day, and when an operator asks.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    cache::Cache,
    clock::Clock,
    error::ArchiverError,
    expiry::{Expiry, Overdue, Summary, Told},
    session::Session,
};

const EXPIRE_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// How long to wait after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(600);
/// Requests of operators, and lines of an answer, that wait to be taken.
const WAITING: usize = 64;

/// What the archiver's upkeep works with.
#[derive(Clone)]
pub struct Upkeep {
    pub(crate) clock: Clock,
    requests: Arc<Mutex<mpsc::Receiver<Request>>>,
}

/// Asks a running archiver for its upkeep.
#[derive(Clone)]
pub struct Operator(mpsc::Sender<Request>);

enum Request {
    Expire { dry_run: bool, answer: mpsc::Sender<Expiring> },
}

/// What an expiry says as it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiring {
    Overdue(Overdue),
    /// The last.
    Done(Summary),
    /// The last: why it stopped.
    Failed(String),
}

impl Upkeep {
    /// By this clock; what operators ask for comes through the second one.
    pub fn new(clock: Clock) -> (Self, Operator) {
        let (sender, requests) = mpsc::channel(WAITING);
        (Self { clock, requests: Arc::new(Mutex::new(requests)) }, Operator(sender))
    }

    /// Works as long as what is returned lives.
    pub(crate) fn spawn(&self, session: &Session<'_>, cache: &Arc<Cache>) -> JoinSet<()> {
        let expiry = Expiry {
            log: session.log.clone(),
            facts: session.facts.clone(),
            archive: session.archive.clone(),
            cache: cache.clone(),
            retention: session.config.retention.clone(),
            length: session.config.archive_hour_seconds,
            clock: self.clock.clone(),
        };
        let mut working = JoinSet::new();
        working.spawn(run(self.requests.clone(), expiry));
        working
    }
}

impl Operator {
    /// Expires what is over its time; with `dry_run` it only says what would go. What is said ends early if the
    /// archiver does.
    pub async fn expire(&self, dry_run: bool) -> mpsc::Receiver<Expiring> {
        let (answer, said) = mpsc::channel(WAITING);
        // Where there is no archiver, nothing is said.
        let _ = self.0.send(Request::Expire { dry_run, answer }).await;
        said
    }
}

async fn run(requests: Arc<Mutex<mpsc::Receiver<Request>>>, expiry: Expiry) {
    let mut requests = requests.lock().await;
    let mut expire_at = Instant::now();
    loop {
        tokio::select! {
            Some(request) = requests.recv() => serve(&expiry, request).await,
            () = sleep_until(expire_at) => {
                expire_at = Instant::now() + expire(&expiry).await;
            }
        }
    }
}

/// Returns when to do it again.
async fn expire(expiry: &Expiry) -> Duration {
    match expiry.run(false, &mut Told::default()).await {
        Ok(summary) => {
            let Summary { expired, bytes, stays } = summary;
            tracing::info!(expired, bytes, stays, "expired what is over its time");
            EXPIRE_EVERY
        }
        Err(error) => {
            tracing::warn!(%error, "expiring stopped; trying again");
            RETRY_AFTER
        }
    }
}

async fn serve(expiry: &Expiry, request: Request) {
    let Request::Expire { dry_run, answer } = request;
    let mut told = Told::to(answer.clone());
    let last = match expiry.run(dry_run, &mut told).await {
        Ok(summary) => Expiring::Done(summary),
        Err(error) => Expiring::Failed(failed(&error)),
    };
    // Who asked may have gone.
    let _ = answer.send(last).await;
}

fn failed(error: &ArchiverError) -> String {
    tracing::warn!(%error, "an expiry that an operator asked for stopped");
    error.to_string()
}
