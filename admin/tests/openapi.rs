//! The OpenAPI document against the running API: every operation, every answer, every body, every refusal.
//!
//! The validator knows the words of JSON Schema that the document uses, and fails on any other.

mod running;

use std::{cell::RefCell, collections::BTreeSet};

use obleth_link::{Order, Report};
use running::{Answer, Record, Running, TOKEN, next_order, send};
use serde_json::{Map, Value, json};

/// A sidecar, its document, and the operations that were asked so far.
struct Api {
    sidecar: Running,
    document: Value,
    asked: RefCell<BTreeSet<(String, String)>>,
}

/// One operation: method, path as the document writes it, description.
type Operation<'d> = (String, &'d str, &'d Value);

impl Api {
    fn start() -> Self {
        let sidecar = Running::start();
        let answer = send(sidecar.admin, ("GET", "/api/openapi.json"), &[], b"");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        Self { document: answer.json(), sidecar, asked: RefCell::default() }
    }

    fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        let paths = self.document["paths"].as_object().unwrap().iter();
        paths.flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (method.to_uppercase(), path.as_str(), operation))
        })
    }

    /// Asks for an operation with `id` in its path; the answer must be as the document says.
    fn ask(&self, method: &str, path: &str, id: &str, body: &Value) -> Value {
        let answer = self.try_ask(method, path, id, body);
        assert!(answer.status < 300, "{method} {path} {body}: {}", answer.body);
        answer.json()
    }

    fn try_ask(&self, method: &str, path: &str, id: &str, body: &Value) -> Answer {
        let documented = format!("/api/v1{}", path.split('?').next().unwrap());
        let operation = &self.document["paths"][&documented][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {documented} is not in the document");
        self.asked.borrow_mut().insert((method.to_owned(), documented));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.sidecar.send(method, &path.replace("{id}", id), &body);
        let described = &operation["responses"][answer.status.to_string()];
        assert!(described.is_object(), "{method} {path} {body}: {} is not described", answer.status);
        if described["content"]["text/csv"].is_object() {
            assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8"), "{path}");
            return answer;
        }
        let schema = &described["content"]["application/json"]["schema"];
        let faults = faults(schema, &answer.json(), &self.document);
        assert!(faults.is_empty(), "{method} {path}: {faults:?} in {}", answer.body);
        answer
    }
}

/// What is wrong with `value` by `schema`.
fn faults(schema: &Value, value: &Value, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    judge(schema, value, document, &mut |fault| found.push(format!("{fault}: {value}")));
    found
}

fn judge(schema: &Value, value: &Value, document: &Value, fault: &mut dyn FnMut(String)) {
    let words = schema.as_object().unwrap_or_else(|| panic!("no schema: {schema}"));
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        _ => Vec::new(),
    };
    for (word, rule) in words {
        match word.as_str() {
            "description" => {}
            "type" => {
                let kind = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
                    Value::Number(_) => "number",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                if !types.contains(&kind) && (kind != "integer" || !types.contains(&"number")) {
                    fault(format!("{kind} is not {types:?}"));
                }
            }
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                judge(document.pointer(pointer).expect("a reference"), value, document, fault);
            }
            "properties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    match rule.get(name) {
                        Some(schema) => {
                            judge(schema, member, document, &mut |f| fault(format!("{name}: {f}")))
                        }
                        None => fault(format!("{name} is not described")),
                    }
                }
            }
            "required" => {
                let has = |name: &Value| value.get(name.as_str().unwrap()).is_some();
                let missing = rule.as_array().unwrap().iter().filter(|name| value.is_object() && !has(name));
                missing.for_each(|name| fault(format!("{name} is missing")));
            }
            "additionalProperties" => assert_eq!(rule, false),
            "items" => {
                value.as_array().into_iter().flatten().for_each(|item| judge(rule, item, document, fault))
            }
            "enum" if !rule.as_array().unwrap().contains(value) => {
                fault(format!("not one of {rule}"));
            }
            "minimum" if value.is_number() && value.as_f64() < rule.as_f64() => {
                fault(format!("below {rule}"));
            }
            "maximum" if value.is_number() && value.as_f64() > rule.as_f64() => {
                fault(format!("above {rule}"));
            }
            "format" if value.is_string() && !has_format(rule.as_str().unwrap(), value.as_str().unwrap()) => {
                fault(format!("not a {rule}"));
            }
            "enum" | "minimum" | "maximum" | "format" => {}
            other => panic!("the validator does not know {other}"),
        }
    }
}

fn has_format(format: &str, text: &str) -> bool {
    match format {
        "uuid" => uuid::Uuid::try_parse(text).is_ok_and(|id| id.get_version_num() == 7),
        "date-time" => text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T',
        other => panic!("the validator does not know {other}"),
    }
}

#[test]
fn the_validator_sees_what_is_wrong() {
    let api = Api::start();
    let schema = json!({"$ref": "#/components/schemas/Key"});
    let tenant = api.sidecar.tenant("acme");
    let good =
        api.sidecar.expect(201, ("POST", "/keys"), &format!(r#"{{"tenant_id":"{tenant}","name":"a"}}"#));
    let mut good = good;
    good.as_object_mut().unwrap().remove("secret");
    assert_eq!(faults(&schema, &good, &api.document), Vec::<String>::new());
    for (member, wrong) in [
        ("id", json!("x")),
        ("disabled", json!(null)),
        ("expires_at", json!("tomorrow")),
        ("weight", json!(0)),
        ("weight", json!(1.5)),
        ("allowed_ips", json!([5])),
        ("secret", json!("sk_")),
    ] {
        let mut bad = good.clone();
        bad[member] = wrong;
        assert_eq!(faults(&schema, &bad, &api.document).len(), 1, "{member}");
    }
    let mut bad = good;
    bad.as_object_mut().unwrap().remove("name");
    assert_eq!(faults(&schema, &bad, &api.document).len(), 1);
    let schemas = &api.document["components"]["schemas"];
    let weight = &schemas["Model"]["properties"]["input_weight"];
    let brownout = &schemas["Tenant"]["properties"]["brownout"];
    for (schema, value, wrong) in [
        (weight, json!(0.5), 0),
        (weight, json!(7), 0),
        (weight, json!(null), 0),
        (weight, json!(-0.5), 1),
        (weight, json!(1000.5), 1),
        (brownout, json!("allow"), 0),
        (brownout, json!(null), 0),
        (brownout, json!("sometimes"), 1),
    ] {
        assert_eq!(faults(schema, &value, &api.document).len(), wrong, "{value}");
    }
}

#[test]
fn every_operation_answers_as_the_document_says() {
    let api = Api::start();
    let ask = |method: &str, path: &str, id: &str, body: Value| api.ask(method, path, id, &body);
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    for page in ["/health", "/stats", "/version"] {
        ask("GET", page, "", Value::Null);
    }
    let group = id(&ask("POST", "/groups", "", json!({"name": "gold"})));
    ask("GET", "/groups", "", Value::Null);
    ask("GET", "/groups/{id}", &group, Value::Null);
    ask("PATCH", "/groups/{id}", &group, json!({"weight": 7}));
    let budget = json!({"period": "monthly", "limit_tokens": 5, "limit_micro_usd": 0});
    ask("PUT", "/groups/{id}/budget", &group, budget.clone());

    let tenant = id(&ask("POST", "/tenants", "", json!({"name": "acme", "group_name": "gold"})));
    ask("GET", "/tenants?limit=5", "", Value::Null);
    ask("GET", "/tenants/{id}", &tenant, Value::Null);
    let limits = json!({"max_in_flight": 5, "allowed_models": ["m"], "allowed_ips": ["10.0.0.0/8"]});
    ask("PATCH", "/tenants/{id}", &tenant, limits);
    for (sub, body) in [
        ("quota", json!({"tokens_per_minute": 5})),
        ("weight", json!({"weight": 5})),
        ("group", json!({"group_name": "default"})),
        ("status", json!({"status": "suspended"})),
        ("brownout", json!({"brownout": "allow"})),
        ("allowlist", json!({"allowed_models": null})),
        ("budget", budget.clone()),
    ] {
        ask("PUT", &format!("/tenants/{{id}}/{sub}"), &tenant, body);
    }

    let key = id(&ask("POST", "/tenants/{id}/keys", &tenant, json!({"name": "a"})));
    ask("POST", "/keys", "", json!({"tenant_id": tenant, "name": "b", "allowed_ips": []}));
    ask("GET", "/tenants/{id}/keys", &tenant, Value::Null);
    ask("GET", &format!("/keys?tenant_id={tenant}"), "", Value::Null);
    ask("PATCH", "/keys/{id}", &key, json!({"expires_at": "2030-01-01T00:00:00Z", "allowed_models": []}));
    for (sub, body) in [
        ("disabled", json!({"disabled": true})),
        ("weight", json!({"weight": 5})),
        ("quota", json!({"requests_per_minute": null})),
        ("allowlist", json!({"allowed_models": ["m"]})),
        ("budget", budget),
    ] {
        ask("PUT", &format!("/keys/{{id}}/{sub}"), &key, body);
    }
    ask("POST", "/keys/{id}/rotate", &key, Value::Null);
    ask("GET", "/keys/{id}", &key, Value::Null);

    let model =
        json!({"model_name": "m", "api_base": "http://127.0.0.1:1", "api_key": "sk-up", "aliases": ["n"]});
    let model = id(&ask("POST", "/models", "", model));
    ask("GET", "/models", "", Value::Null);
    ask("PATCH", "/models/{id}", &model, json!({"max_model_len": 4096, "timeouts": {"idle_ms": 0}}));
    ask("PATCH", "/models/{id}", &model, json!({"prices": {"input_micro_usd": 5, "image_micro_usd": null}}));
    ask("GET", "/models/{id}/prices?limit=5", &model, Value::Null);
    ask("PUT", "/models/{id}/enabled", &model, json!({"enabled": false}));
    ask("PUT", "/models/{id}/capacity", &model, json!({"max_in_flight": 3}));
    ask("GET", "/models/{id}", &model, Value::Null);
    ask("GET", "/stats", "", Value::Null);
    ask("GET", "/fairshare/history", "", Value::Null);
    let record = Record {
        ts: 1_795_262_400_000,
        rest: [0; 10],
        request_id: "r".into(),
        tenant: tenant.clone(),
        key: key.clone(),
        model: "m".into(),
        refused: false,
        input_tokens: 10,
        cost: Some(7),
    };
    api.sidecar.record([record]);
    let range = "from=2026-11-01&to=2026-12-01";
    let by = "by=tenant,key,group,model,endpoint,outcome,status";
    for list in ["by=day", by, &format!("{by},day"), "by=month"] {
        assert_eq!(ask("GET", &format!("/usage?{range}&{list}"), "", Value::Null)["totals"]["requests"], 1);
    }
    ask("GET", &format!("/usage/series?{range}&{by}&interval=week"), "", Value::Null);
    assert_eq!(ask("GET", &format!("/usage/logs?{range}"), "", Value::Null).as_array().unwrap().len(), 1);
    api.try_ask("GET", "/usage/export.csv", "", &Value::Null);
    api.sidecar.hush();
    let played = api.sidecar.coordinator.clone();
    let coordinator = std::thread::spawn(move || {
        while !matches!(next_order(&played), Order::Look) {}
        played.report(Report::Live(Vec::new()));
    });
    ask("GET", "/fairshare/live", "", Value::Null);
    coordinator.join().unwrap();
    assert_eq!(ask("GET", "/budgets", "", Value::Null).as_array().unwrap().len(), 6);
    for (path, id) in [("keys", &key), ("tenants", &tenant), ("groups", &group)] {
        ask("DELETE", &format!("/{path}/{{id}}/budget?period=monthly"), id, Value::Null);
    }
    for (path, id) in
        [("/models/{id}", model), ("/keys/{id}", key), ("/tenants/{id}", tenant), ("/groups/{id}", group)]
    {
        ask("DELETE", path, &id, Value::Null);
    }
    let all: BTreeSet<_> = api.operations().map(|(method, path, _)| (method, path.to_owned())).collect();
    let missed: Vec<_> = all.difference(&api.asked.borrow()).cloned().collect();
    assert!(missed.is_empty(), "never asked: {missed:?}");
}

#[test]
fn the_methods_of_every_path_are_those_of_the_document() {
    let api = Api::start();
    for (path, methods) in api.document["paths"].as_object().unwrap() {
        let mut documented: Vec<_> = methods.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
        if documented.contains(&"GET".to_owned()) {
            documented.push("HEAD".to_owned());
        }
        documented.sort();
        let authorization = format!("Bearer {TOKEN}");
        let path = path.replace("{id}", "x");
        let refused = send(api.sidecar.admin, ("TRACE", &path), &[("Authorization", &authorization)], b"");
        assert_eq!(refused.status, 405, "{path}");
        let mut allowed: Vec<_> = refused.header("allow").unwrap().split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed, documented, "{path}");
    }
}

#[test]
fn bodies_take_exactly_the_members_that_the_document_names() {
    let api = Api::start();
    let tenant = api.sidecar.tenant("acme");
    let (key, _) = api.sidecar.key(&tenant, "ci");
    let model = json!({"model_name": "m", "api_base": "http://127.0.0.1:1"});
    let model = api.ask("POST", "/models", "", &model);
    let group = api.ask("POST", "/groups", "", &json!({"name": "gold"}));
    let id_for = |path: &str| match path.split('/').nth(3).unwrap() {
        "tenants" => tenant.as_str(),
        "keys" => key.as_str(),
        "models" => model["id"].as_str().unwrap(),
        _ => group["id"].as_str().unwrap(),
    };
    let mut judged = 0;
    for (method, path, operation) in api.operations() {
        let Some(body) = operation.get("requestBody") else { continue };
        let schema = &body["content"]["application/json"]["schema"];
        let path = path.trim_start_matches("/api/v1");
        let id = id_for(&format!("/api/v1{path}"));
        let required = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        let example = |name: &str| match name {
            "tenant_id" => json!(tenant),
            name => example(&schema["properties"][name], name),
        };
        let needed: Map<String, Value> = required.map(|name| (name.to_owned(), example(name))).collect();
        let without = api.try_ask(&method, path, id, &Value::Null);
        let expected = if body["required"] == true { 400 } else { 201 };
        assert_eq!(without.status, expected, "{method} {path} without a body: {}", without.body);
        assert_eq!(named(&api, (&method, path, id), &needed, ""), properties(schema), "{method} {path}");
        for (name, member) in schema["properties"].as_object().unwrap() {
            let nested = match (&member["properties"], &member["items"]["properties"]) {
                (Value::Object(_), _) => (member, json!({"no such": 1}), "."),
                (_, Value::Object(_)) => (&member["items"], json!([{"no such": 1}]), "[0]."),
                _ => continue,
            };
            let mut body = needed.clone();
            body.insert(name.clone(), nested.1);
            let found = named(&api, (&method, path, id), &body, &format!("{name}{}", nested.2));
            assert_eq!(found, properties(nested.0), "{method} {path} {name}");
        }
        judged += 1;
        if method != "PATCH" {
            continue;
        }
        // Every value that the document allows is taken, one member at a time.
        for (name, member) in schema["properties"].as_object().unwrap() {
            let mut values = vec![example(name)];
            values.extend(
                [&member["minimum"], &member["maximum"]].into_iter().filter(|v| !v.is_null()).cloned(),
            );
            values.extend(member["enum"].as_array().into_iter().flatten().cloned());
            if member["type"].as_array().is_some_and(|types| types.contains(&json!("null"))) {
                values.push(Value::Null);
            }
            for value in values {
                api.ask("PATCH", path, id, &json!({name.as_str(): value}));
            }
        }
    }
    assert!(judged >= 15, "only {judged}");
}

fn properties(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

/// The members that the API itself names when it refuses one that it does not know.
fn named(api: &Api, to: (&str, &str, &str), body: &Map<String, Value>, prefix: &str) -> BTreeSet<String> {
    let mut body = body.clone();
    if prefix.is_empty() {
        body.insert("no such".to_owned(), json!(1));
    }
    let (method, path, id) = to;
    let answer = api.try_ask(method, path, id, &Value::Object(body));
    let error = &answer.json()["error"];
    assert_eq!(error["param"], json!(format!("{prefix}no such")), "{to:?}: {error}");
    let (_, known) = error["message"].as_str().unwrap().split_once("; there are ").unwrap();
    known.trim_end_matches('.').split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
}

/// A value that a member of this schema may have.
fn example(schema: &Value, name: &str) -> Value {
    let kind = match &schema["type"] {
        Value::Array(types) => types[0].as_str().unwrap(),
        one => one.as_str().unwrap(),
    };
    match (name, kind) {
        ("group_name", _) => json!("default"),
        ("time_zone", _) => json!("Europe/Berlin"),
        ("api_base", _) => json!("http://127.0.0.1:2/v1"),
        ("allowed_ips", _) => json!(["192.0.2.0/24", "::1"]),
        (_, "string") if !schema["enum"].is_null() => schema["enum"][0].clone(),
        (_, "string") if schema["format"] == "date-time" => json!("2030-01-01T00:00:00Z"),
        (_, "string") => json!("some-text"),
        (_, "integer") => json!(5),
        (_, "number") => json!(0.125),
        (_, "boolean") => json!(true),
        ("endpoints", _) => json!([{"api_base": "http://127.0.0.1:3", "api_key": null}]),
        (_, "array") => json!(["a", "b"]),
        (_, "object") => json!({}),
        other => panic!("no example for {other:?}"),
    }
}

#[test]
fn every_refusal_has_the_shape_of_the_document() {
    let api = Api::start();
    let tenant = api.sidecar.tenant("acme");
    let (key, _) = api.sidecar.key(&tenant, "ci");
    let refusal = json!({"$ref": "#/components/schemas/Error"});
    let judge = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(faults(&refusal, &answer.json(), &api.document), Vec::<String>::new());
    };
    let nobody = api.sidecar.tenant("gone");
    api.sidecar.expect(200, ("DELETE", &format!("/tenants/{nobody}")), "");
    // Described for the operation, and so asked by way of the document.
    for (status, method, path, id, body) in [
        (400, "POST", "/tenants", "", json!([])),
        (400, "POST", "/tenants", "", json!({"name": 5})),
        (400, "GET", "/keys?limit=0", "", Value::Null),
        (404, "GET", "/keys/{id}", "x", Value::Null),
        (404, "GET", &format!("/keys?tenant_id={}", nobody), "", Value::Null),
        (404, "POST", "/keys", "", json!({"tenant_id": nobody, "name": "a"})),
        (404, "POST", "/keys/{id}/rotate", "x", Value::Null),
        (409, "POST", "/tenants", "", json!({"name": "acme"})),
        (413, "PATCH", "/keys/{id}", key.as_str(), json!({"name": "x".repeat(1 << 20)})),
    ] {
        judge(&api.try_ask(method, path, id, &body), status);
    }
    let bare = |method, path| send(api.sidecar.admin, (method, path), &[], b"");
    judge(&bare("GET", "/api/v1/keys"), 401);
    judge(&bare("GET", "/nothing"), 404);
    judge(&api.sidecar.send("GET", "/nothing", ""), 404);
    judge(&api.sidecar.send("PUT", "/keys", ""), 405);
    judge(&bare("POST", "/api/openapi.json"), 405);
    api.sidecar.outside().execute_batch("ALTER TABLE api_keys RENAME TO away").unwrap();
    judge(&api.try_ask("GET", "/keys", "", &Value::Null), 503);
    assert_eq!(api.try_ask("GET", "/health", "", &Value::Null).status, 503);
}

#[test]
fn the_pages_need_no_token_and_hold_no_secret_and_load_nothing() {
    let api = Api::start();
    let page = send(api.sidecar.admin, ("GET", "/api/docs"), &[], b"");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for loads in ["<script", "src=", "@import", "url(", "http://", "https://", "//"] {
        assert!(!page.body.contains(loads), "{loads}");
    }
    for (method, path, _) in api.operations() {
        assert!(page.body.contains(&format!("<b>{method}</b><code>{path}</code>")), "{method} {path}");
    }
    assert!(!page.body.contains(TOKEN) && !api.document.to_string().contains(TOKEN));
    let ids: Vec<_> =
        api.operations().map(|(_, _, operation)| operation["operationId"].to_string()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is one operation's");
    assert_eq!(api.document["info"]["version"], "1.2.3");
}
