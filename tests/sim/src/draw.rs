//! A plan out of a seed: which loads, limits, changes and faults meet.
//!
//! Everything that can go wrong is drawn from, so that a few hundred seeds meet each thing in many combinations. It must
//! never depend on anything but the seed.

use crate::{
    plan::{Act, Arrivals, Lengths, MS, Plan, PoolPlan, SECOND, TenantPlan},
    random::Random,
};

impl Plan {
    /// The plan of this seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let shards = random.pick(&[1, 2, 2, 3, 4, 8]);
        let pools = pools(&mut random);
        let groups: Vec<u32> = (0..random.pick(&[1, 1, 2, 3])).map(|_| random.pick(&[30, 70, 100])).collect();
        let slots: u32 = pools.iter().map(|pool| pool.slots).sum();
        let binds = pools.len() > 1 && random.chance(0.5);
        let delay_ns = random.pick(&[50_000, 200_000, MS, 5 * MS, 20 * MS]);
        // A ring that is always full is slow, and shows nothing but that.
        let small = if delay_ns <= 200_000 { [8, 32] } else { [64, 256] };
        let mut plan = Self {
            seed,
            shards,
            delay_ns,
            ring: random.pick(&[small[0], small[1], 8192, 8192, 8192]),
            length_ns: 12 * SECOND,
            ceiling: if binds { slots * 2 / 3 + 1 } else { slots + 10 },
            pools,
            groups,
            tenants: Vec::new(),
            script: Vec::new(),
            step_tokens: 20,
        };
        for _ in 0..random.between(2, 7) {
            let tenant = tenant(&mut random, &plan);
            plan.tenants.push(tenant);
        }
        if random.chance(0.2) {
            hog(&mut random, &mut plan);
        }
        // A third of the seeds is left in peace, so that long spans of contention are seen.
        if random.chance(0.66) {
            script(&mut random, &mut plan);
        }
        plan
    }
}

fn pools(random: &mut Random) -> Vec<PoolPlan> {
    (0..random.pick(&[1, 1, 1, 2, 3]))
        .map(|_| PoolPlan {
            slots: random.pick(&[1, 3, 8, 16, 16, 32, 64]),
            rate: random.pick(&[50, 200, 1000, 1000]),
            prefill_ns: random.between(1, 20) * MS,
        })
        .collect()
}

fn tenant(random: &mut Random, plan: &Plan) -> TenantPlan {
    let pools = plan.pools.len() as u32;
    let first = random.between(0, u64::from(pools) - 1) as u32;
    let pool = plan.pools[first as usize];
    let mean = random.pick(&[20, 80, 165]);
    let lengths = match random.between(0, 4) {
        0 => Lengths::Equal(mean),
        1 => Lengths::LogNormal { mean, sigma: 1.0 },
        2 => Lengths::LogNormal { mean, sigma: 1.5 },
        3 => Lengths::Bimodal { short: mean / 4, long: mean * 8, part: 0.1 },
        _ => Lengths::Equal(1),
    };
    let service_ns = pool.prefill_ns + (lengths.mean() * SECOND as f64 / f64::from(pool.rate)) as u64;
    let slot_ns = (service_ns / u64::from(pool.slots)).max(500_000);
    let clients = random.pick(&[1, pool.slots / 4 + 1, pool.slots, pool.slots * 2]);
    let arrivals = match random.between(0, 7) {
        0..=2 => Arrivals::Loop { clients: pool.slots * 2, think_ns: 0 },
        3 => Arrivals::Loop { clients, think_ns: random.between(0, 20) * MS },
        4 | 5 => Arrivals::Poisson { every_ns: slot_ns * random.pick(&[1, 2, 4]) },
        6 => Arrivals::Bursts { every_ns: SECOND, size: pool.slots * 2 + 3 },
        _ => {
            let (on_ns, off_ns) = (random.between(50, 1500) * MS, random.between(5, 1500) * MS);
            Arrivals::OnOff { clients: pool.slots + 2, on_ns, off_ns }
        }
    };
    let keys = random.pick(&[1, 1, 1, 2, 4]);
    let key_cap = random.pick(&[None, None, None, Some(1), Some(3)]);
    TenantPlan {
        group: random.between(0, plan.groups.len() as u64 - 1) as u32,
        weight: random.pick(&[1, 50, 100, 200, 300, 400]).max(20),
        cap: random.pick(&[None, None, None, Some(1), Some(pool.slots / 2 + 1)]),
        keys: (0..keys).map(|at| (random.pick(&[100, 100, 300]), key_cap.filter(|_| at == 0))).collect(),
        pools: if random.chance(0.3) { (0..pools).collect() } else { vec![first] },
        home: (random.between(0, plan.shards as u64 - 1) as usize, random.pick(&[0.0, 0.5, 1.0])),
        arrivals,
        lengths,
        input: random.pick(&[0, 10, 50, 400]),
        streams: random.chance(0.8),
        cancels: random.pick(&[0.0, 0.0, 0.05, 0.4]),
        joined: true,
        patience_ns: random.pick(&[2 * SECOND, 60 * SECOND, 20 * SECOND]),
    }
}

/// Somebody with requests a hundred times as long as the others'.
fn hog(random: &mut Random, plan: &mut Plan) {
    let mut hog = tenant(random, plan);
    hog.pools.truncate(1);
    let pool = plan.pools[hog.pools[0] as usize];
    hog.lengths = Lengths::Equal(if pool.rate >= 1000 { 4000 } else { 400 });
    hog.arrivals = Arrivals::Loop { clients: pool.slots * 2, think_ns: 0 };
    hog.cap = None;
    plan.tenants.push(hog);
}

fn script(random: &mut Random, plan: &mut Plan) {
    let tenants = plan.tenants.len() as u64 - 1;
    for _ in 0..random.between(1, 6) {
        let at = random.between(SECOND, plan.length_ns - SECOND);
        let tenant = random.between(0, tenants) as usize;
        let shard = random.between(0, plan.shards as u64 - 1) as usize;
        let pool = random.between(0, plan.pools.len() as u64 - 1) as usize;
        let group = random.between(0, plan.groups.len() as u64 - 1) as usize;
        let act = match random.between(0, 12) {
            0 => Act::Reweigh(tenant, random.pick(&[20, 100, 1000])),
            1 => Act::Move(tenant, group as u32),
            2 => Act::ReweighGroup(group, random.pick(&[10, 100, 300])),
            3 | 4 => Act::Cap(tenant, random.pick(&[None, Some(1), Some(2), Some(8)])),
            5 => Act::Key(tenant, 0, random.pick(&[10, 100, 900]), random.pick(&[None, Some(2)])),
            6 | 7 => Act::Resize(pool, random.pick(&[1, 2, 8, 24, 48])),
            8 => Act::Ceiling(random.between(2, 60) as u32),
            9 => Act::Stall(shard, random.between(1, 400) * MS),
            10 => Act::Kill(shard, random.between(1, 100) * MS),
            11 => Act::Forget(random.between(1, 100) * MS),
            _ => {
                plan.tenants[tenant].joined = false;
                plan.script.push((at, Act::Join(tenant)));
                plan.script.push((at + random.between(1, 3000) * MS, Act::Leave(tenant)));
                continue;
            }
        };
        plan.script.push((at, act));
    }
    plan.script.sort_unstable();
}
