//! Gates 2 to 8: each says no in its own words, and the first that does is the one that answers.
//!
//! Every request here is a complete and valid one but for what its row names, so that a refusal can have one cause
//! only.

use obleth_upstream::Options;
use serde_json::{Value, json};

use super::{
    http::{Request, Response},
    process::{Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

/// A request that can be made wrong in several ways at once.
#[derive(Clone)]
struct Parts {
    method: &'static str,
    path: String,
    credentials: Vec<(&'static str, String)>,
    coding: Option<&'static str>,
    too_large: bool,
    body: String,
}

/// Everything that requests can be wrong about.
struct Cast {
    disabled: String,
    limited: String,
    other_model: &'static str,
}

type Wrong = fn(&mut Parts, &Cast, &str);

/// One way to be wrong for each code, in the order of the gates.
const WRONGS: [(&str, Wrong); 10] = [
    ("unknown_endpoint", |parts, _, _| parts.path = "/v1/nothing".to_owned()),
    ("method_not_allowed", |parts, _, _| parts.method = "PUT"),
    ("missing_api_key", |parts, _, _| parts.credentials.clear()),
    ("invalid_api_key", |parts, _, _| {
        parts.credentials = vec![("authorization", format!("Bearer sk_{}", "0".repeat(48)))];
    }),
    ("key_disabled", |parts, cast, _| {
        parts.credentials = vec![("x-api-key", cast.disabled.clone())];
    }),
    ("request_too_large", |parts, _, _| parts.too_large = true),
    ("invalid_json", |parts, _, _| parts.body = "{".to_owned()),
    ("missing_model", |parts, _, _| parts.body = parts.body.replace("\"model\"", "\"mode\"")),
    ("model_not_found", |parts, _, endpoint| parts.body = body_of(endpoint, "nothing-of-the-kind", "")),
    ("model_not_allowed", |parts, cast, endpoint| {
        parts.credentials = vec![("api-key", cast.limited.clone())];
        parts.body = body_of(endpoint, cast.other_model, "");
    }),
];

fn send(world: &World, parts: &Parts) -> Response {
    let mut body = parts.body.clone();
    if parts.too_large {
        body.push_str(&" ".repeat(LIMIT));
    }
    let mut request = Request::post(&parts.path, body).method(parts.method);
    for (name, value) in &parts.credentials {
        request = request.header(name, value);
    }
    if let Some(coding) = parts.coding {
        request = request.header("content-encoding", coding);
    }
    world.ask(&request)
}

/// The largest body of these gateways.
const LIMIT: usize = 64 * 1024;

fn world_with_a_small_limit() -> World {
    World::with(Setup::new().env("OBLETH_MAX_REQUEST_BYTES", LIMIT), Options::default())
}

#[test]
fn a_request_that_is_wrong_twice_is_refused_by_the_earlier_gate() {
    let world = world_with_a_small_limit();
    let (disabled_id, disabled) = world.new_key(json!({"name": "disabled"}));
    world.gateway.put(&format!("/keys/{disabled_id}/disabled"), json!({"disabled": true}));
    let (_, limited) = world.new_key(json!({"name": "limited", "allowed_models": [MODEL]}));
    world.new_model("other", json!({}));
    let cast = Cast { disabled, limited, other_model: "other" };
    for endpoint in ENDPOINTS {
        let right = Parts {
            method: "POST",
            path: endpoint.to_owned(),
            credentials: vec![("authorization", format!("Bearer {}", world.secret))],
            coding: None,
            too_large: false,
            body: body_of(endpoint, MODEL, ""),
        };
        assert_eq!(send(&world, &right).status, 200, "{endpoint}");
        let served = world.sim().requests;
        for (first, (code, wrong)) in WRONGS.iter().enumerate() {
            for (_, also_wrong) in WRONGS.iter().skip(first) {
                let mut parts = right.clone();
                also_wrong(&mut parts, &cast, endpoint);
                wrong(&mut parts, &cast, endpoint);
                let refused = send(&world, &parts);
                assert_refused(&refused, code);
                let allow = (*code == "method_not_allowed").then_some("POST");
                assert_eq!(refused.header("allow"), allow);
            }
        }
        assert_eq!(world.sim().requests, served, "a refused request reached the backend");
    }
}

#[test]
fn a_credential_is_taken_from_three_headers_and_must_be_one() {
    let world = World::start();
    let bearer = format!("Bearer {}", world.secret);
    let with = |headers: &[(&str, &str)]| {
        ENDPOINTS.map(|endpoint| {
            let request = Request::post(endpoint, body_of(endpoint, MODEL, ""));
            world.ask(&headers.iter().fold(request, |request, (name, value)| request.header(name, value)))
        })
    };
    let key = world.secret.as_str();
    let accepted: [&[(&str, &str)]; 6] = [
        &[("authorization", &bearer)],
        &[("Authorization", &bearer.replace("Bearer", "bearer"))],
        &[("x-api-key", key)],
        &[("api-key", key)],
        &[("authorization", &bearer), ("x-api-key", key), ("api-key", key)],
        &[("authorization", ""), ("x-api-key", key)],
    ];
    for headers in accepted {
        assert!(with(headers).iter().all(|answer| answer.status == 200), "{headers:?}");
    }
    let other = format!("sk_{}", "a".repeat(48));
    let refused: [(&str, &[(&str, &str)]); 10] = [
        ("missing_api_key", &[]),
        ("missing_api_key", &[("authorization", "")]),
        ("missing_api_key", &[("authorization", "Bearer")]),
        ("invalid_api_key", &[("authorization", key)]),
        ("invalid_api_key", &[("authorization", "Basic c2s6c2s=")]),
        ("invalid_api_key", &[("authorization", "Bearer pk_0123")]),
        ("invalid_api_key", &[("authorization", &bearer[..bearer.len() - 1])]),
        ("invalid_api_key", &[("x-api-key", &other)]),
        ("ambiguous_credentials", &[("authorization", &bearer), ("x-api-key", &other)]),
        ("ambiguous_credentials", &[("x-api-key", key), ("api-key", &other)]),
    ];
    for (code, headers) in refused {
        for answer in with(headers) {
            assert_refused(&answer, code);
        }
    }
}

#[test]
fn the_state_of_key_and_tenant_is_told_apart() {
    let world = World::start();
    let gateway = &world.gateway;
    let refused_with = |secret: &str, code: &str| {
        for endpoint in ENDPOINTS {
            assert_refused(
                &world.ask(&Request::post(endpoint, body_of(endpoint, MODEL, "")).key(secret)),
                code,
            );
        }
        assert_refused(&world.ask(&Request::get("/v1/models").key(secret)), code);
        assert_refused(&world.ask(&Request::get(&format!("/v1/models/{MODEL}")).key(secret)), code);
    };
    let (id, secret) = world.new_key(json!({"name": "a"}));
    gateway.put(&format!("/keys/{id}/disabled"), json!({"disabled": true}));
    refused_with(&secret, "key_disabled");
    let (id, secret) = world.new_key(json!({"name": "b"}));
    gateway.delete(&format!("/keys/{id}"));
    refused_with(&secret, "key_deleted");
    let (id, secret) = world.new_key(json!({"name": "c"}));
    gateway.patch(&format!("/keys/{id}"), json!({"expires_at": "2020-01-01T00:00:00Z"}));
    refused_with(&secret, "key_expired");
    for status in ["suspended", "archived"] {
        gateway.put(&format!("/tenants/{}/status", world.tenant_id), json!({"status": status}));
        refused_with(&world.secret, "tenant_suspended");
    }
    gateway.put(&format!("/tenants/{}/status", world.tenant_id), json!({"status": "active"}));
    assert_eq!(world.ask(&world.chat("")).status, 200);
    gateway.delete(&format!("/tenants/{}", world.tenant_id));
    refused_with(&world.secret, "tenant_not_found");
}

#[test]
fn a_key_works_until_it_expires() {
    let world = World::start();
    let in_two_seconds = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let unix = in_two_seconds.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (_, secret) = world.new_key(json!({"name": "short-lived", "expires_at": rfc3339(unix)}));
    let ask = || world.ask(&Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(&secret));
    assert_eq!(ask().status, 200);
    until("the key expires", || ask().code() == "key_expired");
    assert!(std::time::SystemTime::now() >= in_two_seconds - std::time::Duration::from_secs(1));
}

/// A moment as the admin API takes it; days to civil dates after Hinnant, "chrono-compatible low-level date
/// algorithms".
fn rfc3339(unix: u64) -> String {
    let (days, second) = (unix / 86_400 + 719_468, unix % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[test]
fn a_body_has_one_size_and_one_coding() {
    let world = world_with_a_small_limit();
    for endpoint in ENDPOINTS {
        let padded = |total: usize| {
            let body = body_of(endpoint, MODEL, "");
            let pad = total - body.len();
            body + &" ".repeat(pad)
        };
        for (size, status) in [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)] {
            let body = padded(size);
            let plain = world.ask(&world.post(endpoint, body.clone()));
            let chunked =
                Request::new("POST", endpoint).key(&world.secret).header("transfer-encoding", "chunked");
            let mut connection = world.connect();
            connection.send(chunked.head());
            connection.send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
            let chunked = connection.response();
            for answer in [plain, chunked] {
                match status {
                    200 => assert_eq!(answer.status, 200, "{size} {}", answer.text()),
                    _ => assert_refused(&answer, "request_too_large"),
                }
            }
        }
        for coding in ["gzip", "br", "zstd", "gzip, identity"] {
            let coded = world.post(endpoint, body_of(endpoint, MODEL, "")).header("content-encoding", coding);
            assert_refused(&world.ask(&coded), "unsupported_encoding");
        }
        let identity =
            world.post(endpoint, body_of(endpoint, MODEL, "")).header("content-encoding", "identity");
        assert_eq!(world.ask(&identity).status, 200);
    }
}

#[test]
fn a_model_is_granted_by_key_and_tenant_both() {
    let world = World::start();
    world.new_model("other", json!({"aliases": ["also-other"]}));
    let disabled = world.new_model("off", json!({}));
    world.gateway.put(&format!("/models/{disabled}/enabled"), json!({"enabled": false}));
    let (_, limited) = world.new_key(json!({"name": "limited", "allowed_models": ["other"]}));
    let (_, nothing) = world.new_key(json!({"name": "nothing", "allowed_models": []}));
    let ask = |secret: &str, endpoint: &str, model: &str| {
        world.ask(&Request::post(endpoint, body_of(endpoint, model, "")).key(secret))
    };
    let list = |secret: &str| -> Vec<Value> {
        let page = world.ask(&Request::get("/v1/models").key(secret)).json();
        let mut ids: Vec<Value> =
            page["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
        ids.sort_by_key(Value::to_string);
        ids
    };
    for endpoint in ENDPOINTS {
        for model in ["off", "nothing-of-the-kind", "Tiny", "tiny "] {
            assert_refused(&ask(&world.secret, endpoint, model), "model_not_found");
        }
        for model in ["other", "also-other"] {
            assert_eq!(ask(&limited, endpoint, model).status, 200, "{model}");
            assert_refused(&ask(&nothing, endpoint, model), "model_not_allowed");
        }
        assert_refused(&ask(&limited, endpoint, MODEL), "model_not_allowed");
    }
    assert_eq!(list(&world.secret), ["also-other", "other", MODEL]);
    assert_eq!(list(&limited), ["also-other", "other"]);
    assert_eq!(list(&nothing), [""; 0]);
    for (secret, id, code) in [
        (&world.secret, "off", "model_not_found"),
        (&world.secret, "none", "model_not_found"),
        (&limited, MODEL, "model_not_allowed"),
    ] {
        assert_refused(&world.ask(&Request::get(&format!("/v1/models/{id}")).key(secret)), code);
    }
    world.gateway.put(&format!("/tenants/{}/allowlist", world.tenant_id), json!({"allowed_models": [MODEL]}));
    for endpoint in ENDPOINTS {
        assert_refused(&ask(&limited, endpoint, "other"), "model_not_allowed");
        assert_eq!(ask(&world.secret, endpoint, MODEL).status, 200);
    }
    assert_eq!(list(&limited), [""; 0]);
    assert_eq!(list(&world.secret), [MODEL]);
}

#[test]
fn reading_endpoints_answer_to_get_and_to_nothing_else() {
    let world = World::start();
    for path in ["/v1/models", "/v1/models/tiny", "/health"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            let refused = world.ask(&Request::new(method, path).key(&world.secret));
            assert_refused(&refused, "method_not_allowed");
            assert_eq!(refused.header("allow"), Some("GET"), "{method} {path}");
        }
    }
    for endpoint in ENDPOINTS {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let refused = world.ask(&Request::new(method, endpoint));
            assert_refused(&refused, "method_not_allowed");
            assert_eq!(refused.header("allow"), Some("POST"), "{method} {endpoint}");
        }
    }
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/chat/completions/",
        "/v1/chat",
        "/health/",
        "/metrics",
        "/sim/stats",
        "/api/v1/health",
        "/v1/files",
        "/V1/models",
    ] {
        for method in ["GET", "POST"] {
            assert_refused(&world.ask(&Request::new(method, path).key(&world.secret)), "unknown_endpoint");
        }
    }
    assert_refused(&world.ask(&Request::get("/v1/models")), "missing_api_key");
    assert_eq!(world.ask(&Request::get("/health")).json(), json!({"status": "ok"}));
    assert_eq!(world.sim().requests, 0);
}
