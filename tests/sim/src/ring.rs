//! A ring between two threads, as a model: it keeps the order, delays, and refuses when it is full.
//!
//! It outlives both ends, so it may hold words of the dead. A fault is a word that arrives as another than was sent;
//! what was sent stays known, so that checkers can tell.

use std::collections::VecDeque;

use crate::random::Random;

/// A word under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letter<T> {
    pub(crate) arrives_ns: u64,
    pub(crate) life: u32,
    pub(crate) sent: T,
    /// What comes out; `None` is lost.
    pub(crate) comes: Option<T>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    letters: VecDeque<Letter<T>>,
    capacity: usize,
    delay_ns: u64,
    last_ns: u64,
}

impl<T: Copy> Ring<T> {
    pub(crate) const fn new(capacity: usize, delay_ns: u64) -> Self {
        Self { letters: VecDeque::new(), capacity, delay_ns, last_ns: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.letters.len() >= self.capacity
    }

    /// Says when it arrives. The sender has looked whether there is room.
    pub(crate) fn push(&mut self, now_ns: u64, random: &mut Random, life: u32, words: (T, Option<T>)) -> u64 {
        let (sent, comes) = words;
        let arrives_ns = self.last_ns.max(now_ns + random.between(self.delay_ns / 4, self.delay_ns));
        self.last_ns = arrives_ns;
        self.letters.push_back(Letter { arrives_ns, life, sent, comes });
        arrives_ns
    }

    pub(crate) fn pop(&mut self, now_ns: u64) -> Option<Letter<T>> {
        match self.letters.front() {
            Some(letter) if letter.arrives_ns <= now_ns => self.letters.pop_front(),
            _ => None,
        }
    }

    pub(crate) fn letters(&self) -> impl Iterator<Item = &Letter<T>> {
        self.letters.iter()
    }
}
