//! What of all that is asked needs an operator.

use model::FoldRevision;

use super::{PartitionStatus, Status, StatusLimits};

impl Status {
    /// Names what needs an operator.
    pub(super) fn judge(&mut self, limits: StatusLimits) {
        let mut problems = Vec::new();
        for own in &self.partitions {
            own.judge(limits, &mut problems);
        }
        self.judge_drill(limits, &mut problems);
        if let Some(letters) = &self.dead_letters {
            if letters.refused > 0 {
                problems.push(format!("{} dead letters are refused records", letters.refused));
            }
            for parked in &letters.parked {
                problems.push(format!(
                    "{}: {} events are parked since {}, pulls show what was before",
                    parked.scope, parked.events, parked.place
                ));
            }
        }
        let own = FoldRevision::CURRENT.0;
        if self.fold_revision.is_some_and(|revision| revision != own) {
            problems.push(format!(
                "not all rows were folded by revision {own} of the fold, which is this build's: `ops rebuild` mends what differs"
            ));
        }
        for own in self.components.iter().flatten().filter(|own| !own.ready) {
            let reason = own.reason.as_deref().unwrap_or("it does not say why");
            problems.push(format!("{} is not ready: {reason}", own.name));
        }
        for disk in &self.disks {
            if let Some(free) = disk.free_bytes.filter(|free| *free < limits.disk_free_bytes) {
                problems.push(format!("{}: {free} bytes are free ({})", disk.what, disk.path));
            }
        }
        self.problems.append(&mut problems);
    }

    fn judge_drill(&self, limits: StatusLimits, problems: &mut Vec<String>) {
        if self.drill.as_ref().is_some_and(|drill| !drill.well) {
            problems.push("the last drill found backups that are not what is live".to_owned());
        }
        if limits.drill_hours == 0 {
            return;
        }
        let is_over = |seconds: &u64| seconds / 3_600 > limits.drill_hours;
        if let Some(seconds) = self.drill.as_ref().map(|drill| drill.seconds).filter(is_over) {
            problems.push(format!("the last drill was {} hours ago", seconds / 3_600));
        }
        if let Some(seconds) = self.undrilled_seconds.filter(is_over) {
            let hours = seconds / 3_600;
            problems.push(format!("no drill was ever done, the first backup is {hours} hours old"));
        }
    }
}

impl PartitionStatus {
    fn judge(&self, limits: StatusLimits, problems: &mut Vec<String>) {
        let partition = self.partition;
        let mut say = |problem: String| problems.push(format!("partition {partition}: {problem}"));
        if let (Some(lag), Some(waiting)) = (self.lag, self.waiting_seconds)
            && waiting > limits.waiting_seconds
        {
            say(format!("{lag} records are not projected, the first has waited for {waiting} s"));
        }
        if let (Some(end), Some(next)) = (self.log_end, self.projected)
            && next > end
        {
            say(format!(
                "{next} is projected, but the log ends at {end}: it was cut, or is another"
            ));
        }
        if let Some(readable) = self.readable
            && self.projected.unwrap_or(0) < readable
        {
            let next = self.projected.unwrap_or(0);
            say(format!(
                "{next} is to be projected, but the records before {readable} can be read nowhere any more"
            ));
        }
        if let Some(seconds) = self.unarchived_seconds.filter(|s| *s > limits.archived_seconds) {
            say(format!("an event of {seconds} s ago is in no archived hour"));
        }
        if let Some(seconds) = self.unsegmented_seconds.filter(|s| *s > limits.segments_seconds)
            && limits.segments_seconds > 0
        {
            say(format!("an event of {seconds} s ago is not in the archive, not even raw"));
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Partition;
    use readmodel::dead_letters::ParkedScope;
    use service::ops::Component;

    use super::{
        super::{DeadLettersStatus, DrillStatus},
        *,
    };
    use crate::copies::disk::Disk;

    const LIMITS: StatusLimits = StatusLimits {
        waiting_seconds: 60,
        archived_seconds: 7_500,
        segments_seconds: 300,
        drill_hours: 48,
        disk_free_bytes: 1_000,
    };

    fn judged(limits: StatusLimits, change: impl FnOnce(&mut Status)) -> Vec<String> {
        let mut status = Status::default();
        let own = status.partition(Partition::new(3));
        (own.log_start, own.readable, own.log_end) = (Some(2), Some(0), Some(9));
        (own.projected, own.lag) = (Some(9), Some(0));
        // A partition where nothing comes: its last hour ended long ago.
        (own.archived, own.archived_seconds) = (Some(9), Some(1_000_000));
        status.drill = Some(DrillStatus { at: String::new(), well: true, seconds: 48 * 3_600 });
        status.dead_letters = Some(DeadLettersStatus::default());
        status.fold_revision = Some(FoldRevision::CURRENT.0);
        let path = "/data".to_owned();
        let free_bytes = Some(1_000);
        status.disks = vec![Disk { what: "log".to_owned(), path, bytes: Some(7), free_bytes }];
        status.components = Some(vec![component(None)]);
        change(&mut status);
        status.judge(limits);
        status.problems
    }

    fn component(reason: Option<&str>) -> Component {
        let (name, ready) = ("archiver".to_owned(), reason.is_none());
        Component { name, ready, reason: reason.map(str::to_owned) }
    }

    type Changing = Box<dyn FnOnce(&mut Status)>;

    fn of_partition(change: impl FnOnce(&mut PartitionStatus) + 'static) -> Changing {
        Box::new(|status: &mut Status| change(status.partition(Partition::new(3))))
    }

    fn waiting(seconds: u64) -> Changing {
        of_partition(move |own| (own.lag, own.waiting_seconds) = (Some(4), Some(seconds)))
    }

    fn undrilled(hours: u64) -> Changing {
        Box::new(move |status| {
            (status.drill, status.undrilled_seconds) = (None, Some(hours * 3_600));
        })
    }

    #[test]
    fn what_is_within_its_limits_is_no_problem() {
        for change in [
            Box::new(|_: &mut Status| {}) as Changing,
            waiting(60),
            of_partition(|own| own.unarchived_seconds = Some(7_500)),
            of_partition(|own| own.unsegmented_seconds = Some(300)),
            undrilled(48),
            Box::new(|s| (s.components, s.drill) = (None, None)),
        ] {
            assert_eq!(judged(LIMITS, change), [""; 0]);
        }
        // Segments and drills may be turned off.
        let none = StatusLimits { segments_seconds: 0, drill_hours: 0, ..LIMITS };
        for change in [of_partition(|own| own.unsegmented_seconds = Some(9_000)), undrilled(999)] {
            assert_eq!(judged(none, change), [""; 0]);
        }
    }

    #[test]
    fn what_needs_an_operator_is_named() {
        let parked = ParkedScope {
            scope: "acme/user/ann".to_owned(),
            place: "3-1".to_owned(),
            reason: "bug".to_owned(),
            events: 2,
        };
        for (change, problem) in [
            (waiting(61), "partition 3: 4 records are not projected"),
            (of_partition(|own| own.log_end = Some(8)), "it was cut, or is another"),
            (of_partition(|own| own.readable = Some(10)), "9 is to be projected, but"),
            (
                of_partition(|own| (own.projected, own.readable) = (None, Some(1))),
                "0 is to be projected, but",
            ),
            (of_partition(|own| own.unarchived_seconds = Some(7_501)), "7501 s ago is in no"),
            (of_partition(|own| own.unsegmented_seconds = Some(301)), "301 s ago is not in"),
            (Box::new(|s| s.drill.as_mut().unwrap().well = false), "not what is live"),
            (Box::new(|s| s.drill.as_mut().unwrap().seconds = 49 * 3_600), "49 hours ago"),
            (undrilled(49), "no drill was ever done, the first backup is 49 hours old"),
            (Box::new(|s| s.dead_letters.as_mut().unwrap().refused = 1), "1 dead letters"),
            (
                Box::new(|s| s.dead_letters.as_mut().unwrap().parked = vec![parked]),
                "acme/user/ann: 2 events",
            ),
            (
                Box::new(|s| s.components = Some(vec![component(Some("no bucket"))])),
                "archiver is not ready: no bucket",
            ),
            (Box::new(|s| s.fold_revision = Some(0)), "`ops rebuild` mends what differs"),
            (Box::new(|s| s.disks[0].free_bytes = Some(999)), "log: 999 bytes are free (/data)"),
        ] {
            let problems = judged(LIMITS, change);
            assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
        }
    }
}
