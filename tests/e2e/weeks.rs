//! Weeks of real histories in seconds: teams and their people push, edit and delete, a team is restored, and the
//! archiver is killed on the way. In the end `rows == fold(log) == fold(read(archive))` for every scope.

use std::{path::Path, sync::Arc, time::Duration};

use archive::{
    Archive, ArchiveAddress, ArchiveConfig,
    period::HourLength,
    verify::{Sample, verify},
};
use archiver::{Archiver, ArchiverConfig, Clock, Retention, SegmentConfig, Upkeep};
use context_sync::{
    demo::{history, people::Person},
    device::batches::Outgoing,
};
use eventlog::EventLog;
use model::{
    Action, BackupId, BackupType, Command, CommandId, DeviceId, Event, Limits, LogFold, MessageId,
    OrgRole, Partition, PushedChange, RequestHash, RestoreId, RestoreMode, Role, ScopeKey,
    ScopeKind, Timestamp, UserId, draft::parse_change,
};
use projector::{Projector, ProjectorConfig};
use readmodel::feed::Feed;
use serde_json::{Value, json};
use service::ops::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    corpus::{self, Random},
    database::Database,
    equation, shown,
    simulated_log::SimulatedLog,
};

const HOUR: i64 = 3_600_000_000;
const WEEKS: i64 = 3;
/// Histories that are told besides, as a search path of repositories.
const MORE: &str = "CONTEXT_SYNC_TEST_HISTORIES";
/// Messages of one history, at most.
const MESSAGES_MAX: usize = 1_500;
/// So many backups, one is read message by message: the others by count and digest.
const READ_ONE_OF: usize = 7;

fn begin() -> Timestamp {
    Timestamp::parse_rfc3339("2025-12-01T07:00:00Z").unwrap()
}

/// Who says what, in order.
type Line = (String, Value);

/// A team's history: that of the shared corpus or of a repository.
struct Told {
    team: String,
    lines: Vec<Line>,
}

async fn histories() -> Vec<Told> {
    let mut told = vec![Told { team: "corpus".to_owned(), lines: corpus::corpus().lines }];
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let more = std::env::var_os(MORE).unwrap_or_default();
    for path in std::iter::once(own).chain(std::env::split_paths(&more)) {
        let people = history::read(&path, MESSAGES_MAX as u64).await.unwrap().people;
        let said = |person: &Person| {
            let line = |message: &Outgoing| {
                (person.user.clone(), serde_json::from_str(message.json.get()).unwrap())
            };
            person.messages.iter().map(line).collect::<Vec<Line>>()
        };
        let team = format!("history-{}", told.len());
        told.push(Told { team, lines: people.iter().flat_map(said).collect() });
    }
    told.iter_mut().for_each(|told| told.lines.truncate(MESSAGES_MAX));
    told
}

/// Writes a log, and folds it along: edits and deletes are of what is there.
struct Scribe {
    log: Arc<SimulatedLog>,
    fold: LogFold,
    random: Random,
    time: Timestamp,
}

impl Scribe {
    fn command(&mut self, scope: &ScopeKey, actor: &str, org_role: OrgRole, action: Action) {
        let command = Command {
            id: CommandId(Uuid::new_v4()),
            scope: scope.clone(),
            actor: UserId::new(actor).unwrap(),
            org_role,
            device: Some(DeviceId::new("laptop").unwrap()),
            request_hash: RequestHash::of(&[b"request"]),
            action,
        };
        self.log.at(self.time, &command);
        self.fold.apply_command(&command, self.time).unwrap();
    }

    fn push(&mut self, scope: &ScopeKey, actor: &str, messages: &[Value]) {
        let change = |(index, message): (usize, &Value)| {
            let change = parse_change(&message.to_string(), &Limits::CONTRACT).ok()?;
            Some(PushedChange { index: index as u32, change })
        };
        let changes = messages.iter().enumerate().filter_map(change).collect();
        let action = Action::MessagesPushed { changes, rejected: Vec::new() };
        self.command(scope, actor, OrgRole::Member, action);
    }

    /// Some live message of the scope, and its cursor.
    fn some(&mut self, scope: &ScopeKey) -> Option<(MessageId, u64)> {
        let messages = self.fold.scopes.get(scope)?.messages.values();
        let mut live: Vec<_> = messages
            .filter(|message| message.entry.is_live())
            .map(|message| (message.id, message.entry.cursor.get()))
            .collect();
        live.sort_unstable();
        (!live.is_empty()).then(|| live[self.random.below(live.len())])
    }

    /// The lines of a history, over the weeks: to the team, some to their own scope too.
    fn tell(&mut self, told: &Told) {
        let team = scope(ScopeKind::Team, &told.team);
        self.time = begin();
        self.command(&team, "ann", OrgRole::Member, Action::ScopeCreated);
        let mut members: Vec<&str> = told.lines.iter().map(|(user, _)| user.as_str()).collect();
        members.sort_unstable();
        members.dedup();
        for user in members.into_iter().filter(|user| *user != "ann") {
            let action = Action::MemberSet { user: UserId::new(user).unwrap(), role: Role::Member };
            self.command(&team, "ann", OrgRole::Member, action);
        }
        let (mut place, total) = (0, told.lines.len().max(1) as i64);
        while let Some((user, _)) = told.lines.get(place) {
            let most = 1 + self.random.below(20);
            let batch: Vec<Value> = told.lines[place..]
                .iter()
                .take(most)
                .take_while(|(other, _)| other == user)
                .map(|(_, message)| message.clone())
                .collect();
            let hours = WEEKS * 7 * 24 * place as i64 / total;
            self.time = begin().plus_micros(hours * HOUR + self.random.below(1_000) as i64);
            place += batch.len();
            self.push(&team, user, &batch);
            match self.random.below(6) {
                0 => self.push(&scope(ScopeKind::User, user), user, &batch),
                1 => self.change(&team, user),
                _ => {}
            }
        }
    }

    /// Edits a message, or deletes it.
    fn change(&mut self, scope: &ScopeKey, user: &str) {
        let Some((id, cursor)) = self.some(scope) else { return };
        let number = self.random.below(1_000_000);
        let change = if number.is_multiple_of(3) {
            json!({"id": id, "deleted": true, "base_cursor": cursor})
        } else {
            let content = format!("edited: {number}");
            json!({"id": id, "type": "decision", "content": content, "base_cursor": cursor})
        };
        self.push(scope, user, &[change]);
    }
}

fn scope(kind: ScopeKind, name: &str) -> ScopeKey {
    format!("acme/{kind}/{name}").parse().unwrap()
}

/// What is written of all histories, in the order of time.
async fn written() -> Arc<SimulatedLog> {
    let mut drafts = Vec::new();
    for (number, told) in histories().await.iter().enumerate() {
        let draft = SimulatedLog::new(1);
        let random = Random(number as u64);
        let mut scribe =
            Scribe { log: draft.clone(), fold: LogFold::default(), random, time: begin() };
        scribe.tell(told);
        drafts.extend(draft.all());
    }
    drafts.sort_by_key(|record| record.append_time);
    let log = SimulatedLog::new(3);
    for record in drafts {
        let partition = eventlog::partition_of(&record.key, log.partitions());
        log.put(record.append_time, partition, record.key, record.value);
    }
    log
}

/// An archiver with an empty cache or the one it had.
fn archiver(log: &Arc<SimulatedLog>, archive: &Archive, dir: &Path) -> Running {
    let shutdown = CancellationToken::new();
    let archiver = Archiver {
        config: ArchiverConfig {
            archive_hour_seconds: HourLength::REAL,
            archive_cache: Some(dir.join("cache")),
            retention: Retention::default(),
            segments: SegmentConfig::default(),
            archive_drill_hours: 0,
        },
        log: log.clone(),
        facts: SimulatedLog::new(1),
        archive: archive.clone(),
        database: None,
        ready: Readiness::new().component("archiver"),
        // It stands still: nothing is over its time.
        upkeep: Upkeep::new(Clock::new(begin), None).0,
    };
    let run = archiver.run(shutdown.clone());
    let task = tokio::spawn(async move { run.await.map_err(|error| error.to_string()) });
    Running { shutdown, task }
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A tick in every partition: what is open before it is over.
fn tick(log: &SimulatedLog, days: i64) {
    let value = bytes::Bytes::from(schemas::encode(&Event::Tick).unwrap());
    let time = begin().plus_micros((WEEKS * 7 + days) * 24 * HOUR);
    for partition in (0..log.partitions()).map(Partition::new) {
        log.put(time, partition, bytes::Bytes::new(), value.clone());
    }
}

/// The team is set back to how it was after its first week.
fn restore(log: &SimulatedLog, mode: RestoreMode) -> RestoreId {
    let team = scope(ScopeKind::Team, "corpus");
    let restore = RestoreId(Uuid::new_v4());
    let backup = BackupId::scheduled(&team, BackupType::Full, "2025-12-08");
    let source = Box::new(team.clone());
    let command = Command {
        id: CommandId(restore.0),
        scope: team,
        actor: UserId::new("ann").unwrap(),
        org_role: OrgRole::Member,
        device: None,
        request_hash: RequestHash::of(&[b"request"]),
        action: Action::RestoreRequested { restore, mode, backup, source },
    };
    let time = begin().plus_micros((WEEKS * 7 + 1) * 24 * HOUR);
    log.at(time, &command);
    restore
}

async fn restored(log: &SimulatedLog, id: RestoreId) {
    equation::eventually("the restore is over", async || {
        let ends = |record: &eventlog::Record| {
            let short = record.value.len() < 1_000;
            let event = short.then(|| schemas::decode(&record.value).ok()).flatten();
            matches!(event, Some(Event::Command(Command {
                action: Action::RestoreCompleted { restore, .. }, ..
            })) if restore == id)
        };
        log.all().iter().any(ends).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_log_and_archive_agree_after_weeks_with_kills_and_restores() {
    let log = written().await;
    let dir = tempfile::tempdir().unwrap();
    let address = ArchiveAddress::File(dir.path().join("archive"));
    let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
    let mut random = Random(7);
    for _ in 0..6 {
        let running = archiver(&log, &archive, dir.path());
        tokio::time::sleep(Duration::from_millis(100 + random.below(1_500) as u64)).await;
        running.kill().await;
    }
    tick(&log, 1);
    let running = archiver(&log, &archive, dir.path());
    shown::sealed(&archive, &log).await;
    for mode in [RestoreMode::Replace, RestoreMode::Merge] {
        let id = restore(&log, mode);
        restored(&log, id).await;
    }
    tick(&log, 3);
    tick(&log, 4);
    shown::sealed(&archive, &log).await;
    running.stop().await;

    let database = Database::migrated().await;
    let (shutdown, readiness) = (CancellationToken::new(), Readiness::new());
    let projector = Projector {
        config: ProjectorConfig {
            batch_records_max: 1_000,
            batch_changes_max: 2_000,
            batch_bytes_max: 8 << 20,
            partitions: Vec::new(),
        },
        database: database.config.clone(),
        log: log.clone(),
        facts: None,
        archive: None,
        feed: Feed::new(true),
        ready: readiness.component("projector"),
    };
    let projecting = tokio::spawn(projector.run(shutdown.clone()));
    equation::check(log.as_ref(), &database.owner_pool()).await;
    shutdown.cancel();
    projecting.await.unwrap().unwrap();

    let backups = shown::check(&archive, &log, READ_ONE_OF).await;
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!((report.problems, report.orphans), (vec![], vec![]));
    println!("{} records, {backups} backups, {} objects", log.all().len(), report.objects);
    assert!(backups > 100, "{backups} backups");
}
