//! What passes through is what a direct call would have brought, and what goes on is what the client sent.

use obleth_upstream::Options;
use serde_json::json;

use super::{
    http::{End, Request, Response},
    process::Setup,
    world::{ENDPOINTS, MODEL, World, body_of, chat},
};

fn both(world: &World, request: &Request) -> (Response, Response) {
    (request.to(world.sim.addr), world.ask(request))
}

#[track_caller]
fn assert_same(direct: &Response, through: &Response, what: &str) {
    assert_eq!((direct.status, through.status), (200, 200), "{what}: {}", through.text());
    assert_eq!((direct.end, through.end), (End::Complete, End::Complete), "{what}");
    assert_eq!(through.header("content-type"), direct.header("content-type"), "{what}");
    assert_eq!(through.text(), direct.text(), "{what}");
}

#[test]
fn text_of_every_script_passes_in_both_directions() {
    let world = World::start();
    let said = "na\u{ef}ve \u{4f60}\u{597d} \u{1F469}\u{200d}\u{1F4BB} \\u0000 \\ud83d\\ude00 \\\" \\\\ ";
    let body = chat("").replace("say three words", said);
    for more in ["", r#","stream":true"#] {
        let body = body.replace("]}", &format!("]{more}}}"));
        let request = world.post(ENDPOINTS[0], body).header("x-sim-tokens", 100);
        let (direct, through) = both(&world, &request);
        assert_same(&direct, &through, more);
    }
    let echoed = world.ask(&world.post(ENDPOINTS[0], body.clone()).header("x-sim-echo", 1));
    assert_eq!(echoed.json()["choices"][0]["message"]["content"], body);
}

#[test]
fn only_what_must_differ_leaves_differently() {
    let world = World::start();
    world.new_model("public", json!({"aliases": ["nick", "q\"uote"], "upstream_model": "org/private"}));
    let sent = |endpoint: &str, body: &str| {
        let answer = world.ask(&world.post(endpoint, body));
        assert_eq!(answer.status, 200, "{body} {}", answer.text());
        String::from_utf8(world.sim.counters.last_request().body).unwrap()
    };
    let usage = r#","stream_options":{"include_usage":true}"#;
    for endpoint in ENDPOINTS {
        for name in ["public", "nick", "q\\\"uote", "n\\u0069ck"] {
            let body = body_of(endpoint, name, ",\"z\" : [1 , 2.50, null],\"model2\":\"nick\"");
            let expected = body.replacen(&format!("\"{name}\""), "\"org/private\"", 1);
            assert_eq!(sent(endpoint, &body), expected);
        }
        // A name that the backend knows too is left alone.
        let plain = body_of(endpoint, MODEL, ",\"seed\":7");
        assert_eq!(sent(endpoint, &plain), plain);
        // Only the gateway may set a priority.
        assert_eq!(sent(endpoint, &body_of(endpoint, MODEL, ",\"priority\":-5,\"seed\":7")), plain);
    }
    for endpoint in &ENDPOINTS[..2] {
        let streamed = body_of(endpoint, MODEL, ",\"stream\":true");
        let left = sent(endpoint, &streamed);
        assert_eq!(left.replacen(usage, "", 1), streamed, "{left}");
        assert_eq!(left.matches(usage).count(), 1, "{left}");
        for (before, after) in [
            (r#""stream_options":null"#, r#""stream_options":{"include_usage":true}"#),
            (r#""stream_options":{}"#, r#""stream_options":{"include_usage":true}"#),
            (r#""stream_options":{"include_usage":false}"#, r#""stream_options":{"include_usage":true}"#),
            (r#""stream_options":{ "a":1}"#, r#""stream_options":{"include_usage":true, "a":1}"#),
            (
                r#""stream_options":{"include_usage":true,"a":1}"#,
                r#""stream_options":{"include_usage":true,"a":1}"#,
            ),
        ] {
            let body = body_of(endpoint, MODEL, &format!(",\"stream\":true,{before},\"seed\":7"));
            let (left, expected) = (sent(endpoint, &body), body.replace(before, after));
            let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(json(&left), json(&expected), "{left}");
            let around = body.split(before).collect::<Vec<_>>();
            assert!(left.starts_with(around[0]) && left.ends_with(around[1]), "{left}");
        }
    }
    let unstreamed = chat(r#","stream":false,"stream_options":{"include_usage":false}"#);
    assert_eq!(sent(ENDPOINTS[0], &unstreamed), unstreamed);
}

#[test]
fn the_models_page_is_the_registrys() {
    let world = World::start();
    world.new_model(
        "public",
        json!({"aliases": ["nick"], "upstream_model": "org/private", "max_model_len": 4096}),
    );
    let list = || world.ask(&Request::get("/v1/models").key(&world.secret));
    let page = list().json();
    assert_eq!(page["object"], "list");
    let models = page["data"].as_array().unwrap();
    assert_eq!(models.len(), 3);
    for model in models {
        assert_eq!(model["object"], "model");
        assert!(model["owned_by"].is_string());
        assert!(model["created"].as_u64().unwrap() > 1_700_000_000);
        let id = model["id"].as_str().unwrap();
        let one = world.ask(&Request::get(&format!("/v1/models/{id}")).key(&world.secret));
        assert_eq!(one.json(), *model);
        assert_eq!(model["max_model_len"], if id == MODEL { json!(null) } else { json!(4096) });
    }
    assert_eq!(list().text(), list().text(), "stable");
    assert!(!list().text().contains("org/private"));
    assert_eq!(world.sim().requests, 0);
}

#[test]
fn a_large_body_and_a_large_answer_pass_whole() {
    let world = World::start();
    let text = "word ".repeat(1_800_000);
    let body = chat("").replace("say three words", &text);
    assert!(body.len() > 9_000_000);
    let answer = world.ask(&world.post(ENDPOINTS[0], body.clone()).header("x-sim-echo", 1));
    assert_eq!(answer.status, 200, "{}", &answer.text()[..300.min(answer.body.len())]);
    assert_eq!(answer.end, End::Complete);
    assert!(world.sim.counters.last_request().body == body.as_bytes());
    assert!(answer.json()["choices"][0]["message"]["content"].as_str() == Some(&body));
    let long = world.ask(&world.chat(r#","stream":true,"sim_tokens":20000"#));
    assert!(long.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(long.events().len(), 20_000 + 3);
}

#[test]
fn an_answer_of_the_other_kind_is_passed_on_as_it_is() {
    // The stand-in ignores `stream`: its answer to any request is the same JSON.
    let world = World::with(Setup::new(), Options::default());
    let canned = super::world::Canned::start(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: canned\r\n\r\n{\"choices\":[]}",
    );
    world.new_model("canned", json!({"api_base": format!("http://{}", canned.addr)}));
    let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "canned", r#","stream":true"#)));
    assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "{\"choices\":[]}", End::Complete));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}
