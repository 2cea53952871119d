//! `rows == fold(log)`, message by message. The projector's tests use this file too.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use eventlog::{EventLog, ReadLimit, Record};
use model::{
    Applied, Digest, Event, LogFold, Offset, Partition, ScopeKey, Timestamp, Verdict,
    limits::OUTCOME_KEPT_MICROS, log_fold::FoldedScope, outcome::Outcome,
};
use readmodel::{Pool, outcomes::positions};
use sqlx::{FromRow, postgres::PgRow};
use uuid::Uuid;

/// Nothing takes longer, on a machine that does much else besides.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Some`; panics at the deadline.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// The offsets after the last records.
pub(crate) async fn ends(log: &dyn EventLog) -> BTreeMap<Partition, Offset> {
    let mut ends = BTreeMap::new();
    for partition in (0..log.partitions()).map(Partition::new) {
        let bounds = eventually("bounds", async || log.bounds(partition).await.ok()).await;
        ends.insert(partition, bounds.end);
    }
    ends
}

/// Waits until the read model is where the log ends now, and answers if it was being filled.
pub(crate) async fn caught_up(log: &dyn EventLog, pool: &Pool) {
    let ends = ends(log).await;
    eventually("the projector catches up", async || {
        let positions: BTreeMap<_, _> = positions(pool).await.ok()?.into_iter().collect();
        let there = |(partition, end)| positions.get(partition).is_some_and(|next| next >= end);
        let filled = sqlx::query_scalar("select not exists (select from filling)");
        let is_filled: bool = filled.fetch_one(pool).await.ok()?;
        (is_filled && positions.len() == ends.len() && ends.iter().all(there)).then_some(())
    })
    .await;
}

/// Folds the whole log.
pub(crate) async fn fold(log: &dyn EventLog) -> LogFold {
    let mut fold = LogFold::default();
    let mut heads: HashMap<ScopeKey, u64> = HashMap::new();
    read(log, |record| {
        let event = schemas::decode(&record.value).ok();
        let place = record.place();
        let applied = fold.apply(place, record.append_time, &record.key, event.as_ref());
        if let (Some(Event::Command(command)), Some(applied)) = (event, applied.unwrap()) {
            let head = heads.entry(command.scope).or_default();
            check_cursors(&applied, head);
        }
    })
    .await;
    fold
}

/// Reads the whole log, each partition in its order.
pub(crate) async fn read(log: &dyn EventLog, mut take: impl FnMut(Record)) {
    const LIMIT: ReadLimit = ReadLimit { records_max: 1_000, bytes_max: 16 << 20 };
    let ends = ends(log).await;
    let from: Vec<_> = ends.keys().map(|partition| (*partition, Offset::ZERO)).collect();
    let mut reader = log.reader(&from).unwrap();
    let mut next: BTreeMap<Partition, Offset> = from.into_iter().collect();
    let deadline = Instant::now() + DEADLINE;
    while next.iter().any(|(partition, next)| next < &ends[partition]) {
        assert!(Instant::now() < deadline, "the log was read up to {next:?} of {ends:?}");
        for record in reader.next(LIMIT, Duration::from_millis(200)).await.unwrap_or_default() {
            next.insert(record.partition, record.offset.next());
            take(record);
        }
    }
}

/// Waits for the projector, then compares everything.
pub(crate) async fn check(log: &dyn EventLog, pool: &Pool) -> LogFold {
    caught_up(log, pool).await;
    let fold = fold(log).await;
    compare(&fold, pool).await;
    fold
}

/// Compares the rows with a fold of the same log.
pub(crate) async fn compare(fold: &LogFold, pool: &Pool) {
    for (key, folded) in &fold.scopes {
        check_fold(key, folded);
    }
    assert_same("scopes", scope_rows(pool).await, scopes_of(fold));
    assert_same("tenants", tenant_rows(pool).await, tenants_of(fold));
    assert_same("messages", message_rows(pool).await, messages_of(fold));
    assert_same("members", member_rows(pool).await, members_of(fold));
    let outcomes = outcome_rows(pool).await;
    let folded = outcomes_of(fold, |id| outcomes.contains_key(id));
    assert_same("outcomes", outcomes, folded);
    assert_same("dead letters", dead_letter_rows(pool).await, dead_letters_of(fold));
}

/// Every change has the next cursor, and a push's answer says which.
fn check_cursors(applied: &Applied, head: &mut u64) {
    let given: Vec<u64> = applied.changes.iter().map(|changed| changed.cursor.get()).collect();
    let dense: Vec<u64> = (*head + 1..).take(given.len()).collect();
    assert_eq!(given, dense, "the cursors after {head}");
    *head += given.len() as u64;
    if let (Verdict::ScopeErased { cursor }, false) = (&applied.outcome.verdict, applied.repeated) {
        assert_eq!(cursor.get(), *head + 1, "the cursor of an erasure");
        *head += 1;
    }
    if let (Verdict::Pushed(answer), false) = (&applied.outcome.verdict, applied.repeated) {
        let synced = answer.results.iter().filter(|result| result.status.is_synced());
        let mut told: Vec<u64> = synced.map(|result| result.cursor.unwrap().get()).collect();
        told.sort_unstable();
        assert_eq!(told, given, "the cursors of an answer");
    }
}

/// What is summed up is the sum.
fn check_fold(key: &ScopeKey, folded: &FoldedScope) {
    let heading = &folded.scope.heading;
    let mut digest = Digest::EMPTY;
    let live = folded.messages.values().filter(|message| message.entry.is_live());
    let mut count = 0;
    for message in live {
        digest.add(message.entry.version.item(message.id));
        count += 1;
    }
    assert_eq!((heading.count, heading.digest), (count, digest), "the sums of {key}");
    let at: BTreeSet<_> = folded.messages.values().map(|message| message.entry.cursor).collect();
    assert_eq!(at.len(), folded.messages.len(), "one message a cursor in {key}");
}

type Rows<K, V> = BTreeMap<K, V>;

fn assert_same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    rows: Rows<K, V>,
    folded: Rows<K, V>,
) {
    for (key, row) in &rows {
        match folded.get(key) {
            None => panic!("{what}: {key:?} is in Postgres alone: {row:?}"),
            Some(folded) => assert_eq!(row, folded, "{what}: {key:?}, Postgres and the fold"),
        }
    }
    for (key, value) in &folded {
        assert!(rows.contains_key(key), "{what}: {key:?} is not in Postgres: {value:?}");
    }
}

async fn rows<T: Send + Unpin + for<'r> FromRow<'r, PgRow>>(
    pool: &Pool,
    query: &'static str,
) -> Vec<T> {
    sqlx::query_as(query).fetch_all(pool).await.unwrap()
}

/// Tenant, kind, name, numbers, digest and the running restore.
type ScopeRow = (String, String, String, [i64; 6], Vec<u8>, Option<String>);

async fn scope_rows(pool: &Pool) -> Rows<Uuid, ScopeRow> {
    let query =
        "select scope, tenant_id, kind, name, head, floor, clock_us, live_count, live_bytes,
        owners::bigint, digest, restore from scopes";
    type Row =
        (Uuid, String, String, String, i64, i64, i64, i64, i64, i64, Vec<u8>, Option<String>);
    let rows: Vec<Row> = rows(pool, query).await;
    rows.into_iter()
        .map(|row| {
            let (scope, tenant, kind, name, head, floor, clock, count, bytes, owners, ..) = row;
            let numbers = [head, floor, clock, count, bytes, owners];
            (scope, (tenant, kind, name, numbers, row.10, row.11))
        })
        .collect()
}

fn scopes_of(fold: &LogFold) -> Rows<Uuid, ScopeRow> {
    let existing = fold.scopes.iter().filter(|(_, folded)| folded.scope.heading.exists);
    let row = |(key, folded): (&ScopeKey, &FoldedScope)| {
        let heading = &folded.scope.heading;
        let numbers = [
            heading.head.as_i64(),
            heading.floor.as_i64(),
            heading.clock.as_micros(),
            heading.count as i64,
            heading.bytes as i64,
            i64::from(heading.owners),
        ];
        let (tenant, kind, name) = (&key.tenant, key.kind, &key.name);
        let digest = heading.digest.to_bytes().to_vec();
        let restore = heading.restore.as_ref().map(|r| serde_json::to_string(r).unwrap());
        let (tenant, kind, name) = (tenant.to_string(), kind.to_string(), name.to_string());
        (key.reference().0, (tenant, kind, name, numbers, digest, restore))
    };
    existing.map(row).collect()
}

/// Live messages and their bytes in all scopes of a tenant.
type TenantRow = (i64, i64);

async fn tenant_rows(pool: &Pool) -> Rows<String, TenantRow> {
    let query =
        "select tenant_id, sum(live_count)::bigint, sum(live_bytes)::bigint from tenant_usage
        group by tenant_id";
    let rows: Vec<(String, i64, i64)> = rows(pool, query).await;
    rows.into_iter().map(|(tenant, count, bytes)| (tenant, (count, bytes))).filter(holds).collect()
}

fn tenants_of(fold: &LogFold) -> Rows<String, TenantRow> {
    let mut rows = Rows::new();
    for (key, folded) in &fold.scopes {
        let row: &mut TenantRow = rows.entry(key.tenant.to_string()).or_default();
        row.0 += folded.scope.heading.count as i64;
        row.1 += folded.scope.heading.bytes as i64;
    }
    rows.into_iter().filter(holds).collect()
}

/// One that never had anything may have a row or none.
fn holds((_, row): &(String, TenantRow)) -> bool {
    *row != TenantRow::default()
}

/// Tenant, JSON, its length, hashes, times and bytes, and the restore that deleted it.
type MessageRow = (String, String, i32, [Vec<u8>; 2], [Option<i64>; 4], Option<Uuid>);

async fn message_rows(pool: &Pool) -> Rows<(Uuid, i64, Uuid), MessageRow> {
    let query = "select scope, cursor, id, tenant_id, json, json_bytes, content_hash, body_hash,
        updated_at_us, created_at_us, deleted_at_us, bytes, restore_id from messages";
    type Row = (
        Uuid,
        i64,
        Uuid,
        String,
        String,
        i32,
        Vec<u8>,
        Vec<u8>,
        i64,
        i64,
        Option<i64>,
        i64,
        Option<Uuid>,
    );
    let rows: Vec<Row> = rows(pool, query).await;
    let split = |row: Row| {
        let numbers = [Some(row.8), Some(row.9), row.10, Some(row.11)];
        let (scope, cursor, id, tenant, json, length, content, body, ..) = row;
        ((scope, cursor, id), (tenant, json, length, [content, body], numbers, row.12))
    };
    rows.into_iter().map(split).collect()
}

fn messages_of(fold: &LogFold) -> Rows<(Uuid, i64, Uuid), MessageRow> {
    let mut rows = Rows::new();
    for (key, folded) in &fold.scopes {
        for (id, message) in &folded.messages {
            let entry = &message.entry;
            assert_eq!(Some(entry), folded.scope.messages.get(id));
            let json = message.to_json();
            let length = json.len() as i32;
            let version = entry.version;
            let hashes = [entry.content_hash.0.to_vec(), version.body.0.to_vec()];
            let numbers = [
                Some(version.updated_at.as_micros()),
                Some(entry.created_at.as_micros()),
                entry.deleted_at.map(|at| at.as_micros()),
                Some(entry.bytes as i64),
            ];
            let place = (key.reference().0, entry.cursor.as_i64(), id.0);
            let restore = entry.restore.map(|restore| restore.0);
            rows.insert(place, (key.tenant.to_string(), json, length, hashes, numbers, restore));
        }
    }
    rows
}

type MemberRow = (String, Option<String>, i64);

async fn member_rows(pool: &Pool) -> Rows<(Uuid, String), MemberRow> {
    let query = "select scope, user_id, tenant_id, role, since_us from members";
    let rows: Vec<(Uuid, String, String, Option<String>, i64)> = rows(pool, query).await;
    rows.into_iter()
        .map(|(scope, user, tenant, role, since)| ((scope, user), (tenant, role, since)))
        .collect()
}

fn members_of(fold: &LogFold) -> Rows<(Uuid, String), MemberRow> {
    let mut rows = Rows::new();
    for (key, folded) in &fold.scopes {
        for (user, member) in &folded.scope.members {
            let role = member.role.map(|role| role.to_string());
            let row = (key.tenant.to_string(), role, member.since.as_micros());
            rows.insert((key.reference().0, user.to_string()), row);
        }
    }
    rows
}

async fn outcome_rows(pool: &Pool) -> Rows<Uuid, Outcome> {
    let rows: Vec<(Uuid, String)> = rows(pool, "select command_id, body from outcomes").await;
    rows.into_iter().map(|(id, body)| (id, serde_json::from_str(&body).unwrap())).collect()
}

/// Those that are too old to be asked for may have been deleted: they are left out where they are not there.
fn outcomes_of(fold: &LogFold, is_there: impl Fn(&Uuid) -> bool) -> Rows<Uuid, Outcome> {
    // Of whichever partition is the furthest: a fold does not know which one a scope is in.
    let time = fold.partitions.values().map(|clock| clock.time).max().unwrap_or(Timestamp::EPOCH);
    let commands = fold.scopes.values().flat_map(|folded| &folded.scope.commands);
    let is_kept = |folded_at| time.micros_since(folded_at) < OUTCOME_KEPT_MICROS;
    commands
        .filter(|(id, known)| is_kept(known.folded_at) || is_there(&id.0))
        .map(|(id, known)| (id.0, known.outcome.as_ref().clone()))
        .collect()
}

async fn dead_letter_rows(pool: &Pool) -> Rows<(i32, i64), ()> {
    let query = "select partition, record_offset from dead_letters where kind = 'refused'";
    let rows: Vec<(i32, i64)> = rows(pool, query).await;
    rows.into_iter().map(|place| (place, ())).collect()
}

fn dead_letters_of(fold: &LogFold) -> Rows<(i32, i64), ()> {
    let place = |place: &model::Place| (place.partition.get() as i32, place.offset.as_i64());
    fold.dead_letters.iter().map(|dead| (place(dead), ())).collect()
}

/// The live messages' JSON of one scope, by id.
pub(crate) fn live(fold: &LogFold, key: &str) -> HashMap<Uuid, serde_json::Value> {
    let Some(folded) = fold.scopes.get(&key.parse().unwrap()) else { return HashMap::new() };
    let live = folded.messages.values().filter(|message| message.entry.is_live());
    live.map(|message| (message.id.0, serde_json::from_str(&message.to_json()).unwrap())).collect()
}
