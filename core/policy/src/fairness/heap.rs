//! The waiting children of one node, the one with the least key on top.
//!
//! A 4-ary heap whose entries carry their keys, so that a comparison stays within the heap; where a child stands is
//! kept in one dense table for the whole tree. It must never allocate once it has been as full as it gets.

use std::hint::select_unpredictable;

use super::{NodeIx, VirtualTime};

/// Children per entry: a flatter heap touches fewer cache lines on the way down.
const ARITY: usize = 4;
/// A child that stands in no heap.
pub(super) const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) key: VirtualTime,
    /// Among equal keys, who came first.
    pub(super) stamp: u64,
    pub(super) node: NodeIx,
}

impl Entry {
    /// Without a branch: which of two children is less cannot be predicted.
    fn before(&self, other: &Self) -> bool {
        (self.key < other.key) | ((self.key == other.key) & (self.stamp < other.stamp))
    }
}

/// See the module's text. `places` is the tree's table: a child's position in its parent's heap.
///
/// A lone child has no entry, because there is nobody to compare it with: most tenants have one key that waits, and this
/// saves them the entry's memory.
#[derive(Debug)]
pub(super) struct Heap {
    /// The least child, or [`NONE`].
    top: NodeIx,
    /// Empty, or two and more.
    entries: Vec<Entry>,
}

/// The top of an empty heap.
const NONE: NodeIx = NodeIx(u32::MAX);

impl Default for Heap {
    fn default() -> Self {
        Self { top: NONE, entries: Vec::new() }
    }
}

impl Heap {
    pub(super) fn is_empty(&self) -> bool {
        self.top == NONE
    }

    pub(super) fn top(&self) -> Option<NodeIx> {
        (self.top != NONE).then_some(self.top)
    }

    /// The only child. Its key has to be said before another one comes.
    pub(super) fn lone(&self) -> Option<NodeIx> {
        self.top().filter(|_| self.entries.is_empty())
    }

    /// `lone_key` is the key of [`Heap::lone`], if there is one.
    pub(super) fn push(&mut self, entry: Entry, lone_key: VirtualTime, places: &mut [u32]) {
        let Some(lone) = self.lone() else {
            if self.is_empty() {
                self.top = entry.node;
                return set(places, entry.node, 0);
            }
            self.entries.push(entry);
            self.rise(self.entries.len().saturating_sub(1), places);
            return;
        };
        // It came before.
        self.entries.push(Entry { key: lone_key, stamp: entry.stamp.saturating_sub(1), node: lone });
        self.entries.push(entry);
        self.rise(1, places);
    }

    pub(super) fn remove(&mut self, at: u32, places: &mut [u32]) {
        if let Some(lone) = self.lone() {
            self.top = NONE;
            return set(places, lone, NOWHERE);
        }
        let at = at as usize;
        if at >= self.entries.len() {
            return;
        }
        let gone = self.entries.swap_remove(at);
        set(places, gone.node, NOWHERE);
        if at < self.entries.len() {
            self.settle(at, places);
        }
        if self.entries.len() == 1 {
            self.entries.clear();
        }
    }

    /// Gives the child at this position another key.
    pub(super) fn rekey(&mut self, at: u32, key: VirtualTime, places: &mut [u32]) {
        if let Some(entry) = self.entries.get_mut(at as usize).filter(|entry| entry.key != key) {
            entry.key = key;
            self.settle(at as usize, places);
        }
    }

    fn settle(&mut self, at: usize, places: &mut [u32]) {
        let risen = self.rise(at, places);
        if risen == at {
            self.sink(at, places);
        }
    }

    fn rise(&mut self, mut at: usize, places: &mut [u32]) -> usize {
        let Some(entry) = self.entries.get(at).copied() else { return at };
        while at > 0 {
            let above = (at - 1) / ARITY;
            let Some(parent) = self.entries.get(above).copied() else { break };
            if !entry.before(&parent) {
                break;
            }
            self.put(at, parent, places);
            at = above;
        }
        self.put(at, entry, places);
        at
    }

    fn sink(&mut self, mut at: usize, places: &mut [u32]) {
        let Some(entry) = self.entries.get(at).copied() else { return };
        while let Some((below, child)) = self.least_below(at) {
            if !child.before(&entry) {
                break;
            }
            self.put(at, child, places);
            at = below;
        }
        self.put(at, entry, places);
    }

    /// The least of the children of the entry at `at`, and its position.
    fn least_below(&self, at: usize) -> Option<(usize, Entry)> {
        let first = at * ARITY + 1;
        let children = self.entries.get(first..)?;
        let lesser = |a: usize, b: usize| match (children.get(a), children.get(b)) {
            (Some(left), Some(right)) => select_unpredictable(right.before(left), b, a),
            _ => a,
        };
        let least = match children.len() {
            ARITY.. => lesser(lesser(0, 1), lesser(2, 3)),
            some => (1..some).fold(0, lesser),
        };
        Some((first + least, *children.get(least)?))
    }

    fn put(&mut self, at: usize, entry: Entry, places: &mut [u32]) {
        if let Some(place) = self.entries.get_mut(at) {
            *place = entry;
        }
        if at == 0 {
            self.top = entry.node;
        }
        set(places, entry.node, u32::try_from(at).unwrap_or(NOWHERE));
    }
}

fn set(places: &mut [u32], node: NodeIx, at: u32) {
    if let Some(place) = places.get_mut(node.at()) {
        *place = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator, so that the test needs no other crate and repeats.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn the_least_key_is_on_top_whatever_was_done_before() {
        let mut heap = Heap::default();
        let mut places = vec![NOWHERE; 64];
        let mut keys: Vec<Option<(u128, u64)>> = vec![None; 64];
        let mut random = 1;
        for stamp in 0..20_000_u64 {
            // By turns a few and many, so that it is often empty and holds one often.
            let at = (next(&mut random) % if stamp % 400 < 200 { 3 } else { 64 }) as usize;
            let (node, key) = (NodeIx(at as u32), u128::from(next(&mut random) % 50));
            match (keys[at], next(&mut random) % 3) {
                (None, _) => {
                    let lone = heap.lone().and_then(|node| keys[node.at()]).unwrap_or_default();
                    heap.push(Entry { key: VirtualTime(key), stamp, node }, VirtualTime(lone.0), &mut places);
                    keys[at] = Some((key, stamp));
                }
                (Some(_), 0) => {
                    heap.remove(places[at], &mut places);
                    keys[at] = None;
                }
                (Some((_, stamp)), _) => {
                    heap.rekey(places[at], VirtualTime(key), &mut places);
                    keys[at] = Some((key, stamp));
                }
            }
            let least = keys.iter().enumerate().filter_map(|(at, key)| key.map(|key| (key, at))).min();
            assert_eq!(heap.top(), least.map(|(_, at)| NodeIx(at as u32)));
            for (at, key) in keys.iter().enumerate() {
                assert_eq!(places[at] == NOWHERE, key.is_none());
            }
        }
    }
}
