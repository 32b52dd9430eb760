//! Endpoints that took no connection a moment ago.
//!
//! While an endpoint sits here it is tried last, so that a dead one does not cost every request the time of a
//! connect. When its time is up, one request tries it again in its place; the others go on passing it by until it is
//! known how that went. Nothing is ever refused because of what is remembered here: a model whose endpoints all sit
//! here is tried as if none did.

use std::{cell::RefCell, time::Duration};

use foldhash::HashMap;
use obleth_policy::{
    id::EndpointId,
    snapshot::{Endpoint, MAX_ENDPOINTS},
    unit::Instant,
};

/// How long an endpoint that took no connection is tried last. Longer, and one that came back idles; shorter, and
/// more requests pay for finding out that it did not.
pub(crate) const BENCH_TIME: Duration = Duration::from_secs(2);

/// Endpoints that are remembered here. Past it, those whose time is up are forgotten.
const MAX_SEATS: usize = 4096;

/// See the module's text. Owned by the shard.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    seats: RefCell<HashMap<EndpointId, Seat>>,
}

#[derive(Debug)]
struct Seat {
    /// An edited endpoint is another one.
    revision: u64,
    until: Instant,
}

/// The endpoints of one model to pass by at first, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Benched(u32);

const _: () = assert!(MAX_ENDPOINTS == u32::BITS as usize);

impl Benched {
    fn contains(self, at: usize) -> bool {
        u32::try_from(at).ok().and_then(|at| self.0.checked_shr(at)).is_some_and(|bits| bits & 1 == 1)
    }

    /// The endpoints in the order in which they are tried: as they are listed, those that sit here behind the others.
    pub(crate) fn order(self, endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
        let of = move |benched| {
            endpoints
                .iter()
                .enumerate()
                .filter(move |(at, _)| self.contains(*at) == benched)
                .map(|(_, endpoint)| endpoint)
        };
        of(false).chain(of(true))
    }
}

impl Bench {
    /// Which of these endpoints to try last now. Whoever asks is the one who tries an endpoint whose time is up.
    pub(crate) fn look(&self, endpoints: &[Endpoint], now: Instant) -> Benched {
        // A single endpoint has nobody to be passed by for.
        if endpoints.len() < 2 || self.seats.borrow().is_empty() {
            return Benched::default();
        }
        let mut seats = self.seats.borrow_mut();
        let mut benched = 0;
        for (bit, endpoint) in (0..u32::BITS).zip(endpoints) {
            let Some(seat) = seats.get_mut(&endpoint.id) else { continue };
            if seat.revision != endpoint.revision {
                continue;
            }
            if seat.until > now {
                benched |= 1_u32.checked_shl(bit).unwrap_or_default();
            } else {
                seat.until = now.plus(BENCH_TIME);
            }
        }
        Benched(benched)
    }

    /// It took no connection.
    pub(crate) fn sit(&self, endpoint: &Endpoint, now: Instant) {
        let mut seats = self.seats.borrow_mut();
        if seats.len() >= MAX_SEATS {
            seats.retain(|_, seat| seat.until > now);
        }
        seats.insert(endpoint.id, Seat { revision: endpoint.revision, until: now.plus(BENCH_TIME) });
    }

    /// It took one, or answered.
    pub(crate) fn rise(&self, endpoint: &Endpoint) {
        if !self.seats.borrow().is_empty() {
            self.seats.borrow_mut().remove(&endpoint.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;

    fn endpoint(id: u128) -> Endpoint {
        Endpoint {
            id: EndpointId(Uuid::from_u128(id)),
            revision: 1,
            tls: None,
            authority: "".into(),
            base_path: "".into(),
            addresses: Arc::new([]),
            credential: None,
        }
    }

    fn order(bench: &Bench, endpoints: &[Endpoint], now: Instant) -> Vec<u128> {
        bench.look(endpoints, now).order(endpoints).map(|endpoint| endpoint.id.0.as_u128()).collect()
    }

    #[test]
    fn an_endpoint_that_took_no_connection_is_tried_last_for_a_while_and_then_by_one_request_at_a_time() {
        let bench = Bench::default();
        let endpoints = [endpoint(1), endpoint(2), endpoint(3)];
        let start = Instant(0);
        assert_eq!(order(&bench, &endpoints, start), [1, 2, 3]);
        bench.sit(&endpoints[0], start);
        assert_eq!(order(&bench, &endpoints, start), [2, 3, 1]);
        let later = start.plus(BENCH_TIME);
        assert_eq!(order(&bench, &endpoints, later), [1, 2, 3], "one tries");
        assert_eq!(order(&bench, &endpoints, later), [2, 3, 1], "the others wait for what comes of it");
        bench.rise(&endpoints[0]);
        assert_eq!(order(&bench, &endpoints, later), [1, 2, 3]);
    }

    #[test]
    fn when_all_sit_or_there_is_only_one_the_order_is_the_listed_one() {
        let bench = Bench::default();
        let endpoints = [endpoint(1), endpoint(2)];
        endpoints.iter().for_each(|endpoint| bench.sit(endpoint, Instant(0)));
        assert_eq!(order(&bench, &endpoints, Instant(0)), [1, 2]);
        assert_eq!(order(&bench, &endpoints[1..], Instant(0)), [2]);
    }

    #[test]
    fn an_edited_endpoint_has_no_past_and_a_deleted_one_is_forgotten() {
        let bench = Bench::default();
        let [first, second] = [endpoint(1), endpoint(2)];
        bench.sit(&first, Instant(0));
        let edited = Endpoint { revision: 2, ..first };
        assert_eq!(order(&bench, &[edited, second.clone()], Instant(0)), [1, 2]);
        for id in 10..10 + MAX_SEATS as u128 {
            bench.sit(&endpoint(id), Instant(0));
        }
        bench.sit(&second, Instant(0).plus(BENCH_TIME));
        assert_eq!(bench.seats.borrow().len(), 1);
    }
}
