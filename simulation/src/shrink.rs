//! Making a plan that fails smaller, as long as it fails.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;

use crate::{
    Mistake, Violation,
    plan::{Plan, Step},
    run::run,
};

/// Runs, at most.
const RUNS_MAX: u32 = 1_500;

/// The hook of panics is the process's.
static QUIET: Mutex<()> = Mutex::new(());

/// The smallest plan that was found, and how it fails.
pub fn shrink(plan: Plan, violation: Violation, mistake: Option<Mistake>) -> (Plan, Violation) {
    let _alone = QUIET.lock().unwrap_or_else(PoisonError::into_inner);
    let mut runs = 0;
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let shrinking = shrink_by(plan, violation, async |plan| {
        runs += 1;
        match runs > RUNS_MAX {
            true => Tried::TooMany,
            false => run(plan, mistake).map_or_else(Tried::Fails, |_| Tried::Passes),
        }
    });
    let smallest = shrinking.now_or_never().expect("a run in memory waits for nothing");
    std::panic::set_hook(quiet);
    smallest
}

/// What came of a smaller plan.
pub enum Tried<V> {
    Fails(V),
    Passes,
    /// It was not run: there were enough.
    TooMany,
}

/// The smallest plan that was found by someone who runs plans, and how it fails there.
pub async fn shrink_by<V>(
    plan: Plan,
    violation: V,
    attempt: impl AsyncFnMut(&Plan) -> Tried<V>,
) -> (Plan, V) {
    let mut shrinking = Shrinking { plan, violation, attempt, is_over: false };
    while !shrinking.is_over
        && (shrinking.steps().await | shrinking.devices().await | shrinking.parts().await)
    {}
    (shrinking.plan, shrinking.violation)
}

struct Shrinking<V, A> {
    plan: Plan,
    violation: V,
    attempt: A,
    is_over: bool,
}

impl<V, A: AsyncFnMut(&Plan) -> Tried<V>> Shrinking<V, A> {
    /// Takes a smaller plan, if it fails too.
    async fn try_plan(&mut self, plan: Plan) -> bool {
        // Of what fails without a step no plan tells more.
        if self.is_over || plan.steps.is_empty() {
            return false;
        }
        match (self.attempt)(&plan).await {
            Tried::Fails(violation) => {
                (self.plan, self.violation) = (plan, violation);
                return true;
            }
            Tried::Passes => {}
            Tried::TooMany => self.is_over = true,
        }
        false
    }

    /// Leaves out steps: halves, then quarters, down to single ones.
    async fn steps(&mut self) -> bool {
        let mut smaller = false;
        let mut size = self.plan.steps.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.plan.steps.len() {
                let mut plan = self.plan.clone();
                plan.steps.drain(from..(from + size).min(plan.steps.len()));
                if self.try_plan(plan).await {
                    smaller = true;
                } else {
                    from += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        smaller
    }

    async fn devices(&mut self) -> bool {
        let mut smaller = false;
        let mut size = self.plan.devices.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.plan.devices.len() {
                let mut plan = self.plan.clone();
                plan.devices.drain(from..(from + size).min(plan.devices.len()));
                if self.try_plan(plan).await {
                    smaller = true;
                } else {
                    from += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        smaller
    }

    /// Leaves out deeds, devices of a sync, faults.
    async fn parts(&mut self) -> bool {
        let mut smaller = false;
        for place in 0..self.plan.steps.len() {
            for simpler in simpler(&self.plan.steps[place]) {
                let mut plan = self.plan.clone();
                plan.steps[place] = simpler;
                if self.try_plan(plan).await {
                    smaller = true;
                    break;
                }
            }
        }
        smaller
    }
}

fn simpler(step: &Step) -> Vec<Step> {
    match step {
        Step::Do { device, deeds } if deeds.len() > 1 => {
            let without = |place| {
                let mut deeds = deeds.clone();
                deeds.remove(place);
                Step::Do { device: *device, deeds }
            };
            (0..deeds.len()).map(without).collect()
        }
        Step::Sync { devices, faults, crashes, seed } => {
            let mut simpler = Vec::new();
            if devices.len() > 1 {
                for place in 0..devices.len() {
                    let mut devices = devices.clone();
                    devices.remove(place);
                    simpler.push(Step::Sync {
                        devices,
                        faults: *faults,
                        crashes: *crashes,
                        seed: *seed,
                    });
                }
            }
            if *faults > 0 {
                let devices = devices.clone();
                simpler.push(Step::Sync { devices, faults: 0, crashes: *crashes, seed: *seed });
            }
            if *crashes > 0 {
                let devices = devices.clone();
                simpler.push(Step::Sync { devices, faults: *faults, crashes: 0, seed: *seed });
            }
            simpler
        }
        Step::Work { turns, seed } if *turns > 1 => {
            vec![Step::Work { turns: turns / 2, seed: *seed }]
        }
        _ => Vec::new(),
    }
}
