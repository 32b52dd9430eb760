//! A long mixed load: strangers, unknown models, aborts, large bodies, backends that die. Memory stays flat.
//!
//! Unknown keys are among it because each is remembered for a moment, large bodies because their buffers come and go.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use obleth_upstream::Options;

use super::{
    cancels::{Random, cancel, seed},
    disconnects::until_nothing_is_left,
    http::Request,
    process::{Driver, Setup, until},
    world::{ENDPOINTS, MODEL, World, body_of},
};

const WORKERS: u64 = 8;
/// Of each worker between two acts. A machine that is busy to the brim gives memory back late.
const PAUSE: Duration = Duration::from_millis(5);
/// Parts of a run. Of each the least memory counts: large bodies come and go, and the allocator gives theirs back late.
const PARTS: u32 = 60;
/// Looks at the memory in each part.
const LOOKS: u32 = 50;
/// This part of a run lets caches and the allocator fill up; what grows after it grows for ever.
const WARM_UP: f64 = 0.3;

/// One thing that clients do.
fn act(world: &World, random: &mut Random) {
    let stream = if random.below(0..2) == 0 { "" } else { r#","stream":true"# };
    let (request, status) = match random.below(0..12) {
        0..5 => return cancel(world, random),
        5 | 6 => {
            let key = format!("sk_{:024x}{:024x}", random.below(0..u64::MAX), random.below(0..u64::MAX));
            (Request::get("/v1/models").key(&key), 401)
        }
        7 => {
            let model = format!("model-{:x}", random.below(0..u64::MAX));
            (world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], &model, stream)), 404)
        }
        8 => {
            let pad = "p".repeat(usize::try_from(random.below(0..1_000_000)).unwrap());
            let body = body_of(ENDPOINTS[0], MODEL, &format!(r#","pad":"{pad}""#));
            (world.post(ENDPOINTS[0], body), 200)
        }
        9 => (world.chat("").header("x-sim-fault", "die-after-tokens"), 502),
        _ => (world.chat(stream).header("x-request-id", random.below(0..u64::MAX)), 200),
    };
    let answer = world.ask(&request);
    assert_eq!(answer.status, status, "{}", answer.text());
}

/// The slope of a line through the samples by least squares, in KiB per minute.
fn slope(samples: &[(Duration, u64)]) -> f64 {
    let points: Vec<(f64, f64)> =
        samples.iter().map(|(at, kib)| (at.as_secs_f64() / 60.0, *kib as f64)).collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    above / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

fn endure(driver: Driver, length: Duration, most_kib: f64) {
    let seed = seed();
    // The bound of the keys that are remembered is reached while the run warms up.
    let setup = Setup::new().driver(driver).env("OBLETH_KEY_CACHE_ENTRIES", 500);
    let mut world = World::with(setup, Options::default());
    let acts = AtomicU64::new(0);
    let begun = Instant::now();
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (world, acts) = (&world, &acts);
            scope.spawn(move || {
                let mut random = Random::new(seed * WORKERS + worker);
                while begun.elapsed() < length {
                    act(world, &mut random);
                    acts.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            });
        }
        for _ in 0..PARTS {
            let look = || {
                thread::sleep(length / PARTS / LOOKS);
                world.gateway.resident_kib()
            };
            let least = (0..LOOKS).map(|_| look()).min().unwrap();
            samples.push((begun.elapsed(), least));
        }
    });
    until_nothing_is_left(&world);
    let warm: Vec<_> =
        samples.into_iter().filter(|(at, _)| at.as_secs_f64() > length.as_secs_f64() * WARM_UP).collect();
    let (slope, minutes) = (slope(&warm), length.as_secs_f64() * (1.0 - WARM_UP) / 60.0);
    println!(
        "{driver:?}: {} acts in {length:?}; {} to {} KiB, {slope:.0} KiB per minute",
        acts.load(Ordering::Relaxed),
        warm.iter().map(|(_, kib)| *kib).min().unwrap(),
        warm.iter().map(|(_, kib)| *kib).max().unwrap(),
    );
    println!("the least of each part, in KiB: {:?}", warm.iter().map(|(_, kib)| *kib).collect::<Vec<_>>());
    assert!(slope * minutes < most_kib, "{slope} KiB per minute over {minutes} minutes");
    world.assert_unharmed();
}

#[test]
fn memory_stays_flat_under_strangers_aborts_and_large_bodies() {
    endure(Driver::Uring, Duration::from_secs(6), 24.0 * 1024.0);
    endure(Driver::Epoll, Duration::from_secs(6), 24.0 * 1024.0);
}

#[test]
#[ignore = "takes ten minutes"]
fn memory_stays_flat_for_ten_minutes() {
    endure(Driver::Uring, Duration::from_secs(600), 4.0 * 1024.0);
}

/// Requests of a burst, and bytes of each.
const BURST: (usize, usize) = (100, 300_000);

#[test]
fn what_a_burst_took_goes_back_when_it_is_over() {
    for driver in [Driver::Uring, Driver::Epoll] {
        // What a shard has goes back when the last pooled connection is closed.
        let setup = Setup::new().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 200);
        let world = World::with(setup, Options::default());
        assert_eq!(world.ask(&world.chat("")).status, 200);
        let before = world.gateway.resident_kib();
        let pad = "p".repeat(BURST.1);
        let body = body_of(ENDPOINTS[0], MODEL, &format!(r#","pad":"{pad}""#));
        let held = world.post(ENDPOINTS[0], body).header("x-sim-latency-ms", 500);
        let most = thread::scope(|scope| {
            let ask = || assert_eq!(world.ask(&held).status, 200);
            let asking: Vec<_> = (0..BURST.0).map(|_| scope.spawn(ask)).collect();
            let mut most = before;
            while asking.iter().any(|one| !one.is_finished()) {
                most = most.max(world.gateway.resident_kib());
                thread::sleep(PAUSE);
            }
            most
        });
        let took = most - before;
        assert!(
            took > (BURST.0 * BURST.1 / 1024 / 2) as u64,
            "{before} to {most} KiB: too little to be missed"
        );
        until("most of it is given back", || world.gateway.resident_kib() < before + took / 4);
    }
}
