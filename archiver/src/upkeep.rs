//! What an archiver does beside archiving: on a schedule, and when an operator asks.

use std::{sync::Arc, time::Duration};

use archive::Archive;
use model::{DrillRecord, Fact, Timestamp};
use readmodel::{Pool, drill::newest};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    cache::Cache,
    clock::Clock,
    drill::{DRILL_SCOPES, DrillError, Drilling, drill},
    expiry::{Expiry, Forgotten, LISTENS_WITHIN, Overdue, Summary, Told},
    measure::{DRILL_AGE, DRILL_OK},
    session::Session,
};

const HOUR: Duration = Duration::from_secs(3_600);
const EXPIRE_EVERY_HOURS: u32 = 24;
/// How long to wait after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(600);
/// How long to wait where there is nothing to compare yet.
const DRILL_AGAIN: Duration = Duration::from_secs(60);
/// How often the last drill's age is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// Requests of operators, and lines of an answer, that wait to be taken.
const WAITING: usize = 64;

/// What the archiver's upkeep works with.
#[derive(Clone)]
pub struct Upkeep {
    pub(crate) clock: Clock,
    /// The read model, if backups are to be compared with it.
    database: Option<Pool>,
    requests: Arc<Mutex<mpsc::Receiver<Request>>>,
    /// Of its schedule.
    hour: Duration,
}

/// Asks a running archiver for its upkeep.
#[derive(Clone)]
pub struct Operator(mpsc::Sender<Request>);

enum Request {
    Expire { dry_run: bool, answer: mpsc::Sender<Expiring> },
    Drill { scopes: u32, answer: mpsc::Sender<Drilling> },
}

/// What an expiry says as it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiring {
    Overdue(Overdue),
    Forgotten(Forgotten),
    /// The last.
    Done(Summary),
    /// The last: why it stopped.
    Failed(String),
}

impl Upkeep {
    /// By this clock; what operators ask for comes through the second one. `database`: the read model, in the ingest
    /// role.
    pub fn new(clock: Clock, database: Option<Pool>) -> (Self, Operator) {
        let (sender, requests) = mpsc::channel(WAITING);
        let requests = Arc::new(Mutex::new(requests));
        (Self { clock, database, requests, hour: HOUR }, Operator(sender))
    }

    /// By a schedule whose hours are so long, for tests: a day has 24 of them.
    #[must_use]
    pub fn with_hours_of(self, hour: Duration) -> Self {
        Self { hour, ..self }
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
        let hours = session.config.archive_drill_hours;
        let worker = Worker {
            archive: session.archive.clone(),
            expire_every: self.hour * EXPIRE_EVERY_HOURS,
            drill_every: (hours > 0).then(|| self.hour * hours),
            database: self.database.clone(),
            expiry,
            last_drill: None,
        };
        let mut working = JoinSet::new();
        working.spawn(worker.run(self.requests.clone()));
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

    /// Compares the newest backups of some scopes with the read model; ends early if the archiver does.
    pub async fn drill(&self, scopes: u32) -> mpsc::Receiver<Drilling> {
        let (answer, said) = mpsc::channel(WAITING);
        let _ = self.0.send(Request::Drill { scopes, answer }).await;
        said
    }
}

struct Worker {
    archive: Archive,
    database: Option<Pool>,
    expiry: Expiry,
    expire_every: Duration,
    /// `None`: never.
    drill_every: Option<Duration>,
    /// When, and whether all agreed.
    last_drill: Option<(Timestamp, bool)>,
}

impl Worker {
    async fn run(mut self, requests: Arc<Mutex<mpsc::Receiver<Request>>>) {
        let mut requests = requests.lock().await;
        // Before anybody can ask: a timer that is due may still take a millisecond.
        let mut expire_at = Instant::now() + self.expire().await;
        let mut drill_at = Instant::now() + self.until_drill().await;
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        let drills = self.drill_every.is_some() && self.database.is_some();
        loop {
            tokio::select! {
                biased; // what is due comes first: an operator who asks finds it done
                () = sleep_until(expire_at) => expire_at = Instant::now() + self.expire().await,
                () = sleep_until(drill_at), if drills => {
                    drill_at = Instant::now() + self.drill().await;
                }
                Some(request) = requests.recv() => self.serve(request).await,
                _ = measure.tick() => self.measure(),
            }
        }
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Expire { dry_run, answer } => {
                let mut told = Told::to(answer);
                let last = match self.expiry.run(dry_run, &mut told).await {
                    Ok(summary) => Expiring::Done(summary),
                    Err(error) => Expiring::Failed(error.to_string()),
                };
                told.say(last).await;
            }
            Request::Drill { scopes, answer } => {
                let last = match self.drill_now(scopes, Some(&answer)).await {
                    Ok(DrillRecord { scopes, failures, .. }) => {
                        Drilling::Done { scopes, failures: failures.len() as u64 }
                    }
                    Err(error) => Drilling::Failed(error.to_string()),
                };
                // Who asked may have gone, or have stopped reading.
                let _ = answer.send_timeout(last, LISTENS_WITHIN).await;
            }
        }
    }

    /// Returns when to do it again.
    async fn expire(&self) -> Duration {
        match self.expiry.run(false, &mut Told::default()).await {
            Ok(Summary { expired, bytes, stays, tombstones }) => {
                tracing::info!(expired, bytes, stays, tombstones, "expired what is over its time");
                self.expire_every
            }
            Err(error) => {
                tracing::warn!(%error, "expiring stopped; trying again");
                RETRY_AFTER
            }
        }
    }

    /// How long until a drill is due: the last one may have been another process's.
    async fn until_drill(&mut self) -> Duration {
        let (Some(every), Some(database)) = (self.drill_every, &self.database) else {
            return Duration::ZERO;
        };
        match newest(database).await {
            Ok(last) => self.last_drill = last,
            Err(error) => {
                tracing::warn!(%error, "the last drill is not known");
                return DRILL_AGAIN;
            }
        }
        let age = self.last_drill.map_or(every, |(at, _)| self.age(at));
        every.saturating_sub(age)
    }

    /// Returns when to do it again.
    async fn drill(&mut self) -> Duration {
        match self.drill_now(DRILL_SCOPES, None).await {
            Ok(DrillRecord { scopes: 0, .. }) => DRILL_AGAIN,
            Ok(_) => self.drill_every.unwrap_or(DRILL_AGAIN),
            Err(error) => {
                tracing::warn!(%error, "a drill stopped; trying again");
                RETRY_AFTER
            }
        }
    }

    /// Drills, and says what it came to; nothing, if there was no backup yet.
    async fn drill_now(
        &mut self,
        scopes: u32,
        said: Option<&mpsc::Sender<Drilling>>,
    ) -> Result<DrillRecord, DrillError> {
        let database = self.database.as_ref().ok_or(DrillError::NoDatabase)?;
        let at = self.expiry.clock.now();
        let record = drill(&self.archive, database, scopes, at, said).await?;
        for failure in &record.failures {
            let (scope, backup, problem) = (&failure.scope, failure.backup, &failure.problem);
            tracing::error!(%scope, %backup, problem, "a backup is not what is live");
        }
        if record.scopes > 0 {
            tracing::info!(record.scopes, failures = record.failures.len(), "drilled");
            let fact = Fact::DrillCompleted(record.clone());
            let said = self.expiry.facts().say(&fact).await;
            said.map_err(|error| DrillError::Task(error.to_string()))?;
            self.last_drill = Some((at, record.failures.is_empty()));
            self.measure();
        }
        Ok(record)
    }

    fn measure(&self) {
        if let Some((at, ok)) = self.last_drill {
            metrics::gauge!(DRILL_AGE).set(self.age(at).as_secs_f64());
            metrics::gauge!(DRILL_OK).set(if ok { 1.0 } else { 0.0 });
        }
    }

    fn age(&self, at: Timestamp) -> Duration {
        let micros = self.expiry.clock.now().micros_since(at);
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    }
}
