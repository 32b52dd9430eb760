//! How many completions a request asks for, which is what a limit on each of them has to be multiplied by.

use obleth_wire::openai::{BodyFault, Dialect, scan_request};
use proptest::prelude::*;
use serde_json::{Value, json};

const DIALECTS: [Dialect; 3] = [Dialect::Chat, Dialect::Completions, Dialect::Embeddings];

fn choices(dialect: Dialect, body: &str) -> u64 {
    scan_request(body.as_bytes(), dialect).unwrap_or_else(|fault| panic!("{body}: {fault}")).choices
}

/// What is asked for of a completions endpoint with this prompt, and nothing else said.
fn prompts(prompt: &str) -> u64 {
    choices(Dialect::Completions, &format!(r#"{{"model":"m","prompt":{prompt}}}"#))
}

fn fault(dialect: Dialect, body: &str) -> BodyFault {
    scan_request(body.as_bytes(), dialect).expect_err(body)
}

#[test]
fn one_answer_is_asked_for_where_nothing_is_said() {
    for dialect in DIALECTS {
        assert_eq!(choices(dialect, r#"{"model":"m"}"#), 1);
        assert_eq!(choices(dialect, r#"{"model":"m","n":null,"best_of":null,"prompt":null}"#), 1);
        assert_eq!(choices(dialect, r#"{"model":"m","x":{"n":5,"best_of":5,"prompt":["a","b"]}}"#), 1);
    }
}

#[test]
fn n_multiplies_a_chat() {
    assert_eq!(choices(Dialect::Chat, r#"{"n":3,"model":"m"}"#), 3);
    assert_eq!(choices(Dialect::Chat, r#"{"model":"m","\u006e" : 128 }"#), 128);
    let body = r#"{"model":"m","n":2,"best_of":"x","prompt":["a","b"],"prompt":1}"#;
    assert_eq!(choices(Dialect::Chat, body), 2, "a chat has neither of the others");
}

#[test]
fn the_larger_of_n_and_best_of_multiplies_completions() {
    for (members, expected) in [
        (r#""n":2"#, 2),
        (r#""best_of":4"#, 4),
        (r#""n":2,"best_of":4"#, 4),
        (r#""n":4,"best_of":2"#, 4),
        (r#""n":4,"best_of":null"#, 4),
        (r#""n":2,"best_of":3,"prompt":["a","b"]"#, 6),
        (r#""n":2,"best_of":3,"prompt":[5,6]"#, 3),
    ] {
        assert_eq!(choices(Dialect::Completions, &format!(r#"{{"model":"m",{members}}}"#)), expected);
    }
}

#[test]
fn a_text_or_a_list_of_token_ids_is_one_prompt() {
    for prompt in [
        r#""a""#,
        r#""[1,2]""#,
        "[]",
        "[ ]",
        "[7]",
        "[1,2,3]",
        "[ 1 , 2 ]",
        "[1.0,-2,3e0]",
        "{}",
        "5",
        "true",
    ] {
        assert_eq!(prompts(prompt), 1, "{prompt}");
    }
}

#[test]
fn every_element_of_any_other_list_may_be_a_prompt() {
    for (prompt, expected) in [
        (r#"["a"]"#, 1),
        (r#"["a","b"]"#, 2),
        (r#"["a,b","]","\"","[\\"]"#, 4),
        ("[[1,2],[3],[]]", 3),
        (" [ [ [1,2] , 3 ] , { \"a\" : [4,5] } ] ", 2),
        ("[null,true,false]", 3),
        (r#"[1,2,"a"]"#, 3),
        (r#"["a",1,2]"#, 3),
    ] {
        assert_eq!(prompts(prompt), expected, "{prompt}");
    }
}

#[test]
fn as_many_as_a_body_can_hold_are_counted() {
    assert_eq!(prompts(&format!("[{}\"\"]", "\"\",".repeat(99_999))), 100_000);
    assert_eq!(prompts(&format!("[{}0]", "0,".repeat(99_999))), 1);
    let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
    assert_eq!(prompts(&format!("[{deep},{deep}]")), 2);
}

#[test]
fn a_product_beyond_all_counting_stays_at_the_most_there_is() {
    let body = format!(r#"{{"model":"m","n":{},"prompt":["a","b"]}}"#, u64::MAX);
    assert_eq!(choices(Dialect::Completions, &body), u64::MAX);
}

#[test]
fn what_is_no_number_of_answers_names_its_parameter() {
    for value in ["0", "-1", "1.0", "1e3", "-0", r#""5""#, "true", "[]", "{}", "18446744073709551616"] {
        for (dialect, param) in
            [(Dialect::Chat, "n"), (Dialect::Completions, "n"), (Dialect::Completions, "best_of")]
        {
            let fault = fault(dialect, &format!(r#"{{"model":"m","{param}":{value}}}"#));
            let message = "must be a whole number, 1 or more, or null";
            assert_eq!(fault, BodyFault::InvalidParameter { param, message }, "{value}");
        }
    }
    let fault = fault(Dialect::Chat, r#"{"model":"m","n":0}"#);
    assert_eq!(fault.to_string(), "`n` must be a whole number, 1 or more, or null.");
}

#[test]
fn a_field_that_multiplies_is_refused_if_it_is_given_twice() {
    let twice = |dialect, members: &str| {
        let body = format!(r#"{{"model":"m",{members}}}"#);
        matches!(scan_request(body.as_bytes(), dialect), Err(BodyFault::InvalidJson { .. }))
    };
    for members in [r#""n":1,"n":1"#, r#""n":1,"\u006e":2"#, r#""n":null,"n":null"#] {
        assert!(twice(Dialect::Chat, members) && twice(Dialect::Completions, members), "{members}");
    }
    for members in [r#""best_of":1,"best_of":2"#, r#""prompt":"a","prompt":["a","b"]"#] {
        assert!(twice(Dialect::Completions, members) && !twice(Dialect::Chat, members), "{members}");
    }
}

#[test]
fn embeddings_have_one_answer_whatever_stands_there() {
    let body = r#"{"model":"m","input":["a","b"],"n":0,"n":7,"best_of":"x","prompt":["a","b"],"prompt":1}"#;
    assert_eq!(choices(Dialect::Embeddings, body), 1);
}

fn element() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        r#"[\[\]{},"\\]{0,6}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn prompt() -> impl Strategy<Value = Value> {
    let ids = prop::collection::vec(any::<u32>().prop_map(Value::from), 0..6).prop_map(Value::from);
    prop_oneof![ids, prop::collection::vec(element(), 0..6).prop_map(Value::from), element()]
}

fn asked() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), (0_u64..9).prop_map(Value::from), any::<u64>().prop_map(Value::from)]
}

proptest! {
    #[test]
    fn the_count_is_that_of_a_document_model(prompt in prompt(), n in asked(), best_of in asked(), pretty: bool) {
        let body = json!({"model": "m", "prompt": prompt, "n": n, "best_of": best_of});
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let found = scan_request(text.as_bytes(), Dialect::Completions).map(|fields| fields.choices);
        let list = prompt.as_array().filter(|list| !list.iter().all(Value::is_number));
        let asked = |value: &Value| value.as_u64().unwrap_or(1);
        let expected = asked(&n).max(asked(&best_of)).saturating_mul(list.map_or(1, |list| list.len() as u64));
        if asked(&n) == 0 || asked(&best_of) == 0 {
            let refused = matches!(found, Err(BodyFault::InvalidParameter { .. }));
            prop_assert!(refused, "{}", text);
        } else {
            prop_assert_eq!(found, Ok(expected), "{}", text);
        }
    }
}
