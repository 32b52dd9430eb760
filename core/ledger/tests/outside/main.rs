//! What needs other processes: being killed, and disks of one's own.
//!
//! These tests do not run beside each other, nor beside those of the crate: between its birth and its first program a new
//! process holds every lock that its parent has.

mod disk;
mod kill;
#[path = "../sample/mod.rs"]
mod sample;

use std::sync::{Mutex, MutexGuard, PoisonError};

use obleth_ledger::{Opened, Position};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids of everything that was not released, in order.
fn shipped(log: &Opened, from: Position) -> Vec<u128> {
    let (mut ids, mut from) = (Vec::new(), from);
    loop {
        let batch = log.tail.read(from, 100).unwrap();
        ids.extend(batch.records.iter().map(|record| record.id.as_u128()));
        if batch.to == from {
            return ids;
        }
        from = batch.to;
    }
}
