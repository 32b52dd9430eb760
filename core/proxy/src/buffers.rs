//! Buffers that were used and will be again, a stack of them per core: the one that goes out next is the one that the
//! processor's cache still has.
//!
//! It must never hand out what was read or written before: every buffer that comes in is emptied.

use std::cell::RefCell;

/// What one buffer holds: a request of ordinary size, or the answer to it.
pub(crate) const SIZE: usize = 4 * 1024;
/// Buffers kept for later, 256 KiB per core.
const KEPT: usize = 64;

/// See the module's text. Owned by the shard.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer with room for so many bytes.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        let kept = if bytes <= SIZE { self.0.borrow_mut().pop() } else { None };
        kept.unwrap_or_else(|| Vec::with_capacity(bytes.max(SIZE)))
    }

    /// Takes a buffer back. One of another size is freed.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if buffer.capacity() == SIZE && kept.len() < KEPT {
            buffer.clear();
            kept.push(buffer);
        }
    }

    /// Frees what is kept. Every one of these buffers was taken when many were in use, and keeps sixteen times its size from
    /// going back to the system.
    pub(crate) fn let_go(&self) {
        *self.0.borrow_mut() = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_others_are_not_kept() {
        let buffers = Buffers::default();
        let mut used = buffers.take(SIZE);
        used.extend_from_slice(b"somebody's secret");
        let place = used.as_ptr();
        buffers.give(Vec::with_capacity(SIZE * 2));
        buffers.give(used);
        let again = buffers.take(1);
        assert_eq!((again.len(), again.capacity(), again.as_ptr()), (0, SIZE, place));
        assert!(buffers.take(SIZE + 1).capacity() > SIZE);
        (0..KEPT * 2).for_each(|_| buffers.give(Vec::with_capacity(SIZE)));
        assert_eq!(buffers.0.borrow().len(), KEPT);
        buffers.let_go();
        assert_eq!(buffers.0.borrow().capacity(), 0);
    }
}
