//! The real policy code under hundreds of drawn loads, changes and faults: nothing that it promises is ever broken.

#![allow(clippy::print_stdout)]

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use obleth_sim::{
    plan::{Act, Arrivals, Lengths, MS, Plan, SECOND},
    world::World,
};

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
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mine = std::iter::from_fn(|| Some(next.fetch_add(1, Relaxed)).filter(|seed| *seed < seeds.end));
        mine.map(run).collect::<Vec<_>>()
    };
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no seed panics")).collect::<Vec<_>>()
    });
    for done in done {
        match done {
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
fn keys_that_are_forgotten_and_come_back_break_nothing() {
    let mut plan = Plan::backlogged(1, 4, &[100, 300], Lengths::LogNormal { mean: 40, sigma: 1.0 });
    (plan.shards, plan.delay_ns, plan.length_ns) = (2, 5 * MS, 50 * SECOND);
    for tenant in &mut plan.tenants {
        // Each key asks every forty seconds, about; cores forget it after ten.
        tenant.keys = vec![(100, None); 200];
        (tenant.cancels, tenant.patience_ns) = (0.3, 20 * SECOND);
        tenant.arrivals = Arrivals::Poisson { every_ns: 30 * MS };
    }
    for at in [20, 35] {
        plan.script.push((at * SECOND, Act::Forget(20 * MS)));
        plan.script.push(((at + 10) * SECOND, Act::Kill(1, 50 * MS)));
    }
    let (report, _) = World::new(plan).run();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.closed > 100, "{} were closed", report.closed);
}

#[test]
fn limits_that_are_lowered_while_nobody_waits_hold_for_credits_that_cores_keep() {
    for act in [Act::Ceiling(4), Act::Resize(0, 4)] {
        let mut plan = Plan::backlogged(1, 40, &[100, 300], Lengths::LogNormal { mean: 40, sigma: 1.0 });
        (plan.shards, plan.delay_ns, plan.length_ns) = (2, MS, 10 * SECOND);
        plan.script.push((5 * SECOND, act));
        for tenant in &mut plan.tenants {
            tenant.patience_ns = 20 * SECOND;
            // Eight of forty slots are in use: no request waits for another.
            tenant.arrivals = Arrivals::Loop { clients: 4, think_ns: 0 };
        }
        let (report, _) = World::new(plan).run();
        assert!(report.findings.is_empty(), "{act:?}: {:?}", report.findings);
    }
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
