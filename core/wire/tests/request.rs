//! Gate 6 and the edits: what is read of a request body, what is refused, and what leaves instead of it.

use obleth_wire::{
    json,
    openai::{BodyFault, Dialect, Edits, plan, scan_request},
    splice::Splice,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const CHAT: Dialect = Dialect::Chat;

fn refused(param: &str, body: &str) -> bool {
    let fault = scan_request(body.as_bytes(), CHAT).unwrap_err();
    matches!(fault, BodyFault::InvalidParameter { param: found, .. } if found == param)
}

fn invalid_json(body: &[u8], dialect: Dialect) -> bool {
    matches!(scan_request(body, dialect), Err(BodyFault::InvalidJson { .. }))
}

fn edited(body: &str, edits: &Edits<'_>) -> String {
    let fields = scan_request(body.as_bytes(), CHAT).unwrap();
    let splice = plan(&fields, edits);
    let mut out = Vec::new();
    splice.write(body.as_bytes(), &mut out);
    assert_eq!(out.len(), splice.len(body.len()));
    assert_eq!(splice.pieces(body.as_bytes()).collect::<Vec<_>>().concat(), out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_second_model_in_another_case_is_a_duplicate() {
    for body in [
        r#"{"model":"granted","MODEL":"other"}"#,
        r#"{"Model":"other","model":"granted"}"#,
        r#"{"model":"granted","m\u004fdel":"other"}"#,
    ] {
        let fault = scan_request(body.as_bytes(), Dialect::Chat).unwrap_err();
        assert!(matches!(fault, BodyFault::InvalidJson { .. }), "{body}");
    }
    let alone = scan_request(br#"{"Model":"m"}"#, Dialect::Chat).unwrap_err();
    assert_eq!(alone, BodyFault::MissingModel);
}

#[test]
fn the_fields_are_read() {
    let body = br#"{"messages":[{"model":"no"}],"model":"org\/m","stream":true,"max_tokens":7,
        "max_completion_tokens":0,"stream_options":{"x":1,"include_usage":true},"priority":-3}"#;
    let fields = scan_request(body, CHAT).unwrap();
    assert_eq!(fields.model, "org/m");
    assert!(fields.stream && fields.include_usage && fields.has_priority());
    assert_eq!(fields.max_tokens.as_ref().and_then(|limit| limit.tokens), Some(7));
    assert_eq!(fields.output_limit(), Some(0), "the lower of the two");
}

#[test]
fn absent_and_null_fields_are_the_same() {
    for body in [
        r#"{"model":"m"}"#,
        r#"{"model":"m","stream":null,"stream_options":null,"max_tokens":null,"max_completion_tokens":null}"#,
        r#"{"model":"m","stream":false,"stream_options":{"include_usage":null}}"#,
        r#"{"model":"m","stream_options":{"include_usage":true}}"#,
    ] {
        let fields = scan_request(body.as_bytes(), CHAT).unwrap();
        assert!(!fields.stream && !fields.include_usage && !fields.has_priority(), "{body}");
        assert_eq!(fields.output_limit(), None);
    }
}

#[test]
fn a_model_must_be_named() {
    for body in ["{}", r#"{"model":null}"#, r#"{"model":""}"#, r#"{"Model":"m"}"#, r#"{"a":{"model":"m"}}"#] {
        assert_eq!(scan_request(body.as_bytes(), CHAT).unwrap_err(), BodyFault::MissingModel, "{body}");
    }
    for body in [
        r#"{"model":1}"#,
        r#"{"model":["m"]}"#,
        r#"{"model":{}}"#,
        r#"{"model":true}"#,
        r#"{"model":"\ud800"}"#,
    ] {
        assert!(refused("model", body), "{body}");
    }
}

#[test]
fn a_value_of_the_wrong_type_names_its_parameter() {
    for value in [r#""true""#, "1", "0", "[]", "{}"] {
        assert!(refused("stream", &format!(r#"{{"model":"m","stream":{value}}}"#)), "{value}");
        let inner = format!(r#"{{"model":"m","stream_options":{{"include_usage":{value}}}}}"#);
        assert!(refused("stream_options.include_usage", &inner), "{value}");
        let inner = inner.replace("include_usage", "continuous_usage_stats");
        assert!(refused("stream_options.continuous_usage_stats", &inner), "{value}");
    }
    for value in ["true", "[]", "1", r#""x""#] {
        assert!(
            refused("stream_options", &format!(r#"{{"model":"m","stream_options":{value}}}"#)),
            "{value}"
        );
    }
    for value in ["-1", "1.0", "1e3", "-0", r#""5""#, "true", "[]", "18446744073709551616"] {
        assert!(refused("max_tokens", &format!(r#"{{"model":"m","max_tokens":{value}}}"#)), "{value}");
        let other = format!(r#"{{"model":"m","max_completion_tokens":{value}}}"#);
        assert!(refused("max_completion_tokens", &other), "{value}");
    }
}

#[test]
fn a_field_given_twice_is_refused_however_it_is_spelt() {
    for member in [
        r#""model":"m""#,
        r#""stream":true"#,
        r#""stream_options":{}"#,
        r#""max_tokens":1"#,
        r#""priority":1"#,
    ] {
        assert!(
            invalid_json(format!(r#"{{"model":"m","x":1,{member},{member}}}"#).as_bytes(), CHAT),
            "{member}"
        );
    }
    assert!(invalid_json(br#"{"model":"m","max_completion_tokens":1,"max_completion_tokens":1}"#, CHAT));
    assert!(invalid_json(br#"{"model":"granted","mod\u0065l":"other"}"#, CHAT));
    assert!(invalid_json(br#"{"model":"m","model":"m"}"#, Dialect::Embeddings));
    assert!(invalid_json(
        br#"{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}"#,
        CHAT
    ));
    assert!(invalid_json(
        br#"{"model":"m","stream_options":{"continuous_usage_stats":true,"continuous_usage_stats":true}}"#,
        CHAT
    ));
    assert!(!invalid_json(br#"{"model":"m","user":1,"user":2}"#, CHAT));
}

#[test]
fn what_is_not_strict_json_is_refused() {
    for body in [
        &b""[..],
        b"[]",
        b"\xEF\xBB\xBF{\"model\":\"m\"}",
        b"{\"model\":\"m\xff\"}",
        b"{\"model\":\"m\"} {}",
        b"{\"model\":\"m\",}",
    ] {
        assert!(invalid_json(body, CHAT), "{body:?}");
    }
}

#[test]
fn embeddings_have_neither_streams_nor_output_limits() {
    let body = br#"{"model":"m","stream":"x","max_tokens":-1,"stream":1,"input":"a"}"#;
    let fields = scan_request(body, Dialect::Embeddings).unwrap();
    assert!(!fields.stream && fields.max_tokens.is_none());
    assert!(plan(&fields, &Edits { ask_for_usage: true, ..Edits::default() }).is_empty());
    assert!(scan_request(body, Dialect::Completions).is_err());
}

#[test]
fn messages_name_the_field_and_the_remedy() {
    let message = |body: &[u8]| scan_request(body, CHAT).unwrap_err().to_string();
    assert_eq!(message(br#"{"model":"m","stream":1}"#), "`stream` must be true, false or null.");
    assert_eq!(message(b"{}"), "The request names no model: `model` must be a non-empty string.");
    assert_eq!(
        message(b"{]"),
        "The request body is not acceptable JSON: expected a field name in double quotes at byte 1."
    );
}

#[test]
fn usage_is_asked_for_whatever_stands_there() {
    let ask = Edits { ask_for_usage: true, ..Edits::default() };
    for (body, expected) in [
        (
            r#"{"stream":true,"model":"m" }"#,
            r#"{"stream":true,"model":"m","stream_options":{"include_usage":true} }"#,
        ),
        (
            r#"{"model": "m", "stream": true}"#,
            r#"{"model": "m","stream_options":{"include_usage":true}, "stream": true}"#,
        ),
        (
            r#"{"stream_options": null,"model":"m","stream":true}"#,
            r#"{"stream_options": {"include_usage":true},"model":"m","stream":true}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{ }}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true }}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{ "a":[1] }}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true, "a":[1] }}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"a":1, "include_usage" : false}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"a":1, "include_usage" : true}}"#,
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_us\u0061ge":null}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_us\u0061ge":true}}"#,
        ),
    ] {
        assert_eq!(edited(body, &ask), expected);
    }
    for same in [
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"model":"m","stream":false}"#,
        r#"{"model":"m","stream_options":null}"#,
    ] {
        assert_eq!(edited(same, &ask), same);
    }
}

#[test]
fn running_counts_are_asked_for_besides_and_who_asks_is_known() {
    let ask = Edits { ask_for_usage: true, ask_for_running: true, ..Edits::default() };
    let both = r#"{"include_usage":true,"continuous_usage_stats":true}"#;
    let options = |options: &str| format!(r#"{{"model":"m","stream":true,"stream_options":{options}}}"#);
    assert_eq!(
        edited(r#"{"model":"m","stream":true}"#, &ask),
        format!(r#"{{"model":"m","stream_options":{both},"stream":true}}"#)
    );
    for (given, expected, asked) in [
        ("null", both, (false, false)),
        ("{}", both, (false, false)),
        (r#"{"a":1}"#, r#"{"include_usage":true,"continuous_usage_stats":true,"a":1}"#, (false, false)),
        (
            r#"{"include_usage":true}"#,
            r#"{"continuous_usage_stats":true,"include_usage":true}"#,
            (true, false),
        ),
        (r#"{"include_usage":true,"continuous_usage_stats":null}"#, both, (true, false)),
        (
            r#"{"continuous_usage_stats":true}"#,
            r#"{"include_usage":true,"continuous_usage_stats":true}"#,
            (false, false),
        ),
        (
            r#"{"continuous_usage_stats":false,"include_usage":false}"#,
            r#"{"continuous_usage_stats":true,"include_usage":true}"#,
            (false, false),
        ),
        (both, both, (true, true)),
    ] {
        assert_eq!(edited(&options(given), &ask), options(expected));
        let body = options(given);
        let fields = scan_request(body.as_bytes(), CHAT).unwrap();
        assert_eq!((fields.include_usage, fields.continuous_usage), asked, "{given}");
    }
    let unstreamed = r#"{"model":"m","stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#;
    assert_eq!(edited(unstreamed, &ask), unstreamed);
    assert!(!scan_request(unstreamed.as_bytes(), CHAT).unwrap().continuous_usage);
}

#[test]
fn an_output_limit_lowers_what_is_higher_and_stands_where_none_was() {
    let limit = Edits { output_limit: Some(256), ..Edits::default() };
    for (body, expected) in [
        (r#"{"model":"m","max_tokens":1000}"#, r#"{"model":"m","max_tokens":256}"#),
        (r#"{"max_completion_tokens":257,"model":"m"}"#, r#"{"max_completion_tokens":256,"model":"m"}"#),
        (r#"{"model":"m","max_tokens":256}"#, r#"{"model":"m","max_tokens":256}"#),
        (
            r#"{"model":"m","max_tokens":9,"max_completion_tokens":999}"#,
            r#"{"model":"m","max_tokens":9,"max_completion_tokens":256}"#,
        ),
        (r#"{"model":"m","max_tokens":null}"#, r#"{"model":"m","max_tokens":256}"#),
        (r#"{"model":"m","max_completion_tokens":null}"#, r#"{"model":"m","max_completion_tokens":256}"#),
        (r#"{"model":"m" ,"a":1}"#, r#"{"model":"m","max_tokens":256 ,"a":1}"#),
    ] {
        assert_eq!(edited(body, &limit), expected);
    }
}

#[test]
fn the_gateways_priority_stands_in_place_of_the_clients() {
    let own = Edits { priority: Some(-3), ask_for_usage: true, ..Edits::default() };
    assert_eq!(edited(r#"{"model":"m","priority":1}"#, &own), r#"{"model":"m","priority":-3}"#);
    assert_eq!(edited(r#"{"priority":1,"model":"m","a":1}"#, &own), r#"{"model":"m","priority":-3,"a":1}"#);
    assert_eq!(
        edited(r#"{"model":"m","stream":true}"#, &own),
        r#"{"model":"m","stream_options":{"include_usage":true},"priority":-3,"stream":true}"#
    );
}

#[test]
fn priority_leaves_with_exactly_one_comma() {
    let strip = Edits { strip_priority: true, ..Edits::default() };
    for (body, expected) in [
        (r#"{"priority":1,"model":"m"}"#, r#"{"model":"m"}"#),
        (r#"{ "priority" : 1 , "model":"m"}"#, r#"{ "model":"m"}"#),
        (r#"{"model": "m", "priority": 1, "n": 2}"#, r#"{"model": "m", "n": 2}"#),
        (r#"{"model":"m" ,"priority":{"a":[1,2]} }"#, r#"{"model":"m" }"#),
        (r#"{"model":"m","x":{"priority":1}}"#, r#"{"model":"m","x":{"priority":1}}"#),
        (r#"{"model":"m","prior\u0069ty":null}"#, r#"{"model":"m"}"#),
    ] {
        assert_eq!(edited(body, &strip), expected);
    }
    let kept = r#"{"model":"m","priority":1}"#;
    assert_eq!(edited(kept, &Edits::default()), kept);
}

#[test]
fn all_edits_fit_together_round_the_model() {
    let all =
        Edits { upstream_model: Some("a\"b"), ask_for_usage: true, strip_priority: true, ..Edits::default() };
    assert_eq!(
        edited(r#"{"priority":0,"model":"m","stream":true}"#, &all),
        r#"{"model":"a\"b","stream_options":{"include_usage":true},"stream":true}"#
    );
    assert_eq!(
        edited(r#"{"stream":true,"model":"m","priority":0}"#, &all),
        r#"{"stream":true,"model":"a\"b","stream_options":{"include_usage":true}}"#
    );
}

#[test]
fn a_splice_refuses_overlap_and_keeps_order() {
    let mut splice = Splice::new();
    assert!(splice.is_empty() && splice.len(4) == 4);
    assert!(splice.replace(2..4, b"CD"));
    assert!(splice.replace(0..1, b""));
    assert!(splice.replace(2..2, b"+"));
    assert!(splice.replace(6..6, b"!"));
    assert!(!splice.replace(3..5, b"x"));
    assert!(!splice.replace(1..3, b"x"));
    let reversed = std::ops::Range { start: 5, end: 4 };
    assert!(!splice.replace(reversed, b"x"));
    let mut out = Vec::new();
    splice.write(b"abcdef", &mut out);
    assert_eq!(out, b"b+CDef!");
    assert_eq!(splice.len(6), 7);

    let mut insertions = Splice::new();
    assert!(insertions.replace(1..1, b"1") && insertions.replace(1..1, b"2"));
    assert_eq!(insertions.pieces(b"ab").collect::<Vec<_>>(), [b"a", b"1", b"2", b"b"]);
}

/// One member as it is written: name (perhaps with an escape) and raw value.
fn member() -> impl Strategy<Value = (String, String)> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        (0u64..5000).prop_map(|value| value.to_string()),
        Just("-1.5e3".to_owned()),
        any::<String>().prop_map(|text| json!(text).to_string()),
        Just(r#"{"include_usage":false}"#.to_owned()),
        Just(r#"{ "other" : [1, "}"] , "include_usage" : true }"#.to_owned()),
        Just(r#"{"include_usage":true,"continuous_usage_stats":false}"#.to_owned()),
        Just(r#"{"continuous_usage_stats":true}"#.to_owned()),
        Just("{}".to_owned()),
        Just(r#"[{"model":"no","usage":null}]"#.to_owned()),
    ];
    let name = prop_oneof![
        Just("stream"),
        Just("stream_options"),
        Just(r"stream\u005foptions"),
        Just("max_tokens"),
        Just("max_completion_tokens"),
        Just("priority"),
        Just(r"p\u0072iority"),
        Just("temperature"),
        Just("messages"),
        Just("user"),
    ];
    (name.prop_map(str::to_owned), value)
}

/// A body with a model, some members with distinct names, in a random order and style.
fn body() -> impl Strategy<Value = String> {
    let separators =
        prop_oneof![Just((":", ",")), Just((": ", ", ")), Just((" : ", "\n , ")), Just((":\t", ",\r\n"))];
    (prop::collection::vec(member(), 0..8), any::<prop::sample::Index>(), separators).prop_map(
        |(mut members, place, (colon, comma))| {
            let name_of = |spelt: &str| serde_json::from_str::<String>(&format!("\"{spelt}\"")).unwrap();
            let mut names = std::collections::HashSet::new();
            members.retain(|(name, _)| names.insert(name_of(name)));
            members
                .insert(place.index(members.len() + 1), ("model".to_owned(), r#""al\u0069as""#.to_owned()));
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("\"{name}\"{colon}{value}")).collect();
            format!("{{{}}}", members.join(comma))
        },
    )
}

/// The name, its escapes undone, and the bytes of each member.
fn raw_members(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    json::members(text.as_bytes(), |member| {
        let name = json::unescape(&text[member.key.clone()]).unwrap().into_owned();
        all.push((name, text[member.key.start..member.value.end].to_owned()));
        Ok(())
    })
    .unwrap();
    all
}

proptest! {
    #[test]
    fn an_edited_body_means_what_was_planned_and_changes_nothing_else(
        body in body(),
        alias in prop::option::of(".{1,12}"),
        (ask_for_usage, ask_for_running) in any::<(bool, bool)>(),
        strip_priority in any::<bool>(),
    ) {
        let mut expected: Value = serde_json::from_str(&body).unwrap();
        let Ok(fields) = scan_request(body.as_bytes(), CHAT) else {
            let wrong = |name: &str, fits: fn(&Value) -> bool| expected.get(name).is_some_and(|value| !value.is_null() && !fits(value));
            prop_assert!(
                wrong("stream", Value::is_boolean) || wrong("stream_options", Value::is_object)
                || wrong("max_tokens", Value::is_u64) || wrong("max_completion_tokens", Value::is_u64),
                "refused without a reason: {}", body
            );
            return Ok(());
        };
        prop_assert_eq!(&fields.model, "alias");
        prop_assert_eq!(fields.stream, expected["stream"] == true);
        prop_assert_eq!(fields.include_usage, fields.stream && expected["stream_options"]["include_usage"] == true);
        prop_assert_eq!(fields.max_tokens.and_then(|limit| limit.tokens), expected["max_tokens"].as_u64());

        let edits =
            Edits { upstream_model: alias.as_deref(), ask_for_usage, ask_for_running, strip_priority, ..Edits::default() };
        let mut touched = Vec::new();
        if let Some(alias) = &alias {
            expected["model"] = json!(alias);
            touched.push("model");
        }
        if strip_priority && expected.as_object_mut().unwrap().remove("priority").is_some() {
            touched.push("priority");
        }
        if ask_for_usage && fields.stream && (!fields.include_usage || ask_for_running && !fields.continuous_usage) {
            expected["stream_options"]["include_usage"] = json!(true);
            if ask_for_running {
                expected["stream_options"]["continuous_usage_stats"] = json!(true);
            }
            touched.push("stream_options");
        }
        let result = edited(&body, &edits);
        prop_assert_eq!(serde_json::from_str::<Value>(&result).unwrap(), expected);
        let others = |text: &str| {
            let mut members = raw_members(text);
            members.retain(|(name, _)| !touched.contains(&name.as_str()));
            members
        };
        prop_assert_eq!(others(&result), others(&body));
        if touched.is_empty() {
            prop_assert_eq!(result, body);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), body in body(), cut in any::<prop::sample::Index>()) {
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Embeddings] {
            let _ = scan_request(&bytes, dialect);
            let mut broken = body.clone().into_bytes();
            let at = cut.index(broken.len());
            broken.splice(at..at, bytes.iter().copied());
            if let Ok(fields) = scan_request(&broken, dialect) {
                let all = Edits {
                    upstream_model: Some("u"),
                    ask_for_usage: true,
                    ask_for_running: true,
                    strip_priority: true,
                    ..Edits::default()
                };
                plan(&fields, &all).write(&broken, &mut Vec::new());
            }
        }
    }
}
