//! The keys that one core knows, so that a request asks nobody.
//!
//! Bounded; the sidecar is asked once per digest however many requests wait for it; "no such key" is remembered
//! for a second and in a table of its own, so that random keys cannot push out real ones. A key is confirmed
//! again before it is too old, in the background while it is in use. If no store can answer, a key that was
//! ever seen goes on working for a while; an unknown one is told that nobody knows.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use foldhash::HashMap;
use obleth_link::{Event, ShardEnd};
use obleth_policy::{
    key::{KeyAnswer, KeyDigest, KeyRecord},
    unit::Instant,
};

use crate::Settings;

/// How long "no such key" is believed.
const NEGATIVE_AGE: Duration = Duration::from_secs(1);
/// How many "no such key" are remembered. More random keys than this per second ask the store again.
const NEGATIVE_ENTRIES: usize = 4096;
/// Look-ups under way at the same time. Above it, a new key is answered as if no store could be reached.
const MAX_FLIGHTS: usize = 2048;
/// Pause between two tries to confirm a key while no store answers.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What the cache can say about a digest right now.
#[derive(Debug)]
pub(crate) enum Found {
    /// Here it is.
    Key(Rc<KeyRecord>),
    /// A store said within the last second that there is no such key.
    NoSuchKey,
    /// The sidecar has been asked; wait for the flight.
    Asked(Rc<Flight>),
    /// There is no room to ask.
    CannotAsk,
}

/// One look-up under way, shared by all requests that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    answer: RefCell<Option<KeyAnswer>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Flight {
    /// The answer once it is there; else the waker is kept.
    pub(crate) fn poll(&self, waker: &Waker) -> Option<KeyAnswer> {
        let answer = self.answer.borrow().clone();
        if answer.is_none() {
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|known| known.will_wake(waker)) {
                waiting.push(waker.clone());
            }
        }
        answer
    }
}

impl Flight {
    fn land(&self, answer: KeyAnswer) {
        *self.answer.borrow_mut() = Some(answer);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct Entry {
    /// This core's own copy: the sidecar's has a count that all cores write.
    record: Rc<KeyRecord>,
    /// When a store last said so.
    confirmed: Instant,
    /// It may have been edited since.
    doubted: Cell<bool>,
    /// Not asked again before this.
    ask_after: Cell<Instant>,
    /// Used since the hand last came by.
    used: Cell<bool>,
}

/// See the module's text. Owned by the shard.
#[derive(Debug)]
pub(crate) struct KeyCache {
    capacity: usize,
    max_age: Duration,
    stale_ok: Duration,
    known: RefCell<HashMap<KeyDigest, Entry>>,
    /// The clock's hand goes round these.
    order: RefCell<VecDeque<KeyDigest>>,
    unknown: RefCell<HashMap<KeyDigest, Instant>>,
    unknown_order: RefCell<VecDeque<KeyDigest>>,
    flights: RefCell<HashMap<KeyDigest, Rc<Flight>>>,
}

impl KeyCache {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            capacity: settings.key_cache_entries.max(1),
            max_age: settings.key_max_age,
            stale_ok: if settings.fail_open { settings.key_stale_ok } else { Duration::ZERO },
            known: RefCell::default(),
            order: RefCell::default(),
            unknown: RefCell::default(),
            unknown_order: RefCell::default(),
            flights: RefCell::default(),
        }
    }

    /// Looks a digest up; asks the sidecar where that is needed.
    pub(crate) fn find(&self, digest: KeyDigest, now: Instant, end: &ShardEnd) -> Found {
        let gauges = end.gauges();
        if let Some(entry) = self.known.borrow().get(&digest) {
            entry.used.set(true);
            let age = now.since(entry.confirmed);
            let doubtful = age > self.max_age || entry.doubted.get();
            // Half way to too old, somebody who uses it has it confirmed while going on with what there is.
            if (doubtful || age > self.max_age.div_f32(2.0)) && now >= entry.ask_after.get() {
                entry.ask_after.set(now.plus(RETRY_PAUSE));
                let flight = self.ask(digest, end);
                if doubtful {
                    gauges.key_misses.add(1);
                    return flight.map_or(Found::CannotAsk, Found::Asked);
                }
            } else if doubtful {
                if let Some(flight) = self.flights.borrow().get(&digest) {
                    gauges.key_misses.add(1);
                    return Found::Asked(Rc::clone(flight));
                }
                // No store answered a moment ago; until it is time to ask again, that still stands.
                if age >= self.stale_ok.max(self.max_age) {
                    return Found::CannotAsk;
                }
            }
            gauges.key_hits.add(1);
            return Found::Key(Rc::clone(&entry.record));
        }
        if self.unknown.borrow().get(&digest).is_some_and(|until| now < *until) {
            gauges.key_hits.add(1);
            return Found::NoSuchKey;
        }
        gauges.key_misses.add(1);
        self.ask(digest, end).map_or(Found::CannotAsk, Found::Asked)
    }

    fn ask(&self, digest: KeyDigest, end: &ShardEnd) -> Option<Rc<Flight>> {
        let mut flights = self.flights.borrow_mut();
        if let Some(flight) = flights.get(&digest) {
            return Some(Rc::clone(flight));
        }
        if flights.len() >= MAX_FLIGHTS || end.tell(Event::KeyLookup(digest)).is_err() {
            return None;
        }
        let flight = Rc::new(Flight::default());
        flights.insert(digest, Rc::clone(&flight));
        Some(flight)
    }

    /// What may still be used of a key that cannot be confirmed.
    pub(crate) fn stale(&self, digest: &KeyDigest, now: Instant) -> Option<Rc<KeyRecord>> {
        let known = self.known.borrow();
        let entry = known.get(digest)?;
        let usable = self.stale_ok.max(self.max_age);
        (now.since(entry.confirmed) < usable).then(|| Rc::clone(&entry.record))
    }

    /// The sidecar has answered.
    pub(crate) fn answered(&self, digest: KeyDigest, answer: KeyAnswer, now: Instant) {
        match &answer {
            KeyAnswer::Found(record) => self.remember(digest, record, now, now),
            KeyAnswer::Unconfirmed(record, age) => {
                self.remember(digest, record, now.minus(*age), now.plus(RETRY_PAUSE));
            }
            KeyAnswer::Unknown => {
                self.known.borrow_mut().remove(&digest);
                self.remember_unknown(digest, now.plus(NEGATIVE_AGE));
            }
            KeyAnswer::StoreDown => {}
        }
        let flight = self.flights.borrow_mut().remove(&digest);
        if let Some(flight) = flight {
            flight.land(answer);
        }
    }

    /// What is known of this key is no longer true.
    pub(crate) fn forget(&self, digest: &KeyDigest) {
        self.known.borrow_mut().remove(digest);
        self.unknown.borrow_mut().remove(digest);
    }

    /// Nothing that is known is sure any more. Keys are confirmed before they are used again, but kept: if no
    /// store can answer just now, they are all there is.
    pub(crate) fn doubt_all(&self) {
        self.known.borrow().values().for_each(|entry| entry.doubted.set(true));
        self.unknown.borrow_mut().clear();
        self.unknown_order.borrow_mut().clear();
    }

    fn remember(&self, digest: KeyDigest, record: &KeyRecord, confirmed: Instant, ask_after: Instant) {
        self.unknown.borrow_mut().remove(&digest);
        let entry = Entry {
            record: Rc::new(record.clone()),
            confirmed,
            doubted: Cell::new(false),
            ask_after: Cell::new(ask_after),
            used: Cell::new(false),
        };
        let mut known = self.known.borrow_mut();
        let mut order = self.order.borrow_mut();
        if known.insert(digest, entry).is_none() {
            order.push_back(digest);
        }
        // Second chance: the hand passes over what was used since it last came by.
        while known.len() > self.capacity {
            let Some(candidate) = order.pop_front() else { return };
            match known.get(&candidate) {
                Some(entry) if entry.used.replace(false) => order.push_back(candidate),
                Some(_) => {
                    known.remove(&candidate);
                }
                None => {}
            }
        }
        // Forgotten keys leave their place in the order behind.
        if order.len() > self.capacity.saturating_mul(2) {
            order.retain(|digest| known.contains_key(digest));
        }
    }

    fn remember_unknown(&self, digest: KeyDigest, until: Instant) {
        let mut unknown = self.unknown.borrow_mut();
        let mut order = self.unknown_order.borrow_mut();
        if unknown.insert(digest, until).is_none() {
            order.push_back(digest);
        }
        while order.len() > NEGATIVE_ENTRIES {
            if let Some(oldest) = order.pop_front() {
                unknown.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use obleth_link::{BufferBudget, SidecarEnd, links};
    use obleth_policy::id::{KeyId, TenantId};
    use uuid::Uuid;

    use super::*;

    const SEC: u64 = 1_000_000_000;

    fn settings(entries: usize, fail_open: bool) -> Settings {
        Settings {
            client: crate::ClientLimits::default(),
            key_cache_entries: entries,
            key_max_age: Duration::from_secs(10),
            key_stale_ok: Duration::from_secs(1000),
            fail_open,
            pepper: None,
            max_request_bytes: 0,
            admission_timeout: Duration::ZERO,
            brownout: crate::BrownoutLimits { wait: Duration::ZERO, max_tokens: 1 },
            upstream_keepalive: Duration::ZERO,
            upstream_tls: crate::UpstreamTls::of_system(),
            drain_timeout: Duration::ZERO,
            trusted_proxies: Arc::new([]),
            force_epoll: false,
            give_back: || (),
        }
    }

    fn setup(entries: usize, fail_open: bool) -> (KeyCache, SidecarEnd, ShardEnd) {
        let (sidecar, mut shards) = links(1, BufferBudget::new(0)).unwrap();
        (KeyCache::new(&settings(entries, fail_open)), sidecar, shards.remove(0))
    }

    fn digest(n: u32) -> KeyDigest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        KeyDigest(bytes)
    }

    fn found() -> KeyAnswer {
        let record = KeyRecord::unlimited(KeyId(Uuid::nil()), TenantId(Uuid::nil()));
        KeyAnswer::Found(Arc::new(record))
    }

    fn asked(sidecar: &SidecarEnd) -> usize {
        std::iter::from_fn(|| sidecar.take(0)).count()
    }

    #[test]
    fn however_many_wait_for_a_key_the_sidecar_is_asked_once() {
        let (cache, sidecar, end) = setup(10, true);
        for _ in 0..5 {
            assert!(matches!(cache.find(digest(1), Instant(0), &end), Found::Asked(_)));
        }
        assert_eq!(asked(&sidecar), 1);
        cache.answered(digest(1), found(), Instant(0));
        assert!(matches!(cache.find(digest(1), Instant(1), &end), Found::Key(_)));
        assert_eq!(asked(&sidecar), 0);
    }

    #[test]
    fn no_such_key_is_believed_for_a_second_and_takes_no_room_from_real_keys() {
        let (cache, sidecar, end) = setup(2, true);
        cache.answered(digest(0), found(), Instant(0));
        for n in 1..20_000 {
            cache.answered(digest(n), KeyAnswer::Unknown, Instant(0));
        }
        assert!(cache.unknown.borrow().len() <= NEGATIVE_ENTRIES);
        assert!(matches!(cache.find(digest(0), Instant(1), &end), Found::Key(_)));
        assert!(matches!(cache.find(digest(19_999), Instant(SEC - 1), &end), Found::NoSuchKey));
        assert!(matches!(cache.find(digest(19_999), Instant(SEC), &end), Found::Asked(_)));
        assert_eq!(asked(&sidecar), 1);
    }

    #[test]
    fn a_full_cache_keeps_the_keys_that_are_in_use() {
        let (cache, _sidecar, end) = setup(100, true);
        for n in 0..10_000 {
            cache.answered(digest(n), found(), Instant(0));
            assert!(matches!(cache.find(digest(0), Instant(1), &end), Found::Key(_)), "lost after {n}");
        }
        assert!(cache.known.borrow().len() <= 100);
        assert!(cache.order.borrow().len() <= 200);
    }

    #[test]
    fn an_ageing_key_is_confirmed_in_the_background_and_an_old_one_before_use() {
        let (cache, sidecar, end) = setup(10, true);
        cache.answered(digest(1), found(), Instant(0));
        assert!(matches!(cache.find(digest(1), Instant(6 * SEC), &end), Found::Key(_)));
        assert_eq!(asked(&sidecar), 1);
        assert!(matches!(cache.find(digest(1), Instant(11 * SEC), &end), Found::Asked(_)));
        assert_eq!(asked(&sidecar), 0, "the look-up of before is still under way");
        cache.answered(digest(1), KeyAnswer::Unknown, Instant(11 * SEC));
        assert!(matches!(cache.find(digest(1), Instant(11 * SEC), &end), Found::NoSuchKey));
    }

    #[test]
    fn without_a_store_a_known_key_goes_on_for_a_while_unless_told_otherwise() {
        let (open, _, _) = setup(10, true);
        open.answered(digest(1), found(), Instant(0));
        assert!(open.stale(&digest(1), Instant(999 * SEC)).is_some());
        assert!(open.stale(&digest(1), Instant(1000 * SEC)).is_none());
        let (closed, _, _) = setup(10, false);
        closed.answered(digest(1), found(), Instant(0));
        assert!(closed.stale(&digest(1), Instant(11 * SEC)).is_none());
    }

    #[test]
    fn a_lookup_that_nobody_answers_does_not_lock_the_key_out() {
        let (cache, sidecar, end) = setup(10, true);
        for _ in 0..2 {
            let Found::Asked(flight) = cache.find(digest(1), Instant(0), &end) else { panic!("not asked") };
            assert!(flight.poll(Waker::noop()).is_none());
            // Whoever waited in vain says so.
            cache.answered(digest(1), KeyAnswer::StoreDown, Instant(0));
            assert_eq!(flight.poll(Waker::noop()), Some(KeyAnswer::StoreDown));
            assert_eq!(asked(&sidecar), 1);
        }
    }

    #[test]
    fn when_any_key_may_have_changed_each_is_confirmed_before_use_and_kept_for_an_outage() {
        let (cache, sidecar, end) = setup(10, true);
        cache.answered(digest(1), found(), Instant(0));
        cache.doubt_all();
        assert!(matches!(cache.find(digest(1), Instant(1), &end), Found::Asked(_)));
        assert_eq!(asked(&sidecar), 1);
        cache.answered(digest(1), KeyAnswer::StoreDown, Instant(1));
        assert!(cache.stale(&digest(1), Instant(1)).is_some());
        assert!(matches!(cache.find(digest(1), Instant(2), &end), Found::Key(_)), "asked a moment ago");
        cache.answered(digest(1), found(), Instant(3));
        assert!(matches!(cache.find(digest(1), Instant(4), &end), Found::Key(_)));
        assert_eq!(asked(&sidecar), 0);
    }

    #[test]
    fn a_key_that_only_the_sidecar_remembers_is_as_old_as_it_says() {
        let (cache, sidecar, end) = setup(10, true);
        let KeyAnswer::Found(record) = found() else { panic!("found") };
        let now = Instant(2000 * SEC);
        let answer = |age| KeyAnswer::Unconfirmed(Arc::clone(&record), Duration::from_secs(age));
        cache.answered(digest(1), answer(999), now);
        assert!(cache.stale(&digest(1), now).is_some());
        cache.answered(digest(1), answer(1000), now);
        assert!(cache.stale(&digest(1), now).is_none());
        assert!(matches!(cache.find(digest(1), now, &end), Found::CannotAsk));
        assert_eq!(asked(&sidecar), 0, "asked again within the pause");
    }

    #[test]
    fn an_edited_key_is_asked_for_again_also_if_it_was_unknown() {
        let (cache, _sidecar, end) = setup(10, true);
        cache.answered(digest(1), found(), Instant(0));
        cache.answered(digest(2), KeyAnswer::Unknown, Instant(0));
        cache.forget(&digest(1));
        cache.forget(&digest(2));
        for n in [1, 2] {
            assert!(matches!(cache.find(digest(n), Instant(1), &end), Found::Asked(_)));
        }
    }
}
