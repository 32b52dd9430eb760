//! A bounded ring between threads.
//!
//! Over crossbeam's `ArrayQueue`: any number of producers and consumers, no locks, no allocation after
//! construction. What happens when it is full is the pusher's business, so `push` hands the value back.

use crossbeam_queue::ArrayQueue;

/// See the module's text.
#[derive(Debug)]
pub struct Ring<T>(ArrayQueue<T>);

impl<T> Ring<T> {
    /// Room for `capacity` values, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(ArrayQueue::new(capacity.max(1)))
    }

    /// Puts a value at the end.
    ///
    /// # Errors
    /// The value itself when the ring is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    /// Takes the oldest value.
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_hands_the_value_back_and_loses_nothing() {
        let ring = Ring::new(2);
        assert_eq!((ring.push(1), ring.push(2), ring.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((ring.pop(), ring.pop(), ring.pop()), (Some(1), Some(2), None));
        assert!(ring.is_empty());
    }
}
