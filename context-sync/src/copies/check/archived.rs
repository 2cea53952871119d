//! The archive's side of a check: what it comes to at the end of an hour, compared with what the log folds to there.

use std::collections::{HashMap, HashSet};

use archive::{
    Archive, ArchiveError,
    base::{self, Owner},
    history::StateReader,
    standing::{StandingPartition, StandingScope, standing},
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use model::{Entry, LogId, Member, MessageId, Offset, Partition, ScopeKey, ScopeRef, UserId};
use readmodel::{
    Pool,
    standing::{backups, standing as standing_of},
};
use tokio::sync::mpsc::Sender;

use super::{
    Agreement, ArchiveSide, CheckQuery, Checking, Found, Sums,
    against::{Against, Side},
    fold::{JsonHash, PartitionFold, ScopeFold, json_hash},
};
use crate::copies::{Copies, Unasked};

/// Scopes that are read at the same time.
const SCOPES_AT_ONCE: usize = 4;
/// Messages that are read before others get a turn.
const MESSAGES_AT_ONCE: usize = 1_000;

impl Copies {
    /// The archive, if it is the log's; and why it is not asked, if it is not.
    pub(super) async fn archive_side(
        &self,
        log: LogId,
        rows: &Pool,
    ) -> (Option<&Archive>, ArchiveSide) {
        match self.archive_of(log, rows).await {
            Ok(Some(archive)) => (Some(archive), ArchiveSide::Asked),
            Ok(None) => (None, ArchiveSide::None),
            Err(why) => (None, ArchiveSide::Unasked(why)),
        }
    }

    async fn archive_of(&self, log: LogId, rows: &Pool) -> Result<Option<&Archive>, Unasked> {
        let archive = match &self.archive {
            Some(archive) => archive.as_ref().map_err(Clone::clone)?,
            // One that was never named has told the catalogue nothing.
            None => {
                let standing = standing_of(rows).await;
                let told = standing.map_err(|error| format!("the database: {error}"))?.catalogue;
                return match told.is_some_and(|next| next > Offset::ZERO) {
                    true => {
                        Err("none is named, and the catalogue is of one: name it with --archive"
                            .to_owned())
                    }
                    false => Ok(None),
                };
            }
        };
        match base::owner(archive, log).await.map_err(|error| error.to_string())? {
            Owner::Ours => Ok(Some(archive)),
            // Before the first hour is sealed; but not where backups were made.
            Owner::Nobody => {
                match backups(rows).await.map_err(|error| format!("the database: {error}"))? {
                    0 => Ok(Some(archive)),
                    count => Err(format!(
                        "the archive has nothing, and the catalogue has {count} backups: check --archive"
                    )),
                }
            }
            Owner::Others(_) => Err(format!("it has nothing of log {log}, but of others")),
            Owner::GivenUpFor(into) => {
                Err(format!("log {log} was given up: it goes on with log {into}"))
            }
            Owner::Unfinished(partition) => Err(format!(
                "the recovery of log {log} is not done: partition {partition} is missing"
            )),
        }
    }
}

/// The archive of a partition cannot be read.
pub(super) struct Unread;

/// The archive of a partition, whom to tell what differs, and where that is summed up.
pub(super) struct Archived<'a> {
    pub(super) archive: &'a Archive,
    pub(super) log: LogId,
    pub(super) partition: Partition,
    /// The first events that are parked: the archive has folded them.
    pub(super) parked: &'a HashMap<ScopeRef, Offset>,
    pub(super) query: &'a CheckQuery,
    pub(super) say: &'a Sender<Checking>,
    pub(super) sums: &'a mut Sums,
}

impl Archived<'_> {
    /// How the archive stands at the end of the newest hour before an offset; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read; that was said.
    pub(super) async fn standing(
        &mut self,
        until: Offset,
    ) -> Result<Option<StandingPartition>, Unread> {
        let wanted = |key: &ScopeKey| self.query.has(key);
        match standing(self.archive, self.log, self.partition, until, wanted).await {
            Ok(standing) => Ok(standing),
            Err(error) => {
                let of = format!("the archive of partition {}", self.partition);
                let mut found = Found::default();
                self.failed(error, &mut found);
                self.say_if_differs(found, of).await;
                Err(Unread)
            }
        }
    }

    /// Compares it with what the log folds to at that offset, and notes at each scope what came of it.
    pub(super) async fn compare(&mut self, standing: StandingPartition, fold: &mut PartitionFold) {
        let StandingPartition { next_offset, scopes } = standing;
        let parked = self.parked;
        let is_parked =
            |key: &ScopeKey| parked.get(&key.reference()).is_some_and(|first| *first < next_offset);
        let (mut agreements, reading) = (HashMap::new(), self.reading());
        {
            let mut rest = scopes.iter().filter(|scope| !is_parked(&scope.line.scope));
            let mut comparing = FuturesUnordered::new();
            loop {
                while comparing.len() < SCOPES_AT_ONCE {
                    let Some(scope) = rest.next() else { break };
                    comparing
                        .push(reading.compare(scope, fold.scopes.get(&scope.line.scope)).boxed());
                }
                let Some((scope, compared)) = comparing.next().await else { break };
                let key = &scope.line.scope;
                let mut found = Found::default();
                let agreement = match compared {
                    Ok(Some(read)) => {
                        self.sums.archived_scopes += 1;
                        self.sums.archived_messages += read.messages;
                        found = read.found;
                        if found.is_empty() { Agreement::Agrees } else { Agreement::Differs }
                    }
                    Ok(None) => Agreement::NotAsked,
                    Err(error) => self.failed(error, &mut found),
                };
                self.say_if_differs(found, key.to_string()).await;
                agreements.insert(key.clone(), agreement);
            }
        }
        for (key, folded) in &mut fold.scopes {
            folded.archive = match agreements.remove(key) {
                Some(agreement) => agreement,
                None if is_parked(key) => Agreement::NotAsked,
                None if !folded.scope.heading.exists => Agreement::NotYet,
                None => {
                    let mut found = Found::default();
                    found.push(|| "it is not in the archive".to_owned());
                    self.say_if_differs(found, key.to_string()).await;
                    Agreement::Differs
                }
            };
        }
    }

    fn reading(&self) -> Reading {
        Reading { archive: self.archive.clone(), log: self.log, partition: self.partition }
    }

    /// What cannot be read now is not asked; what is not as it was written differs.
    fn failed(&mut self, error: ArchiveError, found: &mut Found) -> Agreement {
        if error.is_retryable() {
            self.sums.archive = ArchiveSide::Unasked(error.to_string());
            return Agreement::NotAsked;
        }
        found.push(|| error.to_string());
        Agreement::Differs
    }

    async fn say_if_differs(&mut self, found: Found, of: String) {
        if let Some(difference) = found.of(of) {
            self.sums.differ += 1;
            let _ = self.say.send(Checking::Differs(difference)).await; // nobody may listen any more
        }
    }
}

/// Reads scopes out of the archive.
struct Reading {
    archive: Archive,
    log: LogId,
    partition: Partition,
}

/// A scope that was read to its end.
#[derive(Default)]
struct Read {
    found: Found,
    messages: u64,
}

impl Reading {
    async fn compare<'a>(
        &self,
        scope: &'a StandingScope,
        folded: Option<&ScopeFold>,
    ) -> (&'a StandingScope, Result<Option<Read>, ArchiveError>) {
        (scope, self.read(scope, folded).await)
    }

    /// `None`: what it is made of has expired since its manifests were read.
    async fn read(
        &self,
        scope: &StandingScope,
        folded: Option<&ScopeFold>,
    ) -> Result<Option<Read>, ArchiveError> {
        let mut read = Read::default();
        let Some(log) = folded.filter(|folded| folded.scope.heading.exists) else {
            read.found.push(|| "it is in the archive, and has no event".to_owned());
            return Ok(Some(read));
        };
        let mut state = match scope.open(&self.archive).await {
            Err(missing @ ArchiveError::NotFound { .. }) => {
                return match scope.has_expired(&self.archive, self.log, self.partition).await? {
                    true => Ok(None),
                    false => Err(missing),
                };
            }
            opened => opened?,
        };
        let mut seen = HashSet::new();
        loop {
            let batch;
            (state, batch) = some_messages(state).await?;
            if batch.is_empty() {
                break;
            }
            let mut against = Against { side: Side::Archive, log, found: &mut read.found };
            for (id, entry, json) in batch {
                against.message(id, &entry, json);
                seen.insert(id);
            }
        }
        read.messages = seen.len() as u64;
        let members = scope.line.members.iter();
        let members: Vec<(UserId, Member)> =
            members.map(|m| (m.user.clone(), Member { role: m.role, since: m.since })).collect();
        let mut against = Against { side: Side::Archive, log, found: &mut read.found };
        against.heading(&scope.line.heading());
        against.members(&members);
        against.missing(&seen);
        Ok(Some(read))
    }
}

type Held = (MessageId, Entry, JsonHash);

/// The next messages; none at the end. Off the runtime's threads: unpacking takes its time.
async fn some_messages(mut state: StateReader) -> Result<(StateReader, Vec<Held>), ArchiveError> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut batch = Vec::new();
        while batch.len() < MESSAGES_AT_ONCE {
            let Some(message) = state.next_message()? else { break };
            let json = json_hash(&message.to_json());
            batch.push((message.id, message.entry, json));
        }
        Ok((state, batch))
    });
    reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}
