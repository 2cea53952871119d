//! `rows == fold(log)`, asked of the running system: partition by partition, the log is folded up to where a snapshot
//! of the rows stands, and the two are compared. Count and digest are recomputed from the rows besides.

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
}

/// What a check says, as it goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checking {
    /// Records of a partition folded so far.
    Folded { partition: u32, records: u64, of: u64 },
    /// Something is not as it should be.
    Differs(Difference),
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
}

impl Sums {
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
        let log = self.reaching_back(log);
        let log = log.as_ref();
        let mut sums = Sums::default();
        for partition in query.partitions(log.partitions()) {
            let in_database = |error| format!("the database: {error}");
            let stands = positions(rows).await.map_err(in_database)?;
            let target = stands.iter().find(|(p, _)| *p == partition).map_or(Offset::ZERO, |p| p.1);
            let parked = parked_in(rows, partition).await.map_err(in_database)?;
            let folded = fold(log, recovered, partition, target, &parked, query, say).await?;
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

/// Folds a partition up to an offset; `None` if records of it can be read nowhere. `recovered`: the archive that it
/// begins with.
async fn fold(
    log: &dyn EventLog,
    recovered: Option<&Archive>,
    partition: Partition,
    to: Offset,
    parked: &HashMap<ScopeRef, Offset>,
    query: &CheckQuery,
    say: &Sender<Checking>,
) -> Result<Option<(PartitionFold, Read)>, Unasked> {
    let in_log = |error| format!("the log: {error}");
    let bounds = log.bounds(partition).await.map_err(in_log)?;
    if bounds.start > Offset::ZERO {
        return Ok(None);
    }
    if to > bounds.end {
        return Err(format!(
            "partition {partition} ends at offset {}, the rows are at {to}: this is another log, or it was cut",
            bounds.end
        ));
    }
    let mut read = Read::begin(log, partition).map_err(in_log)?;
    let mut fold = match recovered {
        Some(archive) => PartitionFold::of_recovered(archive, log.log_id(), partition, query)
            .await
            .map_err(|error| format!("the archive: {error}"))?
            .ok_or_else(|| {
                format!("the archive: it has nothing that partition {partition} begins with")
            })?,
        None => PartitionFold::of_nothing(),
    };
    match fold.up_to(&mut read, to, parked, query, say).await {
        Ok(()) => Ok(Some((fold, read))),
        Err(Unfolded::Hole) => Ok(None),
        Err(Unfolded::Failed(why)) => Err(why),
    }
}
