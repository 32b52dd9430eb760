//! The cases that have a name.

use super::world::{DAY_MS, GROUP, KEY, TENANT, World, definition, one, only, some};
use crate::{
    limit::Meter,
    limit::{LimitBook, Limits, Measure, Outbox, Spent, Want},
    unit::UnixMs,
};

#[test]
fn of_many_at_once_exactly_as_many_pass_as_there_is_room_for() {
    for shards in [1, 2, 8] {
        for measure in Measure::ALL {
            let mut world = World::new(shards, &only(TENANT, measure, 10));
            let mut passed = Vec::new();
            for request in 0..256 {
                if let Ok(reserved) = world.ask(request % shards, one(measure)) {
                    passed.push((request % shards, reserved));
                }
            }
            assert_eq!(passed.len(), 10, "{shards} shards, {measure:?}");
            for (shard, reserved) in passed {
                world.settle(shard, reserved, |_| 1);
            }
            world.settle_down();
            assert_eq!(world.used(TENANT, measure), 10);
            assert_eq!(world.exhausted, usize::from(measure.is_budget()));
        }
    }
}

#[test]
fn what_never_ran_leaves_everything_as_it_was() {
    let measure = Measure::RequestsPerMinute;
    let mut world = World::new(2, &only(KEY, measure, 3));
    for round in 0..20 {
        let reserved = world.ask(round % 2, one(measure)).unwrap();
        world.settle(round % 2, reserved, |_| 0);
    }
    world.settle_down();
    assert_eq!(world.used(KEY, measure), 0);
}

#[test]
fn all_scopes_count_or_none() {
    let limit = |measure, limit| Limits::NONE.with(measure, Some(limit));
    let mut world = World::new(
        2,
        &[
            (KEY, limit(Measure::RequestsPerMinute, 100)),
            (TENANT, limit(Measure::DailyTokens, 100)),
            (GROUP, limit(Measure::MonthlyMicroUsd, 5)),
        ],
    );
    let want = |measure| {
        Some(Want::just(match measure {
            Measure::RequestsPerMinute => 1,
            Measure::DailyTokens => 20,
            _ => 2,
        }))
    };
    let passed: Vec<_> = (0..10).filter_map(|n| Some((n % 2, world.ask(n % 2, want).ok()?))).collect();
    assert_eq!(passed.len(), 2, "the group's money is the tightest");
    let refused = world.ask(0, want).unwrap_err();
    assert_eq!((refused.meter.scope, refused.left), (GROUP, 1));
    passed.into_iter().for_each(|(shard, reserved)| {
        world.settle(shard, reserved, |measure| want(measure).unwrap().need);
    });
    world.settle_down();
    assert_eq!(world.used(KEY, Measure::RequestsPerMinute), 2, "refusals count nothing");
    assert_eq!(world.used(TENANT, Measure::DailyTokens), 40);
}

#[test]
fn a_rate_passes_its_limit_in_every_minute_and_says_truly_when_there_is_room_again() {
    let measure = Measure::RequestsPerMinute;
    let mut world = World::new(2, &only(KEY, measure, 30));
    let mut passed = Vec::new();
    // Ten minutes of a client that always has something to ask, and believes what it is told.
    while world.now_ms < 600_000 {
        match world.ask(usize::try_from(world.now_ms % 2).unwrap(), one(measure)) {
            Ok(reserved) => {
                passed.push(world.now_ms);
                let shard = usize::try_from(world.now_ms % 2).unwrap();
                world.settle(shard, reserved, |_| 1);
                world.now_ms += 700;
            }
            Err(refused) => {
                assert!(refused.again_ms <= 60_000);
                world.now_ms += refused.again_ms - 1;
                assert!(world.ask(0, one(measure)).is_err(), "not a millisecond earlier");
                world.now_ms += 1;
            }
        }
    }
    for (at, from) in passed.iter().enumerate() {
        let within = passed[at..].iter().take_while(|then| **then < from + 60_000).count();
        assert!(within <= 30, "{within} in the minute from {from}");
    }
    assert!((299..=300).contains(&passed.len()), "{}", passed.len());
}

#[test]
fn a_request_larger_than_a_minute_needs_one_that_is_untouched_and_pays_for_it() {
    let measure = Measure::TokensPerMinute;
    let mut world = World::new(2, &only(KEY, measure, 100));
    let small = world.ask(1, some(measure, 1)).unwrap();
    world.settle(1, small, |_| 1);
    assert!(world.ask(0, some(measure, 250)).is_err(), "touched");
    world.now_ms = 60_000;
    let large = world.ask(0, some(measure, 250)).unwrap();
    world.settle(0, large, |_| 250);
    for (at, passes) in [(119_999, false), (120_000, false), (179_999, false), (180_000, true)] {
        world.now_ms = at;
        assert_eq!(world.ask(1, some(measure, 1)).is_ok(), passes, "{at}");
    }
    let mut closed = World::new(1, &only(KEY, measure, 0));
    assert!(closed.ask(0, some(measure, 1)).is_err(), "a limit of nothing has no untouched minute");
}

#[test]
fn more_than_was_reserved_is_a_debt_and_less_is_there_at_once() {
    for measure in [Measure::TokensPerMinute, Measure::DailyTokens] {
        let mut world = World::new(2, &only(TENANT, measure, 100));
        let first = world.ask(0, some(measure, 40)).unwrap();
        world.settle(0, first, |_| 90);
        world.settle_down();
        assert!(world.ask(1, some(measure, 11)).is_err());
        let second = world.ask(1, some(measure, 10)).unwrap();
        world.settle(1, second, |_| 4);
        let third = world.ask(0, some(measure, 6)).unwrap();
        world.settle(0, third, |_| 50);
        world.settle_down();
        assert_eq!(world.used(TENANT, measure), 144);
        assert!(world.ask(1, some(measure, 1)).is_err());
    }
}

#[test]
fn a_new_period_begins_anew_and_what_is_settled_late_belongs_to_the_old_one() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(TENANT, measure, 100));
    let late = world.ask(0, some(measure, 80)).unwrap();
    world.now_ms = u64::try_from(DAY_MS).unwrap();
    let new = world.ask(1, some(measure, 100)).unwrap();
    world.settle(0, late, |_| 80);
    world.settle_down();
    assert_eq!(world.used(TENANT, measure), 0);
    world.settle(1, new, |_| 70);
    world.settle_down();
    assert_eq!(world.used(TENANT, measure), 70);
    world.now_ms -= 100_000;
    assert!(world.ask(0, some(measure, 31)).is_err(), "a clock that goes back brings no day back");
    assert!(world.ask(0, some(measure, 30)).is_ok());
}

#[test]
fn a_limit_that_is_lowered_below_what_is_used_refuses_from_then_on() {
    let measure = Measure::MonthlyMicroUsd;
    let mut world = World::new(2, &only(TENANT, measure, 1000));
    let some_of_it = world.ask(0, some(measure, 100)).unwrap();
    world.settle(0, some_of_it, |_| 100);
    world.limits = only(TENANT, measure, 50);
    world.configure();
    world.settle_down();
    for shard in [0, 1] {
        assert_eq!(world.ask(shard, some(measure, 1)).unwrap_err().left, 0);
    }
    world.limits = only(TENANT, measure, 101);
    world.configure();
    assert!(world.ask(1, some(measure, 1)).is_ok());
    world.owner.define(world.now(), definition(TENANT, Limits::NONE), &mut Outbox::default());
    assert!(world.ask(1, some(measure, 1_000_000)).is_ok(), "no limit any more");
}

#[test]
fn a_shorter_answer_is_paid_from_what_is_left() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(KEY, measure, 100));
    let most = world.ask(0, some(measure, 70)).unwrap();
    let want = |of| (of == measure).then_some(Want { need: 50, least: 10 });
    let lacking = world.reserve(1, want).unwrap_err();
    world.settle_down_to_answer(1, &lacking);
    let left: Vec<_> = world.purses[1].free(world.now(), &lacking).collect();
    assert_eq!(left, [(measure, 30)]);
    assert!(world.reserve_at_last(1, some(measure, 30)).is_ok());
    world.settle(0, most, |_| 70);
}

#[test]
fn the_books_begin_with_what_the_ledger_says() {
    let measure = Measure::LifetimeTokens;
    let mut world = World::new(1, &only(KEY, measure, 100));
    let spent = vec![Spent { meter: Meter { scope: KEY, measure }, since: UnixMs(0), amount: 95 }];
    let definitions = vec![definition(KEY, world.limits[0].1)];
    world.replace_owner(&LimitBook { definitions, spent });
    assert!(world.ask(0, some(measure, 6)).is_err());
    assert!(world.ask(0, some(measure, 5)).is_ok());
}

#[test]
fn an_owner_that_comes_back_knows_what_is_reserved() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(KEY, measure, 100));
    let (a, b) = (world.ask(0, some(measure, 40)).unwrap(), world.ask(1, some(measure, 30)).unwrap());
    world.settle(1, b, |_| 30);
    let spent = vec![Spent { meter: Meter { scope: KEY, measure }, since: UnixMs(0), amount: 30 }];
    let definitions = vec![definition(KEY, world.limits[0].1)];
    world.replace_owner(&LimitBook { definitions, spent });
    world.settle_down();
    assert!(world.ask(1, some(measure, 31)).is_err());
    let rest = world.ask(1, some(measure, 30)).unwrap();
    world.settle(0, a, |_| 40);
    world.settle(1, rest, |_| 30);
    world.settle_down();
    assert_eq!(world.used(KEY, measure), 100);
}

#[test]
fn what_a_dead_shard_held_counts_as_used_until_it_is_corrected() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(KEY, measure, 100));
    let lost = world.ask(0, some(measure, 40)).unwrap();
    drop(lost);
    world.kill(0);
    world.settle_down();
    let used = world.used(KEY, measure);
    assert!(used >= 40, "{used}");
    let correction = crate::limit::Correction {
        meter: Meter { scope: KEY, measure },
        since: UnixMs(0),
        by: 12 - i64::try_from(used).unwrap(),
    };
    world.owner.correct(world.now(), correction);
    assert_eq!(world.used(KEY, measure), 12);
    assert!(world.ask(0, some(measure, 88)).is_ok());
}

#[test]
fn credits_of_those_who_left_go_home() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(2, &only(KEY, measure, 10));
    let lacking = world.reserve(0, some(measure, 10)).unwrap_err();
    world.settle_down_to_answer(0, &lacking);
    // Its client has left; nobody takes them.
    world.settle_down();
    assert!(world.ask(1, some(measure, 10)).is_ok());
}

#[test]
fn what_nobody_uses_is_forgotten_and_its_credits_go_home() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(1, &only(KEY, measure, 1_000_000));
    let used = world.ask(0, some(measure, 10)).unwrap();
    world.settle(0, used, |_| 10);
    world.settle_down();
    let due = world.purses[0].say_at().unwrap();
    world.now_ms = due.0 / 1_000_000 + 1;
    world.settle_down();
    assert_eq!(world.purses[0].say_at(), None, "nothing is known, nothing is waited for");
    assert_eq!(world.used(KEY, measure), 10);
}

#[test]
fn credits_are_not_called_away_from_a_request_that_was_granted_them_and_has_not_yet_run() {
    for measure in Measure::ALL {
        let mut world = World::new(3, &only(TENANT, measure, 1));
        let lacking = [0, 1, 2].map(|shard| world.reserve(shard, one(measure)).unwrap_err());
        let told = |world: &World, shard: usize| world.purses[shard].has_answer(&lacking[shard]);
        while world.carry_all() {}
        assert_eq!([0, 1, 2].map(|shard| told(&world, shard)), [true, false, false], "{measure:?}");
        assert!(world.reserve_at_last(0, one(measure)).is_ok(), "{measure:?}");
        for shard in [1, 2] {
            world.settle_down_to_answer(shard, &lacking[shard]);
            assert!(world.purses[shard].shortage(&lacking[shard], one(measure)).is_some(), "{measure:?}");
        }
        assert_eq!(world.now_ms, 0, "nobody had to wait for a time");
        // Who was granted them and does not run loses them, and the next one has them.
        let mut world = World::new(3, &only(TENANT, measure, 1));
        let lacking = [0, 1].map(|shard| world.reserve(shard, one(measure)).unwrap_err());
        (0..2).for_each(|shard| world.settle_down_to_answer(shard, &lacking[shard]));
        assert!(world.reserve_at_last(1, one(measure)).is_ok(), "{measure:?}");
        assert!((4..=6).contains(&world.now_ms), "{} ms", world.now_ms);
    }
}

#[test]
fn a_period_that_nobody_said_the_end_of_lasts_until_somebody_does() {
    let measure = Measure::DailyTokens;
    let mut world = World::new(1, &only(KEY, measure, 10));
    world.now_ms = u64::try_from(5 * DAY_MS).unwrap();
    assert!(world.ask(0, some(measure, 10)).is_ok());
    assert!(world.ask(0, some(measure, 1)).is_err());
}

#[test]
fn what_is_left_is_the_same_wherever_a_client_asks() {
    let measure = Measure::RequestsPerMinute;
    let mut world = World::new(2, &only(KEY, measure, 100));
    for round in 0..40 {
        let shard = usize::from(round % 3 == 0);
        let reserved = world.ask(shard, one(measure)).unwrap();
        world.settle(shard, reserved, |_| 1);
        world.settle_down();
        for shard in (0..2).filter(|_| round > 0) {
            let limits = world.limits.clone();
            let scopes = limits.iter().map(|(scope, limits)| (*scope, limits)).collect();
            let [rate] = world.purses[shard].rates(world.now(), &scopes, [measure]).map(Option::unwrap);
            assert_eq!(rate.remaining, 100 - (round + 1), "round {round}, shard {shard}");
        }
    }
}

#[test]
fn a_grant_that_another_request_was_faster_to_use_is_not_all_that_there_is() {
    let measure = Measure::DailyTokens;
    let want = |need| move |of| (of == measure).then_some(Want { need, least: 1 });
    let mut world = World::new(2, &only(TENANT, measure, 1000));
    let idle = world.ask(0, some(measure, 5)).unwrap();
    world.settle(0, idle, |_| 0);
    let has = world.left(0, some(measure, 1));
    let lacking = world.reserve(0, want(500)).unwrap_err();
    let faster = world.reserve(0, want(5));
    assert!(faster.is_ok(), "{has:?} are left, some of them here");
    world.settle_down_to_answer(0, &lacking);
    assert!(world.purses[0].shortage(&lacking, want(500)).is_none());
    assert_eq!(world.purses[0].free(world.now(), &lacking).count(), 0, "there is more: it asks again");
    assert!(world.ask(0, some(measure, 500)).is_ok());
}

#[test]
fn credits_that_were_called_home_while_their_shard_asked_for_more_are_granted_with_the_rest() {
    let measure = Measure::LifetimeTokens;
    let mut world = World::new(3, &only(TENANT, measure, 100));
    for shard in [2, 1] {
        let idle = world.ask(shard, some(measure, 25)).unwrap();
        world.settle(shard, idle, |_| 0);
    }
    // The first one needs what the others hold, while the second one asks for what it lacks.
    let lacking = [0, 1].map(|shard| world.reserve(shard, some(measure, 50)).unwrap_err());
    for shard in [0, 1] {
        world.settle_down_to_answer(shard, &lacking[shard]);
        assert!(
            world.reserve_at_last(shard, some(measure, 50)).is_ok(),
            "shard {shard} was granted a part of it"
        );
    }
}
