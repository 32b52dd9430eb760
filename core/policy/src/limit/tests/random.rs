//! Random requests on shards whose words arrive late, against a reference that is obviously right.

use super::world::{GROUP, KEY, TENANT, World};
use crate::limit::{Lacking, Limits, Measure, Reserved, Scope, Want};

/// A generator of numbers: xorshift64*, for the same run again.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % most.max(1)
    }
}

/// What is known of a request that runs: when it began, and what it reserved.
struct Running {
    shard: usize,
    reserved: Reserved,
    cost: u64,
}

/// One that waits for an answer.
struct Waiting {
    shard: usize,
    lacking: Lacking,
    cost: u64,
    asked_at: u64,
}

const MEASURES: [(Scope, Measure, u64); 3] = [
    (KEY, Measure::TokensPerMinute, 4000),
    (TENANT, Measure::DailyTokens, 300_000),
    (GROUP, Measure::LifetimeMicroUsd, 400_000),
];

fn want(cost: u64) -> impl Fn(Measure) -> Option<Want> {
    move |_| Some(Want::just(cost))
}

/// The reference: sums over a list of everything that was ever used.
#[derive(Default)]
struct Naive {
    /// When, and how much; of running requests what is reserved.
    minute: Vec<(u64, u64)>,
    total: u64,
}

impl Naive {
    fn in_minute(&self, now: u64) -> u64 {
        let counts = self.minute.iter().rev().take_while(|(at, _)| at + 60_000 > now);
        counts.map(|(_, amount)| amount).sum()
    }

    /// Whether a request of this cost may pass, by what counted then and since.
    fn allows(&self, now: u64, cost: u64) -> bool {
        let [minute, day, life] = MEASURES.map(|(.., limit)| limit);
        self.in_minute(now) + cost <= minute && self.total + cost <= day.min(life)
    }
}

#[test]
fn a_million_random_steps_never_overspend_and_never_refuse_what_there_is_room_for() {
    for (seed, shards) in [(1, 1), (2, 2), (3, 3), (4, 8)] {
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (seed << 20));
        let limits = MEASURES.map(|(scope, measure, limit)| (scope, Limits::NONE.with(measure, Some(limit))));
        let mut world = World::new(shards, &limits);
        let mut naive = Naive::default();
        let (mut running, mut waiting) = (Vec::<Running>::new(), Vec::<Waiting>::new());
        let (mut passed, mut refused, mut false_refusals) = (0_u64, 0_u64, 0_u64);
        for step in 0..250_000_u64 {
            let shard = usize::try_from(random.below(shards as u64)).unwrap();
            match random.below(10) {
                0 | 1 if waiting.len() < 64 => {
                    let cost = 1 + random.below(60);
                    let asked_at = world.now_ms;
                    waiting.push(Waiting { shard, cost, lacking: Lacking::default(), asked_at });
                }
                2 if !running.is_empty() => {
                    let at = usize::try_from(random.below(running.len() as u64)).unwrap();
                    let Running { shard, reserved, cost } = running.swap_remove(at);
                    world.settle(shard, reserved, |_| cost);
                }
                3 => world.now_ms += random.below(40),
                4 | 5 => world.say(shard),
                6 | 7 if random.below(2) == 0 => drop(world.carry_up(shard)),
                6 | 7 => while world.carry_up(shard) {},
                // Several words arrive at once, before anybody runs.
                _ if random.below(2) == 0 => drop(world.carry_down(shard)),
                _ => while world.carry_down(shard) {},
            }
            let mut still = Vec::new();
            for Waiting { shard, cost, lacking, asked_at } in waiting.drain(..) {
                if !lacking.is_empty() && !world.purses[shard].has_answer(&lacking) {
                    still.push(Waiting { shard, cost, lacking, asked_at });
                } else if world.purses[shard].shortage(&lacking, want(cost)).is_some() {
                    refused += 1;
                    false_refusals += u64::from(naive.allows(asked_at, cost));
                } else {
                    let reserved = match lacking.is_empty() {
                        true => world.reserve(shard, want(cost)),
                        false => world.reserve_at_last(shard, want(cost)),
                    };
                    match reserved {
                        Ok(reserved) => {
                            passed += 1;
                            naive.minute.push((world.now_ms, cost));
                            naive.total += cost;
                            running.push(Running { shard, reserved, cost });
                        }
                        Err(lacking) => still.push(Waiting { shard, cost, lacking, asked_at: world.now_ms }),
                    }
                }
            }
            waiting = still;
            assert!(naive.in_minute(world.now_ms) <= MEASURES[0].2, "seed {seed} step {step}");
            assert!(naive.total <= MEASURES[1].2, "seed {seed} step {step}");
        }
        for Running { shard, reserved, cost } in running {
            world.settle(shard, reserved, |_| cost);
        }
        world.settle_down();
        assert_eq!(world.used(TENANT, Measure::DailyTokens), naive.total);
        assert_eq!(world.used(GROUP, Measure::LifetimeMicroUsd), naive.total);
        let share = false_refusals as f64 / refused.max(1) as f64;
        println!(
            "seed {seed}, {shards} shards: {passed} passed, {refused} refused, {false_refusals} of them falsely"
        );
        assert!(passed > 1000 && refused > 100, "{passed} {refused}");
        assert!(share <= 0.0005, "seed {seed}: {false_refusals} of {refused} refusals were false");
    }
}

#[test]
fn deaths_and_lost_books_never_overspend() {
    for seed in 1..=20 {
        let shards = 3;
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (seed << 20));
        let measure = Measure::DailyTokens;
        let limit = 20_000;
        let mut world = World::new(shards, &[(KEY, Limits::NONE.with(measure, Some(limit)))]);
        let mut running = Vec::<Running>::new();
        let mut total = 0;
        for _ in 0..3_000 {
            let shard = usize::try_from(random.below(shards as u64)).unwrap();
            let cost = 1 + random.below(30);
            if let Ok(reserved) = world.ask(shard, want(cost)) {
                total += cost;
                running.push(Running { shard, reserved, cost });
            }
            if running.len() > 20 {
                let at = usize::try_from(random.below(20)).unwrap();
                let Running { shard, reserved, cost } = running.swap_remove(at);
                world.settle(shard, reserved, |_| cost);
            }
            if random.below(200) == 0 {
                // What it had in flight is lost with it, and was used for all that anybody knows.
                running.retain(|request| request.shard != shard);
                world.kill(shard);
            }
            world.now_ms += random.below(3);
            assert!(total <= limit, "seed {seed}: {total}");
        }
    }
}
