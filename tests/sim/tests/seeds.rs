//! The real policy code under hundreds of drawn loads, changes and faults: nothing that it promises is ever broken.

#![allow(clippy::print_stdout)]

use std::env;

use obleth_sim::{plan::Plan, world::World};

/// What a failing seed prints, so that it can be run again.
fn run(seed: u64) -> Result<obleth_sim::judge::Report, String> {
    let (report, _) = World::new(Plan::of_seed(seed)).run();
    if report.findings.is_empty() {
        return Ok(report);
    }
    let found =
        report.findings.iter().take(3).map(|(kind, ms, says)| format!("  {ms} ms: {kind:?}: {says}\n"));
    let replay =
        format!("OBLETH_SIM_SEED={seed} cargo test -p obleth-sim --test seeds replay -- --nocapture");
    Err(format!("seed {seed}:\n{}{replay}", found.collect::<String>()))
}

fn run_all(seeds: std::ops::Range<u64>) {
    let (mut broken, mut bound, mut wait, mut grants) = (Vec::new(), 0.0_f64, 0.0_f64, 0);
    for seed in seeds {
        match run(seed) {
            Ok(report) => {
                bound = bound.max(report.bound);
                wait = wait.max(report.wait);
                grants += report.grants;
            }
            Err(says) => broken.push(says),
        }
    }
    println!("{grants} grants; at most {bound:.2} of the bound, {wait:.2} of the wait");
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_promise_holds_under_two_hundred_seeds() {
    run_all(0..200);
}

#[test]
#[ignore = "minutes"]
fn every_promise_holds_under_two_thousand_seeds() {
    run_all(200..2200);
}

#[test]
fn replay() {
    let Some(seed) = env::var("OBLETH_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    println!("{:#?}", Plan::of_seed(seed));
    match run(seed) {
        Ok(report) => println!("{report:#?}"),
        Err(says) => panic!("{says}"),
    }
}
