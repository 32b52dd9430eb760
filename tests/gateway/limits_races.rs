//! Many requests at once against one limit: never one more than it has room for, and never one less.

use std::{sync::Barrier, thread};

use obleth_policy::limit::Measure;

use super::{
    cancels::{Random, cancel, seed},
    disconnects::until_nothing_is_left,
    http::{Connection, Response},
    parties::{Of, TOKENS, cost, counted, passed},
    process::{Driver, Setup, until},
    world::World,
};

/// Requests that race.
const RACERS: usize = 256;
/// How many of them the limit has room for.
const ROOM: usize = 10;

/// One request on each of so many connections, all sent at the same moment.
fn race(world: &World, request: &super::http::Request) -> Vec<Response> {
    let threads = 8;
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let runners: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut open: Vec<Connection> = (0..RACERS / threads).map(|_| world.connect()).collect();
                    start.wait();
                    open.iter_mut().for_each(|connection| connection.send(request.bytes()));
                    open.iter_mut().map(Connection::response).collect::<Vec<_>>()
                })
            })
            .collect();
        runners.into_iter().flat_map(|runner| runner.join().unwrap()).collect()
    })
}

fn exactly_as_many_pass_as_there_is_room_for(driver: Driver, cores: u32) {
    let world = World::with(Setup::new().driver(driver).cores(cores), obleth_upstream::Options::default());
    world.priced();
    world.taught();
    let measures = [Measure::RequestsPerMinute, Measure::DailyTokens, Measure::LifetimeMicroUsd];
    for measure in measures {
        for (of, latency_ms) in [(Of::Key, 0), (Of::Tenant, 300), (Of::Group, 0)] {
            if !of.can_have(measure) {
                continue;
            }
            let party = world.limited(of, measure, ROOM as u64 * cost(measure));
            let before = world.sim().requests;
            let answers = race(&world, &party.request().header("x-sim-latency-ms", latency_ms));
            assert_eq!(passed(&answers, measure), ROOM, "{of:?} {measure:?} {latency_ms}");
            assert_eq!(world.sim().requests - before, ROOM as u64, "{of:?} {measure:?}");
            let shorter = answers.iter().filter(|answer| answer.header("x-obleth-degraded").is_some());
            assert_eq!(shorter.count(), 0, "each is paid for in full");
            let late = world.ask_times(&party.request(), 8);
            assert_eq!(passed(&late, measure), 0, "{of:?} {measure:?}: nothing was left over");
        }
    }
    assert_eq!(world.gateway.metric("obleth_limit_failures_total"), 0.0);
}

#[test]
fn exactly_as_many_pass_as_there_is_room_for_on_two_cores() {
    exactly_as_many_pass_as_there_is_room_for(Driver::Uring, 2);
}

#[test]
fn exactly_as_many_pass_as_there_is_room_for_on_eight_cores() {
    exactly_as_many_pass_as_there_is_room_for(Driver::Uring, 8);
}

#[test]
fn exactly_as_many_pass_as_there_is_room_for_on_epoll() {
    exactly_as_many_pass_as_there_is_room_for(Driver::Epoll, 2);
}

#[test]
fn exactly_as_many_pass_as_there_is_room_for_on_eight_cores_of_epoll() {
    exactly_as_many_pass_as_there_is_room_for(Driver::Epoll, 8);
}

#[test]
fn nobody_is_refused_while_there_is_more_than_a_hundredth_left() {
    let world = World::with(Setup::new().cores(4), obleth_upstream::Options::default());
    world.priced();
    world.taught();
    const REQUESTS: usize = 4000;
    for measure in [Measure::RequestsPerMinute, Measure::MonthlyTokens, Measure::LifetimeMicroUsd] {
        let party = world.limited(Of::Tenant, measure, REQUESTS as u64 * cost(measure));
        let request = party.request();
        let before_the_end = REQUESTS * 99 / 100;
        let refused: usize = thread::scope(|scope| {
            let clients: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let answers = world.ask_times(&request, before_the_end / 16);
                        answers.len() - passed(&answers, measure)
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        // One in two thousand would be within what was promised.
        assert!(refused <= REQUESTS / 2000, "{measure:?}: {refused} of {before_the_end}");
        let used = before_the_end / 16 * 16 - refused;
        let rest = world.ask_times(&request, REQUESTS - used + 5);
        assert_eq!(
            passed(&rest, measure),
            REQUESTS - used,
            "{measure:?}: the rest, to the last {TOKENS} tokens"
        );
    }
}

/// Clients that leave at the same time, and how often each.
const LEAVERS: u64 = 20;
const LEAVES: u64 = 50;

fn of_streams_that_broke_off_the_limits_know_what_the_ledger_knows(driver: Driver) {
    let seed = seed();
    let setup = Setup::new().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0);
    let mut world = World::with(setup, obleth_upstream::Options::default());
    world.priced();
    let party = world.party();
    world.ample(&party);
    world.secret.clone_from(&party.secret);
    thread::scope(|scope| {
        for client in 0..LEAVERS {
            let world = &world;
            scope.spawn(move || {
                let mut random = Random::new(seed * LEAVERS + client);
                (0..LEAVES).for_each(|_| cancel(world, &mut random));
                // On a slow machine all of those may have left before anything was generated.
                let stream = world.chat(r#","stream":true,"sim_tokens":500"#).header("x-sim-tps", 500);
                let mut open = world.connect();
                open.send(stream.bytes());
                open.read_until("\"content\":");
                open.reset();
            });
        }
    });
    until_nothing_is_left(&world);
    assert_eq!(world.ask_times(&party.request(), 5).iter().filter(|answer| answer.status == 200).count(), 5);
    until("limits and ledger agree", || {
        let (budgets, ledger) = (party.budgets(&world.gateway), party.ledger(&world.gateway));
        assert_eq!(budgets.len(), 18, "three scopes, three periods, two units");
        // The last line is what a failure leaves behind.
        println!("{ledger:?} {budgets:?}");
        budgets.iter().all(|(_, measure, stand)| {
            stand.reserved == 0 && stand.spent == counted(*measure, ledger) && stand.spent > 5 * TOKENS
        })
    });
    assert_eq!(world.gateway.metric("obleth_budget_repairs_total"), 0.0, "nothing had to be put right");
}

#[test]
fn of_streams_that_broke_off_the_limits_know_what_the_ledger_knows_on_io_uring() {
    of_streams_that_broke_off_the_limits_know_what_the_ledger_knows(Driver::Uring);
}

#[test]
fn of_streams_that_broke_off_the_limits_know_what_the_ledger_knows_on_epoll() {
    of_streams_that_broke_off_the_limits_know_what_the_ledger_knows(Driver::Epoll);
}
