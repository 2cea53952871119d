//! The rows' side of a check, and the comparison.

use std::collections::{HashMap, HashSet};

use eventlog::partition_of;
use model::{
    Cursor, Digest, Heading, Offset, Partition, ScopeKey, ScopeRef, limits::OUTCOME_KEPT_MICROS,
};
use readmodel::{
    ReadModelError,
    history::{PastRow, history_key},
    snapshot::Snapshot,
};
use tokio::sync::mpsc::Sender;

use super::{
    Agreement, CheckQuery, Checking, Found, ScopeCheck, Sums,
    against::{Against, Side},
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
            self.say_of(key, Agreement::Differs, fold.scopes.get(key)).await;
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
            self.say_of(key, Agreement::NotAsked, None).await;
            return Ok(());
        }
        let folded = fold.and_then(|fold| fold.scopes.get(key));
        self.sums.messages += self.messages(reference, heading, folded, &mut found).await?;
        match folded {
            Some(folded) => {
                let mut against = Against { side: Side::Rows, log: folded, found: &mut found };
                against.heading(heading);
                against.members(&self.snapshot.members(reference).await?);
            }
            None if fold.is_some() => found.push(|| "it has rows, and no event".to_owned()),
            None => {}
        }
        let rows = match found.is_empty() {
            true if fold.is_none() => Agreement::NotAsked,
            true => Agreement::Agrees,
            false => Agreement::Differs,
        };
        self.say_if_differs(found, key.to_string()).await;
        self.say_of(key, rows, folded).await;
        Ok(())
    }

    /// Which of the copies agree, if it is asked of each scope, or they do not.
    async fn say_of(&self, key: &ScopeKey, rows: Agreement, folded: Option<&ScopeFold>) {
        let (scope, archive) =
            (key.to_string(), folded.map_or(Agreement::NotAsked, |own| own.archive));
        let differs = [rows, archive].contains(&Agreement::Differs);
        if differs || self.query.each || self.query.scope.is_some() {
            let _ = self.say.send(Checking::Scope(ScopeCheck { scope, rows, archive })).await; // as below
        }
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
                if let Some(log) = folded {
                    let mut against = Against { side: Side::Rows, log, found };
                    against.message(row.id, &row.entry, json_hash(&row.json));
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
        if let Some(log) = folded {
            Against { side: Side::Rows, log, found }.missing(&seen);
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
