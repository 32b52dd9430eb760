//! What a request pays for its limits: reserved from this core's credits, and settled. The words to the owner are said
//! every so often, as a shard does, and dropped.

use obleth_policy::{
    id::{GroupId, KeyId, TenantId},
    limit::{Down, Limits, Measure, Meter, Now, Purses, Scope, Scopes, Stamp, Up},
    unit::{Instant, UnixMs},
};
use uuid::Uuid;

use crate::measure::Loop;

/// Requests between two reports.
const BETWEEN_WORDS: u64 = 200;

/// A shard's purses with more credits than any run uses.
struct Funded {
    purses: Purses,
    limits: Vec<(Scope, Limits)>,
    requests: u64,
}

impl Funded {
    fn new(limits: Vec<(Scope, Limits)>) -> Self {
        let mut purses = Purses::new(1);
        let scopes: Scopes<'_> = limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
        // The first one asks for all of them.
        drop(purses.reserve(now(0), &scopes, false, (need, |_| 1)));
        drop(scopes);
        let mut wanted = Vec::new();
        purses.say(now(0), |up| {
            wanted.extend(if let Up::Want { meter, .. } = up { Some(meter) } else { None });
            Ok(())
        });
        for meter in wanted {
            purses.obey(now(0), 1, grant(meter));
        }
        Self { purses, limits, requests: 0 }
    }

    fn request(&mut self) {
        self.requests += 1;
        let now = now(self.requests * 100_000);
        let scopes: Scopes<'_> = self.limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
        let reserved = self.purses.reserve(now, std::hint::black_box(&scopes), false, (need, |_| 1));
        self.purses
            .settle(now, reserved.expect("credits"), |measure| need(measure).map_or(0, |need| need - 1));
        if self.requests.is_multiple_of(BETWEEN_WORDS) {
            self.purses.say(now, |up| {
                std::hint::black_box(up);
                Ok(())
            });
        }
    }
}

fn now(nanos: u64) -> Now {
    Now { monotonic: Instant(nanos), wall: UnixMs(1000) }
}

fn need(measure: Measure) -> Option<u64> {
    Some(if measure == Measure::RequestsPerMinute { 1 } else { 300 })
}

fn grant(meter: Meter) -> Down {
    let (amount, left) = (1 << 59, 1 << 40);
    Down::Grant {
        meter,
        amount,
        since: Stamp(0),
        ends: UnixMs(i64::MAX),
        left,
        scarce: false,
        partial: false,
    }
}

/// A tenant's two rates.
pub(crate) fn rates() -> Loop {
    let limit = Some(1 << 60);
    let rates = Limits::NONE.with(Measure::RequestsPerMinute, limit).with(Measure::TokensPerMinute, limit);
    of(vec![(Scope::Tenant(TenantId(Uuid::from_u128(1))), rates)])
}

/// Rates of key and tenant, and budgets in money of key, tenant and group.
pub(crate) fn all_scopes() -> Loop {
    let limit = Some(1 << 60);
    let budget = Limits::NONE.with(Measure::MonthlyMicroUsd, limit);
    let both = budget.with(Measure::RequestsPerMinute, limit).with(Measure::TokensPerMinute, limit);
    of(vec![
        (Scope::Key(KeyId(Uuid::from_u128(1))), both),
        (Scope::Tenant(TenantId(Uuid::from_u128(2))), both),
        (Scope::Group(GroupId(Uuid::from_u128(3))), budget),
    ])
}

fn of(limits: Vec<(Scope, Limits)>) -> Loop {
    let mut funded = Funded::new(limits);
    Box::new(move |operations| (0..operations).for_each(|_| funded.request()))
}
