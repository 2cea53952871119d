//! Weeks of histories in seconds: teams and their people push, edit and delete, a team is backed up, loses messages and is
//! restored, and the archiver is killed on the way. In the end `rows == fold(log) == fold(read(archive))` for every scope.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use archive::{
    Archive, ArchiveAddress, ArchiveConfig, history,
    period::HourLength,
    verify::{Sample, verify},
};
use archiver::{Archiver, ArchiverConfig, Clock, Retention, SegmentConfig, Upkeep};
use context_sync::copies::{
    Copies,
    check::{CheckQuery, Checking, Sums},
    trace::{Trace, Tracing},
};
use eventlog::EventLog;
use model::{
    Action, BackupId, BackupType, Change, Command, CommandId, DeviceId, Event, Limits, LogFold,
    Message, MessageId, OrgRole, Partition, PushedChange, RequestHash, RestoreCounts, RestoreId,
    RestoreMode, RestoreStatus, Role, ScopeKey, ScopeKind, Timestamp, UserId, draft::parse_change,
    log_fold::FoldedScope,
};
use projector::{Projector, ProjectorConfig};
use readmodel::{DatabaseRole, feed::Feed};
use serde_json::{Value, json};
use service::ops::Readiness;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    corpus::Random,
    database::Database,
    equation,
    histories::{self, Told, histories},
    shown,
    simulated_log::SimulatedLog,
};

const HOUR: i64 = 3_600_000_000;
const WEEKS: i64 = 3;
/// Messages that a team loses before it is restored.
const LOST: usize = 40;
/// So many backups, one is read message by message, and the newest of each scope: the others by count and digest.
const READ_ONE_OF: usize = 7;

fn begin() -> Timestamp {
    Timestamp::parse_rfc3339("2025-12-01T07:00:00Z").unwrap()
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

    /// The lines of a history, over the weeks: to the team, and now and then something to their own scope.
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
                0 => self.note(user, place),
                1 => self.change(&team, user),
                _ => {}
            }
        }
        self.lose(&team);
    }

    /// What nobody else sees.
    fn note(&mut self, user: &str, place: usize) {
        let own = scope(ScopeKind::User, user);
        let note =
            |n: usize| json!({"type": "insight", "content": format!("{user} notes {place}.{n}")});
        let notes: Vec<Value> = (0..1 + self.random.below(4)).map(note).collect();
        self.push(&own, user, &notes);
        self.change(&own, user);
    }

    /// The team loses messages of its first week, and some are others now.
    fn lose(&mut self, team: &ScopeKey) {
        let messages = self.fold.scopes[team].messages.values();
        let mut live: Vec<_> = messages
            .filter(|message| message.entry.is_live())
            .map(|message| (message.entry.cursor.get(), message.id))
            .collect();
        live.sort_unstable();
        let change = |(place, (cursor, id)): (usize, &(u64, MessageId))| match place % 4 {
            0 => {
                json!({"id": id, "type": "decision", "content": format!("other: {place}"), "base_cursor": cursor})
            }
            _ => json!({"id": id, "deleted": true, "base_cursor": cursor}),
        };
        let changes: Vec<Value> = live.iter().take(LOST).enumerate().map(change).collect();
        self.push(team, "ann", &changes);
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
    let told = histories().await;
    histories::check(&told);
    for (number, told) in told.iter().enumerate() {
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

/// How many manifests there are.
async fn manifests(archive: &Archive) -> usize {
    archive.list("manifests").await.unwrap().len()
}

/// A tick in every partition: what is open before it is over.
fn tick(log: &SimulatedLog, days: i64) {
    let value = bytes::Bytes::from(schemas::encode(&Event::Tick).unwrap());
    let time = begin().plus_micros((WEEKS * 7 + days) * 24 * HOUR);
    for partition in (0..log.partitions()).map(Partition::new) {
        log.put(time, partition, bytes::Bytes::new(), value.clone());
    }
}

/// The team that is backed up and restored.
fn team() -> ScopeKey {
    scope(ScopeKind::Team, "corpus")
}

/// A request of its owner, after the weeks.
fn request(log: &SimulatedLog, action: Action) {
    let command = Command {
        id: CommandId(Uuid::new_v4()),
        scope: team(),
        actor: UserId::new("ann").unwrap(),
        org_role: OrgRole::Member,
        device: None,
        request_hash: RequestHash::of(&[b"request"]),
        action,
    };
    log.at(begin().plus_micros((WEEKS * 7 + 1) * 24 * HOUR), &command);
}

/// The full that shows the team after its first week.
fn first_week() -> BackupId {
    BackupId::scheduled(&team(), BackupType::Full, "2025-12-08")
}

/// The team is set back to how it was then.
fn restore(log: &SimulatedLog, mode: RestoreMode) -> RestoreId {
    let restore = RestoreId(Uuid::new_v4());
    let (backup, source) = (first_week(), Box::new(team()));
    request(log, Action::RestoreRequested { restore, mode, backup, source });
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

type Messages = BTreeMap<MessageId, Message>;

/// The live messages of one of the team's backups, as a restore reads them.
async fn messages(archive: &Archive, log: &SimulatedLog, backup: BackupId) -> Messages {
    let (team, partitions) = (team(), log.partitions());
    let partition = eventlog::partition_of(team.to_string().as_bytes(), partitions);
    let found = history::find(archive, log.log_id(), partition, &team, backup).await;
    let mut state = found.unwrap().expect("a backup").open(archive).await.unwrap();
    let mut messages = Messages::new();
    while let Some(message) = state.next_message().unwrap() {
        if message.entry.is_live() {
            messages.insert(message.id, message);
        }
    }
    messages
}

/// The team right after a restore of it, and before it; and what that came to.
fn around(log: &SimulatedLog, id: RestoreId) -> (FoldedScope, FoldedScope, RestoreCounts) {
    let (mut fold, mut before, team) = (LogFold::default(), None, team());
    for record in log.all() {
        let event = schemas::decode(&record.value).unwrap();
        let (place, time) = (record.place(), record.append_time);
        let applied = fold.apply(place, time, &record.key, Some(&event)).unwrap();
        let Some(step) = applied.and_then(|a| a.restore).filter(|s| s.restore.id == id) else {
            continue;
        };
        let before = before.get_or_insert_with(|| fold.scopes[&team].clone());
        if matches!(step.status, RestoreStatus::Completed { .. }) {
            return (before.clone(), fold.scopes[&team].clone(), step.restore.counts);
        }
    }
    panic!("{id} has not completed");
}

fn live(folded: &FoldedScope) -> Messages {
    let live = folded.messages.iter().filter(|(_, message)| message.entry.is_live());
    live.map(|(id, message)| (*id, message.clone())).collect()
}

/// As the backup has it, but for its place.
fn assert_back(message: &Message, saved: &Message) {
    let entry = model::Entry { cursor: saved.entry.cursor, ..message.entry.clone() };
    assert_eq!(Message { entry, ..message.clone() }, *saved);
}

/// What was deleted came back; what is there in a greater version, or is new, stayed as it was.
fn check_merge(log: &SimulatedLog, id: RestoreId, saved: &Messages) {
    let (before, after, counts) = around(log, id);
    let (before, after) = (live(&before), live(&after));
    let mut came = 0;
    for (id, saved) in saved {
        match (before.get(id), after.get(id)) {
            (Some(old), Some(new)) if old.entry.version >= saved.entry.version => {
                assert_eq!(new, old)
            }
            // Its content lives under another id.
            (None, None) => {
                let hash = saved.entry.content_hash;
                assert!(before.values().any(|message| message.entry.content_hash == hash), "{id}");
            }
            (_, Some(new)) => {
                assert_back(new, saved);
                came += 1;
            }
            (Some(_), None) => panic!("{id} was lost in a merge"),
        }
    }
    for (id, old) in before.iter().filter(|(id, _)| !saved.contains_key(id)) {
        assert_eq!(after.get(id), Some(old));
    }
    let skipped = saved.len() as u64 - came;
    assert_eq!(counts, RestoreCounts { restored: came, skipped, deleted: 0 });
    // Three of four that were lost were deleted, and the backup has the oldest.
    assert!(came as usize >= LOST / 2, "{counts:?}");
}

/// The team is what the backup is, with new cursors for what was put and the old ones for what was left.
fn check_replace(log: &SimulatedLog, id: RestoreId, saved: &Messages) {
    let (before, after, counts) = around(log, id);
    let (before, after) = (live(&before), live(&after));
    assert_eq!(after.keys().collect::<Vec<_>>(), saved.keys().collect::<Vec<_>>());
    let mut skipped = 0;
    for (id, saved) in saved {
        assert_back(&after[id], saved);
        let is_same = |old: &&Message| old.entry.version == saved.entry.version;
        skipped += u64::from(before.get(id).filter(is_same).is_some());
    }
    let deleted = before.keys().filter(|id| !saved.contains_key(id)).count() as u64;
    let restored = saved.len() as u64 - skipped;
    assert_eq!(counts, RestoreCounts { restored, skipped, deleted });
    assert!(restored > 0 && deleted > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_log_and_archive_agree_after_weeks_with_kills_and_restores() {
    let log = written().await;
    let dir = tempfile::tempdir().unwrap();
    let address = ArchiveAddress::File(dir.path().join("archive"));
    let archive = Archive::open(&ArchiveConfig::new(address)).unwrap();
    let (mut random, mut left) = (Random(7), vec![0]);
    for _ in 0..6 {
        let running = archiver(&log, &archive, dir.path());
        let more = left[left.len() - 1] + 1 + random.below(100);
        let there = async || (manifests(&archive).await >= more).then_some(());
        equation::eventually("the archive goes on", there).await;
        running.kill().await;
        left.push(manifests(&archive).await);
    }
    tick(&log, 1);
    let running = archiver(&log, &archive, dir.path());
    shown::sealed(&archive, &log).await;
    let all = manifests(&archive).await;
    println!("kills left {left:?} of {all} manifests");
    assert!(left.last() < Some(&all), "{left:?} of {all}: no kill came before all was done");
    let backup = BackupId(Uuid::new_v4());
    request(&log, Action::BackupRequested { backup });
    let merge = restore(&log, RestoreMode::Merge);
    restored(&log, merge).await;
    let replace = restore(&log, RestoreMode::Replace);
    restored(&log, replace).await;
    tick(&log, 3);
    tick(&log, 4);
    shown::sealed(&archive, &log).await;
    running.stop().await;
    let saved = messages(&archive, &log, first_week()).await;
    check_merge(&log, merge, &saved);
    check_replace(&log, replace, &saved);
    let on_demand = messages(&archive, &log, backup).await;
    assert!(on_demand.len() > saved.len(), "{} messages on demand", on_demand.len());

    let database = Database::migrated().await;
    let (shutdown, readiness) = (CancellationToken::new(), Readiness::new());
    let projector = Projector {
        config: ProjectorConfig {
            batch_records_max: 1_000,
            batch_changes_max: 2_000,
            batch_bytes_max: 8 << 20,
            projector_workers: 2,
            history_days: 90,
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
    let fold = equation::check(log.as_ref(), &database.owner_pool()).await;
    let own = fold
        .scopes
        .iter()
        .filter(|(key, folded)| key.kind == ScopeKind::User && folded.scope.heading.count > 2);
    assert!(own.count() > 10, "users with messages of their own");
    shutdown.cancel();
    projecting.await.unwrap().unwrap();
    let scopes = fold.scopes.values().filter(|folded| folded.scope.heading.exists);
    operators_see_what_retention_removed(&log, &archive, &database, scopes.count() as u64).await;

    let backups = shown::check(&archive, &log, READ_ONE_OF).await;
    let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
    assert_eq!((report.problems, report.orphans), (vec![], vec![]));
    println!("{} records, {backups} backups, {} objects", log.all().len(), report.objects);
    assert!(backups > 100, "{backups} backups");
}

/// Of a log that has lost its beginning, operators' questions are answered out of the archive.
async fn operators_see_what_retention_removed(
    log: &Arc<SimulatedLog>,
    archive: &Archive,
    database: &Database,
    scopes: u64,
) {
    let mut copies = Copies {
        log: Ok(log.clone()),
        facts: None,
        database: database.config.clone(),
        rows: Ok(database.role(DatabaseRole::Projector)),
        archive: Some(Ok(archive.clone())),
        feed: None,
        readiness: None,
        disks: Vec::new(),
    };
    let message = log.all().iter().find_map(|record| {
        let Ok(Event::Command(command)) = schemas::decode(&record.value) else { return None };
        if command.scope != team() {
            return None;
        }
        let Action::MessagesPushed { changes, .. } = &command.action else { return None };
        let Change::Write(write) = &changes.first()?.change else { return None };
        Some(MessageId::of_content(&team(), &write.content_hash))
    });
    let message = message.unwrap().0;
    let before = traced(&copies, message).await.unwrap();
    assert!(before.steps[0].outcome.as_ref().unwrap().starts_with("pushed:"), "{before:?}");
    for partition in (0..log.partitions()).map(Partition::new) {
        log.cut(partition, log.bounds(partition).await.unwrap().end.get() - 1);
    }
    let sums = checked(&copies).await;
    assert!(sums.is_well() && sums.is_whole() && sums.messages > 100, "{sums:?}");
    assert_eq!((sums.scopes, sums.archived_scopes), (scopes, scopes), "{sums:?}");
    assert_eq!(sums.archived_messages, sums.messages, "{sums:?}");
    let after = traced(&copies, message).await.unwrap();
    assert_eq!((&after.steps, after.is_cut), (&before.steps, false));
    // Without the archive nobody can tell.
    copies.archive = None;
    let sums = checked(&copies).await;
    assert_eq!(sums.only_rows.len() as u32, log.partitions());
    let why = traced(&copies, message).await.unwrap_err();
    assert!(why.contains("no event of it can be read any more"), "{why}");
}

/// Every scope that there is.
async fn checked(copies: &Copies) -> Sums {
    let query = CheckQuery { scope: None, sample: Sample::ALL, each: false };
    match last(async |say| copies.check(&query, &say).await).await {
        Checking::Done(sums) => sums,
        other => panic!("{other:?}"),
    }
}

async fn traced(copies: &Copies, id: Uuid) -> Result<Trace, String> {
    match last(async |say| copies.trace(id, &say).await).await {
        Tracing::Found(trace) => Ok(*trace),
        Tracing::Failed(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

/// The last thing that is said.
async fn last<T>(asked: impl AsyncFnOnce(mpsc::Sender<T>)) -> T {
    let (say, mut told) = mpsc::channel(16);
    let listen = async {
        let mut last = None;
        while let Some(line) = told.recv().await {
            last = Some(line);
        }
        last.unwrap()
    };
    tokio::join!(asked(say), listen).1
}
