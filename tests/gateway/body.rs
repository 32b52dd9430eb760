//! Gate 6: bodies that a backend could read differently from the gateway are refused, and nothing else is.

use serde_json::json;

use super::{
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

#[test]
fn a_body_that_two_readers_could_read_differently_is_refused() {
    let mut world = World::start();
    world.new_model("other", json!({}));
    for endpoint in ENDPOINTS {
        let body = body_of(endpoint, MODEL, "");
        let twice = |second: &str| body_of(endpoint, MODEL, &format!(",{second}"));
        let mut rows: Vec<(Vec<u8>, &str)> = [
            twice(r#""model":"other""#),
            twice(r#""model":"tiny""#),
            twice(r#""mod\u0065l":"other""#),
            twice(r#""\u006d\u006f\u0064\u0065\u006c":"other""#),
            body.replace("\"model\"", "\"mod\\u0065l\":\"other\",\"model\""),
            format!("\u{feff}{body}"),
            format!("{body}x"),
            format!("{body}{{}}"),
            format!("{body},"),
            format!("[{body}]"),
            format!("\"{MODEL}\""),
            "null".to_owned(),
            String::new(),
            " ".to_owned(),
            body[..body.len() - 1].to_owned(),
            body.replace('"', "'"),
            body_of(endpoint, MODEL, ",\"a\":01"),
            body_of(endpoint, MODEL, ",\"a\":NaN"),
            body_of(endpoint, MODEL, ",\"a\":tru"),
            body_of(endpoint, MODEL, ",\"a\":\"\\x\""),
            body_of(endpoint, MODEL, ",\"a\":\"\n\""),
            body_of(endpoint, MODEL, ",\"a\":1,"),
            format!("/**/{body}"),
            body_of(endpoint, MODEL, &format!(",\"a\":{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            body_of(endpoint, MODEL, &format!(",\"a\":{}", "{\"a\":".repeat(100_000))),
        ]
        .map(|body| (body.into_bytes(), "invalid_json"))
        .into();
        for invalid in [&b"\xff"[..], b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf"] {
            let text = body_of(endpoint, MODEL, ",\"a\":\"@\"").into_bytes();
            let at = text.iter().position(|byte| *byte == b'@').unwrap();
            rows.push(([&text[..at], invalid, &text[at + 1..]].concat(), "invalid_json"));
        }
        for (from, to) in [("\"model\":\"tiny\"", "\"m\":1"), ("\"tiny\"", "null"), ("\"tiny\"", "\"\"")] {
            rows.push((body.replace(from, to).into_bytes(), "missing_model"));
        }
        for value in ["1", "true", "[\"tiny\"]", "{}", "\"\\ud800\""] {
            rows.push((body.replace("\"tiny\"", value).into_bytes(), "invalid_parameter"));
        }
        for (body, code) in rows {
            let refused = world.ask(&world.post(endpoint, body.clone()));
            let shown = String::from_utf8_lossy(&body[..body.len().min(300)]);
            assert_eq!(refused.code(), code, "{endpoint} {shown}");
            assert_refused(&refused, code);
            let param = refused.json()["error"]["param"].clone();
            assert_eq!(param, if code == "invalid_json" { json!(null) } else { json!("model") }, "{shown}");
        }
    }
    assert_eq!(world.sim().requests, 0);
    world.assert_unharmed();
}

#[test]
fn a_parameter_that_the_gateway_reads_has_the_right_kind_or_is_named() {
    let world = World::start();
    for endpoint in &ENDPOINTS[..2] {
        for (member, param) in [
            (r#","stream":"yes""#, "stream"),
            (r#","stream":1"#, "stream"),
            (r#","stream":true,"stream_options":[]"#, "stream_options"),
            (r#","stream":true,"stream_options":{"include_usage":"yes"}"#, "stream_options.include_usage"),
            (r#","max_tokens":"5""#, "max_tokens"),
            (r#","max_tokens":-1"#, "max_tokens"),
            (r#","max_tokens":1.5"#, "max_tokens"),
            (r#","max_completion_tokens":{}"#, "max_completion_tokens"),
        ] {
            let refused = world.ask(&world.post(endpoint, body_of(endpoint, MODEL, member)));
            assert_refused(&refused, "invalid_parameter");
            assert_eq!(refused.json()["error"]["param"], param);
        }
        for member in [r#","stream":true,"stream":true"#, r#","max_tokens":1,"max\u005ftokens":2"#] {
            assert_refused(
                &world.ask(&world.post(endpoint, body_of(endpoint, MODEL, member))),
                "invalid_json",
            );
        }
    }
    assert_eq!(world.sim().requests, 0);
}

#[test]
fn a_body_with_unusual_and_valid_json_is_served_byte_for_byte() {
    let world = World::start();
    let deep = format!(",\"a\":{}1{}", "[".repeat(40), "]".repeat(40));
    for endpoint in ENDPOINTS {
        let mut rows = [
            r#","unknown":{"model":"other"},"x":[{"model":1}]"#,
            r#","a":1e5,"b":-0.0,"c":123456789012345678901234567890,"d":1E+2"#,
            ",\"a\":\"caf\u{e9} \u{1F600} \\u00e9 \\ud83d\\ude00 \\\"\"",
            r#","a":1,"a":2"#,
            r#","stream":null,"max_tokens":null"#,
            &deep,
        ]
        .map(|more| body_of(endpoint, MODEL, more))
        .to_vec();
        let body = body_of(endpoint, MODEL, "");
        rows.push(format!(" \r\n\t{} \r\n\t", body.replace(':', " : ").replace(',', "\r\n,\t")));
        for body in rows {
            let answer = world.ask(&world.post(endpoint, body.clone()));
            assert_eq!(answer.status, 200, "{body} {}", answer.text());
            assert_eq!(world.sim.counters.last_request().body, body.as_bytes());
        }
        // The name may be written with escapes; it is unescaped before it is compared.
        let escaped = body.replace("\"model\":\"tiny\"", "\"m\\u006fdel\":\"t\\u0069ny\"");
        let answer = world.ask(&world.post(endpoint, escaped.clone()));
        assert_eq!(answer.status, 200, "{escaped} {}", answer.text());
    }
}
