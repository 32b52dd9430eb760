//! A model's prices: versions, what shows them, and what requests run under.

mod running;

use std::sync::Arc;

use obleth_link::Command;
use obleth_policy::{price::Prices, snapshot::Snapshot};
use running::Running;
use serde_json::{Value, json};

const MODEL: &str = r#"{"model_name":"m","api_base":"http://127.0.0.1:1"}"#;

/// The path of a fresh model without prices.
fn model(sidecar: &Running) -> String {
    path(&sidecar.expect(201, ("POST", "/models"), MODEL))
}

fn path(model: &Value) -> String {
    format!("/models/{}", model["id"].as_str().unwrap())
}

/// Edits a model's prices; those that it has then.
fn set(sidecar: &Running, path: &str, prices: &str) -> Value {
    sidecar.expect(200, ("PATCH", path), &format!(r#"{{"prices":{prices}}}"#))["prices"].clone()
}

fn list(version: u32, [input, cached, output]: [Option<u64>; 3]) -> Value {
    json!({
        "version": version, "input_micro_usd": input, "cached_input_micro_usd": cached, "output_micro_usd": output,
        "image_micro_usd": null, "second_micro_usd": null, "character_micro_usd": null,
    })
}

/// The price list of the model that the newest snapshot holds.
fn in_effect(sidecar: &Running) -> Prices {
    let told = std::iter::from_fn(|| sidecar.shards[0].0.take());
    let snapshots = told.filter_map(|told| if let Command::Snapshot(s) = told { Some(s) } else { None });
    let newest: Arc<Snapshot> = snapshots.last().expect("no snapshot was sent");
    newest.model("m").unwrap().prices
}

/// All versions, without what differs from run to run.
fn versions(sidecar: &Running, path: &str) -> Vec<Value> {
    let mut rows = sidecar.expect(200, ("GET", &format!("{path}/prices")), "");
    let rows = rows.as_array_mut().unwrap();
    for row in rows.iter_mut().map(|row| row.as_object_mut().unwrap()) {
        assert!(row.remove("id").is_some_and(|id| id.is_string()));
        assert!(row.remove("created_at").is_some_and(|at| at.as_str().unwrap().ends_with('Z')));
    }
    rows.clone()
}

#[test]
fn every_change_of_prices_is_a_version_and_earlier_ones_stay_readable() {
    let sidecar = Running::start();
    let path = model(&sidecar);
    assert_eq!(sidecar.expect(200, ("GET", &path), "")["prices"], list(0, [None; 3]), "no price is not zero");
    assert!(versions(&sidecar, &path).is_empty());

    let first = list(1, [Some(2_500_000), Some(0), Some(10_000_000)]);
    let said = r#"{"input_micro_usd":2500000,"cached_input_micro_usd":0,"output_micro_usd":10000000}"#;
    assert_eq!(set(&sidecar, &path, said), first);
    let second = list(2, [Some(2_500_000), None, Some(1)]);
    assert_eq!(set(&sidecar, &path, r#"{"cached_input_micro_usd":null,"output_micro_usd":1}"#), second);
    for same in [r#"{"output_micro_usd":1}"#, "{}"] {
        assert_eq!(set(&sidecar, &path, same), second, "no change, no version: {same}");
    }
    sidecar.expect(200, ("PUT", &format!("{path}/capacity")), r#"{"max_in_flight":4}"#);
    let third = list(3, [None; 3]);
    assert_eq!(set(&sidecar, &path, "null"), third);
    assert_eq!(sidecar.expect(200, ("GET", &path), "")["prices"], third);
    assert_eq!(versions(&sidecar, &path), [third.clone(), second.clone(), first.clone()]);

    let page = sidecar.get(&format!("{path}/prices?limit=2"));
    let link = page.header("link").unwrap();
    let next = link.split_once('>').unwrap().0.trim_start_matches("</api/v1");
    let rest = sidecar.expect(200, ("GET", next), "");
    assert_eq!((rest[0]["version"].as_u64(), rest.as_array().unwrap().len()), (Some(1), 1));

    sidecar.expect(200, ("DELETE", &path), "");
    assert_eq!(versions(&sidecar, &path), [third, second, first], "rows of the ledger still name them");
    sidecar.expect(404, ("GET", &path), "");
    sidecar.expect(404, ("GET", "/models/01890000-0000-7000-8000-000000000000/prices"), "");
    sidecar.expect(404, ("GET", "/models/x/prices"), "");
}

#[test]
fn requests_that_start_after_the_answer_run_under_the_new_prices() {
    let sidecar = Running::start();
    let path = model(&sidecar);
    assert_eq!(in_effect(&sidecar), Prices::default());
    let all = r#"{"input_micro_usd":1,"cached_input_micro_usd":2,"output_micro_usd":3,"image_micro_usd":4,
                  "second_micro_usd":5,"character_micro_usd":9007199254740991}"#;
    set(&sidecar, &path, all);
    let expected = Prices {
        version: 1,
        input: Some(1),
        cached_input: Some(2),
        output: Some(3),
        image: Some(4),
        second: Some(5),
        character: Some((1 << 53) - 1),
    };
    assert_eq!(in_effect(&sidecar), expected);
    set(&sidecar, &path, r#"{"input_micro_usd":0,"second_micro_usd":null}"#);
    assert_eq!(in_effect(&sidecar), Prices { version: 2, input: Some(0), second: None, ..expected });
}

#[test]
fn a_model_can_be_made_with_prices_and_has_them_after_a_restart() {
    let sidecar = Running::start();
    let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","prices":{"input_micro_usd":7}}"#;
    let made = sidecar.expect(201, ("POST", "/models"), body);
    let first = list(1, [Some(7), None, None]);
    assert_eq!(made["prices"], first);
    let path = path(&made);
    set(&sidecar, &path, r#"{"output_micro_usd":8}"#);
    let (dir, settings) = sidecar.stop();
    let again = Running::start_in(dir, settings).unwrap();
    let second = list(2, [Some(7), None, Some(8)]);
    assert_eq!(again.expect(200, ("GET", "/models"), "")[0]["prices"], second);
    assert_eq!(versions(&again, &path), [second, first]);
    again.tenant("acme");
    assert_eq!(in_effect(&again).version, 2);
}

#[test]
fn a_change_of_prices_is_on_record_with_what_was_and_what_is() {
    let sidecar = Running::start();
    let path = model(&sidecar);
    set(&sidecar, &path, r#"{"input_micro_usd":7}"#);
    let newest = "SELECT before, after FROM audit WHERE action = 'model.update' ORDER BY id DESC LIMIT 1";
    let (before, after): (String, String) =
        sidecar.outside().query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let prices = |text: &str| serde_json::from_str::<Value>(text).unwrap()["prices"].clone();
    assert_eq!(prices(&before), list(0, [None; 3]));
    assert_eq!(prices(&after), list(1, [Some(7), None, None]));
}
