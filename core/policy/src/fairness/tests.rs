//! What the tree promises, on small trees that can be followed by hand.

use super::*;

const TOKEN: Cost = Cost::TOKEN;

/// A pool with one group, and one key under each tenant: `(tenant, key)` per weight.
fn pool(weights: &[u32]) -> (Tree, Vec<(NodeIx, NodeIx)>) {
    let mut tree = Tree::new();
    tree.contend(true);
    let group = tree.add(Tree::ROOT, 100);
    let tenants = weights.iter().map(|weight| tree.add(group, *weight)).collect::<Vec<_>>();
    let leaves = tenants.iter().map(|tenant| (*tenant, tree.add(*tenant, 100))).collect();
    (tree, leaves)
}

/// Serves `grants` requests of one token each, everybody waiting all the time. Returns how many each leaf had.
fn serve(tree: &mut Tree, leaves: &[(NodeIx, NodeIx)], grants: usize) -> Vec<usize> {
    let mut served = vec![0; leaves.len()];
    for _ in 0..grants {
        let next = tree.least().unwrap();
        tree.grant(next, TOKEN);
        tree.charge(next, TOKEN.0, -1000);
        tree.release(next, 1);
        tree.wait(next);
        served[leaves.iter().position(|(_, leaf)| *leaf == next).unwrap()] += 1;
    }
    served
}

#[test]
fn service_follows_the_weights() {
    let (mut tree, leaves) = pool(&[1, 2, 3, 4]);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    assert_eq!(serve(&mut tree, &leaves, 1000), [100, 200, 300, 400]);
}

#[test]
fn groups_are_compared_first_and_only_as_groups() {
    let mut tree = Tree::new();
    tree.contend(true);
    let (big, small) = (tree.add(Tree::ROOT, 70), tree.add(Tree::ROOT, 30));
    let mut leaves = Vec::new();
    for (group, tenants) in [(big, 1), (small, 9)] {
        for _ in 0..tenants {
            let tenant = tree.add(group, 1000);
            leaves.push((tenant, tree.add(tenant, 1)));
        }
    }
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    let served = serve(&mut tree, &leaves, 1000);
    assert_eq!((served[0], served[1..].iter().sum::<usize>()), (700, 300));
}

#[test]
fn idleness_earns_one_request_and_no_more() {
    let (mut tree, leaves) = pool(&[100, 100]);
    tree.learn(TOKEN);
    tree.wait(leaves[0].1);
    serve(&mut tree, &leaves[..1], 500);
    tree.wait(leaves[1].1);
    let served = serve(&mut tree, &leaves, 100);
    assert!(served[1] <= 52, "{served:?}");
}

#[test]
fn a_refund_never_pays_for_what_an_idle_time_has_forgotten() {
    let (mut tree, leaves) = pool(&[100, 100]);
    let (tenant, late) = leaves[1];
    tree.wait(late);
    tree.grant(late, Cost(900_000));
    tree.release(late, 1);
    tree.wait(leaves[0].1);
    serve(&mut tree, &leaves[..1], 2000);
    tree.wait(late);
    let lifted = tree.standing(tenant).key;
    tree.charge(late, 0, -900_000);
    assert_eq!(tree.standing(tenant).key, lifted);
}

#[test]
fn a_capped_node_is_passed_over_and_comes_back_without_a_hoard() {
    let (mut tree, leaves) = pool(&[100, 100]);
    tree.learn(TOKEN);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    tree.block(leaves[0].0, true);
    assert_eq!(serve(&mut tree, &leaves, 500), [0, 500]);
    tree.block(leaves[0].0, false);
    let served = serve(&mut tree, &leaves, 100);
    assert!(served[0] <= 50 + HOARD as usize, "{served:?}");
    tree.block(leaves[0].1, true);
    tree.block(leaves[1].1, true);
    assert_eq!(tree.least(), None, "everybody who waits is at a cap");
}

#[test]
fn another_weight_takes_effect_at_once_and_starves_nobody() {
    let (mut tree, leaves) = pool(&[1000, 1000]);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    serve(&mut tree, &leaves, 10_000);
    tree.reweigh(leaves[0].0, 10);
    tree.reweigh(leaves[1].0, 30);
    assert_eq!(serve(&mut tree, &leaves, 400), [100, 300]);
}

#[test]
fn a_tenant_that_changes_its_group_takes_its_waiting_requests_with_it() {
    let (mut tree, leaves) = pool(&[100, 100]);
    let other = tree.add(Tree::ROOT, 300);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    serve(&mut tree, &leaves, 100);
    tree.relocate(leaves[1].0, other);
    let served = serve(&mut tree, &leaves, 400);
    assert!((299..=301).contains(&served[1]), "{served:?}");
    assert_eq!(tree.standing(other).waiting, 1);
    assert_eq!(tree.standing(Tree::ROOT).waiting, 2);
    tree.leave(leaves[1].1);
    assert!(!tree.is_active(other));
}

#[test]
fn what_a_tenant_owes_goes_with_it_to_another_group() {
    let (mut tree, leaves) = pool(&[100, 100]);
    let (first, other) = (tree.parent(leaves[1].0), tree.add(Tree::ROOT, 300));
    tree.wait(leaves[1].1);
    tree.grant(leaves[1].1, Cost(70_000));
    tree.relocate(leaves[1].0, other);
    assert_eq!((tree.standing(first).outstanding, tree.standing(other).outstanding), (Cost(0), Cost(70_000)));
    tree.charge(leaves[1].1, 50_000, -70_000);
    tree.release(leaves[1].1, 1);
    assert_eq!((tree.standing(first).outstanding, tree.standing(other).outstanding), (Cost(0), Cost(0)));
    assert_eq!(tree.standing(Tree::ROOT).outstanding, Cost(0));
}

#[test]
fn what_is_taken_in_slack_is_held_against_its_taker_only_as_far_as_it_is_in_flight() {
    let (mut tree, leaves) = pool(&[100, 100]);
    tree.contend(false);
    for _ in 0..5000 {
        tree.adopt(leaves[0].1, 1);
        tree.charge(leaves[0].1, TOKEN.0, 0);
        tree.release(leaves[0].1, 1);
        tree.learn(TOKEN);
    }
    tree.contend(true);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    let served = serve(&mut tree, &leaves, 100);
    assert!((47..=53).contains(&served[0]), "{served:?}");
}

#[test]
fn who_waits_already_is_no_further_behind_than_who_comes_after_a_report_from_slack() {
    let (mut tree, leaves) = pool(&[100, 100, 100]);
    tree.contend(false);
    tree.learn(TOKEN);
    // Two each, so that neither is ever idle.
    (0..2).for_each(|_| tree.wait(leaves[0].1));
    tree.adopt(leaves[2].1, 1);
    tree.charge(leaves[2].1, 0, 1_000_000);
    (0..2).for_each(|_| tree.wait(leaves[1].1));
    tree.contend(true);
    let served = serve(&mut tree, &leaves, 100);
    assert!(served[0].abs_diff(served[1]) <= HOARD as usize, "{served:?}");
}

#[test]
fn debt_from_contention_outlasts_a_pause() {
    let (mut tree, leaves) = pool(&[100, 100]);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    tree.grant(leaves[0].1, TOKEN);
    tree.charge(leaves[0].1, 0, 100_000 - 1000);
    tree.charge(leaves[0].1, 100_000, -100_000);
    tree.release(leaves[0].1, 1);
    tree.contend(false);
    tree.contend(true);
    tree.wait(leaves[0].1);
    assert_eq!(serve(&mut tree, &leaves, 100), [0, 100]);
}

#[test]
fn an_idle_leaf_can_be_forgotten_once_v_has_passed_it() {
    let (mut tree, leaves) = pool(&[100]);
    let (tenant, leaf) = leaves[0];
    let other = tree.add(tenant, 100);
    tree.wait(other);
    tree.grant(other, Cost(50_000));
    tree.charge(other, 50_000, -50_000);
    tree.release(other, 1);
    assert!(!tree.is_forgettable(other), "it has debt");
    tree.wait(leaf);
    serve(&mut tree, &[(tenant, leaf)], 60);
    assert!(tree.is_forgettable(other));
    tree.remove(other);
    assert_eq!(tree.add(tenant, 7), other, "its place is used again");
}

#[test]
fn requests_that_nobody_saw_running_do_not_make_time_run_away_from_a_debt() {
    let (mut tree, leaves) = pool(&[100, 100]);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    tree.grant(leaves[0].1, TOKEN);
    tree.charge(leaves[0].1, 99_000, 0);
    tree.leave(leaves[1].1);
    tree.charge(leaves[0].1, 1000, -1000);
    tree.release(leaves[0].1, 1);
    tree.contend(false);
    // Each began and ended between two reports of its core.
    for _ in 0..20 {
        tree.charge(leaves[1].1, TOKEN.0, 0);
    }
    tree.contend(true);
    leaves.iter().for_each(|(_, leaf)| tree.wait(*leaf));
    let served = serve(&mut tree, &leaves, 50);
    assert!(served[0] <= 1, "100 tokens of debt, 20 of them made good: {served:?}");
}
