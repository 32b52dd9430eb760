//! The scan of a JSON object: what it refuses, what it reports, and that it agrees with serde_json on validity.

use obleth_wire::json::{self, JsonError, Kind, MAX_DEPTH, members, unescape, write_string};
use proptest::prelude::*;
use serde::de::IgnoredAny;

fn scan(text: &[u8]) -> Result<json::ObjectShape, JsonError> {
    members(text, |_| Ok(()))
}

/// What serde_json says of the text; its `IgnoredAny` leaves out the checks that the scan leaves out on purpose
/// (number range, lone surrogates, nesting).
fn serde_accepts(text: &[u8]) -> bool {
    let is_object = text.trim_ascii_start().starts_with(b"{");
    is_object && str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[test]
fn accepts_every_form_of_rfc_8259() {
    for text in [
        "{}",
        " \t\r\n{ \n} \r\n",
        r#"{"":""}"#,
        r#"{"a":0,"b":-0,"c":10,"d":1.5,"e":1e5,"f":1E+5,"g":-1.25e-07,"h":1e999}"#,
        r#"{"a":true,"b":false,"c":null,"d":[],"e":{},"f":[[],{},[1,2,{"x":[null]}]]}"#,
        r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud800"}"#,
        "{\"a\":\"\u{7f}é漢😀\u{2028}\"}",
        r#"{"a":1,"a":2}"#,
    ] {
        assert!(scan(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn refuses_everything_else() {
    for text in [
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{,}"#,
        r#"{"a":1 "b":2}"#,
        r#"{"a" 1}"#,
        r#"{a:1}"#,
        r#"{'a':1}"#,
        r#"{1:1}"#,
        r#"{"a":01}"#,
        r#"{"a":-}"#,
        r#"{"a":+1}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":1e}"#,
        r#"{"a":1e+}"#,
        r#"{"a":0x10}"#,
        r#"{"a":NaN}"#,
        r#"{"a":Infinity}"#,
        r#"{"a":tru}"#,
        r#"{"a":True}"#,
        r#"{"a":nulll}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[,1]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":[1}"#,
        r#"{"a":{"b":1]}"#,
        r#"{"a":{"b"}}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":"\u12"}"#,
        "{\"a\":\"\n\"}",
        "{\"a\":\"\0\"}",
        "{\"a\u{1}\":1}",
        r#"{"a":"b"#,
        r#"{"a":"b\"#,
        r#"{"a":"b"}}"#,
        r#"{"a":1/*c*/}"#,
        "{\u{a0}}",
        "{",
        "",
        "   ",
    ] {
        assert!(scan(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn names_the_fault_and_its_place() {
    let at = |at, what| Err(JsonError::Syntax { at, what });
    assert_eq!(scan(b"\xEF\xBB\xBF{}"), Err(JsonError::Bom));
    assert_eq!(scan(b"{\"a\":\"\xff\"}"), Err(JsonError::NotUtf8));
    assert_eq!(scan(b"{\"a\":\"\xed\xa0\x80\"}"), Err(JsonError::NotUtf8));
    assert_eq!(scan(b"[]"), Err(JsonError::NotAnObject));
    assert_eq!(scan(b"\"{}\""), Err(JsonError::NotAnObject));
    assert_eq!(scan(b"{} x"), Err(JsonError::Trailing { at: 3 }));
    assert_eq!(scan(b"{}{}"), Err(JsonError::Trailing { at: 2 }));
    assert_eq!(scan(b"{\"a\" 1}"), at(5, "expected `:`"));
    assert_eq!(scan(b"{\"a\":1;}"), at(6, "expected `,` or `}`"));
    assert_eq!(scan(b"{\"a\":\"x\ty\"}"), at(7, "raw control character in a string"));
}

#[test]
fn nesting_is_limited_exactly_and_without_recursion() {
    for (open, close) in [("[", "]"), (r#"{"k":"#, "}")] {
        let nested = |levels: usize| {
            let inner = if open == "[" { "" } else { "1" };
            format!(r#"{{"a":{}{inner}{}}}"#, open.repeat(levels), close.repeat(levels))
        };
        let most = MAX_DEPTH as usize - 1;
        assert!(scan(nested(most).as_bytes()).is_ok());
        assert_eq!(scan(nested(most + 1).as_bytes()), Err(JsonError::TooDeep));
    }
    let brackets = format!(r#"{{"a":{}"#, "[".repeat(1_000_000));
    assert_eq!(scan(brackets.as_bytes()), Err(JsonError::TooDeep));
}

#[test]
fn containers_close_as_they_opened_at_every_depth() {
    // Alternating kinds as deep as allowed, then one closing bracket of the wrong kind at each level.
    let kinds: Vec<bool> = (0..MAX_DEPTH as usize - 1).map(|level| level % 3 == 0).collect();
    let open: String = kinds.iter().map(|&object| if object { r#"{"k":"# } else { "[" }).collect();
    for wrong in 0..=kinds.len() {
        let close: String = (kinds.iter().enumerate().rev())
            .map(|(level, &object)| if object == (level != wrong) { '}' } else { ']' })
            .collect();
        let text = format!(r#"{{"a":{open}0{close}}}"#);
        assert_eq!(scan(text.as_bytes()).is_ok(), wrong == kinds.len(), "level {wrong}");
    }
}

#[test]
fn members_are_reported_with_their_places() {
    let text = " { \"a\" : [1, {\"model\":2}] ,\"\\u0062\":\"x\\ny\", \"c\": null } ";
    let mut seen = Vec::new();
    let shape = members(text.as_bytes(), |member| {
        let key = &text[member.key.clone()];
        seen.push((key.to_owned(), member.raw().to_owned(), member.kind, member.first, member.lead));
        assert_eq!(member.is("b"), key == "\"\\u0062\"");
        assert_eq!(member.text().as_deref(), (member.kind == Kind::String).then_some("x\ny"));
        Ok(())
    })
    .unwrap();
    let expected = [
        ("\"a\"", "[1, {\"model\":2}]", Kind::Array, true, 2),
        ("\"\\u0062\"", "\"x\\ny\"", Kind::String, false, text.find(" ,").unwrap()),
        ("\"c\"", "null", Kind::Null, false, text.find(", \"c").unwrap()),
    ];
    let expected =
        expected.map(|(key, raw, kind, first, lead)| (key.to_owned(), raw.to_owned(), kind, first, lead));
    assert_eq!(seen, expected);
    assert_eq!(shape, json::ObjectShape { open: 2, close: text.len() - 2, members: 3 });
    assert_eq!(&text[shape.close..], "} ");
}

#[test]
fn a_name_is_compared_with_its_escapes_undone() {
    let is_model = |key: &str| {
        let mut found = false;
        members(format!("{{{key}:1}}").as_bytes(), |member| {
            found = member.is("model");
            Ok(())
        })
        .unwrap();
        found
    };
    for key in [r#""model""#, r#""mod\u0065l""#, r#""\u006d\u006F\u0064\u0065\u006c""#] {
        assert!(is_model(key), "{key}");
    }
    for key in [
        r#""Model""#,
        r#""model\u0000""#,
        r#""mode""#,
        r#""model ""#,
        r#""mod\\u0065l""#,
        r#""mode\ud800""#,
        r#""""#,
    ] {
        assert!(!is_model(key), "{key}");
    }
}

#[test]
fn an_escape_that_names_no_character_is_not_a_text() {
    for literal in
        [r#""\ud800""#, r#""\udc00""#, r#""\ud800x""#, r#""\ud800\ud800""#, r#""\ud800\u0041""#, "x", "\""]
    {
        assert_eq!(unescape(literal), None, "{literal}");
    }
    assert_eq!(unescape(r#""\ud83d\ude00\/""#).as_deref(), Some("😀/"));
    assert_eq!(unescape(r#""\ud800\udc00\udbff\udfff""#).as_deref(), Some("\u{10000}\u{10ffff}"));
    assert!(matches!(unescape("\"é\""), Some(std::borrow::Cow::Borrowed("é"))));
}

#[test]
fn an_error_of_the_visitor_ends_the_walk() {
    let mut visited = 0;
    let result = members(br#"{"a":1,"b":2, broken"#, |_| {
        visited += 1;
        Err(JsonError::Duplicate("a"))
    });
    assert_eq!((result, visited), (Err(JsonError::Duplicate("a")), 1));
}

#[test]
fn scalars_are_read_strictly() {
    assert_eq!(json::parse_u64("18446744073709551615"), Some(u64::MAX));
    for raw in ["18446744073709551616", "-1", "-0", "1.0", "1e3", "", "+1", "null", "\"1\""] {
        assert_eq!(json::parse_u64(raw), None, "{raw}");
    }
    assert_eq!(["true", "false", "null", "1"].map(json::parse_bool), [Some(true), Some(false), None, None]);
}

/// A random object, written compactly, with spaces or over several lines.
fn object() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e9..1e9).prop_map(|number: f64| number.into()),
        any::<String>().prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    });
    (prop::collection::vec((".{0,40}", value), 0..6), any::<bool>()).prop_map(|(members, pretty)| {
        let object = serde_json::Value::Object(members.into_iter().collect());
        if pretty { format!("{object:#}") } else { object.to_string() }
    })
}

proptest! {
    #[test]
    fn valid_objects_are_accepted(text in object()) {
        prop_assert!(scan(text.as_bytes()).is_ok());
    }

    #[test]
    fn agrees_with_serde_json_on_mutated_objects(
        text in object(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 1..4),
    ) {
        let mut bytes = text.into_bytes();
        for (place, byte, action) in edits {
            let at = place.index(bytes.len() + 1);
            let structural = b"{}[]\",:\\u019.eE+-tfn \n"[usize::from(byte) % 22];
            match action {
                0 => bytes.insert(at, byte),
                1 => bytes.insert(at, structural),
                2 if at < bytes.len() => { bytes.remove(at); }
                3 if at < bytes.len() => bytes[at] = structural,
                _ => bytes.truncate(at),
            }
        }
        prop_assert_eq!(scan(&bytes).is_ok(), serde_accepts(&bytes), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn agrees_with_serde_json_on_random_structure(text in r#"[{}\[\]",:\\u0-9.eE+\-truefalsn \n]{0,40}"#) {
        let text = format!("{{\"a\":{text}}}");
        prop_assert_eq!(scan(text.as_bytes()).is_ok(), serde_accepts(text.as_bytes()), "{}", text);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan(&bytes);
        let _ = scan(&[b"{\"a\":", &bytes[..]].concat());
    }

    #[test]
    fn a_written_string_reads_as_itself(text in any::<String>()) {
        let mut literal = Vec::new();
        write_string(&mut literal, &text);
        let literal = String::from_utf8(literal).unwrap();
        prop_assert_eq!(serde_json::from_str::<String>(&literal).unwrap(), text.clone());
        prop_assert_eq!(unescape(&literal).unwrap(), text);
    }

    #[test]
    fn unescape_agrees_with_serde_json(inside in r#"([a-z"é😀]|\\["\\/bfnrt]|\\u(00[0-9a-f]{2}|d[89cd][0-9A-F]{2})){0,12}"#) {
        let literal = format!("\"{}\"", inside.replace('"', ""));
        let expected = serde_json::from_str::<String>(&literal).ok();
        prop_assert_eq!(unescape(&literal).map(std::borrow::Cow::into_owned), expected);
    }
}
