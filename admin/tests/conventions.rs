//! What holds on every path of the admin API: refusals, limits, lists.

mod running;

use running::{Running, TOKEN, send};
use serde_json::{Value, json};

#[test]
fn invalid_input_is_refused_with_the_member_that_is_at_fault() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    let (key, _) = sidecar.key(&tenant, "ci");
    let model =
        sidecar.expect(201, ("POST", "/models"), r#"{"model_name":"m","api_base":"http://127.0.0.1:1"}"#);
    let (tenant, key) = (format!("/tenants/{tenant}"), format!("/keys/{key}"));
    let model = format!("/models/{}", model["id"].as_str().unwrap());
    let group = sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold"}"#);
    let group = format!("/groups/{}", group["id"].as_str().unwrap());
    let rows: &[(&str, &str, &str, Value)] = &[
        ("POST", "/tenants", "{}", json!("name")),
        ("POST", "/tenants", r#"{"name":""}"#, json!("name")),
        ("POST", "/tenants", r#"{"name":null}"#, json!("name")),
        ("POST", "/tenants", r#"{"name":5}"#, json!("name")),
        ("POST", "/tenants", r#"{"name":"a","weight":0}"#, json!("weight")),
        ("POST", "/tenants", r#"{"name":"a","weight":1.5}"#, json!("weight")),
        ("POST", "/tenants", r#"{"name":"a","weight":99999999999999999999}"#, json!("weight")),
        ("POST", "/tenants", r#"{"name":"a","group_name":"nobody"}"#, json!("group_name")),
        ("POST", "/tenants", r#"{"name":"a","status":"gone"}"#, json!("status")),
        ("POST", "/tenants", r#"{"name":"a","tokens_per_minute":-1}"#, json!("tokens_per_minute")),
        ("POST", "/tenants", r#"{"name":"a","allowed_models":"m"}"#, json!("allowed_models")),
        ("POST", "/tenants", r#"{"name":"a","allowed_models":[5]}"#, json!("allowed_models")),
        ("POST", "/tenants", r#"{"name":"a","colour":"red"}"#, json!("colour")),
        ("POST", "/tenants", "", Value::Null),
        ("POST", "/tenants", "[]", Value::Null),
        ("POST", "/tenants", "{", Value::Null),
        ("POST", "/tenants", r#"{"name":"a"} x"#, Value::Null),
        ("PATCH", &tenant, r#"{"id":"x"}"#, json!("id")),
        ("PUT", &format!("{tenant}/quota"), "{}", json!("tokens_per_minute")),
        ("PUT", &format!("{tenant}/quota"), r#"{"max":1}"#, json!("max")),
        ("PUT", &format!("{tenant}/weight"), "{}", json!("weight")),
        ("PUT", &format!("{tenant}/weight"), r#"{"weight":0}"#, json!("weight")),
        ("PUT", &format!("{tenant}/weight"), r#"{"weight":-5}"#, json!("weight")),
        ("PUT", &format!("{tenant}/brownout"), "{}", json!("brownout")),
        ("PUT", &format!("{tenant}/brownout"), r#"{"brownout":"degrade"}"#, json!("brownout")),
        ("PATCH", &tenant, r#"{"max_in_flight":-1}"#, json!("max_in_flight")),
        ("PATCH", &tenant, r#"{"group_name":"nobody"}"#, json!("group_name")),
        ("PATCH", &tenant, r#"{"brownout":5}"#, json!("brownout")),
        ("PUT", &format!("{tenant}/group"), r#"{"group_name":"nobody"}"#, json!("group_name")),
        ("PUT", &format!("{tenant}/status"), r#"{"status":5}"#, json!("status")),
        ("PUT", &format!("{tenant}/allowlist"), "{}", json!("allowed_models")),
        ("POST", &format!("{tenant}/keys"), "{}", json!("name")),
        ("POST", &format!("{tenant}/keys"), r#"{"name":"a","secret":"sk_x"}"#, json!("secret")),
        ("POST", "/keys", r#"{"name":"a"}"#, json!("tenant_id")),
        ("POST", "/keys", r#"{"name":"a","tenant_id":"x"}"#, json!("tenant_id")),
        ("PATCH", &key, r#"{"expires_at":"tomorrow"}"#, json!("expires_at")),
        ("PATCH", &key, r#"{"disabled":null}"#, json!("disabled")),
        ("PATCH", &key, r#"{"allowed_ips":["10.0.0.0/8","::1","10.0.0.1/8"]}"#, json!("allowed_ips[2]")),
        ("PATCH", &key, r#"{"allowed_ips":"10.0.0.0/8"}"#, json!("allowed_ips")),
        ("POST", "/tenants", r#"{"name":"a","allowed_ips":["host"]}"#, json!("allowed_ips[0]")),
        ("POST", &format!("{key}/rotate"), r#"{"grace_secs":-1}"#, json!("grace_secs")),
        ("POST", &format!("{key}/rotate"), r#"{"grace_secs":2592001}"#, json!("grace_secs")),
        ("POST", &format!("{key}/rotate"), r#"{"grace_secs":null}"#, json!("grace_secs")),
        ("POST", &format!("{key}/rotate"), r#"{"grace":5}"#, json!("grace")),
        ("POST", &format!("{key}/rotate"), "{", Value::Null),
        ("PUT", &format!("{key}/disabled"), r#"{"disabled":"no"}"#, json!("disabled")),
        ("PUT", &format!("{key}/weight"), r#"{"weight":0}"#, json!("weight")),
        ("PATCH", &key, r#"{"max_in_flight":-1}"#, json!("max_in_flight")),
        ("PUT", &format!("{key}/quota"), "{}", json!("tokens_per_minute")),
        ("POST", "/groups", r#"{"name":"a","weight":1000001}"#, json!("weight")),
        ("POST", "/groups", r#"{"name":"a","weight":0}"#, json!("weight")),
        ("PATCH", &group, r#"{"weight":0}"#, json!("weight")),
        ("POST", "/models", "{}", json!("model_name")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://0x7f.1"}"#, json!("api_base")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"ftp://h"}"#, json!("api_base")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://u@h"}"#, json!("api_base")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://h?q"}"#, json!("api_base")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://169.254.169.254"}"#, json!("api_base")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://2852039166"}"#, json!("api_base")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://h","api_key":"a b"}"#, json!("api_key")),
        ("POST", "/models", r#"{"model_name":"a","endpoints":[{}]}"#, json!("endpoints[0].api_base")),
        ("POST", "/models", r#"{"model_name":"a","endpoints":[{},{}]}"#, json!("endpoints[1].name")),
        ("POST", "/models", r#"{"model_name":"a","endpoints":5}"#, json!("endpoints")),
        ("POST", "/models", r#"{"model_name":"a","api_base":"http://h","endpoints":[]}"#, json!("endpoints")),
        (
            "POST",
            "/models",
            r#"{"model_name":"a","endpoints":[{"url":"http://h"}]}"#,
            json!("endpoints[0].url"),
        ),
        (
            "POST",
            "/models",
            r#"{"model_name":"a","aliases":["a"],"api_base":"http://127.0.0.1"}"#,
            json!("aliases"),
        ),
        ("PATCH", &model, r#"{"timeouts":{"idle_ms":-1}}"#, json!("timeouts.idle_ms")),
        ("PATCH", &model, r#"{"timeouts":{"idle":1}}"#, json!("timeouts.idle")),
        ("PATCH", &model, r#"{"max_in_flight":4294967296}"#, json!("max_in_flight")),
        ("PUT", &format!("{model}/capacity"), "{}", json!("max_in_flight")),
        ("PUT", &format!("{model}/capacity"), r#"{"max_in_flight":-1}"#, json!("max_in_flight")),
        ("PATCH", &model, r#"{"input_weight":-0.001}"#, json!("input_weight")),
        ("PATCH", &model, r#"{"input_weight":"1"}"#, json!("input_weight")),
        ("PATCH", &model, r#"{"output_weight":1000.001}"#, json!("output_weight")),
        ("PATCH", &model, r#"{"output_weight":0.0001}"#, json!("output_weight")),
        ("PATCH", &model, r#"{"output_weight":1.0005}"#, json!("output_weight")),
        ("PATCH", &model, r#"{"cached_input_weight":1.001}"#, json!("cached_input_weight")),
        ("PATCH", &model, r#"{"sends_priority":1}"#, json!("sends_priority")),
        ("PATCH", &model, r#"{"sends_priority":null}"#, json!("sends_priority")),
        ("PATCH", &model, r#"{"continuous_usage":1}"#, json!("continuous_usage")),
        ("PATCH", &model, r#"{"prices":5}"#, json!("prices")),
        ("PATCH", &model, r#"{"prices":{"version":2}}"#, json!("prices.version")),
        ("PATCH", &model, r#"{"prices":{"input_micro_usd":-1}}"#, json!("prices.input_micro_usd")),
        ("PATCH", &model, r#"{"prices":{"output_micro_usd":0.5}}"#, json!("prices.output_micro_usd")),
        ("PATCH", &model, r#"{"prices":{"output_micro_usd":1.0}}"#, json!("prices.output_micro_usd")),
        ("PATCH", &model, r#"{"prices":{"image_micro_usd":"5"}}"#, json!("prices.image_micro_usd")),
        (
            "PATCH",
            &model,
            r#"{"prices":{"second_micro_usd":9007199254740992}}"#,
            json!("prices.second_micro_usd"),
        ),
        (
            "POST",
            "/models",
            r#"{"model_name":"a","api_base":"http://h","prices":{"character_micro_usd":99999999999999999999}}"#,
            json!("prices.character_micro_usd"),
        ),
        ("GET", &format!("{model}/prices?limit=0"), "", json!("limit")),
        ("PUT", &format!("{model}/enabled"), r#"{"enabled":1}"#, json!("enabled")),
        ("GET", "/keys?limit=0", "", json!("limit")),
        ("GET", "/keys?limit=1001", "", json!("limit")),
        ("GET", "/keys?limit=x", "", json!("limit")),
        ("GET", "/keys?after=x", "", json!("after")),
        ("GET", "/tenants?tenant_id=x", "", json!("tenant_id")),
        ("GET", "/keys?page=2", "", json!("page")),
    ];
    for (method, path, body, param) in rows {
        let answer = sidecar.send(method, path, body);
        let (code, blamed) = answer.refusal();
        let expected = if param.is_null() { "invalid_json" } else { "invalid_parameter" };
        assert_eq!(
            (answer.status, &*code, &blamed),
            (400, expected, param),
            "{method} {path} {body}: {}",
            answer.body
        );
    }
}

#[test]
fn what_is_not_there_and_what_is_taken_is_said_so() {
    let sidecar = Running::start();
    let tenant = sidecar.tenant("acme");
    sidecar.key(&tenant, "ci");
    sidecar.expect(201, ("POST", "/groups"), r#"{"name":"gold"}"#);
    let other = sidecar.tenant("other");
    sidecar.key(&other, "ci");
    let model = r#"{"model_name":"m","aliases":["x"],"api_base":"http://127.0.0.1:1"}"#;
    sidecar.expect(201, ("POST", "/models"), model);
    let missing = "0190b5a0-0000-7000-8000-000000000000";
    for resource in ["tenants", "keys", "groups", "models"] {
        for id in [missing, "not-an-id", "%00", "'%20OR%201=1"] {
            for (method, body) in [("GET", ""), ("PATCH", "{}"), ("DELETE", "")] {
                let answer = sidecar.send(method, &format!("/{resource}/{id}"), body);
                assert_eq!(
                    (answer.status, answer.refusal().0.as_str()),
                    (404, "not_found"),
                    "{method} {resource} {id}"
                );
            }
        }
    }
    let taken = [
        ("POST", "/tenants".to_owned(), r#"{"name":"acme"}"#, "name"),
        ("PATCH", format!("/tenants/{other}"), r#"{"name":"acme"}"#, "name"),
        ("POST", format!("/tenants/{tenant}/keys"), r#"{"name":"ci"}"#, "name"),
        ("POST", "/groups".to_owned(), r#"{"name":"gold"}"#, "name"),
        ("POST", "/models".to_owned(), r#"{"model_name":"m","api_base":"http://127.0.0.1"}"#, "model_name"),
        ("POST", "/models".to_owned(), r#"{"model_name":"x","api_base":"http://127.0.0.1"}"#, "model_name"),
        (
            "POST",
            "/models".to_owned(),
            r#"{"model_name":"n","aliases":["m"],"api_base":"http://127.0.0.1"}"#,
            "aliases",
        ),
    ];
    for (method, path, body, param) in taken {
        let answer = sidecar.send(method, &path, body);
        assert_eq!(answer.status, 409, "{method} {path} {body}: {}", answer.body);
        assert_eq!(answer.refusal(), ("conflict".to_owned(), json!(param)));
    }
}

#[test]
fn nothing_but_the_health_answers_without_the_token() {
    let sidecar = Running::start();
    let paths = ["/api/v1/keys", "/api/v1/stats", "/api/v1/version", "/api/v1/nothing", "/api/v1/health/x"];
    for path in paths {
        for headers in [&[][..], &[("Authorization", "Bearer wrong")], &[("Authorization", TOKEN)]] {
            for method in ["GET", "POST", "DELETE"] {
                let answer = send(sidecar.admin, (method, path), headers, b"");
                assert_eq!(answer.status, 401, "{method} {path} {headers:?}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                let code = if headers.is_empty() { "missing_admin_token" } else { "invalid_admin_token" };
                assert_eq!(answer.refusal().0, code);
            }
        }
    }
    assert_eq!(send(sidecar.admin, ("GET", "/api/v1/health"), &[], b"").status, 200);
}

#[test]
fn unknown_paths_methods_and_large_bodies_get_the_one_error_shape() {
    let sidecar = Running::start();
    for path in ["/audit", "/tokens", "/fairshare", "/export", "/mcp-servers", "/keys/"] {
        let answer = sidecar.get(path);
        assert_eq!((answer.status, answer.refusal().0.as_str()), (404, "unknown_endpoint"), "{path}");
    }
    for path in ["/", "/api", "/api/v2/keys"] {
        let answer = send(sidecar.admin, ("GET", path), &[], b"");
        assert_eq!((answer.status, answer.refusal().0.as_str()), (404, "unknown_endpoint"), "{path}");
    }
    let answer = sidecar.send("PUT", "/keys", "{}");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (405, "method_not_allowed"));
    let allowed = answer.header("allow").unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    for size in [1024 * 1024 + 1, 11 * 1000 * 1000] {
        let answer = sidecar.send("POST", "/tenants", &" ".repeat(size));
        assert_eq!((answer.status, answer.refusal().0.as_str()), (413, "request_too_large"));
    }
    let padded = format!(r#"{{"name":"a"{}}}"#, " ".repeat(1024 * 1024 - 12));
    assert_eq!((padded.len(), sidecar.send("POST", "/tenants", &padded).status), (1024 * 1024, 201));
}

#[test]
fn a_callers_request_id_comes_back_if_it_is_fit_to() {
    let sidecar = Running::start();
    let id = |own: &str| {
        let answer = send(sidecar.admin, ("GET", "/nothing"), &[("X-Request-Id", own)], b"");
        answer.refusal();
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("abc-1"), "abc-1");
    for unfit in ["two words", &"x".repeat(129), "\u{e9}"] {
        assert_eq!(id(unfit).len(), 36);
    }
    assert!(sidecar.get("/keys").header("x-request-id").is_some());
}

#[test]
fn lists_are_newest_first_and_followed_by_their_link() {
    let sidecar = Running::start();
    let names: Vec<String> = (0..5).map(|n| format!("t{n}")).collect();
    let ids: Vec<String> = names.iter().map(|name| sidecar.tenant(name)).collect();
    let mut path = "/tenants?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let answer = sidecar.get(&path);
        let page = answer.json();
        seen.extend(page.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(link) = answer.header("link") else { break };
        let (url, rel) = link.split_once("; ").unwrap();
        assert_eq!(rel, r#"rel="next""#);
        path = url.trim_matches(['<', '>']).strip_prefix("/api/v1").unwrap().to_owned();
    }
    assert_eq!(seen, ids.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(sidecar.get("/tenants").header("link"), None);
}
