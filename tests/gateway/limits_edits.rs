//! Several limits at once, limits that change, and answers made shorter for what is left of a budget.

use std::time::Instant;

use obleth_policy::limit::Measure;
use serde_json::{Value, json};

use super::{
    http::Response,
    live_edits::{assert_spread, everywhere},
    parties::{INPUT, OUTPUT, Of, Party, TOKENS, code, cost, passed},
    process::until,
    world::{ENDPOINTS, World, body_of},
};

const RPM: Measure = Measure::RequestsPerMinute;
const EVER: Measure = Measure::LifetimeTokens;
/// What can be limited together in the table below.
const LIMITS: [(Of, Measure); 5] = [
    (Of::Key, RPM),
    (Of::Tenant, Measure::TokensPerMinute),
    (Of::Key, Measure::DailyTokens),
    (Of::Tenant, Measure::MonthlyMicroUsd),
    (Of::Group, EVER),
];

fn taught() -> World {
    let world = World::start();
    world.priced();
    world.taught();
    world
}

#[track_caller]
fn assert_names(answer: &Response, of: Of, measure: Measure) {
    assert_eq!((answer.status, answer.code().as_str()), (429, code(measure)), "{}", answer.text());
    assert!(answer.text().contains(&format!("The {}'s ", of.word())), "{of:?}: {}", answer.text());
}

#[test]
fn in_every_combination_each_limit_counts_and_the_one_that_is_short_is_named() {
    let world = taught();
    for set in 0..1_u32 << LIMITS.len() {
        let chosen: Vec<_> = (0..LIMITS.len()).filter(|at| set & 1 << at != 0).collect();
        // Each has room for many, but for one at a time, which has room for a single request, or for none.
        for tight in chosen.iter().map(|at| Some(*at)).chain([None]) {
            for room in [0, 1] {
                let party = world.party();
                for &at in &chosen {
                    let (of, measure) = LIMITS[at];
                    let requests = if tight == Some(at) { room } else { 1000 };
                    world.limit(&party, of, measure, Some(requests * cost(measure)));
                }
                let answers = world.ask_times(&party.request(), 3);
                let passing = if tight.is_some() { room as usize } else { 3 };
                for answer in &answers[..passing] {
                    assert_eq!(answer.status, 200, "{set:b} {tight:?}: {}", answer.text());
                }
                for answer in &answers[passing..] {
                    let (of, measure) = LIMITS[tight.unwrap()];
                    assert_names(answer, of, measure);
                }
            }
        }
    }
    assert_eq!(world.gateway.metric("obleth_limit_failures_total"), 0.0);
}

#[test]
fn who_is_refused_by_one_limit_has_used_nothing_of_the_others() {
    let world = taught();
    let party = world.limited(Of::Group, EVER, 0);
    let others =
        [(Of::Key, RPM), (Of::Tenant, Measure::TokensPerMinute), (Of::Tenant, Measure::DailyMicroUsd)];
    for (of, measure) in others {
        world.limit(&party, of, measure, Some(3 * cost(measure)));
    }
    assert_eq!(passed(&world.ask_times(&party.request(), 50), EVER), 0);
    world.limit(&party, Of::Group, EVER, None);
    until("the edit is in force", || world.ask(&party.request()).status == 200);
    let answers = world.ask_times(&party.request(), 3);
    assert!(answers[..2].iter().all(|answer| answer.status == 200), "{}", answers[1].text());
    assert_eq!(answers[2].status, 429);
}

#[test]
fn an_edit_of_a_limit_is_in_force_on_every_core_within_100_ms() {
    let world = taught();
    for (of, measure) in [
        (Of::Key, RPM),
        (Of::Tenant, RPM),
        (Of::Tenant, Measure::TokensPerMinute),
        (Of::Key, Measure::DailyTokens),
        (Of::Tenant, EVER),
        (Of::Tenant, Measure::MonthlyMicroUsd),
        (Of::Group, Measure::LifetimeMicroUsd),
    ] {
        let party = world.party();
        let request = party.request();
        let mut connections = everywhere(&world, &request);
        for (limit, code) in
            [(Some(0), code(measure)), (None, ""), (Some(0), code(measure)), (Some(1 << 40), ""), (None, "")]
        {
            world.limit(&party, of, measure, limit);
            assert_spread(&mut connections, &request, Instant::now(), code);
        }
    }
    assert_eq!(world.gateway.metric("obleth_limit_failures_total"), 0.0);
}

#[test]
fn a_budget_below_what_was_spent_refuses_from_then_on_and_says_that_nothing_is_left() {
    let world = taught();
    for of in Of::ALL {
        let (party, before) = (world.limited(of, EVER, 100 * TOKENS), world.sim().requests);
        let request = party.request();
        // Also what cores hold for later is worth nothing from then on.
        let spent = everywhere(&world, &request).len() as u64;
        world.limit(&party, of, EVER, Some(spent * TOKENS / 2));
        until("the edit is in force", || world.ask(&request).status == 429);
        let spent = world.sim().requests - before;
        let answers = world.ask_times(&request, 5);
        assert_eq!(passed(&answers, EVER), 0, "{of:?}");
        assert!(answers[0].text().contains("; 0 are left"), "{}", answers[0].text());
        world.limit(&party, of, EVER, Some((spent + 2) * TOKENS));
        until("the edit is in force", || world.ask(&request).status == 200);
        assert_eq!(passed(&world.ask_times(&request, 5), EVER), 1, "{of:?}: what was spent stays spent");
    }
}

#[test]
fn a_rotated_key_has_spent_what_it_had() {
    let world = taught();
    let party = world.party();
    world.limit(&party, Of::Key, EVER, Some(3 * TOKENS));
    world.limit(&party, Of::Key, RPM, Some(1000));
    assert_eq!(world.ask(&party.request()).status, 200);
    let rotated = world.gateway.post(&format!("/keys/{}/rotate", party.key_id), json!({"grace_secs": 60}));
    let secret = rotated.json()["secret"].as_str().unwrap().to_owned();
    let rotated = super::parties::fixed(&secret);
    assert_eq!((world.ask(&rotated).status, world.ask(&party.request()).status), (200, 200));
    for request in [&rotated, &party.request()] {
        assert_names(&world.ask(request), Of::Key, EVER);
    }
}

#[test]
fn a_tenant_that_moves_to_another_group_leaves_what_it_spent_where_it_was_spent() {
    let world = taught();
    let (mover, other) = (world.limited(Of::Group, EVER, 2 * TOKENS), world.limited(Of::Group, EVER, TOKENS));
    assert_eq!(passed(&world.ask_times(&mover.request(), 3), EVER), 2);
    let join = |group: &Party| {
        let body = json!({"group_name": group.group_name});
        world.gateway.put(&format!("/tenants/{}/group", mover.tenant_id), body);
    };
    join(&other);
    assert_eq!(passed(&world.ask_times(&mover.request(), 3), EVER), 1, "the other group has spent nothing");
    assert_eq!(passed(&world.ask_times(&other.request(), 3), EVER), 0, "and now it has");
    join(&mover);
    assert_eq!(passed(&world.ask_times(&mover.request(), 3), EVER), 0, "what was spent is not forgotten");
}

fn last_body(world: &World) -> Value {
    serde_json::from_slice(&world.sim.counters.last_request().body).unwrap()
}

#[test]
fn an_answer_is_made_as_short_as_the_budget_is() {
    let world = taught();
    let left = 50;
    let cases = [
        (0, "", json!({"max_tokens": left - INPUT})),
        (0, r#","max_tokens":1000"#, json!({"max_tokens": left - INPUT})),
        (0, r#","max_completion_tokens":1000"#, json!({"max_completion_tokens": left - INPUT})),
        (0, r#","n":2,"max_tokens":1000"#, json!({"max_tokens": (left - INPUT) / 2})),
        (1, r#","max_tokens":1000"#, json!({"max_tokens": left - INPUT})),
    ];
    for (endpoint, more, expected) in cases {
        for stream in ["", r#","stream":true"#] {
            let party = world.limited(Of::Tenant, EVER, left);
            let body = body_of(ENDPOINTS[endpoint], super::world::MODEL, &format!("{more}{stream}"));
            let request = super::http::Request::post(ENDPOINTS[endpoint], body).key(&party.secret);
            let answer = world.ask(&request);
            assert_eq!(answer.status, 200, "{more}: {}", answer.text());
            let (name, longest) = expected.as_object().unwrap().iter().next().unwrap();
            let (sent, longest) = (last_body(&world), longest.as_u64().unwrap());
            let cap = sent[name].as_u64().unwrap_or_else(|| panic!("{more}: {sent}"));
            // The input is as dense as the densest that this core has seen.
            assert!((longest - 2..=longest + 1).contains(&cap), "{longest}: {sent}");
            assert_eq!(
                answer.header("x-obleth-degraded"),
                Some(format!("max_tokens={cap}").as_str()),
                "{more}"
            );
            let limits =
                ["max_tokens", "max_completion_tokens"].iter().filter(|name| !sent[**name].is_null());
            assert_eq!(limits.count(), 1, "{sent}");
        }
    }
}

#[test]
fn an_answer_that_the_budget_pays_for_is_left_as_it_was_asked_for() {
    let world = taught();
    let party = world.limited(Of::Key, EVER, 3 * TOKENS);
    for _ in 0..3 {
        let answer = world.ask(&party.request());
        assert_eq!((answer.status, answer.header("x-obleth-degraded")), (200, None));
        assert_eq!(last_body(&world)["max_tokens"], OUTPUT);
    }
    // What came to less than it might have is there again.
    let party = world.limited(Of::Key, EVER, 100);
    let short = party.chat(r#","max_tokens":90,"sim_tokens":2"#);
    assert_eq!(passed(&world.ask_times(&short, 15), EVER), 15);
    let rest = 100 - 15 * (INPUT + 2);
    let answer = world.ask(&party.chat(r#","max_tokens":90,"sim_tokens":90"#));
    let cap = answer.json()["usage"]["completion_tokens"].as_u64().unwrap();
    assert!((rest - INPUT - 1..=rest - INPUT).contains(&cap), "{cap} of {rest}");
    assert_names(&world.ask(&short), Of::Key, EVER);
}
