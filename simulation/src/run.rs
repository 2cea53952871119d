//! Running a plan.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use device::drift::Mended;
use model::{Cursor, Digest, ScopeKey, Timestamp};

use crate::{
    Mistake, Violation,
    cast::{self, Seat},
    checks,
    effects::{Effect, Effects},
    line::Line,
    log::partitions,
    machine::{Machine, Unsynced},
    plan::{Plan, Step},
    random::Random,
    world::{World, bases},
};

/// Turns of one sync of some devices, at most.
const TURNS: u32 = 200_000;
/// Syncs of all devices until they are quiet, at most.
const ROUNDS: u32 = 6;

/// Where a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub time: Timestamp,
    /// On the last log.
    pub records: u64,
    pub scopes: Vec<(ScopeKey, Cursor, Digest)>,
    pub effects: Effects,
}

/// Runs a plan, and looks whether all is as it must be.
///
/// # Errors
/// What is not.
pub fn run(plan: &Plan, mistake: Option<Mistake>) -> Result<Ended, Violation> {
    let caught = panic::catch_unwind(AssertUnwindSafe(|| {
        let seats = cast::seats();
        let mut run = Run::new(plan, &seats, mistake)?;
        for (number, step) in plan.steps.iter().enumerate() {
            run.step(step).map_err(|v| Violation(format!("step {number}: {v}")))?;
        }
        run.heal()?;
        Ok(run.ended())
    }));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation(format!("panicked: {}", text.unwrap_or_default())))
    })
}

struct Run<'a> {
    world: RefCell<World>,
    seats: &'a [Seat],
    machines: Vec<Machine>,
    devices: Vec<usize>,
}

type Syncing<'a> = Pin<Box<dyn Future<Output = Result<Mended, Unsynced>> + 'a>>;

impl<'a> Run<'a> {
    fn new(plan: &Plan, seats: &'a [Seat], mistake: Option<Mistake>) -> Result<Self, Violation> {
        let world = RefCell::new(World::new(mistake)?);
        let machines = seats.iter().cloned().map(Machine::new).collect();
        Ok(Self { world, seats, machines, devices: plan.devices.clone() })
    }

    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        let world = self.world.get_mut();
        match step {
            Step::Do { device, deeds } => {
                if self.devices.contains(device) {
                    let now = world.now;
                    deeds.iter().for_each(|deed| self.machines[*device].act(deed, now));
                }
            }
            Step::Spoil { device, harm } => {
                self.machines[*device].suffer(harm);
                let machines: Vec<&Machine> =
                    self.devices.iter().map(|device| &self.machines[*device]).collect();
                world.witness.suffered(*device, harm, &machines);
            }
            Step::Sync { devices, faults, crashes, seed } => {
                world.random = Random::new(*seed);
                world.faults = *faults;
                self.sync(devices, *crashes)?;
            }
            Step::Work { turns, seed } => {
                world.random = Random::new(*seed);
                (0..*turns).try_for_each(|_| world.work())?;
            }
            Step::Pass { seconds } => world.pass(*seconds),
            Step::Crash => world.crash()?,
            Step::Backup { scope } => world.back_up(&cast::scopes()[*scope]),
            Step::Restore { scope, pick, mode } => {
                world.restore(&cast::scopes()[*scope], *pick, *mode);
            }
            Step::Expire { scope, keep } => world.expire(&cast::scopes()[*scope], *keep),
            Step::Erase { user } => world.erase(&cast::own_scopes()[*user]),
            Step::Member { member, role } => {
                let (scope, user) = &cast::members()[*member];
                let machines: Vec<&Machine> =
                    self.devices.iter().map(|device| &self.machines[*device]).collect();
                world.witness.role_changes(scope, user, &machines);
                world.set_member(scope, user, *role);
            }
            Step::Rebuild { seed } => {
                world.random = Random::new(*seed);
                world.rebuild()?;
            }
            Step::Recover { seed } => {
                world.random = Random::new(*seed);
                world.recover()?;
                let bases = bases(&world.rows);
                let machines: Vec<&Machine> =
                    self.devices.iter().map(|device| &self.machines[*device]).collect();
                let held = machines.iter().any(|machine| machine.holds_beyond(&bases));
                world.effects.count(Effect::Recovery, held);
                world.witness.recovered(&bases, &machines);
            }
        }
        self.world.get_mut().violation.take().map_or(Ok(()), Err)
    }

    /// Devices sync at the same time; what is next is drawn. Says why those failed that did.
    fn sync(&mut self, devices: &[usize], crashes: u32) -> Result<Vec<Unsynced>, Violation> {
        let mut saved = Vec::new();
        let mut failed = Vec::new();
        {
            let world = &self.world;
            let mut syncing: Vec<(usize, bool, Syncing<'_>)> = Vec::new();
            for (number, machine) in self.machines.iter_mut().enumerate() {
                if devices.contains(&number) && self.devices.contains(&number) {
                    if crashes > 0 {
                        saved.push((number, machine.replica.clone()));
                    }
                    let line = Line { world, seat: &self.seats[number] };
                    let held = machine.replica.count() > 0;
                    syncing.push((number, held, Box::pin(machine.sync(line))));
                }
            }
            let mut killed = Vec::new();
            let mut turns = 0;
            while !syncing.is_empty() {
                turns += 1;
                if turns > TURNS {
                    return Err(Violation("a sync has no end".to_owned()));
                }
                let (roll, place, crash) = {
                    let random = &mut world.borrow_mut().random;
                    (random.below(100), random.below(syncing.len()), random.chance(crashes))
                };
                world.borrow_mut().effects.count(Effect::Kill, crash);
                if crash && roll < 50 {
                    world.borrow_mut().crash()?;
                } else if crash {
                    killed.push(syncing.swap_remove(place).0);
                } else if roll < 45 {
                    world.borrow_mut().work()?;
                } else {
                    let mut context = Context::from_waker(Waker::noop());
                    let (_, held, sync) = &mut syncing[place];
                    if let Poll::Ready(ended) = sync.as_mut().poll(&mut context) {
                        world.borrow_mut().effects.synced(&ended, *held);
                        failed.extend(ended.err());
                        drop(syncing.swap_remove(place));
                    }
                }
            }
            // What a device that died had not saved, it has not.
            saved.retain(|(number, _)| killed.contains(number));
        }
        for (number, replica) in saved {
            self.machines[number].replica = replica;
        }
        Ok(failed)
    }

    fn ended(&self) -> Ended {
        let world = self.world.borrow();
        let records = partitions().map(|partition| world.log.end(partition).get()).sum();
        let scopes = world.rows.scopes.iter();
        let scopes = scopes.map(|(key, heading)| (key.clone(), heading.head, heading.digest));
        let effects = world.effects.clone();
        Ended { time: world.now, records, scopes: scopes.collect(), effects }
    }

    /// Nothing goes wrong any more: all come to rest, and are the same.
    fn heal(&mut self) -> Result<(), Violation> {
        let world = self.world.get_mut();
        world.random = Random::new(0);
        world.faults = 0;
        world.settle()?;
        let devices = self.devices.clone();
        let mut quiet = false;
        for _ in 0..ROUNDS {
            if quiet {
                break;
            }
            // Whether they are rightly told so, it shows below.
            let mut failed = self.sync(&devices, 0)?.into_iter().filter(|error| !error.is_purge());
            if let Some(error) = failed.next() {
                return Err(Violation(format!("a device cannot sync: {error:?}")));
            }
            let world = self.world.get_mut();
            world.violation.take().map_or(Ok(()), Err)?;
            world.settle()?;
            let rows = &self.world.borrow().rows;
            quiet =
                devices.iter().all(|device| checks::device(rows, &self.machines[*device]).is_ok());
        }
        let machines: Vec<&Machine> =
            devices.iter().map(|device| &self.machines[*device]).collect();
        checks::all(self.world.get_mut(), &machines)
    }
}
