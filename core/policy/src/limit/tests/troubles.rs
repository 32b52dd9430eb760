//! What goes on while limits are edited, words are late and nobody answers.

use super::world::{DAY_MS, KEY, TENANT, World, definition, one, only, some};
use crate::{
    limit::Meter,
    limit::{Limits, Measure, Outbox, Want},
    unit::UnixMs,
};

#[test]
fn a_shard_that_says_nothing_holds_nobody_up_for_long() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(TENANT, measure, 1000));
    let idle = world.ask(0, some(measure, 10)).unwrap();
    world.settle(0, idle, |_| 0);
    world.settle_down();
    let lacking = world.reserve(1, some(measure, 1000)).unwrap_err();
    world.say(1);
    while world.carry_up(1) {}
    assert!(!world.down[0].is_empty(), "the other one is asked for what it holds");
    world.now_ms += 101;
    let mut out = Outbox::default();
    world.owner.decide(world.now(), &mut out);
    world.send(out);
    while world.carry_down(1) {}
    assert!(world.purses[1].shortage(&lacking, some(measure, 1000)).is_some());
    assert_eq!(world.down[0].len(), 1, "it is asked once");
}

#[test]
fn a_limit_that_is_taken_away_and_set_again_is_not_a_new_one() {
    for measure in [Measure::DailyTokens, Measure::LifetimeMicroUsd, Measure::TokensPerMinute] {
        let mut world = World::new(2, &only(TENANT, measure, 1000));
        let used = world.ask(0, some(measure, 700)).unwrap();
        world.settle(0, used, |_| 700);
        let open = world.ask(1, some(measure, 100)).unwrap();
        world.settle_down();
        let limits = world.limits.clone();
        world.limits = Vec::new();
        world.configure();
        world.settle_down();
        world.settle(1, open, |_| 50);
        world.limits = limits;
        world.configure();
        world.settle_down();
        assert_eq!(world.used(TENANT, measure), 750, "{measure:?}");
        assert!(world.ask(0, some(measure, 251)).is_err(), "{measure:?}");
        assert!(world.ask(1, some(measure, 250)).is_ok(), "{measure:?}");
    }
}

#[test]
fn another_time_zone_is_no_new_budget() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(TENANT, measure, 1000));
    let used = world.ask(0, some(measure, 900)).unwrap();
    world.settle(0, used, |_| 900);
    let open = world.ask(1, some(measure, 10)).unwrap();
    world.now_ms = 1000;
    let day =
        crate::limit::Turn { begins: UnixMs(500), ends: UnixMs(DAY_MS + 500), next_ends: UnixMs(2 * DAY_MS) };
    let moved = crate::limit::Definition { day, ..definition(TENANT, world.limits[0].1) };
    let mut out = Outbox::default();
    world.owner.define(world.now(), moved, &mut out);
    world.send(out);
    world.settle_down();
    assert!(world.ask(0, some(measure, 100)).is_err());
    world.settle(1, open, |_| 10);
    world.settle_down();
    assert!(world.used(TENANT, measure) >= 900, "until the ledger says how much of it is of the new day");
    let by = -i64::try_from(world.used(TENANT, measure)).unwrap();
    let meter = Meter { scope: TENANT, measure };
    world.owner.correct(world.now(), crate::limit::Correction { meter, since: UnixMs(500), by });
    assert!(world.ask(0, some(measure, 1000)).is_ok());
}

#[test]
fn credits_of_yesterday_that_go_home_today_are_worth_nothing() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(TENANT, measure, 100));
    let idle = world.ask(0, some(measure, 10)).unwrap();
    world.settle(0, idle, |_| 0);
    // A return of yesterday is under way when today's credits are lent.
    let lacking = world.reserve(1, some(measure, 100)).unwrap_err();
    world.say(1);
    while world.carry_up(1) {}
    world.now_ms += 6;
    while world.carry_down(0) {}
    world.say(0);
    let late: Vec<_> = world.up[0].drain(..).collect();
    world.now_ms = u64::try_from(DAY_MS).unwrap();
    let today = world.ask(0, some(measure, 60)).unwrap();
    world.up[0].extend(late);
    world.settle_down();
    drop(lacking);
    assert!(world.ask(1, some(measure, 41)).is_err(), "60 of today's 100 are reserved");
    world.settle(0, today, |_| 60);
}

#[test]
fn what_is_left_of_a_budget_is_unknown_when_its_period_is_over() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(1, &only(KEY, measure, 100));
    let used = world.ask(0, some(measure, 100)).unwrap();
    world.settle(0, used, |_| 100);
    world.settle_down();
    let limits = world.limits.clone();
    let scopes = limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
    assert_eq!(world.left(0, one(measure)), Some(vec![(measure, 0)]));
    world.now_ms = u64::try_from(DAY_MS).unwrap();
    assert_eq!(world.left(0, one(measure)), None);
    let now = world.now();
    let lacking = world.purses[0].ask_anew(now, &scopes, some(measure, 1));
    world.settle_down_to_answer(0, &lacking);
    assert_eq!(world.left(0, one(measure)), Some(vec![(measure, 100)]));
    assert!(world.purses[0].ask_anew(now, &scopes, some(measure, 1)).is_empty(), "known by now");
}

#[test]
fn all_of_a_rate_is_left_after_a_quiet_minute() {
    let measure = Measure::RequestsPerMinute;
    let mut world = World::new(2, &only(KEY, measure, 100));
    for round in 0..60 {
        let reserved = world.ask(round % 2, one(measure)).unwrap();
        world.settle(round % 2, reserved, |_| 1);
    }
    world.settle_down();
    world.now_ms += 61_000;
    let reserved = world.ask(0, one(measure)).unwrap();
    let limits = world.limits.clone();
    let scopes = limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
    let [rate] = world.purses[0].rates(world.now(), &scopes, [measure]);
    assert_eq!(rate.unwrap().remaining, 99);
    world.settle(0, reserved, |_| 1);
}

#[test]
fn a_request_that_went_on_without_an_answer_is_counted_all_the_same() {
    let mut world = World::new(
        1,
        &[(
            KEY,
            Limits::NONE.with(Measure::DailyTokens, Some(100)).with(Measure::TokensPerMinute, Some(100)),
        )],
    );
    let first = world.ask(0, |_| Some(Want::just(1))).unwrap();
    let now = world.now();
    let limits = world.limits.clone();
    let scopes = limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
    let unfunded = world.purses[0].unfunded(now, &scopes);
    world.settle(0, unfunded, |_| 80);
    world.settle(0, first, |_| 1);
    world.settle_down();
    for measure in [Measure::DailyTokens, Measure::TokensPerMinute] {
        assert_eq!(world.used(KEY, measure), 81, "{measure:?}");
    }
}

#[test]
fn who_has_just_come_leaves_what_was_granted_to_those_who_wait() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(1, &only(KEY, measure, 100));
    let lacking = world.reserve(0, some(measure, 99)).unwrap_err();
    world.settle_down_to_answer(0, &lacking);
    assert!(world.reserve(0, some(measure, 50)).is_err());
    assert!(world.reserve_at_last(0, some(measure, 99)).is_ok());
}
#[test]
fn what_came_to_less_where_the_owner_believes_that_nothing_is_free_is_said_at_once() {
    for measure in [Measure::RequestsPerMinute, Measure::TokensPerMinute, Measure::LifetimeTokens] {
        let mut world = World::new(2, &only(TENANT, measure, 10));
        let first = world.ask(0, some(measure, 4)).unwrap();
        // The owner hears what was used or reserved of it.
        world.settle_down();
        world.settle(0, first, |_| 0);
        assert!(world.purses[0].is_urgent(), "{measure:?}");
        world.say(0);
        assert!(world.ask(1, some(measure, 10)).is_ok(), "{measure:?}");
    }
}
