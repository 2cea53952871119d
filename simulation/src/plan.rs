//! What happens in a run. A plan is all that a run depends on, and can be told as text.

use model::{RestoreMode, Role};
use serde::{Deserialize, Serialize};

use crate::{
    cast::{self, DEVICES},
    random::Random,
};

/// A run: which devices take part, and what happens, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub devices: Vec<usize>,
    pub steps: Vec<Step>,
}

/// What a device does to its messages. It is pushed when the device syncs the next time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// Says one of a few things, so that others say the same. `minutes`: of a metadata.timestamp, from now.
    Say {
        what: u8,
        minutes: Option<i8>,
    },
    /// Changes a message that it holds. `seen`: names the version that it has seen. `minutes`: of an updated_at.
    Edit {
        pick: u8,
        what: u8,
        seen: bool,
        minutes: Option<i8>,
    },
    Delete {
        pick: u8,
    },
    /// What no server takes.
    Babble,
}

/// What happens to what a device holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Harm {
    /// A message is lost.
    Forget { pick: u8 },
    /// A message says something else.
    Garble { pick: u8 },
    /// The cursor is another one.
    Jump { by: i8 },
}

/// Each step has random numbers of its own, so that a plan without it is much the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Do {
        device: usize,
        deeds: Vec<Deed>,
    },
    Spoil {
        device: usize,
        harm: Harm,
    },
    /// These devices sync at the same time, others are offline. `faults`: of a hundred requests so many are lost, or their
    /// answers, or they come twice, or late. `crashes`: servers and devices die meanwhile, of a hundred turns so many times.
    Sync {
        devices: Vec<usize>,
        faults: u32,
        crashes: u32,
        seed: u64,
    },
    /// The servers go on by themselves.
    Work {
        turns: u32,
        seed: u64,
    },
    Pass {
        seconds: u32,
    },
    Crash,
    Backup {
        scope: usize,
    },
    /// `pick`: which of the backups that there are.
    Restore {
        scope: usize,
        pick: u8,
        mode: RestoreMode,
    },
    /// Tombstones that are old expire, but for the last ones.
    Expire {
        scope: usize,
        keep: u8,
    },
    /// A user has all erased that their scope holds. `user`: which of [`cast::own_scopes`].
    Erase {
        user: usize,
    },
    /// A role is given, or taken. `member`: whose, of [`cast::members`].
    Member {
        member: usize,
        role: Option<Role>,
    },
    /// The rows are folded anew, and take the place of those that there are.
    Rebuild {
        seed: u64,
    },
    /// Log and rows are lost; the archive is left.
    Recover {
        seed: u64,
    },
}

/// What plans are to be like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub steps: usize,
    /// So many devices act before the end, when all sync. Few do more with each other.
    pub busy: usize,
    /// Before something is restored, expires or is erased, there is something to restore, to expire or to erase.
    pub stages: bool,
    /// Of a hundred requests, at most.
    pub faults_max: u32,
    /// Of a hundred turns, at most.
    pub crashes_max: u32,
    /// Devices that sync at the same time, at most.
    pub together_max: usize,
    /// Of a hundred steps that are neither deeds nor syncs.
    pub recovers: u32,
    pub rebuilds: u32,
    pub restores: u32,
    pub harms: u32,
    pub erasures: u32,
    pub members: u32,
}

impl Shape {
    /// For servers in memory.
    pub const MEMORY: Self = Self {
        steps: 28,
        busy: 14,
        stages: true,
        faults_max: 40,
        crashes_max: 6,
        together_max: 6,
        recovers: 8,
        rebuilds: 8,
        restores: 18,
        harms: 16,
        erasures: 5,
        members: 11,
    };

    /// All devices act, for longer.
    pub const CROWD: Self = Self { steps: 150, busy: DEVICES, together_max: 20, ..Self::MEMORY };

    /// What a seed's plan in memory is like.
    pub fn of_seed(seed: u64) -> Self {
        match seed % 40 {
            39 => Self::CROWD,
            _ => Self::MEMORY,
        }
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, shape: &Shape) -> Self {
        let mut random = Random::new(seed);
        let busy = busy(&mut random, shape.busy);
        let mut steps = Vec::new();
        for _ in 0..shape.steps {
            let step = step(&mut random, shape, &busy);
            if shape.stages {
                steps.extend(staged(&mut random, step, &busy));
            } else {
                steps.push(step);
            }
        }
        Self { devices: (0..DEVICES).collect(), steps }
    }

    /// As a text that [`Plan::parse`] reads: a step a line.
    pub fn to_text(&self) -> String {
        let devices = serde_json::to_string(&self.devices).unwrap();
        let steps = self.steps.iter().map(|step| serde_json::to_string(step).unwrap());
        std::iter::once(devices).chain(steps).map(|line| line + "\n").collect()
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let devices = serde_json::from_str(lines.next().unwrap_or_default())?;
        let steps = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { devices, steps })
    }
}

/// Some of the devices.
fn busy(random: &mut Random, count: usize) -> Vec<usize> {
    let mut devices: Vec<usize> = (0..DEVICES).collect();
    while devices.len() > count {
        devices.remove(random.below(devices.len()));
    }
    devices
}

fn step(random: &mut Random, shape: &Shape, busy: &[usize]) -> Step {
    match random.below(100) {
        0..40 => {
            let deeds = (0..=random.below(3)).map(|_| deed(random)).collect();
            Step::Do { device: busy[random.below(busy.len())], deeds }
        }
        40..75 => {
            let together = 1 + random.below(shape.together_max);
            let devices: std::collections::BTreeSet<usize> =
                (0..together).map(|_| busy[random.below(busy.len())]).collect();
            let faults = if random.chance(30) {
                0
            } else {
                random.below(shape.faults_max as usize + 1) as u32
            };
            let crashes = if random.chance(70) {
                0
            } else {
                random.below(shape.crashes_max as usize + 1) as u32
            };
            Step::Sync {
                devices: devices.into_iter().collect(),
                faults,
                crashes,
                seed: random.number(),
            }
        }
        _ => event(random, shape, busy),
    }
}

/// A step, and around it what it needs to come to something.
fn staged(random: &mut Random, step: Step, busy: &[usize]) -> Vec<Step> {
    match step {
        Step::Restore { scope, .. } => {
            let mut steps = backed_up(random, scope, busy);
            steps.extend(acts(random, scope, busy, &[delete, delete]));
            steps.extend([Step::Work { turns: 40, seed: random.number() }, step]);
            steps
        }
        Step::Expire { scope, .. } => {
            let mut steps = acts(random, scope, busy, &[say, say]);
            steps.extend(acts(random, scope, busy, &[delete, delete]));
            steps.extend([Step::Pass { seconds: 9_000 }, step]);
            steps
        }
        Step::Erase { user } => {
            let own = &cast::own_scopes()[user];
            let scope = cast::scopes().iter().position(|scope| scope == own).unwrap();
            let mut steps = backed_up(random, scope, busy);
            steps.extend([Step::Work { turns: 40, seed: random.number() }, step]);
            // At the same time as somebody wants it back.
            steps.extend(random.chance(30).then(|| restore(random, scope)));
            steps
        }
        _ => vec![step],
    }
}

fn backed_up(random: &mut Random, scope: usize, busy: &[usize]) -> Vec<Step> {
    let mut steps = acts(random, scope, busy, &[say, say]);
    steps.push(Step::Backup { scope });
    steps
}

/// A device that may do something in a scope does it, and syncs.
fn acts(
    random: &mut Random,
    scope: usize,
    busy: &[usize],
    deeds: &[fn(&mut Random) -> Deed],
) -> Vec<Step> {
    let (seats, scope) = (cast::seats(), &cast::scopes()[scope]);
    let may = |device: &&usize| seats[**device].scope == *scope && seats[**device].may_push;
    let Some(device) = busy.iter().find(may).copied() else { return Vec::new() };
    let deeds = deeds.iter().map(|deed| deed(random)).collect();
    let (devices, seed) = (vec![device], random.number());
    vec![Step::Do { device, deeds }, Step::Sync { devices, faults: 0, crashes: 0, seed }]
}

fn say(random: &mut Random) -> Deed {
    Deed::Say { what: random.below(9) as u8, minutes: None }
}

fn delete(random: &mut Random) -> Deed {
    Deed::Delete { pick: random.number() as u8 }
}

fn restore(random: &mut Random, scope: usize) -> Step {
    let mode = RestoreMode::ALL[random.below(2)];
    Step::Restore { scope, pick: random.number() as u8, mode }
}

fn event(random: &mut Random, shape: &Shape, busy: &[usize]) -> Step {
    let Shape { recovers, rebuilds, restores, harms, erasures, members, .. } = *shape;
    let scope = random.below(cast::scopes().len());
    let mut roll = random.below(100) as u32;
    let mut is = |chances: u32| {
        let is_it = roll < chances;
        roll = roll.saturating_sub(chances);
        is_it
    };
    if is(recovers) {
        Step::Recover { seed: random.number() }
    } else if is(rebuilds) {
        Step::Rebuild { seed: random.number() }
    } else if is(restores) {
        restore(random, scope)
    } else if is(harms) {
        Step::Spoil { device: busy[random.below(busy.len())], harm: harm(random) }
    } else if is(erasures) {
        Step::Erase { user: random.below(cast::own_scopes().len()) }
    } else if is(members) {
        member(random)
    } else {
        match random.below(10) {
            0..3 => Step::Work { turns: 1 + random.below(12) as u32, seed: random.number() },
            3..7 => {
                let seconds = [1, 20, 600, 3_700, 3_700, 90_000][random.below(6)];
                Step::Pass { seconds }
            }
            7 => Step::Crash,
            8 => Step::Expire { scope, keep: random.below(2) as u8 },
            _ => Step::Backup { scope },
        }
    }
}

/// Half of them are removed; the others are given any role that there is.
fn member(random: &mut Random) -> Step {
    let members = cast::members();
    let member = random.below(members.len());
    let kind = members[member].0.kind;
    let roles: Vec<Role> = Role::ALL.into_iter().filter(|role| role.exists_in(kind)).collect();
    let role = roles[random.below(roles.len())];
    Step::Member { member, role: random.chance(50).then_some(role) }
}

fn harm(random: &mut Random) -> Harm {
    let pick = random.number() as u8;
    match random.below(3) {
        0 => Harm::Forget { pick },
        1 => Harm::Garble { pick },
        _ => Harm::Jump { by: random.below(14) as i8 - 5 },
    }
}

fn deed(random: &mut Random) -> Deed {
    let (what, pick) = (random.below(9) as u8, random.number() as u8);
    let minutes = random.chance(40).then(|| random.below(40) as i8 - 30);
    match random.below(20) {
        0..9 => Deed::Say { what, minutes },
        9..15 => Deed::Edit { pick, what, seen: random.chance(60), minutes },
        15..19 => Deed::Delete { pick },
        _ => Deed::Babble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_told() {
        let plan = Plan::of(7, &Shape::MEMORY);
        assert_eq!(Plan::parse(&plan.to_text()).unwrap(), plan);
        assert_eq!(plan, Plan::of(7, &Shape::MEMORY));
        assert_ne!(plan, Plan::of(8, &Shape::MEMORY));
        assert!(Plan::parse("[0]\n{\"Sleep\":{}}").is_err());
    }
}
