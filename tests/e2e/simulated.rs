//! Plans of the simulation on the real services: fifty devices by the product's own client, over HTTP that loses and
//! repeats, to servers that are killed, restored, rebuilt and recovered. `SIMULATION_SEED=N` runs one plan,
//! `SIMULATION_SEEDS=FROM..TO` others than the usual ones, `SIMULATION_PLAN=FILE` what a failing run has printed. A plan
//! that fails is made smaller, each time on servers of its own, for `SIMULATION_SHRINK_SECONDS`.

mod plans;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, resume_unwind},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use archive::{
    Archive,
    verify::{Sample, verify},
};
use archiver::{Clock, NewLog, Recovering, Recovery, lost};
use context_sync::{
    device::{
        client::{Client, InScope, Server},
        scope::Scope,
    },
    serve::{Logs, Settings},
};
use device::{
    Requests,
    problem::ClientError,
    retry::RetryPolicy,
    wire::{Fetched, PullFrom, PullPage, Reconciled},
};
use futures_util::FutureExt;
use model::{
    ContentHash, Cursor, DeviceId, Epoch, Item, LogId, PushAnswer, RestoreMode, ScopeKey,
    ScopeKind, ScopeRef, Timestamp, reconcile::Claim,
};
use reqwest::Method;
use serde_json::{Value, json, value::RawValue};
use service::{Secret, auth::OrgRole};
use simulation::{
    cast::{self, Seat},
    machine::Machine,
    plan::{Deed, Plan, Step},
    random::Random,
    shrink::{Tried, shrink_by},
    witness::{Standing, Standings, Witness},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    backups,
    client::{Device, Reply, prefix},
    cluster::{ARCHIVING, Cluster, LogKind},
    crash::Child,
    equation::{self, eventually},
    front::Front,
    operators::said,
    recovering::sealed,
};

/// What CI runs, on each log.
const SEEDS: std::ops::Range<u64> = 0..10;
const ROUNDS: u32 = 6;
/// A plan takes seconds.
const SHRINK_TIME: Duration = Duration::from_secs(120);
/// Patient enough for what the front does, and quicker than people's.
const RETRY: RetryPolicy = RetryPolicy {
    retries_max: 8,
    base: Duration::from_millis(5),
    factor: 2,
    delay_max: Duration::from_secs(2),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_copies_agree_on_an_embedded_log() {
    play_all(LogKind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_copies_agree_on_kafka() {
    play_all(LogKind::Kafka).await;
}

/// One plan after another, on the same servers.
async fn play_all(kind: LogKind) {
    let (plans, is_usual) = asked();
    let recovers = plans.iter().any(|(_, plan)| recovers(plan));
    let mut stage = Stage::new(kind, recovers).await;
    for (name, plan) in &plans {
        println!("{name}, as a file for SIMULATION_PLAN:\n{}", plan.to_text());
        let played = AssertUnwindSafe(stage.play(name, plan)).catch_unwind().await;
        if let Err(panic) = played {
            drop(stage);
            println!("{}", smaller(kind, plan.clone()).await);
            resume_unwind(panic);
        }
    }
    println!("{:?}", stage.effects);
    if is_usual {
        stage.effects.suffice();
    }
    stage.end().await;
}

fn recovers(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Recover { .. }))
}

/// What is left of a plan that fails, on servers that played no other before.
async fn smaller(kind: LogKind, plan: Plan) -> String {
    let time = std::env::var("SIMULATION_SHRINK_SECONDS");
    let time = time.map_or(SHRINK_TIME, |text| Duration::from_secs(text.parse().unwrap()));
    let until = Instant::now() + time;
    let (smallest, why) = shrink_by(plan, None, async |plan| {
        if Instant::now() > until {
            return Tried::TooMany;
        }
        let alone = AssertUnwindSafe(async {
            let mut stage = Stage::new(kind, recovers(plan)).await;
            stage.play("made smaller", plan).await;
            stage.end().await;
        });
        match alone.catch_unwind().await {
            Ok(()) => Tried::Passes,
            Err(panic) => {
                Tried::Fails(Some(panic.downcast_ref::<String>().cloned().unwrap_or_default()))
            }
        }
    })
    .await;
    match why {
        Some(why) => format!("what is left of it fails too ({why}):\n{}", smallest.to_text()),
        None => "no smaller plan was found to fail".to_owned(),
    }
}

/// A step that means nothing to servers stands for a defect: it alone is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_fails_is_made_smaller() {
    let failing = Step::Pass { seconds: 1 };
    let steps = vec![Step::Crash, failing.clone()];
    let said = smaller(LogKind::Embedded, Plan { devices: Vec::new(), steps }).await;
    assert!(said.contains("means nothing here"), "{said}");
    let (_, left) = said.split_once('\n').unwrap();
    assert_eq!(Plan::parse(left).unwrap().steps.len(), 1, "{said}");
    assert!(left.contains(&serde_json::to_string(&failing).unwrap()), "{said}");
}

/// The plans to play, each with its name; and whether they are the usual ones.
fn asked() -> (Vec<(String, Plan)>, bool) {
    if let Ok(file) = std::env::var("SIMULATION_PLAN") {
        let plan = Plan::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        return (vec![(file, plan)], false);
    }
    let seeds = seeds();
    let (from, to) = (seeds.start, seeds.end);
    println!("again: SIMULATION_SEEDS={from}..{to} cargo test -p tests -- simulated --nocapture");
    let is_usual = seeds == SEEDS;
    (seeds.map(|seed| (format!("seed {seed}"), plans::of(seed))).collect(), is_usual)
}

fn seeds() -> std::ops::Range<u64> {
    let number = |text: &str| text.parse().expect("takes a number");
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        return number(&seed)..number(&seed) + 1;
    }
    let Ok(text) = std::env::var("SIMULATION_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    number(from)..number(to)
}

/// What came to something: steps that do nothing prove nothing.
#[derive(Debug, Default)]
struct Effects {
    kills: u32,
    rebuilds: u32,
    /// They brought back or deleted something.
    restores: u32,
    /// A device held what was lost.
    recoveries: u32,
}

impl Effects {
    fn suffice(&self) {
        let Self { kills, rebuilds, restores, recoveries } = *self;
        let is_enough = kills >= 5 && rebuilds >= 2 && restores >= 3 && recoveries >= 2;
        assert!(is_enough, "too little happens: {self:?}");
    }
}

struct Stage {
    /// Its node works where no plan is played, or a log is read.
    cluster: Cluster,
    /// The servers, while a plan is played: a process that can be killed.
    servers: Option<Child>,
    front: Front,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    /// That take part in what is played.
    devices: Vec<usize>,
    witness: Arc<Mutex<Witness>>,
    backups: BTreeMap<ScopeKey, Vec<Value>>,
    recovered: bool,
    /// That were asked for, since all came to rest.
    restores: Vec<(ScopeKey, String)>,
    effects: Effects,
    _bucket: tempfile::TempDir,
}

/// A device's requests in a scope, whose acknowledged pushes are noted.
struct Noted<'a> {
    requests: InScope<'a>,
    scope: &'a ScopeKey,
    witness: Arc<Mutex<Witness>>,
}

impl Requests for Noted<'_> {
    async fn push(
        &self,
        key: String,
        epoch: Option<Epoch>,
        messages: Vec<&RawValue>,
    ) -> Result<PushAnswer, ClientError> {
        let answer = self.requests.push(key, epoch, messages).await?;
        self.witness.lock().unwrap().acknowledged(self.scope, &answer);
        Ok(answer)
    }

    async fn pull(&self, from: PullFrom) -> Result<PullPage, ClientError> {
        // Some pages, however little there is.
        self.requests.pull(PullFrom { limit: 7, ..from }).await
    }

    async fn reconcile(
        &self,
        claim: &Claim,
        epoch: Option<Epoch>,
    ) -> Result<Reconciled, ClientError> {
        self.requests.reconcile(claim, epoch).await
    }

    async fn compare(&self, frame: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.requests.compare(frame).await
    }

    async fn fetch(&self, items: &[Item]) -> Result<Fetched, ClientError> {
        self.requests.fetch(items).await
    }
}

fn scope_of(seat: &Seat) -> Scope {
    match seat.scope.kind {
        ScopeKind::User => Scope::User,
        ScopeKind::Team => Scope::Team(seat.scope.name.clone()),
        ScopeKind::Project => Scope::Project(seat.scope.name.clone()),
        ScopeKind::Org => Scope::Org(seat.scope.name.clone()),
    }
}

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    Timestamp::from_micros(i64::try_from(micros).unwrap())
}

impl Stage {
    async fn new(kind: LogKind, recovers: bool) -> Self {
        let bucket = tempfile::tempdir().unwrap();
        let archive = format!("--archive=file://{}", bucket.path().display());
        let flags = [archive.as_str(), "--archive-segment-seconds=1", "--push-wait-ms=3000"];
        let cluster = Cluster::start_archiving_to(kind, &flags).await;
        let front = Front::start(&cluster.node.url).await;
        let seats = cast::seats();
        let client = |seat: &Seat| {
            let server = Server::new(&front.url, Arc::new(|_| {})).unwrap();
            let (tenant, user) = (seat.scope.tenant.as_str(), seat.user.as_str());
            let token = Secret::new(crate::client::token(tenant, user, OrgRole::Member));
            let device = DeviceId::new(&format!("device-{}", seat.number)).unwrap();
            server.client(token, device).retrying(RETRY)
        };
        let clients = seats.iter().map(client).collect();
        let mut stage = Self {
            cluster,
            servers: None,
            front,
            clients,
            machines: seats.into_iter().map(Machine::new).collect(),
            devices: Vec::new(),
            witness: Arc::default(),
            backups: BTreeMap::new(),
            recovered: false,
            restores: Vec::new(),
            effects: Effects::default(),
            _bucket: bucket,
        };
        for founding in cast::foundings() {
            let path = prefix(&founding.scope).trim_end_matches("/context").to_owned();
            let members: Vec<(&str, &str)> = founding
                .members
                .iter()
                .map(|(user, role)| (user.as_str(), role.as_str()))
                .collect();
            stage.owner(&founding.scope).create(&path, &members).await;
        }
        if recovers {
            // Whatever is lost later, the teams are not.
            let archive = Archive::open(&stage.cluster.settings.archive).unwrap();
            sealed(&archive, stage.cluster.node.log.as_ref()).await;
        }
        stage.leave().await;
        stage
    }

    /// From here on the servers are another process.
    async fn leave(&mut self) {
        let (flags, dir) = self.cluster.leave().await;
        let servers = Child::serve("ingest,projector,archiver,api", &flags, dir).await;
        self.front.leads_to(&servers.url);
        self.servers = Some(servers);
    }

    /// They are killed, and others take their place, without an archiver.
    async fn lose_the_archiver(&mut self) {
        if let Some(mut lost) = self.servers.take() {
            lost.kill().await;
        }
        let (flags, dir) = self.cluster.leave().await;
        let servers = Child::serve("ingest,projector,api", &flags, dir).await;
        self.front.leads_to(&servers.url);
        self.servers = Some(servers);
    }

    /// From here on they are in this one.
    async fn take_back(&mut self) {
        if let Some(mut servers) = self.servers.take() {
            servers.signal("TERM");
            assert!(servers.exit().await.success(), "{}", servers.said());
        }
        self.cluster.restart(ARCHIVING).await;
        self.front.leads_to(&self.cluster.node.url);
    }

    /// One who may do everything in a scope, at the servers themselves.
    fn owner(&self, scope: &ScopeKey) -> Device {
        let owner = cast::owner(scope);
        let device = self.cluster.device_of(scope.tenant.as_str(), owner.as_str(), OrgRole::Member);
        self.servers.as_ref().map_or(device.clone(), |servers| device.at(&servers.url))
    }

    /// The devices of a plan do what it says, and then all is whole.
    async fn play(&mut self, name: &str, plan: &Plan) {
        self.devices.clone_from(&plan.devices);
        for (number, step) in plan.steps.iter().enumerate() {
            println!("{name}, step {number}: {}", serde_json::to_string(step).unwrap());
            self.step(step).await;
        }
        self.heal().await;
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Do { device, .. } | Step::Spoil { device, .. }
                if !self.devices.contains(device) => {}
            Step::Do { device, deeds } => {
                deeds.iter().for_each(|deed| self.machines[*device].act(deed, now()));
            }
            Step::Spoil { device, harm } => {
                self.machines[*device].suffer(harm);
                let machines: Vec<&Machine> = self.machines.iter().collect();
                self.witness.lock().unwrap().suffered(*device, harm, &machines);
            }
            Step::Sync { devices, faults, crashes, seed } => {
                self.front.faults(*faults, *seed);
                let mut devices = devices.clone();
                devices.retain(|device| self.devices.contains(device));
                // A device that cannot do it now does it later.
                let syncing = sync(&mut self.machines, &self.clients, &devices, &self.witness);
                let servers = self.servers.as_mut().filter(|_| *crashes > 0);
                self.effects.kills += u32::from(servers.is_some());
                let crashing = async {
                    if let Some(servers) = servers {
                        crash(servers, *seed).await;
                    }
                };
                tokio::join!(syncing, crashing);
            }
            Step::Crash => {
                crash(self.servers.as_mut().unwrap(), 0).await;
                self.effects.kills += 1;
            }
            Step::Backup { scope } => self.back_up(&cast::scopes()[*scope]).await,
            Step::Restore { scope, pick, mode } => {
                self.restore(&cast::scopes()[*scope], *pick, *mode).await;
            }
            Step::Rebuild { .. } => {
                let folded = self.rebuild("").await;
                self.effects.rebuilds += u32::from(folded > 0);
            }
            Step::Recover { seed } => self.recover(*seed).await,
            Step::Work { .. }
            | Step::Pass { .. }
            | Step::Expire { .. }
            | Step::Erase { .. }
            | Step::Member { .. } => {
                panic!("{step:?} means nothing here")
            }
        }
    }

    /// One of the scope's backups; the shape of plans sees to it that there is one.
    async fn restore(&mut self, scope: &ScopeKey, pick: u8, mode: RestoreMode) {
        self.rest().await; // a second one is refused while one runs
        let Some(backups) = self.backups.get(scope) else {
            return; // a plan that was made smaller may have none
        };
        let id = &backups[usize::from(pick) % backups.len()]["id"];
        let body = json!({ "backup_id": id, "mode": mode.as_str() });
        let answer = crate::restores::restore(&self.owner(scope), &prefix(scope), body).await;
        assert!(answer.status == 200 || answer.status == 202, "{answer:?}");
        let id = answer.body["restore_id"].as_str().unwrap().to_owned();
        self.restores.push((scope.clone(), id));
    }

    /// What became of restores, when all have come to their ends.
    async fn count_restores(&mut self) {
        for (scope, id) in std::mem::take(&mut self.restores) {
            let path = format!("{}/restores/{id}", prefix(&scope));
            let shown = self.owner(&scope).get(&path).await;
            let count = |key: &str| shown.body[key].as_u64().unwrap_or_default();
            // A recovery may have lost it.
            let has_changed = shown.status == 200 && count("restored") + count("deleted") > 0;
            self.effects.restores += u32::from(has_changed);
        }
    }

    async fn back_up(&mut self, scope: &ScopeKey) {
        let backup = backups::back_up(&self.owner(scope), &prefix(scope)).await;
        self.backups.entry(scope.clone()).or_default().push(backup);
    }

    /// Folds all once more; nothing may differ. How many scopes there are.
    async fn rebuild(&self, query: &str) -> u64 {
        let url = format!("{}/rebuild?{query}", self.ops_url());
        let said = reqwest::Client::new().post(url).send().await.unwrap().text().await.unwrap();
        let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(last["done"]["differing"], 0, "{said}");
        last["done"]["scopes"].as_u64().unwrap()
    }

    /// Rows and archive are what the log folds to.
    async fn check(&self) {
        let ops_url = format!("--ops-url={}", self.ops_url());
        let checked = said(&["ops", "check", &ops_url, "--json"]).await;
        assert_eq!(checked.status, 0, "rows, log and archive: {checked:?}");
    }

    fn ops_url(&self) -> &str {
        self.servers.as_ref().map_or(&self.cluster.node.ops_url, |servers| &servers.ops_url)
    }

    async fn recover(&mut self, seed: u64) {
        self.lose_the_archiver().await;
        self.push_what_is_lost(seed).await;
        let old = self.cluster.node.log.log_id();
        if let Some(mut lost) = self.servers.take() {
            lost.kill().await;
        }
        self.cluster
            .lose_all_but_the_archive(async |settings: &Settings, dir: &Path| {
                recover(settings, dir, old).await;
            })
            .await;
        self.front.leads_to(&self.cluster.node.url);
        self.recovered = true;
        let mut bases: BTreeMap<ScopeRef, Cursor> = BTreeMap::new();
        for scope in cast::scopes() {
            let page = self.owner(&scope).pull(&prefix(&scope), "limit=1").await.ok();
            let head = Cursor::new(page["head"].as_u64().unwrap()).unwrap();
            bases.insert(scope.reference(), head);
        }
        let has_more = |machine: &Machine| {
            let base = bases[&machine.seat.scope.reference()];
            machine.replica.messages().iter().any(|message| message.cursor > base)
        };
        self.effects.recoveries += u32::from(self.machines.iter().any(has_more));
        let machines: Vec<&Machine> = self.machines.iter().collect();
        self.witness.lock().unwrap().recovered(&bases, &machines);
        self.leave().await;
    }

    /// Some devices push what nobody archives, and hold it.
    async fn push_what_is_lost(&mut self, seed: u64) {
        const DEVICES: usize = 5;
        let mut random = Random::new(seed);
        self.front.faults(0, seed);
        let seats = self.machines.iter().map(|machine| &machine.seat);
        let may: Vec<usize> = seats
            .filter(|seat| seat.may_push && self.devices.contains(&seat.number))
            .map(|seat| seat.number)
            .collect();
        if may.is_empty() {
            return; // in a plan that was made smaller
        }
        let devices: Vec<usize> = (0..DEVICES).map(|_| may[random.below(may.len())]).collect();
        for device in &devices {
            let what = random.below(200) as u8;
            self.machines[*device].act(&Deed::Say { what, minutes: None }, now());
        }
        let failed = sync(&mut self.machines, &self.clients, &devices, &self.witness).await;
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// Nothing goes wrong any more: all come to rest, and devices and scopes are the same.
    async fn heal(&mut self) {
        self.front.faults(0, 0);
        self.rest().await;
        self.count_restores().await;
        let all = self.devices.clone();
        let mut different = Vec::new();
        for _ in 0..ROUNDS {
            let failed = sync(&mut self.machines, &self.clients, &all, &self.witness).await;
            assert!(failed.is_empty(), "{failed:?}");
            different = self.different().await;
            if different.is_empty() {
                break;
            }
        }
        assert!(different.is_empty(), "after {ROUNDS} syncs of all: {different:?}");
        let standings = self.standings().await;
        self.witness.lock().unwrap().check(&standings, &BTreeMap::new()).unwrap();
        self.check().await;
    }

    /// And so are rows, log and archive.
    async fn end(mut self) {
        self.take_back().await;
        equation::caught_up(self.cluster.node.log.as_ref(), &self.cluster.pool).await;
        self.rebuild("dry_run=true").await;
        let archive = Archive::open(&self.cluster.settings.archive).unwrap();
        sealed(&archive, self.cluster.node.log.as_ref()).await;
        self.newest_backups().await;
        let report = verify(&archive, Sample::ALL, |_, _| {}).await.unwrap();
        assert_eq!(report.problems, []);
        self.check().await;
        if self.recovered {
            self.cluster.node.stop().await;
        } else {
            self.cluster.finish().await;
        }
    }

    /// Restores that run come to their ends.
    async fn rest(&self) {
        eventually("no restore runs", async || {
            let running = "select count(*) from scopes where restore is not null";
            let count: i64 =
                sqlx::query_scalar(running).fetch_one(&self.cluster.pool).await.ok()?;
            (count == 0).then_some(())
        })
        .await;
    }

    /// Devices that do not hold what their scope is.
    async fn different(&self) -> Vec<String> {
        let mut different = Vec::new();
        for scope in cast::scopes() {
            let page = self.owner(&scope).pull(&prefix(&scope), "limit=1").await.ok();
            let machines = self.machines.iter().filter(|machine| {
                machine.seat.scope == scope && self.devices.contains(&machine.seat.number)
            });
            for machine in machines {
                let replica = &machine.replica;
                let here = (json!(replica.count()), json!(replica.digest()), json!(replica.cursor));
                let there = (page["count"].clone(), page["digest"].clone(), page["head"].clone());
                if here != there || json!(replica.epoch) != page["epoch"] || !machine.has_said_all()
                {
                    different.push(format!("device {} of {scope}: {here:?}", machine.seat.number));
                }
            }
        }
        different
    }

    async fn standings(&self) -> Standings {
        let mut standings = Standings::new();
        for scope in cast::scopes() {
            let page = self.owner(&scope).pull(&prefix(&scope), "limit=1000").await.ok();
            assert_eq!(page["has_more"], false);
            for message in page["messages"].as_array().unwrap() {
                let id = serde_json::from_value(message["id"].clone()).unwrap();
                let cursor = serde_json::from_value(message["cursor"].clone()).unwrap();
                let content = message["content_hash"].as_str().and_then(ContentHash::parse);
                let of = message["metadata"]["scope"].as_str();
                assert!(of.is_none_or(|of| of == scope.to_string()), "{message} is in {scope}");
                standings.insert((scope.reference(), id), Standing { cursor, content });
            }
        }
        standings
    }

    /// The newest scheduled backup of each scope shows it as it is.
    async fn newest_backups(&self) {
        for scope in cast::scopes() {
            let (owner, path) = (self.owner(&scope), prefix(&scope));
            let page = owner.pull(&path, "limit=1").await.ok();
            if page["head"] == 0 {
                continue;
            }
            eventually("a backup shows the scope", async || {
                let request = owner.request(Method::GET, &format!("{path}/backups?limit=1000"));
                let listed = Reply::of(request).await.ok();
                let backups = listed["backups"].as_array()?.clone();
                let shows = |backup: &Value| {
                    backup["cursor_last"] == page["head"]
                        && backup["digest"] == page["digest"]
                        && backup["backup_type"] != "on_demand"
                };
                backups.iter().any(shows).then_some(())
            })
            .await;
        }
    }
}

/// Kills the servers in the midst of what they do, some milliseconds from now, and starts them again.
async fn crash(servers: &mut Child, seed: u64) {
    tokio::time::sleep(Duration::from_millis(seed % 100)).await;
    servers.kill().await;
    servers.start_again();
    servers.ready().await;
}

/// These devices sync at the same time. Why those failed that did.
async fn sync(
    machines: &mut [Machine],
    clients: &[Client],
    devices: &[usize],
    witness: &Arc<Mutex<Witness>>,
) -> Vec<String> {
    let syncing = machines.iter_mut().filter(|machine| devices.contains(&machine.seat.number));
    let syncing = syncing.map(|machine| async move {
        let seat = machine.seat.clone();
        let (scope, client) = (scope_of(&seat), &clients[seat.number]);
        let requests = Noted {
            requests: client.in_scope(&scope),
            scope: &seat.scope,
            witness: witness.clone(),
        };
        let synced = machine.sync(requests).await;
        synced.err().map(|error| format!("device {}: {error:?}", seat.number))
    });
    futures_util::future::join_all(syncing).await.into_iter().flatten().collect()
}

async fn recover(settings: &Settings, dir: &Path, old: LogId) {
    let archive = Archive::open(&settings.archive).unwrap();
    let logs = Logs::open(settings, dir).await.unwrap();
    let facts = logs.facts.clone().unwrap();
    let found = lost(&archive, Some(old)).await.unwrap();
    let recovery = Recovery {
        config: settings.archiver.clone(),
        archive: archive.clone(),
        lost: found.into(&archive, logs.events.log_id()).await.unwrap(),
        clock: Clock::system(),
        quiet: Duration::ZERO,
    };
    let judged = recovery.judge(NewLog::There(logs.events.as_ref())).await.unwrap();
    let (say, mut said) = mpsc::channel(64);
    let (log, shutdown) = (logs.events.clone(), CancellationToken::new());
    let running = tokio::spawn(judged.run(log, facts.clone(), say, shutdown));
    let mut last = None;
    while let Some(line) = said.recv().await {
        last = Some(line);
    }
    running.await.unwrap();
    assert!(matches!(last, Some(Recovering::Done(_))), "{last:?}");
    logs.events.close().await.unwrap();
    facts.close().await.unwrap();
}
