//! Seeds, in memory. `SIMULATION_SEED=N` runs one, `SIMULATION_SEEDS=N` or `FROM..TO` other than the usual ones,
//! `SIMULATION_PLAN=FILE` what a failing run has printed.

#![allow(clippy::expect_used, clippy::panic, reason = "tests may panic")]

use simulation::{
    Mistake,
    effects::Effects,
    plan::{Plan, Shape},
    run::run,
    shrink::shrink,
};

/// What CI runs.
const SEEDS: u64 = 2_000;

/// Seeds that find any mistake; most are found by the first thirty.
const FOUND_WITHIN: u64 = 300;

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = var("SIMULATION_SEED") {
        let seed = seed.parse().expect("SIMULATION_SEED takes a number");
        return seed..seed + 1;
    }
    let Some(text) = var("SIMULATION_SEEDS") else { return 0..SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    let number = |text: &str| text.parse().expect("SIMULATION_SEEDS takes N or FROM..TO");
    number(from)..number(to)
}

/// The first seed whose run fails.
fn first_failure(seeds: std::ops::Range<u64>, mistake: Option<Mistake>) -> Option<u64> {
    seeds.into_iter().find(|seed| run(&Plan::of(*seed, &Shape::of_seed(*seed)), mistake).is_err())
}

#[test]
fn all_copies_agree_whatever_happens() {
    if let Some(file) = var("SIMULATION_PLAN") {
        let text = std::fs::read_to_string(&file).unwrap();
        run(&Plan::parse(&text).unwrap(), None).unwrap();
        return;
    }
    let seeds = seeds();
    let is_usual = seeds == (0..SEEDS);
    let half = |odd: u64| seeds.clone().filter(move |seed| seed % 2 == odd);
    let effects = std::thread::scope(|scope| {
        let halves = [0, 1].map(|odd| scope.spawn(move || run_all(half(odd))));
        let mut sum = Effects::default();
        for half in halves.map(|half| half.join().unwrap()) {
            sum.add(&half.unwrap_or_else(|failure| panic!("{failure}")));
        }
        sum
    });
    eprintln!("{effects:?}");
    // One plan alone may have nothing to restore, say.
    assert!(!is_usual || effects.lacking().is_empty(), "never: {:?}", effects.lacking());
}

/// What came of all of them together, or how the first one failed that did.
fn run_all(seeds: impl Iterator<Item = u64>) -> Result<Effects, String> {
    let mut effects = Effects::default();
    for seed in seeds {
        let plan = Plan::of(seed, &Shape::of_seed(seed));
        match run(&plan, None) {
            Ok(ended) => effects.add(&ended.effects),
            Err(violation) => {
                let (plan, smallest) = shrink(plan, violation.clone(), None);
                return Err(format!(
                    "seed {seed}: {violation}\n\nrun it again: SIMULATION_SEED={seed} cargo test -p simulation\n\
                     what is left of it fails with: {smallest}\nas a file for SIMULATION_PLAN:\n{}",
                    plan.to_text()
                ));
            }
        }
    }
    Ok(effects)
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..10 {
        let plan = Plan::of(seed, &Shape::of_seed(seed));
        for mistake in [None, Some(Mistake::ForgetsCommands)] {
            assert_eq!(run(&plan, mistake), run(&plan, mistake), "seed {seed}");
        }
    }
}

/// A simulation that cannot fail shows nothing.
#[test]
fn mistakes_are_found_and_shrunk() {
    for mistake in Mistake::ALL {
        let seed = first_failure(0..FOUND_WITHIN, Some(mistake));
        let seed =
            seed.unwrap_or_else(|| panic!("{mistake:?} is not found by {FOUND_WITHIN} seeds"));
        let plan = Plan::of(seed, &Shape::of_seed(seed));
        let violation = run(&plan, Some(mistake)).unwrap_err();
        eprintln!("{mistake:?}: seed {seed}: {violation}");
        if mistake == Mistake::ForgetsCommands {
            let (small, violation) = shrink(plan.clone(), violation, Some(mistake));
            eprintln!("{violation}\n{}", small.to_text());
            assert_eq!(run(&small, Some(mistake)), Err(violation));
            assert!(small.steps.len() * 3 < plan.steps.len(), "{}", small.to_text());
        }
    }
}
