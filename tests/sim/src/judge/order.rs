//! Order: each grant is for a node whose key is not above that of any sibling that waits and may be served, from the
//! group down to the key; and for a pool that has a free credit and uses the least part of its size.
//!
//! Several grants of one decision follow from each other, so the keys are carried forward as the rules say. In slack
//! virtual time moves on in ways that only the tree knows, and for a moment after an edit tickets with a key's former cap
//! still come in; there one grant per pool and decision is looked at.

use obleth_policy::{
    coordinator::{Level, LiveNode, LivePool},
    cost::Cost,
    fairness::VirtualTime,
    id::TenantIx,
    protocol::Down,
};

use super::{Names, Waiting, bound::eligible};
use crate::{
    plan::Plan,
    world::{Request, leaf_id},
};

/// Checks the grants of one decision. Returns how many were looked at, and what was wrong.
pub(super) fn check(
    before: &[LivePool],
    out: &[(usize, Down)],
    (names, requests): Names<'_>,
    (plan, waiting, edited): (&Plan, &Waiting, bool),
) -> (u64, Vec<String>) {
    let mut live = before.to_vec();
    let (mut looked, mut wrong) = (0, Vec::new());
    let mut unsure = vec![false; live.len()];
    for (shard, down) in out {
        match down {
            Down::Grant { ticket, .. } => {
                let name = (*shard, ticket.place, ticket.turn);
                let (Some(at), Some((_, estimate))) = (names.get(&name), waiting.get(&name)) else {
                    continue;
                };
                let request = &requests[*at];
                if !unsure[request.pool] {
                    looked += 1;
                    wrong.extend(judge(&live, request));
                }
                unsure[request.pool] |= edited || !live[request.pool].contended;
                carry(&mut live, plan, (request, *estimate));
            }
            Down::Stock(pool, credits) => live[pool.at()].held += credits,
            _ => {}
        }
    }
    (looked, wrong)
}

fn judge(live: &[LivePool], request: &Request) -> Option<String> {
    let pool = &live[request.pool];
    let serves = eligible(pool);
    let leaf = leaf_id(request.tenant, request.key, request.pool);
    let tenant = TenantIx(request.tenant as u32);
    let mut chosen: Vec<_> = Vec::new();
    for node in &pool.nodes {
        let on_path = match node.level {
            Level::Key(of, key) => of == tenant && key == leaf.key,
            Level::Tenant(_, of) => of == tenant,
            Level::Group(_) => false,
        };
        if on_path {
            chosen.push(node);
        }
        if let Level::Tenant(group, of) = node.level
            && of == tenant
        {
            chosen.extend(pool.nodes.iter().filter(|node| node.level == Level::Group(group)));
        }
    }
    for node in chosen {
        if !serves.contains(&node.level) {
            return Some(format!("{:?} may not be served", node.level));
        }
        let siblings = pool.nodes.iter().filter(|other| are_siblings(node, other));
        let least =
            siblings.filter(|other| serves.contains(&other.level)).map(|other| other.standing.key).min();
        if least.is_some_and(|least| least < node.standing.key) {
            return Some(format!(
                "{:?} was not the least: {:?} < {:?}",
                node.level, least, node.standing.key
            ));
        }
    }
    let part = |pool: &LivePool| f64::from(pool.held) / f64::from(pool.max_in_flight.max(1));
    let ready = live.iter().filter(|pool| pool.held < pool.max_in_flight && !eligible(pool).is_empty());
    let emptiest = ready.map(part).fold(f64::INFINITY, f64::min);
    (part(pool) > emptiest + 1e-9).then(|| format!("pool {} was not the emptiest", request.pool))
}

fn are_siblings(a: &LiveNode, b: &LiveNode) -> bool {
    match (a.level, b.level) {
        (Level::Group(_), Level::Group(_)) => true,
        (Level::Tenant(a, _), Level::Tenant(b, _)) => a == b,
        (Level::Key(a, _), Level::Key(b, _)) => a == b,
        _ => false,
    }
}

/// What a grant does to the figures.
fn carry(live: &mut [LivePool], plan: &Plan, (request, estimate): (&Request, Cost)) {
    let leaf = leaf_id(request.tenant, request.key, request.pool);
    let group = plan.tenants[request.tenant].group;
    let is_on_path = |level: Level| match level {
        Level::Group(of) => of.0 == group,
        Level::Tenant(_, of) => of == leaf.tenant,
        Level::Key(of, key) => of == leaf.tenant && key == leaf.key,
    };
    let Some(pool) = live.get_mut(request.pool) else { return };
    pool.held += 1;
    for node in pool.nodes.iter_mut().filter(|node| is_on_path(node.level)) {
        let standing = &mut node.standing;
        standing.key.0 += VirtualTime::of(estimate.0, standing.weight.into()).0;
        standing.waiting = standing.waiting.saturating_sub(1);
        standing.running += 1;
    }
    cap(
        live,
        |level| matches!(level, Level::Tenant(_, of) if of == leaf.tenant),
        plan.tenants[request.tenant].cap,
    );
    let of_key = |level| matches!(level, Level::Key(of, key) if (of, key) == (leaf.tenant, leaf.key));
    cap(live, of_key, plan.tenants[request.tenant].keys[request.key].1);
}

/// A node that has reached its cap is passed over in every pool.
fn cap(live: &mut [LivePool], is_node: impl Fn(Level) -> bool, cap: Option<u32>) {
    let nodes = || live.iter().flat_map(|pool| &pool.nodes).filter(|node| is_node(node.level));
    let running: u32 = nodes().map(|node| node.standing.running).sum();
    if cap.is_some_and(|cap| running >= cap) {
        let nodes = live.iter_mut().flat_map(|pool| &mut pool.nodes);
        nodes.filter(|node| is_node(node.level)).for_each(|node| node.standing.blocked = true);
    }
}
