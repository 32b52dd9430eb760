//! Rates and budgets as a client meets them: who is refused, in which words, and what it is told to do.

use obleth_policy::limit::{Measure, Period};
use serde_json::json;

use super::{
    clock::Clock,
    disconnects::{Exit, leave},
    http::{Request, Response},
    parties::{Of, Party, TOKENS, code, cost, passed},
    process::{Setup, until},
    queue::{line_up, narrow, occupy, queued},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, Nobody, World, body_of},
};

const RPM: Measure = Measure::RequestsPerMinute;
const TPM: Measure = Measure::TokensPerMinute;
const EVER: Measure = Measure::LifetimeTokens;

/// A world whose cores know what requests come to, and whose model has prices.
fn taught() -> World {
    let world = World::start();
    world.priced();
    world.taught();
    world
}

fn message(answer: &Response) -> String {
    answer.json()["error"]["message"].as_str().unwrap().to_owned()
}

/// Checks a refusal by a limit: its words, its headers.
#[track_caller]
fn assert_short(answer: &Response, of: Of, measure: Measure, limit: u64, left: u64) {
    assert_refused(answer, code(measure));
    let text = message(answer);
    let unit = ["requests", "tokens", "micro-USD"][measure.unit() as usize];
    assert!(
        text.contains(&format!("{limit} {unit}")) && text.contains(&format!("{left} are left")),
        "{text}"
    );
    let said = match measure.period() {
        Period::Minute => format!("The {}'s limit is {limit}", of.word()),
        period => format!("The {}'s {} budget is {limit}", of.word(), period.as_str()),
    };
    assert!(text.starts_with(&said), "{text}");
    let advice = |name: &str| answer.header(name).map(|value| value.parse::<u64>().unwrap());
    match measure.period() {
        Period::Minute => {
            let (seconds, ms) = (advice("retry-after").unwrap(), advice("retry-after-ms").unwrap());
            assert!((1..=59).contains(&seconds) && ms.div_ceil(1000) == seconds, "{seconds} s, {ms} ms");
            assert!(text.contains("There is room again in "), "{text}");
        }
        Period::Lifetime => assert!(text.ends_with("It does not begin anew."), "{text}"),
        _ => assert!(text.contains("It begins anew at ") && text.ends_with("T00:00:00Z."), "{text}"),
    }
}

#[test]
fn every_limit_of_every_scope_lets_through_what_it_has_room_for_and_says_what_it_refused() {
    let world = taught();
    for measure in Measure::ALL {
        for of in Of::ALL.into_iter().filter(|of| of.can_have(measure)) {
            let limit = 2 * cost(measure);
            let party = world.limited(of, measure, limit);
            let answers = world.ask_times(&party.request(), 4);
            assert_eq!(passed(&answers, measure), 2, "{of:?} {measure:?}");
            assert_short(&answers[2], of, measure, limit, 0);
            assert_short(&answers[3], of, measure, limit, 0);
            world.limit(&party, of, measure, None);
            until("it was taken away", || world.ask(&party.request()).status == 200);
        }
    }
    assert_eq!(world.gateway.metric("obleth_limit_failures_total"), 0.0);
}

#[test]
fn a_limit_of_nothing_allows_nothing() {
    let world = taught();
    let before = world.sim().requests;
    for measure in Measure::ALL {
        let party = world.limited(Of::Tenant, measure, 0);
        assert_short(&world.ask(&party.request()), Of::Tenant, measure, 0, 0);
    }
    assert_eq!(world.sim().requests, before);
}

/// The value of a rate's header.
fn rate(answer: &Response, what: &str, unit: &str) -> String {
    answer.header(&format!("x-ratelimit-{what}-{unit}")).unwrap_or_default().to_owned()
}

#[test]
fn every_answer_says_how_the_tightest_rates_stand() {
    let world = taught();
    let party = world.limited(Of::Key, RPM, 5);
    world.limit(&party, Of::Tenant, RPM, Some(100));
    world.limit(&party, Of::Tenant, TPM, Some(1000));
    let models = Request::get("/v1/models").key(&party.secret);
    let unknown = Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], "nothing", "")).key(&party.secret);
    let stream = party.chat(r#","stream":true,"max_tokens":7"#);
    let requests = [
        (&party.request(), 200, 4),
        (&stream, 200, 3),
        (&models, 200, 3),
        (&unknown, 404, 3),
        (&party.request(), 200, 2),
        (&party.request(), 200, 1),
        (&party.request(), 200, 0),
        (&party.request(), 429, 0),
        (&models, 200, 0),
    ];
    let mut connection = world.connect();
    for (request, status, left) in requests {
        let answer = connection.ask(request);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(rate(&answer, "limit", "requests"), "5");
        assert_eq!(rate(&answer, "remaining", "requests"), left.to_string(), "{status}");
        assert_eq!(rate(&answer, "limit", "tokens"), "1000");
        let tokens: u64 = rate(&answer, "remaining", "tokens").parse().unwrap();
        assert!((900..1000).contains(&tokens), "{tokens}");
        for unit in ["requests", "tokens"] {
            let reset = rate(&answer, "reset", unit);
            assert!(
                reset == "1m0s" || reset.strip_suffix('s').is_some_and(|s| s.parse::<u8>().is_ok()),
                "{reset}"
            );
        }
    }
    let free = world.ask(&world.chat(""));
    assert!(free.headers.iter().all(|(name, _)| !name.starts_with("x-ratelimit-")), "no limit, no header");
}

#[test]
fn what_the_backend_says_of_its_own_rates_arrives_under_another_name() {
    let world = taught();
    let party = world.limited(Of::Key, RPM, 5);
    let request = party.request().header("x-sim-header", "x-ratelimit-remaining-requests: 4711");
    let answer = world.ask(&request);
    assert_eq!(rate(&answer, "remaining", "requests"), "4");
    assert_eq!(answer.header("x-upstream-ratelimit-remaining-requests"), Some("4711"));
}

#[test]
fn who_waits_as_told_is_served() {
    let clock = Clock::new();
    let world = World::with(clock.given_to(Setup::new()), obleth_upstream::Options::default());
    world.taught();
    let mut passed_s = 0;
    for measure in [RPM, TPM] {
        let party = world.limited(Of::Tenant, measure, 2 * cost(measure));
        assert_eq!(passed(&world.ask_times(&party.request(), 3), measure), 2);
        passed_s += 57;
        clock.pass(passed_s);
        let refused = world.ask(&party.request());
        assert_eq!(refused.code(), code(measure), "{}", refused.text());
        let again: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
        assert!(again <= 3000, "{again} ms of a minute of which 57 s have passed");
        // The wait is what is tested.
        std::thread::sleep(std::time::Duration::from_millis(again));
        let served = world.ask(&party.request());
        assert_eq!(served.status, 200, "{}", served.text());
    }
    assert_eq!(world.gateway.metric("obleth_worker_restarts_total"), 0.0);
}

#[test]
fn in_ten_minutes_each_minute_comes_within_one_request_of_its_tokens() {
    const STEP_S: i32 = 15;
    const LIMIT: u64 = 12 * TOKENS + TOKENS / 2;
    let clock = Clock::new();
    let world = World::with(clock.given_to(Setup::new()), obleth_upstream::Options::default());
    world.taught();
    let party = world.limited(Of::Tenant, TPM, LIMIT);
    // What is expected of a request may be wrong by more than the request: some are short, and say that they are long.
    let requests = [party.request(), party.chat(r#","max_tokens":9,"sim_tokens":4"#)];
    let (mut used, mut asked) = (Vec::new(), 0);
    for step in 0..=40 {
        clock.pass(step * STEP_S);
        let before = world.sim();
        while world.ask(&requests[asked % 2]).status == 200 {
            asked += 1;
        }
        let after = world.sim();
        used.push(
            after.prompt_tokens + after.completion_tokens - before.prompt_tokens - before.completion_tokens,
        );
    }
    // A request that was let in a moment late is of the next step.
    for (at, minute) in used.windows(4).enumerate() {
        let minute: u64 = minute.iter().sum();
        assert!(minute <= LIMIT + TOKENS, "{minute} in the minute from step {at}: {used:?}");
    }
    let all: u64 = used.iter().sum();
    assert!(all >= 10 * (LIMIT - TOKENS), "{all}: {used:?}");
}

#[test]
fn what_has_no_price_passes_a_budget_of_money_and_counts_nothing_in_it() {
    let world = World::start();
    world.taught();
    let money = Measure::LifetimeMicroUsd;
    let party = world.limited(Of::Key, money, super::parties::MICRO_USD);
    assert_eq!(passed(&world.ask_times(&party.request(), 5), money), 5);
    world.priced();
    assert_eq!(passed(&world.ask_times(&party.request(), 3), money), 1, "all of it was left");
    let free = json!({"prices": {"input_micro_usd": 0, "output_micro_usd": 0}});
    world.gateway.patch(&format!("/models/{}", world.model_id), free);
    assert_eq!(passed(&world.ask_times(&party.request(), 3), money), 3, "what is free needs nothing");
}

#[test]
fn a_refused_request_leaves_every_limit_as_it_was() {
    let world = narrow(Setup::new().env("OBLETH_MAX_QUEUE_DEPTH", 1), 1);
    world.priced();
    world.taught();
    world.new_model("foreign", json!({}));
    let party = world.party();
    world.gateway.put(&format!("/keys/{}/allowlist", party.key_id), json!({"allowed_models": [MODEL]}));
    for measure in Measure::ALL {
        world.limit(&party, Of::Tenant, measure, Some(2 * cost(measure)));
    }
    let of = |model: &str| {
        let body = body_of(ENDPOINTS[0], model, r#","max_tokens":7"#);
        Request::post(ENDPOINTS[0], body).key(&party.secret)
    };
    let refused = |code: &str, request: &Request| {
        for answer in world.ask_times(request, 20) {
            assert_eq!(answer.code(), code, "{}", answer.text());
        }
    };
    refused("invalid_json", &Request::post(ENDPOINTS[0], "{").key(&party.secret));
    refused("model_not_found", &of("nothing"));
    refused("model_not_allowed", &of("foreign"));
    refused("upstream_rejected", &party.request().header("x-sim-fault", "status-429"));
    let model = format!("/models/{}", world.model_id);
    world.gateway.put(&format!("{model}/capacity"), json!({"max_in_flight": 0}));
    refused("pool_closed", &party.request());
    world.gateway.put(&format!("{model}/capacity"), json!({"max_in_flight": 1}));
    let nobody = Nobody::new();
    world
        .gateway
        .patch(&model, json!({"endpoints": [{"name": "a", "api_base": format!("http://{}", nobody.addr)}]}));
    refused("upstream_unreachable", &party.request());
    world.gateway.patch(&model, json!({"endpoints": [{"name": "a", "api_base": world.sim.url()}]}));
    let holder = occupy(&world);
    let waiting = line_up(&world, &world.chat(""));
    refused("queue_full", &party.request());
    drop((holder, waiting));
    world.until_idle();
    let answers = world.ask_times(&party.request(), 3);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2, "{}", answers[1].text());
}

#[test]
fn who_leaves_while_it_waits_has_used_nothing() {
    let world = narrow(Setup::new(), 1);
    world.taught();
    let measures = [RPM, EVER];
    let parties: Vec<Party> = measures.map(|m| world.limited(Of::Key, m, cost(m))).into_iter().collect();
    for (party, measure) in parties.iter().zip(measures) {
        let holder = occupy(&world);
        let waiting = line_up(&world, &party.request());
        assert_eq!(world.ask(&party.request()).code(), code(measure), "it is reserved");
        drop(leave(waiting, Exit::Reset));
        until("nobody waits any more", || queued(&world) == 0.0);
        drop(holder);
        until("it is there again", || world.ask(&party.request()).status == 200);
        assert_eq!(world.ask(&party.request()).code(), code(measure), "once");
        world.until_idle();
    }
}

#[test]
fn a_day_and_a_month_begin_anew_in_the_zone_of_the_tenant_and_none_begins_twice() {
    const DAY: i32 = 86_400;
    let clock = Clock::new();
    let world = World::with(clock.given_to(Setup::new()), obleth_upstream::Options::default());
    world.taught();
    let (daily, monthly) = (Measure::DailyTokens, Measure::MonthlyTokens);
    let parties = [daily, monthly, EVER].map(|measure| (measure, world.limited(Of::Tenant, measure, TOKENS)));
    for (measure, party) in &parties {
        world.gateway.patch(&party.path(Of::Tenant), json!({"time_zone": "Asia/Kolkata"}));
        let answers = world.ask_times(&party.request(), 2);
        assert_eq!(passed(&answers, *measure), 1);
        let begins_anew = message(&answers[1]).contains("T18:30:00Z");
        assert_eq!(begins_anew, *measure != EVER, "{}", message(&answers[1]));
    }
    let passes = |at: usize| passed(&world.ask_times(&parties[at].1.request(), 3), parties[at].0);
    clock.set_ahead(DAY);
    assert_eq!(passes(0), 1, "a new day");
    clock.set_ahead(0);
    assert_eq!(passes(0), 0, "the same day again is not a new one");
    clock.set_ahead(32 * DAY);
    assert_eq!((passes(0), passes(1), passes(2)), (1, 1, 0));
}
