//! A model's endpoints through the admin API: what a list does to the list before it, and what it is refused for.

mod running;

use running::Running;
use serde_json::{Value, json};

/// The endpoint as it is shown.
fn shown(name: &str, port: u16, priority: u32, has_api_key: bool) -> Value {
    json!({"name": name, "api_base": format!("http://127.0.0.1:{port}"), "has_api_key": has_api_key,
           "priority": priority, "enabled": true})
}

/// A model with the endpoints `a` and `b`, of which `a` has a credential. Returns its path.
fn with_two(sidecar: &Running) -> String {
    let body = r#"{"model_name":"m","endpoints":[
        {"name":"a","api_base":"http://127.0.0.1:1","api_key":"sk-up-1"},
        {"name":"b","api_base":"http://127.0.0.1:2"}]}"#;
    let made = sidecar.expect(201, ("POST", "/models"), body);
    assert_eq!(made["endpoints"], json!([shown("a", 1, 0, true), shown("b", 2, 0, false)]));
    format!("/models/{}", made["id"].as_str().unwrap())
}

#[test]
fn a_list_replaces_the_list_and_entries_that_keep_their_name_keep_the_rest() {
    let sidecar = Running::start();
    let path = with_two(&sidecar);
    let patch = |endpoints: &str| {
        let body = format!(r#"{{"endpoints":{endpoints}}}"#);
        let answer = sidecar.expect(200, ("PATCH", &path), &body)["endpoints"].clone();
        assert_eq!(sidecar.expect(200, ("GET", &path), "")["endpoints"], answer);
        answer
    };
    let [a, b] = [shown("a", 1, 0, true), shown("b", 2, 0, false)];
    assert_eq!(
        patch(r#"[{"name":"b"},{"name":"a"}]"#),
        json!([b, a]),
        "of equal priorities, the first listed"
    );
    let a = shown("a", 1, 5, true);
    assert_eq!(patch(r#"[{"name":"a","priority":5},{"name":"b"}]"#), json!([b, a]), "the lowest number");
    let third = r#"[{"name":"a"},{"name":"c","api_base":"http://127.0.0.1:3","priority":9},{"name":"b"}]"#;
    assert_eq!(patch(third), json!([b, a, shown("c", 3, 9, false)]));
    assert_eq!(patch(r#"[{"name":"a","api_key":null,"priority":0}]"#), json!([shown("a", 1, 0, false)]));
    let again = r#"[{"name":"a"},{"name":"b","api_base":"http://127.0.0.1:2"}]"#;
    assert_eq!(patch(again)[1], shown("b", 2, 0, false), "what was taken away has left nothing");
    let disabled = patch(r#"[{"name":"a","enabled":false},{"name":"b","enabled":false}]"#);
    assert_eq!((&disabled[0]["enabled"], &disabled[1]["enabled"]), (&json!(false), &json!(false)));
}

#[test]
fn a_stored_credential_stays_where_it_is() {
    let sidecar = Running::start();
    let path = with_two(&sidecar);
    let before = sidecar.get(&path).body;
    let swapped = r#"{"endpoints":[{"name":"b"},{"name":"a","api_base":"http://127.0.0.1:2"}]}"#;
    let answer = sidecar.send("PATCH", &path, swapped);
    assert_eq!((answer.status, answer.refusal().1), (400, json!("endpoints[1].api_key")));
    assert_eq!(sidecar.get(&path).body, before);
    assert!(!before.contains("sk-up"));
}

#[test]
fn each_fault_of_a_list_is_told_with_its_place() {
    let sidecar = Running::start();
    let path = with_two(&sidecar);
    let before = sidecar.get(&path).body;
    let many = vec![r#"{"name":"x","api_base":"http://127.0.0.1:1"}"#; 33].join(",");
    let ok = r#"{"name":"a"}"#;
    let table = [
        (format!(r#"[{ok},{{"name":"a"}}]"#), "endpoints[1].name"),
        (
            r#"[{"api_base":"http://127.0.0.1:1"},{"api_base":"http://127.0.0.1:2"}]"#.into(),
            "endpoints[1].name",
        ),
        (format!(r#"[{ok},{{"name":""}}]"#), "endpoints[1].name"),
        (format!(r#"[{ok},{{"name":"new"}}]"#), "endpoints[1].api_base"),
        (format!(r#"[{ok},{{"name":"b","api_base":"ftp://x"}}]"#), "endpoints[1].api_base"),
        (format!(r#"[{ok},{{"name":"b","api_base":"http://169.254.169.254"}}]"#), "endpoints[1].api_base"),
        (format!(r#"[{ok},{{"name":"b","api_key":"two words"}}]"#), "endpoints[1].api_key"),
        (format!(r#"[{ok},{{"name":"b","priority":-1}}]"#), "endpoints[1].priority"),
        (format!(r#"[{ok},{{"name":"b","enabled":"yes"}}]"#), "endpoints[1].enabled"),
        (format!(r#"[{ok},{{"name":"b","weight":5}}]"#), "endpoints[1].weight"),
        (format!(r#"[{ok},{{"name":"b","max_in_flight":5}}]"#), "endpoints[1].max_in_flight"),
        (format!(r#"[{ok},{{"name":"b","wieght":5}}]"#), "endpoints[1].wieght"),
        (format!("[{many}]"), "endpoints"),
        ("{}".into(), "endpoints"),
        ("[1]".into(), "endpoints"),
        ("null".into(), "endpoints"),
        ("[]".into(), "api_base"),
    ];
    for (endpoints, param) in table {
        let answer = sidecar.send("PATCH", &path, &format!(r#"{{"endpoints":{endpoints}}}"#));
        assert_eq!((answer.status, answer.refusal().1), (400, json!(param)), "{endpoints}");
    }
    for (short, param) in
        [(r#"{"api_base":"http://127.0.0.1:9"}"#, "api_base"), (r#"{"api_key":"sk"}"#, "api_key")]
    {
        let answer = sidecar.send("PATCH", &path, short);
        assert_eq!((answer.status, answer.refusal().1), (400, json!(param)), "it has two: {short}");
    }
    assert_eq!(sidecar.get(&path).body, before);
    let weight = sidecar.send("PATCH", &path, r#"{"endpoints":[{"name":"a","weight":1}]}"#);
    assert!(weight.body.contains("not in this version"), "{}", weight.body);
}
