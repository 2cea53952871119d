//! The rows' side of a check, and the comparison.

use std::collections::{HashMap, HashSet};

use eventlog::partition_of;
use model::{
    Cursor, Digest, Heading, Member, MessageId, Offset, Partition, ScopeKey, ScopeRef, UserId,
    limits::OUTCOME_KEPT_MICROS,
};
use readmodel::{
    ReadModelError,
    history::{PastRow, history_key},
    snapshot::{MessageRow, Snapshot},
};
use tokio::sync::mpsc::Sender;

use super::{
    CheckQuery, Checking, Found, Sums,
    fold::{PartitionFold, ScopeFold, json_hash},
};

const DAY_MICROS: i64 = 24 * 3_600_000_000;

/// The rows of a partition, and whom to tell what differs.
pub(super) struct Rows<'a> {
    pub(super) snapshot: Snapshot,
    /// What was parked when the log began to be folded, and what is in the snapshot.
    pub(super) before: HashMap<ScopeRef, Offset>,
    pub(super) parked: HashMap<ScopeRef, Offset>,
    pub(super) query: &'a CheckQuery,
    pub(super) say: &'a Sender<Checking>,
    pub(super) sums: &'a mut Sums,
}

impl Rows<'_> {
    /// Compares them with what the log folds to; without it, with their own sums.
    pub(super) async fn compare(
        &mut self,
        fold: Option<&PartitionFold>,
        partition: Partition,
        partitions: u32,
    ) -> Result<(), ReadModelError> {
        let mut compared = HashSet::new();
        let mut after = None;
        loop {
            let scopes = self.snapshot.scopes(after).await?;
            let Some((last, _)) = scopes.last() else { break };
            after = Some(last.reference());
            for (key, heading) in scopes {
                let own = partition_of(key.to_string().as_bytes(), partitions) == partition;
                if own && self.query.has(&key) {
                    self.compare_scope(&key, &heading, fold).await?;
                    compared.insert(key);
                }
            }
        }
        let Some(fold) = fold else { return Ok(()) };
        let existing = fold.scopes.iter().filter(|(_, folded)| folded.scope.heading.exists);
        for (key, _) in existing.filter(|(key, _)| !compared.contains(*key)) {
            let mut found = Found::default();
            found.push(|| "it has no row".to_owned());
            self.sums.scopes += 1;
            self.say_if_differs(found, key.to_string()).await;
        }
        self.compare_outcomes(fold, partition).await?;
        self.compare_history(fold, partition).await?;
        if self.query.is_all() {
            self.compare_refused(fold, partition).await?;
        }
        Ok(())
    }

    async fn compare_scope(
        &mut self,
        key: &ScopeKey,
        heading: &Heading,
        fold: Option<&PartitionFold>,
    ) -> Result<(), ReadModelError> {
        let reference = key.reference();
        let mut found = Found::default();
        self.sums.scopes += 1;
        if self.parked.contains_key(&reference) {
            self.sums.parked.push(key.to_string());
        }
        let waited = self.before.get(&reference);
        if waited.is_some() && waited != self.parked.get(&reference) {
            found.push(|| "parked events of it were folded meanwhile: check it again".to_owned());
            self.say_if_differs(found, key.to_string()).await;
            return Ok(());
        }
        let folded = fold.and_then(|fold| fold.scopes.get(key));
        self.sums.messages += self.messages(reference, heading, folded, &mut found).await?;
        match folded {
            Some(folded) => {
                compare_headings(&mut found, heading, &folded.scope.heading);
                let members = self.snapshot.members(reference).await?;
                compare_members(&mut found, &members, &folded.scope.members);
            }
            None if fold.is_some() => found.push(|| "it has rows, and no event".to_owned()),
            None => {}
        }
        self.say_if_differs(found, key.to_string()).await;
        Ok(())
    }

    /// Compares a scope's messages with the log's, and their sums with what is stored; how many rows there are.
    async fn messages(
        &mut self,
        scope: ScopeRef,
        heading: &Heading,
        folded: Option<&ScopeFold>,
        found: &mut Found,
    ) -> Result<u64, ReadModelError> {
        let (mut count, mut live, mut bytes, mut digest) = (0_u64, 0_u64, 0_u64, Digest::EMPTY);
        let mut after = Cursor::ZERO;
        let mut seen = HashSet::new();
        loop {
            let rows = self.snapshot.messages(scope, after).await?;
            let Some(last) = rows.last() else { break };
            after = last.entry.cursor;
            for row in &rows {
                count += 1;
                if row.entry.is_live() {
                    live += 1;
                    bytes += row.entry.bytes;
                    digest.add(row.entry.version.item(row.id));
                }
                if row.entry.cursor > heading.head {
                    let (id, cursor) = (row.id, row.entry.cursor);
                    found.push(|| format!("message {id} is at cursor {cursor}, beyond the head"));
                }
                if !row.entry.is_live() && row.entry.cursor <= heading.floor {
                    found.push(|| format!("message {} is a tombstone that has expired", row.id));
                }
                if let Some(folded) = folded {
                    compare_message(found, row, folded);
                    seen.insert(row.id);
                }
            }
        }
        for (what, stored, sum) in [
            ("count", heading.count.to_string(), live.to_string()),
            ("bytes", heading.bytes.to_string(), bytes.to_string()),
            ("digest", heading.digest.to_string(), digest.to_string()),
        ] {
            if stored != sum {
                found
                    .push(|| format!("its {what} is stored as {stored}, its rows sum up to {sum}"));
            }
        }
        let missing = |id: &&MessageId| !seen.contains(*id);
        for id in folded.iter().flat_map(|folded| folded.scope.messages.keys().filter(missing)) {
            found.push(|| format!("message {id} has no row"));
        }
        Ok(count)
    }

    /// The outcomes of commands that may still be repeated.
    async fn compare_outcomes(
        &mut self,
        fold: &PartitionFold,
        partition: Partition,
    ) -> Result<(), ReadModelError> {
        let time = self.snapshot.position.clock.time;
        let commands = fold.scopes.values().flat_map(|folded| &folded.scope.commands);
        let mut by_log: HashMap<_, _> = commands
            .filter(|(_, known)| time.micros_since(known.folded_at) < OUTCOME_KEPT_MICROS)
            .map(|(id, known)| (*id, &known.outcome))
            .collect();
        let mut found = Found::default();
        let mut after = None;
        loop {
            let rows = self.snapshot.outcomes(after).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.id);
            for row in rows {
                if by_log.remove(&row.id).is_some_and(|outcome| *outcome != row.outcome) {
                    found.push(|| format!("that of command {} is another by the log", row.id));
                }
            }
        }
        for id in by_log.into_keys() {
            found.push(|| format!("that of command {id} has no row"));
        }
        self.say_if_differs(found, format!("the outcomes of partition {partition}")).await;
        Ok(())
    }

    /// Past versions. The rows of those that are too old are deleted, some at a time, after a day at the earliest.
    async fn compare_history(
        &mut self,
        fold: &PartitionFold,
        partition: Partition,
    ) -> Result<(), ReadModelError> {
        let mut scopes: HashMap<ScopeRef, &ScopeKey> = HashMap::new();
        let mut by_log = HashMap::new();
        for (key, folded) in &fold.scopes {
            let scope = key.reference();
            if self.before.get(&scope) != self.parked.get(&scope) {
                continue; // its parked events were folded meanwhile
            }
            scopes.insert(scope, key);
            for ((id, place), past) in &folded.past {
                by_log.insert((history_key(scope, *id), *place), (key, *id, past));
            }
        }
        let only = self.query.scope.as_ref().map(ScopeKey::reference);
        let mut kept_from = self.snapshot.position.clock.time.plus_micros(-DAY_MICROS);
        let mut found = Found::default();
        let mut after = None;
        loop {
            let rows = self.snapshot.history(after, only).await?;
            let Some((key, _, last)) = rows.last() else { break };
            after = Some((*key, last.place));
            for (key, scope, row) in rows {
                kept_from = kept_from.min(row.at);
                let Some(scope) = scopes.get(&scope) else { continue };
                let PastRow { place, result, won_by, at, json, .. } = row;
                let is_same = by_log.remove(&(key, place)).is_some_and(|(.., past)| {
                    (past.result, past.won_by, past.at) == (result, won_by, at)
                        && past.json == Some(json_hash(&json))
                });
                if !is_same {
                    let (result, offset) = (result.as_str(), place.offset);
                    found.push(|| {
                        format!("{scope}: what is {result} since {partition}-{offset} is not so by the log")
                    });
                }
            }
        }
        for ((_, place), (scope, id, past)) in by_log {
            if past.at >= kept_from {
                let (result, offset) = (past.result.as_str(), place.offset);
                found.push(|| {
                    format!(
                        "{scope}: message {id}, {result} since {partition}-{offset}, has no row"
                    )
                });
            }
        }
        self.say_if_differs(found, format!("the history of partition {partition}")).await;
        Ok(())
    }

    /// What tenants have, which quotas are compared with: of all partitions, in one snapshot.
    pub(super) async fn compare_usage(&mut self) -> Result<(), ReadModelError> {
        let only = self.query.scope.as_ref().map(|scope| &scope.tenant);
        for (tenant, [count, bytes], [of_count, of_bytes]) in
            self.snapshot.wrong_usage(only).await?
        {
            let mut found = Found::default();
            found.push(|| {
                format!(
                    "what quotas are compared with is {count} messages with {bytes} bytes, its scopes sum up to \
                     {of_count} with {of_bytes}"
                )
            });
            self.say_if_differs(found, format!("tenant {tenant}")).await;
        }
        Ok(())
    }

    async fn compare_refused(
        &mut self,
        fold: &PartitionFold,
        partition: Partition,
    ) -> Result<(), ReadModelError> {
        let rows: HashSet<Offset> = self.snapshot.refused().await?.into_iter().collect();
        let log: HashSet<Offset> = fold.refused.iter().copied().collect();
        let mut found = Found::default();
        for offset in log.difference(&rows) {
            found.push(|| format!("{partition}-{offset} is no event, and no dead letter either"));
        }
        for offset in rows.difference(&log) {
            found
                .push(|| format!("{partition}-{offset} is a dead letter, and an event by the log"));
        }
        self.say_if_differs(found, format!("the dead letters of partition {partition}")).await;
        Ok(())
    }

    async fn say_if_differs(&mut self, found: Found, of: String) {
        if let Some(difference) = found.of(of) {
            self.sums.differ += 1;
            let _ = self.say.send(Checking::Differs(difference)).await; // nobody may listen any more
        }
    }
}

fn compare_headings(found: &mut Found, rows: &Heading, log: &Heading) {
    for (what, rows, log) in [
        ("head", rows.head.to_string(), log.head.to_string()),
        ("floor", rows.floor.to_string(), log.floor.to_string()),
        ("clock", rows.clock.to_string(), log.clock.to_string()),
        ("count", rows.count.to_string(), log.count.to_string()),
        ("bytes", rows.bytes.to_string(), log.bytes.to_string()),
        ("digest", rows.digest.to_string(), log.digest.to_string()),
        ("number of owners", rows.owners.to_string(), log.owners.to_string()),
    ] {
        if rows != log {
            found.push(|| format!("its {what} is {rows} in the rows, {log} by the log"));
        }
    }
    if rows.restore != log.restore {
        found.push(|| "the restore that runs is another by the log".to_owned());
    }
}

fn compare_message(found: &mut Found, row: &MessageRow, folded: &ScopeFold) {
    let id = row.id;
    let Some(entry) = folded.scope.messages.get(&id) else {
        return found.push(|| format!("message {id} is not in the log"));
    };
    let (rows, log) = (row.entry.cursor, entry.cursor);
    if rows != log {
        found.push(|| format!("message {id} is at cursor {rows} in the rows, {log} by the log"));
    } else if *entry != row.entry {
        found.push(|| format!("message {id} at cursor {rows} is another version by the log"));
    } else if folded.json.get(&id) != Some(&json_hash(&row.json)) {
        found.push(|| format!("the JSON of message {id} is another by the log"));
    }
}

fn compare_members(found: &mut Found, rows: &[(UserId, Member)], log: &HashMap<UserId, Member>) {
    for (user, member) in rows {
        if log.get(user) != Some(member) {
            found.push(|| format!("member {user} is another by the log"));
        }
    }
    let stored: HashSet<&UserId> = rows.iter().map(|(user, _)| user).collect();
    for user in log.keys().filter(|user| !stored.contains(user)) {
        found.push(|| format!("member {user} has no row"));
    }
}
