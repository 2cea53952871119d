//! `rows == fold(log) == fold(read(archive))`, asked of the running system: partition by partition, the log is folded up
//! to where the archive's newest sealed hour ends, and compared with what that comes to; then up to where a snapshot of
//! the rows stands, and compared with those. Count and digest are recomputed from rows and archive besides.

mod against;
mod archived;
mod fold;
mod rows;

use std::collections::HashMap;

use archive::{Archive, verify::Sample};
use eventlog::{EventLog, partition_of};
use model::{Offset, Partition, ScopeKey, ScopeRef};
use readmodel::{
    outcomes::positions,
    snapshot::{Snapshot, parked_in},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use super::{Copies, Unasked};
use archived::Archived;
use fold::{PartitionFold, Read, Unfolded};
use rows::Rows;

/// Differences of one scope that are named, at most.
const NAMED_MAX: usize = 10;

/// Which scopes.
#[derive(Clone, Debug)]
pub struct CheckQuery {
    /// This one alone.
    pub scope: Option<ScopeKey>,
    /// Of all others, a part.
    pub sample: Sample,
    /// Say of each scope which of the copies agree, also where all do.
    pub each: bool,
}

/// What a check says, as it goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checking {
    /// Records of a partition folded so far.
    Folded { partition: u32, records: u64, of: u64 },
    /// Something is not as it should be.
    Differs(Difference),
    /// A scope was compared.
    Scope(ScopeCheck),
    /// It is over.
    Done(Sums),
    /// It could not be done.
    Failed(String),
}

/// What is not as it should be: of a scope, or of a partition's dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Difference {
    pub of: String,
    pub problems: Vec<String>,
    /// Differences beyond those named.
    pub more: u64,
}

/// Whether a copy of a scope is what the log folds to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    Agrees,
    Differs,
    /// The archive: no hour that has the scope is sealed yet.
    NotYet,
    /// It is not there, or cannot be compared: the log has lost its beginning, say, or the scope's events are parked.
    #[default]
    NotAsked,
}

/// Which copies of a scope are what the log folds to: the rows where they stand, the archive at the end of an hour.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ScopeCheck {
    pub scope: String,
    pub rows: Agreement,
    pub archive: Agreement,
}

/// Whether the archive was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveSide {
    Asked,
    /// None is named, and the catalogue is of none.
    #[default]
    None,
    /// There is one, and it could not be asked: why.
    Unasked(Unasked),
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Sums {
    pub partitions: u64,
    pub scopes: u64,
    pub messages: u64,
    /// Scopes whose events wait; they are compared up to there.
    pub parked: Vec<String>,
    pub differ: u64,
    /// Partitions that have lost records which the archive does not have either: of those, only the rows were looked at.
    pub only_rows: Vec<u32>,
    pub archive: ArchiveSide,
    /// Scopes that were read out of the archive, and their messages there.
    pub archived_scopes: u64,
    pub archived_messages: u64,
}

impl Sums {
    /// Whether all was asked that there is.
    pub fn is_whole(&self) -> bool {
        self.only_rows.is_empty() && !matches!(self.archive, ArchiveSide::Unasked(_))
    }

    pub fn is_well(&self) -> bool {
        self.differ == 0 && self.parked.is_empty()
    }
}

impl CheckQuery {
    fn has(&self, scope: &ScopeKey) -> bool {
        match &self.scope {
            Some(only) => only == scope,
            None => self.sample.has(&scope.to_string()),
        }
    }

    fn is_all(&self) -> bool {
        self.scope.is_none() && self.sample == Sample::ALL
    }

    fn partitions(&self, count: u32) -> Vec<Partition> {
        match &self.scope {
            Some(scope) => vec![partition_of(scope.to_string().as_bytes(), count)],
            None => (0..count).map(Partition::new).collect(),
        }
    }
}

/// Differences of one scope, as they are found.
#[derive(Default)]
struct Found {
    problems: Vec<String>,
    more: u64,
}

impl Found {
    fn push(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < NAMED_MAX {
            self.problems.push(problem());
        } else {
            self.more += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    fn of(self, of: String) -> Option<Difference> {
        let Self { problems, more } = self;
        (!problems.is_empty()).then_some(Difference { of, problems, more })
    }
}

impl Copies {
    /// Checks, and says what it finds; the last is `Done` or `Failed`. Changes nothing.
    pub async fn check(&self, query: &CheckQuery, say: &Sender<Checking>) {
        let last = match self.check_all(query, say).await {
            Ok(sums) => Checking::Done(sums),
            Err(why) => Checking::Failed(why),
        };
        let _ = say.send(last).await; // nobody listens any more
    }

    async fn check_all(&self, query: &CheckQuery, say: &Sender<Checking>) -> Result<Sums, Unasked> {
        let (log, rows) = self.of_each_other().await?;
        let recovered = self.of_recovered(rows).await?;
        let (archive, side) = self.archive_side(log.log_id(), rows).await;
        let log = self.reaching_back(log);
        let log = log.as_ref();
        let mut sums = Sums { archive: side, ..Sums::default() };
        for partition in query.partitions(log.partitions()) {
            let in_database = |error| format!("the database: {error}");
            let stands = positions(rows).await.map_err(in_database)?;
            let target = stands.iter().find(|(p, _)| *p == partition).map_or(Offset::ZERO, |p| p.1);
            let parked = parked_in(rows, partition).await.map_err(in_database)?;
            let mut folding =
                Folding { log, recovered, archive, partition, parked: &parked, query, say };
            let folded = folding.fold(target, &mut sums).await?;
            self.compare(log, partition, folded, parked, query, say, &mut sums).await?;
            sums.partitions += 1;
            if say.is_closed() {
                return Err("nobody listens".to_owned());
            }
        }
        if let Some(scope) = query.scope.as_ref().filter(|_| sums.scopes == 0) {
            return Err(format!("there is no scope {scope}"));
        }
        Ok(sums)
    }

    #[expect(clippy::too_many_arguments, reason = "the two sides, and whom to tell")]
    async fn compare(
        &self,
        log: &dyn EventLog,
        partition: Partition,
        folded: Option<(PartitionFold, Read)>,
        before: HashMap<ScopeRef, Offset>,
        query: &CheckQuery,
        say: &Sender<Checking>,
        sums: &mut Sums,
    ) -> Result<(), Unasked> {
        let in_database = |error| format!("the database: {error}");
        let mut snapshot =
            Snapshot::begin_as_it_is(&self.database, log.log_id(), log.partitions(), partition)
                .await
                .map_err(in_database)?;
        let parked = snapshot.parked().await.map_err(in_database)?;
        let fold = match folded {
            None => None,
            Some((mut fold, mut read)) => {
                let at = snapshot.position.next_offset;
                if at < read.next {
                    return Err(format!(
                        "partition {partition} went back while it was checked; check again"
                    ));
                }
                match fold.up_to(&mut read, at, &parked, query, say).await {
                    Ok(()) => Some(fold),
                    Err(Unfolded::Hole) => None,
                    Err(Unfolded::Failed(why)) => return Err(why),
                }
            }
        };
        if fold.is_none() {
            sums.only_rows.push(partition.get());
        }
        let mut rows = Rows { snapshot, before, parked, query, say, sums };
        let mut compared = rows.compare(fold.as_ref(), partition, log.partitions()).await;
        if compared.is_ok() && rows.sums.partitions == 0 {
            compared = rows.compare_usage().await;
        }
        rows.snapshot.end().await;
        compared.map_err(in_database)
    }
}

/// A partition that is folded.
struct Folding<'a> {
    log: &'a dyn EventLog,
    /// The archive that the log begins with, where it was recovered.
    recovered: Option<&'a Archive>,
    /// The archive that is compared.
    archive: Option<&'a Archive>,
    partition: Partition,
    parked: &'a HashMap<ScopeRef, Offset>,
    query: &'a CheckQuery,
    say: &'a Sender<Checking>,
}

impl Folding<'_> {
    /// Folds up to an offset, and compares the archive on the way; `None` if records can be read nowhere.
    async fn fold(
        &mut self,
        to: Offset,
        sums: &mut Sums,
    ) -> Result<Option<(PartitionFold, Read)>, Unasked> {
        let partition = self.partition;
        let in_log = |error| format!("the log: {error}");
        let bounds = self.log.bounds(partition).await.map_err(in_log)?;
        if bounds.start > Offset::ZERO {
            return Ok(None);
        }
        if to > bounds.end {
            return Err(format!(
                "partition {partition} ends at offset {}, the rows are at {to}: this is another log, or it was cut",
                bounds.end
            ));
        }
        let mut read = Read::begin(self.log, partition).map_err(in_log)?;
        let mut fold = self.begin().await?;
        match self.fold_and_compare(&mut fold, &mut read, to, sums).await {
            Ok(()) => Ok(Some((fold, read))),
            Err(Unfolded::Hole) => Ok(None),
            Err(Unfolded::Failed(why)) => Err(why),
        }
    }

    async fn begin(&self) -> Result<PartitionFold, Unasked> {
        let partition = self.partition;
        let Some(archive) = self.recovered else { return Ok(PartitionFold::of_nothing()) };
        PartitionFold::of_recovered(archive, self.log.log_id(), partition, self.query)
            .await
            .map_err(|error| format!("the archive: {error}"))?
            .ok_or_else(|| {
                format!("the archive: it has nothing that partition {partition} begins with")
            })
    }

    async fn fold_and_compare(
        &mut self,
        fold: &mut PartitionFold,
        read: &mut Read,
        to: Offset,
        sums: &mut Sums,
    ) -> Result<(), Unfolded> {
        let Self { parked, query, say, .. } = *self;
        // Once it does not answer, it is not waited for again.
        if let Some(archive) = self.archive.filter(|_| sums.archive == ArchiveSide::Asked) {
            let (log, partition) = (self.log.log_id(), self.partition);
            let mut side = Archived { archive, log, partition, parked, query, say, sums };
            if let Ok(standing) = side.standing(to).await {
                fold.archive_is_asked();
                if let Some(standing) = standing {
                    fold.up_to(read, standing.next_offset, parked, query, say).await?;
                    side.compare(standing, fold).await;
                }
            }
        }
        fold.up_to(read, to, parked, query, say).await
    }
}
