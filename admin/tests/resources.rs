//! Every resource of the admin API: what comes back from each call, exactly.

mod running;

use obleth_link::Command;
use obleth_policy::{id::TenantId, key::KeyAnswer};
use running::Running;
use serde_json::{Value, json};

/// The members of an object, sorted.
fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_tenant_lives_from_creation_to_deletion() {
    let sidecar = Running::start();
    let made = sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme","weight":200}"#);
    let id = made["id"].as_str().unwrap().to_owned();
    let expected = json!({
        "id": id, "name": "acme", "weight": 200, "group_name": "default", "status": "active",
        "tokens_per_minute": null, "requests_per_minute": null, "max_in_flight": null,
        "allowed_models": null, "allowed_ips": null, "brownout": null, "time_zone": "UTC", "budgets": [],
        "created_at": made["created_at"],
    });
    assert_eq!(made, expected);
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    let path = format!("/tenants/{id}");
    assert_eq!(sidecar.expect(200, ("GET", &path), ""), made);
    assert_eq!(sidecar.expect(200, ("GET", "/tenants"), ""), json!([made]));

    sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold","weight":300}"#);
    let puts = [
        ("quota", r#"{"tokens_per_minute": 200000}"#, json!({"tokens_per_minute": 200_000})),
        (
            "quota",
            r#"{"requests_per_minute": 0}"#,
            json!({"tokens_per_minute": 200_000, "requests_per_minute": 0}),
        ),
        ("quota", r#"{"tokens_per_minute": null}"#, json!({"tokens_per_minute": null})),
        ("weight", r#"{"weight": 7}"#, json!({"weight": 7})),
        ("group", r#"{"group_name": "gold"}"#, json!({"group_name": "gold"})),
        ("brownout", r#"{"brownout": "reject"}"#, json!({"brownout": "reject"})),
        ("brownout", r#"{"brownout": null}"#, json!({"brownout": null})),
        ("status", r#"{"status": "suspended"}"#, json!({"status": "suspended"})),
        ("allowlist", r#"{"allowed_models": ["a", "b"]}"#, json!({"allowed_models": ["a", "b"]})),
        ("allowlist", r#"{"allowed_models": []}"#, json!({"allowed_models": []})),
        ("allowlist", r#"{"allowed_models": null}"#, json!({"allowed_models": null})),
    ];
    for (what, body, changed) in puts {
        let answer = sidecar.expect(200, ("PUT", &format!("{path}/{what}")), body);
        for (member, value) in changed.as_object().unwrap() {
            assert_eq!(&answer[member], value, "{what} {body}");
        }
    }
    let patched = sidecar.expect(200, ("PATCH", &path), r#"{"name":"acme 2","max_in_flight":5}"#);
    assert_eq!(
        (&patched["name"], &patched["max_in_flight"], &patched["weight"]),
        (&json!("acme 2"), &json!(5), &json!(7))
    );

    assert_eq!(sidecar.expect(200, ("DELETE", &path), ""), patched);
    sidecar.expect(404, ("GET", &path), "");
    sidecar.expect(404, ("DELETE", &path), "");
    assert_eq!(sidecar.expect(200, ("GET", "/tenants"), ""), json!([]));
    sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme 2"}"#);
}

#[test]
fn a_key_shows_its_secret_once_and_lives_from_creation_to_deletion() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let answer = sidecar.send("POST", &format!("/tenants/{tenant}/keys"), r#"{"name":"ci"}"#);
    assert_eq!((answer.status, answer.header("cache-control")), (201, Some("no-store")));
    let made = answer.json();
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.len() == 51 && secret.starts_with("sk_"));
    assert_eq!(made["key_prefix"].as_str(), Some(&secret[..7]));
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("secret");
    let id = made["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "tenant_id": tenant, "name": "ci", "key_prefix": secret[..7], "disabled": false,
        "expires_at": null, "allowed_models": null, "weight": 100, "tokens_per_minute": null,
        "requests_per_minute": null, "max_in_flight": null, "allowed_ips": null, "budgets": [],
        "previous_secret_ends_at": null, "created_at": made["created_at"],
    });
    assert_eq!(shown, expected);

    let path = format!("/keys/{id}");
    assert_eq!(sidecar.expect(200, ("GET", &path), ""), shown);
    assert_eq!(sidecar.expect(200, ("GET", "/keys"), ""), json!([shown]));
    assert_eq!(sidecar.expect(200, ("GET", &format!("/tenants/{tenant}/keys")), ""), json!([shown]));
    assert_eq!(sidecar.expect(200, ("GET", &format!("/keys?tenant_id={tenant}")), ""), json!([shown]));
    let puts = [
        ("disabled", r#"{"disabled": true}"#, "disabled", json!(true)),
        ("disabled", r#"{"disabled": false}"#, "disabled", json!(false)),
        ("weight", r#"{"weight": 5}"#, "weight", json!(5)),
        ("quota", r#"{"tokens_per_minute": 9, "requests_per_minute": 8}"#, "requests_per_minute", json!(8)),
        ("allowlist", r#"{"allowed_models": ["m"]}"#, "allowed_models", json!(["m"])),
    ];
    for (what, body, member, value) in puts {
        assert_eq!(sidecar.expect(200, ("PUT", &format!("{path}/{what}")), body)[member], value, "{what}");
    }
    let patch = r#"{"name":"ci 2","expires_at":"2030-01-01T01:00:00+01:00","max_in_flight":1}"#;
    let patched = sidecar.expect(200, ("PATCH", &path), patch);
    assert_eq!(patched["expires_at"], "2030-01-01T00:00:00Z");
    assert_eq!((&patched["name"], &patched["tokens_per_minute"]), (&json!("ci 2"), &json!(9)));

    assert_eq!(sidecar.expect(200, ("DELETE", &path), ""), patched);
    sidecar.expect(404, ("GET", &path), "");
    assert_eq!(sidecar.expect(200, ("GET", "/keys"), ""), json!([]));
    let again = format!(r#"{{"tenant_id":"{tenant}","name":"ci 2","allowed_models":[]}}"#);
    assert_eq!(sidecar.expect(201, ("POST", "/keys"), &again)["allowed_models"], json!([]));
    sidecar.expect(200, ("DELETE", &format!("/tenants/{tenant}")), "");
    assert_eq!(sidecar.expect(200, ("GET", "/keys"), ""), json!([]));
    sidecar.expect(404, ("POST", &format!("/tenants/{tenant}/keys")), r#"{"name":"x"}"#);
}

#[test]
fn a_rotated_key_is_the_same_key_with_another_secret() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (id, first) = sidecar.key(&tenant, "ci");
    let path = format!("/keys/{id}");
    let before =
        sidecar.expect(200, ("PATCH", &path), r#"{"weight":7,"allowed_ips":["10.0.0.0/8","::1/128"]}"#);
    assert_eq!(before["allowed_ips"], json!(["10.0.0.0/8", "::1"]));

    let answer = sidecar.send("POST", &format!("{path}/rotate"), "");
    assert_eq!((answer.status, answer.header("cache-control")), (201, Some("no-store")));
    let mut rotated = answer.json();
    let second = rotated["secret"].as_str().unwrap().to_owned();
    assert!(second.len() == 51 && second.starts_with("sk_") && second != first);
    rotated.as_object_mut().unwrap().remove("secret");
    let mut expected = before.clone();
    expected["key_prefix"] = json!(second[..7]);
    expected["previous_secret_ends_at"] = rotated["previous_secret_ends_at"].clone();
    assert_eq!(rotated, expected);
    assert!(rotated["previous_secret_ends_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(sidecar.expect(200, ("GET", &path), ""), rotated);
    assert_eq!(sidecar.expect(200, ("GET", "/keys"), ""), json!([rotated]));

    let shard = &sidecar.shards[0];
    let record = |secret: &str| match shard.look_up(secret) {
        KeyAnswer::Found(record) => Some(record),
        KeyAnswer::Unknown => None,
        other => panic!("{other:?}"),
    };
    let (old, new) = (record(&first).unwrap(), record(&second).unwrap());
    assert_eq!((old.id, new.id, new.secret_ends_at), (new.id, old.id, None));
    assert!(old.secret_ends_at.is_some());
    let (_, third) = sidecar.rotate(&id, r#"{"grace_secs":0}"#);
    assert!(record(&first).is_none() && record(&second).is_none() && record(&third).is_some());
    assert_eq!(sidecar.expect(200, ("GET", &path), "")["previous_secret_ends_at"], json!(null));

    sidecar.expect(200, ("DELETE", &path), "");
    sidecar.expect(404, ("POST", &format!("{path}/rotate")), "");
    sidecar.expect(404, ("POST", "/keys/x/rotate"), "");
}

#[test]
fn addresses_of_a_tenant_are_kept_and_go_into_the_snapshot() {
    let sidecar = Running::start();
    let made =
        sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme","allowed_ips":["::ffff:10.0.0.7"]}"#);
    assert_eq!(made["allowed_ips"], json!(["10.0.0.7"]));
    let Command::Snapshot(snapshot) = sidecar.shards[0].next() else { panic!("no snapshot") };
    let id = TenantId(made["id"].as_str().unwrap().parse().unwrap());
    let networks = &snapshot.tenant(id).unwrap().networks;
    assert!(networks.allows(Some([10, 0, 0, 7].into())) && !networks.allows(Some([10, 0, 0, 8].into())));
    let path = format!("/tenants/{}", made["id"].as_str().unwrap());
    assert_eq!(sidecar.expect(200, ("PATCH", &path), r#"{"allowed_ips":[]}"#)["allowed_ips"], json!([]));
    assert_eq!(sidecar.expect(200, ("PATCH", &path), r#"{"allowed_ips":null}"#)["allowed_ips"], json!(null));
}

#[test]
fn a_group_lives_from_creation_to_deletion_and_default_stays() {
    let sidecar = Running::start();
    let groups = sidecar.expect(200, ("GET", "/groups"), "");
    assert_eq!((&groups[0]["name"], &groups[0]["weight"]), (&json!("default"), &json!(100)));
    assert_eq!(members(&groups[0]), ["budgets", "created_at", "id", "name", "time_zone", "weight"]);
    let default = format!("/groups/{}", groups[0]["id"].as_str().unwrap());
    sidecar.expect(409, ("DELETE", &default), "");
    sidecar.expect(409, ("PATCH", &default), r#"{"name":"other"}"#);
    assert_eq!(sidecar.expect(200, ("PATCH", &default), r#"{"weight":50}"#)["weight"], 50);

    let made = sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold"}"#);
    let path = format!("/groups/{}", made["id"].as_str().unwrap());
    assert_eq!(sidecar.expect(200, ("GET", &path), ""), made);
    assert_eq!(sidecar.expect(200, ("GET", "/groups"), "")[0], made, "newest first");
    let tenant = sidecar.expect(201, ("POST", "/tenants"), r#"{"name":"acme","group_name":"gold"}"#);
    sidecar.expect(409, ("DELETE", &path), "");
    let renamed = sidecar.expect(200, ("PATCH", &path), r#"{"name":"platinum"}"#);
    let tenant = format!("/tenants/{}", tenant["id"].as_str().unwrap());
    assert_eq!(sidecar.expect(200, ("GET", &tenant), "")["group_name"], "platinum");
    sidecar.expect(200, ("DELETE", &tenant), "");
    assert_eq!(sidecar.expect(200, ("DELETE", &path), ""), renamed);
    sidecar.expect(404, ("GET", &path), "");
}

#[test]
fn a_model_lives_from_creation_to_deletion() {
    let sidecar = Running::start();
    let short =
        r#"{"model_name":"org/m","api_base":"http://127.0.0.1:8000","api_key":"sk-up","aliases":["m"]}"#;
    let made = sidecar.expect(201, ("POST", "/models"), short);
    let expected = json!({
        "id": made["id"], "model_name": "org/m", "aliases": ["m"], "enabled": true, "upstream_model": null,
        "max_in_flight": null, "max_model_len": null,
        "endpoints": [{
            "name": "default", "api_base": "http://127.0.0.1:8000", "has_api_key": true, "priority": 0,
            "enabled": true,
        }],
        "timeouts": {"connect_ms": null, "first_byte_ms": null, "idle_ms": null, "total_ms": null},
        "input_weight": null, "output_weight": null, "cached_input_weight": null, "sends_priority": false,
        "continuous_usage": false,
        "prices": {
            "version": 0, "input_micro_usd": null, "cached_input_micro_usd": null, "output_micro_usd": null,
            "image_micro_usd": null, "second_micro_usd": null, "character_micro_usd": null,
        },
        "created_at": made["created_at"],
    });
    assert_eq!(made, expected);
    let path = format!("/models/{}", made["id"].as_str().unwrap());
    assert_eq!(sidecar.expect(200, ("GET", &path), ""), made);
    assert_eq!(sidecar.expect(200, ("GET", "/models"), ""), json!([made]));
    assert_eq!(
        sidecar.expect(200, ("PUT", &format!("{path}/enabled")), r#"{"enabled":false}"#)["enabled"],
        false
    );
    let capacity = sidecar.expect(200, ("PUT", &format!("{path}/capacity")), r#"{"max_in_flight":4}"#);
    assert_eq!(capacity["max_in_flight"], 4);
    let weights =
        r#"{"input_weight":0.001,"output_weight":1000,"cached_input_weight":0.333,"sends_priority":true}"#;
    let weighted = sidecar.expect(200, ("PATCH", &path), weights);
    let shown =
        ["input_weight", "output_weight", "cached_input_weight", "sends_priority"].map(|m| &weighted[m]);
    assert_eq!(shown, [&json!(0.001), &json!(1000.0), &json!(0.333), &json!(true)]);
    assert_eq!(
        sidecar.expect(200, ("PATCH", &path), r#"{"input_weight":null}"#)["input_weight"],
        json!(null)
    );

    let patch =
        r#"{"timeouts":{"total_ms":0,"idle_ms":5},"max_model_len":4096,"upstream_model":"u","aliases":[]}"#;
    let patched = sidecar.expect(200, ("PATCH", &path), patch);
    let timeouts = json!({"connect_ms": null, "first_byte_ms": null, "idle_ms": 5, "total_ms": 0});
    assert_eq!((&patched["timeouts"], &patched["max_model_len"]), (&timeouts, &json!(4096)));
    assert_eq!((&patched["aliases"], &patched["upstream_model"]), (&json!([]), &json!("u")));
    let patched = sidecar.expect(200, ("PATCH", &path), r#"{"timeouts":{"idle_ms":null}}"#);
    assert_eq!(
        (&patched["timeouts"]["idle_ms"], &patched["timeouts"]["total_ms"]),
        (&json!(null), &json!(0))
    );

    assert_eq!(sidecar.expect(200, ("DELETE", &path), ""), patched);
    sidecar.expect(404, ("GET", &path), "");
    sidecar.expect(201, ("POST", "/models"), short);
}

#[test]
fn a_credential_is_kept_replaced_and_removed_without_ever_being_shown() {
    let sidecar = Running::start();
    let long = r#"{"model_name":"m","endpoints":[{"name":"a","api_base":"http://127.0.0.1:1/v1","api_key":"sk-up-1",
                   "priority":3,"enabled":true}]}"#;
    let made = sidecar.expect(201, ("POST", "/models"), long);
    let endpoint = json!({"name": "a", "api_base": "http://127.0.0.1:1/v1", "has_api_key": true, "priority": 3,
                          "enabled": true});
    assert_eq!(made["endpoints"], json!([endpoint]));
    let path = format!("/models/{}", made["id"].as_str().unwrap());
    let has_key =
        |body: &str| sidecar.expect(200, ("PATCH", &path), body)["endpoints"][0]["has_api_key"].clone();
    assert_eq!(has_key(r#"{"endpoints":[{"name":"a","priority":10}]}"#), true);
    assert_eq!(has_key(r#"{"api_base":"http://127.0.0.1:1/other"}"#), true, "the same host and port");
    let before = sidecar.get(&path).body;
    let moves = [
        (r#"{"api_base":"http://127.0.0.1:2"}"#, "api_key"),
        (r#"{"api_base":"http://127.0.0.2:1"}"#, "api_key"),
        (r#"{"endpoints":[{"name":"a","api_base":"http://127.0.0.1:2"}]}"#, "endpoints[0].api_key"),
    ];
    for (body, param) in moves {
        let answer = sidecar.send("PATCH", &path, body);
        assert_eq!((answer.status, answer.refusal().1), (400, json!(param)), "{body}");
    }
    assert_eq!(sidecar.get(&path).body, before);
    assert_eq!(has_key(r#"{"api_base":"http://127.0.0.1:2","api_key":"sk-up-1"}"#), true);
    assert_eq!(has_key(r#"{"api_base":"http://127.0.0.1:4","api_key":null}"#), false);
    assert_eq!(has_key(r#"{"api_base":"http://127.0.0.1:5"}"#), false, "there is none to keep");
    assert_eq!(has_key(r#"{"api_key":"sk-up-2"}"#), true);
    assert_eq!(
        has_key(r#"{"endpoints":[{"name":"b","api_base":"http://127.0.0.1:3"}]}"#),
        false,
        "another endpoint"
    );
    let all = sidecar.get("/models").body + &sidecar.get(&path).body;
    assert!(!all.contains("sk-up"), "{all}");
}

#[test]
fn a_model_without_an_address_runs_on_the_default_upstream_if_there_is_one() {
    let sidecar = Running::start();
    for body in [r#"{"model_name":"m"}"#, r#"{"model_name":"m","endpoints":[]}"#] {
        let answer = sidecar.send("POST", "/models", body);
        assert_eq!((answer.status, answer.refusal().1), (400, json!("api_base")));
    }
    let sidecar = Running::start_with_default_upstream();
    let made = sidecar.expect(201, ("POST", "/models"), r#"{"model_name":"m"}"#);
    assert_eq!(made["endpoints"], json!([]));
    let path = format!("/models/{}", made["id"].as_str().unwrap());
    let own = sidecar.expect(200, ("PATCH", &path), r#"{"api_base":"http://127.0.0.1:1"}"#);
    assert_eq!(own["endpoints"][0]["api_base"], "http://127.0.0.1:1");
    assert_eq!(sidecar.expect(200, ("PATCH", &path), r#"{"endpoints":[]}"#)["endpoints"], json!([]));
}

#[test]
fn a_model_on_a_default_upstream_that_is_gone_can_be_edited_but_none_moved_there() {
    let sidecar = Running::start_with_default_upstream();
    let made = sidecar.expect(201, ("POST", "/models"), r#"{"model_name":"m"}"#);
    let own = r#"{"model_name":"own","api_base":"http://127.0.0.1:1"}"#;
    let own = sidecar.expect(201, ("POST", "/models"), own);
    let path = |model: &Value| format!("/models/{}", model["id"].as_str().unwrap());
    let (made, own) = (path(&made), path(&own));
    let (dir, mut settings) = sidecar.stop();
    settings.default_upstream = None;
    let sidecar = Running::start_in(dir, settings).unwrap();
    sidecar.expect(200, ("PUT", &format!("{made}/enabled")), r#"{"enabled":false}"#);
    sidecar.expect(200, ("PUT", &format!("{made}/capacity")), r#"{"max_in_flight":3}"#);
    sidecar.expect(200, ("PATCH", &made), r#"{"model_name":"renamed","endpoints":[]}"#);
    for (path, body) in [(&own, r#"{"endpoints":[]}"#), (&made, r#"{"api_key":"sk-up"}"#)] {
        let answer = sidecar.send("PATCH", path, body);
        assert_eq!((answer.status, answer.refusal().1), (400, json!("api_base")), "{body}");
    }
}

#[test]
fn health_stats_and_version_say_what_the_contract_prints() {
    let sidecar = Running::start();
    let health = running::send(sidecar.admin, ("GET", "/api/v1/health"), &[], b"");
    assert_eq!(health.status, 200);
    assert_eq!(health.body, r#"{"status":"ok","store":"ok","redis":"disabled","postgres":"disabled"}"#);
    assert_eq!(sidecar.get("/version").json(), json!({"version": "1.2.3", "commit": "abcdef"}));

    let body = r#"{"model_name":"m","api_base":"http://127.0.0.1:1","max_in_flight":3}"#;
    sidecar.expect(201, ("POST", "/models"), body);
    let obleth_link::Command::Snapshot(snapshot) = sidecar.shards[0].next() else { panic!("no snapshot") };
    let pool = snapshot.models()[0].pool;
    for shard in &sidecar.shards {
        shard.0.gauges().in_flight.add(2);
        shard.0.gauges().queued.add(5);
        shard.0.gauges().pool_in_flight(pool).unwrap().add(1);
        shard.0.gauges().pool_queued(pool).unwrap().add(3);
    }
    let pools = json!([{"model": "m", "in_flight": 2, "queued": 6, "max_in_flight": 3}]);
    let expected = json!({"in_flight": 4, "queued": 10, "max_in_flight": 256, "pools": pools});
    assert_eq!(sidecar.get("/stats").json(), expected);
}
