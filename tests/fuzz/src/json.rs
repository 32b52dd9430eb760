//! The lazy scan of an object accepts what serde_json accepts, and finds the members that it finds.

use obleth_wire::json::{self, JsonError, Kind, MAX_DEPTH};
use serde::de::IgnoredAny;

use crate::dom::Dom;

/// The whole input is the text.
pub(crate) fn check(text: &[u8]) {
    let mut found = Vec::new();
    let scanned = json::members(text, |member| {
        found.push(member);
        Ok(())
    });
    assert_eq!(scanned.is_ok(), acceptable(text), "{scanned:?}");
    if scanned.is_err() && is_object(text) {
        assert_eq!(scanned, Err(JsonError::TooDeep));
    }
    let Ok(shape) = scanned else { return };
    assert_eq!((text[shape.open - 1], text[shape.close]), (b'{', b'}'));
    assert_eq!(shape.members, found.len());
    let mut end = shape.open;
    for member in &found {
        assert_eq!((member.lead, member.first), (end, end == shape.open));
        assert!(member.key.start >= end && member.key.end < member.value.start);
        end = member.value.end;
        if let Some(Dom::Text(text)) = Dom::parse(member.raw().as_bytes()) {
            let mut written = Vec::new();
            json::write_string(&mut written, &text);
            assert_eq!(Dom::parse(&written).as_ref(), Some(&Dom::Text(text)), "written and read again");
        }
    }
    let Some(dom) = Dom::parse(text) else { return };
    assert_eq!(dom.members().len(), found.len());
    for (member, (name, value)) in found.iter().zip(dom.members()) {
        assert!(member.is(name), "{name:?} is not found by its name");
        assert_eq!(member.is("model"), name == "model");
        assert_eq!(member.is_in_any_case("model"), name.eq_ignore_ascii_case("model"));
        assert_eq!(Dom::parse(member.raw().as_bytes()).as_ref(), Some(value));
        assert_eq!(member.kind, kind(value));
        assert_eq!(json::parse_u64(member.raw()), value.count());
        let text = if let Dom::Text(text) = value { Some(text.as_str()) } else { None };
        assert_eq!(member.text().as_deref(), text);
        if let Dom::Array(elements) = value {
            assert_eq!(member.is_filled_array(), !elements.is_empty());
            assert!(member.elements().eq(elements.iter().map(kind)));
        } else {
            assert_eq!(member.elements().count(), 0);
        }
    }
}

/// What a strict parser takes, within the nesting allowed here.
fn acceptable(text: &[u8]) -> bool {
    is_object(text) && depth(text) <= MAX_DEPTH
}

/// One object in valid UTF-8 by serde_json's grammar. It looks neither at surrogates nor at the size of numbers, as the
/// scan does not.
fn is_object(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    let starts = text.trim_start_matches([' ', '\n', '\r', '\t']).starts_with('{');
    starts && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Deepest nesting of a valid text.
fn depth(text: &[u8]) -> u32 {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_u32, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn kind(value: &Dom) -> Kind {
    match value {
        Dom::Null => Kind::Null,
        Dom::Bool(_) => Kind::Bool,
        Dom::Count(_) | Dom::Number(_) => Kind::Number,
        Dom::Text(_) => Kind::String,
        Dom::Array(_) => Kind::Array,
        Dom::Object(_) => Kind::Object,
    }
}
