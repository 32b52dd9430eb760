//! The coordinator's desk: what the shards, the sidecar and the main thread say to it, and what it answers.
//!
//! A ring up and a ring down per shard, one for orders, one for reports. The shards' rings hold messages of
//! [`obleth_policy::protocol`], each with the life of the shard that it belongs to, because a ring outlives the shard
//! that filled it. A full ring refuses; whoever has to say something keeps it and says it later, so nothing is lost.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use obleth_policy::{
    coordinator::{LivePool, Shares},
    id::{KeyId, TenantIx},
    limit,
    limit::{Correction, Definition, LimitBook, Meter, Standing},
    protocol::{Down, KeyShape, Up},
    unit::UnixMs,
};

use crate::{Doorbell, Gauges, Ring};

/// Words that may wait from one shard, and to one. A shard keeps what does not fit; so does the coordinator.
pub const COORDINATION_RING: usize = 1024;
/// Orders and reports that may wait.
const ORDER_RING: usize = 256;

/// What the sidecar and the main thread say to the coordinator.
#[derive(Clone, Debug)]
pub enum Order {
    /// Slots are divided like this from now on.
    Shares(Arc<Shares>),
    /// A key was edited.
    Key {
        /// Whose.
        tenant: TenantIx,
        /// Which.
        key: KeyId,
        /// What it is from now on.
        shape: KeyShape,
    },
    /// Report how everybody stands.
    Look,
    /// These are all limits, and what their budgets have used.
    Limits(Arc<LimitBook>),
    /// The limits of one scope were set, or its periods have moved on.
    Limit(Definition),
    /// What a budget has used is not what the usage ledger says.
    Correct(Correction),
    /// Report how every meter stands that is in use.
    LookAtLimits,
    /// This shard's thread is gone.
    Died(usize),
    /// The process ends: return.
    Stop,
}

/// What the coordinator reports to the sidecar.
#[derive(Clone, Debug)]
pub enum Report {
    /// It started, or started again: it needs the shares and the limits.
    Started,
    /// How everybody stands.
    Live(Vec<LivePool>),
    /// How every meter stands that is in use.
    Limits(Vec<Standing>),
    /// A request was refused for what a budget has left: the first one in its period.
    Exhausted(Meter, UnixMs),
}

/// The rings. Shared by all threads of the process, and outlives each of them.
#[derive(Debug)]
pub(crate) struct Desk {
    up: Box<[Ring<(u32, Up)>]>,
    down: Box<[Ring<(u32, Down)>]>,
    asks: Box<[Ring<(u32, limit::Up)>]>,
    credits: Box<[Ring<(u32, limit::Down)>]>,
    orders: Ring<Order>,
    reports: Ring<Report>,
    bell: Doorbell,
    lives: AtomicU32,
    epoch: Instant,
}

fn rings<T>(shards: usize) -> Box<[Ring<T>]> {
    (0..shards).map(|_| Ring::new(COORDINATION_RING)).collect()
}

impl Desk {
    pub(crate) fn new(shards: usize) -> io::Result<Self> {
        Ok(Self {
            up: rings(shards),
            down: rings(shards),
            asks: rings(shards),
            credits: rings(shards),
            orders: Ring::new(ORDER_RING),
            reports: Ring::new(ORDER_RING),
            bell: Doorbell::new()?,
            lives: AtomicU32::new(0),
            epoch: Instant::now(),
        })
    }

    pub(crate) fn up(&self, shard: usize) -> Option<&Ring<(u32, Up)>> {
        self.up.get(shard)
    }

    pub(crate) fn down(&self, shard: usize) -> Option<&Ring<(u32, Down)>> {
        self.down.get(shard)
    }

    pub(crate) fn asks(&self, shard: usize) -> Option<&Ring<(u32, limit::Up)>> {
        self.asks.get(shard)
    }

    pub(crate) fn credits(&self, shard: usize) -> Option<&Ring<(u32, limit::Down)>> {
        self.credits.get(shard)
    }

    pub(crate) fn orders(&self) -> &Ring<Order> {
        &self.orders
    }

    pub(crate) fn reports(&self) -> &Ring<Report> {
        &self.reports
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }

    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(crate) fn new_life(&self) -> u32 {
        self.lives.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

/// The coordinator's end.
#[derive(Clone, Debug)]
pub struct CoordinatorEnd {
    desk: Arc<Desk>,
    shards: Arc<[Arc<Doorbell>]>,
    sidecar: Arc<Doorbell>,
    gauges: Arc<Gauges>,
}

impl CoordinatorEnd {
    pub(crate) fn new(
        desk: Arc<Desk>,
        shards: Arc<[Arc<Doorbell>]>,
        sidecar: Arc<Doorbell>,
        gauges: Arc<Gauges>,
    ) -> Self {
        Self { desk, shards, sidecar, gauges }
    }

    /// From when all threads of the process count their monotonic time.
    #[must_use]
    pub fn epoch(&self) -> Instant {
        self.desk.epoch()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The next order.
    #[must_use]
    pub fn take_order(&self) -> Option<Order> {
        self.desk.orders.pop()
    }

    /// The next word of a shard, and the life that it comes from.
    #[must_use]
    pub fn take_up(&self, shard: usize) -> Option<(u32, Up)> {
        self.desk.up(shard)?.pop()
    }

    /// The next word of a shard about limits, and the life that it comes from.
    #[must_use]
    pub fn take_ask(&self, shard: usize) -> Option<(u32, limit::Up)> {
        self.desk.asks(shard)?.pop()
    }

    /// Whether anybody has said something.
    #[must_use]
    pub fn has_word(&self) -> bool {
        !self.desk.orders.is_empty()
            || self.desk.up.iter().any(|ring| !ring.is_empty())
            || self.desk.asks.iter().any(|ring| !ring.is_empty())
    }

    /// Puts a word about limits to a shard into its ring, for the life of this number. It is read once
    /// [`CoordinatorEnd::ring`] was called.
    ///
    /// # Errors
    /// The word itself when the ring is full: say it later.
    pub fn lend(&self, shard: usize, life: u32, down: limit::Down) -> Result<(), limit::Down> {
        match self.desk.credits(shard) {
            Some(ring) => ring.push((life, down)).map_err(|(_, down)| down),
            None => Err(down),
        }
    }

    /// Puts a word to a shard into its ring, for the life of this number. It is read once
    /// [`CoordinatorEnd::ring`] was called.
    ///
    /// # Errors
    /// The word itself when the ring is full: say it later.
    pub fn say(&self, shard: usize, life: u32, down: Down) -> Result<(), Down> {
        match self.desk.down(shard) {
            Some(ring) => ring.push((life, down)).map_err(|(_, down)| down),
            None => Err(down),
        }
    }

    /// Wakes a shard if it sleeps.
    pub fn ring(&self, shard: usize) {
        if let Some(bell) = self.shards.get(shard) {
            bell.ring();
        }
    }

    /// Reports to the sidecar. What a full ring refuses is dropped: it is asked for again.
    pub fn report(&self, report: Report) {
        // See above.
        let _ = self.desk.reports.push(report);
        self.sidecar.ring();
    }

    /// The bell that the coordinator sleeps by.
    #[must_use]
    pub fn bell(&self) -> &Doorbell {
        self.desk.bell()
    }

    /// The figures of all shards.
    #[must_use]
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }
}
