//! Many clients that leave at random moments, in random manners: nothing of them stays behind.
//!
//! The long run comes with `--full`. A failure names its seed; with `CANCEL_SEED` set to it the same choices are made
//! again, though not at the same microseconds.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use obleth_upstream::Options;

use super::{
    disconnects::{EXITS, leave, until_nothing_is_left},
    process::{Driver, Setup, until},
    world::World,
};

/// Clients at the same time.
const CLIENTS: u64 = 24;
/// Growth of the process that is put down to its allocator, however many clients there were.
const SLACK_KIB: u64 = 8 * 1024;

/// Numbers that look random and are the same for the same seed (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike, and none may be zero.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, range: Range<u64>) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        range.start + self.0 % (range.end - range.start)
    }
}

/// A seed for this run, said aloud.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("CANCEL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("CANCEL_SEED={seed}");
    seed
}

/// One client: begins something, leaves in the middle of it.
pub(crate) fn cancel(world: &World, random: &mut Random) {
    let more = if random.below(0..2) == 0 { "" } else { r#","stream":true"# };
    let request = match random.below(0..4) {
        0 => world.chat(more).header("x-sim-fault", "stall-before-head"),
        1 => world.chat(more).header("x-sim-fault", "stall-after-tokens").header("x-sim-tokens", 20_000),
        2 => world.chat(more).header("x-sim-tps", 500).header("x-sim-tokens", 400),
        _ => world.chat(more).header("x-sim-latency-ms", random.below(0..20)),
    };
    let bytes = request.bytes();
    let mut connection = world.connect();
    let sent = match random.below(0..4) {
        0 => usize::try_from(random.below(0..bytes.len() as u64)).unwrap(),
        _ => bytes.len(),
    };
    connection.send(&bytes[..sent]);
    match random.below(0..4) {
        0 => {}
        1 if sent == bytes.len() => connection.read_for(Duration::from_millis(random.below(1..8))),
        // Its length is what makes the moment random; nothing is waited for.
        _ => thread::sleep(Duration::from_micros(random.below(0..4000))),
    }
    let exit = EXITS[usize::try_from(random.below(0..3)).unwrap()];
    if let Some(half_open) = leave(connection, exit) {
        thread::sleep(Duration::from_micros(random.below(0..1000)));
        drop(half_open);
    }
}

fn crowd(world: &World, clients: u64, seed: u64) {
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut random = Random::new(seed * CLIENTS + client);
                (0..clients / CLIENTS).for_each(|_| cancel(world, &mut random));
            });
        }
    });
    until_nothing_is_left(world);
}

/// Descriptors of the gateway once those of the last looks at its metrics are closed, too.
fn settled_descriptors(world: &World) -> usize {
    let mut least = usize::MAX;
    let mut unchanged = 0;
    until("the number of descriptors settles", || {
        let now = world.gateway.descriptors();
        unchanged = if now < least { 0 } else { unchanged + 1 };
        least = least.min(now);
        unchanged == 50
    });
    least
}

fn random_cancels_leave_nothing_behind(clients: u64) {
    let seed = seed();
    for driver in [Driver::Uring, Driver::Epoll] {
        let setup = Setup::new().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0);
        let mut world = World::with(setup, Options::default());
        crowd(&world, (clients / 5).max(1000), seed);
        let (descriptors, resident) = (settled_descriptors(&world), world.gateway.resident_kib());
        let begun = Instant::now();
        crowd(&world, clients, seed + 1);
        let grown = world.gateway.resident_kib().saturating_sub(resident);
        println!("{driver:?}: {clients} clients in {:?}; {resident} KiB + {grown} KiB", begun.elapsed());
        assert_eq!(settled_descriptors(&world), descriptors);
        assert!(grown < SLACK_KIB, "{grown} KiB more after {clients} clients");
        let gone = world.gateway.labelled("obleth_requests_total", &["outcome=\"client_gone\""]);
        assert!(gone > 0.0);
        assert_eq!(world.gateway.metric("obleth_client_closed_total"), gone);
        // A connection that the gateway closed at once may still wait to be accepted by the backend.
        until("each request that the backend saw has ended", || {
            let sim = world.sim();
            sim.requests == sim.completed + sim.aborted + sim.failed
        });
        world.assert_unharmed();
    }
}

#[test]
fn a_thousand_random_cancels_leave_nothing_behind() {
    random_cancels_leave_nothing_behind(1000);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_random_cancels_leave_nothing_behind() {
    random_cancels_leave_nothing_behind(100_000);
}
