//! What a run is made of: pools, tenants, their requests, and what operators and faults do meanwhile.
//!
//! A plan is a value; the same plan and the same seed are the same run, event by event.

use crate::random::Random;

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// A second in nanoseconds.
pub const SECOND: u64 = 1000 * MS;

/// How long answers are, in tokens.
#[derive(Clone, Copy, Debug)]
pub enum Lengths {
    /// All the same.
    Equal(u32),
    /// A heavy tail.
    LogNormal {
        /// Mean length.
        mean: u32,
        /// Spread of the logarithm.
        sigma: f64,
    },
    /// Short ones, and some long ones.
    Bimodal {
        /// The short ones.
        short: u32,
        /// The long ones.
        long: u32,
        /// Part of the long ones.
        part: f64,
    },
}

impl Lengths {
    /// One of them; a model's longest answer is 60 times the usual mean.
    pub fn draw(self, random: &mut Random) -> u32 {
        match self {
            Self::Equal(tokens) => tokens,
            Self::LogNormal { mean, sigma } => {
                (random.lognormal(f64::from(mean), sigma) as u32).clamp(1, mean.saturating_mul(60))
            }
            Self::Bimodal { short, long, part } => {
                if random.chance(part) {
                    long
                } else {
                    short
                }
            }
        }
    }

    /// Their mean.
    #[must_use]
    pub fn mean(self) -> f64 {
        match self {
            Self::Equal(tokens) => f64::from(tokens),
            Self::LogNormal { mean, .. } => f64::from(mean),
            Self::Bimodal { short, long, part } => f64::from(short) * (1.0 - part) + f64::from(long) * part,
        }
    }
}

/// When requests come.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// So many clients, each of which asks again so long after its answer.
    Loop {
        /// Clients.
        clients: u32,
        /// Time between an answer and the next request.
        think_ns: u64,
    },
    /// Independent of each other.
    Poisson {
        /// Mean time between two.
        every_ns: u64,
    },
    /// Many at once.
    Bursts {
        /// Time between two bursts.
        every_ns: u64,
        /// Requests of one.
        size: u32,
    },
    /// Clients that work for a while and rest for a while.
    OnOff {
        /// Clients.
        clients: u32,
        /// How long they work.
        on_ns: u64,
        /// How long they rest.
        off_ns: u64,
    },
}

/// One tenant.
#[derive(Clone, Debug)]
pub struct TenantPlan {
    /// Its group.
    pub group: u32,
    /// Its share in the group.
    pub weight: u32,
    /// Requests that it may have in flight.
    pub cap: Option<u32>,
    /// Its keys: weight, and requests that each may have in flight.
    pub keys: Vec<(u32, Option<u32>)>,
    /// Its pools; each request is for one of them.
    pub pools: Vec<u32>,
    /// The shard that most of its connections are on, and which part of them.
    pub home: (usize, f64),
    /// When its requests come.
    pub arrivals: Arrivals,
    /// Their answers.
    pub lengths: Lengths,
    /// Input tokens of a request.
    pub input: u32,
    /// Answers come as they are made.
    pub streams: bool,
    /// Part of its clients that leave before the end.
    pub cancels: f64,
    /// Whether it is there from the beginning.
    pub joined: bool,
    /// How long its requests wait at most.
    pub patience_ns: u64,
}

/// One pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolPlan {
    /// Its slots.
    pub slots: u32,
    /// Output tokens per second and slot.
    pub rate: u32,
    /// Time to the first token.
    pub prefill_ns: u64,
}

/// Something that happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A tenant gets another weight.
    Reweigh(usize, u32),
    /// A tenant changes its group.
    Move(usize, u32),
    /// A group gets another weight.
    ReweighGroup(usize, u32),
    /// A tenant gets another cap.
    Cap(usize, Option<u32>),
    /// A key of a tenant gets another weight and cap.
    Key(usize, usize, u32, Option<u32>),
    /// A pool gets another size.
    Resize(usize, u32),
    /// Another limit of requests in flight, over all pools.
    Ceiling(u32),
    /// A shard does nothing for so many nanoseconds.
    Stall(usize, u64),
    /// A shard's thread dies, and is started again so many nanoseconds later.
    Kill(usize, u64),
    /// The coordinator dies with all it knows, and is started again so many nanoseconds later.
    Forget(u64),
    /// A tenant's clients come.
    Join(usize),
    /// A tenant's clients go.
    Leave(usize),
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What every number of the run follows from.
    pub seed: u64,
    /// Cores.
    pub shards: usize,
    /// Longest time that a message is under way.
    pub delay_ns: u64,
    /// Messages that a ring holds.
    pub ring: usize,
    /// How long requests come.
    pub length_ns: u64,
    /// Requests in flight, over all pools.
    pub ceiling: u32,
    /// The pools.
    pub pools: Vec<PoolPlan>,
    /// Weights of the groups.
    pub groups: Vec<u32>,
    /// The tenants.
    pub tenants: Vec<TenantPlan>,
    /// What happens when, in order.
    pub script: Vec<(u64, Act)>,
    /// Tokens that come at once; fewer are slower to simulate, and smoother.
    pub step_tokens: u32,
}

impl Plan {
    /// A quiet pool of `slots` slots with one tenant per weight, each of which always has requests waiting: the rig
    /// of the fairness figures.
    #[must_use]
    pub fn backlogged(seed: u64, slots: u32, weights: &[u32], lengths: Lengths) -> Self {
        let tenant = |weight: &u32| TenantPlan {
            group: 0,
            weight: *weight,
            cap: None,
            keys: vec![(100, None)],
            pools: vec![0],
            home: (0, 0.0),
            arrivals: Arrivals::Loop { clients: slots * 2, think_ns: 0 },
            lengths,
            input: 20,
            streams: true,
            cancels: 0.0,
            joined: true,
            patience_ns: 3600 * SECOND,
        };
        Self {
            seed,
            shards: 1,
            delay_ns: 50_000,
            ring: 8192,
            length_ns: 65 * SECOND,
            ceiling: 1 << 20,
            pools: vec![PoolPlan { slots, rate: 1000, prefill_ns: 5 * MS }],
            groups: vec![100],
            tenants: weights.iter().map(tenant).collect(),
            script: Vec::new(),
            step_tokens: 10,
        }
    }
}
