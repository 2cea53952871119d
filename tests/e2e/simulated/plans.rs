//! Plans as servers of their own can play them: what means nothing to them is left out, and what would come to nothing
//! is given something to work on.

use model::ScopeKey;
use simulation::{
    cast::{self, Seat},
    plan::{Deed, Plan, Shape, Step},
    random::Random,
};

const SHAPE: Shape = Shape {
    steps: 18,
    busy: cast::DEVICES,
    stages: false,
    faults_max: 20,
    crashes_max: 3,
    together_max: 10,
    recovers: 22,
    rebuilds: 14,
    restores: 20,
    harms: 16,
    erasures: 0,
    members: 0,
};
/// Before that many syncs of a plan nothing is lost: devices are to hold something.
const SYNCS_MIN: usize = 3;
/// Of a hundred requests, in syncs that are added.
const FAULTS: u32 = 10;

/// The plan of a seed, the same each time.
pub(super) fn of(seed: u64) -> Plan {
    let mut shaped = Shaped { steps: Vec::new(), recovery: None, random: Random::new(seed) };
    let Plan { devices, steps } = Plan::of(seed, &SHAPE);
    steps.into_iter().for_each(|step| shaped.take(step));
    Plan { devices, steps: shaped.steps }
}

struct Shaped {
    steps: Vec<Step>,
    /// It was drawn too early.
    recovery: Option<Step>,
    random: Random,
}

impl Shaped {
    fn take(&mut self, step: Step) {
        match step {
            // Time passes by itself, and the servers work; nothing is old enough to expire.
            Step::Work { .. } | Step::Pass { .. } | Step::Expire { .. } => {}
            Step::Recover { .. } if self.has_recovery() => {} // one is enough: it takes seconds
            Step::Recover { .. } if self.syncs() < SYNCS_MIN => self.recovery = Some(step),
            Step::Restore { scope, .. } => {
                self.back_up_before(scope);
                let changes = self.changes(scope, &[Self::delete, Self::delete, Self::edit]);
                self.steps.extend(changes);
                self.steps.push(step);
            }
            Step::Sync { .. } => {
                self.steps.push(step);
                if self.syncs() >= SYNCS_MIN {
                    self.steps.extend(self.recovery.take());
                }
            }
            _ => self.steps.push(step),
        }
    }

    fn has_recovery(&self) -> bool {
        self.recovery.is_some() || self.steps.iter().any(|s| matches!(s, Step::Recover { .. }))
    }

    fn syncs(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Sync { .. })).count()
    }

    /// A backup to restore, with something in it: amid what has happened so far.
    fn back_up_before(&mut self, of: usize) {
        let is_of = |step: &Step| matches!(step, Step::Backup { scope } if *scope == of);
        if self.steps.iter().any(is_of) {
            return;
        }
        let mut added = self.changes(of, &[Self::say, Self::say, Self::say]);
        added.push(Step::Backup { scope: of });
        let middle = self.steps.len() / 2;
        drop(self.steps.splice(middle..middle, added));
    }

    /// A device of the scope that may push, knows what there is, and changes it.
    fn changes(&mut self, scope: usize, deeds: &[fn(&mut Self) -> Deed]) -> Vec<Step> {
        let scope: &ScopeKey = &cast::scopes()[scope];
        let seats = cast::seats();
        let may: Vec<&Seat> = seats.iter().filter(|s| s.scope == *scope && s.may_push).collect();
        let device = may[self.random.below(may.len())].number;
        let deeds = deeds.iter().map(|deed| deed(self)).collect();
        vec![self.sync(device), Step::Do { device, deeds }, self.sync(device)]
    }

    fn sync(&mut self, device: usize) -> Step {
        let seed = self.random.number();
        Step::Sync { devices: vec![device], faults: FAULTS, crashes: 0, seed }
    }

    fn say(&mut self) -> Deed {
        Deed::Say { what: self.random.below(9) as u8, minutes: None }
    }

    fn edit(&mut self) -> Deed {
        let (pick, what) = (self.random.number() as u8, self.random.below(9) as u8);
        Deed::Edit { pick, what, seen: true, minutes: None }
    }

    fn delete(&mut self) -> Deed {
        Deed::Delete { pick: self.random.number() as u8 }
    }
}
