//! Writes a read model as the projector does: one command a batch, folded by the model.

use std::collections::HashSet;

use model::{
    Command, LogFold, LogId, MessageId, Offset, Partition, PartitionClock, PastResult, Place,
    RulesVersion, ScopeKey, Timestamp, Touched, Verdict, log_fold::images,
};
use readmodel::{
    ReadModelError,
    erasures::ErasedImage,
    filling::Ends,
    history::PastImage,
    load::{Loader, Wanted},
    projection::{Advance, LastRecord, Position, Projection},
    write::{MemberImage, MessageImage, OutcomeImage, Writes},
};
use uuid::Uuid;

use crate::database::Database;

pub(crate) const PARTITIONS: u32 = 2;
/// 2025-12-30T12:00:00Z, a second later with each command.
const NOON: Timestamp = Timestamp::from_millis(1_767_096_000_000);

pub(crate) struct Writer {
    pub(crate) projection: Projection,
    loader: Loader,
    pub(crate) log: LogId,
    fold: LogFold,
    next: u64,
}

/// Where a log ends, by partition.
pub(crate) fn ends<const N: usize>(ends: [u64; N]) -> Ends {
    (0..).map(Partition::new).zip(ends.map(|end| Offset::new(end).unwrap())).collect()
}

/// A step of a partition by some records.
pub(crate) fn advance(partition: u32, from: u64, to: u64) -> Advance {
    let partition = Partition::new(partition);
    let time = NOON.plus_micros(to as i64 * 1_000_000);
    let last = LastRecord { offset: Offset::new(to - 1).unwrap(), hash: [7; 32] };
    let to = Position {
        partition,
        next_offset: Offset::new(to).unwrap(),
        clock: PartitionClock { time, rules: RulesVersion::CURRENT },
        last: Some(last),
        rebuilds: 0,
    };
    Advance { partition, from: Offset::new(from).unwrap(), to }
}

impl Writer {
    pub(crate) async fn new(database: &Database) -> Self {
        Self::beside(database, LogId(Uuid::new_v4()), [0; PARTITIONS as usize]).await
    }

    /// On an empty read model, beside a log that ends there.
    pub(crate) async fn beside(
        database: &Database,
        log: LogId,
        log_ends: [u64; PARTITIONS as usize],
    ) -> Self {
        let mut projection = Projection::connect(&database.config).await.unwrap();
        projection.begin(log, &ends(log_ends)).await.unwrap();
        projection.adopt_log(log, PARTITIONS, &[]).await.unwrap();
        let loader = Loader::connect(&database.config).await.unwrap();
        Self { projection, loader, log, fold: LogFold::default(), next: 0 }
    }

    /// What the command comes to, folded but not written.
    pub(crate) fn writes(&mut self, command: &Command) -> Writes {
        let offset = Offset::new(self.next).unwrap();
        let time = advance(0, self.next, self.next + 1).to.clock.time;
        let applied = self.fold.apply_command(command, time).unwrap();
        let folded = &self.fold.scopes[&command.scope];
        let (scope, tenant) = (command.scope.reference(), command.scope.tenant.clone());
        let changed = images(&folded.scope, command, &applied.changes);
        let created: HashSet<_> =
            applied.changes.iter().filter(|c| c.is_new).map(|c| c.id).collect();
        let replaced = changed.iter().filter(|(changed, _)| !created.contains(&changed.id));
        let image = |message| MessageImage::new(scope, tenant.clone(), message);
        let member = applied.member.clone().map(|user| {
            let member = folded.scope.members[&user];
            MemberImage { scope, tenant: tenant.clone(), user, member }
        });
        let erased = match applied.outcome.verdict {
            Verdict::ScopeErased { cursor } => {
                let place = Place { partition: Partition::new(0), offset };
                let at = applied.outcome.folded_at;
                Some(ErasedImage {
                    id: command.id,
                    scope,
                    tenant: tenant.clone(),
                    place,
                    cursor,
                    at,
                })
            }
            _ => None,
        };
        Writes {
            scopes: vec![(command.scope.clone(), folded.scope.heading.clone())],
            members: member.into_iter().collect(),
            replaced: replaced.map(|(changed, _)| (scope, changed.id)).collect(),
            floors: applied.floor.map(|floor| (scope, floor)).into_iter().collect(),
            messages: changed.iter().map(|(_, message)| image(message.clone())).collect(),
            history: Vec::new(),
            outcomes: vec![OutcomeImage {
                id: command.id,
                scope,
                tenant: tenant.clone(),
                partition: Partition::new(0),
                offset,
                outcome: applied.outcome,
            }],
            backups: Vec::new(),
            restores: Vec::new(),
            dead_letters: Vec::new(),
            taken_for_new: false,
            erased: erased.into_iter().collect(),
        }
    }

    /// Commits writes at partition 0's next record.
    pub(crate) async fn commit(&mut self, writes: &Writes) -> Result<(), ReadModelError> {
        let advances = [advance(0, self.next, self.next + 1)];
        self.projection.commit(&advances, writes, false).await?;
        self.next += 1;
        Ok(())
    }

    /// Folds and commits a command, after a look that the database has its scope as the fold does.
    pub(crate) async fn write(&mut self, command: &Command) {
        let before = self.fold.scopes.get(&command.scope).map(|f| f.scope.heading.clone());
        let writes = self.writes(command);
        let mut wanted = Wanted::default();
        wanted.add(&command.scope, command.id, Touched::by(command));
        let loaded = self.loader.load(&wanted).await.unwrap();
        assert_eq!(loaded.scopes[&command.scope].heading, before.unwrap_or_default());
        self.commit(&writes).await.unwrap();
    }

    /// That the message 1 or 2 of a scope, which the batch edits, is past.
    pub(crate) fn past(&self, key: &str) -> Vec<PastImage> {
        let scope: ScopeKey = key.parse().unwrap();
        let folded = &self.fold.scopes[&scope];
        let is_named = |id: &&MessageId| id.0.as_u128() < 10;
        let id = *folded.messages.keys().find(is_named).unwrap();
        let place = Place { partition: Partition::new(0), offset: Offset::new(self.next).unwrap() };
        let (tenant, won_by) = (scope.tenant.clone(), folded.scope.heading.head);
        let (scope, result, at) =
            (scope.reference(), PastResult::Replaced, folded.scope.heading.clock);
        vec![PastImage { scope, tenant, id, place, change: 0, result, won_by, at, json: None }]
    }

    /// Another writer has committed partition 0's next record.
    pub(crate) fn skip(&mut self) {
        self.next += 1;
    }

    /// All that was written.
    pub(crate) fn fold(&self) -> &LogFold {
        &self.fold
    }

    /// Partition 0's next offset.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }
}
