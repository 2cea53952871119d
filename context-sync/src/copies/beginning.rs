//! What a fold begins with: nothing, or, where the log was recovered, what the archive has of the one that was lost. And
//! how far back a log can be read: what retention removed from it, the archive has.

use std::{collections::HashMap, sync::Arc};

use archive::{
    Archive, ArchiveError,
    base::{self, CommandReader},
    manifest::ScopeLine,
    message_line, redaction,
    replay::Replay,
};
use eventlog::EventLog;
use model::{KnownCommand, LogId, Member, Message, Partition, PartitionClock, Scope, ScopeKey};
use readmodel::{Pool, epochs};

use super::{Copies, Unasked};

/// What the fold of a partition begins with.
pub(super) struct Beginning {
    pub(super) clock: PartitionClock,
    pub(super) scopes: HashMap<ScopeKey, Scope>,
}

impl Beginning {
    /// Of a log that begins with its first record.
    pub(super) fn nothing() -> Self {
        Self { clock: PartitionClock::START, scopes: HashMap::new() }
    }

    /// Of a recovered log, of the scopes wanted; `None` of any other. `each` is given their messages, tombstones too.
    pub(super) async fn read(
        archive: &Archive,
        log: LogId,
        partition: Partition,
        wanted: impl Fn(&ScopeKey) -> bool,
        mut each: impl FnMut(&ScopeKey, &Message),
    ) -> Result<Option<Self>, ArchiveError> {
        let Some(mut manifest) = base::open(archive, log, partition).await? else {
            return Ok(None);
        };
        let clock = PartitionClock { time: manifest.header.clock, rules: manifest.header.rules };
        let mut begun = Self { clock, scopes: HashMap::new() };
        let mut commands = CommandReader::open(archive, &manifest.header).await?;
        while let Some(line) = commands.next_command()? {
            if wanted(&line.scope) {
                let folded_at = line.outcome.folded_at;
                let known = KnownCommand { folded_at, outcome: line.outcome };
                begun.scope(&line.scope).commands.insert(line.id, known);
            }
        }
        while let Some(line) = manifest.next_scope()? {
            if wanted(&line.scope) {
                begun.read_scope(archive, line, &mut each).await?;
            }
        }
        Ok(Some(begun))
    }

    fn scope(&mut self, key: &ScopeKey) -> &mut Scope {
        self.scopes.entry(key.clone()).or_insert_with(|| Scope::new(key.clone()))
    }

    async fn read_scope(
        &mut self,
        archive: &Archive,
        line: ScopeLine,
        each: &mut impl FnMut(&ScopeKey, &Message),
    ) -> Result<(), ArchiveError> {
        let lines = match &line.backup {
            Some(backup) => {
                let object = redaction::fetch_full(archive, backup).await?;
                Some(object.lines(&backup.path)?)
            }
            None => None,
        };
        let key = line.scope.clone();
        let scope = self.scope(&key);
        let members = line.members.iter();
        let member = |m: &archive::manifest::MemberLine| {
            (m.user.clone(), Member { role: m.role, since: m.since })
        };
        scope.members = members.map(member).collect();
        scope.heading = line.heading();
        let Some(mut lines) = lines else { return Ok(()) };
        while let Some(text) = lines.next_line()? {
            let message = message_line::read(&text).map_err(|problem| lines.problem(&problem))?;
            each(&key, &message);
            if message.entry.is_live() {
                scope.live.insert(message.entry.content_hash, message.id);
            }
            scope.messages.insert(message.id, message.entry);
        }
        Ok(())
    }
}

impl Copies {
    /// The log, and before it what the archive has of its records.
    pub(super) fn reaching_back(&self, log: &Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        match &self.archive {
            Some(Ok(archive)) => Replay::over(log.clone(), archive.clone()),
            _ => log.clone(),
        }
    }

    /// The archive, if the log goes on from one that was lost: it begins with what that has.
    ///
    /// # Errors
    /// It does, and the archive cannot be asked.
    pub(super) async fn of_recovered(&self, rows: &Pool) -> Result<Option<&Archive>, Unasked> {
        let recovered = epochs::is_recovered(rows).await;
        if !recovered.map_err(|error| format!("the database: {error}"))? {
            return Ok(None);
        }
        match &self.archive {
            Some(Ok(archive)) => Ok(Some(archive)),
            Some(Err(why)) => Err(format!("the archive: {why}")),
            None => Err("the archive: the log was recovered, and begins with what the archive has; name it with \
                         --archive"
                .to_owned()),
        }
    }
}
