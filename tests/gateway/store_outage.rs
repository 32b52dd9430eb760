//! The store breaks under a running gateway: known keys go on, unknown ones are told to come back, nobody gets 401.
//!
//! This is the one file that knows how the store is kept: another program takes its tables away and gives them
//! back, which is what a damaged file looks like to the gateway.

use rusqlite::Connection as Database;
use serde_json::json;

use super::{
    http::{Connection, Request},
    process::{Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of, page},
};

/// Renames every table, so that no statement of the gateway works; a second call gives them back.
pub(crate) fn toggle_tables(world: &World) {
    let database = Database::open(world.gateway.data_dir().join("obleth.db")).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let names: Vec<String> = database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for name in names {
        let other = name.strip_suffix("_gone").map_or_else(|| format!("{name}_gone"), str::to_owned);
        database.execute(&format!("ALTER TABLE \"{name}\" RENAME TO \"{other}\""), ()).unwrap();
    }
}

fn ask(world: &World, secret: &str) -> super::http::Response {
    world.ask(&Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(secret))
}

#[test]
fn known_keys_work_on_every_core_and_unknown_ones_get_503() {
    let world = World::start();
    let (_, never_used) = world.new_key(json!({"name": "never used"}));
    assert_eq!(ask(&world, &world.secret).status, 200);
    toggle_tables(&world);
    for number in 0..64 {
        assert_eq!(ask(&world, &world.secret).status, 200, "a key seen on one core works on all");
        let refused = ask(&world, &format!("sk_{number:048}"));
        assert_refused(&refused, "auth_store_unavailable");
        assert!(refused.header("retry-after").is_some());
        let unseen = ask(&world, &never_used);
        assert!(unseen.status == 200 || unseen.code() == "auth_store_unavailable", "{}", unseen.text());
    }
    assert_refused(&world.ask(&Request::get("/v1/models").key("sk_other")), "auth_store_unavailable");
    assert_refused(&world.ask(&Request::get("/v1/models")), "missing_api_key");
    let health = page(world.gateway.admin, "/api/v1/health");
    assert_eq!(
        (health.status, health.json()["status"].clone()),
        (503, json!("degraded")),
        "{}",
        health.text()
    );
    assert_ne!(health.json()["store"], "ok");
    let refused = world.gateway.post("/tenants", json!({"name": "not now"}));
    assert!(refused.status >= 500, "{}", refused.text());
    for leak in ["no such table", "tenants", "SELECT", "INSERT", ".db", "sqlite"] {
        assert!(!refused.text().contains(leak), "{leak}: {}", refused.text());
    }
    toggle_tables(&world);
    until("unknown keys are unknown again", || ask(&world, "sk_fresh").code() == "invalid_api_key");
    until("the key that was never used works", || ask(&world, &never_used).status == 200);
    until("the store is well again", || page(world.gateway.admin, "/api/v1/health").status == 200);
    assert_eq!(world.gateway.metric("obleth_worker_restarts_total"), 0.0);
}

#[test]
fn without_fail_open_a_key_works_only_as_long_as_it_is_young() {
    let setup = Setup::new().cores(1).env("OBLETH_FAIL_OPEN", "off").env("OBLETH_KEY_MAX_AGE_MS", 1000);
    let world = World::with(setup, obleth_upstream::Options::default());
    assert_eq!(ask(&world, &world.secret).status, 200);
    toggle_tables(&world);
    until("an old key is not believed", || ask(&world, &world.secret).code() == "auth_store_unavailable");
    toggle_tables(&world);
    until("it works again", || ask(&world, &world.secret).status == 200);
}

#[test]
fn a_key_that_grows_old_in_an_outage_goes_on_working() {
    let setup = Setup::new().cores(1).env("OBLETH_KEY_MAX_AGE_MS", 100);
    let world = World::with(setup, obleth_upstream::Options::default());
    let mut connection: Connection = world.connect();
    assert_eq!(connection.ask(&world.chat("")).status, 200);
    toggle_tables(&world);
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(2) {
        assert_eq!(connection.ask(&world.chat("")).status, 200);
    }
}
