//! What budgets have used: the ledger's sums, also after the gateway was killed under load.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use obleth_upstream::Options;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    clock::{Clock, Fault},
    http::{Connection, Request},
    process::{Setup, until},
    world::{World, chat},
};

const CLIENTS: usize = 8;
/// Larger than what any of these tests comes to.
const PLENTY: u64 = 1 << 50;
const ALL_USAGE: &str = "/usage?from=2026-01-01&to=2100-01-01";

/// Asks again and again until it is over or the gateway is gone.
fn ask_on(world: &World, (answered, over): (&AtomicUsize, &AtomicBool)) {
    let Ok(mut connection) = Connection::try_open(world.gateway.data) else { return };
    while !over.load(Ordering::Relaxed) {
        let number = answered.fetch_add(1, Ordering::Relaxed);
        let more = [r#","stream":true"#, ""][number % 2];
        let request = Request::post("/v1/chat/completions", chat(more)).key(&world.secret);
        if !connection.try_send(request.bytes()) || connection.try_response().is_none() {
            return;
        }
    }
}

/// Load until so many requests were begun, and then what `end` does in the middle of it.
fn load(world: &World, requests: usize, end: impl FnOnce()) {
    let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| ask_on(world, (&answered, &over)));
        }
        until("requests are answered", || answered.load(Ordering::Relaxed) >= requests);
        end();
        over.store(true, Ordering::Relaxed);
    });
}

fn set_prices(world: &World) {
    let prices = json!({"prices": {"input_micro_usd": 3_000_000, "output_micro_usd": 7_000_000}});
    world.gateway.patch(&format!("/models/{}", world.model_id), prices);
}

/// Tokens and money of the ledger.
fn ledger(world: &World) -> (Value, Value) {
    let totals = world.gateway.get(ALL_USAGE).json()["totals"].clone();
    let tokens = ["input_tokens", "output_tokens"].map(|name| totals[name].as_u64().unwrap_or(0));
    (json!(tokens[0] + tokens[1]), totals["cost_micro_usd"].clone())
}

/// Tokens and money of every budget that there is.
fn spent(world: &World) -> Vec<(Value, Value)> {
    let rows = world.gateway.get("/budgets").json();
    let rows = rows.as_array().expect("a list");
    assert!(rows.iter().all(|row| row["reserved"] == 0 && row["exhausted"] == false), "{rows:?}");
    rows.chunks(2).map(|pair| (pair[0]["spent"].clone(), pair[1]["spent"].clone())).collect()
}

#[track_caller]
fn until_they_agree(world: &World) {
    world.until_idle();
    let are_in = || world.gateway.metric("obleth_usage_wal_records") == 0.0;
    until("the ledger has every record", are_in);
    let ledger = ledger(world);
    until("budgets have used what the ledger says", || spent(world).iter().all(|spent| *spent == ledger));
}

#[test]
fn what_budgets_have_used_is_what_the_ledger_says_after_every_kill() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::new().cores(2).data_dir(data.path());
    let options = Options { latency_ms: 2, tokens_per_second: 2000.0, ..Options::default() };
    let mut world = World::with(setup.clone(), options);
    set_prices(&world);
    let set = |world: &World, kind: &str, id: &str, period: &str| {
        let budget = json!({"period": period, "limit_tokens": PLENTY, "limit_micro_usd": PLENTY});
        world.gateway.put(&format!("/{kind}/{id}/budget"), budget);
    };
    set(&world, "tenants", &world.tenant_id, "lifetime");
    for life in 0..4 {
        load(&world, 60, || {
            // Made in the middle of it, with a past.
            if life == 1 {
                set(&world, "keys", &world.key_id, "lifetime");
                set(&world, "keys", &world.key_id, "monthly");
            }
        });
        until_they_agree(&world);
        load(&world, 60, || world.gateway.signal(Signal::KILL));
        world.gateway.wait();
        world.gateway = setup.clone().start();
        until_they_agree(&world);
        assert_eq!(spent(&world).len(), if life == 0 { 1 } else { 3 });
    }
}

#[test]
fn what_budgets_have_used_is_what_the_ledger_says_after_every_death_of_a_thread() {
    let (clock, data) = (Clock::new(), tempfile::tempdir().unwrap());
    let setup = clock.given_to(Setup::new().cores(2).data_dir(data.path()));
    let options = Options { latency_ms: 2, tokens_per_second: 2000.0, ..Options::default() };
    let world = World::with(setup, options);
    set_prices(&world);
    let budget = json!({"period": "daily", "limit_tokens": 100_000_000, "limit_micro_usd": PLENTY});
    world.gateway.put(&format!("/tenants/{}/budget", world.tenant_id), budget);
    // A shard may be hit in a request, which then dies alone.
    for thread in ["obleth-shard-0", "obleth-sidecar", "obleth-shard-1", "obleth-coord"] {
        let die = || {
            let faults = clock.faults();
            clock.order(&world.gateway, thread, Fault::FailsAt(1));
            until("the clock has failed", || clock.faults() > faults);
        };
        load(&world, 60, die);
        until("the sidecar answers", || {
            Connection::open(world.gateway.admin).answers(&Request::get("/api/v1/health"), 200)
        });
        until_they_agree(&world);
    }
    let said = world.gateway.stderr();
    assert!(["the sidecar died", "the coordinator died"].iter().all(|death| said.contains(death)), "{said}");
}
