//! The room for request bodies that wait in memory, shared by all shards.
//!
//! The one figure that every shard writes. Bodies up to [`BufferBudget::FREE`] bytes do not touch it: their
//! number is bounded by the number of connections, and an atomic shared by all cores has no place on the path
//! of a small request.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// See the module's text.
#[derive(Debug)]
pub struct BufferBudget {
    limit: u64,
    used: AtomicU64,
}

impl BufferBudget {
    /// Bodies up to this many bytes need no reservation.
    pub const FREE: u64 = 64 * 1024;

    /// Room for `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Makes room for `bytes` more, or says that there is none.
    pub fn reserve(&self, bytes: u64) -> bool {
        let grown = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    /// Gives room back.
    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes reserved at the moment.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_limit() {
        let room = BufferBudget::new(100);
        assert!(room.reserve(60));
        assert!(!room.reserve(41));
        assert!(!room.reserve(u64::MAX));
        assert!(room.reserve(40));
        room.release(100);
        assert_eq!(room.used(), 0);
    }
}
