//! How long a ticket will wait, so that one that cannot be served in time is told at once.
//!
//! The tenant's part of the pool is its share among those who wait now; what is in front of the ticket are the requests
//! of its own leaf, and what its path is ahead of its fair share by. It must never say zero-risk things: a forecast is
//! good to about a mean service, and nothing is refused before the first request of a pool has ended.

use super::pool::Pool;
use crate::fairness::{NodeIx, Standing, Tree};

/// Shares are computed in these parts of one.
const ONE: u64 = 1 << 32;

/// Milliseconds that a ticket at the end of this leaf's chain will wait, as far as can be told; zero if nothing can.
/// `most` is what its tenant or key may have in flight, or the whole process.
pub(super) fn wait_ms(pool: &Pool, leaf: NodeIx, most: u32) -> u32 {
    let (Some(service), Some(size)) = (pool.service(), pool.size.filter(|size| *size > 0)) else { return 0 };
    let request = u128::from(pool.tree.mean_cost().0.max(1));
    let (mut share, mut ahead, mut node) = (ONE, 0_u128, leaf);
    while node != Tree::ROOT {
        let Standing { weight, key, parent_v, .. } = pool.tree.standing(node);
        let parent = pool.tree.parent(node);
        let siblings = pool.tree.active_weight(parent).max(u64::from(weight)).max(1);
        share = (share / siblings).saturating_mul(u64::from(weight)).max(1);
        // Debt in thousandths of a mean request.
        let debt =
            (key.0.saturating_sub(parent_v.0) >> 32).saturating_mul(u128::from(weight)) * 1000 / request;
        ahead = ahead.max(debt);
        node = parent;
    }
    let queued = u128::from(pool.tree.standing(leaf).waiting).saturating_mul(1000);
    let slots = u128::from(size)
        .saturating_mul(u128::from(share))
        .min(u128::from(most).saturating_mul(u128::from(ONE)));
    let wait_us =
        (queued.saturating_add(ahead)).saturating_mul(u128::from(ONE)).saturating_mul(service.as_micros())
            / slots.max(1)
            / 1000;
    u32::try_from(wait_us / 1000).unwrap_or(u32::MAX)
}
