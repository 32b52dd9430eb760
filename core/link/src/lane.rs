//! The ends of the rings: one lane per shard, and the sidecar that sees all of them.

use std::{io, sync::Arc, time::Instant};

use obleth_policy::{
    limit,
    protocol::{Down, Up},
};

use crate::{
    BufferBudget, Command, CoordinatorEnd, Doorbell, Event, Gauges, Order, Report, Ring, ShardGauges,
    coordination::Desk,
};

/// Commands that may wait for one shard. When it is full, the sidecar keeps what it has to say and merges it.
pub const COMMAND_RING: usize = 4096;
/// Events that may wait from one shard. When it is full, a key look-up fails as if no store answered, and a
/// retired snapshot is freed by the shard itself.
pub const EVENT_RING: usize = 4096;

#[derive(Debug)]
struct Lane {
    commands: Ring<Command>,
    events: Ring<Event>,
    bell: Arc<Doorbell>,
}

/// Builds the lanes of `shards` shards. Ends are cheap to clone: a restarted shard takes over its lane.
///
/// # Errors
/// The kernel's, when it has no descriptor left for a doorbell.
pub fn links(shards: usize, buffered: Arc<BufferBudget>) -> io::Result<(SidecarEnd, Vec<ShardEnd>)> {
    let gauges = Arc::new(Gauges::new(shards));
    let bell = Arc::new(Doorbell::new()?);
    let desk = Arc::new(Desk::new(shards)?);
    let lanes = (0..shards)
        .map(|_| {
            let (commands, events) = (Ring::new(COMMAND_RING), Ring::new(EVENT_RING));
            Ok(Arc::new(Lane { commands, events, bell: Arc::new(Doorbell::new()?) }))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let ends = lanes
        .iter()
        .enumerate()
        .map(|(shard, lane)| ShardEnd {
            shard,
            lane: Arc::clone(lane),
            sidecar: Arc::clone(&bell),
            gauges: Arc::clone(&gauges),
            buffered: Arc::clone(&buffered),
            desk: Arc::clone(&desk),
        })
        .collect();
    Ok((SidecarEnd { lanes: lanes.into(), bell, gauges, desk }, ends))
}

/// A shard's end.
#[derive(Clone, Debug)]
pub struct ShardEnd {
    /// Which shard this is, from 0.
    pub shard: usize,
    lane: Arc<Lane>,
    sidecar: Arc<Doorbell>,
    gauges: Arc<Gauges>,
    /// Room for large bodies, shared by all shards.
    pub buffered: Arc<BufferBudget>,
    desk: Arc<Desk>,
}

impl ShardEnd {
    /// The next command.
    #[must_use]
    pub fn take(&self) -> Option<Command> {
        self.lane.commands.pop()
    }

    /// The next word of the coordinator, and the life of the shard that it is for.
    #[must_use]
    pub fn take_down(&self) -> Option<(u32, Down)> {
        self.desk.down(self.shard)?.pop()
    }

    /// Whether a command or a word of the coordinator waits.
    #[must_use]
    pub fn has_command(&self) -> bool {
        !self.lane.commands.is_empty()
            || self.desk.down(self.shard).is_some_and(|ring| !ring.is_empty())
            || self.desk.credits(self.shard).is_some_and(|ring| !ring.is_empty())
    }

    /// The next word of the owner of the limits, and the life of the shard that it is for.
    #[must_use]
    pub fn take_credit(&self) -> Option<(u32, limit::Down)> {
        self.desk.credits(self.shard)?.pop()
    }

    /// Puts a word to the owner of the limits into the ring, from the life of this number. It is read once
    /// [`ShardEnd::ring_coordinator`] was called.
    ///
    /// # Errors
    /// The word itself when the ring is full: say it later.
    pub fn ask(&self, life: u32, up: limit::Up) -> Result<(), limit::Up> {
        match self.desk.asks(self.shard) {
            Some(ring) => ring.push((life, up)).map_err(|(_, up)| up),
            None => Err(up),
        }
    }

    /// Puts a word to the coordinator into the ring, from the life of this number. It is read once
    /// [`ShardEnd::ring_coordinator`] was called.
    ///
    /// # Errors
    /// The word itself when the ring is full: say it later.
    pub fn say(&self, life: u32, up: Up) -> Result<(), Up> {
        match self.desk.up(self.shard) {
            Some(ring) => ring.push((life, up)).map_err(|(_, up)| up),
            None => Err(up),
        }
    }

    /// Wakes the coordinator if it sleeps.
    pub fn ring_coordinator(&self) {
        self.desk.bell().ring();
    }

    /// From when all threads of the process count their monotonic time.
    #[must_use]
    pub fn epoch(&self) -> Instant {
        self.desk.epoch()
    }

    /// A number that no life of any shard had before.
    #[must_use]
    pub fn new_life(&self) -> u32 {
        self.desk.new_life()
    }

    /// Tells the sidecar something.
    ///
    /// # Errors
    /// The event itself when the ring is full; see [`EVENT_RING`].
    pub fn tell(&self, event: Event) -> Result<(), Event> {
        self.lane.events.push(event)?;
        self.sidecar.ring();
        Ok(())
    }

    /// Publishes the answer to a [`Command::Ping`].
    pub fn beat(&self, number: u64) {
        self.gauges().heartbeat.set(number);
        self.sidecar.ring();
    }

    /// The bell that this shard sleeps by.
    #[must_use]
    pub fn bell(&self) -> &Doorbell {
        &self.lane.bell
    }

    /// The figures that this shard, and nobody else, writes.
    #[must_use]
    pub fn gauges(&self) -> &ShardGauges {
        self.gauges.shard(self.shard)
    }
}

/// The sidecar's end, and the main thread's for the few things that it has to say.
#[derive(Clone, Debug)]
pub struct SidecarEnd {
    lanes: Arc<[Arc<Lane>]>,
    bell: Arc<Doorbell>,
    gauges: Arc<Gauges>,
    desk: Arc<Desk>,
}

impl SidecarEnd {
    /// The coordinator's end of the same links.
    #[must_use]
    pub fn coordinator(&self) -> CoordinatorEnd {
        let bells = self.lanes.iter().map(|lane| Arc::clone(&lane.bell)).collect();
        CoordinatorEnd::new(Arc::clone(&self.desk), bells, Arc::clone(&self.bell), Arc::clone(&self.gauges))
    }

    /// Gives the coordinator an order and wakes it.
    ///
    /// # Errors
    /// The order itself when the ring is full: it must be given again.
    #[expect(clippy::result_large_err, reason = "orders are rare, and whoever gets one back keeps it")]
    pub fn order(&self, order: Order) -> Result<(), Order> {
        let pushed = self.desk.orders().push(order);
        self.desk.bell().ring();
        pushed
    }

    /// The next report of the coordinator.
    #[must_use]
    pub fn take_report(&self) -> Option<Report> {
        self.desk.reports().pop()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.lanes.len()
    }

    /// Sends a command to one shard and wakes it.
    ///
    /// # Errors
    /// The command itself when the ring is full or there is no such shard; see [`COMMAND_RING`].
    pub fn send(&self, shard: usize, command: Command) -> Result<(), Command> {
        let Some(lane) = self.lanes.get(shard) else { return Err(command) };
        let pushed = lane.commands.push(command);
        lane.bell.ring();
        pushed
    }

    /// The next event of one shard.
    #[must_use]
    pub fn take(&self, shard: usize) -> Option<Event> {
        self.lanes.get(shard)?.events.pop()
    }

    /// Whether any shard, or the coordinator, has said something.
    #[must_use]
    pub fn has_event(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.events.is_empty()) || !self.desk.reports().is_empty()
    }

    /// The bell that the sidecar sleeps by. It also rings for a heartbeat.
    #[must_use]
    pub fn bell(&self) -> &Doorbell {
        &self.bell
    }

    /// The figures of all shards.
    #[must_use]
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reaches_its_shard_and_no_other() {
        let (sidecar, shards) = links(2, BufferBudget::new(0)).unwrap();
        sidecar.send(1, Command::Ping(7)).unwrap();
        assert!(shards[0].take().is_none());
        assert!(matches!(shards[1].take(), Some(Command::Ping(7))));
        assert!(sidecar.send(2, Command::Drain).is_err());
    }

    #[test]
    fn a_full_ring_refuses_and_says_so() {
        let (sidecar, _shards) = links(1, BufferBudget::new(0)).unwrap();
        for _ in 0..COMMAND_RING {
            sidecar.send(0, Command::Drain).unwrap();
        }
        assert!(sidecar.send(0, Command::Drain).is_err());
    }
}
