//! What the coordinator is told, and what it reports: orders that a full ring refused are kept and merged.
//!
//! Of shares only the newest count, of a key's shapes only the last. One look is under way at a time, however many ask
//! for one, because the coordinator walks all its books for it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use obleth_link::{Order, Report, SidecarEnd};
use obleth_policy::{
    coordinator::{LivePool, Shares},
    id::{KeyId, TenantIx},
    protocol::KeyShape,
};

/// Edited keys that are kept. One more is dropped: its shape arrives with its next request.
const KEPT_KEYS: usize = 4096;
/// After this long a look counts as lost: the coordinator may have died over it.
const LOST: Duration = Duration::from_secs(1);

/// How everybody stands.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Which life of the coordinator reports. 0 is one that began before this sidecar.
    pub(crate) life: u64,
    pub(crate) pools: Arc<[LivePool]>,
}

/// See the module's text. Owned by the pump.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    shares: Option<Arc<Shares>>,
    keys: BTreeMap<(TenantIx, KeyId), KeyShape>,
    look: bool,
    life: u64,
    latest: Option<Look>,
    /// Looks that were asked for, and how many of them are answered.
    wanted: u64,
    answered: u64,
    /// The look under way: the number of the last wish that it fulfils, and since when.
    under_way: Option<(u64, Instant)>,
}

impl Orders {
    pub(crate) fn is_empty(&self) -> bool {
        self.shares.is_none() && self.keys.is_empty() && !self.look
    }

    /// Gives an order, or keeps it; never overtakes what is kept. Returns whether it went out.
    pub(crate) fn give(&mut self, end: &SidecarEnd, order: Order) -> bool {
        let refused = if self.is_empty() { end.order(order) } else { Err(order) };
        refused.map_err(|order| self.keep(order)).is_ok()
    }

    fn keep(&mut self, order: Order) {
        match order {
            Order::Shares(shares) => self.shares = Some(shares),
            Order::Key { tenant, key, shape } => {
                if self.keys.len() < KEPT_KEYS || self.keys.contains_key(&(tenant, key)) {
                    self.keys.insert((tenant, key), shape);
                }
            }
            Order::Look => self.look = true,
            Order::Limits(_) | Order::Limit(_) | Order::Correct(_) | Order::LookAtLimits => {}
            // The main thread's to give, not the sidecar's.
            Order::Died(_) | Order::Stop => {}
        }
    }

    /// Shares first, so that a key finds its tenant.
    fn take(&mut self) -> Option<Order> {
        if let Some(shares) = self.shares.take() {
            return Some(Order::Shares(shares));
        }
        if let Some(((tenant, key), shape)) = self.keys.pop_first() {
            return Some(Order::Key { tenant, key, shape });
        }
        std::mem::take(&mut self.look).then_some(Order::Look)
    }

    /// Gives what was kept. Returns whether nothing is left.
    pub(crate) fn flush(&mut self, end: &SidecarEnd) -> bool {
        while let Some(order) = self.take() {
            if let Err(refused) = end.order(order) {
                self.keep(refused);
                return false;
            }
        }
        true
    }

    /// Asks for a look. Returns the number of the wish, and whether the order went out or need not.
    pub(crate) fn want_look(&mut self, end: &SidecarEnd) -> (u64, bool) {
        self.wanted += 1;
        (self.wanted, self.send_look(end))
    }

    /// Answers the wish of this number, if it is answered.
    pub(crate) fn answer_to(&self, wish: u64) -> Option<Look> {
        self.latest.clone().filter(|_| self.answered >= wish)
    }

    fn send_look(&mut self, end: &SidecarEnd) -> bool {
        if self.under_way.is_some_and(|(_, since)| since.elapsed() < LOST) {
            return true;
        }
        self.under_way = Some((self.wanted, Instant::now()));
        self.give(end, Order::Look)
    }

    /// Takes a report in. A coordinator that starts has no books: it is sent `shares`; keys come with their requests.
    /// Returns whether everything that follows went out.
    pub(crate) fn take_report(
        &mut self,
        end: &SidecarEnd,
        report: Report,
        shares: Option<Arc<Shares>>,
    ) -> bool {
        match report {
            Report::Started => {
                self.life += 1;
                self.keys.clear();
                shares.is_none_or(|shares| self.give(end, Order::Shares(shares)))
            }
            Report::Limits(_) | Report::Exhausted(..) => true,
            Report::Live(pools) => {
                let upto = self.under_way.take().map_or(0, |(upto, _)| upto);
                self.answered = self.answered.max(upto);
                self.latest = Some(Look { life: self.life, pools: pools.into() });
                // Wishes that came after the look had been ordered need one that is not older than they are.
                self.answered == self.wanted || self.send_look(end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use obleth_link::{BufferBudget, CoordinatorEnd, links};
    use uuid::Uuid;

    use super::*;

    fn desk() -> (Orders, SidecarEnd, CoordinatorEnd) {
        let (end, _) = links(1, BufferBudget::new(0)).unwrap();
        let coordinator = end.coordinator();
        (Orders::default(), end, coordinator)
    }

    fn shares(ceiling: u32) -> Order {
        Order::Shares(Arc::new(Shares { ceiling, ..Shares::default() }))
    }

    fn key(n: u128, weight: u32) -> Order {
        let shape = KeyShape { weight, max_in_flight: None };
        Order::Key { tenant: TenantIx(0), key: KeyId(Uuid::from_u128(n)), shape }
    }

    #[test]
    fn what_a_full_ring_refuses_is_merged_and_given_later_in_its_order() {
        let (mut orders, end, coordinator) = desk();
        let mut fit = 0;
        while orders.give(&end, key(0, 1)) {
            fit += 1;
        }
        for order in [key(1, 5), shares(1), key(2, 6), key(1, 7), shares(2)] {
            assert!(!orders.give(&end, order));
        }
        assert!(!orders.flush(&end), "the ring is still full");
        assert_eq!(std::iter::from_fn(|| coordinator.take_order()).count(), fit);
        assert!(orders.flush(&end) && orders.is_empty());
        assert!(matches!(coordinator.take_order(), Some(Order::Shares(shares)) if shares.ceiling == 2));
        let weights: Vec<u32> = std::iter::from_fn(|| coordinator.take_order())
            .map(|order| match order {
                Order::Key { shape, .. } => shape.weight,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(weights, [1, 7, 6]);
    }

    #[test]
    fn keys_that_are_kept_are_bounded() {
        let (mut orders, end, coordinator) = desk();
        while orders.give(&end, Order::Look) {}
        for n in 0..2 * KEPT_KEYS as u128 {
            orders.give(&end, key(n, 1));
        }
        orders.give(&end, key(0, 9));
        while coordinator.take_order().is_some() {}
        let mut kept = Vec::new();
        while !orders.flush(&end) {
            kept.extend(std::iter::from_fn(|| coordinator.take_order()));
        }
        kept.extend(std::iter::from_fn(|| coordinator.take_order()));
        assert_eq!(kept.len(), KEPT_KEYS + 1, "the keys, and the look");
        assert!(
            matches!(kept[0], Order::Key { shape, .. } if shape.weight == 9),
            "the last shape of a kept key"
        );
    }

    #[test]
    fn a_wish_is_answered_by_a_look_that_was_ordered_after_it() {
        let (mut orders, end, coordinator) = desk();
        let live = || Report::Live(Vec::new());
        let (first, _) = orders.want_look(&end);
        let (second, _) = orders.want_look(&end);
        let (third, _) = orders.want_look(&end);
        let given = || std::iter::from_fn(|| coordinator.take_order()).count();
        assert_eq!(given(), 1);
        orders.take_report(&end, live(), None);
        assert!(orders.answer_to(first).is_some() && orders.answer_to(second).is_none());
        assert_eq!(given(), 1, "one more for the others");
        orders.take_report(&end, live(), None);
        assert!(orders.answer_to(second).is_some() && orders.answer_to(third).is_some());
        assert_eq!(given(), 0);
    }

    #[test]
    fn a_coordinator_that_starts_gets_the_shares_and_nothing_else() {
        let (mut orders, end, coordinator) = desk();
        while orders.give(&end, key(0, 1)) {}
        orders.give(&end, key(1, 5));
        while coordinator.take_order().is_some() {}
        let current = Arc::new(Shares { ceiling: 9, ..Shares::default() });
        orders.take_report(&end, Report::Started, Some(current));
        orders.flush(&end);
        assert!(matches!(coordinator.take_order(), Some(Order::Shares(shares)) if shares.ceiling == 9));
        assert!(coordinator.take_order().is_none());
        orders.take_report(&end, Report::Live(Vec::new()), None);
        assert_eq!(orders.latest.unwrap().life, 1);
    }
}
