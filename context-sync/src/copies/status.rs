//! How everything stands: positions, lag, ages, dead letters, restores, drills, disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use archive::history::newest_hour;
use model::{LogId, Offset, Partition, Place, Timestamp};
use readmodel::{PgPool, dead_letters::ParkedScope, standing};
use serde::{Deserialize, Serialize};

use super::{Copies, Unasked, disk, disk::Disk};

/// How long one part may take to answer.
const PART_WITHIN: Duration = Duration::from_secs(10);

/// From when on something is a problem.
#[derive(Clone, Copy, Debug)]
pub struct StatusLimits {
    /// Seconds that the oldest event which is not projected may wait.
    pub waiting_seconds: u64,
    /// Seconds since the end of the last hour that is archived.
    pub archived_seconds: u64,
    /// Hours since the last drill.
    pub drill_hours: u64,
}

/// How everything stands. What could not be asked is `null`, and named in `unasked`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Status {
    pub at: String,
    pub log_id: Option<String>,
    /// The read model's.
    pub epoch: Option<String>,
    pub partitions: Vec<PartitionStatus>,
    pub catalogue: Option<CatalogueStatus>,
    pub drill: Option<DrillStatus>,
    pub dead_letters: Option<DeadLettersStatus>,
    /// The restores that run; `null` if they could not be asked for.
    pub restores: Option<Vec<RestoreStatus>>,
    pub database_bytes: Option<u64>,
    pub disks: Vec<Disk>,
    /// What needs an operator.
    pub problems: Vec<String>,
    pub unasked: Vec<UnaskedPart>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UnaskedPart {
    /// `log`, `database` or `archive`.
    pub part: String,
    pub why: String,
}

/// A partition, by role: offsets are those to come next.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PartitionStatus {
    pub partition: u32,
    pub log_start: Option<u64>,
    pub log_end: Option<u64>,
    pub projected: Option<u64>,
    /// Records that are not projected.
    pub lag: Option<u64>,
    /// Since the log took the first of them.
    pub waiting_seconds: Option<u64>,
    /// Up to where its hours are archived.
    pub archived: Option<u64>,
    /// The name of the last one.
    pub archived_hour: Option<String>,
    /// Since that hour ended.
    pub archived_seconds: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CatalogueStatus {
    pub projected: u64,
    /// Facts that are not projected; `null` if that log could not be asked.
    pub lag: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DrillStatus {
    pub at: String,
    pub well: bool,
    pub seconds: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeadLettersStatus {
    /// Refused records that nobody has marked.
    pub refused: u64,
    pub parked: Vec<ParkedScope>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RestoreStatus {
    pub restore_id: String,
    pub scope: String,
    pub mode: String,
    pub restored: u64,
    pub skipped: u64,
    pub deleted: u64,
}

impl Copies {
    /// Asks every part; none keeps the others from answering.
    pub async fn status(&self, limits: StatusLimits) -> Status {
        let now = now();
        let mut status = Status { at: now.to_string(), ..Status::default() };
        let log = self.read_log(&mut status).await;
        let of_log = self.read_rows(&mut status, now).await;
        if let (Some(log), Some(rows)) = (log, of_log)
            && log != rows
        {
            let problem = format!("the database is of log {rows}, this log is {log}");
            status.problems.push(problem);
        }
        if log.is_none() || log == of_log {
            self.read_waiting(&mut status, now).await;
        }
        if let Some(log) = log.or(of_log) {
            self.read_archive(&mut status, log, now).await;
        }
        let disks = self.disks.clone();
        let measured = tokio::task::spawn_blocking(move || {
            disks.iter().map(|(what, path)| disk::measure(what, path)).collect()
        });
        status.disks = measured.await.unwrap_or_default();
        status.judge(limits);
        status
    }

    async fn read_log(&self, status: &mut Status) -> Option<LogId> {
        let log = match &self.log {
            Ok(log) => log,
            Err(why) => {
                status.unasked("log", why.clone());
                return None;
            }
        };
        status.log_id = Some(log.log_id().to_string());
        for partition in (0..log.partitions()).map(Partition::new) {
            match within(log.bounds(partition)).await {
                Ok(bounds) => {
                    let own = status.partition(partition);
                    own.log_start = Some(bounds.start.get());
                    own.log_end = Some(bounds.end.get());
                }
                Err(why) => {
                    status.unasked("log", why);
                    break; // the others wait as long
                }
            }
        }
        Some(log.log_id())
    }

    async fn read_rows(&self, status: &mut Status, now: Timestamp) -> Option<LogId> {
        let read = match &self.rows {
            Ok(rows) => within(read_rows(rows, status, now)).await,
            Err(why) => Err(why.clone()),
        };
        let of = match read {
            Ok(of) => of,
            Err(why) => {
                status.unasked("database", why);
                return None;
            }
        };
        if let (Some(facts), Some(catalogue)) = (&self.facts, &mut status.catalogue) {
            let bounds = within(facts.bounds(Partition::new(0))).await.ok();
            catalogue.lag = bounds.map(|b| b.end.get().saturating_sub(catalogue.projected));
        }
        of
    }

    /// How far the read model is behind, and for how long the first event has been waiting.
    async fn read_waiting(&self, status: &mut Status, now: Timestamp) {
        let Ok(log) = &self.log else { return };
        for own in &mut status.partitions {
            let (Some(end), Some(next)) = (own.log_end, own.projected) else { continue };
            own.lag = Some(end.saturating_sub(next));
            let Some(offset) = Offset::new(next).filter(|_| end > next) else { continue };
            let place = Place { partition: Partition::new(own.partition), offset };
            if let Ok(Some(first)) = within(log.read_one(place)).await {
                own.waiting_seconds = Some(seconds_since(now, first.append_time));
            }
        }
    }

    async fn read_archive(&self, status: &mut Status, log: LogId, now: Timestamp) {
        let archive = match &self.archive {
            None => return,
            Some(Ok(archive)) => archive,
            Some(Err(why)) => return status.unasked("archive", why.clone()),
        };
        for own in 0..status.partitions.len() {
            let partition = Partition::new(status.partitions[own].partition);
            match within(newest_hour(archive, log, partition)).await {
                Ok(None) => {}
                Ok(Some((_, header))) => {
                    let length = header.period_seconds;
                    let end = length.hour_named(&header.period).map(|hour| length.end(hour));
                    let own = &mut status.partitions[own];
                    own.archived = Some(header.next_offset.get());
                    own.archived_hour = Some(header.period);
                    own.archived_seconds = end.map(|end| seconds_since(now, end));
                }
                Err(why) => return status.unasked("archive", why),
            }
        }
    }
}

async fn read_rows(
    pool: &PgPool,
    status: &mut Status,
    now: Timestamp,
) -> Result<Option<LogId>, readmodel::ReadModelError> {
    let standing = standing::standing(pool).await?;
    for (partition, next) in &standing.positions {
        status.partition(*partition).projected = Some(next.get());
    }
    status.epoch = standing.source.map(|(_, epoch)| epoch.to_string());
    status.catalogue =
        standing.catalogue.map(|next| CatalogueStatus { projected: next.get(), lag: None });
    status.drill = standing.drill.map(|(at, well)| DrillStatus {
        at: at.to_string(),
        well,
        seconds: seconds_since(now, at),
    });
    status.database_bytes = Some(standing.bytes);
    let restore = |r: standing::RunningRow| RestoreStatus {
        restore_id: r.id.to_string(),
        scope: r.scope,
        mode: r.mode,
        restored: r.restored,
        skipped: r.skipped,
        deleted: r.deleted,
    };
    status.restores = Some(standing.restores.into_iter().map(restore).collect());
    let (refused, parked) = readmodel::dead_letters::open(pool).await?;
    status.dead_letters = Some(DeadLettersStatus { refused, parked });
    Ok(standing.source.map(|(log, _)| log))
}

impl Status {
    fn partition(&mut self, partition: Partition) -> &mut PartitionStatus {
        let number = partition.get();
        let at = match self.partitions.binary_search_by_key(&number, |own| own.partition) {
            Ok(at) => at,
            Err(at) => {
                let new = PartitionStatus { partition: number, ..PartitionStatus::default() };
                self.partitions.insert(at, new);
                at
            }
        };
        &mut self.partitions[at]
    }

    fn unasked(&mut self, part: &str, why: Unasked) {
        self.unasked.push(UnaskedPart { part: part.to_owned(), why });
    }

    /// Names what needs an operator.
    fn judge(&mut self, limits: StatusLimits) {
        for own in &self.partitions {
            let partition = own.partition;
            if let (Some(lag), Some(waiting)) = (own.lag, own.waiting_seconds)
                && waiting > limits.waiting_seconds
            {
                self.problems.push(format!(
                    "partition {partition}: {lag} records are not projected, the first has waited for {waiting} s"
                ));
            }
            if let (Some(end), Some(next)) = (own.log_end, own.projected)
                && next > end
            {
                self.problems.push(format!(
                    "partition {partition}: {next} is projected, but the log ends at {end}: it was cut, or is another"
                ));
            }
            if let Some(seconds) = own.archived_seconds
                && seconds > limits.archived_seconds
            {
                self.problems.push(format!(
                    "partition {partition}: the last archived hour ended {seconds} s ago"
                ));
            }
        }
        if let Some(drill) = &self.drill {
            if !drill.well {
                self.problems
                    .push("the last drill found backups that are not what is live".to_owned());
            }
            let hours = drill.seconds / 3_600;
            if hours > limits.drill_hours {
                self.problems.push(format!("the last drill was {hours} hours ago"));
            }
        }
        if let Some(letters) = &self.dead_letters {
            if letters.refused > 0 {
                self.problems.push(format!("{} dead letters are refused records", letters.refused));
            }
            for parked in &letters.parked {
                self.problems.push(format!(
                    "{}: {} events are parked since {}, pulls show what was before",
                    parked.scope, parked.events, parked.place
                ));
            }
        }
    }
}

/// What a part says within its time.
async fn within<T, E: std::fmt::Display>(
    asking: impl Future<Output = Result<T, E>>,
) -> Result<T, Unasked> {
    match tokio::time::timeout(PART_WITHIN, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PART_WITHIN.as_secs())),
    }
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn seconds_since(now: Timestamp, then: Timestamp) -> u64 {
    (now.micros_since(then).max(0) / 1_000_000).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StatusLimits =
        StatusLimits { waiting_seconds: 60, archived_seconds: 7_500, drill_hours: 48 };

    fn judged(change: impl FnOnce(&mut Status)) -> Vec<String> {
        let mut status = Status::default();
        let own = status.partition(Partition::new(3));
        (own.log_end, own.projected, own.lag) = (Some(9), Some(9), Some(0));
        (own.archived, own.archived_seconds) = (Some(5), Some(7_500));
        status.drill = Some(DrillStatus { at: String::new(), well: true, seconds: 48 * 3_600 });
        status.dead_letters = Some(DeadLettersStatus { refused: 0, parked: Vec::new() });
        change(&mut status);
        status.judge(LIMITS);
        status.problems
    }

    #[test]
    fn what_is_within_its_limits_is_no_problem_and_what_is_not_is_named() {
        assert_eq!(judged(|_| {}), [""; 0]);
        let waiting = |seconds| {
            move |status: &mut Status| {
                let own = status.partition(Partition::new(3));
                (own.lag, own.waiting_seconds) = (Some(4), Some(seconds));
            }
        };
        assert_eq!(judged(waiting(60)), [""; 0]);
        assert!(judged(waiting(61))[0].contains("partition 3: 4 records"));
        let parked = ParkedScope {
            scope: "acme/user/ann".to_owned(),
            place: "3-1".to_owned(),
            reason: "bug".to_owned(),
            events: 2,
        };
        for (change, problem) in [
            (
                Box::new(|s: &mut Status| s.partition(Partition::new(3)).log_end = Some(8))
                    as Box<dyn FnOnce(&mut Status)>,
                "it was cut, or is another",
            ),
            (
                Box::new(|s| s.partition(Partition::new(3)).archived_seconds = Some(7_501)),
                "7501 s ago",
            ),
            (Box::new(|s| s.drill.as_mut().unwrap().well = false), "not what is live"),
            (Box::new(|s| s.drill.as_mut().unwrap().seconds = 49 * 3_600), "49 hours ago"),
            (Box::new(|s| s.dead_letters.as_mut().unwrap().refused = 1), "1 dead letters"),
            (
                Box::new(|s| s.dead_letters.as_mut().unwrap().parked = vec![parked]),
                "acme/user/ann: 2 events",
            ),
        ] {
            let problems = judged(change);
            assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
        }
    }

    #[test]
    fn partitions_stand_in_their_order() {
        let mut status = Status::default();
        for number in [5, 1, 3, 1] {
            status.partition(Partition::new(number));
        }
        let order: Vec<u32> = status.partitions.iter().map(|own| own.partition).collect();
        assert_eq!(order, [1, 3, 5]);
    }
}
