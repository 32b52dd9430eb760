//! The thread boundary, whole: if it is not a type here, it does not cross between threads.
//!
//! Commands go down to the shards, events come up to the sidecar, each over a bounded lock-free ring with a
//! doorbell that wakes a sleeper once. Between them sits the desk of the coordinator, who also owns the limits. Figures
//! are published in [`Gauges`]: one writer each, any reader.
//! Nothing here blocks, allocates in steady state, or is written by two sides, but for the one shared
//! [`BufferBudget`], which only large bodies touch.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod buffer;
mod command;
mod coordination;
mod doorbell;
mod event;
mod gauge;
mod lane;
mod ring;

pub use buffer::BufferBudget;
pub use command::Command;
pub use coordination::{COORDINATION_RING, CoordinatorEnd, Order, Report};
pub use doorbell::Doorbell;
pub use event::Event;
pub use gauge::{
    Attempt, Counter, Driver, Gauges, Histogram, LATENCY_BOUNDS_MS, MAX_POOLS, OVERHEAD_BOUNDS_US, Phase,
    ShardGauges,
};
pub use lane::{COMMAND_RING, EVENT_RING, ShardEnd, SidecarEnd, links};
pub use ring::Ring;
