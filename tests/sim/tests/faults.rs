//! Every checker sees what it is there for: something is broken on purpose, and it says so.

use obleth_sim::{
    fault::Fault,
    judge::Kind,
    plan::{Lengths, MS, Plan, SECOND},
    world::World,
};

/// Two cores, one of them with most connections, and tenants that always wait.
fn plan() -> Plan {
    let mut plan = Plan::backlogged(7, 8, &[100, 200, 300], Lengths::LogNormal { mean: 80, sigma: 1.0 });
    plan.shards = 2;
    plan.delay_ns = MS;
    plan.length_ns = 5 * SECOND;
    for tenant in &mut plan.tenants {
        tenant.patience_ns = 60 * SECOND;
    }
    plan
}

fn finds(plan: Plan, fault: Fault) -> Vec<Kind> {
    let (healthy, _) = World::new(plan.clone()).run();
    assert!(healthy.findings.is_empty(), "the plan is sound: {:?}", healthy.findings);
    let (report, _) = World::broken(plan, fault).run();
    report.findings.into_iter().map(|(kind, ..)| kind).collect()
}

#[test]
fn a_credit_that_gets_lost_is_missed() {
    assert!(finds(plan(), Fault::LoseReturn).contains(&Kind::Credits));
}

#[test]
fn a_credit_out_of_nothing_is_noticed_and_so_is_the_request_too_many() {
    let found = finds(plan(), Fault::DoubleCredit);
    assert!(found.contains(&Kind::Credits), "{found:?}");
    let found = finds(plan(), Fault::LargerPool);
    assert!(found.contains(&Kind::OverSize), "{found:?}");
}

#[test]
fn a_ceiling_that_is_not_kept_is_noticed() {
    let mut plan = plan();
    plan.ceiling = 5;
    assert!(finds(plan, Fault::HighCeiling).contains(&Kind::OverSize));
}

#[test]
fn a_grant_to_somebody_whose_turn_it_is_not_is_noticed() {
    assert!(finds(plan(), Fault::WrongLeaf).contains(&Kind::Order));
}

#[test]
fn a_lost_ticket_and_a_lost_grant_are_missed() {
    assert!(finds(plan(), Fault::LoseGrant).contains(&Kind::Ticket));
    let mut plan = plan();
    plan.length_ns = SECOND;
    // Nobody leaves: whoever has no answer waits for ever.
    for tenant in &mut plan.tenants {
        tenant.patience_ns = 10_000 * SECOND;
    }
    assert!(finds(plan, Fault::LoseTicket).contains(&Kind::Ticket));
}

#[test]
fn a_slot_that_is_free_while_somebody_waits_is_noticed() {
    assert!(finds(plan(), Fault::Oversleep).contains(&Kind::Idle));
}

#[test]
fn figures_of_the_tree_that_no_core_has_said_are_noticed() {
    assert!(finds(plan(), Fault::WrongTotals).contains(&Kind::Ledger));
}

#[test]
fn wrong_weights_break_the_bound_and_the_wait() {
    let mut plan = plan();
    plan.length_ns = 20 * SECOND;
    for tenant in &mut plan.tenants {
        tenant.lengths = Lengths::Equal(80);
    }
    let found = finds(plan, Fault::WrongWeights);
    assert!(found.contains(&Kind::Bound), "{found:?}");
    assert!(found.contains(&Kind::Wait), "{found:?}");
}

#[test]
fn a_slot_that_is_never_released_is_missed() {
    assert!(finds(plan(), Fault::KeepSlot).contains(&Kind::Slot));
}
