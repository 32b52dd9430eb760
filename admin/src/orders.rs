//! What the coordinator is told, and what it reports: orders that a full ring refused are kept and merged.
//!
//! Of shares only the newest count, of a key's shapes and of a scope's limits only the last; corrections of one budget
//! add up. Nothing that concerns limits is ever dropped for want of room.

use std::{collections::BTreeMap, sync::Arc};

use obleth_link::{Order, Report, SidecarEnd};
use obleth_policy::{
    coordinator::{LivePool, Shares},
    id::{KeyId, TenantIx},
    limit::{Correction, Definition, LimitBook, Meter, Scope, Standing},
    protocol::KeyShape,
};

use crate::looks::Looks;

/// Edited keys that are kept. One more is dropped: its shape arrives with its next request.
const KEPT_KEYS: usize = 4096;

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
    book: Option<Arc<LimitBook>>,
    limits: BTreeMap<Scope, Definition>,
    corrections: BTreeMap<Meter, Correction>,
    keys: BTreeMap<(TenantIx, KeyId), KeyShape>,
    look: bool,
    look_at_limits: bool,
    life: u64,
    /// Of how everybody stands.
    pub(crate) live: Looks<Look>,
    /// Of how limits do.
    pub(crate) standings: Looks<Arc<[Standing]>>,
}

impl Orders {
    pub(crate) fn is_empty(&self) -> bool {
        self.shares.is_none()
            && self.book.is_none()
            && self.limits.is_empty()
            && self.corrections.is_empty()
            && self.keys.is_empty()
            && !self.look
            && !self.look_at_limits
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
            Order::Limits(book) => {
                // It holds all limits as they are now, and what was used as it was found.
                self.limits.clear();
                self.corrections.clear();
                self.book = Some(book);
            }
            Order::Limit(definition) => drop(self.limits.insert(definition.scope, definition)),
            Order::Correct(correction) => self.keep_correction(correction),
            Order::LookAtLimits => self.look_at_limits = true,
            // The main thread's to give, not the sidecar's.
            Order::Died(_) | Order::Stop => {}
        }
    }

    /// A correction of another period than one that is kept takes its place if it is of a later one; else it is void.
    fn keep_correction(&mut self, correction: Correction) {
        let kept = self.corrections.entry(correction.meter).or_insert(Correction { by: 0, ..correction });
        if correction.since > kept.since {
            *kept = correction;
        } else if correction.since == kept.since {
            kept.by = kept.by.saturating_add(correction.by);
        }
    }

    /// Shares first, so that a key finds its tenant; definitions before corrections of what they define.
    fn take(&mut self) -> Option<Order> {
        if let Some(shares) = self.shares.take() {
            return Some(Order::Shares(shares));
        }
        if let Some(book) = self.book.take() {
            return Some(Order::Limits(book));
        }
        if let Some((_, definition)) = self.limits.pop_first() {
            return Some(Order::Limit(definition));
        }
        if let Some((_, correction)) = self.corrections.pop_first() {
            return Some(Order::Correct(correction));
        }
        if let Some(((tenant, key), shape)) = self.keys.pop_first() {
            return Some(Order::Key { tenant, key, shape });
        }
        if std::mem::take(&mut self.look) {
            return Some(Order::Look);
        }
        std::mem::take(&mut self.look_at_limits).then_some(Order::LookAtLimits)
    }

    /// Gives what was kept. Returns whether nothing is left.
    pub(crate) fn flush(&mut self, end: &SidecarEnd) -> bool {
        while let Some(order) = self.take() {
            if let Err(refused) = end.order(order) {
                self.keep_again(refused);
                return false;
            }
        }
        true
    }

    /// Keeps what was kept before and the ring refused once more: it is older than all else that is kept.
    fn keep_again(&mut self, refused: Order) {
        match refused {
            Order::Limits(book) => self.book = Some(book),
            other => self.keep(other),
        }
    }

    /// Lives of the coordinator that have begun in the sidecar's own.
    pub(crate) fn lives(&self) -> u64 {
        self.life
    }

    /// Takes a report in. A coordinator that starts has no books: it is sent `shares`; keys come with their requests, and
    /// what was kept about limits is in the book that it is owed. Returns whether everything that follows went out.
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
                (self.book, self.limits, self.corrections) = Default::default();
                shares.is_none_or(|shares| self.give(end, Order::Shares(shares)))
            }
            Report::Live(pools) => {
                let look = Look { life: self.life, pools: pools.into() };
                self.live.arrived(look);
                true
            }
            Report::Limits(standings) => {
                self.standings.arrived(standings.into());
                true
            }
            // The pump's to pass on.
            Report::Exhausted(..) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use obleth_link::{BufferBudget, CoordinatorEnd, links};
    use obleth_policy::{
        limit::{Limits, Measure, Turn},
        unit::UnixMs,
    };
    use uuid::Uuid;

    use super::*;
    use crate::looks::Next;

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

    fn scope(n: u128) -> Scope {
        Scope::Key(KeyId(Uuid::from_u128(n)))
    }

    fn limit(n: u128, tokens: u64) -> Order {
        Order::Limit(definition(n, tokens))
    }

    fn definition(n: u128, tokens: u64) -> Definition {
        let limits = Limits::NONE.with(Measure::DailyTokens, Some(tokens));
        Definition { scope: scope(n), limits, day: Turn::FOREVER, month: Turn::FOREVER }
    }

    fn correction(n: u128, since: i64, by: i64) -> Order {
        let meter = Meter { scope: scope(n), measure: Measure::DailyTokens };
        Order::Correct(Correction { meter, since: UnixMs(since), by })
    }

    fn book(tokens: u64) -> Order {
        let definitions = vec![definition(1, tokens)];
        Order::Limits(Arc::new(LimitBook { definitions, spent: Vec::new() }))
    }

    /// What an order says about limits, in short.
    fn said(order: &Order) -> String {
        match order {
            Order::Limits(book) => format!("book {:?}", book.definitions[0].limits.get(Measure::DailyTokens)),
            Order::Limit(definition) => format!("limit {:?}", definition.limits.get(Measure::DailyTokens)),
            Order::Correct(correction) => format!("correct {} {}", correction.since.0, correction.by),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn limits_that_a_full_ring_refuses_are_merged_by_scope_and_corrections_add_up() {
        let (mut orders, end, coordinator) = desk();
        while orders.give(&end, Order::LookAtLimits) {}
        let words = [limit(1, 5), correction(1, 10, 3), book(6), limit(2, 7), limit(1, 8), limit(2, 9)];
        let corrections = [(10, 4), (10, -1), (9, 50)].map(|(since, by)| correction(1, since, by));
        let later = [correction(2, 10, 1), correction(2, 20, 2)];
        for order in words.into_iter().chain(corrections).chain(later) {
            assert!(!orders.give(&end, order));
        }
        while coordinator.take_order().is_some() {}
        assert!(orders.flush(&end) && orders.is_empty());
        let given: Vec<String> = std::iter::from_fn(|| coordinator.take_order()).map(|o| said(&o)).collect();
        let expected = [
            "book Some(6)",
            "limit Some(8)",
            "limit Some(9)",
            "correct 10 3",
            "correct 20 2",
            "LookAtLimits",
        ];
        assert_eq!(given, expected);
    }

    #[test]
    fn limits_that_are_kept_are_all_given_however_many_there_are() {
        let (mut orders, end, coordinator) = desk();
        for n in 0..10_000 {
            orders.give(&end, limit(n, 1));
        }
        let mut scopes = std::collections::BTreeSet::new();
        loop {
            let all_given = orders.flush(&end);
            scopes.extend(std::iter::from_fn(|| coordinator.take_order()).map(|order| match order {
                Order::Limit(definition) => definition.scope,
                other => panic!("{other:?}"),
            }));
            if all_given {
                break;
            }
        }
        assert_eq!(scopes.len(), 10_000);
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
    fn a_coordinator_that_starts_gets_the_shares_and_nothing_else() {
        let (mut orders, end, coordinator) = desk();
        while orders.give(&end, key(0, 1)) {}
        for order in [key(1, 5), limit(1, 5), correction(1, 10, 3), book(6)] {
            orders.give(&end, order);
        }
        while coordinator.take_order().is_some() {}
        let current = Arc::new(Shares { ceiling: 9, ..Shares::default() });
        orders.take_report(&end, Report::Started, Some(current));
        orders.flush(&end);
        assert!(matches!(coordinator.take_order(), Some(Order::Shares(shares)) if shares.ceiling == 9));
        assert!(coordinator.take_order().is_none());
        let wish = orders.live.wish();
        assert!(matches!(orders.live.next(wish, Duration::ZERO), Next::Order));
        orders.take_report(&end, Report::Live(Vec::new()), None);
        assert!(matches!(orders.live.next(wish, Duration::ZERO), Next::Have(look) if look.life == 1));
    }
}
