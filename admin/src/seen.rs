//! Keys that some core has asked for: what is answered while the store is down.
//!
//! Bounded; the key that came in first goes first. Every edit of a key is written through, so that an outage
//! cannot bring a revoked key back.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use obleth_policy::key::{KeyDigest, KeyRecord};

/// A key, and when the store last vouched for it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) record: Arc<KeyRecord>,
    pub(crate) at: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct SeenKeys {
    limit: usize,
    records: HashMap<KeyDigest, Seen>,
    /// Each digest of `records` once, in order of arrival, and some that have gone since.
    order: VecDeque<KeyDigest>,
}

impl SeenKeys {
    /// Room for `limit` keys.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), records: HashMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn get(&self, digest: &KeyDigest) -> Option<&Seen> {
        self.records.get(digest)
    }

    /// The store has it.
    pub(crate) fn put(&mut self, digest: KeyDigest, record: Arc<KeyRecord>) {
        if self.records.insert(digest, Seen { record, at: Instant::now() }).is_some() {
            return;
        }
        self.order.push_back(digest);
        while self.records.len() > self.limit {
            let Some(oldest) = self.order.pop_front() else { return };
            self.records.remove(&oldest);
        }
    }

    /// It was edited: matters only if it is kept here.
    pub(crate) fn edited(&mut self, digest: KeyDigest, record: Arc<KeyRecord>) {
        self.records.entry(digest).and_modify(|known| *known = Seen { record, at: Instant::now() });
    }

    /// The store does not have it.
    pub(crate) fn remove(&mut self, digest: &KeyDigest) {
        if self.records.remove(digest).is_some() {
            self.order.retain(|known| known != digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use obleth_policy::id::{KeyId, TenantId};
    use uuid::Uuid;

    use super::*;

    fn record(disabled: bool) -> Arc<KeyRecord> {
        let unlimited = KeyRecord::unlimited(KeyId(Uuid::nil()), TenantId(Uuid::nil()));
        Arc::new(KeyRecord { disabled, ..unlimited })
    }

    #[test]
    fn it_never_holds_more_than_its_limit_and_drops_the_oldest() {
        let mut seen = SeenKeys::new(2);
        let digest = |n| KeyDigest([n; 32]);
        for n in [1, 2, 1, 3] {
            seen.put(digest(n), record(false));
        }
        assert!(seen.get(&digest(1)).is_none());
        assert!(seen.get(&digest(2)).is_some() && seen.get(&digest(3)).is_some());
        seen.remove(&digest(2));
        seen.put(digest(4), record(false));
        assert!(seen.get(&digest(3)).is_some() && seen.get(&digest(4)).is_some());
        assert_eq!((seen.records.len(), seen.order.len()), (2, 2));
    }

    #[test]
    fn an_edit_is_seen_by_what_is_kept_and_brings_nothing_in() {
        let mut seen = SeenKeys::new(2);
        let (known, unknown) = (KeyDigest([1; 32]), KeyDigest([2; 32]));
        seen.put(known, record(false));
        seen.edited(known, record(true));
        seen.edited(unknown, record(true));
        assert!(seen.get(&known).unwrap().record.disabled);
        assert!(seen.get(&unknown).is_none());
    }
}
