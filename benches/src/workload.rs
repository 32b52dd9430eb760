//! The work that every design is measured with: lengths that vary, and identities.
//!
//! It repeats: the same numbers in the same order in every run.

use obleth_policy::{
    cost::Cost,
    id::{KeyId, PoolIx, TenantIx},
    protocol::LeafId,
};
use uuid::Uuid;

/// The one pool.
pub(crate) const POOL: PoolIx = PoolIx(0);

/// Costs of requests, from 10 to 400 weighted tokens.
#[derive(Clone, Debug)]
pub(crate) struct Lengths(u64);

impl Lengths {
    pub(crate) const fn new() -> Self {
        Self(1)
    }

    pub(crate) fn next(&mut self) -> Cost {
        // Knuth's generator; its high bits are good enough to vary lengths.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Cost(10_000 + (self.0 >> 33) % 390_000)
    }
}

/// The one key of a tenant.
pub(crate) fn leaf(tenant: u32) -> LeafId {
    LeafId { pool: POOL, tenant: TenantIx(tenant), key: KeyId(Uuid::from_u128(tenant.into())) }
}

/// The weight of a tenant: 1, 2, 3 and 4 by turns.
pub(crate) const fn weight(tenant: u32) -> u32 {
    100 * (1 + tenant % 4)
}
