//! Usage read from answers: from a `usage` value, and from a whole JSON answer that arrives in any pieces.

use obleth_wire::usage::{JsonUsage, MAX_USAGE, MOST_TOKENS, Usage};
use proptest::prelude::*;
use serde_json::{Map, Value};

fn usage(input: u64, output: u64, cached_input: u64) -> Usage {
    Usage { input, output, cached_input }
}

fn whole(answer: &[u8]) -> Option<Usage> {
    let mut scan = JsonUsage::new();
    scan.push(answer);
    scan.finish()
}

/// As an answer that is there as a whole. Of what is not JSON it may find something else.
fn at_once(answer: &[u8]) -> (Option<Usage>, bool) {
    let mut scan = JsonUsage::new();
    scan.push_whole(answer);
    (scan.finish(), scan.is_unfinished())
}

fn byte_by_byte(answer: &[u8]) -> Option<Usage> {
    let mut scan = JsonUsage::new();
    answer.iter().for_each(|byte| scan.push(&[*byte]));
    scan.finish()
}

#[test]
fn counts_are_read_by_either_name() {
    for (value, expected) in [
        (r#"{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}"#, Some(usage(3, 5, 0))),
        (r#"{"prompt_tokens":3,"total_tokens":3}"#, Some(usage(3, 0, 0))),
        (
            r#"{"input_tokens":3,"output_tokens":5,"input_tokens_details":{"cached_tokens":2}}"#,
            Some(usage(3, 5, 2)),
        ),
        (
            r#" { "prompt_tokens" : 9, "completion_tokens":1, "prompt_tokens_details" : {"audio_tokens":0, "cached_tokens" : 8 } } "#,
            Some(usage(9, 1, 8)),
        ),
        (r#"{"prompt_tokens":9,"prompt_tokens_details":null}"#, Some(usage(9, 0, 0))),
        (r#"{"prompt_tokens":9,"input_tokens":1}"#, Some(usage(9, 0, 0))),
        (
            r#"{"prompt_tokens":1099511627776,"completion_tokens":1099511627776}"#,
            Some(usage(MOST_TOKENS, MOST_TOKENS, 0)),
        ),
        (r#"{"completion_tokens":4}"#, Some(usage(0, 4, 0))),
    ] {
        assert_eq!(Usage::parse(value.as_bytes()), expected, "{value}");
    }
}

#[test]
fn more_cached_than_sent_is_all_that_was_sent() {
    let value = br#"{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":6}}"#;
    assert_eq!(Usage::parse(value), Some(usage(5, 0, 5)));
}

#[test]
fn numbers_that_are_no_counts_are_ignored() {
    let too_many = (MOST_TOKENS + 1).to_string();
    let strange =
        ["-1", "1.5", "1e3", "18446744073709551615", "18446744073709551616", "null", "\"7\"", "[7]"];
    for number in strange.into_iter().chain([&*too_many, "true"]) {
        let value = format!(r#"{{"prompt_tokens":{number},"completion_tokens":2}}"#);
        assert_eq!(Usage::parse(value.as_bytes()), Some(usage(0, 2, 0)), "{number}");
        assert_eq!(Usage::parse(format!(r#"{{"prompt_tokens":{number}}}"#).as_bytes()), None, "{number}");
    }
    let absurd = format!(
        r#"{{"prompt_tokens":{too_many},"input_tokens":9,"prompt_tokens_details":{{"cached_tokens":{too_many}}}}}"#
    );
    assert_eq!(Usage::parse(absurd.as_bytes()), Some(usage(9, 0, 0)), "the other name's number is one");
    for value in ["null", "{}", "[]", "7", "", r#"{"prompt_tokens":1"#, r#"{"total_tokens":1}"#] {
        assert_eq!(Usage::parse(value.as_bytes()), None, "{value}");
    }
}

#[test]
fn only_the_top_level_usage_of_an_answer_counts() {
    let inner = r#"{"prompt_tokens":1,"completion_tokens":2}"#;
    let found = Some(usage(1, 2, 0));
    for (answer, expected) in [
        (format!(r#"{{"usage":{inner}}}"#), found),
        (format!(" {{ \"id\" : \"x\" , \"usage\" :\n {inner} , \"z\":[{{}}] }}\n"), found),
        (format!(r#"{{"a":"\"usage\":{{\\","usage":{inner}}}"#), found),
        (format!(r#"{{"a":["]","\\\"","}}"],"b":{{"c":"{{","d":[{{"e":"]"}}]}},"usage":{inner}}}"#), found),
        (format!(r#"{{"n":-1.5e3,"t":true,"u":null,"usage":{inner},"k":1}}"#), found),
        (format!(r#"{{"us\u0061ge":{inner}}}"#), found),
        (format!(r#"{{"choices":[{{"usage":{inner}}}],"x":{{"usage":{inner}}}}}"#), None),
        (format!(r#"{{"text":"usage","usage2":{inner},"usag":{inner},"Usage":{inner}}}"#), None),
        (r#"{"usage":null}"#.to_owned(), None),
        (r#"{"usage":7,"a":1}"#.to_owned(), None),
        (r#"{"usage":"{\"prompt_tokens\":1}"}"#.to_owned(), None),
        (format!("[{inner}]"), None),
        (format!(r#"[{{"usage":{inner}}}]"#), None),
        (format!(r#"{{"usage":{{"prompt_tokens":7}},"usage":{inner}}}"#), found),
        (format!(r#"{{"a":1}}{{"usage":{inner}}}"#), None),
        (format!(r#"{{"\"usage":{inner}}}"#), None),
        (format!(r#"{{"a\\":1,"usage":{inner}}}"#), found),
        (format!(r#"{{"usage":{inner},"usage":null}}"#), None),
        (format!(r#"{{"usage":{{}},"\u0075sage":{inner},"n":null}}"#), found),
        (format!(r#"{{"usage":{inner},"text":"\"usage\":{{}}"}}"#), found),
        (format!(r#"{{"usage":{inner},"x":{{"usage":{{"prompt_tokens":7}}}}}}"#), found),
        (format!(r#"{{"usage" : {inner},"many":[{}0]}}"#, "{},".repeat(40)), found),
        (String::new(), None),
    ] {
        assert_eq!(whole(answer.as_bytes()), expected, "{answer}");
        assert_eq!(byte_by_byte(answer.as_bytes()), expected, "{answer}");
        if serde_json::from_str::<Value>(&answer).is_ok() {
            assert_eq!(at_once(answer.as_bytes()), (expected, false), "{answer}");
        }
    }
}

#[test]
fn an_answer_that_stops_in_its_middle_is_unfinished_however_it_is_looked_at() {
    let answer = br#"{"id":"x","choices":[{"text":"a \"usage\": b"}],"usage":{"prompt_tokens":12},"z":[1]}"#;
    assert_eq!(at_once(answer), (Some(usage(12, 0, 0)), false));
    for cut in 1..answer.len() {
        assert!(at_once(&answer[..cut]).1, "{cut}");
    }
}

#[test]
fn a_usage_value_has_a_largest_size() {
    let padded = |len: usize| {
        let value = r#"{"prompt_tokens":1,"pad":""}"#;
        let value = value.replace("\"\"", &format!("\"{}\"", "x".repeat(len - value.len())));
        assert_eq!(value.len(), len);
        format!(r#"{{"usage":{value},"after":[1]}}"#)
    };
    for (len, expected) in [(MAX_USAGE, Some(usage(1, 0, 0))), (MAX_USAGE + 1, None)] {
        assert_eq!(whole(padded(len).as_bytes()), expected);
        assert_eq!(byte_by_byte(padded(len).as_bytes()), expected);
    }
}

#[test]
fn a_truncated_usage_is_no_usage() {
    let answer = br#"{"id":"x","usage":{"prompt_tokens":12}}"#;
    for cut in 0..answer.len() - 1 {
        assert_eq!(whole(&answer[..cut]), None, "{cut}");
    }
    assert_eq!(whole(&answer[..answer.len() - 1]), Some(usage(12, 0, 0)));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-z\"\\\\{}\\[\\]:,é😀 \n]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let name = prop_oneof![
            Just("usage".to_owned()),
            Just("prompt_tokens".to_owned()),
            "[a-z\"\\\\{}\\[\\]]{0,6}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec((name, inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn usage_value() -> impl Strategy<Value = Value> {
    let count = prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0..=2 * MOST_TOKENS).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null)
    ];
    let details =
        prop_oneof![value(), count.clone().prop_map(|count| serde_json::json!({ "cached_tokens": count }))];
    prop::collection::vec(
        prop_oneof![
            (prop_oneof![Just("prompt_tokens"), Just("completion_tokens"), Just("output_tokens")], count),
            (Just("prompt_tokens_details"), details),
            (Just("other"), value()),
        ],
        0..5,
    )
    .prop_map(|members| {
        Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    })
}

#[test]
fn an_answer_read_at_once_has_no_longer_usage_than_one_that_passes_by() {
    for blank in [MAX_USAGE - 19, MAX_USAGE - 18, MAX_USAGE] {
        let answer = format!("{{\"usage\":{}{{\"prompt_tokens\":1}}}}", " ".repeat(blank));
        let found = whole(answer.as_bytes());
        assert_eq!(found.is_some(), blank <= MAX_USAGE - 19, "{blank}");
        assert_eq!(at_once(answer.as_bytes()), (found, false), "{blank}");
    }
}

#[test]
fn an_answer_that_breaks_off_in_its_text_behind_a_nested_usage_is_unfinished() {
    let cut = br#"{"choices":[{"usage":{"prompt_tokens":7},"text":"a\nb"}"#;
    assert_eq!(at_once(cut), (None, true));
}

/// The same answer read through a document model.
fn expected(answer: &Map<String, Value>) -> Option<Usage> {
    let usage = answer.get("usage")?.as_object()?;
    let few = |count: &u64| *count <= MOST_TOKENS;
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).filter(few);
    let input = count("prompt_tokens").or(count("input_tokens"));
    let output = count("completion_tokens").or(count("output_tokens"));
    if input.is_none() && output.is_none() {
        return None;
    }
    let cached = usage.get("prompt_tokens_details").and_then(|details| details["cached_tokens"].as_u64());
    let cached = cached.filter(few);
    let input = input.unwrap_or(0);
    Some(Usage { input, output: output.unwrap_or(0), cached_input: cached.unwrap_or(0).min(input) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn equals_a_document_model_under_any_split(
        members in prop::collection::vec(("[a-z\"\\\\{}]{0,8}", value()), 0..5),
        usage in prop::option::of(prop_oneof![usage_value(), value()]),
        pretty in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut object: Map<String, Value> = members.into_iter().collect();
        if let Some(usage) = usage {
            object.insert("usage".to_owned(), usage);
        }
        let expected = expected(&object);
        let object = Value::Object(object);
        let answer = if pretty { format!("{object:#}") } else { object.to_string() };
        let answer = answer.as_bytes();
        prop_assert_eq!(whole(answer), expected);
        prop_assert_eq!(at_once(answer), (expected, false));
        prop_assert_eq!(byte_by_byte(answer), expected);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
        cuts.sort_unstable();
        let mut scan = JsonUsage::new();
        let mut from = 0;
        for cut in cuts {
            scan.push(&answer[from..cut]);
            from = cut;
        }
        scan.push(&answer[from..]);
        prop_assert_eq!(scan.finish(), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), text in r#"[{}\[\]",:\\usage0-9 ]{0,40}"#) {
        let _ = Usage::parse(&bytes);
        for answer in [&bytes[..], text.as_bytes(), &[b"{\"usage\":", &bytes[..]].concat(), &[b"{", text.as_bytes()].concat()] {
            prop_assert_eq!(whole(answer), byte_by_byte(answer));
        }
    }
}
